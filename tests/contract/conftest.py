"""What several of these modules ask for."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import importlib.util
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

import palitra

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


QUICK_LOOPS = ["asyncio", "uvloop"] if importlib.util.find_spec("uvloop") else ["asyncio"]


OWN = ["debug", *QUICK_LOOPS]
BORROWED = [f"borrowed-{name}" for name in QUICK_LOOPS]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of some modules over a loop that an application runs, too."""
    if "executor" in metafunc.fixturenames:
        marks = {mark.name for mark in metafunc.definition.iter_markers()}
        both = "any_host" in marks and "own_loop" not in marks
        hosts = [*OWN, *BORROWED] if both else OWN
        metafunc.parametrize("executor", hosts, indirect=True)


@contextlib.contextmanager
def running_application(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> Iterator[asyncio.AbstractEventLoop]:
    """The loop of an application, in a thread of its own, which ends as `asyncio.run` does."""
    loops: list[asyncio.AbstractEventLoop] = []
    started = threading.Event()
    ends: list[asyncio.Event] = []

    async def main() -> None:
        loops.append(asyncio.get_running_loop())
        ends.append(asyncio.Event())
        started.set()
        await ends[0].wait()

    def run() -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(main())

    thread = threading.Thread(target=run, name="application")
    thread.start()
    started.wait()
    try:
        yield loops[0]
    finally:
        loops[0].call_soon_threadsafe(ends[0].set)
        thread.join()


@pytest.fixture
def executor(request: pytest.FixtureRequest) -> Iterator[palitra.AsyncLoopExecutor]:
    """An executor over each kind of loop in turn: its own, and one that an application runs."""
    flavour: str = request.param
    uvloop = flavour.endswith("uvloop")
    new_loop = importlib.import_module("uvloop").new_event_loop if uvloop else None
    if not flavour.startswith("borrowed"):
        debug = None if uvloop else flavour == "debug"
        with palitra.AsyncLoopExecutor(loop_factory=new_loop, debug=debug) as executor:
            yield executor
        return
    with (
        running_application(new_loop or asyncio.new_event_loop) as loop,
        palitra.AsyncLoopExecutor.from_loop(loop) as executor,
    ):
        yield executor


@pytest.fixture(params=QUICK_LOOPS)
def quick_loop(request: pytest.FixtureRequest) -> dict[str, Any]:
    """As `loop_flavour`, without the debug mode, which makes bursts of calls slow."""
    if request.param == "uvloop":
        return {"loop_factory": importlib.import_module("uvloop").new_event_loop}
    return {}


@pytest.fixture
def switching(request: pytest.FixtureRequest) -> Iterator[None]:
    """Threads change places much more often than usual: after 10 µs, or what a test asks for."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(getattr(request, "param", 1e-5))
    yield
    sys.setswitchinterval(interval)


@pytest.fixture
def graveyard(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """For tests that kill loops: what is left of them goes before anybody counts tasks.

    To be asked for before the fixtures whose values such tasks may hold.
    """
    yield
    caplog.get_records("call").clear()  # tracebacks of the failed closing hold the tasks
    gc.collect()
