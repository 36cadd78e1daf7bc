"""Cancel scopes and task groups that end inside a bridged object whose user is busy elsewhere.

Each object opens a gate when its scope has been left. The tests wait for that before they take the
next step: what anyio cancels, it cancels on every turn of the loop until then.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import traceback
import types
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, Self

import anyio
import anyio.lowlevel
import pytest

from contract.gates import PATIENCE, Gate, value_of
from palitra import AsyncLoopExecutor
from palitra._calls import BlockingCall

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator

pytestmark = pytest.mark.any_host

both = pytest.mark.parametrize("buffersize", [None, 1, 3])

SOON = 0.02  # seconds


async def breaks_off() -> None:
    await asyncio.sleep(SOON)
    raise ConnectionError("gone")


@asynccontextmanager
async def asyncio_group() -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        group.create_task(breaks_off())
        yield


@asynccontextmanager
async def anyio_group() -> AsyncIterator[None]:
    async with anyio.create_task_group() as group:
        group.start_soon(breaks_off)
        yield


@asynccontextmanager
async def asyncio_timeout() -> AsyncIterator[None]:
    async with asyncio.timeout(SOON):
        yield


@asynccontextmanager
async def fail_after() -> AsyncIterator[None]:
    with anyio.fail_after(SOON):
        yield


@asynccontextmanager
async def fail_after_around_others() -> AsyncIterator[None]:
    with anyio.fail_after(SOON), anyio.move_on_after(PATIENCE):
        async with anyio.create_task_group():
            yield


@asynccontextmanager
async def move_on_after() -> AsyncIterator[None]:
    with anyio.move_on_after(SOON):
        yield


@asynccontextmanager
async def move_on_inside_others() -> AsyncIterator[None]:
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup():
        with anyio.fail_after(PATIENCE), anyio.move_on_after(SOON):
            yield


@asynccontextmanager
async def cancelled_from_a_callback() -> AsyncIterator[None]:
    with anyio.CancelScope() as scope:
        asyncio.get_running_loop().call_later(SOON, scope.cancel)
        yield


@asynccontextmanager
async def cancelled_by_a_child() -> AsyncIterator[None]:
    async with anyio.create_task_group() as group:

        async def cancels() -> None:
            await anyio.sleep(SOON)
            group.cancel_scope.cancel()

        group.start_soon(cancels)
        yield


@asynccontextmanager
async def swallowed() -> AsyncIterator[None]:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().call_later(SOON, task.cancel)
    with suppress(asyncio.CancelledError):
        yield


@asynccontextmanager
async def task_cancelled() -> AsyncIterator[None]:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().call_later(SOON, task.cancel, "by a friend")
    yield


class GroupByHand:
    """A context manager that is no generator, and holds a task group of anyio open."""

    async def __aenter__(self) -> Self:
        self.group = anyio.create_task_group()
        await self.group.__aenter__()
        self.group.start_soon(breaks_off)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: types.TracebackType | None,
    ) -> bool | None:
        return await self.group.__aexit__(exc_type, exc_val, exc_tb)


@contextmanager
def raises_group() -> Iterator[None]:
    with pytest.raises(ExceptionGroup) as caught:
        yield
    assert [str(error) for error in caught.value.exceptions] == ["gone"]


Scope = Any  # a factory of an async context manager
QUIET: list[Scope] = [
    move_on_after,
    move_on_inside_others,
    cancelled_from_a_callback,
    cancelled_by_a_child,
    swallowed,
]
GROUPS: list[Scope] = [asyncio_group, anyio_group, GroupByHand]
LIMITS: list[Scope] = [asyncio_timeout, fail_after, fail_after_around_others]
SCOPES: list[Scope] = [*QUIET, *LIMITS, *GROUPS, task_cancelled]


def expected(scope: Scope) -> Any:
    """What `async with scope()` shows where its body waits for longer than the scope lasts."""
    if scope in QUIET:
        return nullcontext()
    if scope in LIMITS:
        return pytest.raises(TimeoutError)
    if scope in GROUPS:
        return raises_group()
    return pytest.raises(asyncio.CancelledError, match="by a friend")


class Watched:
    """The scope, and a gate that opens when it has been left."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.left = Gate()
        self.tasks: list[Any] = []

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[str]:
        self.tasks.append(asyncio.current_task())
        try:
            async with self.scope():
                yield "value"
        finally:
            self.tasks.append(asyncio.current_task())
            self.left.open()

    async def items(self) -> AsyncIterator[int | str]:
        number = 0
        async with self():
            while True:
                number += 1
                yield number
        yield "after"


@pytest.mark.parametrize("scope", SCOPES)
def test_what_is_expected_here_is_what_async_with_shows(scope: Scope) -> None:
    async def uses() -> None:
        async with scope():
            await asyncio.sleep(PATIENCE)

    with expected(scope):
        asyncio.run(uses())


# Contexts in a block


@pytest.mark.parametrize("scope", SCOPES)
def test_a_context_shows_at_the_end_of_the_block_what_async_with_shows(
    executor: AsyncLoopExecutor, scope: Scope
) -> None:
    watched = Watched(scope)
    after = []
    with expected(scope), executor.sync_context(watched):
        watched.left.wait()  # at once, not at the end of the block
        after.append(executor.run(value_of(7)))

    assert after == [7]
    assert len(set(watched.tasks)) == 1


@pytest.mark.parametrize("scope", SCOPES)
def test_a_context_that_is_over_shows_it_even_after_a_shutdown(
    executor: AsyncLoopExecutor, caplog: pytest.LogCaptureFixture, scope: Scope
) -> None:
    watched = Watched(scope)
    with expected(scope), executor.sync_context(watched):
        watched.left.wait()
        executor.shutdown()
    assert caplog.text == ""


@pytest.mark.parametrize("scope", SCOPES)
def test_the_exception_of_a_block_that_ran_on_is_shown_with_what_the_scope_shows(
    executor: AsyncLoopExecutor, scope: Scope
) -> None:
    watched = Watched(scope)
    error = ValueError("of the body")
    with (
        pytest.raises((ValueError, ExceptionGroup)) as caught,
        executor.sync_context(watched),
    ):
        watched.left.wait()
        raise error

    if scope in GROUPS:
        assert isinstance(caught.value, ExceptionGroup)
        assert caught.value.exceptions[-1] is error
        assert [type(e) for e in caught.value.exceptions] == [ConnectionError, ValueError]
    else:
        assert caught.value is error
        with expected(scope):
            if error.__context__ is not None:
                raise error.__context__


@pytest.mark.parametrize("scope", [asyncio_group, fail_after])
@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_what_ends_the_program_goes_on_alone(
    executor: AsyncLoopExecutor, scope: Scope, kind: type[BaseException]
) -> None:
    watched = Watched(scope)
    with pytest.raises(kind), executor.sync_context(watched):
        watched.left.wait()
        raise kind("of the body")


def test_an_exception_that_has_a_context_keeps_it(executor: AsyncLoopExecutor) -> None:
    watched = Watched(fail_after)
    with pytest.raises(ValueError, match="second") as caught, executor.sync_context(watched):
        watched.left.wait()
        try:
            dict[str, int]()["first"]
        except KeyError as first:
            raise ValueError("second") from first

    first_error = caught.value.__context__
    assert isinstance(first_error, KeyError)
    assert isinstance(first_error.__context__, TimeoutError)


class Documented(ExceptionGroup[Exception]):
    """With the `derive` that Python's documentation shows."""

    def derive(self, excs: Any) -> Any:
        return Documented(self.message, excs)

    def with_traceback(self, traceback: object) -> NoReturn:
        raise ArithmeticError("no traceback")


class DerivesNothing(ExceptionGroup[Exception]):
    def derive(self, excs: Any) -> Any:
        excs.clear()


class DerivesLess(ExceptionGroup[Exception]):
    def derive(self, excs: Any) -> Any:
        return DerivesLess("less", excs[:1])


class CannotDerive(ExceptionGroup[Exception]):
    def derive(self, excs: Any) -> NoReturn:
        raise ArithmeticError("underivable")


class CannotBeRead(ExceptionGroup[Exception]):
    @property
    def exceptions(self) -> NoReturn:
        raise ArithmeticError("sealed")

    @property
    def message(self) -> NoReturn:
        raise ArithmeticError("sealed")


@pytest.mark.parametrize("body", [ValueError, GeneratorExit, asyncio.CancelledError])
@pytest.mark.parametrize(
    "kind",
    [ExceptionGroup, Documented, DerivesNothing, DerivesLess, CannotDerive, CannotBeRead],
)
def test_no_class_of_groups_can_lose_an_error(
    executor: AsyncLoopExecutor, kind: type[ExceptionGroup[Exception]], body: type[BaseException]
) -> None:
    left = Gate()
    errors = (ConnectionError("gone"), KeyError("key"))
    error = body("of the body")

    @asynccontextmanager
    async def session() -> AsyncIterator[None]:
        try:
            async with asyncio_group():
                yield
        except ExceptionGroup:
            raise kind("of the session", errors) from None
        finally:
            left.open()

    caught: list[BaseException] = []
    try:
        with executor.sync_context(session):
            left.wait()
            raise error  # noqa: TRY301
    except BaseException as exc:
        caught.append(exc)

    shown: type[BaseException] = ExceptionGroup
    if body is not ValueError:
        shown = BaseExceptionGroup
    elif kind is Documented:
        shown = Documented
    assert [type(exc) for exc in caught] == [shown]
    group: Any = caught[0]
    assert group.exceptions == (*errors, error)
    assert group.message == "of the session"
    assert "session" in [f.name for f in traceback.extract_tb(caught[0].__traceback__)]


@dataclass(frozen=True)
class Frozen(Exception):
    code: int = 1


class HasNoContext(Exception):
    @property
    def __context__(self) -> NoReturn:
        raise ArithmeticError("no context")

    @__context__.setter
    def __context__(self, value: object) -> NoReturn:
        raise ArithmeticError("no context")


class NeverHadOne(Exception):
    __context__ = None


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("kind", [Frozen, HasNoContext, NeverHadOne])
def test_no_class_of_exceptions_is_asked_for_its_context(
    executor: AsyncLoopExecutor, kind: type[Exception], later: bool
) -> None:
    """As in `async with`, where the interpreter sets the context."""
    watched = Watched(fail_after)
    error = kind()
    first = KeyError("first")
    caught: list[BaseException] = []
    try:
        with executor.sync_context(watched):
            watched.left.wait()
            try:
                if later:
                    raise first
            finally:
                raise error
    except BaseException as exc:
        caught.append(exc)

    assert caught == [error]
    context: Any = BaseException.__dict__["__context__"]
    earlier = context.__get__(error)
    if later:
        assert earlier is first
        earlier = first.__context__
    assert type(earlier) is TimeoutError


def test_the_exit_of_the_context_gets_the_cancellation_that_came(
    executor: AsyncLoopExecutor,
) -> None:
    seen: list[Any] = []
    left = Gate()

    class Notes:
        async def __aenter__(self) -> None:
            task = asyncio.current_task()
            assert task is not None
            asyncio.get_running_loop().call_later(SOON, task.cancel, "why")

        async def __aexit__(self, *exc_info: object) -> None:
            seen.extend(exc_info)
            await asyncio.sleep(0)
            left.open()

    with pytest.raises(asyncio.CancelledError) as caught, executor.sync_context(Notes()):
        left.wait()

    assert seen[:2] == [asyncio.CancelledError, caught.value]
    assert caught.value.args == ("why",)


def test_an_error_of_the_exit_is_shown(executor: AsyncLoopExecutor) -> None:
    left = Gate()

    @asynccontextmanager
    async def fails() -> AsyncIterator[None]:
        async with swallowed():
            try:
                yield
            except asyncio.CancelledError:
                left.open()
                raise KeyError("on leaving") from None

    with pytest.raises(KeyError, match="on leaving") as caught, executor.sync_context(fails):
        left.wait()
    assert "fails" in [f.name for f in traceback.extract_tb(caught.value.__traceback__)]


def test_the_block_may_end_while_the_context_is_still_being_left(
    executor: AsyncLoopExecutor,
) -> None:
    leaving, go = Gate(), Gate()

    @asynccontextmanager
    async def slow_to_leave() -> AsyncIterator[None]:
        async with asyncio_timeout():
            try:
                yield
            finally:
                leaving.open()
                await go.passed()

    manager = executor.sync_context(slow_to_leave)
    manager.__enter__()
    leaving.wait()
    with ThreadPoolExecutor(1) as pool:
        exiting = pool.submit(manager.__exit__, None, None, None)
        while not executor._service.calls.waited:
            pass
        executor.run(value_of(None))
        assert not exiting.done()
        go.open()
        assert isinstance(exiting.exception(PATIENCE), TimeoutError)


def test_a_shielded_scope_is_left_at_its_end(executor: AsyncLoopExecutor) -> None:
    """The cancellation of the outer scope waits for the end of the inner one."""
    cancelled, left = Gate(), Gate()
    seen: list[Any] = []

    @asynccontextmanager
    async def shielded() -> AsyncIterator[None]:
        with anyio.CancelScope() as outer:
            asyncio.get_running_loop().call_later(SOON, outer.cancel)
            asyncio.get_running_loop().call_later(2 * SOON, cancelled.open)
            with anyio.CancelScope(shield=True):
                try:
                    yield
                finally:
                    left.open()
                    await anyio.lowlevel.checkpoint()
                    seen.append("shielded to the end")
            await anyio.sleep(PATIENCE)
            seen.append("not cancelled")

    with executor.sync_context(shielded):
        cancelled.wait()
        assert not left.is_open
    assert seen == ["shielded to the end"]


def test_a_context_that_was_dropped_after_its_end_reports_its_error(
    executor: AsyncLoopExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    watched = Watched(asyncio_group)
    manager = executor.sync_context(watched)
    manager.__enter__()
    watched.left.wait()
    executor.run(value_of(None))
    del manager
    gc.collect()
    executor.shutdown()

    assert caplog.text.count("ConnectionError: gone") == 1


# Contexts that were entered for good


@pytest.mark.parametrize("scope", SCOPES)
def test_an_entered_context_that_ends_by_itself_is_reported_at_once(
    executor: AsyncLoopExecutor, scope: Scope
) -> None:
    reports: list[dict[str, Any]] = []
    reported = Gate()

    def handler(_: Any, context: dict[str, Any]) -> None:
        reports.append(context)
        reported.open()

    loop = executor.get_loop()
    loop.call_soon_threadsafe(loop.set_exception_handler, handler)
    assert executor.enter_context(watched := Watched(scope)) == "value"
    reported.wait()
    assert watched.left.is_open
    assert executor.run(value_of(7)) == 7
    executor.shutdown()

    assert len(reports) == 1
    assert "the context" in reports[0]["message"]
    assert "ended by itself" in reports[0]["message"]
    with expected(scope):
        if "exception" in reports[0]:
            raise reports[0]["exception"]


def test_an_interrupted_entry_that_succeeds_is_undone(
    executor: AsyncLoopExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = Gate()

    @asynccontextmanager
    async def context() -> AsyncIterator[None]:
        try:
            yield
        finally:
            left.open()

    wait = BlockingCall.wait

    def interrupted(*args: Any) -> None:
        wait(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(BlockingCall, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        executor.enter_context(context)
    monkeypatch.undo()
    left.wait()


# What a body's exception does when the executor ends: for `with executor:`


def test_a_context_is_left_with_the_exception_of_the_executors_body(
    executor: AsyncLoopExecutor,
) -> None:
    seen: list[Any] = []

    class Notes:
        def __init__(self, answer: Any) -> None:
            self.answer = answer

        async def __aenter__(self) -> None:
            pass

        async def __aexit__(self, *exc_info: object) -> Any:
            seen.append(exc_info[:2])
            if isinstance(self.answer, BaseException):
                raise self.answer
            return self.answer

    error = ValueError("of the body")
    outcomes: list[Any] = []

    async def leave_all() -> None:
        exits = executor._service.ending.contexts.entered
        while exits:
            leave: Any = exits.popitem()[0]
            try:
                outcomes.append(await leave(error))
            except KeyError as exc:
                outcomes.append(str(exc))

    for answer in (None, True, KeyError("on leaving"), error):
        executor.enter_context(Notes(answer))
    executor.run(leave_all())

    assert outcomes == [False, "'on leaving'", True, False]
    assert seen == [(ValueError, error)] * 4


# Iterators


@both
@pytest.mark.parametrize("scope", SCOPES)
def test_an_iterator_shows_at_the_next_step_what_comes_of_its_scope(
    executor: AsyncLoopExecutor, scope: Scope, buffersize: int | None
) -> None:
    watched = Watched(scope)
    iterator = executor.sync_iter(watched.items, buffersize=buffersize)
    items: list[Any] = [next(iterator)]
    watched.left.wait()
    with expected(scope):
        items.extend(iterator)

    assert list(iterator) == []
    if scope in QUIET:
        assert items.pop() == "after"
    assert items == list(range(1, len(items) + 1))
    assert len(items) <= (buffersize or 0) + 2
    assert len(set(watched.tasks)) == 1


@both
def test_scopes_may_end_one_after_the_other(
    executor: AsyncLoopExecutor, buffersize: int | None
) -> None:
    left = Gate()

    async def items() -> AsyncIterator[int]:
        with anyio.CancelScope() as outer:
            with anyio.move_on_after(SOON):
                yield 1
                await anyio.sleep(PATIENCE)
            outer.deadline = anyio.current_time() + SOON  # not before the inner one has ended
            yield 2
            await anyio.sleep(PATIENCE)
        left.open()
        yield 3
        yield 4

    iterator = executor.sync_iter(items, buffersize=buffersize)
    assert next(iterator) == 1
    left.wait()
    assert list(iterator) == [2, 3, 4]


@both
def test_a_generator_that_stays_in_a_cancelled_scope_is_closed(
    executor: AsyncLoopExecutor, buffersize: int | None
) -> None:
    """It would be cancelled on every turn of the loop, for ever."""
    closed = Gate()

    async def stubborn() -> AsyncIterator[int]:
        number = 0
        try:
            with anyio.move_on_after(SOON):
                while True:
                    number += 1
                    with suppress(asyncio.CancelledError):
                        yield number
        finally:
            closed.open()

    iterator = executor.sync_iter(stubborn, buffersize=buffersize)
    items = [next(iterator)]
    closed.wait()
    with pytest.raises(asyncio.CancelledError):
        items.extend(iterator)

    assert items == list(range(1, len(items) + 1))
    assert len(items) <= (buffersize or 0) + 4
    assert list(iterator) == []


class ByHand:
    """An async iterator that is no generator, in a scope that it leaves when it is closed."""

    def __init__(self, scope: Callable[[], anyio.CancelScope]) -> None:
        self.make_scope = scope
        self.scope: anyio.CancelScope | None = None
        self.closed = Gate()
        self.number = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> int:
        if self.scope is None:
            self.scope = self.make_scope()
            self.scope.__enter__()
        self.number += 1
        return self.number

    async def aclose(self) -> None:
        assert self.scope is not None
        self.scope.__exit__(None, None, None)
        self.closed.open()


@both
def test_an_iterator_that_is_no_generator_shows_the_cancellation_and_is_closed(
    executor: AsyncLoopExecutor, buffersize: int | None
) -> None:
    by_hand = ByHand(lambda: anyio.move_on_after(SOON))
    iterator = executor.sync_iter(by_hand, buffersize=buffersize)
    items = [next(iterator)]
    by_hand.closed.wait()
    with pytest.raises(asyncio.CancelledError, match="cancel scope"):
        items.extend(iterator)

    assert items == list(range(1, len(items) + 1))
    assert list(iterator) == []


async def conversation(log: list[Any]) -> AsyncGenerator[Any, Any]:
    with anyio.move_on_after(SOON):
        log.append((yield "in the scope"))
    log.append((yield "after the scope"))
    try:
        log.append((yield "later"))
    except KeyError:
        yield "caught"


def gone_on(executor: AsyncLoopExecutor, generator: Any) -> None:
    """Wait until the generator has gone on by itself."""
    assert next(generator) == "in the scope"
    while not generator._owner.ahead:
        executor.run(asyncio.sleep(SOON / 4))


def test_a_value_that_is_sent_meets_a_generator_that_has_gone_on(
    executor: AsyncLoopExecutor,
) -> None:
    log: list[Any] = []
    generator = executor.sync_iter(conversation(log))
    gone_on(executor, generator)

    assert generator.send("too late") == "after the scope"
    assert generator.send("in time") == "later"
    assert log == ["in time"]
    generator.close()


def test_an_exception_is_thrown_where_the_generator_stands(executor: AsyncLoopExecutor) -> None:
    generator = executor.sync_iter(conversation([]))
    gone_on(executor, generator)

    with pytest.raises(KeyError):
        generator.throw(KeyError("thrown"))
    assert list(generator) == []


def test_closing_throws_nothing_away_that_went_wrong(executor: AsyncLoopExecutor) -> None:
    for body in (None, ValueError("of the body")):
        watched = Watched(asyncio_group)
        with (
            pytest.raises(ExceptionGroup) as caught,
            executor.sync_iter(watched.items) as iterator,
        ):
            next(iterator)
            watched.left.wait()
            if body is not None:
                raise body
        kinds = [type(error) for error in caught.value.exceptions]
        assert kinds == [ConnectionError, *([] if body is None else [ValueError])]


@both
@pytest.mark.parametrize("scope", [move_on_after, task_cancelled])
def test_closing_after_a_mere_cancellation_is_quiet(
    executor: AsyncLoopExecutor, scope: Scope, buffersize: int | None
) -> None:
    watched = Watched(scope)
    with executor.sync_iter(watched.items, buffersize=buffersize) as iterator:
        next(iterator)
        watched.left.wait()
    assert list(iterator) == []


def test_throwing_after_the_end_shows_the_error_that_ended_it(executor: AsyncLoopExecutor) -> None:
    watched = Watched(fail_after)
    generator: Any = executor.sync_iter(watched.items)
    next(generator)
    watched.left.wait()
    executor.run(value_of(None))

    with pytest.raises(TimeoutError):
        generator.throw(ValueError("thrown"))
    with pytest.raises(ValueError, match="thrown"):
        generator.throw(ValueError("thrown"))


@both
def test_items_are_still_there_after_a_shutdown(
    executor: AsyncLoopExecutor, buffersize: int | None
) -> None:
    watched = Watched(fail_after)
    iterator = executor.sync_iter(watched.items, buffersize=buffersize)
    next(iterator)
    watched.left.wait()
    executor.shutdown()

    with pytest.raises(TimeoutError):
        list(iterator)


@pytest.mark.skipif(
    not getattr(sys, "_is_gil_enabled", lambda: True)(), reason="needs a collection"
)
@pytest.mark.parametrize("how", ["context", "next", "close", "prefetch"])
def test_what_a_scope_has_raised_goes_with_its_last_user(
    executor: AsyncLoopExecutor, how: str
) -> None:
    class Gone(Exception):
        pass

    left = Gate()

    @asynccontextmanager
    async def session() -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(SOON):
                yield
        except TimeoutError:
            raise Gone from None
        finally:
            left.open()

    async def items() -> AsyncIterator[int]:
        async with session():
            while True:
                yield 1

    def use() -> None:
        if how == "context":
            with executor.sync_context(session):
                left.wait()
            return
        with executor.sync_iter(items, buffersize=2 if how == "prefetch" else None) as iterator:
            next(iterator)
            left.wait()
            if how != "close":
                list(iterator)

    def weakly() -> weakref.ref[Gone]:
        try:
            use()
        except Gone as error:
            return weakref.ref(error)
        raise AssertionError

    gc.collect()
    gc.disable()
    try:
        error = weakly()
        executor.run(value_of(None))
        assert error() is None
    finally:
        gc.enable()


# The end of the loop


class DiesOnce(asyncio.SelectorEventLoop):
    """A loop that fails when it is stopped, and can then be closed as any other."""

    failed = False

    def run_forever(self) -> None:
        super().run_forever()
        if not self.failed:
            self.failed = True
            raise OSError("the loop failed")


class Swallows:
    """An async iterator that answers a cancellation with an item, and has nothing to close."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> int:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return 7


async def swallows() -> AsyncIterator[int]:
    while True:
        with suppress(asyncio.CancelledError):
            yield 1


@both
@pytest.mark.parametrize("source", [swallows, Swallows])
def test_the_end_of_a_failed_loop_does_not_wait_for_what_swallows_it(
    source: Any, buffersize: int | None
) -> None:
    executor = AsyncLoopExecutor(loop_factory=DiesOnce)
    iterator = executor.sync_iter(source, buffersize=buffersize)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(next, iterator)
        while not iterator._owner.started:
            executor.run(value_of(None))
        executor.run(asyncio.sleep(SOON))
        loop = executor.get_loop()
        loop.call_soon_threadsafe(loop.stop)
        with suppress(BaseException):
            waiting.result(PATIENCE)
    executor.shutdown()
    assert loop.is_closed()
