"""`gather`: order, mixes, and who is cancelled when something fails."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import inspect
import logging
import re
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from contract.gates import PATIENCE, Gate, Held, fail_with, in_thread, interrupt, value_of
from contract.subjects import Awaitable, Request, counted
from palitra import AsyncLoopExecutor, DeadlockError

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.any_host

CANCELLED = (asyncio.CancelledError, concurrent.futures.CancelledError)


@pytest.fixture
def held() -> Iterator[Held]:
    held = Held()
    yield held
    held.open_all()


def test_results_are_a_list_in_the_order_of_the_arguments(executor: AsyncLoopExecutor) -> None:
    first, last = Gate(), Gate()

    async def slow() -> str:
        await last.passed()
        first.open()
        return "slow"

    async def quick() -> str:
        last.open()
        await first.passed()
        return "quick"

    results = executor.gather(slow(), quick(), timeout=PATIENCE)

    assert results == ["slow", "quick"]
    assert type(results) is list


def test_nothing_gives_an_empty_list(executor: AsyncLoopExecutor) -> None:
    assert executor.gather() == []
    assert executor.gather(return_exceptions=True, timeout=PATIENCE) == []


def test_every_kind_of_argument_is_taken_at_once(executor: AsyncLoopExecutor) -> None:
    loop = executor.get_loop()
    own: asyncio.Future[str] = loop.create_future()
    loop.call_soon_threadsafe(own.set_result, "asyncio future")
    done: Future[str] = Future()
    done.set_result("done future")
    with ThreadPoolExecutor(1) as pool, AsyncLoopExecutor() as other:
        results = executor.gather(
            value_of("coroutine"),
            Request("request"),
            Awaitable("awaitable"),
            executor.submit(value_of, "own future"),
            executor.submit(str, "own thread"),
            other.submit(value_of, "other's future"),
            pool.submit(str, "pool's future"),
            done,
            own,
            timeout=PATIENCE,
        )

    loop_thread = executor.run(ident())
    assert results == [
        "coroutine",
        "request",
        ("awaitable", loop_thread),
        "own future",
        "own thread",
        "other's future",
        "pool's future",
        "done future",
        "asyncio future",
    ]


async def ident() -> int:
    return threading.get_ident()


def test_a_task_of_the_loop_is_taken(executor: AsyncLoopExecutor) -> None:
    async def starts() -> asyncio.Task[Any]:
        return asyncio.create_task(value_of(7))

    assert executor.gather(executor.run(starts()), value_of(8)) == [7, 8]


def test_thousands_are_taken(executor: AsyncLoopExecutor) -> None:
    assert executor.gather(*(value_of(n) for n in range(5000))) == list(range(5000))


def test_the_same_future_may_come_twice(executor: AsyncLoopExecutor) -> None:
    future = executor.submit(value_of, 7)

    assert executor.gather(future, value_of(8), future) == [7, 8, 7]


def test_the_same_coroutine_may_come_twice_as_in_asyncio(executor: AsyncLoopExecutor) -> None:
    coro = value_of(7)

    assert executor.gather(coro, value_of(8), coro) == [7, 8, 7]


def test_each_coroutine_runs_in_a_context_of_its_own(executor: AsyncLoopExecutor) -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")
    variable.set(1)

    async def adds(amount: int) -> int:
        variable.set(variable.get() + amount)
        await asyncio.sleep(0)
        return variable.get()

    assert executor.gather(adds(1), adds(2), adds(3)) == [2, 3, 4]
    assert variable.get() == 1


# Failure


def test_the_first_failure_cancels_the_coroutines_and_waits_for_their_cleanup(
    executor: AsyncLoopExecutor,
) -> None:
    error = ValueError("first")
    cleaned: list[int] = []
    ready = [Gate(), Gate()]

    async def cleans_up(number: int) -> None:
        ready[number].open()
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(10):
                await asyncio.sleep(0)
            cleaned.append(number)

    async def fails() -> None:
        for gate in ready:
            await gate.passed()
        raise error

    with pytest.raises(ValueError, match="first") as caught:
        executor.gather(cleans_up(0), fails(), cleans_up(1))

    assert caught.value is error
    assert sorted(cleaned) == [0, 1]


def test_a_failure_cancels_other_awaitables_too(executor: AsyncLoopExecutor) -> None:
    held = Held()
    held.cleanup.open()

    class Waits:
        def __await__(self) -> Any:
            return held.coroutine().__await__()

    async def fails() -> None:
        await held.started.passed()
        raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        executor.gather(Waits(), fails())

    assert held.ended.is_open


def test_a_failure_never_cancels_futures_that_were_handed_in(
    executor: AsyncLoopExecutor, held: Held
) -> None:
    loop = executor.get_loop()
    own: asyncio.Future[str] = loop.create_future()
    foreign: Future[str] = Future()
    submitted = executor.submit(held.coroutine, 7)
    threaded = executor.submit(held.thread, 8)

    with pytest.raises(ValueError, match="first"):
        executor.gather(submitted, threaded, own, foreign, fail_with(ValueError("first")))

    assert not held.cancelled.is_open
    assert not own.cancelled()
    assert not own.done()
    assert not foreign.cancelled()
    assert foreign.cancel()
    held.open_all()
    assert submitted.result(PATIENCE) == 7
    assert threaded.result(PATIENCE) == 8


def test_a_task_that_was_handed_in_is_never_cancelled(
    executor: AsyncLoopExecutor, held: Held
) -> None:
    async def starts() -> asyncio.Task[Any]:
        return asyncio.create_task(held.coroutine(7))

    task = executor.run(starts())
    with pytest.raises(ValueError, match="first"):
        executor.gather(task, fail_with(ValueError("first")))

    assert not held.cancelled.is_open
    held.open_all()
    assert executor.gather(task) == [7]


def test_a_failed_future_fails_the_gather(executor: AsyncLoopExecutor, held: Held) -> None:
    error = ValueError("of a future")
    held.cleanup.open()
    future = executor.submit(fail_with, error)

    with pytest.raises(ValueError, match="of a future") as caught:
        executor.gather(held.coroutine(), future)

    assert caught.value is error
    assert held.ended.is_open or not held.started.is_open


@pytest.mark.parametrize("return_exceptions", [False, True])
def test_a_cancelled_future_counts_as_a_failure(
    executor: AsyncLoopExecutor, return_exceptions: bool
) -> None:
    future: Future[int] = Future()
    future.cancel()

    if return_exceptions:
        first, second = executor.gather(future, value_of(7), return_exceptions=True)
        assert isinstance(first, CANCELLED)
        assert second == 7
    else:
        with pytest.raises(CANCELLED):
            executor.gather(future, value_of(7))


def test_a_future_cancelled_meanwhile_ends_the_gather(
    executor: AsyncLoopExecutor, held: Held
) -> None:
    future: Future[int] = Future()

    async def cancels() -> None:
        await held.started.passed()
        future.cancel()

    with pytest.raises(CANCELLED):
        executor.gather(future, cancels(), held_with_cleanup(held))


def held_with_cleanup(held: Held) -> Any:
    held.cleanup.open()
    return held.coroutine()


class Unusual(BaseException):
    pass


@pytest.mark.parametrize(
    "kind", [SystemExit, KeyboardInterrupt, Unusual, GeneratorExit, asyncio.CancelledError]
)
def test_any_exception_is_delivered_and_the_rest_cleaned_up(
    executor: AsyncLoopExecutor, held: Held, kind: type[BaseException]
) -> None:
    error = kind("of a child")
    held.cleanup.open()

    async def fails() -> None:
        await held.started.passed()
        raise error

    with pytest.raises(kind) as caught:
        executor.gather(held.coroutine(), fails())

    assert caught.value is error
    assert held.ended.is_open
    assert executor.run(value_of(7)) == 7


def test_two_failures_raise_the_first_and_complain_about_nothing(
    executor: AsyncLoopExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()

    async def fails(number: int) -> None:
        if number:
            await gate.passed()
        gate.open()
        raise ValueError(str(number))

    with caplog.at_level(logging.DEBUG), pytest.raises(ValueError, match="0"):
        executor.gather(fails(1), fails(0), fails(2))
    executor.shutdown()

    assert [record.getMessage() for record in caplog.records if record.levelno >= 30] == []


def test_an_error_of_the_cleanup_does_not_replace_the_first(executor: AsyncLoopExecutor) -> None:
    started = Gate()

    async def fails_to_clean_up() -> None:
        started.open()
        try:
            await asyncio.Event().wait()
        finally:
            raise RuntimeError("cleanup")

    async def fails() -> None:
        await started.passed()
        raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        executor.gather(fails_to_clean_up(), fails())


# return_exceptions


def test_return_exceptions_puts_them_in_their_places(executor: AsyncLoopExecutor) -> None:
    errors = [ValueError("a"), KeyError("b"), OSError("c")]
    failed: Future[int] = Future()
    failed.set_exception(errors[2])

    results = executor.gather(
        value_of(1),
        fail_with(errors[0]),
        executor.submit(fail_with, errors[1]),
        failed,
        value_of(2),
        return_exceptions=True,
    )

    assert results == [1, *errors, 2]


def test_return_exceptions_cancels_nobody(executor: AsyncLoopExecutor) -> None:
    gate = Gate()

    async def fails() -> None:
        gate.open()
        raise ValueError

    async def goes_on() -> int:
        await gate.passed()
        await asyncio.sleep(0)
        return 7

    failure, result = executor.gather(fails(), goes_on(), return_exceptions=True)

    assert isinstance(failure, ValueError)
    assert result == 7


def test_return_exceptions_returns_a_coroutines_own_cancellation(
    executor: AsyncLoopExecutor,
) -> None:
    results = executor.gather(
        fail_with(asyncio.CancelledError()), value_of(7), return_exceptions=True
    )

    assert isinstance(results[0], CANCELLED)
    assert results[1] == 7


# Time limits


@pytest.mark.parametrize("return_exceptions", [False, True])
def test_a_timeout_cancels_the_coroutines_and_waits_for_their_cleanup(
    executor: AsyncLoopExecutor, held: Held, return_exceptions: bool
) -> None:
    held.cleanup.open()
    other = Held()
    submitted = executor.submit(other.coroutine, 7)

    while not held.started.is_open:  # on a busy machine, the time may be over before
        with pytest.raises(TimeoutError):
            executor.gather(
                held.coroutine(),
                submitted,
                value_of(1),
                return_exceptions=return_exceptions,
                timeout=0.2,
            )

    assert held.ended.is_open
    assert not other.cancelled.is_open
    other.open_all()
    assert submitted.result(PATIENCE) == 7


def test_a_timeout_of_futures_alone_leaves_them_running(
    executor: AsyncLoopExecutor, held: Held
) -> None:
    future = executor.submit(held.thread, 7)

    with pytest.raises(TimeoutError):
        executor.gather(future, timeout=0.01)

    assert not future.cancelled()
    held.open_all()
    assert executor.gather(future, timeout=PATIENCE) == [7]


def test_a_cleanup_past_the_grace_is_named_in_a_note(
    executor: AsyncLoopExecutor, held: Held
) -> None:
    while not held.started.is_open:  # on a busy machine, the time may be over before
        with pytest.raises(TimeoutError) as caught:
            executor.gather(held.coroutine(), value_of(1), timeout=0.2)

    assert caught.value.__notes__
    assert not held.ended.is_open
    held.open_all()
    held.ended.wait()


# Bad input


@pytest.mark.parametrize("thing", [None, 7, "text", value_of, [], object()], ids=repr)
def test_anything_else_is_refused_by_name_and_the_rest_closed(
    executor: AsyncLoopExecutor, thing: Any
) -> None:
    before, after = value_of(1), value_of(2)

    with pytest.raises(TypeError, match=re.escape(repr(thing))):
        executor.gather(before, thing, after)

    assert inspect.getcoroutinestate(before) == inspect.CORO_CLOSED
    assert inspect.getcoroutinestate(after) == inspect.CORO_CLOSED


def test_an_async_generator_is_refused_with_a_pointer(executor: AsyncLoopExecutor) -> None:
    gather: Any = executor.gather

    with pytest.raises(TypeError, match="sync_iter"):
        gather(counted())


def test_an_asyncio_future_of_another_loop_is_refused(executor: AsyncLoopExecutor) -> None:
    loop = asyncio.new_event_loop()
    try:
        foreign: asyncio.Future[int] = loop.create_future()
        coro = value_of(1)
        with pytest.raises((ValueError, TypeError, RuntimeError), match="loop"):
            executor.gather(coro, foreign, timeout=PATIENCE)
    finally:
        loop.close()


def test_gather_on_the_loops_thread_is_a_deadlock(executor: AsyncLoopExecutor) -> None:
    async def blocks() -> list[str]:
        coros = [value_of(1), value_of(2)]
        with pytest.raises(DeadlockError):
            executor.gather(*coros)
        return [inspect.getcoroutinestate(coro) for coro in coros]

    assert executor.run(blocks()) == [inspect.CORO_CLOSED] * 2


def test_gather_is_refused_after_shutdown(executor: AsyncLoopExecutor) -> None:
    executor.shutdown()
    coros = [value_of(1), value_of(2)]

    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.gather(*coros)

    assert [inspect.getcoroutinestate(coro) for coro in coros] == [inspect.CORO_CLOSED] * 2


# Ctrl-C


def test_an_interrupt_cancels_the_coroutines_alone_and_waits_for_their_cleanup(
    executor: AsyncLoopExecutor, held: Held
) -> None:
    other = Held()
    submitted = executor.submit(other.coroutine, 7)
    held.cleanup.open()
    helper = in_thread(held.started.wait, interrupt)

    with pytest.raises(KeyboardInterrupt):
        executor.gather(held.coroutine(), submitted)
    helper.join(PATIENCE)

    assert held.ended.is_open
    assert not other.cancelled.is_open
    other.open_all()
    assert submitted.result(PATIENCE) == 7


def test_a_second_interrupt_abandons_the_cleanup(executor: AsyncLoopExecutor, held: Held) -> None:
    helper = in_thread(held.started.wait, interrupt, held.cancelled.wait, interrupt)
    with pytest.raises(KeyboardInterrupt):
        executor.gather(held.coroutine(), value_of(1))
    helper.join(PATIENCE)

    assert not held.ended.is_open
    held.open_all()
    held.ended.wait()


def test_an_interrupt_while_waiting_for_futures_leaves_them_running(
    executor: AsyncLoopExecutor, held: Held
) -> None:
    begun = Gate()

    async def begins() -> None:
        begun.open()

    future = executor.submit(held.coroutine, 7)
    helper = in_thread(begun.wait, interrupt)

    with pytest.raises(KeyboardInterrupt):
        executor.gather(future, begins())
    helper.join(PATIENCE)

    assert not held.cancelled.is_open
    held.open_all()
    assert future.result(PATIENCE) == 7


def test_a_task_factory_may_go_on_after_the_end_of_the_coroutine(
    executor: AsyncLoopExecutor,
) -> None:
    async def traced(coro: Any) -> Any:
        result = await coro
        await asyncio.sleep(0)
        return result

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        if sys.version_info >= (3, 12):
            options["eager_start"] = True
        return asyncio.Task(traced(coro), loop=loop, **options)

    executor.get_loop().set_task_factory(factory)

    async def at_once() -> int:
        return 1

    assert executor.gather(at_once(), value_of(2), at_once()) == [1, 2, 1]


@pytest.mark.parametrize("return_exceptions", [False, True])
def test_a_task_factory_that_fails_fails_as_the_coroutine_would(
    executor: AsyncLoopExecutor, return_exceptions: bool
) -> None:
    made = 0

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        nonlocal made
        made += 1
        if made == 3:  # after the gather itself and its first child
            raise OSError("no task")
        return asyncio.Task(coro, loop=loop, **options)

    executor.get_loop().set_task_factory(factory)
    coros = value_of(1), value_of(2), value_of(3)
    if return_exceptions:
        one, error, three = executor.gather(*coros, return_exceptions=True)
        assert (one, str(error), three) == (1, "no task", 3)
    else:
        with pytest.raises(OSError, match="no task"):
            executor.gather(*coros)
    assert all(inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED for coro in coros)


@pytest.mark.parametrize("return_exceptions", [False, True])
def test_a_future_that_takes_no_callback_fails_as_a_coroutine_would(
    executor: AsyncLoopExecutor, return_exceptions: bool
) -> None:
    class Deaf(Future[int]):
        def add_done_callback(self, fn: Any) -> None:
            raise OSError("no callbacks")

    coros = value_of(1), value_of(3)
    if return_exceptions:
        one, error, three = executor.gather(coros[0], Deaf(), coros[1], return_exceptions=True)
        assert (one, str(error), three) == (1, "no callbacks", 3)
    else:
        with pytest.raises(OSError, match="no callbacks"):
            executor.gather(coros[0], Deaf(), coros[1])
    assert all(inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED for coro in coros)
