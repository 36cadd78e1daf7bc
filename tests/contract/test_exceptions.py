"""Whatever a call raises reaches the caller, however strange its class is."""

from __future__ import annotations

import asyncio
import copy
import functools
import gc
import sys
import weakref
from concurrent.futures import as_completed, wait
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from contract.gates import Gate, in_thread, value_of
from palitra import AsyncLoopExecutor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


PATIENCE = 3.0


@pytest.fixture
def executor(quick_loop: dict[str, Any]) -> Iterator[AsyncLoopExecutor]:
    """As ever, but that it does not wait for a call that was never settled."""
    executor = AsyncLoopExecutor(**quick_loop)
    yield executor
    executor.shutdown(wait=False, cancel_futures=True)


class NoErrors(Exception):
    """A collection of errors that is empty, and so false."""

    def __len__(self) -> int:
        return 0


class Denies(Exception):
    def __bool__(self) -> bool:
        return False


class HasNoTruth(Exception):
    def __bool__(self) -> NoReturn:
        raise ArithmeticError("neither true nor false")


class CannotBePrinted(Exception):
    def __str__(self) -> NoReturn:
        raise ArithmeticError("no text")

    __repr__ = __str__


class TakesNoTraceback(Exception):
    def with_traceback(self, traceback: TracebackType | None) -> NoReturn:
        raise ArithmeticError("no traceback")


class KeepsItsTraceback(Exception):
    @property
    def __traceback__(self) -> None:  # type: ignore[override]
        return None


class FailsOnItsTraceback(Exception):
    @property
    def __traceback__(self) -> NoReturn:
        raise ArithmeticError("no traceback")

    @__traceback__.setter
    def __traceback__(self, value: object) -> NoReturn:
        raise ArithmeticError("no traceback")


class CannotBeCopied(Exception):
    def __copy__(self) -> NoReturn:
        raise ArithmeticError("one of a kind")

    def __deepcopy__(self, memo: object) -> NoReturn:
        raise ArithmeticError("one of a kind")

    def __reduce__(self) -> NoReturn:
        raise ArithmeticError("one of a kind")


class HasNoClass(Exception):
    @property  # type: ignore[misc]
    def __class__(self) -> NoReturn:  # type: ignore[override]
        raise ArithmeticError("classless")


class EqualToNothing(Exception):
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> NoReturn:
        raise ArithmeticError("incomparable")


class TakesNoAttributes(Exception):
    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise ArithmeticError("as it was made")

    def add_note(self, note: str) -> NoReturn:
        raise ArithmeticError("as it was made")


KINDS = [
    NoErrors,
    Denies,
    HasNoTruth,
    CannotBePrinted,
    TakesNoTraceback,
    KeepsItsTraceback,
    FailsOnItsTraceback,
    CannotBeCopied,
    EqualToNothing,
    TakesNoAttributes,
    HasNoClass,
]


class Raises:
    """The calls that raise one exception, at once and later, on the loop and in a thread."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    async def at_once(self, *_: object) -> None:
        raise self.error

    async def later(self, *_: object) -> None:
        await asyncio.sleep(0)
        raise self.error

    def plain(self, *_: object) -> None:
        raise self.error

    def plain_then_awaited(self, *_: object) -> Any:
        return self.later()

    async def when_cancelled(self, *_: object) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise self.error

    async def items(self) -> Any:
        yield 1
        raise self.error


async def wrapped(executor: AsyncLoopExecutor, fn: Callable[..., Any]) -> Any:
    return await asyncio.wrap_future(executor.submit(fn))


def first_of(futures: Any) -> Any:
    return next(iter(futures)).result()


WAYS: dict[str, Callable[[AsyncLoopExecutor, Raises], Any]] = {
    "run at once": lambda executor, raises: executor.run(raises.at_once()),
    "run": lambda executor, raises: executor.run(raises.later()),
    "run with a timeout": lambda executor, raises: executor.run(raises.later(), timeout=60),
    "submit at once": lambda executor, raises: executor.submit(raises.at_once).result(PATIENCE),
    "submit": lambda executor, raises: executor.submit(raises.later).result(PATIENCE),
    "submit a coroutine": lambda executor, raises: executor.submit(raises.later()).result(PATIENCE),
    "submit a callable": lambda executor, raises: executor.submit(raises.plain).result(PATIENCE),
    "submit a callable that returns an awaitable": lambda executor, raises: executor.submit(
        raises.plain_then_awaited
    ).result(PATIENCE),
    "map": lambda executor, raises: list(executor.map(raises.later, [1, 2])),
    "map of a callable": lambda executor, raises: list(executor.map(raises.plain, [1, 2])),
    "map with a buffer": lambda executor, raises: list(
        executor.map(raises.later, [1, 2, 3], buffersize=2)
    ),
    "gather": lambda executor, raises: executor.gather(raises.later(), value_of(1)),
    "gather of a future": lambda executor, raises: executor.gather(executor.submit(raises.later)),
    "wait": lambda executor, raises: first_of(wait([executor.submit(raises.later)], PATIENCE).done),
    "as_completed": lambda executor, raises: first_of(
        as_completed([executor.submit(raises.plain)], PATIENCE)
    ),
    "wrap_future on the loop": lambda executor, raises: executor.run(
        wrapped(executor, raises.later)
    ),
    "wrap_future elsewhere": lambda executor, raises: asyncio.run(wrapped(executor, raises.plain)),
    "sync_iter": lambda executor, raises: list(executor.sync_iter(raises.items)),
    "sync_iter with a buffer": lambda executor, raises: list(
        executor.sync_iter(raises.items, buffersize=2)
    ),
}
# Before 3.13 asyncio's own futures fail with an exception that is strange in another way.
ONLY_FALSE = (NoErrors, Denies, HasNoTruth)


def raised_by(call: Callable[[], object]) -> BaseException | None:
    """What the call raises, in a thread, so that one that never returns is seen."""
    # pytest.raises would print and copy it.
    raised: list[BaseException | None] = []

    def attempt() -> None:
        try:
            call()
        except BaseException as error:
            raised.append(error)
        else:
            raised.append(None)

    in_thread(attempt).join(PATIENCE)
    assert raised != [], "no end"
    return raised.pop()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_it_arrives_as_the_same_object(
    executor: AsyncLoopExecutor, kind: type[BaseException], way: str
) -> None:
    takes_few = kind is HasNoClass or (sys.version_info < (3, 13) and kind not in ONLY_FALSE)
    if way.startswith("wrap") and takes_few:
        pytest.skip("asyncio's own futures do not deliver it")
    error = kind()

    caught = raised_by(lambda: WAYS[way](executor, Raises(error)))

    assert caught is error, type(caught)
    assert executor.run(value_of(1)) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fn", ["at_once", "later", "plain"])
def test_the_future_knows_it(
    executor: AsyncLoopExecutor, kind: type[BaseException], fn: str
) -> None:
    error = kind()
    called: list[object] = []
    future = executor.submit(getattr(Raises(error), fn))
    future.add_done_callback(called.append)
    last = Gate()
    future.add_done_callback(last.open)

    assert future.exception(PATIENCE) is error
    assert future.exception() is error
    assert raised_by(future.result) is error
    assert future.done()
    assert not future.cancelled()
    last.wait()
    assert called == [future]


@pytest.mark.parametrize("kind", KINDS)
def test_gather_puts_it_in_its_place(
    executor: AsyncLoopExecutor, kind: type[BaseException]
) -> None:
    error = kind()
    raises = Raises(error)

    first, second, third = executor.gather(
        raises.later(), value_of(1), executor.submit(raises.plain), return_exceptions=True
    )

    assert first is error
    assert second == 1
    assert third is error


@pytest.mark.parametrize("kind", KINDS)
def test_a_clean_up_may_raise_it(executor: AsyncLoopExecutor, kind: type[BaseException]) -> None:
    error = kind()
    raises = Raises(error)
    future = executor.submit(raises.when_cancelled)
    while not future.running():
        executor.run(value_of(None))
    executor.run(value_of(None))
    future.cancel()

    assert future.exception(PATIENCE) is error
    timed_out = raised_by(lambda: executor.run(raises.when_cancelled(), timeout=0.05))
    assert isinstance(timed_out, TimeoutError)


@pytest.mark.parametrize("kind", KINDS)
def test_it_can_be_raised_for_many_who_wait(
    executor: AsyncLoopExecutor, kind: type[BaseException]
) -> None:
    error = kind()
    future = executor.submit(Raises(error).later)

    assert [raised_by(lambda: future.result(PATIENCE)) is error for _ in range(3)] == [True] * 3


def test_nothing_keeps_it(executor: AsyncLoopExecutor) -> None:
    error = NoErrors()
    seen = weakref.ref(error)
    raised_by(lambda error=error: executor.run(Raises(error).later()))  # type: ignore[misc]

    del error
    gc.collect()
    executor.run(value_of(None))

    assert seen() is None


def test_the_classes_are_as_strange_as_they_say() -> None:
    assert not NoErrors()
    assert not Denies()
    strange: dict[type[BaseException], Callable[[Any], object]] = {
        HasNoTruth: bool,
        CannotBePrinted: str,
        CannotBeCopied: copy.copy,
        TakesNoTraceback: lambda error: error.with_traceback(None),
        FailsOnItsTraceback: lambda error: error.__traceback__,
        TakesNoAttributes: lambda error: error.add_note("note"),
        HasNoClass: lambda error: error.__class__,
    }
    for kind, use in strange.items():
        raised = raised_by(functools.partial(use, kind()))
        assert isinstance(raised, ArithmeticError)
