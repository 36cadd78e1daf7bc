"""Who is at the clean-up is not cancelled again, unless the user of the future asks for it."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING

import pytest

import palitra
from contract.gates import PATIENCE, Gate, in_thread, interrupt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.any_host


CANCELLED = CancelledError, asyncio.CancelledError


class Counted:
    """A coroutine that counts how often it is cancelled, and then waits until it may go."""

    def __init__(self) -> None:
        self.started = Gate()
        self.cancelled = Gate()
        self.cleanup = Gate()
        self.ended = Gate()
        self.cancellations = 0
        self.requests = 0

    async def coroutine(self) -> None:
        self.started.open()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await self._clean_up()
            raise
        finally:
            self.ended.open()

    async def _clean_up(self) -> None:
        self.cancellations += 1
        self.cancelled.open()
        while not self.cleanup.is_open:
            try:
                await self.cleanup.passed()
            except asyncio.CancelledError:
                self.cancellations += 1
        task = asyncio.current_task()
        assert task is not None
        self.requests = task.cancelling()

    def counts(self, loop: asyncio.AbstractEventLoop) -> tuple[int, int]:
        """Let the loop do all that was asked of it, then end; cancellations seen and asked for."""
        for _ in range(3):
            turn = Gate()
            loop.call_soon_threadsafe(turn.open)
            turn.wait()
        self.cleanup.open()
        self.ended.wait()
        return self.cancellations, self.requests


@pytest.fixture
def call() -> Iterator[Counted]:
    counted = Counted()
    yield counted
    counted.cleanup.open()


def cancel_all(executor: palitra.AsyncLoopExecutor) -> None:
    executor.shutdown(wait=False, cancel_futures=True)


def the_main_thread_hears() -> None:
    """Nothing tells when an interruption has been answered by doing nothing."""
    time.sleep(0.3)


def time_out(executor: palitra.AsyncLoopExecutor, call: Counted, what: str) -> None:
    """Begin a blocking call in a thread, and let its time pass."""
    begin: dict[str, Callable[[], object]] = {
        "run": lambda: executor.run(call.coroutine(), timeout=0.2),
        "gather": lambda: executor.gather(call.coroutine(), timeout=0.2),
    }

    def wait() -> None:
        with pytest.raises((TimeoutError, *CANCELLED)):
            begin[what]()

    in_thread(wait)


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_cancelled_call_is_not_cancelled_by_shutdowns(
    executor: palitra.AsyncLoopExecutor, call: Counted, times: int
) -> None:
    loop = executor.get_loop()
    future = executor.submit(call.coroutine)
    call.started.wait()
    future.cancel()
    call.cancelled.wait()

    for _ in range(times):
        cancel_all(executor)

    assert call.counts(loop) == (1, 1)
    with pytest.raises(CANCELLED):
        future.result(PATIENCE)


def test_a_shutdown_at_the_same_moment_cancels_once(
    executor: palitra.AsyncLoopExecutor, call: Counted
) -> None:
    loop = executor.get_loop()
    future = executor.submit(call.coroutine)
    call.started.wait()

    future.cancel()
    cancel_all(executor)

    call.cancelled.wait()
    assert call.counts(loop) == (1, 1)


@pytest.mark.parametrize("what", ["submit", "run", "gather"])
def test_two_shutdowns_cancel_once(
    executor: palitra.AsyncLoopExecutor, call: Counted, what: str
) -> None:
    loop = executor.get_loop()

    def wait() -> None:
        with pytest.raises(CANCELLED):
            if what == "submit":
                executor.submit(call.coroutine).result()
            elif what == "run":
                executor.run(call.coroutine())
            else:
                executor.gather(call.coroutine())

    waiter = in_thread(wait)
    call.started.wait()
    cancel_all(executor)
    call.cancelled.wait()

    cancel_all(executor)
    ended = in_thread(lambda: executor.shutdown(cancel_futures=True))

    assert call.counts(loop) == (1, 1)
    ended.join(PATIENCE)
    waiter.join(PATIENCE)
    assert not ended.is_alive()


@pytest.mark.parametrize("what", ["run", "gather"])
def test_a_shutdown_after_a_time_limit_does_not_cancel_again(
    executor: palitra.AsyncLoopExecutor, call: Counted, what: str
) -> None:
    loop = executor.get_loop()
    time_out(executor, call, what)
    call.cancelled.wait()

    cancel_all(executor)

    assert call.counts(loop) == (1, 1)


@pytest.mark.parametrize("what", ["run", "gather"])
def test_ctrl_c_after_a_time_limit_does_not_cancel_again(
    executor: palitra.AsyncLoopExecutor, call: Counted, what: str
) -> None:
    loop = executor.get_loop()
    interrupter = in_thread(
        call.cancelled.wait, interrupt, the_main_thread_hears, lambda: call.counts(loop)
    )

    with pytest.raises((TimeoutError, KeyboardInterrupt)):
        if what == "run":
            executor.run(call.coroutine(), timeout=0.2)
        else:
            executor.gather(call.coroutine(), timeout=0.2)
        interrupter.join(PATIENCE)  # on a machine where the signal comes late, here

    interrupter.join(PATIENCE)
    assert (call.cancellations, call.requests) == (1, 1)


@pytest.mark.parametrize("what", ["run", "gather"])
def test_a_second_ctrl_c_does_not_cancel_again(
    executor: palitra.AsyncLoopExecutor, call: Counted, what: str
) -> None:
    interrupter = in_thread(call.started.wait, interrupt, call.cancelled.wait, interrupt)

    with pytest.raises(KeyboardInterrupt):
        if what == "run":
            executor.run(call.coroutine())
        else:
            executor.gather(call.coroutine())

    interrupter.join()
    assert call.counts(executor.get_loop()) == (1, 1)


def test_ctrl_c_after_a_shutdown_does_not_cancel_again(
    executor: palitra.AsyncLoopExecutor, call: Counted
) -> None:
    loop = executor.get_loop()
    interrupter = in_thread(
        call.started.wait,
        lambda: cancel_all(executor),
        call.cancelled.wait,
        interrupt,
        the_main_thread_hears,
        lambda: call.counts(loop),
    )

    with pytest.raises((KeyboardInterrupt, *CANCELLED)):
        executor.run(call.coroutine())

    interrupter.join(PATIENCE)
    assert (call.cancellations, call.requests) == (1, 1)


def test_a_failure_in_gather_and_a_shutdown_cancel_once(
    executor: palitra.AsyncLoopExecutor, call: Counted
) -> None:
    loop = executor.get_loop()

    async def fail() -> None:
        await call.started.passed()
        raise LookupError

    def wait() -> None:
        with pytest.raises(LookupError):
            executor.gather(call.coroutine(), fail())

    waiter = in_thread(wait)
    call.cancelled.wait()
    cancel_all(executor)

    assert call.counts(loop) == (1, 1)
    waiter.join(PATIENCE)


def test_cancel_of_the_future_does_cancel_again(
    executor: palitra.AsyncLoopExecutor, call: Counted
) -> None:
    future = executor.submit(call.coroutine)
    call.started.wait()
    future.cancel()
    call.cancelled.wait()

    assert future.cancel()

    assert call.counts(executor.get_loop()) == (2, 2)


def test_cancel_of_the_future_cancels_again_after_a_shutdown(
    executor: palitra.AsyncLoopExecutor, call: Counted
) -> None:
    loop = executor.get_loop()
    future = executor.submit(call.coroutine)
    call.started.wait()
    cancel_all(executor)
    call.cancelled.wait()

    assert future.cancel()

    assert call.counts(loop) == (2, 2)
