"""`run`: one coroutine's result, its errors, its time limit, its deadlocks."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import itertools
import re
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from contract.gates import PATIENCE, Gate, Held, fail_with, in_thread, interrupt, value_of
from contract.subjects import Awaitable, Request, counted
from palitra import AsyncLoopExecutor, DeadlockError

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.any_host


@pytest.fixture
def held() -> Iterator[Held]:
    held = Held()
    yield held
    held.open_all()


def test_run_returns_what_the_coroutine_returns(executor: AsyncLoopExecutor) -> None:
    result = object()

    assert executor.run(value_of(result)) is result


def test_a_coroutine_that_never_suspends_is_run(executor: AsyncLoopExecutor) -> None:
    async def at_once() -> int:
        return 7

    assert executor.run(at_once()) == 7


def test_any_coroutine_will_do(executor: AsyncLoopExecutor) -> None:
    assert executor.run(Request(7)) == 7


def test_the_coroutine_is_a_task_of_the_loop(executor: AsyncLoopExecutor) -> None:
    async def looks() -> tuple[Any, Any]:
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup():
            return asyncio.get_running_loop(), asyncio.current_task()

    loop, task = executor.run(looks())

    assert loop is executor.get_loop()
    assert isinstance(task, asyncio.Task)


class Unusual(BaseException):
    pass


ERRORS = [
    ValueError,
    TimeoutError,
    asyncio.CancelledError,
    SystemExit,
    KeyboardInterrupt,
    GeneratorExit,
    Unusual,
]


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("timeout", [None, PATIENCE])
def test_run_raises_what_the_coroutine_raises(
    executor: AsyncLoopExecutor, kind: type[BaseException], timeout: float | None
) -> None:
    error = kind("the coroutine's own")
    with pytest.raises(kind) as caught:
        executor.run(fail_with(error), timeout=timeout)

    assert caught.value is error
    assert not hasattr(error, "__notes__")
    assert executor.run(value_of(7)) == 7


def test_run_serves_many_threads_at_once(executor: AsyncLoopExecutor) -> None:
    together = threading.Barrier(8)

    def calls(start: int) -> list[int]:
        together.wait(PATIENCE)
        return [executor.run(value_of(n)) for n in range(start, start + 50)]

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(calls, range(0, 400, 50)))

    assert [*itertools.chain(*results)] == list(range(400))


# Bad input


def test_another_awaitable_is_refused_with_what_to_write(executor: AsyncLoopExecutor) -> None:
    run: Any = executor.run

    with pytest.raises(NotImplementedError, match="await"):
        run(Awaitable(1))


def test_an_asyncio_future_is_refused_with_what_to_write(executor: AsyncLoopExecutor) -> None:
    run: Any = executor.run

    with pytest.raises(NotImplementedError, match="await"):
        run(executor.get_loop().create_future())


@pytest.mark.parametrize("thing", [None, 7, "text", value_of, len, object()], ids=repr)
def test_anything_else_is_refused_by_name(executor: AsyncLoopExecutor, thing: Any) -> None:
    with pytest.raises(TypeError, match=re.escape(repr(thing))):
        executor.run(thing)


def test_a_concurrent_future_is_refused(executor: AsyncLoopExecutor) -> None:
    run: Any = executor.run

    with pytest.raises(TypeError, match="Future"):
        run(executor.submit(len, ""))


def test_an_async_generator_is_refused_with_a_pointer(executor: AsyncLoopExecutor) -> None:
    run: Any = executor.run

    with pytest.raises(TypeError, match="sync_iter"):
        run(counted())


def test_only_the_coroutine_is_positional(executor: AsyncLoopExecutor) -> None:
    run: Any = executor.run
    coro = value_of(1)

    with pytest.raises(TypeError):
        run(coro, 1)
    coro.close()


def test_run_on_the_loops_thread_is_a_deadlock(executor: AsyncLoopExecutor) -> None:
    async def blocks() -> None:
        coro = value_of(1)
        with pytest.raises(DeadlockError, match="await"):
            executor.run(coro)
        assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED

    executor.run(blocks())


def test_run_in_a_callback_of_the_loop_is_a_deadlock(executor: AsyncLoopExecutor) -> None:
    """There is no running task there, and still it is the loop's thread."""
    errors: list[BaseException] = []
    called = Gate()

    def callback() -> None:
        try:
            executor.run(value_of(1))
        except DeadlockError as error:
            errors.append(error)
        called.open()

    executor.get_loop().call_soon_threadsafe(callback)
    called.wait()

    assert len(errors) == 1


def test_run_works_inside_another_loop(executor: AsyncLoopExecutor) -> None:
    """It blocks that loop for a while, but it is no deadlock."""

    async def elsewhere() -> Any:
        return executor.run(value_of(7))

    assert asyncio.run(elsewhere()) == 7


# Time limits


def test_a_timeout_cancels_and_waits_for_the_cleanup(executor: AsyncLoopExecutor) -> None:
    begun, cleaned = Gate(), Gate()

    async def cleans_up() -> None:
        begun.open()
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(10):
                await asyncio.sleep(0)
            cleaned.open()

    while not begun.is_open:  # on a busy machine, the time may be over before
        with pytest.raises(TimeoutError) as caught:
            executor.run(cleans_up(), timeout=0.01)

    assert cleaned.is_open
    assert not hasattr(caught.value, "__notes__")


@pytest.mark.parametrize("timeout", [0, 0.0, -1])
def test_a_timeout_that_is_over_cancels_at_once(
    executor: AsyncLoopExecutor, timeout: float
) -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        executor.run(never(), timeout=timeout)
    assert executor.run(value_of(7), timeout=PATIENCE) == 7


def test_a_coroutine_that_ignores_the_timeout_is_named_in_a_note(
    executor: AsyncLoopExecutor, held: Held
) -> None:
    """It stays in its cleanup past the grace; the loop itself is free."""
    while not held.started.is_open:  # on a busy machine, the time may be over before
        with pytest.raises(TimeoutError) as caught:
            executor.run(held.coroutine(), timeout=0.2)

    assert held.cancelled.is_open
    assert not held.ended.is_open
    assert notes(caught.value)
    held.open_all()
    held.ended.wait()
    assert executor.run(value_of(7)) == 7


def test_a_blocked_loop_is_named_in_a_note_with_file_line_and_function(
    executor: AsyncLoopExecutor,
) -> None:
    lock = threading.Lock()
    entered = Gate()

    async def blocks_the_loop() -> None:
        entered.open()
        lock.acquire(timeout=PATIENCE)

    with lock:
        while not entered.is_open:  # on a busy machine, the time may be over before
            with pytest.raises(TimeoutError) as caught:
                executor.run(blocks_the_loop(), timeout=0.2)

    line = inspect.getsourcelines(blocks_the_loop)[1] + 2
    assert f"{__file__}:{line}" in notes(caught.value)
    assert "blocks_the_loop" in notes(caught.value)


def test_a_run_that_never_starts_on_a_blocked_loop_times_out_with_a_note(
    executor: AsyncLoopExecutor,
) -> None:
    lock = threading.Lock()
    entered, started = Gate(), Gate()

    def another_call_blocks() -> None:
        entered.open()
        lock.acquire(timeout=PATIENCE)

    async def starts() -> None:
        started.open()

    with lock:
        executor.get_loop().call_soon_threadsafe(another_call_blocks)
        entered.wait()
        with pytest.raises(TimeoutError) as caught:
            executor.run(starts(), timeout=0.01)

    line = inspect.getsourcelines(another_call_blocks)[1] + 2
    assert f"{__file__}:{line}" in notes(caught.value)
    assert "another_call_blocks" in notes(caught.value)
    executor.run(value_of(None))
    assert not started.is_open


def notes(error: BaseException) -> str:
    return "\n".join(error.__notes__)


def test_an_error_of_the_cleanup_does_not_replace_the_timeout(
    executor: AsyncLoopExecutor,
) -> None:
    async def fails_to_clean_up() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("cleanup")

    with pytest.raises((TimeoutError, ValueError)):
        executor.run(fails_to_clean_up(), timeout=0.01)
    assert executor.run(value_of(7)) == 7


def test_a_timeout_inside_the_coroutine_is_the_coroutines(executor: AsyncLoopExecutor) -> None:
    async def limited() -> str:
        try:
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
        except TimeoutError:
            return "handled"
        return "never"

    assert executor.run(limited(), timeout=PATIENCE) == "handled"


# Contexts (more in test_context)


def test_run_takes_a_context(executor: AsyncLoopExecutor) -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")
    context = contextvars.copy_context()

    async def sets() -> None:
        variable.set(7)

    executor.run(sets(), context=context)

    assert context[variable] == 7
    assert variable not in contextvars.copy_context()


# Ctrl-C


def test_an_interrupt_cancels_waits_for_the_cleanup_and_is_raised(
    executor: AsyncLoopExecutor,
) -> None:
    cleaned = Gate()

    async def cleans_up() -> None:
        interrupt()
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(10):
                await asyncio.sleep(0)
            cleaned.open()

    with pytest.raises(KeyboardInterrupt):
        executor.run(cleans_up())

    assert cleaned.is_open
    assert executor.run(value_of(7)) == 7


def test_a_second_interrupt_abandons_the_cleanup(
    executor: AsyncLoopExecutor,
    held: Held,
) -> None:
    helper = in_thread(held.started.wait, interrupt, held.cancelled.wait, interrupt)
    with pytest.raises(KeyboardInterrupt):
        executor.run(held.coroutine())
    helper.join(PATIENCE)

    assert not held.ended.is_open
    assert executor.run(value_of(7)) == 7
    held.open_all()
    held.ended.wait()


def test_an_interrupt_is_raised_although_the_coroutine_returns(
    executor: AsyncLoopExecutor,
) -> None:
    async def returns() -> str:
        interrupt()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "finished all the same"
        return "never"

    with pytest.raises(KeyboardInterrupt):
        executor.run(returns())


def test_an_interrupt_during_a_timed_run_is_the_same(
    executor: AsyncLoopExecutor,
    held: Held,
) -> None:
    held.cleanup.open()
    helper = in_thread(held.started.wait, interrupt)

    with pytest.raises(KeyboardInterrupt):
        executor.run(held.coroutine(), timeout=PATIENCE)
    helper.join(PATIENCE)

    assert held.ended.is_open


def test_any_exception_of_a_signal_handler_acts_as_an_interrupt(
    executor: AsyncLoopExecutor, held: Held
) -> None:
    class Alarm(Exception):
        pass

    def handler(*_: Any) -> None:
        raise Alarm

    previous = signal.signal(signal.SIGUSR1, handler)
    held.cleanup.open()
    try:
        main = threading.main_thread().ident or 0
        helper = in_thread(held.started.wait, lambda: signal.pthread_kill(main, signal.SIGUSR1))
        with pytest.raises(Alarm):
            executor.run(held.coroutine())
        helper.join(PATIENCE)
    finally:
        signal.signal(signal.SIGUSR1, previous)

    assert held.ended.is_open
