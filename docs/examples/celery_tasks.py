"""A Celery application whose tasks fetch with aiohttp, over one session in each worker process.

It keeps its queue in the folder CELERY_FOLDER, so that it needs no broker to be installed; put the
address of yours in its place.
"""

import os
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import aiohttp
from celery import Celery
from celery.signals import worker_process_shutdown

import palitra

FOLDER = os.environ.get("CELERY_FOLDER", "celery-queue")

app = Celery("celery_tasks", broker="filesystem://", backend=f"file://{FOLDER}/results")
app.conf.broker_transport_options = {
    "data_folder_in": f"{FOLDER}/queue",
    "data_folder_out": f"{FOLDER}/queue",
    "control_folder": f"{FOLDER}/control",
    "polling_interval": 0.1,  # seconds
}
for name in ("results", "queue", "control"):
    Path(FOLDER, name).mkdir(parents=True, exist_ok=True)

opening = Lock()


@cache
def open_session() -> aiohttp.ClientSession:
    return palitra.enter_context(aiohttp.ClientSession)


def shared_session() -> aiohttp.ClientSession:
    """One session for each worker process, opened by the first task."""
    with opening:
        return open_session()


@worker_process_shutdown.connect
def finish(**_: Any) -> None:
    """Close the session: Celery ends its processes without Python's own exit."""
    palitra.shutdown()


@app.task
def fetch_all(urls: list[str]) -> list[Any]:
    """Fetch *urls* at the same time."""
    session = shared_session()

    async def fetch(url: str) -> Any:
        async with session.get(url) as response:
            response.raise_for_status()
            return await response.json()

    return palitra.gather(*map(fetch, urls))
