"""APScheduler 3: a pool executor of its own kind, with plain and `sync` jobs."""

from __future__ import annotations

import queue
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_EXECUTED, JobExecutionEvent
from apscheduler.executors.pool import BasePoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from palitra import AsyncLoopExecutor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from interpreters import Python

Events = queue.Queue[JobExecutionEvent]


class LoopPoolExecutor(BasePoolExecutor):
    """APScheduler's way to bring a pool: a subclass that hands it over."""

    def __init__(self, pool: AsyncLoopExecutor) -> None:
        super().__init__(pool)


def started_scheduler(pool: AsyncLoopExecutor) -> BackgroundScheduler:
    scheduler = BackgroundScheduler(
        executors={"default": LoopPoolExecutor(pool)},
        job_defaults={"misfire_grace_time": None},
        timezone="UTC",
    )
    scheduler.start()
    return scheduler


def add_job(scheduler: BackgroundScheduler, job: Callable[..., Any], *args: object) -> None:
    """Let the job run at once, and then not again while the test lasts."""
    # A job without a next time is removed after it was started, for which APScheduler's own thread
    # fails if `shutdown` was called in between.
    scheduler.add_job(job, "interval", hours=1, next_run_time=datetime.now(UTC), args=args)


@pytest.fixture
def pool() -> Iterator[AsyncLoopExecutor]:
    with AsyncLoopExecutor(thread_name_prefix="jobs") as pool:
        yield pool


@pytest.fixture
def scheduler(pool: AsyncLoopExecutor) -> Iterator[BackgroundScheduler]:
    scheduler = started_scheduler(pool)
    yield scheduler
    scheduler.shutdown()


@pytest.fixture
def events(scheduler: BackgroundScheduler) -> Events:
    events: Events = queue.Queue()
    scheduler.add_listener(events.put, EVENT_JOB_EXECUTED | EVENT_JOB_ERROR)
    return events


def test_plain_jobs_run_in_worker_threads(scheduler: BackgroundScheduler, events: Events) -> None:
    add_job(scheduler, lambda: threading.current_thread().name)

    assert events.get(timeout=10).retval == "jobs_0"


def test_sync_jobs_run_on_the_loop(
    scheduler: BackgroundScheduler, events: Events, pool: AsyncLoopExecutor
) -> None:
    @pool.sync
    async def where(word: str) -> list[str]:
        return [word, threading.current_thread().name]

    add_job(scheduler, where, "now")

    assert events.get(timeout=10).retval == ["now", "jobs_loop"]


def test_a_sync_job_that_recurs_runs_each_time(
    scheduler: BackgroundScheduler, events: Events, pool: AsyncLoopExecutor
) -> None:
    runs = iter(range(1000))

    @pool.sync
    async def count() -> int:
        return next(runs)

    scheduler.add_job(count, "interval", seconds=0.01)

    assert [events.get(timeout=10).retval for _ in range(3)] == [0, 1, 2]


def test_a_failing_sync_job_is_reported_as_any_other(
    scheduler: BackgroundScheduler, events: Events, pool: AsyncLoopExecutor
) -> None:
    @pool.sync
    async def fail() -> None:
        raise LookupError

    add_job(scheduler, fail)

    event = events.get(timeout=10)
    assert isinstance(event.exception, LookupError)
    assert event.code == EVENT_JOB_ERROR


def test_the_shutdown_of_the_scheduler_waits_for_the_job_under_way(
    pool: AsyncLoopExecutor,
) -> None:
    started, proceed = threading.Event(), threading.Event()
    finished = []

    def job() -> None:
        started.set()
        proceed.wait()
        finished.append(True)

    scheduler = started_scheduler(pool)
    add_job(scheduler, job)
    assert started.wait(10)
    ending = threading.Thread(target=scheduler.shutdown)
    ending.start()
    assert not finished
    proceed.set()
    ending.join()

    assert finished == [True]
    with pytest.raises(RuntimeError, match=r"after shutdown"):
        pool.submit(len, "")


# Jobs that outlive the program: the store keeps a reference by text, such as "module:function".

STORED = """
import sys
import threading
from datetime import UTC, datetime

from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_EXECUTED
from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.background import BackgroundScheduler

import palitra


@palitra.sync
async def job(word):
    print("function", word, flush=True)


class Jobs:
    def __init__(self, name):
        self.name = name

    @palitra.sync
    async def job(self, word):
        print(self.name, word, flush=True)

    @palitra.sync
    @classmethod
    async def of_class(cls, word):
        print(cls.__name__, word, flush=True)


def main(url, task):
    scheduler = BackgroundScheduler({"apscheduler.timezone": "UTC"})
    scheduler.add_jobstore(SQLAlchemyJobStore(url))
    ended = threading.Semaphore(0)
    scheduler.add_listener(lambda event: ended.release(), EVENT_JOB_EXECUTED | EVENT_JOB_ERROR)
    scheduler.start()
    if task == "add":
        for function in job, Jobs("method").job, Jobs.of_class:
            added = scheduler.add_job(function, "interval", hours=1, args=["now"])
            print(added.func_ref, added.name)
    else:
        for stored in scheduler.get_jobs():
            stored.modify(next_run_time=datetime.now(UTC))
        for _ in range(3):
            assert ended.acquire(timeout=10)
    scheduler.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
"""


def test_sync_jobs_are_kept_in_a_database_and_run_by_the_next_process(
    python: Python, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/jobs.db"
    # APScheduler leaves its connections to the garbage collector.
    options = ("-W", "ignore::ResourceWarning")
    added = python.run(STORED, url, "add", options=options)
    run = python.run(STORED, url, "run", options=options)

    assert (added.stderr, run.stderr) == ("", "")
    assert added.stdout.splitlines() == [
        "__main__:job job",
        "__main__:Jobs.job Jobs.job",
        "__main__:Jobs.of_class Jobs.of_class",
    ]
    assert sorted(run.stdout.splitlines()) == ["Jobs now", "function now", "method now"]
