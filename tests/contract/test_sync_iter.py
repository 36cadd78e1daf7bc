"""`sync_iter`: async iterables in a plain `for`."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import itertools
import time
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NoReturn, Self

import pytest

import palitra
from contract.gates import (
    PATIENCE,
    Gate,
    Held,
    in_thread,
    interrupt,
    shut_down_before_the_hand_over,
    value_of,
)
from lifetimes import opens
from palitra import AsyncLoopExecutor, DeadlockError

pytestmark = pytest.mark.any_host

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="unset")

both = pytest.mark.parametrize("buffersize", [None, 1, 3])


class Counter:
    """An async generator function that notes how far it got, in which tasks, and its end."""

    def __init__(self, stop: int | None = None, error: BaseException | None = None) -> None:
        self.stop = stop
        self.error = error
        self.tasks: list[Any] = []
        self.count = 0
        self.closed = Gate()

    async def __call__(self) -> AsyncIterator[int]:
        try:
            for number in itertools.count() if self.stop is None else range(self.stop):
                await asyncio.sleep(0)
                self.tasks.append(asyncio.current_task())
                self.count += 1
                yield number
            if self.error is not None:
                raise self.error
        finally:
            self.tasks.append(asyncio.current_task())
            await asyncio.sleep(0)
            self.closed.open()


class Iterable:
    """An async iterable whose iterator is no generator."""

    def __init__(self, stop: int) -> None:
        self.stop = stop

    def __aiter__(self) -> AsyncIterator[int]:
        asyncio.get_running_loop()  # called on the loop
        return Iterates(self.stop)


class Iterates:
    """An async iterator that is no generator, and has nothing to close."""

    def __init__(self, stop: int) -> None:
        self.numbers = iter(range(stop))

    def __aiter__(self) -> Iterates:
        return self

    async def __anext__(self) -> int:
        await asyncio.sleep(0)
        for number in self.numbers:
            return number
        raise StopAsyncIteration


class Closes(Iterates):
    """An async iterator that is no generator, and can be closed."""

    def __init__(self, stop: int) -> None:
        super().__init__(stop)
        self.closed = Gate()

    async def aclose(self) -> None:
        await asyncio.sleep(0)
        self.closed.open()


# What it takes and gives


@both
@pytest.mark.parametrize(
    "make",
    [
        lambda: Counter(4)(),
        lambda: Counter(4),
        lambda: Iterable(4),
        lambda: Iterates(4),
        lambda: lambda: Iterable(4),
        lambda: lambda: Iterates(4),
    ],
)
def test_it_iterates_over_every_kind(
    executor: AsyncLoopExecutor, make: Any, buffersize: int | None
) -> None:
    assert list(executor.sync_iter(make(), buffersize=buffersize)) == [0, 1, 2, 3]


def test_an_empty_one_gives_nothing(executor: AsyncLoopExecutor) -> None:
    iterator = executor.sync_iter(Counter(0))

    assert list(iterator) == []
    with pytest.raises(StopIteration):
        next(iterator)


def test_it_is_an_iterator_and_a_context_manager(executor: AsyncLoopExecutor) -> None:
    with executor.sync_iter(Iterable(2)) as numbers:
        assert isinstance(numbers, Iterator)
        assert iter(numbers) is numbers
        assert next(numbers) == 0


def test_a_callable_is_called_on_the_loop(executor: AsyncLoopExecutor) -> None:
    seen: list[Any] = []

    def make() -> AsyncIterator[int]:
        seen.append(asyncio.get_running_loop())
        return Counter(1)()

    assert list(executor.sync_iter(make)) == [0]
    assert seen == [executor.get_loop()]


@pytest.mark.parametrize("thing", [None, 7, [1, 2], iter([1])], ids=repr)
def test_anything_else_is_refused(executor: AsyncLoopExecutor, thing: Any) -> None:
    with pytest.raises(TypeError):
        executor.sync_iter(thing)


@pytest.mark.parametrize("make", [list, lambda: None, lambda: 7])
def test_a_callable_that_makes_something_else_is_refused(
    executor: AsyncLoopExecutor, make: Any
) -> None:
    with pytest.raises(TypeError):
        list(executor.sync_iter(make))


def test_the_methods_are_looked_up_on_the_type(executor: AsyncLoopExecutor) -> None:
    class Pretends:
        def __init__(self) -> None:
            self.__aiter__ = lambda: Counter(3)()

    with pytest.raises(TypeError):
        executor.sync_iter(Pretends())  # type: ignore[arg-type,call-overload,unused-ignore]


def test_a_coroutine_is_refused_and_closed(executor: AsyncLoopExecutor) -> None:
    coro: Any = value_of(1)

    with pytest.raises(TypeError):
        executor.sync_iter(coro)
    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED


# Errors


@both
def test_a_cancellation_of_the_generators_own_is_no_silent_end(
    executor: AsyncLoopExecutor, buffersize: int | None
) -> None:
    counter = Counter(2, asyncio.CancelledError("by itself"))
    iterator = executor.sync_iter(counter, buffersize=buffersize)

    assert [next(iterator), next(iterator)] == [0, 1]
    with pytest.raises(asyncio.CancelledError, match="by itself"):
        next(iterator)
    assert list(iterator) == []


def test_a_cancellation_from_outside_is_no_silent_end(executor: AsyncLoopExecutor) -> None:
    counter = Counter()
    iterator = executor.sync_iter(counter, buffersize=1)

    async def cancel() -> None:
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            if "Counter" in task.get_name():
                task.cancel()

    assert next(iterator) == 0
    with pytest.raises(asyncio.CancelledError):
        executor.run(cancel())
        list(iterator)
    counter.closed.wait()
    assert list(iterator) == []


@both
def test_an_error_comes_after_the_items_before_it(
    executor: AsyncLoopExecutor, buffersize: int | None
) -> None:
    error = ValueError("at the end")
    iterator = executor.sync_iter(Counter(2, error), buffersize=buffersize)

    assert [next(iterator), next(iterator)] == [0, 1]
    with pytest.raises(ValueError, match="at the end") as caught:
        next(iterator)
    assert caught.value is error
    assert "__call__" in [f.name for f in traceback.extract_tb(error.__traceback__)]
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(iterator)


@pytest.mark.parametrize(
    "kind", [SystemExit, KeyboardInterrupt, asyncio.CancelledError, RuntimeError, StopIteration]
)
def test_any_exception_is_delivered(executor: AsyncLoopExecutor, kind: type[BaseException]) -> None:
    class Fails(Iterates):
        async def __anext__(self) -> int:
            raise kind("of the iterator")

    # An `async def` turns a StopIteration into a RuntimeError.
    expected = RuntimeError if kind is StopIteration else kind
    with pytest.raises(expected):
        next(executor.sync_iter(Fails(1)))
    assert executor.run(value_of(7)) == 7


class NoErrors(Exception):
    """A collection of errors, which is empty."""

    def __len__(self) -> int:
        return 0


class No(Exception):
    def __bool__(self) -> bool:
        return False


class Vague(Exception):
    def __bool__(self) -> bool:
        raise ZeroDivisionError("neither true nor false")


class Silent(Exception):
    def __repr__(self) -> str:
        raise ZeroDivisionError("no repr")

    __str__ = __repr__


class Stubborn(Exception):
    def with_traceback(self, tb: Any, /) -> Self:
        raise ZeroDivisionError("no traceback")


class Secretive(Exception):
    @property
    def __traceback__(self) -> Any:  # type: ignore[override]
        raise ZeroDivisionError("no traceback")


HOSTILE = [NoErrors, No, Vague, Silent, Stubborn, Secretive]


@both
@pytest.mark.parametrize("kind", HOSTILE)
def test_an_exception_that_misbehaves_is_delivered_all_the_same(
    executor: AsyncLoopExecutor, buffersize: int | None, kind: type[Exception]
) -> None:
    error = kind("of the iterator")
    iterator = executor.sync_iter(Counter(2, error), buffersize=buffersize)
    items: list[int] = []
    caught: BaseException | None = None
    try:
        items.extend(iterator)
    except kind as exc:
        caught = exc

    assert items == [0, 1]
    assert caught is error
    assert list(iterator) == []


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_misbehaving_exception_of_the_closing_is_raised(
    executor: AsyncLoopExecutor, kind: type[Exception]
) -> None:
    async def fails_to_close() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            raise kind("on closing")

    iterator = executor.sync_iter(fails_to_close)
    next(iterator)
    raised = False
    try:
        iterator.close()
    except kind:
        raised = True
    assert raised


# The value that a generator ends with


class Returns(Iterates):
    """An async iterator that ends with a value, as no async generator can so far."""

    def __init__(self, *args: Any) -> None:
        super().__init__(2)
        self.args = args

    async def __anext__(self) -> int:
        for number in self.numbers:
            return number
        raise StopAsyncIteration(*self.args)


@both
@pytest.mark.parametrize("args", [(), (7,), (None,), ((1, 2),), (7, 8)])
def test_the_value_of_the_end_travels(
    executor: AsyncLoopExecutor, buffersize: int | None, args: tuple[Any, ...]
) -> None:
    def delegates() -> Generator[int, None, Any]:
        value = yield from executor.sync_iter(Returns(*args), buffersize=buffersize)
        return value

    generator = delegates()
    assert [next(generator), next(generator)] == [0, 1]
    with pytest.raises(StopIteration) as stop:
        next(generator)
    assert stop.value.value == (args[0] if args else None)


# Leaving early


def closes(executor: AsyncLoopExecutor, counter: Counter) -> None:
    counter.closed.wait()
    assert len(set(counter.tasks)) == 1
    executor.run(value_of(None))


@both
def test_a_loop_that_breaks_closes_the_generator(
    executor: AsyncLoopExecutor, buffersize: int | None
) -> None:
    counter = Counter()
    for number in executor.sync_iter(counter, buffersize=buffersize):
        if number == 2:
            break

    closes(executor, counter)


@both
def test_an_exception_closes_the_generator(
    executor: AsyncLoopExecutor, buffersize: int | None
) -> None:
    counter = Counter()
    with (
        pytest.raises(ValueError, match="in the loop"),
        executor.sync_iter(counter, buffersize=buffersize) as numbers,
    ):
        for number in numbers:
            if number == 2:
                raise ValueError("in the loop")

    assert counter.closed.is_open  # on leaving the block, not some time later
    closes(executor, counter)


@both
def test_garbage_closes_the_generator(executor: AsyncLoopExecutor, buffersize: int | None) -> None:
    gc.collect()
    gc.disable()
    try:
        counter = Counter()
        iterator = executor.sync_iter(counter, buffersize=buffersize)
        assert next(iterator) == 0
        del iterator

        assert opens(counter.closed, PATIENCE)
        closes(executor, counter)
    finally:
        gc.enable()


@both
def test_close_closes_the_generator_at_once_and_more_than_once(
    executor: AsyncLoopExecutor, buffersize: int | None
) -> None:
    counter = Counter()
    iterator = executor.sync_iter(counter, buffersize=buffersize)
    assert next(iterator) == 0

    for _ in range(2):
        iterator.close()
        assert counter.closed.is_open
    with pytest.raises(StopIteration):
        next(iterator)
    closes(executor, counter)


@both
def test_shutdown_closes_the_generator(executor: AsyncLoopExecutor, buffersize: int | None) -> None:
    counter = Counter()
    iterator = executor.sync_iter(counter, buffersize=buffersize)
    assert next(iterator) == 0

    executor.shutdown()

    assert counter.closed.is_open
    assert len(set(counter.tasks)) == 1
    # What came before may still be taken; but the end of an endless one would be a lie.
    with pytest.raises(RuntimeError, match="shutdown"):
        for _ in range(5):
            next(iterator)
    iterator.close()


@both
@pytest.mark.parametrize("close", [True, False])
def test_shutdown_leaves_the_cleanup_of_a_closed_generator_alone(
    executor: AsyncLoopExecutor, buffersize: int | None, close: bool
) -> None:
    cleanup = Held()
    cleanup.cleanup.open()
    loop = executor.get_loop()

    async def generator() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
            await asyncio.Event().wait()
        finally:
            await cleanup.coroutine()

    iterator = executor.sync_iter(generator(), buffersize=buffersize)
    assert next(iterator) == 1
    with ThreadPoolExecutor(2) as pool:
        closing = pool.submit(iterator.close) if close else None
        del iterator
        cleanup.started.wait()
        shutdown = pool.submit(executor.shutdown)
        # Two turns of the loop after the shutdown has begun, in which it asks for the end.
        while True:
            try:
                executor.submit(str).result(PATIENCE)
            except RuntimeError:
                break
        turned = Gate()
        loop.call_soon_threadsafe(loop.call_soon, turned.open)
        turned.wait()
        cleanup.release.open()
        shutdown.result(PATIENCE)
        if closing is not None:
            closing.result(PATIENCE)

    assert cleanup.ended.is_open
    assert not cleanup.cancelled.is_open


def test_shutdown_that_cancels_ends_a_wait_for_the_next_item(
    executor: AsyncLoopExecutor,
) -> None:
    held = Held()
    held.cleanup.open()

    async def waits() -> AsyncIterator[int]:
        yield await held.coroutine(1)

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(list, executor.sync_iter(waits))
        held.started.wait()
        executor.shutdown(cancel_futures=True)

        assert waiting.exception(PATIENCE) is not None
    assert held.ended.is_open


def test_an_iterator_that_nobody_started_starts_nothing(executor: AsyncLoopExecutor) -> None:
    counter = Counter()
    iterator = executor.sync_iter(counter)
    iterator.close()
    del iterator
    executor.sync_iter(counter)
    executor.run(value_of(None))

    assert counter.count == 0


def test_an_iterator_with_aclose_is_closed(executor: AsyncLoopExecutor) -> None:
    iterates = Closes(10)
    with executor.sync_iter(iterates) as numbers:
        assert next(numbers) == 0

    assert iterates.closed.is_open


def test_an_iterator_without_aclose_is_just_left(executor: AsyncLoopExecutor) -> None:
    with executor.sync_iter(Iterates(10)) as numbers:
        assert next(numbers) == 0


def test_an_error_while_closing_is_raised_by_close(executor: AsyncLoopExecutor) -> None:
    async def fails_to_close() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            raise ValueError("on closing")

    iterator = executor.sync_iter(fails_to_close)
    assert next(iterator) == 1
    with pytest.raises(ValueError, match="on closing"):
        iterator.close()


def test_an_error_while_closing_what_was_dropped_goes_to_the_loops_handler(
    executor: AsyncLoopExecutor,
) -> None:
    reported: list[Any] = []
    handled = Gate()

    async def fails_to_close() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            raise ValueError("on closing")

    def handler(loop: Any, context: dict[str, Any]) -> None:
        reported.append(context["exception"])
        handled.open()

    loop = executor.get_loop()
    loop.call_soon_threadsafe(loop.set_exception_handler, handler)
    iterator = executor.sync_iter(fails_to_close)
    assert next(iterator) == 1
    del iterator
    gc.collect()

    handled.wait()
    assert [str(error) for error in reported] == ["on closing"]


# One owner task


@both
def test_one_task_drives_it_from_start_to_end(
    executor: AsyncLoopExecutor, buffersize: int | None
) -> None:
    counter = Counter(5)

    assert list(executor.sync_iter(counter, buffersize=buffersize)) == [0, 1, 2, 3, 4]
    assert len(counter.tasks) == 6
    assert len(set(counter.tasks)) == 1


@both
@pytest.mark.parametrize("early", [False, True])
def test_cancel_scopes_and_context_variables_work_across_yields(
    executor: AsyncLoopExecutor, buffersize: int | None, early: bool
) -> None:
    left = Gate()

    async def scoped() -> AsyncIterator[str]:
        token = VARIABLE.set("set inside")
        try:
            async with asyncio.timeout(60), asyncio.TaskGroup() as group:
                task = group.create_task(asyncio.Event().wait())
                for _ in range(3):
                    yield VARIABLE.get()
                task.cancel()
        finally:
            VARIABLE.reset(token)
            left.open()

    with executor.sync_iter(scoped, buffersize=buffersize) as values:
        if early:
            assert next(values) == "set inside"
        else:
            assert list(values) == ["set inside"] * 3
        assert VARIABLE.get() == "unset"

    assert left.is_open


def test_a_timeout_that_fires_between_two_items_is_raised(executor: AsyncLoopExecutor) -> None:
    fired = Gate()

    async def limited() -> AsyncIterator[int]:
        async with asyncio.timeout(0.05):
            asyncio.get_running_loop().call_later(0.1, fired.open)
            yield 1
            await asyncio.Event().wait()

    iterator = executor.sync_iter(limited)
    assert next(iterator) == 1
    fired.wait()
    with pytest.raises(TimeoutError):
        next(iterator)


def test_a_task_group_that_fails_between_two_items_is_raised(
    executor: AsyncLoopExecutor,
) -> None:
    go = Gate()

    async def fails() -> None:
        await go.passed()
        raise ValueError("in the group")

    async def grouped() -> AsyncIterator[int]:
        async with asyncio.TaskGroup() as group:
            group.create_task(fails())
            yield 1
            await asyncio.Event().wait()

    iterator = executor.sync_iter(grouped)
    assert next(iterator) == 1
    go.open()
    with pytest.raises(ExceptionGroup) as caught:
        next(iterator)
    assert [str(error) for error in caught.value.exceptions] == ["in the group"]


# Generators: send, throw, close, beside the language's own


def echo(log: list[Any]) -> Generator[Any, Any, None]:
    received: Any = "started"
    try:
        while True:
            try:
                received = yield received
                log.append(received)
            except KeyError as error:
                received = error
    finally:
        log.append("closed")


async def aecho(log: list[Any]) -> AsyncGenerator[Any, Any]:
    received: Any = "started"
    try:
        while True:
            await asyncio.sleep(0)
            try:
                received = yield received
                log.append(received)
            except KeyError as error:
                received = error
    finally:
        await asyncio.sleep(0)
        log.append("closed")


def drive(generator: Generator[Any, Any, Any]) -> list[Any]:
    """A conversation with a generator, and what it answered or raised."""
    key_error = KeyError("caught inside")
    value_error = ValueError("not caught")
    answers: list[Any] = []
    steps: tuple[Callable[[], Any], ...] = (
        lambda: next(generator),
        lambda: generator.send("one"),
        lambda: generator.send(None),
        lambda: generator.throw(key_error),
        lambda: generator.send("two"),
        lambda: generator.throw(value_error),
        lambda: next(generator),
        lambda: generator.send("three"),
        lambda: generator.throw(ValueError("after the end")),
        generator.close,
        lambda: next(generator),
    )
    for step in steps:
        try:
            answers.append(step())
        except Exception as error:
            answers.append((type(error), str(error)))
    return [str(a) if isinstance(a, KeyError) else a for a in answers]


def test_a_generator_converses_as_a_plain_one_does(executor: AsyncLoopExecutor) -> None:
    expected_log: list[Any] = []
    log: list[Any] = []
    generator = executor.sync_iter(aecho(log))
    assert isinstance(generator, Generator)

    assert drive(generator) == drive(echo(expected_log))
    assert log == expected_log


@pytest.mark.parametrize(
    "begin",
    [
        lambda generator: generator.send("too early"),
        lambda generator: generator.throw(ValueError("at the start")),
        lambda generator: generator.close(),
    ],
)
def test_a_generator_begins_as_a_plain_one_does(executor: AsyncLoopExecutor, begin: Any) -> None:
    outcomes = []
    for generator in (echo([]), executor.sync_iter(aecho([]))):
        try:
            outcomes.append(begin(generator))
        except (TypeError, ValueError) as error:
            outcomes.append(type(error))
        with suppress(StopIteration):
            outcomes.append(next(generator))
        generator.close()

    assert outcomes[: len(outcomes) // 2] == outcomes[len(outcomes) // 2 :]


def test_an_exception_that_hides_what_it_is_can_be_thrown_as_an_argument(
    executor: AsyncLoopExecutor,
) -> None:
    class HasNoClass(Exception):
        @property  # type: ignore[misc]
        def __class__(self) -> NoReturn:  # type: ignore[override]
            raise ArithmeticError("classless")

    error = HasNoClass()
    generator: Any = executor.sync_iter(aecho([]))
    next(generator)
    with pytest.raises(ValueError) as caught:
        generator.throw(ValueError, error)
    assert caught.value.args[0] is error


def test_the_value_of_an_end_is_read_past_what_its_class_has_in_its_place(
    executor: AsyncLoopExecutor,
) -> None:
    class End(StopAsyncIteration):
        @property
        def args(self) -> NoReturn:  # type: ignore[override]
            raise ArithmeticError("no arguments")

    class Items:
        def __aiter__(self) -> Self:
            return self

        async def __anext__(self) -> NoReturn:
            raise End("value")

    with pytest.raises(StopIteration) as caught:
        next(executor.sync_iter(Items()))
    assert caught.value.value == "value"


def test_a_generator_that_ignores_its_closing_is_an_error(executor: AsyncLoopExecutor) -> None:
    async def ignores() -> AsyncGenerator[int, None]:
        try:
            yield 1
        except GeneratorExit:
            yield 2

    generator = executor.sync_iter(ignores())
    assert next(generator) == 1
    with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
        generator.close()


class CannotBeSplit(BaseExceptionGroup[BaseException]):
    @property
    def exceptions(self) -> NoReturn:
        raise ArithmeticError("sealed")

    def derive(self, *_: object) -> NoReturn:
        raise ArithmeticError("sealed")

    split = subgroup = derive


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("others", [False, True])
def test_a_group_of_its_closing_is_told_by_what_it_holds_and_not_by_its_own_split(
    executor: AsyncLoopExecutor, *, nested: bool, others: bool
) -> None:
    held: list[BaseException] = [GeneratorExit(), *([ValueError()] if others else [])]
    group: BaseExceptionGroup[BaseException] = CannotBeSplit("odd", held)
    if nested:
        group = CannotBeSplit("odd", [GeneratorExit(), group])

    async def raises() -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            raise group

    generator = executor.sync_iter(raises)
    assert next(generator) == 1
    caught: list[BaseException] = []
    try:
        generator.close()
    except BaseException as error:
        caught.append(error)

    assert [type(error) for error in caught] == ([CannotBeSplit] if others else [])
    assert caught == ([group] if others else [])
    assert list(generator) == []


def test_yield_from_delegates_to_it(executor: AsyncLoopExecutor) -> None:
    def delegates() -> Generator[Any, Any, None]:
        generator: Generator[Any, Any, None] = executor.sync_iter(aecho(log))
        yield from generator

    log: list[Any] = []
    generator = delegates()
    assert next(generator) == "started"
    assert generator.send("one") == "one"
    generator.close()
    assert log == ["one", "closed"]


def test_what_is_no_generator_has_no_send_and_throw(executor: AsyncLoopExecutor) -> None:
    iterator = executor.sync_iter(Iterates(1))

    assert not hasattr(iterator, "send")
    assert not hasattr(iterator, "throw")
    iterator.close()


# buffersize


@pytest.mark.parametrize("buffersize", [1, 3, 10])
def test_that_many_items_are_fetched_ahead_and_no_more(
    executor: AsyncLoopExecutor, buffersize: int
) -> None:
    reached = Gate()

    class Watched(Counter):
        async def __call__(self) -> AsyncIterator[int]:
            async for number in super().__call__():
                if number == buffersize:
                    reached.open()
                yield number

    counter = Watched()
    iterator = executor.sync_iter(counter, buffersize=buffersize)
    assert next(iterator) == 0
    reached.wait()
    for _ in range(20):
        executor.run(value_of(None))

    # The one taken, those in the buffer, and one that may wait for a place in it.
    assert buffersize + 1 <= counter.count <= buffersize + 2
    assert [next(iterator) for _ in range(5)] == [1, 2, 3, 4, 5]
    iterator.close()


def test_a_buffered_iterator_gives_everything_in_order(executor: AsyncLoopExecutor) -> None:
    assert list(executor.sync_iter(Counter(1000), buffersize=7)) == list(range(1000))


@pytest.mark.parametrize("buffersize", [0, -1])
def test_a_buffer_holds_at_least_one(executor: AsyncLoopExecutor, buffersize: int) -> None:
    with pytest.raises(ValueError, match="buffersize"):
        executor.sync_iter(Counter(1), buffersize=buffersize)


@pytest.mark.parametrize("buffersize", ["3", 1.5])
def test_a_buffersize_is_an_integer(executor: AsyncLoopExecutor, buffersize: Any) -> None:
    with pytest.raises(TypeError, match="buffersize"):
        executor.sync_iter(Counter(1), buffersize=buffersize)


def test_closing_ends_a_producer_that_waits_for_a_place(executor: AsyncLoopExecutor) -> None:
    counter = Counter()
    with executor.sync_iter(counter, buffersize=2) as numbers:
        assert next(numbers) == 0
        while counter.count < 3:
            executor.run(value_of(None))

    assert counter.closed.is_open


def test_closing_at_the_end_hides_no_error(executor: AsyncLoopExecutor) -> None:
    asked = Gate()

    class Fails:
        """An iterator that is asked for `athrow` once its error has been put into the buffer."""

        items = iter([1])

        def __aiter__(self) -> AsyncIterator[int]:
            return self

        async def __anext__(self) -> int:
            for item in self.items:
                return item
            raise ValueError("the real error")

        @property
        def athrow(self) -> None:
            asked.open()
            while not executor._service.inbox.items:  # until the closing is handed over
                time.sleep(0)

    with (
        pytest.raises(ValueError, match="the real error") as caught,
        executor.sync_iter(Fails(), buffersize=2) as iterator,
    ):
        assert next(iterator) == 1
        asked.wait()
        next(iterator)
    assert caught.value.__context__ is None


@both
def test_a_task_factory_that_fails_fails_the_first_item(
    executor: AsyncLoopExecutor, buffersize: int | None
) -> None:
    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        raise OSError("no task")

    iterator = executor.sync_iter(Counter(1), buffersize=buffersize)
    executor.get_loop().set_task_factory(factory)
    with pytest.raises(OSError, match="no task"):
        next(iterator)
    executor.get_loop().set_task_factory(None)


@pytest.mark.parametrize("how", ["close", "drop", "shutdown"])
def test_closing_ends_a_producer_that_waits_for_an_item_and_says_why(
    executor: AsyncLoopExecutor, how: str
) -> None:
    held = Held()
    held.cleanup.open()
    seen: list[str] = []

    async def waits() -> AsyncIterator[int]:
        yield 1
        try:
            await held.coroutine()
        except asyncio.CancelledError as error:
            seen.append(str(error))
            raise
        yield 2

    numbers = executor.sync_iter(waits, buffersize=2)
    assert next(numbers) == 1
    held.started.wait()
    if how == "close":
        numbers.close()
    elif how == "drop":
        del numbers
        gc.collect()
    executor.shutdown()

    assert held.ended.is_open
    assert len(seen) == 1
    assert "waits" in seen[0]
    assert seen[0].endswith("is being closed")


@pytest.mark.parametrize("how", ["close", "drop", "shutdown"])
def test_an_error_of_a_producer_that_is_closed_while_it_waits_is_not_lost(
    executor: AsyncLoopExecutor, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    held = Held()
    held.cleanup.open()

    async def waits() -> AsyncIterator[int]:
        yield 1
        try:
            await held.coroutine()
        finally:
            raise ValueError("of the clean-up")

    numbers = executor.sync_iter(waits, buffersize=2)
    assert next(numbers) == 1
    held.started.wait()
    if how == "close":
        with pytest.raises(ValueError, match="of the clean-up"):
            numbers.close()
    elif how == "drop":
        del numbers
        gc.collect()
    executor.shutdown()

    assert caplog.text.count("ValueError: of the clean-up") == (how != "close")


# Threads, deadlocks, limits, interrupts


@both
def test_it_may_go_from_thread_to_thread(
    executor: AsyncLoopExecutor, buffersize: int | None
) -> None:
    iterator = executor.sync_iter(Counter(6), buffersize=buffersize)
    with ThreadPoolExecutor(3) as pool:
        numbers = [pool.submit(next, iterator).result(PATIENCE) for _ in range(6)]

    assert numbers == [0, 1, 2, 3, 4, 5]
    iterator.close()


@both
def test_two_threads_at_once_are_told_so(
    executor: AsyncLoopExecutor, buffersize: int | None
) -> None:
    held = Held()

    async def waits() -> AsyncIterator[int]:
        yield await held.coroutine(7)

    iterator = executor.sync_iter(waits, buffersize=buffersize)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(next, iterator)
        held.started.wait()
        with pytest.raises((RuntimeError, ValueError)):
            next(iterator)
        held.open_all()
        assert first.result(PATIENCE) == 7
    iterator.close()


def test_asking_on_the_loops_thread_is_a_deadlock(executor: AsyncLoopExecutor) -> None:
    iterator = executor.sync_iter(Counter(3))

    async def asks() -> Any:
        return next(iterator)

    with pytest.raises(DeadlockError):
        executor.run(asks())
    assert list(iterator) == [0, 1, 2]


@both
def test_closing_on_the_loops_thread_asks_for_the_closing(
    executor: AsyncLoopExecutor, buffersize: int | None
) -> None:
    counter = Counter()
    iterator = executor.sync_iter(counter, buffersize=buffersize)
    assert next(iterator) == 0

    async def closes_it() -> None:
        iterator.close()
        assert not counter.closed.is_open

    executor.run(closes_it())
    counter.closed.wait()
    iterator.close()
    assert len(set(counter.tasks)) == 1


@both
def test_leaving_the_block_on_the_loops_thread_asks_for_the_closing(
    executor: AsyncLoopExecutor, buffersize: int | None
) -> None:
    counter = Counter()
    iterator = executor.sync_iter(counter, buffersize=buffersize)
    assert next(iterator) == 0

    async def leaves() -> None:
        with pytest.raises(ValueError, match="of the body"), iterator:
            raise ValueError("of the body")

    executor.run(leaves())
    counter.closed.wait()
    with suppress(StopIteration):
        for _ in range(5):
            next(iterator)


@both
def test_a_generator_that_holds_it_may_be_collected_on_the_loops_thread(
    executor: AsyncLoopExecutor, buffersize: int | None
) -> None:
    """What a finalizer raises would be an unraisable exception, which fails the test."""
    counter = Counter()

    def wraps() -> Iterator[int]:
        with executor.sync_iter(counter, buffersize=buffersize) as numbers:
            yield from numbers

    holder = [wraps()]
    assert next(holder[0]) == 0

    async def drops() -> None:
        holder.clear()
        gc.collect()

    executor.run(drops())
    counter.closed.wait()


@both
def test_closing_on_the_loops_thread_ends_a_wait_in_another(
    executor: AsyncLoopExecutor, buffersize: int | None
) -> None:
    held = Held()
    held.cleanup.open()
    seen: list[Any] = []

    async def waits() -> AsyncIterator[int]:
        try:
            yield await held.coroutine()
        except asyncio.CancelledError as error:
            seen.append(str(error))
            raise

    iterator = executor.sync_iter(waits, buffersize=buffersize)

    async def closes_it() -> None:
        iterator.close()

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(next, iterator)
        held.started.wait()
        executor.run(closes_it())
        assert isinstance(waiting.exception(PATIENCE), asyncio.CancelledError)
    assert "is being closed" in seen[0]
    with pytest.raises(StopIteration):
        next(iterator)


def test_it_is_not_counted_by_max_workers(loop_flavour: dict[str, Any]) -> None:
    held = Held()
    with AsyncLoopExecutor(max_workers=1, **loop_flavour) as executor:
        executor.submit(held.coroutine)
        held.started.wait()
        assert list(executor.sync_iter(Counter(3))) == [0, 1, 2]
        with executor.sync_iter(Counter()) as numbers:
            assert next(numbers) == 0
            held.open_all()
            assert executor.submit(value_of, 7).result(PATIENCE) == 7


def test_it_is_refused_after_shutdown(executor: AsyncLoopExecutor) -> None:
    executor.shutdown()

    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        next(executor.sync_iter(Counter(3)))


def test_closing_is_quiet_where_a_shutdown_has_just_begun(
    executor: AsyncLoopExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = Counter()
    iterator = executor.sync_iter(counter)
    next(iterator)
    shut_down_before_the_hand_over(executor, monkeypatch)

    iterator.close()

    executor.shutdown()
    assert counter.closed.is_open


def test_an_interrupt_cancels_the_wait_and_cleans_up(executor: AsyncLoopExecutor) -> None:
    held = Held()
    held.cleanup.open()

    async def waits() -> AsyncIterator[int]:
        yield 1
        yield await held.coroutine()

    helper = in_thread(held.started.wait, interrupt)
    with pytest.raises(KeyboardInterrupt), executor.sync_iter(waits) as numbers:
        for _ in numbers:
            pass
    helper.join(PATIENCE)

    assert held.ended.is_open


def test_many_iterators_run_side_by_side(executor: AsyncLoopExecutor) -> None:
    with ThreadPoolExecutor(8) as pool:
        lists = pool.map(lambda stop: list(executor.sync_iter(Counter(stop))), range(50))

    assert list(lists) == [list(range(stop)) for stop in range(50)]


def test_the_modules_sync_iter_uses_the_default(default_executor: AsyncLoopExecutor) -> None:
    async def loops() -> AsyncIterator[Any]:
        yield asyncio.get_running_loop()

    assert list(palitra.sync_iter(loops)) == [default_executor.get_loop()]


@both
def test_stop_iteration_from_the_iterator_does_not_look_like_the_end(
    executor: AsyncLoopExecutor, buffersize: int | None
) -> None:
    class Numbers:
        def __init__(self) -> None:
            self.numbers = iter([1, 2])

        def __aiter__(self) -> Self:
            return self

        def __anext__(self) -> Any:
            return asyncio.sleep(0, next(self.numbers))

    numbers = executor.sync_iter(Numbers(), buffersize=buffersize)
    assert (next(numbers), next(numbers)) == (1, 2)
    with pytest.raises(RuntimeError, match="raised StopIteration"):
        next(numbers)
