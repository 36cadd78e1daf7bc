"""`enter_context` and `push_async_callback`: what lives as long as the loop."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self

import pytest

import palitra
from contract.gates import PATIENCE, Gate, Held, in_thread, value_of
from lifetimes import opens
from palitra import AsyncLoopExecutor, DeadlockError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = pytest.mark.any_host

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="unset")


class Manager:
    """Notes in a shared list when it is entered and left, and keeps the tasks."""

    def __init__(self, name: str = "", seen: list[Any] | None = None) -> None:
        self.name = name
        self.seen: list[Any] = [] if seen is None else seen
        self.tasks: list[Any] = []

    async def __aenter__(self) -> Self:
        await asyncio.sleep(0)
        self.tasks.append(asyncio.current_task())
        self.seen.append(f"enter {self.name}")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await asyncio.sleep(0)
        self.tasks.append(asyncio.current_task())
        assert exc_info == (None, None, None)
        self.seen.append(f"leave {self.name}")


class Fails(Manager):
    kind: type[BaseException] = ValueError

    async def __aexit__(self, *exc_info: object) -> None:
        await super().__aexit__(*exc_info)
        raise self.kind(f"on leaving {self.name}")


class Exits(Fails):
    kind = SystemExit


def test_it_enters_now_and_leaves_at_shutdown(executor: AsyncLoopExecutor) -> None:
    manager = Manager("it")

    assert executor.enter_context(manager) is manager
    executor.run(value_of(None))
    assert manager.seen == ["enter it"]
    executor.shutdown()
    assert manager.seen == ["enter it", "leave it"]


def test_one_task_enters_and_leaves(executor: AsyncLoopExecutor) -> None:
    managers = [executor.enter_context(Manager()) for _ in range(3)]
    executor.shutdown()

    for manager in managers:
        assert len(manager.tasks) == 2
        assert manager.tasks[0] is manager.tasks[1]


def test_the_last_in_is_the_first_out(executor: AsyncLoopExecutor) -> None:
    seen: list[Any] = []

    async def callback(name: str, *, end: str) -> None:
        seen.append(f"call {name}{end}")

    executor.enter_context(Manager("a", seen))
    executor.push_async_callback(callback, "b", end="!")
    executor.enter_context(Manager("c", seen))
    executor.push_async_callback(callback, "d", end="?")
    del seen[:]
    executor.shutdown()

    assert seen == ["call d?", "leave c", "call b!", "leave a"]


def test_each_is_left_before_the_next_begins_to_leave(executor: AsyncLoopExecutor) -> None:
    """A session needs its connection until the session itself is closed."""
    seen: list[Any] = []

    class Slow(Manager):
        async def __aexit__(self, *exc_info: object) -> None:
            seen.append(f"begin {self.name}")
            for _ in range(10):
                await asyncio.sleep(0)
            await super().__aexit__(*exc_info)

    for name in "ab":
        executor.enter_context(Slow(name, seen))
    del seen[:]
    executor.shutdown()

    assert seen == ["begin b", "leave b", "begin a", "leave a"]


@pytest.mark.own_loop("the application closes its loop")
@pytest.mark.parametrize("failing", [Fails, Exits])
def test_an_exit_that_raises_is_reported_and_keeps_no_other_from_leaving(
    executor: AsyncLoopExecutor, caplog: pytest.LogCaptureFixture, failing: type[Manager]
) -> None:
    seen: list[Any] = []

    async def callback() -> None:
        seen.append("callback")
        raise KeyError("in the callback")

    executor.enter_context(Manager("a", seen))
    executor.enter_context(failing("b", seen))
    executor.push_async_callback(callback)
    executor.enter_context(Manager("c", seen))
    del seen[:]
    loop = executor.get_loop()
    executor.shutdown()

    assert seen == ["leave c", "callback", "leave b", "leave a"]
    assert "on leaving b" in caplog.text
    assert "in the callback" in caplog.text
    assert loop.is_closed()


def test_an_error_on_entering_is_raised_and_nothing_is_left(executor: AsyncLoopExecutor) -> None:
    class FailsToEnter(Manager):
        async def __aenter__(self) -> Self:
            raise ValueError("on entering")

    manager = FailsToEnter()
    with pytest.raises(ValueError, match="on entering"):
        executor.enter_context(manager)
    executor.shutdown()

    assert manager.seen == []


# What they take


def test_a_callable_is_called_on_the_loop(executor: AsyncLoopExecutor) -> None:
    class NeedsLoop(Manager):
        def __init__(self) -> None:
            super().__init__()
            self.seen.append(asyncio.get_running_loop())

    for factory in (NeedsLoop, lambda: NeedsLoop()):
        assert executor.enter_context(factory).seen[0] is executor.get_loop()


@pytest.mark.parametrize("thing", [None, 7, "text", object(), int, threading.Lock], ids=repr)
def test_anything_else_is_refused(executor: AsyncLoopExecutor, thing: Any) -> None:
    with pytest.raises(TypeError):
        executor.enter_context(thing)


def test_push_async_callback_returns_its_function(executor: AsyncLoopExecutor) -> None:
    assert executor.push_async_callback(value_of, 7) is value_of


@pytest.mark.own_loop("looks at the name of the thread")
def test_a_callback_may_be_any_callable_that_returns_an_awaitable(
    executor: AsyncLoopExecutor,
) -> None:
    seen: list[Any] = []

    async def notes(value: Any) -> None:
        seen.append((value, threading.current_thread().name.endswith("_loop")))

    executor.push_async_callback(lambda value: notes(value), 7)
    executor.shutdown()

    assert seen == [(7, True)]


@pytest.mark.parametrize("thing", [None, 7, "text"])
def test_a_callback_that_cannot_be_called_is_refused(
    executor: AsyncLoopExecutor, thing: Any
) -> None:
    with pytest.raises(TypeError):
        executor.push_async_callback(thing)


# One owner task


def test_cancel_scopes_and_context_variables_work_inside(
    executor: AsyncLoopExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    left = Gate()

    @asynccontextmanager
    async def scoped() -> AsyncIterator[str]:
        token = VARIABLE.set("set inside")
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            task = group.create_task(asyncio.Event().wait())
            yield VARIABLE.get()
            task.cancel()
        VARIABLE.reset(token)
        left.open()

    assert executor.enter_context(scoped()) == "set inside"
    assert executor.enter_context(scoped()) == "set inside"
    executor.shutdown()

    assert left.is_open
    assert [r for r in caplog.records if r.levelno >= 40] == []


def test_calls_in_flight_still_have_their_contexts(executor: AsyncLoopExecutor) -> None:
    held = Held()
    manager = executor.enter_context(Manager("pool"))

    async def uses() -> list[Any]:
        await held.coroutine()
        return list(manager.seen)

    future = executor.submit(uses)
    held.started.wait()
    shutdown = in_thread(executor.shutdown)
    held.open_all()
    shutdown.join(PATIENCE)

    assert future.result(0) == ["enter pool"]
    assert manager.seen == ["enter pool", "leave pool"]


def test_contexts_are_left_before_the_loop_cancels_stray_tasks(
    executor: AsyncLoopExecutor,
) -> None:
    """A pool may have tasks of its own, which it wants to end itself."""
    alive = []

    class Pool(Manager):
        async def __aenter__(self) -> Self:
            self.task = asyncio.create_task(asyncio.Event().wait())
            return await super().__aenter__()

        async def __aexit__(self, *exc_info: object) -> None:
            alive.append(not self.task.done())
            self.task.cancel()

    executor.enter_context(Pool())
    executor.shutdown()

    assert alive == [True]


def test_leaving_may_use_the_loops_thread_pool(executor: AsyncLoopExecutor) -> None:
    results = []

    async def callback() -> None:
        results.append(await asyncio.to_thread(len, "ab"))

    executor.push_async_callback(callback)
    executor.shutdown()

    assert results == [2]


# Every end


def test_shutdown_that_cancels_still_leaves_in_order(executor: AsyncLoopExecutor) -> None:
    seen: list[Any] = []
    for name in "ab":
        executor.enter_context(Manager(name, seen))
    held = Held()
    held.cleanup.open()
    executor.submit(held.coroutine)
    held.started.wait()
    executor.shutdown(cancel_futures=True)

    assert seen == ["enter a", "enter b", "leave b", "leave a"]


def test_shutdown_without_wait_leaves_behind(executor: AsyncLoopExecutor) -> None:
    left = Gate()

    async def callback() -> None:
        left.open()

    executor.push_async_callback(callback)
    executor.shutdown(wait=False)

    left.wait()


def test_a_dropped_executor_leaves_its_contexts(loop_flavour: dict[str, Any]) -> None:
    gc.collect()
    gc.disable()
    try:
        left = Gate()

        async def callback() -> None:
            await asyncio.sleep(0)
            left.open()

        executor = AsyncLoopExecutor(**loop_flavour)
        manager = executor.enter_context(Manager("it"))
        executor.push_async_callback(callback)
        del executor

        assert opens(left, PATIENCE)
    finally:
        gc.enable()
    task = manager.tasks[0]
    while not task.get_loop().is_closed():
        for thread in threading.enumerate():
            if thread.name.endswith("_loop"):
                thread.join(PATIENCE)
    assert manager.seen == ["enter it", "leave it"]


def test_many_threads_may_enter_at_once(executor: AsyncLoopExecutor) -> None:
    seen: list[Any] = []
    together = threading.Barrier(8)

    def enters(name: str) -> None:
        together.wait(PATIENCE)
        executor.enter_context(Manager(name, seen))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(enters, "abcdefgh"))
    executor.shutdown()

    left = [entry for entry in seen if entry.startswith("leave")]
    assert sorted(left) == [f"leave {name}" for name in "abcdefgh"]


def test_a_context_that_is_entered_while_another_enters_slowly(
    executor: AsyncLoopExecutor,
) -> None:
    """One slow connection does not keep other threads from entering theirs."""
    held = Held()

    @asynccontextmanager
    async def slow() -> AsyncIterator[str]:
        yield await held.coroutine("slow")

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(executor.enter_context, slow())
        held.started.wait()

        assert executor.enter_context(Manager("quick")).seen == ["enter quick"]
        held.open_all()
        assert first.result(PATIENCE) == "slow"


def test_entering_on_the_loops_thread_is_a_deadlock(executor: AsyncLoopExecutor) -> None:
    async def enters() -> None:
        executor.enter_context(Manager())

    with pytest.raises(DeadlockError):
        executor.run(enters())


def test_entering_is_refused_after_shutdown(executor: AsyncLoopExecutor) -> None:
    executor.shutdown()

    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.enter_context(Manager())
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.push_async_callback(value_of, 7)


def test_it_is_not_counted_by_max_workers(loop_flavour: dict[str, Any]) -> None:
    held = Held()
    with AsyncLoopExecutor(max_workers=1, **loop_flavour) as executor:
        executor.submit(held.coroutine)
        held.started.wait()
        executor.enter_context(Manager())
        held.open_all()

        assert executor.submit(value_of, 7).result(PATIENCE) == 7


def test_the_modules_functions_use_the_default(default_executor: AsyncLoopExecutor) -> None:
    manager = palitra.enter_context(Manager)
    seen: list[Any] = []

    async def callback() -> None:
        seen.append(asyncio.get_running_loop())

    palitra.push_async_callback(callback)
    loop = default_executor.get_loop()
    palitra.shutdown()

    assert manager.tasks[0].get_loop() is loop
    assert seen == [loop]


@asynccontextmanager
async def kept_open() -> AsyncIterator[int]:
    yield 7


async def numbers() -> AsyncIterator[int]:
    yield 7


OPENS: dict[str, Callable[[AsyncLoopExecutor], object]] = {
    "enter_context": lambda executor: executor.enter_context(kept_open),
    "cached_context": lambda executor: executor.cached_context(kept_open)(),
    "sync_context": lambda executor: executor.sync_context(kept_open).__enter__(),
    "sync_iter": lambda executor: list(executor.sync_iter(numbers())),
}


@pytest.mark.parametrize("open_one", OPENS.values(), ids=OPENS)
def test_what_is_cancelled_before_it_begins_says_so(
    open_one: Callable[[AsyncLoopExecutor], object],
) -> None:
    """In debug mode no task begins at once, so that user code can come and cancel it first."""
    going = True

    async def cancel_all() -> None:
        while going:
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await asyncio.sleep(0)

    with AsyncLoopExecutor(debug=True) as executor:
        cancels = executor.submit(cancel_all)
        for _ in range(20):
            try:
                result = open_one(executor)
            except asyncio.CancelledError:
                continue
            assert result in (7, [7])
        going = False
        cancels.result(PATIENCE)


def test_what_a_context_makes_of_the_bodys_exception_reaches_those_that_are_left_then() -> None:
    """As in an `AsyncExitStack`."""
    told: list[BaseException] = []

    @asynccontextmanager
    async def outer() -> AsyncIterator[None]:
        try:
            yield
        except KeyError as error:
            told.append(error)

    @asynccontextmanager
    async def inner() -> AsyncIterator[None]:
        try:
            yield
        except ValueError as error:
            raise KeyError("a better name") from error

    reported: list[object] = []
    with AsyncLoopExecutor() as executor:
        executor.get_loop().set_exception_handler(
            lambda loop, context: reported.append(context["exception"])
        )
        executor.enter_context(outer)
        executor.enter_context(inner)
        raise ValueError

    assert isinstance(told[0], KeyError)  # `outer` has suppressed it
    assert reported == told


@asynccontextmanager
async def telling(told: list[BaseException | None]) -> AsyncIterator[None]:
    try:
        yield
    except BaseException as error:
        told.append(error)
        raise
    told.append(None)


@pytest.mark.parametrize("refused", ["with", "async with"])
def test_a_block_that_is_refused_tells_the_contexts_nothing(
    executor: AsyncLoopExecutor, refused: str
) -> None:
    told: list[BaseException | None] = []
    error = ValueError("of a refused block")

    async def enters() -> None:
        with pytest.raises(DeadlockError):
            if refused == "with":
                with executor:
                    raise error
            else:
                async with executor:
                    raise error

    executor.enter_context(telling(told))
    executor.run(enters())
    executor.shutdown()

    assert told == [None]


def test_two_blocks_that_end_at_once_lose_no_exception(executor: AsyncLoopExecutor) -> None:
    """The contexts see one of them; both are shown, and none of them to the wrong thread."""
    told: list[BaseException | None] = []
    raised: list[BaseException] = []
    both = threading.Barrier(2, timeout=PATIENCE)

    def block(error: BaseException) -> None:
        try:
            with executor:
                both.wait()
                raise error
        except ValueError as exc:
            raised.append(exc)

    executor.enter_context(telling(told))
    errors = [ValueError(1), ValueError(2)]
    threads = [in_thread(functools.partial(block, error)) for error in errors]
    for thread in threads:
        thread.join(PATIENCE)

    assert sorted(raised, key=repr) == errors
    assert told[0] in errors


def test_a_block_that_ends_well_beside_one_that_fails_hides_nothing(
    executor: AsyncLoopExecutor,
) -> None:
    told: list[BaseException | None] = []
    leaves, fails = threading.Event(), threading.Event()

    @asynccontextmanager
    async def slow() -> AsyncIterator[None]:
        yield
        leaves.set()
        await asyncio.to_thread(fails.wait, PATIENCE)

    executor.enter_context(telling(told))
    executor.enter_context(slow)

    def ends_well() -> None:
        with executor:
            pass

    thread = in_thread(ends_well)
    assert leaves.wait(PATIENCE)
    with pytest.raises(ValueError, match="of the block"), executor:
        fails.set()
        raise ValueError("of the block")
    thread.join(PATIENCE)
