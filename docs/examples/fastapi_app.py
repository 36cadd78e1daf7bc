"""A FastAPI application whose sync and async endpoints share one session, on a second loop.

``python fastapi_app.py`` serves it on port 8080.
The environment variable UPSTREAM says where the documents are.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import uvicorn
from fastapi import FastAPI

from palitra import AsyncLoopExecutor

UPSTREAM = os.environ.get("UPSTREAM", "http://127.0.0.1:8000")

second = AsyncLoopExecutor(thread_name_prefix="documents")
session: aiohttp.ClientSession


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the session on the second loop. `to_thread`, since these calls block."""
    global session  # noqa: PLW0603  (one for the application)
    session = await asyncio.to_thread(second.enter_context, aiohttp.ClientSession)
    try:
        yield
    finally:
        await asyncio.to_thread(second.shutdown)


app = FastAPI(lifespan=lifespan)


async def fetch(name: str) -> Any:
    """Runs on the second loop, where the session lives."""
    async with session.get(f"{UPSTREAM}/{name}.json") as response:
        response.raise_for_status()
        return await response.json()


@app.get("/async/{name}")
async def from_async_code(name: str) -> Any:
    """Here a loop is running: await the future instead of blocking on it."""
    return await asyncio.wrap_future(second.submit(fetch, name))


@app.get("/sync/{name}")
def from_sync_code(name: str) -> Any:
    """FastAPI calls this in a worker thread, where blocking is right."""
    return second.run(fetch(name))


if __name__ == "__main__":
    uvicorn.run(app, port=8080)
