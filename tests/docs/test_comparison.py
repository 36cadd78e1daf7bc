"""What the page of comparisons says of others, and of palitra beside them, is so."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from typing import Any

import pytest
from anyio import CancelScope
from anyio.from_thread import start_blocking_portal
from asgiref.sync import async_to_sync, sync_to_async
from synchronicity import Synchronizer

from interpreters import Python
from palitra import AsyncLoopExecutor, DeadlockError

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="unset")


async def running_loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


async def value() -> str:
    return VARIABLE.get()


async def change() -> None:
    VARIABLE.set("changed")


def in_a_portal(function: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    with start_blocking_portal() as portal:
        return portal.call(function)


def in_palitra(function: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    with AsyncLoopExecutor() as executor:
        return executor.run(function())


def in_asyncio_run(function: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    coroutine = function()
    try:
        return asyncio.run(coroutine)
    finally:
        coroutine.close()  # where it was refused, nobody else does


def in_asgiref(function: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return async_to_sync(function)()


@contextmanager
def synchronizing() -> Iterator[Callable[[Any], Any]]:
    """What wraps functions and classes, over a loop that ends with the block."""
    synchronizer = Synchronizer()
    yield synchronizer.wrap
    synchronizer._close_loop()


def in_synchronicity(function: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    with synchronizing() as wrap:
        return wrap(function)()


def test_asgiref_makes_a_loop_for_each_call_from_a_plain_thread() -> None:
    loops = [in_asgiref(running_loop) for _ in range(3)]

    assert len(set(loops)) == 3


def test_asgiref_uses_the_outer_loop_in_a_thread_that_it_started() -> None:
    async def outer() -> bool:
        call = sync_to_async(lambda: in_asgiref(running_loop), thread_sensitive=False)
        inner = await call()
        return inner is asyncio.get_running_loop()

    assert asyncio.run(outer())


@pytest.mark.parametrize(
    "run", [in_palitra, in_a_portal, in_asyncio_run, in_asgiref, in_synchronicity]
)
def test_the_callers_context_variables_are_seen(run: Callable[..., Any]) -> None:
    VARIABLE.set("set")

    assert run(value) == "set"


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (in_palitra, "set"),
        (in_a_portal, "set"),
        (in_asyncio_run, "set"),
        (in_synchronicity, "set"),
        (in_asgiref, "changed"),
    ],
)
def test_only_asgiref_brings_changed_context_variables_back(
    run: Callable[..., Any], expected: str
) -> None:
    VARIABLE.set("set")

    run(change)

    assert VARIABLE.get() == expected


@pytest.mark.parametrize(
    ("run", "works"),
    [
        (in_palitra, True),
        (in_a_portal, True),
        (in_synchronicity, True),
        (in_asyncio_run, False),
        (in_asgiref, False),
    ],
)
def test_where_a_loop_runs_already(run: Callable[..., Any], works: bool) -> None:
    async def outer() -> Any:
        return run(value)

    if works:
        assert asyncio.run(outer()) == VARIABLE.get()
    else:
        with pytest.raises(RuntimeError):
            asyncio.run(outer())


# synchronicity does not close the coroutine that it refuses.
@pytest.mark.filterwarnings(
    "ignore::RuntimeWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_a_blocking_call_on_the_loops_own_thread_is_refused() -> None:
    with (
        AsyncLoopExecutor() as executor,
        start_blocking_portal() as portal,
        synchronizing() as wrap,
    ):

        async def on_palitra() -> None:
            executor.run(value())

        async def on_the_portal() -> None:
            portal.call(value)

        async def on_the_synchronizer() -> None:
            wrap(value)()

        with pytest.raises(DeadlockError):
            executor.run(on_palitra())
        with pytest.raises(RuntimeError, match="event loop thread"):
            portal.call(on_the_portal)
        with pytest.raises(Exception, match="Deadlock detected"):
            wrap(on_the_synchronizer)()


async def stubborn(started: threading.Event, release: asyncio.Event) -> None:
    """Answer a cancellation with a cleanup that lasts until it is let go."""
    started.set()
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.shield(release.wait())


async def new_event() -> asyncio.Event:
    return asyncio.Event()


async def let_go(event: asyncio.Event) -> None:
    event.set()


def test_only_palitras_future_is_cancelled_when_the_coroutine_has_ended() -> None:
    started = threading.Event()
    with AsyncLoopExecutor() as executor:
        loop, release = executor.get_loop(), executor.run(new_event())

        theirs = asyncio.run_coroutine_threadsafe(stubborn(started, release), loop)
        assert started.wait(5)
        assert theirs.cancel()
        assert theirs.cancelled()

        started.clear()
        ours = executor.submit(stubborn, started, release)
        assert started.wait(5)
        assert ours.cancel()
        assert not ours.cancelled()

        loop.call_soon_threadsafe(release.set)
        wait([ours])
        assert ours.cancelled()


def test_the_futures_of_a_portal_and_of_synchronicity_are_cancelled_at_once() -> None:
    started = threading.Event()
    with start_blocking_portal() as portal:
        release = portal.call(new_event)
        future = portal.start_task_soon(stubborn, started, release)
        assert started.wait(5)
        assert future.cancel()
        assert future.cancelled()
        portal.call(release.set)

    started.clear()
    with synchronizing() as wrap:
        release = wrap(new_event)()
        future = wrap(stubborn)(started, release, _future=True)
        assert started.wait(5)
        assert future.cancel()
        assert future.cancelled()
        wrap(let_go)(release)


async def other_tasks_run_while(awaits: Callable[[], Awaitable[Any]]) -> bool:
    """Whether the loop that this is on goes on while something is awaited."""
    ran = asyncio.Event()

    async def other() -> None:
        ran.set()

    task = asyncio.create_task(other())
    await awaits()
    was_set = ran.is_set()
    await task
    return was_set


def test_another_loop_goes_on_while_it_awaits() -> None:
    with (
        AsyncLoopExecutor() as executor,
        start_blocking_portal() as portal,
        synchronizing() as wrap,
    ):
        for awaits in (
            lambda: asyncio.wrap_future(executor.submit(value)),
            lambda: portal.call_async(value),
            wrap(value).aio,
        ):
            assert asyncio.run(other_tasks_run_while(awaits))


@pytest.mark.parametrize("waits", [True, False], ids=["anyio", "palitra"])
def test_only_call_async_waits_for_the_cleanup_of_what_it_cancels(waits: bool) -> None:
    started, cleaned_up = threading.Event(), threading.Event()

    async def call() -> None:
        try:
            started.set()
            await asyncio.Event().wait()
        finally:
            with CancelScope(shield=True):  # or anyio would cancel the clean-up too
                await (asyncio.sleep(0.05) if waits else release.wait())
                cleaned_up.set()

    async def cancelled(awaitable: Awaitable[None]) -> bool:
        task = asyncio.ensure_future(awaitable)
        await asyncio.to_thread(started.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return cleaned_up.is_set()

    with AsyncLoopExecutor() as executor, start_blocking_portal() as portal:
        release = executor.run(new_event())
        if waits:

            async def awaited() -> None:
                await portal.call_async(call)
        else:

            async def awaited() -> None:
                await asyncio.wrap_future(executor.submit(call))

        assert asyncio.run(cancelled(awaited())) is waits
        executor.get_loop().call_soon_threadsafe(release.set)


def test_synchronicity_has_streams_contexts_and_whole_classes() -> None:
    class Client:
        async def fetch(self) -> int:
            return 7

        async def __aenter__(self) -> str:
            return "entered"

        async def __aexit__(self, *exc_info: object) -> None:
            pass

    async def stream() -> AsyncIterator[int]:
        for number in range(3):
            yield number

    with synchronizing() as wrap:
        assert wrap(Client)().fetch() == 7
        with wrap(Client)() as entered:
            assert entered == "entered"
        assert list(wrap(stream)()) == [0, 1, 2]


CALLS = {
    "palitra": "import palitra; palitra.run(call())",
    "asyncio.run": "asyncio.run(call())",
    "asyncio.Runner": "with asyncio.Runner() as runner: runner.run(call())",
    "anyio": """if True:
        from anyio.from_thread import start_blocking_portal
        with start_blocking_portal() as portal:
            portal.call(call)
    """,
    "asgiref": "from asgiref.sync import async_to_sync; async_to_sync(call)()",
    "nest_asyncio2": """if True:
        import nest_asyncio2
        nest_asyncio2.apply(run_close_loop=True)
        asyncio.run(call())
    """,
    "synchronicity": "import synchronicity; synchronicity.Synchronizer().wrap(call)()",
}


@pytest.mark.parametrize("system", CALLS)
def test_ctrl_c_cancels_the_coroutine_with_all_but_asgiref(python: Python, system: str) -> None:
    end = python.run(
        f"""
import asyncio, signal, threading

def interrupt():
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

async def call():
    try:
        asyncio.get_running_loop().run_in_executor(None, interrupt)
        await asyncio.sleep(0.5)
        print("ran on", flush=True)
    finally:
        print("ended", flush=True)

try:
    {CALLS[system]}
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
    )
    ran_on = ["interrupted", "ran on", "ended"]
    printed = ran_on if system == "asgiref" else ["ended", "interrupted"]

    assert end.stdout.splitlines() == printed


@pytest.mark.parametrize(
    ("call", "printed"),
    [
        ("import palitra; palitra.get_executor().submit(call)", "finished\n"),
        ("import synchronicity; synchronicity.Synchronizer().wrap(call)(_future=True)", ""),
    ],
    ids=["palitra", "synchronicity"],
)
def test_the_exit_finishes_what_palitra_accepted(python: Python, call: str, printed: str) -> None:
    end = python.run(
        f"""
import asyncio, threading

started = threading.Event()

async def call():
    started.set()
    await asyncio.sleep(0.2)
    print("finished")

{call}
started.wait()
"""
    )

    assert end.stdout == printed


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    "call",
    ["palitra.run(answer())", "synchronizer.wrap(answer)()"],
    ids=["palitra", "synchronicity"],
)
def test_palitra_and_synchronicity_start_afresh_after_a_fork(python: Python, call: str) -> None:
    end = python.run(
        f"""
import os, sys, warnings

import palitra
from synchronicity import Synchronizer

warnings.simplefilter("ignore")
synchronizer = Synchronizer()

async def answer():
    return 42

{call}
child = os.fork()
print({call}, flush=True)
if child:
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    )

    assert (end.returncode, end.stdout) == (0, "42\n42\n")


def test_nest_asyncio2_runs_on_the_callers_loop_which_goes_on(python: Python) -> None:
    end = python.run(
        """
import asyncio

import nest_asyncio2

async def this_loop():
    return asyncio.get_running_loop()

async def cell():
    nest_asyncio2.apply(run_close_loop=True)
    other = asyncio.create_task(asyncio.sleep(0.01, "went on"))
    same = asyncio.run(this_loop()) is asyncio.get_running_loop()
    asyncio.run(asyncio.sleep(0.1))
    print(same, other.result())

asyncio.run(cell())
"""
    )

    assert (end.returncode, end.stdout) == (0, "True went on\n")
