"""`exit_timeout` bounds what an exit waits for; what is left behind then is named."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

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
