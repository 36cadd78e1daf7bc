"""`cached_context`: a context that the first call enters, in each life of the executor."""

from __future__ import annotations

import asyncio
import gc
import inspect
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

import palitra
from contract.gates import PATIENCE, Gate, Held, in_thread, interrupt, value_of
from palitra import AsyncLoopExecutor, DeadlockError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

pytestmark = pytest.mark.any_host


def cached_context(
    executor: AsyncLoopExecutor, factory: Callable[[], AbstractAsyncContextManager[Any]]
) -> Callable[[], Any]:
    return executor.cached_context(factory)


class Value:
    """What a context gives."""


class Pool:
    """A factory of contexts that counts how often they are entered and left."""

    def __init__(self) -> None:
        self.entered = 0
        self.left: list[Any] = []

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[Value]:
        self.entered += 1
        await asyncio.sleep(0)
        value = Value()
        try:
            yield value
        finally:
            self.left.append(asyncio.get_running_loop())


def test_the_first_call_enters_and_the_others_return_the_same(executor: AsyncLoopExecutor) -> None:
    pool = Pool()
    cached = cached_context(executor, pool)

    assert pool.entered == 0
    value = cached()
    assert isinstance(value, Value)
    assert cached() is value
    assert (pool.entered, pool.left) == (1, [])
    loop = executor.get_loop()
    executor.shutdown()
    assert (pool.entered, pool.left) == (1, [loop])


def test_first_calls_of_many_threads_enter_once(executor: AsyncLoopExecutor) -> None:
    pool = Pool()
    cached = cached_context(executor, pool)
    together = threading.Barrier(16)

    def calls(_: int) -> Any:
        together.wait(PATIENCE)
        return cached()

    with ThreadPoolExecutor(16) as threads:
        values = list(threads.map(calls, range(16)))

    assert len(set(map(id, values))) == 1
    assert pool.entered == 1


def test_those_who_come_while_the_first_call_is_at_work_wait_for_it(
    executor: AsyncLoopExecutor,
) -> None:
    held = Held()
    entered: list[int] = []

    @asynccontextmanager
    async def slow() -> AsyncIterator[int]:
        entered.append(1)
        yield await held.coroutine(7)

    cached = cached_context(executor, slow)
    with ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(cached) for _ in range(4)]
        held.started.wait()
        held.open_all()
        assert [call.result(PATIENCE) for call in calls] == [7] * 4

    assert entered == [1]


def test_none_is_a_value_as_any_other(executor: AsyncLoopExecutor) -> None:
    entered: list[int] = []

    @asynccontextmanager
    async def nothing() -> AsyncIterator[None]:
        entered.append(1)
        yield

    cached = cached_context(executor, nothing)
    assert [cached(), cached()] == [None, None]
    assert entered == [1]


@pytest.mark.parametrize("kind", [ValueError, SystemExit])
def test_a_first_call_that_fails_tells_those_who_wait_and_the_next_tries_again(
    executor: AsyncLoopExecutor, kind: type[BaseException]
) -> None:
    held = Held()
    fails = [True]

    @asynccontextmanager
    async def broken_once() -> AsyncIterator[int]:
        if fails.pop():
            fails.append(False)
            await held.coroutine()
            raise kind("at the first call")
        yield 7

    cached = cached_context(executor, broken_once)
    with ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(cached) for _ in range(4)]
        held.started.wait()
        # Until all of them have been handed over.
        while len(executor._service.calls.waited) < 4:
            executor.run(value_of(None))
        executor.run(value_of(None))
        held.open_all()
        errors = [call.exception(PATIENCE) for call in calls]

    assert [type(error) for error in errors] == [kind] * 4
    assert [cached(), cached()] == [7, 7]


def test_a_factory_that_fails_fails_the_first_call(executor: AsyncLoopExecutor) -> None:
    makes: list[Any] = [Pool(), OSError("no pool")]

    def factory() -> Any:
        made = makes.pop()
        if isinstance(made, OSError):
            raise made
        return made()

    cached = cached_context(executor, factory)
    with pytest.raises(OSError, match="no pool"):
        cached()
    assert isinstance(cached(), Value)


def test_a_first_call_that_is_interrupted_tells_those_who_wait(
    executor: AsyncLoopExecutor,
) -> None:
    held = Held()
    held.cleanup.open()
    interrupted: list[bool] = [True]

    @asynccontextmanager
    async def slow_once() -> AsyncIterator[int]:
        if interrupted:
            interrupted.clear()
            await held.coroutine()
        yield 7

    cached = cached_context(executor, slow_once)
    errors: list[BaseException] = []

    def waits() -> None:
        held.started.wait()
        try:
            cached()
        except BaseException as error:
            errors.append(error)

    def interrupts() -> None:
        held.started.wait()
        while len(executor._service.calls.waited) < 2:
            pass
        executor.run(value_of(None))
        interrupt()

    waiting, helper = in_thread(waits), in_thread(interrupts)
    with pytest.raises(KeyboardInterrupt):
        cached()
    for thread in waiting, helper:
        thread.join(PATIENCE)

    assert [type(error) for error in errors] == [asyncio.CancelledError]
    assert held.ended.is_open
    assert cached() == 7


def test_an_interrupt_of_one_who_waits_leaves_the_first_call_alone(
    executor: AsyncLoopExecutor,
) -> None:
    held = Held()

    @asynccontextmanager
    async def slow() -> AsyncIterator[int]:
        yield await held.coroutine(7)

    cached = cached_context(executor, slow)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(cached)
        held.started.wait()

        def interrupts() -> None:
            while len(executor._service.calls.waited) < 2:
                pass
            interrupt()

        helper = in_thread(interrupts)
        with pytest.raises(KeyboardInterrupt):
            cached()
        helper.join(PATIENCE)
        held.open_all()
        assert first.result(PATIENCE) == 7
    assert not held.cancelled.is_open
    assert cached() == 7


def test_on_the_loops_thread_the_value_is_there_or_the_error_is_clear(
    executor: AsyncLoopExecutor,
) -> None:
    pool = Pool()
    cached = cached_context(executor, pool)

    async def asks() -> Any:
        return cached()

    with pytest.raises(DeadlockError, match=r"first call of .* make the first call elsewhere"):
        executor.run(asks())
    assert pool.entered == 0
    value = cached()
    assert executor.run(asks()) is value


def test_another_executors_coroutine_may_call_first(executor: AsyncLoopExecutor) -> None:
    cached = cached_context(executor, Pool())

    async def asks() -> Any:
        return cached()

    with AsyncLoopExecutor() as other:
        value = other.run(asks())
    assert cached() is value


def test_one_task_enters_and_leaves(executor: AsyncLoopExecutor) -> None:
    tasks: list[Any] = []

    @asynccontextmanager
    async def noted() -> AsyncIterator[None]:
        tasks.append(asyncio.current_task())
        async with asyncio.timeout(60):
            yield
        tasks.append(asyncio.current_task())

    cached_context(executor, noted)()
    executor.shutdown()

    assert len(tasks) == 2
    assert tasks[0] is tasks[1]


def test_calls_in_flight_at_shutdown_still_have_the_value(executor: AsyncLoopExecutor) -> None:
    held = Held()
    cached = cached_context(executor, Pool())
    value = cached()

    async def uses() -> Any:
        await held.coroutine()
        return cached()

    future = executor.submit(uses)
    held.started.wait()
    shutdown = in_thread(executor.shutdown)
    held.open_all()
    shutdown.join(PATIENCE)
    assert future.result(0) is value


def test_after_shutdown_it_is_refused(executor: AsyncLoopExecutor) -> None:
    cached = cached_context(executor, Pool())
    cached()
    executor.shutdown()

    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        cached()


def test_the_next_life_of_the_default_executor_enters_anew(
    default_executor: AsyncLoopExecutor,
) -> None:
    pool = Pool()
    cached = palitra.cached_context(pool)
    first = cached()
    palitra.shutdown()
    second = cached()

    assert first is not second
    assert cached() is second
    palitra.shutdown()
    assert (pool.entered, len(set(pool.left))) == (2, 2)


def test_a_value_goes_with_the_life_of_its_executor(default_executor: AsyncLoopExecutor) -> None:
    cached = palitra.cached_context(Pool())
    value = weakref.ref(cached())
    assert value() is not None
    palitra.shutdown()
    gc.collect()

    assert value() is None


def test_a_context_that_has_ended_by_itself_is_reported_and_entered_anew(
    executor: AsyncLoopExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    break_off = Gate()
    reported = Gate()
    entered: list[int] = []

    async def reads() -> None:
        await break_off.passed()
        raise ConnectionError("gone")

    @asynccontextmanager
    async def session() -> AsyncIterator[int]:
        entered.append(1)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(reads()) if len(entered) == 1 else None
            yield len(entered)
            if task is not None:
                task.cancel()

    def handler(loop: Any, context: dict[str, Any]) -> None:
        assert "session" in context["message"]
        assert isinstance(context["exception"], ExceptionGroup)
        reported.open()

    loop = executor.get_loop()
    loop.call_soon_threadsafe(loop.set_exception_handler, handler)
    cached = cached_context(executor, session)
    assert [cached(), cached()] == [1, 1]
    break_off.open()
    reported.wait()
    executor.run(value_of(None))

    assert [cached(), cached()] == [2, 2]


# What it takes, and what it is


@pytest.mark.parametrize("thing", [None, 7, "text", object()], ids=repr)
def test_anything_else_is_refused(executor: AsyncLoopExecutor, thing: Any) -> None:
    with pytest.raises(TypeError, match="cached_context"):
        cached_context(executor, thing)


def test_a_context_manager_itself_is_refused(executor: AsyncLoopExecutor) -> None:
    """It could be entered once, and there are many lives. And some can be called."""
    made = Pool()()
    assert callable(made)
    with pytest.raises(TypeError, match="each process and each life"):
        cached_context(executor, made)  # type: ignore[arg-type]


def test_a_coroutine_is_refused_and_closed(executor: AsyncLoopExecutor) -> None:
    coro: Any = value_of(1)
    with pytest.raises(TypeError):
        cached_context(executor, coro)
    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED


def test_it_has_the_name_and_the_docstring_of_its_factory(executor: AsyncLoopExecutor) -> None:
    @asynccontextmanager
    async def pool() -> AsyncIterator[int]:
        """Give a pool."""
        yield 7

    cached = cached_context(executor, pool)
    assert (cached.__name__, cached.__doc__, cached.__module__) == (
        "pool",
        "Give a pool.",
        __name__,
    )
    assert inspect.isfunction(cached)
    assert not inspect.isasyncgenfunction(inspect.unwrap(cached))
