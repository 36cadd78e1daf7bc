"""more-executors: retries, throttling and timeouts around the executor."""

from __future__ import annotations

import asyncio
import itertools
import threading
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING

import pytest
from more_executors import Executors

from palitra import AsyncLoopExecutor

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from concurrent.futures import Future


class FailureError(Exception):
    pass


def test_retry_calls_the_coroutine_function_again(executor: AsyncLoopExecutor) -> None:
    attempts = itertools.count(1)

    async def succeed_at_the_third_attempt() -> int:
        attempt = next(attempts)
        if attempt < 3:
            raise FailureError
        return attempt

    with Executors.with_retry(executor, max_attempts=5, sleep=0.001) as retrying:
        assert retrying.submit(succeed_at_the_third_attempt).result() == 3


def test_retry_gives_up_with_the_exception_of_the_coroutine(executor: AsyncLoopExecutor) -> None:
    attempts = itertools.count(1)

    async def fail() -> None:
        raise FailureError(next(attempts))

    with (
        Executors.with_retry(executor, max_attempts=3, sleep=0.001) as retrying,
        pytest.raises(FailureError, match=r"^3$"),
    ):
        retrying.submit(fail).result()


def test_throttle_bounds_the_coroutines_in_flight(executor: AsyncLoopExecutor) -> None:
    in_flight, most = 0, 0

    async def count() -> None:
        nonlocal in_flight, most
        in_flight += 1
        most = max(most, in_flight)
        await asyncio.sleep(0.001)
        in_flight -= 1

    with Executors.with_throttle(executor, count=3) as throttled:
        futures = [throttled.submit(count) for _ in range(30)]
        for future in futures:
            future.result()

    assert most == 3


def test_a_timeout_cancels_the_coroutine_itself(
    executor: AsyncLoopExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, cancelled = threading.Event(), threading.Event()

    async def wait_for_ever() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    submit = executor.submit

    def submit_and_see_it_start(fn: Callable[[], Awaitable[None]]) -> Future[None]:
        future = submit(fn)
        assert started.wait(10)
        return future

    # The time limit counts from when `submit` returns: no call can be overdue before it started.
    monkeypatch.setattr(executor, "submit", submit_and_see_it_start)
    with Executors.with_timeout(executor, 0.01) as limited:
        future = limited.submit(wait_for_ever)
        with pytest.raises(CancelledError):
            future.result()
        assert cancelled.wait(10)


def test_a_timeout_leaves_a_coroutine_in_time_alone(executor: AsyncLoopExecutor) -> None:
    async def double(number: int) -> int:
        return number * 2

    with Executors.with_timeout(executor, 20) as limited:
        assert limited.submit(double, 21).result() == 42


def test_wrappers_stack(executor: AsyncLoopExecutor) -> None:
    attempts = itertools.count(1)

    async def hang_at_first(number: int) -> int:
        if next(attempts) == 1:
            raise FailureError
        return number

    stack = (
        Executors.with_retry(executor, max_attempts=2, sleep=0.001)
        .with_throttle(4)
        .with_map(lambda number: number + 1)
        .with_timeout(20)
    )
    with stack:
        assert list(stack.map(hang_at_first, range(10))) == list(range(1, 11))


def test_the_shutdown_of_the_wrapper_shuts_the_executor_down() -> None:
    executor = AsyncLoopExecutor()
    with Executors.with_cancel_on_shutdown(executor) as wrapped:
        future = wrapped.submit(asyncio.Event().wait)

    assert future.cancelled()
    with pytest.raises(RuntimeError, match=r"after shutdown"):
        executor.submit(asyncio.sleep, 0)
