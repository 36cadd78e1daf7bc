"""A FastAPI application whose sync endpoints use its own session, on its own loop.

``python fastapi_own_loop.py`` serves it on port 8080.
The environment variable UPSTREAM says where the documents are.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import uvicorn
from fastapi import FastAPI

import palitra

UPSTREAM = os.environ.get("UPSTREAM", "http://127.0.0.1:8000")

session: aiohttp.ClientSession


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the session on the server's loop, and let palitra use that loop, too."""
    global session
    async with (
        aiohttp.ClientSession() as session,
        palitra.AsyncLoopExecutor.from_loop(exit_timeout=5) as executor,
    ):
        before = palitra.set_executor(executor)
        try:
            yield
        finally:
            palitra.set_executor(before)


app = FastAPI(lifespan=lifespan)


async def fetch(name: str) -> Any:
    """Runs on the server's loop, wherever it is called from."""
    async with session.get(f"{UPSTREAM}/{name}.json") as response:
        response.raise_for_status()
        return await response.json()


class Documents:
    """A synchronous library, which knows nothing of loops: it calls a function of the user's."""

    def __init__(self, load: Any) -> None:
        self._load = load

    def both(self, *names: str) -> dict[str, Any]:
        """Load several documents, one after the other."""
        return {name: self._load(name) for name in names}


documents = Documents(palitra.sync(fetch))


@app.get("/async/{name}")
async def from_async_code(name: str) -> Any:
    """Here the loop runs: await."""
    return await fetch(name)


@app.get("/sync/{name}")
def from_sync_code(name: str) -> Any:
    """FastAPI calls this in a worker thread; the request is made by the application's session."""
    return palitra.run(fetch(name))


@app.get("/library")
def from_a_library() -> dict[str, Any]:
    """So does a library that is synchronous through and through."""
    return documents.both("profile", "orders")


if __name__ == "__main__":
    uvicorn.run(app, port=8080)
