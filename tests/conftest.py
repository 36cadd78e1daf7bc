"""What every test may ask for, and what every test must leave behind: nothing."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import logging
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import palitra
from interpreters import Python

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOOP_FLAVOURS = ["asyncio", "debug"]
if importlib.util.find_spec("uvloop"):
    LOOP_FLAVOURS.append("uvloop")


def gil_is_enabled() -> bool:
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


# On free-threaded builds, an extension module that is not made for them enables the global
# interpreter lock when it is imported, for the rest of the process.
GIL_WAS_ENABLED = gil_is_enabled()

# Longer than anything here takes to end, shorter than the test's own limit.
PATIENCE = 5.0


def pytest_configure() -> None:
    # A shell ignores SIGINT for what it starts in the background, and children would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # The debug mode reports slow callbacks, which a busy machine has. A test of such reports asks
    # for them: `caplog.at_level(logging.WARNING, "asyncio")`.
    logging.getLogger("asyncio").setLevel(logging.ERROR)


@pytest.fixture(autouse=True)
def nothing_left_behind(
    request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> Iterator[None]:
    """No thread and no pending task may outlive the test that made it; none enables the GIL.

    Use the fixture `default_executor` in tests of the process-wide executor.
    """
    keeps = request.node.get_closest_marker("keeps_threads")
    allowed = keeps.args if keeps else ()
    threads_before = set(threading.enumerate())
    tasks_before = pending_tasks()

    yield

    threads = [
        thread
        for thread in threading.enumerate()
        if thread not in threads_before and not thread.name.startswith(allowed)
    ]
    for thread in threads:
        join(thread)
    left_threads = [thread.name for thread in threads if thread.is_alive()]
    left_tasks = [repr(task) for task in pending_tasks() - tasks_before]
    lost_tasks = [
        record.getMessage()
        for record in caplog.get_records("call") + caplog.get_records("teardown")
        if record.name == "asyncio" and "was destroyed but it is pending" in record.getMessage()
    ]
    if left_threads:
        # One test's fault should not become another's.
        palitra.shutdown(wait=False, cancel_futures=True)

    assert not left_threads
    assert not left_tasks
    assert not lost_tasks
    assert gil_is_enabled() == GIL_WAS_ENABLED


def join(thread: threading.Thread) -> None:
    """Join a thread that `threading.enumerate` knows; it knows those that only begin to start."""
    for _ in range(1000):
        try:
            thread.join(PATIENCE)
        except RuntimeError:  # it is not started yet
            time.sleep(PATIENCE / 1000)
        else:
            return


def pending_tasks() -> set[asyncio.Task[Any]]:
    """All tasks of all loops that are not done.

    asyncio has no public name for them; 3.14 keeps the tasks written in C elsewhere.
    """
    registry = getattr(asyncio.tasks, "_scheduled_tasks", None)
    if registry is None:
        registry = asyncio.tasks._all_tasks  # type: ignore[attr-defined]
    eager = getattr(asyncio.tasks, "_eager_tasks", ())
    return {task for task in {*registry, *eager} if not task.done()}


@pytest.fixture(params=LOOP_FLAVOURS)
def loop_flavour(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Keyword arguments of `AsyncLoopExecutor` for each kind of loop in turn."""
    if request.param == "uvloop":
        return {"loop_factory": importlib.import_module("uvloop").new_event_loop}
    return {"debug": request.param == "debug"}


@pytest.fixture
def executor(loop_flavour: dict[str, Any]) -> Iterator[palitra.AsyncLoopExecutor]:
    """An executor over each kind of loop in turn."""
    with palitra.AsyncLoopExecutor(**loop_flavour) as executor:
        yield executor


@pytest.fixture
def default_executor() -> Iterator[palitra.AsyncLoopExecutor]:
    """The process-wide executor, shut down after the test."""
    yield palitra.get_executor()
    palitra.shutdown()


@pytest.fixture
def python(tmp_path: Path) -> Iterator[Python]:
    """Runs programs in child interpreters, and leaves none of them running."""
    runner = Python(tmp_path)
    yield runner
    for child in runner.started:
        with child:
            pass
