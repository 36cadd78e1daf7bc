"""Threads that were replaced by something else, as gevent and eventlet do: refused, and no hang."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

# What the two do, in few words: a "thread" runs in the thread that would wait for it, some day.
PATCH = """
import _thread


def patch():
    threading._start_new_thread = threading._start_joinable_thread = start_later
    _thread.start_new_thread = start_later


def start_later(function, *args, **kwargs):
    return 0


def refused(use):
    try:
        use()
    except RuntimeError as error:
        assert "real threads" in str(error), error
        say("refused")
"""

USES = {
    "run": "lambda: executor.run(double(1))",
    "submit": "lambda: executor.submit(double, 1)",
    "a plain function": "lambda: executor.submit(abs, -1)",
    "a service": "lambda: executor.submit_service(double, 1)",
    "map": "lambda: list(executor.map(double, [1]))",
    "gather": "lambda: executor.gather(double(1), double(2))",
    "get_loop": "lambda: executor.get_loop()",
    "an iterator": "lambda: list(executor.sync_iter(count(3)))",
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_the_first_use_says_so_and_so_does_each_that_follows(
    printed_by: Callable[..., list[str]], use: str
) -> None:
    assert (
        printed_by(
            PATCH,
            f"""
        patch()
        for executor in palitra.get_executor(), palitra.AsyncLoopExecutor():
            refused({use})
            refused({use})
        executor.shutdown()
        """,
        )
        == ["refused"] * 4
    )


def test_so_do_the_uses_of_an_executor_over_the_applications_loop(
    printed_by: Callable[..., list[str]],
) -> None:
    assert (
        printed_by(
            PATCH,
            """
        async def main():
            executor = palitra.AsyncLoopExecutor.from_loop()
            refused(lambda: executor.submit(double, 1))
            refused(lambda: executor.submit(double, 1))
            await executor.aclose()


        patch()
        asyncio.run(main())
        """,
        )
        == ["refused"] * 2
    )


def test_threads_that_are_patched_after_the_first_use_are_not_waited_for(
    printed_by: Callable[..., list[str]],
) -> None:
    assert printed_by(
        PATCH,
        """
        use_before = palitra.run(double(1))
        patch()
        executor = palitra.get_executor()
        say(executor.run(double(2)))
        refused(lambda: executor.submit(abs, -1))
        if sys.version_info[:2] == (3, 12):  # where the first thread of asyncio's is there already
            say(executor.run(asyncio.to_thread(abs, -5)))
        else:
            refused(lambda: executor.run(asyncio.to_thread(abs, -5)))
        refused(lambda: palitra.AsyncLoopExecutor().submit(double, 1))
        """,
    ) == ["4", "refused", "5" if sys.version_info[:2] == (3, 12) else "refused", "refused"]


def test_a_worker_that_was_there_before_does_the_work(
    printed_by: Callable[..., list[str]],
) -> None:
    assert printed_by(
        PATCH,
        """
        executor = palitra.AsyncLoopExecutor()
        executor.submit(abs, -1).result()
        patch()
        say([future.result() for future in [executor.submit(abs, -n) for n in range(20)]])
        """,
    ) == [str(list(range(20)))]
