"""Programs whose end is the test: what they printed, and nothing on standard error."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

from interpreters import TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable

    from interpreters import Child, Python

TESTS = Path(__file__).parents[1]

# os.fork warns of threads since 3.12; that forking beside them works is what is tested here.
FORK = ("-W", "ignore:This process:DeprecationWarning")
# asyncio's debug mode notes stacks, and 3.15 warns of those that lead through the main module of a
# multiprocessing child, which has no loader; without palitra, too.
STACKS = ("-W", "ignore:Module globals is missing a __spec__.loader:DeprecationWarning")
MODES = {
    "plain": ("-W", "default::ResourceWarning", *FORK),
    "dev": ("-X", "dev", *FORK, *STACKS),
}

PRELUDE = """\
import asyncio, atexit, logging, os, signal, sys, threading, time, warnings
import palitra

sys.path.append(TESTS)
from lifetimes import FREE_THREADED, ends


# The development mode reports slow callbacks, which a busy machine has.
logging.getLogger("asyncio").setLevel(logging.ERROR)


def say(*words):
    # One write, so that lines of several threads and processes do not mix.
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())


def come_to_rest():
    # Wait until all other threads sleep. One that waits for the interpreter's lock wakes up every
    # few milliseconds; where the machine is busy and does not let the thread run then, the thread
    # does not sleep either. So no other thread may wake up as often as this one looks: a coroutine
    # is to wait for an `AsyncEvent`, and a watch for stalls is to have a timeout of a second.
    def others():
        own = str(threading.get_native_id())
        for task in os.listdir("/proc/self/task"):
            if task != own:
                try:
                    with (
                        open(f"/proc/self/task/{task}/stat") as stat,
                        open(f"/proc/self/task/{task}/schedstat") as times,
                    ):
                        yield stat.read().rpartition(")")[2].split()[0], times.read()
                except (FileNotFoundError, ProcessLookupError):
                    continue  # that thread has ended, such as one that started another thread

    before = None
    while (now := [*others()]) != before or any(state != "S" for state, _ in now):
        before = now
        time.sleep(0.05)


def fork(function, leave=sys.exit):
    # Run function in a child that leaves with 7, and return what the parent sees of it.
    if FREE_THREADED and sys.platform == "linux":
        come_to_rest()  # each object has a lock there, and the child lacks the thread that holds it
    pid = os.fork()
    if not pid:
        function()
        leave(7)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class AsyncEvent(threading.Event):
    # An event for coroutines too, which sleep until then. A thread that works at a fork may hold a
    # lock, and the child would wait for it; on free-threaded builds each object has a lock.
    def __init__(self):
        super().__init__()
        self.pid = os.getpid()
        self.wakers = []

    def set(self):
        super().set()
        if os.getpid() == self.pid:
            for wake in self.wakers:
                wake()

    async def waited_for(self):
        woken = asyncio.Event()
        loop = asyncio.get_running_loop()
        self.wakers.append(lambda: loop.call_soon_threadsafe(woken.set))
        if not self.is_set():
            await woken.wait()


async def double(number):
    await asyncio.sleep(0)
    return 2 * number


async def count(stop):
    for number in range(stop):
        yield await double(number) // 2


def use(executor):
    # All that works in a process that palitra is new to.
    assert executor.run(double(1)) == 2
    assert executor.gather(double(1), double(2)) == [2, 4]
    assert list(executor.map(double, range(3))) == [0, 2, 4]
    assert executor.submit(double, 3).result() == 6
    assert executor.submit(os.getpid).result() == os.getpid()
    assert executor.run(asyncio.to_thread(os.getpid)) == os.getpid()
    assert list(executor.sync_iter(count(3))) == [0, 1, 2]


started = threading.Event()


async def main_thread_ended():
    # Sets `started`, and returns in the middle of the interpreter's exit.
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    threading._register_atexit(loop.call_soon_threadsafe, ended.set)
    started.set()
    await ended.wait()
    await asyncio.sleep(0.05)


def wait_for_main_thread_to_end():
    ended = threading.Event()
    threading._register_atexit(ended.set)
    started.set()
    ended.wait()
    time.sleep(0.05)
""".replace("TESTS", repr(str(TESTS)))


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The interpreter's options: none that matter, then the development mode."""
    return MODES[request.param]


@pytest.fixture
def limit() -> float:
    """The most seconds that a program may take."""
    return TIMEOUT


@pytest.fixture
def start(python: Python, mode: tuple[str, ...], limit: float) -> Callable[..., Child]:
    """Start a program, of one or more pieces, that finds the prelude's names; in either mode."""

    def start(*pieces: str) -> Child:
        code = "\n".join([PRELUDE, *map(dedent, pieces)])
        return python.start(code, options=mode, timeout=limit)

    return start


@pytest.fixture
def printed_by(start: Callable[..., Child]) -> Callable[..., list[str]]:
    """Run a program to its end, which must be clean; the lines it printed."""

    def printed_by(*pieces: str, exit_code: int = 0) -> list[str]:
        end = start(*pieces).finish()
        assert (end.stderr, end.returncode) == ("", exit_code), end.stdout
        return end.stdout.splitlines()

    return printed_by
