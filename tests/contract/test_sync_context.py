"""`sync_context`: async context managers in a plain `with`."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import threading
import traceback
from collections.abc import Callable, Coroutine, Generator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    ExitStack,
    asynccontextmanager,
)
from typing import TYPE_CHECKING, Any, Self

import pytest

import palitra
from contract.gates import (
    PATIENCE,
    Gate,
    Held,
    begin_exit_before_the_hand_over,
    in_thread,
    interrupt,
    shut_down_before_the_hand_over,
    value_of,
)
from palitra import AsyncLoopExecutor, DeadlockError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.any_host

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="unset")


class Manager:
    """Notes what happens to it, and in which task."""

    def __init__(self, suppresses: bool = False) -> None:
        self.suppresses = suppresses
        self.tasks: list[Any] = []
        self.seen: list[Any] = []

    async def __aenter__(self) -> Self:
        await asyncio.sleep(0)
        self.tasks.append(asyncio.current_task())
        self.seen.append("entered")
        return self

    async def __aexit__(self, *exc_info: object) -> bool:
        await asyncio.sleep(0)
        self.tasks.append(asyncio.current_task())
        self.seen.append(exc_info)
        return self.suppresses


@asynccontextmanager
async def managed(value: Any, seen: list[Any]) -> AsyncIterator[Any]:
    await asyncio.sleep(0)
    seen.append("entered")
    try:
        yield value
    except BaseException as error:
        seen.append(error)
        raise
    finally:
        await asyncio.sleep(0)
        seen.append("left")


def test_it_gives_the_value_and_leaves(executor: AsyncLoopExecutor) -> None:
    seen: list[Any] = []
    with executor.sync_context(managed(7, seen)) as value:
        assert value == 7
        assert seen == ["entered"]

    assert seen == ["entered", "left"]


def test_one_task_enters_and_leaves(executor: AsyncLoopExecutor) -> None:
    manager = Manager()
    with executor.sync_context(manager) as entered:
        assert entered is manager

    assert len(manager.tasks) == 2
    assert len(set(manager.tasks)) == 1
    assert manager.seen == ["entered", (None, None, None)]


@pytest.mark.parametrize("kind", [ValueError, StopIteration, StopAsyncIteration, RuntimeError])
@pytest.mark.parametrize("base", [Exception, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_an_exception_travels_in_with_its_traceback_and_out_again(
    executor: AsyncLoopExecutor, kind: type[BaseException], base: type[BaseException]
) -> None:
    if base is not Exception:
        kind = base
    manager = Manager()
    error = kind("in the block")

    with pytest.raises(kind) as caught, executor.sync_context(manager):
        raise error

    assert caught.value is error
    exc_type, exc, tb = manager.seen[1]
    assert (exc_type, exc) == (kind, error)
    assert traceback.extract_tb(tb)[-1].line == "raise error"


def test_an_exception_passes_through_a_generator_based_manager(
    executor: AsyncLoopExecutor,
) -> None:
    seen: list[Any] = []
    error = ValueError("in the block")

    with (
        pytest.raises(ValueError, match="in the block") as caught,
        executor.sync_context(managed(7, seen)),
    ):
        raise error

    assert caught.value is error
    assert seen == ["entered", error, "left"]


class NoErrors(Exception):
    def __len__(self) -> int:
        return 0


class Vague(Exception):
    def __bool__(self) -> bool:
        raise ZeroDivisionError("neither true nor false")


class Stubborn(Exception):
    def with_traceback(self, tb: Any, /) -> Self:
        raise ZeroDivisionError("no traceback")


class Secretive(Exception):
    @property
    def __traceback__(self) -> Any:  # type: ignore[override]
        raise ZeroDivisionError("no traceback")


@pytest.mark.parametrize("kind", [NoErrors, Vague, Stubborn, Secretive])
@pytest.mark.parametrize("where", ["entering", "the block", "leaving"])
def test_an_exception_that_misbehaves_travels_all_the_same(
    executor: AsyncLoopExecutor, kind: type[Exception], where: str
) -> None:
    error = kind("misbehaves")
    seen: list[Any] = []

    class Fails(Manager):
        async def __aenter__(self) -> Self:
            if where == "entering":
                raise error
            return self

        async def __aexit__(self, *exc_info: object) -> bool:
            seen.append(exc_info[1])
            if where == "leaving":
                raise error
            return False

    caught: BaseException | None = None
    try:
        with executor.sync_context(Fails()):
            if where == "the block":
                raise error
    except kind as exc:
        caught = exc

    assert caught is error
    assert seen == {"entering": [], "the block": [error], "leaving": [None]}[where]


def test_suppression_travels_out(executor: AsyncLoopExecutor) -> None:
    manager = Manager(suppresses=True)
    with executor.sync_context(manager):
        raise ValueError("suppressed")

    assert manager.seen[1][0] is ValueError


def test_an_error_on_entering_is_raised_and_nothing_is_left(executor: AsyncLoopExecutor) -> None:
    class Fails(Manager):
        async def __aenter__(self) -> Self:
            raise ValueError("on entering")

    manager = Fails()
    with pytest.raises(ValueError, match="on entering"), executor.sync_context(manager):
        pytest.fail("entered")

    assert manager.seen == []


def test_an_error_on_leaving_is_raised(executor: AsyncLoopExecutor) -> None:
    class Fails(Manager):
        async def __aexit__(self, *exc_info: object) -> bool:
            raise ValueError("on leaving")

    with pytest.raises(ValueError, match="on leaving"), executor.sync_context(Fails()):
        pass
    with pytest.raises(ValueError, match="on leaving") as caught, executor.sync_context(Fails()):
        raise KeyError("in the block")
    assert isinstance(caught.value.__context__, KeyError)


def test_the_executor_is_free_while_the_block_runs(executor: AsyncLoopExecutor) -> None:
    with executor.sync_context(managed(7, [])), executor.sync_context(managed(8, [])):
        assert executor.run(value_of(1)) == 1
        assert executor.submit(value_of, 1).result(PATIENCE) == 1


def test_it_is_not_counted_by_max_workers(loop_flavour: dict[str, Any]) -> None:
    held = Held()
    with AsyncLoopExecutor(max_workers=1, **loop_flavour) as executor:
        executor.submit(held.coroutine)
        held.started.wait()
        with executor.sync_context(managed(7, [])) as value:
            assert value == 7
        with executor.sync_context(managed(7, [])):
            held.open_all()
            assert executor.submit(value_of, 8).result(PATIENCE) == 8


# What it takes


def test_a_callable_is_called_on_the_loop(executor: AsyncLoopExecutor) -> None:
    class NeedsLoop(Manager):
        def __init__(self) -> None:
            super().__init__()
            self.seen.append(asyncio.get_running_loop())

    with executor.sync_context(NeedsLoop) as manager:
        assert manager.seen == [executor.get_loop(), "entered"]
    with executor.sync_context(lambda: managed(7, [])) as value:
        assert value == 7


def test_a_callable_that_fails_is_an_error_on_entering(executor: AsyncLoopExecutor) -> None:
    def fails() -> AbstractAsyncContextManager[None]:
        raise ValueError("in the callable")

    with pytest.raises(ValueError, match="in the callable"), executor.sync_context(fails):
        pytest.fail("entered")


@pytest.mark.parametrize("thing", [None, 7, "text", object()], ids=repr)
def test_anything_else_is_refused(executor: AsyncLoopExecutor, thing: Any) -> None:
    with pytest.raises(TypeError):
        executor.sync_context(thing)


@pytest.mark.parametrize("thing", [int, lambda: threading.Lock()])
def test_a_callable_that_makes_something_else_is_refused(
    executor: AsyncLoopExecutor, thing: Any
) -> None:
    with pytest.raises(TypeError), executor.sync_context(thing):
        pytest.fail("entered")


def test_the_methods_are_looked_up_on_the_type(executor: AsyncLoopExecutor) -> None:
    class Pretends:
        def __init__(self) -> None:
            self.__aenter__ = self.__aexit__ = None

    with pytest.raises(TypeError):
        executor.sync_context(Pretends())  # type: ignore[arg-type]


def test_it_can_be_used_once(executor: AsyncLoopExecutor) -> None:
    manager = executor.sync_context(Manager())
    with manager, pytest.raises(RuntimeError):
        manager.__enter__()
    with pytest.raises(RuntimeError), manager:
        pytest.fail("entered")


def test_a_callable_can_be_used_once_too(executor: AsyncLoopExecutor) -> None:
    manager = executor.sync_context(Manager)
    with manager:
        pass
    with pytest.raises(RuntimeError), manager:
        pytest.fail("entered")


def test_leaving_what_was_not_entered_is_an_error(executor: AsyncLoopExecutor) -> None:
    with pytest.raises(RuntimeError):
        executor.sync_context(Manager()).__exit__(None, None, None)


# One owner task


def test_cancel_scopes_and_context_variables_work_inside(executor: AsyncLoopExecutor) -> None:
    @asynccontextmanager
    async def scoped() -> AsyncIterator[str]:
        token = VARIABLE.set("set inside")
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            task = group.create_task(asyncio.Event().wait())
            yield VARIABLE.get()
            task.cancel()
        VARIABLE.reset(token)

    with executor.sync_context(scoped()) as value:
        assert value == "set inside"
        assert VARIABLE.get() == "unset"


def test_a_timeout_that_fires_meanwhile_is_raised_on_leaving(executor: AsyncLoopExecutor) -> None:
    fired = Gate()

    @asynccontextmanager
    async def limited() -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(0):
            loop.call_later(0.05, fired.open)
            yield

    with pytest.raises(TimeoutError), executor.sync_context(limited()):
        fired.wait()


def test_a_task_group_that_fails_meanwhile_is_raised_on_leaving(
    executor: AsyncLoopExecutor,
) -> None:
    failed = Gate()

    async def fails() -> None:
        asyncio.get_running_loop().call_later(0.05, failed.open)
        raise ValueError("in the group")

    @asynccontextmanager
    async def grouped() -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            group.create_task(fails())
            yield

    with pytest.raises(ExceptionGroup) as caught, executor.sync_context(grouped()):
        failed.wait()

    assert [str(error) for error in caught.value.exceptions] == ["in the group"]


# Threads, deadlocks, shutdown, interrupts


def test_one_thread_may_enter_and_another_leave(executor: AsyncLoopExecutor) -> None:
    seen: list[Any] = []
    manager = executor.sync_context(managed(7, seen))

    assert executor.submit(manager.__enter__).result(PATIENCE) == 7
    executor.submit(manager.__exit__, None, None, None).result(PATIENCE)
    assert seen == ["entered", "left"]


def test_entering_on_the_loops_thread_is_a_deadlock(executor: AsyncLoopExecutor) -> None:
    manager = executor.sync_context(Manager())

    async def enters() -> None:
        with manager:
            pytest.fail("entered")

    with pytest.raises(DeadlockError):
        executor.run(enters())


def test_leaving_on_the_loops_thread_asks_for_the_leaving(executor: AsyncLoopExecutor) -> None:
    manager = executor.sync_context(inner := Manager(suppresses=True))
    error = ValueError("of the body")

    async def leaves() -> None:
        assert manager.__exit__(ValueError, error, None) is False  # it cannot know yet
        assert inner.seen == ["entered"]

    with manager:
        executor.run(leaves())
    assert inner.seen == ["entered", (ValueError, error, None)]
    assert len(set(inner.tasks)) == 1


def test_a_generator_that_holds_it_may_be_collected_on_the_loops_thread(
    executor: AsyncLoopExecutor,
) -> None:
    """What a finalizer raises would be an unraisable exception, which fails the test."""
    left = Gate()
    seen: list[Any] = []

    class Leaves(Manager):
        async def __aexit__(self, *exc_info: object) -> bool:
            seen.append(exc_info[0])
            left.open()
            return await super().__aexit__(*exc_info)

    def holds() -> Generator[int, None, None]:
        with executor.sync_context(Leaves()):
            yield 1

    holder = [holds()]
    next(holder[0])

    async def drops() -> None:
        holder.clear()
        gc.collect()

    executor.run(drops())
    left.wait()
    assert seen == [GeneratorExit]


def test_what_leaving_on_the_loops_thread_raises_goes_to_the_loops_handler(
    executor: AsyncLoopExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    class Fails(Manager):
        async def __aexit__(self, *exc_info: object) -> bool:
            raise KeyError("on leaving")

    manager = executor.sync_context(Fails())
    manager.__enter__()

    async def leaves() -> None:
        manager.__exit__(None, None, None)

    executor.run(leaves())
    executor.shutdown()
    assert caplog.text.count("KeyError: 'on leaving'") == 1


def test_entering_is_refused_after_shutdown(executor: AsyncLoopExecutor) -> None:
    manager = executor.sync_context(Manager())
    executor.shutdown()

    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        manager.__enter__()


def test_a_context_that_is_open_at_shutdown_is_left(executor: AsyncLoopExecutor) -> None:
    manager = Manager()
    block = executor.sync_context(manager)
    block.__enter__()

    executor.shutdown()

    assert manager.seen == ["entered", (None, None, None)]
    assert len(set(manager.tasks)) == 1


@pytest.mark.parametrize("end", [(None, None, None), (ValueError, ValueError("of the body"), None)])
def test_a_block_that_ends_as_the_program_ends_is_left_as_it_ended(
    executor: AsyncLoopExecutor, monkeypatch: pytest.MonkeyPatch, end: tuple[Any, Any, Any]
) -> None:
    manager = Manager()
    block = executor.sync_context(manager)
    block.__enter__()
    begin_exit_before_the_hand_over(executor, monkeypatch)

    block.__exit__(*end)

    executor.shutdown()
    assert [exc_info[:2] for exc_info in manager.seen[1:]] == [end[:2]]


def test_leaving_is_quiet_where_a_shutdown_has_just_begun(
    executor: AsyncLoopExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = Manager()
    with pytest.raises(ValueError, match="of the body"), executor.sync_context(manager):
        shut_down_before_the_hand_over(executor, monkeypatch)
        raise ValueError("of the body")

    executor.shutdown()
    assert [exc_info[0] for exc_info in manager.seen[1:]] == [ValueError]


def test_a_task_factory_that_fails_fails_the_entering(executor: AsyncLoopExecutor) -> None:
    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        raise OSError("no task")

    executor.get_loop().set_task_factory(factory)
    with pytest.raises(OSError, match="no task"):
        executor.sync_context(Manager()).__enter__()
    with pytest.raises(OSError, match="no task"):
        executor.enter_context(Manager())
    executor.get_loop().set_task_factory(None)


class Request(Coroutine[Any, Any, Any]):
    """A coroutine that is a context manager too, as HTTP clients return it."""

    def __init__(self) -> None:
        self.coro = value_of(1)

    def send(self, value: Any, /) -> Any:
        return self.coro.send(value)

    def throw(self, *args: Any) -> Any:
        return self.coro.throw(*args)

    def close(self) -> None:
        self.coro.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self.coro.__await__()

    async def __aenter__(self) -> Any:
        return await self.coro

    async def __aexit__(self, *exc_info: object) -> None:
        pass


def test_a_coroutine_is_refused_and_closed(executor: AsyncLoopExecutor) -> None:
    takes: list[Callable[[Any], Any]]
    takes = [executor.sync_context, executor.enter_context, executor.push_async_callback]
    for take in takes:
        coro = value_of(1)
        with pytest.raises(TypeError):
            take(coro)
        assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED


def test_a_refused_request_is_closed(executor: AsyncLoopExecutor) -> None:
    with executor.sync_context(Request()) as value:
        assert value == 1
    executor.shutdown()
    for enter in (lambda it: executor.sync_context(it).__enter__(), executor.enter_context):
        request = Request()
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            enter(request)
        assert inspect.getcoroutinestate(request.coro) == inspect.CORO_CLOSED


class Node:
    """Something to make a reference cycle of, which the collector frees."""


def in_a_block(block: AbstractContextManager[Any]) -> Generator[None, None, None]:
    with block:
        yield


def drop(block: AbstractContextManager[Any]) -> None:
    block.__enter__()


def drop_an_exit_stack(block: AbstractContextManager[Any]) -> None:
    ExitStack().enter_context(block)


def collect(block: AbstractContextManager[Any], *, first: bool = False) -> None:
    node: Any = Node()
    node.itself = node
    if first:  # the collector comes to what is older first
        node.block = block
    node.generator = in_a_block(block)
    next(node.generator)


def collect_the_block_first(block: AbstractContextManager[Any]) -> None:
    collect(block, first=True)


WAYS_TO_DROP = [drop, drop_an_exit_stack, collect, collect_the_block_first]


@pytest.mark.parametrize("drop", WAYS_TO_DROP)
def test_a_context_that_was_dropped_is_left_with_generator_exit(
    executor: AsyncLoopExecutor, caplog: pytest.LogCaptureFixture, drop: Callable[..., None]
) -> None:
    """Nobody can finish its block, so what the block has done is not to be kept."""
    seen: list[Any] = []

    drop(executor.sync_context(managed(7, seen)))
    gc.collect()

    executor.shutdown()
    assert [seen[0], type(seen[1]), *seen[2:]] == ["entered", GeneratorExit, "left"]
    assert caplog.text == ""


def test_what_leaving_a_dropped_context_raises_goes_to_the_loops_handler(
    executor: AsyncLoopExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    class Fails(Manager):
        async def __aexit__(self, *exc_info: object) -> bool:
            raise KeyError("on leaving")

    drop(executor.sync_context(Fails()))
    gc.collect()

    executor.shutdown()
    assert caplog.text.count("KeyError: 'on leaving'") == 1
    assert "closing the context" in caplog.text


@asynccontextmanager
async def children(held: Held) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        child = group.create_task(held.coroutine())
        await held.started.passed()
        yield
    assert child.cancelled()


def test_a_task_group_in_a_dropped_context_ends_its_children(
    executor: AsyncLoopExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    """It wraps the GeneratorExit, which is no failure."""
    held = Held()
    held.cleanup.open()

    drop(executor.sync_context(children(held)))
    gc.collect()

    held.cancelled.wait()
    executor.shutdown()
    assert held.ended.is_open
    assert caplog.text == ""


def test_a_dropped_context_whose_block_is_over_on_the_loops_thread_is_left_as_it_ended(
    executor: AsyncLoopExecutor,
) -> None:
    manager = Manager()

    async def leaves() -> None:
        block = executor.sync_context(manager)
        await asyncio.to_thread(block.__enter__)
        block.__exit__(None, None, None)
        del block
        gc.collect()

    executor.run(leaves())
    executor.shutdown()
    assert manager.seen == ["entered", (None, None, None)]


def test_a_context_that_is_dropped_with_its_executor_is_left_with_generator_exit() -> None:
    seen: list[Any] = []
    left = Gate()

    @asynccontextmanager
    async def notes() -> AsyncIterator[None]:
        try:
            async with managed(7, seen):
                yield
        finally:
            left.open()

    node: Any = Node()
    node.itself = node
    node.executor = AsyncLoopExecutor()
    node.block = node.executor.sync_context(notes)
    node.block.__enter__()
    del node
    gc.collect()

    left.wait()
    assert [seen[0], type(seen[1]), *seen[2:]] == ["entered", GeneratorExit, "left"]


def test_an_interrupt_while_entering_cancels_and_cleans_up(executor: AsyncLoopExecutor) -> None:
    held = Held()
    held.cleanup.open()

    @asynccontextmanager
    async def slow() -> AsyncIterator[None]:
        await held.coroutine()
        yield

    helper = in_thread(held.started.wait, interrupt)
    with pytest.raises(KeyboardInterrupt), executor.sync_context(slow()):
        pytest.fail("entered")
    helper.join(PATIENCE)

    assert held.ended.is_open


def test_an_interrupt_in_the_block_travels_in(executor: AsyncLoopExecutor) -> None:
    seen: list[Any] = []
    with pytest.raises(KeyboardInterrupt), executor.sync_context(managed(7, seen)):
        interrupt()
        Gate().wait()

    assert isinstance(seen[1], KeyboardInterrupt)
    assert seen[2] == "left"


def test_an_interrupt_while_leaving_cancels_and_is_raised(executor: AsyncLoopExecutor) -> None:
    held = Held()
    held.cleanup.open()

    @asynccontextmanager
    async def slow() -> AsyncIterator[None]:
        yield
        await held.coroutine()

    helper = in_thread(held.started.wait, interrupt)
    with pytest.raises(KeyboardInterrupt), executor.sync_context(slow()):
        pass
    helper.join(PATIENCE)

    assert held.ended.is_open


def test_the_modules_sync_context_uses_the_default(default_executor: AsyncLoopExecutor) -> None:
    with palitra.sync_context(Manager()) as manager:
        assert manager.tasks[0].get_loop() is default_executor.get_loop()
