"""A Celery application that has used palitra by the time the worker forks its pool."""

import asyncio
import os
import threading
from typing import Any

from celery import Celery
from celery.signals import worker_process_shutdown
from forked_app import fetch, note, pool

import palitra

FOLDER = os.environ["CELERY_FOLDER"]


async def outlast_the_worker() -> None:
    await asyncio.to_thread(ending.wait)
    await asyncio.sleep(2)  # Celery's own end of a process takes one second
    note("call finished")


app = Celery("celery_app", broker="filesystem://localhost", backend=f"file://{FOLDER}/results")
app.conf.update(
    broker_transport_options={
        "data_folder_in": f"{FOLDER}/broker",
        "data_folder_out": f"{FOLDER}/broker",
        "control_folder": f"{FOLDER}/control",
        "polling_interval": 0.05,
    },
    broker_connection_retry_on_startup=False,
    task_serializer="json",
    worker_prefetch_multiplier=1,
)

# All of this happens in the worker's main process, before it forks its pool; in the client, too.
executor = palitra.AsyncLoopExecutor(thread_name_prefix="explicit")
preloaded = [palitra.run(fetch("/preload")), executor.submit(fetch, "/preload").result()]
main_pid = os.getpid()
main_loop = palitra.get_loop()
ending = threading.Event()
main_pool = palitra.enter_context(pool)
workers_pool: int | None = None  # no lock: a process runs one task at a time


@worker_process_shutdown.connect
def announce(**_: Any) -> None:
    ending.set()


@worker_process_shutdown.connect
def finish(**_: Any) -> None:
    palitra.shutdown()


@palitra.sync
async def fetch_several(*paths: str) -> list[str]:
    return await asyncio.gather(*map(fetch, paths))


@app.task
def fetch_task(path: str) -> dict[str, Any]:
    global workers_pool  # noqa: PLW0603  (one per worker, as applications keep them)
    if workers_pool is None:
        workers_pool = palitra.enter_context(pool)
        palitra.get_executor().submit(outlast_the_worker)
    return {
        "pid": os.getpid(),
        "pool": workers_pool,
        "forked": os.getpid() != main_pid,
        "preloaded": preloaded,
        "default": palitra.run(fetch(path)),
        "explicit": executor.submit(fetch, "/plain").result(),
        "thread": executor.submit(os.getpid).result(),
        "several": fetch_several("/a", "/b"),
        "loop is the main process's": palitra.get_loop() is main_loop,
    }
