"""Honest futures: each state of a call, what `cancel` says in it, and what comes after."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import inspect
import pickle
import sys
import threading
import time
import traceback
from concurrent.futures import (
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    BrokenExecutor,
    CancelledError,
    Future,
    ThreadPoolExecutor,
    as_completed,
    wait,
)
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import palitra
from contract.gates import PATIENCE, Gate, Held, fail_with, in_thread, value_of
from palitra import AsyncLoopExecutor, DeadlockError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

pytestmark = pytest.mark.any_host

PALITRA = Path(palitra.__file__).parent


@pytest.fixture
def held() -> Iterator[Held]:
    held = Held()
    yield held
    held.open_all()


@pytest.fixture
def blocked(executor: AsyncLoopExecutor) -> Iterator[Gate]:
    """While this gate is shut the loop stands still, so that nothing new can start."""
    gate = Gate()
    entered = Gate()

    def hold() -> None:
        entered.open()
        gate.wait()

    executor.get_loop().call_soon_threadsafe(hold)
    entered.wait()
    yield gate
    gate.open()


# Not started


def test_a_coroutine_function_that_has_not_started_is_cancelled_at_once(
    executor: AsyncLoopExecutor, blocked: Gate, held: Held
) -> None:
    future = executor.submit(held.coroutine)

    assert not future.running()
    assert future.cancel()
    assert future.cancelled()
    assert future.done()
    assert not future.running()
    with pytest.raises(CancelledError):
        future.result()
    with pytest.raises(CancelledError):
        future.exception()

    blocked.open()
    executor.run(value_of(None))
    assert not held.started.is_open


def test_a_coroutine_object_that_has_not_started_is_cancelled_at_once(
    executor: AsyncLoopExecutor, blocked: Gate, held: Held
) -> None:
    future = executor.submit(held.coroutine())

    assert future.cancel()
    assert future.cancelled()

    blocked.open()
    executor.run(value_of(None))
    assert not held.started.is_open


def test_a_plain_callable_that_has_not_started_is_cancelled_at_once(
    loop_flavour: dict[str, Any], held: Held
) -> None:
    never = Gate()
    with AsyncLoopExecutor(max_workers=1, **loop_flavour) as executor:
        executor.submit(held.thread)
        held.started.wait()
        future = executor.submit(never.open)

        assert not future.running()
        assert future.cancel()
        assert future.cancelled()
        assert future.done()
        held.release.open()

    assert not never.is_open


def test_cancelling_before_the_start_tells_everybody_at_once(
    executor: AsyncLoopExecutor, blocked: Gate, held: Held
) -> None:
    """The loop still stands while callbacks, `wait` and `as_completed` learn of it."""
    future = executor.submit(held.coroutine)
    called = Gate()
    future.add_done_callback(called.open)
    waited: list[Any] = []
    waiters = [
        in_thread(lambda: waited.append(wait([future], PATIENCE).done)),
        in_thread(lambda: waited.append(set(as_completed([future], PATIENCE)))),
        in_thread(lambda: waited.append({future} if future_cancelled(future) else None)),
    ]
    wait_until_awaited(future, watchers=2)

    future.cancel()
    for waiter in waiters:
        waiter.join(PATIENCE)

    assert called.is_open
    assert waited == [{future}] * 3


def wait_until_awaited(future: Future[Any], watchers: int) -> None:
    """Wait for a thread to be in `result`, and *watchers* to be in a wait, with no lock held.

    A thread that is on its way there may hold a lock, and then the loop tells them, a little later.
    """
    while "_sleepers" not in vars(future) or len(vars(future).get("_waiters", ())) < watchers:
        time.sleep(0.001)
    with future._condition:
        conditions = [watcher.event._cond for watcher in vars(future)["_waiters"]]
    for condition in conditions:
        while not condition._waiters:
            time.sleep(0.001)
        with condition:
            pass  # the thread has let go of the lock


def future_cancelled(future: Future[Any]) -> bool:
    try:
        future.result(PATIENCE)
    except CancelledError:
        return True
    return False


def test_a_future_cancelled_before_its_start_stays_cancelled(
    executor: AsyncLoopExecutor, blocked: Gate, held: Held
) -> None:
    future = executor.submit(held.coroutine)
    future.cancel()

    assert future.cancel()  # as in the standard library
    blocked.open()
    executor.run(value_of(None))
    assert future.cancelled()


# In flight


def test_a_coroutine_in_flight_is_running_until_its_cleanup_is_done(
    executor: AsyncLoopExecutor, held: Held
) -> None:
    future = executor.submit(held.coroutine)
    held.started.wait()
    assert future.running()

    assert future.cancel()
    held.cancelled.wait()
    assert future.running()
    assert not future.cancelled()
    assert not future.done()

    held.cleanup.open()
    with pytest.raises(CancelledError):
        future.result(PATIENCE)
    assert held.ended.is_open
    assert future.cancelled()
    assert future.done()
    assert not future.running()


def test_waiters_see_a_cancelled_call_only_when_it_has_ended(
    executor: AsyncLoopExecutor, held: Held
) -> None:
    future = executor.submit(held.coroutine)
    called: list[bool] = []
    future.add_done_callback(lambda done: called.append(done.cancelled()))
    held.started.wait()
    future.cancel()
    held.cancelled.wait()

    assert wait([future], timeout=0).not_done == {future}
    assert called == []

    held.cleanup.open()
    assert wait([future], PATIENCE).done == {future}
    executor.run(value_of(None))
    assert called == [True]


def test_a_cancelled_coroutine_may_return_a_result(executor: AsyncLoopExecutor) -> None:
    started = Gate()

    async def stubborn() -> str:
        started.open()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "finished all the same"
        return "never"

    future = executor.submit(stubborn)
    started.wait()

    assert future.cancel()
    assert future.result(PATIENCE) == "finished all the same"
    assert not future.cancelled()


def test_a_cancelled_coroutine_may_fail(executor: AsyncLoopExecutor) -> None:
    started = Gate()
    error = ValueError("cleanup failed")

    async def fails() -> None:
        started.open()
        try:
            await asyncio.Event().wait()
        finally:
            raise error

    future = executor.submit(fails)
    started.wait()
    future.cancel()

    assert future.exception(PATIENCE) is error
    assert not future.cancelled()


def test_a_coroutine_that_went_on_can_be_cancelled_again(executor: AsyncLoopExecutor) -> None:
    started, survived = Gate(), Gate()

    async def survives_once() -> None:
        started.open()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            survived.open()
        await asyncio.Event().wait()

    future = executor.submit(survives_once)
    started.wait()
    assert future.cancel()
    survived.wait()

    assert future.cancel()
    with pytest.raises(CancelledError):
        future.result(PATIENCE)


def test_a_coroutine_can_be_cancelled_from_the_loop(
    executor: AsyncLoopExecutor, held: Held
) -> None:
    future = executor.submit(held.coroutine)
    held.started.wait()
    held.cleanup.open()

    async def cancel() -> bool:
        return future.cancel()

    assert executor.run(cancel())
    with pytest.raises(CancelledError):
        future.result(PATIENCE)


def test_a_coroutine_may_cancel_its_own_future(executor: AsyncLoopExecutor) -> None:
    futures: list[Future[Any]] = []
    ready = Gate()

    async def cancels_itself() -> None:
        await ready.passed()
        assert futures[0].cancel()
        await asyncio.Event().wait()

    futures.append(executor.submit(cancels_itself))
    ready.open()

    with pytest.raises(CancelledError):
        futures[0].result(PATIENCE)
    assert futures[0].cancelled()


@pytest.mark.parametrize("as_object", [False, True])
def test_a_coroutine_that_cancels_itself_is_cancelled(
    executor: AsyncLoopExecutor, as_object: bool
) -> None:
    async def gives_up() -> None:
        raise asyncio.CancelledError

    future = executor.submit(gives_up()) if as_object else executor.submit(gives_up)

    with pytest.raises(CancelledError):
        future.result(PATIENCE)
    assert future.cancelled()


def test_a_coroutine_that_fails_with_the_other_cancelled_error_has_failed(
    executor: AsyncLoopExecutor,
) -> None:
    """That of `concurrent.futures` is an error like any other on the loop."""
    error = CancelledError("somebody else's future")
    future = executor.submit(fail_with, error)

    assert future.exception(PATIENCE) is error
    assert not future.cancelled()


# A plain callable in its thread


def test_a_plain_callable_that_runs_cannot_be_cancelled(
    executor: AsyncLoopExecutor, held: Held
) -> None:
    future = executor.submit(held.thread, 7)
    held.started.wait()

    assert future.running()
    assert not future.cancel()
    assert future.running()
    held.release.open()
    assert future.result(PATIENCE) == 7
    assert not future.cancelled()


@pytest.mark.own_loop("the exception ends the loop of the application")
def test_a_callback_that_wants_to_exit_keeps_no_other_call_from_failing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def initialize() -> None:
        if not threading.current_thread().name.endswith("_loop"):
            raise ValueError("no worker thread")

    def exits(future: Future[Any]) -> None:
        sys.exit(3)

    with AsyncLoopExecutor(initializer=initialize) as executor:
        calls = [executor.submit(asyncio.Event().wait) for _ in range(3)]
        calls[0].add_done_callback(exits)
        calls.append(executor.submit(int))

        assert {type(call.exception(PATIENCE)) for call in calls} == {BrokenExecutor}
    assert "exception in a done-callback" in caplog.messages


def test_a_call_that_ends_the_loop_by_its_end_keeps_its_result(
    quick_loop: dict[str, Any], switching: None
) -> None:
    # The worker thread looks once more after its call, which the loop may have ended by then.
    for number in range(200):
        with AsyncLoopExecutor(**quick_loop) as executor:
            future = executor.submit(lambda number: value_of(number), number)
        assert future.result(PATIENCE) == number


def test_the_awaitable_that_a_plain_callable_returned_can_be_cancelled(
    executor: AsyncLoopExecutor, held: Held
) -> None:
    future = executor.submit(lambda: held.coroutine())
    held.started.wait()

    assert future.running()
    assert future.cancel()
    held.cancelled.wait()
    assert future.running()
    held.cleanup.open()
    with pytest.raises(CancelledError):
        future.result(PATIENCE)


# Finished


@pytest.mark.parametrize("submitted", [value_of, lambda value: value])
def test_a_finished_call_cannot_be_cancelled(
    executor: AsyncLoopExecutor, submitted: Callable[[int], Any]
) -> None:
    future = executor.submit(submitted, 7)
    future.result(PATIENCE)

    assert not future.cancel()
    assert not future.running()
    assert not future.cancelled()
    assert future.done()
    assert future.result() == 7
    assert future.exception() is None


def test_a_failed_call_cannot_be_cancelled(executor: AsyncLoopExecutor) -> None:
    error = ValueError("no")
    future = executor.submit(fail_with, error)
    assert future.exception(PATIENCE) is error

    assert not future.cancel()
    assert not future.cancelled()
    with pytest.raises(ValueError, match="no"):
        future.result()


# Running, exactly


def test_running_is_true_in_the_first_step_of_a_coroutine(executor: AsyncLoopExecutor) -> None:
    futures: list[Future[Any]] = []
    ready = Gate()

    async def look() -> bool:
        # Blocks the loop on purpose: this is the first step, and the only one.
        ready.wait()
        return futures[0].running()

    futures.append(executor.submit(look))
    ready.open()

    assert futures[0].result(PATIENCE)
    assert not futures[0].running()


def test_running_is_true_from_the_start_of_a_plain_callable(executor: AsyncLoopExecutor) -> None:
    futures: list[Future[Any]] = []
    ready = Gate()

    def look() -> bool:
        ready.wait()
        return futures[0].running()

    futures.append(executor.submit(look))
    ready.open()

    assert futures[0].result(PATIENCE)
    assert not futures[0].running()


def test_a_call_that_waits_for_its_turn_does_not_run(
    loop_flavour: dict[str, Any], held: Held
) -> None:
    with AsyncLoopExecutor(max_workers=1, **loop_flavour) as executor:
        for body in (held.coroutine, held.thread):
            executor.submit(body)
        waiting = [executor.submit(value_of, 1), executor.submit(len, "a")]
        executor.run(value_of(None))

        assert [future.running() for future in waiting] == [False, False]
        held.open_all()
        assert [future.result(PATIENCE) for future in waiting] == [1, 1]


def test_the_future_says_its_state_in_words(executor: AsyncLoopExecutor, held: Held) -> None:
    future = executor.submit(held.coroutine, 7)
    held.started.wait()
    assert "state=running" in repr(future)

    held.release.open()
    future.result(PATIENCE)
    assert "state=finished returned int" in repr(future)


# Results that take their time


def test_result_and_exception_time_out_and_the_call_goes_on(
    executor: AsyncLoopExecutor, held: Held
) -> None:
    future = executor.submit(held.coroutine, 7)

    with pytest.raises(TimeoutError):
        future.result(timeout=0)
    with pytest.raises(TimeoutError):
        future.exception(timeout=0)

    held.release.open()
    assert future.result(PATIENCE) == 7
    assert not held.cancelled.is_open


# wait, as_completed, wrap_future


def test_wait_takes_these_futures_among_others(executor: AsyncLoopExecutor, held: Held) -> None:
    with ThreadPoolExecutor(1) as pool:
        quick = [executor.submit(value_of, 1), executor.submit(len, ""), pool.submit(len, "")]
        slow = [executor.submit(held.coroutine), executor.submit(held.thread)]
        done, not_done = wait([*quick, *slow], PATIENCE, return_when=FIRST_COMPLETED)

        assert done
        assert set(slow) <= not_done
        assert wait(quick, PATIENCE).done == set(quick)
        held.open_all()
        assert wait(slow, PATIENCE) == (set(slow), set())


def test_wait_for_the_first_exception_returns_at_the_first_exception(
    executor: AsyncLoopExecutor, held: Held
) -> None:
    slow = executor.submit(held.coroutine)
    failing = executor.submit(fail_with, ValueError("first"))

    done, not_done = wait([slow, failing], PATIENCE, FIRST_EXCEPTION)

    assert (done, not_done) == ({failing}, {slow})


def test_as_completed_yields_in_the_order_of_completion(executor: AsyncLoopExecutor) -> None:
    gates = [Gate() for _ in range(4)]

    async def passes(gate: Gate, number: int) -> int:
        await gate.passed()
        return number

    futures = [executor.submit(passes, gate, n) for n, gate in enumerate(gates)]
    completed = as_completed(futures, PATIENCE)
    seen = []
    for number in (2, 0, 3, 1):
        gates[number].open()
        seen.append(next(completed).result())

    assert seen == [2, 0, 3, 1]


@pytest.mark.parametrize("submitted", [value_of, lambda value: value])
def test_wrap_future_awaits_it_in_another_loop(
    executor: AsyncLoopExecutor, submitted: Callable[[int], Any]
) -> None:
    async def elsewhere() -> Any:
        return await asyncio.wrap_future(executor.submit(submitted, 7))

    assert asyncio.run(elsewhere()) == 7


def test_cancelling_the_wrapper_cancels_the_call(executor: AsyncLoopExecutor, held: Held) -> None:
    future = executor.submit(held.coroutine)
    held.started.wait()

    async def elsewhere() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(future), 0)

    asyncio.run(elsewhere())
    held.cancelled.wait()
    held.cleanup.open()
    with pytest.raises(CancelledError):
        future.result(PATIENCE)


def test_wrap_future_works_on_the_executors_own_loop(executor: AsyncLoopExecutor) -> None:
    async def own() -> list[Any]:
        wrapped = [asyncio.wrap_future(executor.submit(value_of, n)) for n in range(3)]
        return [*await asyncio.gather(*wrapped)]

    assert executor.run(own()) == [0, 1, 2]


# Callbacks


def test_callbacks_are_called_in_order_with_the_future(executor: AsyncLoopExecutor) -> None:
    held, seen, last = Held(), list[Any](), Gate()
    future = executor.submit(held.coroutine, 7)
    for number in range(3):
        future.add_done_callback(functools.partial(lambda n, done: seen.append((n, done)), number))
    future.add_done_callback(last.open)

    held.open_all()
    last.wait()

    assert seen == [(0, future), (1, future), (2, future)]


def test_a_callback_may_ask_for_the_result_and_submit_more(executor: AsyncLoopExecutor) -> None:
    second: Future[Any] = Future()

    def follow(done: Future[Any]) -> None:
        inner = executor.submit(value_of, done.result() + 1)
        inner.add_done_callback(lambda done: second.set_result(done.result()))

    executor.submit(value_of, 1).add_done_callback(follow)

    assert second.result(PATIENCE) == 2


@pytest.mark.parametrize("body", ["coroutine", "thread"])
def test_a_failing_callback_is_logged_and_hurts_nobody(
    executor: AsyncLoopExecutor, held: Held, caplog: pytest.LogCaptureFixture, body: str
) -> None:
    last = Gate()

    def fails(done: Future[Any]) -> None:
        raise ValueError("in the callback")

    future = executor.submit(getattr(held, body), 7)
    future.add_done_callback(fails)
    future.add_done_callback(last.open)
    held.open_all()
    last.wait()

    assert "in the callback" in caplog.text
    assert future.result(PATIENCE) == 7
    assert executor.submit(value_of, 1).result(PATIENCE) == 1


@pytest.mark.own_loop("the exception ends the loop of the application")
@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_a_callback_that_wants_to_exit_hurts_no_other_call(
    executor: AsyncLoopExecutor, held: Held, kind: type[BaseException]
) -> None:
    error = kind("unusual")
    other = Held()
    bystander = executor.submit(other.coroutine, 8)
    future = executor.submit(held.coroutine, 7)
    held.started.wait()

    def leave(done: Future[Any]) -> None:
        raise error

    called: list[object] = []
    last = Gate()
    future.add_done_callback(leave)
    future.add_done_callback(called.append)
    future.add_done_callback(last.open)
    gathered = in_thread(lambda: called.append(executor.gather(future)))
    executor.run(value_of(None))  # the gathering has begun, or begins with a future that is done
    held.open_all()

    assert future.result(PATIENCE) == 7
    gathered.join(PATIENCE)
    last.wait()  # a gathering that began with a future that was done ends before the callbacks
    assert sorted(called, key=str) == sorted([future, [7]], key=str)
    assert executor.submit(value_of, 1).result(PATIENCE) == 1
    other.open_all()
    assert bystander.result(PATIENCE) == 8


# Errors


class Unusual(BaseException):
    """Neither an exit nor an interrupt, and no Exception."""


unusual = pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, Unusual])


@unusual
def test_a_coroutine_delivers_any_exception_and_the_loop_lives_on(
    executor: AsyncLoopExecutor, held: Held, kind: type[BaseException]
) -> None:
    error = kind("unusual")
    bystander = executor.submit(held.coroutine, 8)
    held.started.wait()
    loop = executor.get_loop()

    assert executor.submit(fail_with, error).exception(PATIENCE) is error
    assert executor.submit(fail_with(error)).exception(PATIENCE) is error
    with pytest.raises(type(error)):
        executor.run(fail_with(error))

    assert not bystander.done()
    held.open_all()
    assert bystander.result(PATIENCE) == 8
    assert executor.get_loop() is loop
    assert executor.run(value_of(1)) == 1


@unusual
def test_a_coroutine_that_never_suspends_delivers_any_exception(
    executor: AsyncLoopExecutor, kind: type[BaseException]
) -> None:
    error = kind("unusual")

    async def fails_at_once() -> None:
        raise error

    assert executor.submit(fails_at_once).exception(PATIENCE) is error
    assert executor.run(value_of(1)) == 1


@pytest.mark.skipif(sys.version_info < (3, 12), reason="inspect.markcoroutinefunction is 3.12's")
@unusual
def test_a_coroutine_function_that_fails_when_called_delivers_any_exception(
    executor: AsyncLoopExecutor, kind: type[BaseException]
) -> None:
    error = kind("unusual")

    def fail() -> Coroutine[Any, Any, None]:
        raise error

    mark: Any = inspect.markcoroutinefunction  # type: ignore[attr-defined,unused-ignore]

    assert executor.submit(mark(fail)).exception(PATIENCE) is error
    assert executor.run(value_of(1)) == 1


@unusual
def test_a_worker_thread_delivers_any_exception_and_lives_on(kind: type[BaseException]) -> None:
    error = kind("unusual")

    def fail() -> None:
        raise error

    with AsyncLoopExecutor(max_workers=1) as executor:
        thread = executor.submit(threading.get_ident).result(PATIENCE)

        assert executor.submit(fail).exception(PATIENCE) is error
        assert executor.submit(threading.get_ident).result(PATIENCE) == thread


async def deep() -> None:
    await asyncio.sleep(0)
    await deeper()


async def deeper() -> None:
    raise ValueError("deep down")


def deep_in_a_thread() -> None:
    deeper_in_a_thread()


def deeper_in_a_thread() -> None:
    raise ValueError("deep down")


def returns_deep() -> Coroutine[Any, Any, None]:
    return deep()


TRACED: dict[str, tuple[Any, list[str]]] = {
    "coroutine function": (deep, ["deep", "deeper"]),
    "partial": (functools.partial(deep), ["deep", "deeper"]),
    "plain callable": (deep_in_a_thread, ["deep_in_a_thread", "deeper_in_a_thread"]),
    "returned awaitable": (returns_deep, ["deep", "deeper"]),
}


@pytest.mark.parametrize(("fn", "frames"), TRACED.values(), ids=TRACED)
def test_the_traceback_of_an_exception_holds_the_users_frames_alone(
    executor: AsyncLoopExecutor, fn: Any, frames: list[str]
) -> None:
    error = executor.submit(fn).exception(PATIENCE)

    assert error is not None
    assert [frame.name for frame in traceback.extract_tb(error.__traceback__)] == frames


@pytest.mark.parametrize(("fn", "frames"), TRACED.values(), ids=TRACED)
def test_the_traceback_of_result_is_as_short_as_the_standard_librarys(
    executor: AsyncLoopExecutor, fn: Any, frames: list[str]
) -> None:
    future = executor.submit(fn)
    with pytest.raises(ValueError, match="deep down") as caught:
        future.result(PATIENCE)

    assert names_after_this_one(caught.value) == frames


def test_the_traceback_of_run_holds_the_users_frames(executor: AsyncLoopExecutor) -> None:
    with pytest.raises(ValueError, match="deep down") as caught:
        executor.run(deep())

    assert names_after_this_one(caught.value) == ["deep", "deeper"]


def test_the_traceback_of_gather_holds_the_users_frames(executor: AsyncLoopExecutor) -> None:
    with pytest.raises(ValueError, match="deep down") as caught:
        executor.gather(deep(), value_of(1))

    assert names_after_this_one(caught.value) == ["deep", "deeper"]


def names_after_this_one(error: BaseException) -> list[str]:
    """The frames below the test's own, without the one public method that was called.

    What the standard library adds on its way, as `Future.result` does, is its own affair.
    """
    standard = Path(concurrent.futures.__file__).parent
    frames = traceback.extract_tb(error.__traceback__)[1:]
    if frames and PALITRA in Path(frames[0].filename).parents:
        del frames[0]
    return [frame.name for frame in frames if standard not in Path(frame.filename).parents]


def error_of_run(executor: AsyncLoopExecutor) -> BaseException:
    with pytest.raises(ValueError, match="deep down") as caught:
        executor.run(deep())
    return caught.value


def test_an_exception_carries_no_context_of_palitras(executor: AsyncLoopExecutor) -> None:
    for error in (
        executor.submit(deep).exception(PATIENCE),
        executor.submit(deep_in_a_thread).exception(PATIENCE),
        error_of_run(executor),
    ):
        assert error is not None
        assert error.__context__ is None
        assert error.__cause__ is None


# Deadlocks


@pytest.mark.parametrize("ask", [Future.result, Future.exception])
@pytest.mark.parametrize("kind", ["coroutine", "thread"])
def test_waiting_for_an_unfinished_call_on_the_loops_thread_is_a_deadlock(
    executor: AsyncLoopExecutor, held: Held, ask: Any, kind: str
) -> None:
    future = executor.submit(getattr(held, kind), 7)
    method = ask.__name__

    async def blocks() -> Any:
        return getattr(future, method)()

    with pytest.raises(DeadlockError):
        executor.run(blocks())

    held.open_all()
    assert future.result(PATIENCE) == 7


def test_a_deadlock_error_is_a_runtime_error() -> None:
    assert issubclass(DeadlockError, RuntimeError)


def test_a_finished_future_gives_its_result_on_the_loops_thread(
    executor: AsyncLoopExecutor,
) -> None:
    error = ValueError("e")
    good, bad = executor.submit(value_of, 7), executor.submit(fail_with, error)
    wait([good, bad], PATIENCE)

    async def asks() -> tuple[Any, Any, Any]:
        return good.result(), good.exception(), bad.exception()

    assert executor.run(asks()) == (7, None, error)


def test_another_executors_loop_may_wait(loop_flavour: dict[str, Any]) -> None:
    """It blocks that loop, which is unwise, but not for ever."""
    with AsyncLoopExecutor(**loop_flavour) as one, AsyncLoopExecutor(**loop_flavour) as other:
        future = one.submit(value_of, 7)

        async def waits() -> Any:
            return future.result(PATIENCE)

        assert other.run(waits()) == 7


# Pickling


def test_futures_and_executors_do_not_pickle_and_say_what_does(
    executor: AsyncLoopExecutor,
) -> None:
    future = executor.submit(value_of, 7)
    future.result(PATIENCE)

    for thing in (future, executor):
        with pytest.raises(TypeError, match="sync"):
            pickle.dumps(thing)


def test_a_watcher_of_many_futures_is_told_without_a_search_of_those_it_knows(
    executor: AsyncLoopExecutor,
) -> None:
    searches: list[None] = []

    class Known(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            searches.append(None)
            return super().__iter__()

    held = [Held() for _ in range(3)]
    futures = [executor.submit(each.coroutine) for each in held]
    watcher: Any = concurrent.futures._base._AllCompletedWaiter(3, stop_on_exception=False)
    watcher.finished_futures = Known()
    for future in futures:
        future._waiters.append(watcher)  # as `concurrent.futures.wait` does
    for each in held:
        each.release.open()

    assert watcher.event.wait(PATIENCE)
    assert searches == []
