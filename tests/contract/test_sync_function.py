"""`sync`: async functions called as if they were plain ones."""

from __future__ import annotations

import asyncio
import functools
import inspect
import pickle
import threading
from collections.abc import AsyncIterator, Awaitable, Coroutine, Generator
from concurrent.futures import Future
from typing import Any

import pytest

import palitra
from contract.gates import PATIENCE, Held, in_thread, interrupt, value_of
from palitra import AsyncLoopExecutor, DeadlockError


async def add(a: int, b: int = 2, *, c: int = 3) -> int:
    """Add three numbers."""
    await asyncio.sleep(0)
    return a + b + c


async def count(stop: int) -> AsyncIterator[int]:
    """Count up."""
    for number in range(stop):
        await asyncio.sleep(0)
        yield number


@palitra.sync
async def decorated(a: int) -> int:
    """Double a number."""
    return 2 * a


@palitra.sync
async def decorated_generator(stop: int) -> AsyncIterator[int]:
    for number in range(stop):
        yield number


class Calls:
    """Async methods of each kind, made synchronous."""

    base = 10

    @palitra.sync
    async def method(self, value: int) -> int:
        """Add to the base."""
        return self.base + value

    @classmethod
    @palitra.sync
    async def of_class(cls, value: int) -> tuple[type, int]:
        return cls, value

    @staticmethod
    @palitra.sync
    async def static(value: int) -> int:
        return value

    @palitra.sync
    async def generates(self, stop: int) -> AsyncIterator[int]:
        for number in range(stop):
            yield self.base + number

    async def __call__(self, value: int) -> int:
        return self.base + value


class Derived(Calls):
    base = 20

    @palitra.sync
    async def method(self, value: int) -> int:
        return int(await asyncio.to_thread(super().method, value)) + 1


@pytest.fixture(autouse=True)
def no_default_left() -> Any:
    yield
    palitra.shutdown()


def test_the_function_gives_what_the_coroutine_returns(executor: AsyncLoopExecutor) -> None:
    function = executor.sync(add)

    assert function(1) == 6
    assert function(1, 1, c=1) == 3
    assert function(a=1, b=1, c=1) == 3


def test_it_runs_on_the_executors_loop(executor: AsyncLoopExecutor) -> None:
    async def look() -> Any:
        return asyncio.get_running_loop()

    assert executor.sync(look)() is executor.get_loop()


def test_it_raises_what_the_coroutine_raises(executor: AsyncLoopExecutor) -> None:
    error = ValueError("v")

    @executor.sync
    async def fails() -> None:
        raise error

    with pytest.raises(ValueError, match="v") as caught:
        fails()
    assert caught.value is error


def test_wrong_arguments_are_refused_as_by_the_function(executor: AsyncLoopExecutor) -> None:
    function: Any = executor.sync(add)

    with pytest.raises(TypeError, match="add"):
        function(1, 2, 3, 4)


@pytest.mark.parametrize("original", [add, count])
def test_it_keeps_name_docstring_signature_and_the_original(
    executor: AsyncLoopExecutor, original: Any
) -> None:
    for function in (executor.sync(original), palitra.sync(original)):
        assert function.__name__ == original.__name__
        assert function.__qualname__ == original.__qualname__
        assert function.__doc__ == original.__doc__
        assert function.__module__ == original.__module__
        assert function.__wrapped__ is original
        assert inspect.signature(function) == inspect.signature(original)


def test_methods_keep_their_signature_without_self() -> None:
    assert str(inspect.signature(Calls().method)) == "(value: 'int') -> 'int'"
    assert Calls().method.__doc__ == "Add to the base."


@pytest.mark.parametrize("original", [add, count, Calls()])
def test_it_does_not_look_like_a_coroutine_function(
    executor: AsyncLoopExecutor, original: Any
) -> None:
    function = executor.sync(original)

    assert callable(function)
    assert not inspect.iscoroutinefunction(function)
    assert not inspect.isasyncgenfunction(function)
    assert not asyncio.iscoroutine(function)
    assert executor.submit(function, 1).result(PATIENCE)  # so it runs in a worker thread


def test_an_async_generator_function_becomes_a_generator_function(
    executor: AsyncLoopExecutor,
) -> None:
    function = executor.sync(count)

    assert list(function(3)) == [0, 1, 2]
    assert isinstance(function(1), Generator)
    with executor.sync(count)(10) as numbers:
        assert next(numbers) == 0


# Methods, objects, partials


def test_methods_are_bound() -> None:
    calls = Calls()

    assert calls.method(1) == 11
    assert Calls.method(calls, 1) == 11
    assert calls.of_class(1) == (Calls, 1)
    assert Calls.of_class(1) == (Calls, 1)
    assert Derived.of_class(1) == (Derived, 1)
    assert calls.static(1) == 1
    assert Calls.static(1) == 1
    assert list(calls.generates(2)) == [10, 11]
    assert list(Calls.generates(calls, 2)) == [10, 11]


def test_an_overridden_method_may_call_the_original() -> None:
    assert Derived().method(1) == 22


def test_methods_submit_for_their_object() -> None:
    calls = Calls()

    assert calls.method.submit(1).result(PATIENCE) == 11
    assert Calls.method.submit(calls, 1).result(PATIENCE) == 11
    assert Calls.static.submit(1).result(PATIENCE) == 1


def test_bound_methods_callable_objects_and_partials_are_taken(
    executor: AsyncLoopExecutor,
) -> None:
    class Plain:
        async def method(self, value: int) -> int:
            return value

        @classmethod
        async def of_class(cls, value: int) -> int:
            return value

    assert executor.sync(Plain().method)(7) == 7
    assert executor.sync(Plain.of_class)(7) == 7
    assert executor.sync(Calls())(7) == 17
    assert executor.sync(functools.partial(add, 1, c=1))(1) == 3
    assert list(executor.sync(functools.partial(count, 2))()) == [0, 1]


# Plain functions


def test_a_plain_function_is_called_on_the_loop_and_its_result_awaited(
    executor: AsyncLoopExecutor,
) -> None:
    called_in = []

    def plain(value: int) -> Coroutine[Any, Any, int]:
        called_in.append((threading.get_ident(), asyncio.get_running_loop()))
        return add(value)

    async def ident() -> int:
        return threading.get_ident()

    assert executor.sync(plain)(1) == 6
    assert called_in == [(executor.run(ident()), executor.get_loop())]


def test_a_plain_function_that_returns_another_awaitable_is_taken(
    executor: AsyncLoopExecutor,
) -> None:
    def plain() -> Awaitable[int]:
        future = asyncio.get_running_loop().create_future()
        future.set_result(7)
        return future

    assert executor.sync(plain)() == 7


def test_a_plain_function_that_returns_something_else_is_an_error(
    executor: AsyncLoopExecutor,
) -> None:
    function: Any = executor.sync(len)  # type: ignore[arg-type,unused-ignore]

    with pytest.raises(TypeError, match="2"):
        function("ab")


@pytest.mark.parametrize("thing", [None, 7, "text"])
def test_what_cannot_be_called_is_refused(executor: AsyncLoopExecutor, thing: Any) -> None:
    with pytest.raises(TypeError):
        executor.sync(thing)


def test_a_coroutine_is_refused_and_closed(executor: AsyncLoopExecutor) -> None:
    coro: Any = add(1)

    with pytest.raises(TypeError):
        executor.sync(coro)
    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED


# submit


def test_submit_gives_the_future(executor: AsyncLoopExecutor) -> None:
    future = executor.sync(add).submit(1, c=1)

    assert isinstance(future, Future)
    assert future.result(PATIENCE) == 4


def test_submit_is_bounded_and_the_call_itself_is_not(loop_flavour: dict[str, Any]) -> None:
    held = Held()
    with AsyncLoopExecutor(max_workers=1, **loop_flavour) as executor:
        function = executor.sync(held.coroutine)
        first = function.submit(1)
        second = executor.sync(value_of).submit(2)
        held.started.wait()

        assert executor.sync(value_of)(3) == 3
        assert not second.done()
        held.open_all()
        assert (first.result(PATIENCE), second.result(PATIENCE)) == (1, 2)


# Where it may not be called


def test_calling_it_on_the_loop_is_a_deadlock(executor: AsyncLoopExecutor) -> None:
    function = executor.sync(add)

    async def calls() -> None:
        function(1)

    with pytest.raises(DeadlockError):
        executor.run(calls())
    assert function(1) == 6


def test_submit_may_be_called_on_the_loop(executor: AsyncLoopExecutor) -> None:
    async def submits() -> int:
        return await asyncio.wrap_future(executor.sync(add).submit(1))

    assert executor.run(submits()) == 6


def test_it_is_refused_after_shutdown(executor: AsyncLoopExecutor) -> None:
    function = executor.sync(add)
    executor.shutdown()

    for call in (function, function.submit):
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            call(1)


def test_an_interrupt_cancels_and_waits_for_the_cleanup(executor: AsyncLoopExecutor) -> None:
    held = Held()
    held.cleanup.open()

    helper = in_thread(held.started.wait, interrupt)
    with pytest.raises(KeyboardInterrupt):
        executor.sync(held.coroutine)()
    helper.join(PATIENCE)

    assert held.ended.is_open


# The default executor, and pickles


def test_the_modules_sync_always_uses_the_current_default() -> None:
    async def look() -> Any:
        return asyncio.get_running_loop()

    function = palitra.sync(look)
    first = function()
    assert first is palitra.get_loop()
    palitra.shutdown()

    second = function()
    assert second is palitra.get_loop()
    assert second is not first


def test_making_a_sync_function_starts_nothing() -> None:
    before = set(threading.enumerate())
    palitra.sync(add)

    assert set(threading.enumerate()) == before


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_decorated_functions_pickle_by_name(protocol: int) -> None:
    for function in (decorated, decorated_generator):
        assert pickle.loads(pickle.dumps(function, protocol)) is function
    assert pickle.loads(pickle.dumps(decorated, protocol))(2) == 4


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_sync_of_a_module_level_function_pickles(protocol: int) -> None:
    assert pickle.loads(pickle.dumps(palitra.sync(add), protocol))(1) == 6
    assert list(pickle.loads(pickle.dumps(palitra.sync(count), protocol))(2)) == [0, 1]


def test_methods_pickle_with_their_objects() -> None:
    assert pickle.loads(pickle.dumps(Derived().method))(1) == 22


def test_a_function_of_an_explicit_executor_does_not_pickle_and_says_what_does(
    executor: AsyncLoopExecutor,
) -> None:
    with pytest.raises(TypeError, match=r"palitra\.sync"):
        pickle.dumps(executor.sync(add))
