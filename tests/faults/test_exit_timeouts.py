"""`exit_timeout` bounds what an exit waits for; what is left behind then is named."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

LOG = """
logging.basicConfig(stream=sys.stdout, format="%(name)s: %(message)s")
ready = threading.Event()


async def polite():
    ready.set()
    try:
        await asyncio.sleep(3600)
    finally:
        await asyncio.sleep(0.01)
        say("cleaned up")


async def stubborn():
    ready.set()
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass


def told(future):
    say(type(future.exception()).__name__)
"""


def names(line: str) -> str:
    """A line of the log without where each call stands, and since when."""
    return re.sub(r" \(submit, \w+ for [\d.]+ s\), at \S+ in \w+", "", line)


def test_a_call_that_ends_in_its_second_is_not_named(printed_by: Callable[..., list[str]]) -> None:
    assert printed_by(
        LOG,
        """
        executor = palitra.AsyncLoopExecutor(exit_timeout=0.1)
        executor.submit(polite)
        ready.wait()
        """,
    ) == ["cleaned up"]


CLEANS_UP = """
async def cleans_up():
    ready.set()
    try:
        await asyncio.sleep(3600)
    finally:
        try:
            {at_clean_up}
            await asyncio.sleep(0.3)
            say("cleaned up")
        except asyncio.CancelledError:
            say("cancelled again")
            raise


async def gives_one():
    yield 1
    await cleans_up()


async def start_task():
    executor.task = asyncio.create_task(cleans_up())
"""

# What palitra waits for at the end, though no call of it is in flight then.
WITHOUT_CALL = {
    "service": "executor.submit_service(cleans_up)",
    "iterator": "items = executor.sync_iter(gives_one(), buffersize=2); next(items)",
    "task": "executor.run(start_task())",
}


@pytest.mark.parametrize("what", WITHOUT_CALL)
@pytest.mark.parametrize("way", ["exit_timeout", "shutdown", "Ctrl-C"])
def test_the_exit_does_not_cancel_what_the_end_has_cancelled(
    printed_by: Callable[..., list[str]], what: str, way: str
) -> None:
    interrupt = "os.kill(os.getpid(), signal.SIGINT)"
    shut_down = """
    try:
        executor.shutdown(timeout=0.1)
    except TimeoutError:
        pass
    """
    assert printed_by(
        LOG,
        CLEANS_UP.format(at_clean_up=interrupt if way == "Ctrl-C" else "pass"),
        f"""
        executor = palitra.AsyncLoopExecutor(exit_timeout={0.1 if way == "exit_timeout" else None})
        {WITHOUT_CALL[what]}
        ready.wait()
        """,
        shut_down if way == "shutdown" else "",
    ) == ["cleaned up"]


SERVED = """
letters = asyncio.Queue()


async def post_office():
    try:
        while True:
            (await letters.get()).set()
    finally:
        await asyncio.sleep(0.01)
        say("service over")


async def writes():
    try:
        ready.set()
        await asyncio.sleep(3600)
    finally:
        received = asyncio.Event()
        letters.put_nowait(received)
        {at_clean_up}
        await received.wait()
        say("call over")
"""


@pytest.mark.parametrize("way", ["exit_timeout", "Ctrl-C"])
def test_calls_that_the_exit_cancels_have_their_services_during_their_clean_up(
    printed_by: Callable[..., list[str]], way: str
) -> None:
    interrupts = """
    async def interrupt():
        await main_thread_ended()
        os.kill(os.getpid(), signal.SIGINT)

    executor.submit(interrupt)
    started.wait()
    """
    assert printed_by(
        LOG,
        SERVED.format(at_clean_up="await asyncio.sleep(0)"),
        f"""
        executor = palitra.AsyncLoopExecutor(exit_timeout={0.1 if way == "exit_timeout" else None})
        executor.submit_service(post_office)
        executor.submit(writes)
        ready.wait()
        """,
        interrupts if way == "Ctrl-C" else "",
    ) == ["call over", "service over"]


def test_a_service_has_its_clean_up_though_a_call_ignores_its_cancellation(
    printed_by: Callable[..., list[str]],
) -> None:
    lines = printed_by(
        LOG,
        SERVED.format(at_clean_up="pass"),
        """
        executor = palitra.AsyncLoopExecutor(exit_timeout=0.1)
        executor.submit_service(post_office)
        executor.submit(stubborn)
        ready.wait()
        """,
    )

    assert [names(line) for line in lines] == [
        "service over",
        "palitra: left behind at exit: stubborn",
    ]


def test_what_ignores_its_cancellation_is_left_behind_by_name(
    printed_by: Callable[..., list[str]],
) -> None:
    lines = printed_by(
        LOG,
        """
        executor = palitra.AsyncLoopExecutor(exit_timeout=0.1)
        executor.submit(stubborn).add_done_callback(told)
        ready.wait()
        """,
    )

    assert [names(line) for line in lines] == [
        "BrokenExecutor",
        "palitra: left behind at exit: stubborn",
    ]


def test_a_plain_function_is_left_behind(printed_by: Callable[..., list[str]]) -> None:
    lines = printed_by(
        LOG,
        """
        def never():
            ready.set()
            threading.Event().wait()


        executor = palitra.AsyncLoopExecutor(exit_timeout=0)
        executor.submit(never).add_done_callback(told)
        ready.wait()
        """,
    )

    assert [names(line) for line in lines] == [
        "BrokenExecutor",
        "palitra: left behind at exit: never",
    ]


def test_all_executors_are_on_one_clock(printed_by: Callable[..., list[str]]) -> None:
    lines = printed_by(
        LOG,
        """
        from palitra import _hooks

        executors = [palitra.AsyncLoopExecutor(exit_timeout=0.5) for _ in range(5)]
        for executor in executors:
            ready.clear()
            executor.submit(stubborn)
            ready.wait()
        # One after the other would take the exit five times as long.
        atexit.register(lambda: say(_hooks._process.waited < 2))
        """,
    )

    assert lines[0] == "True"
    assert names(lines[1]) == "palitra: left behind at exit: " + ", ".join(["stubborn"] * 5)
