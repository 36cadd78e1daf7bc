"""Synchronous faces of async iterables: item by item, or fetched ahead."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Generator, Iterator
from concurrent.futures import Executor
from types import TracebackType
from typing import Any, Self, TypeVar

from palitra._bridges._owner import (
    Face,
    Owner,
    Raised,
    Step,
    build,
    cancellation_requests,
    show_both,
)
from palitra._service import Service
from palitra._words import close_if_coroutine, name_of, user_traceback

_T_co = TypeVar("_T_co", covariant=True)
_SendT_contra = TypeVar("_SendT_contra", contravariant=True)

# Whoever closes an iterator wants no more of it.
_EXPECTED = (StopAsyncIteration, asyncio.CancelledError)


class _IterationOwner(Owner):
    """Drives an async iterator, item by item."""

    def __init__(self, service: Service, source: Any) -> None:
        super().__init__(service, f"the iterator over {name_of(source)}")
        self._source = source
        self._iterator: Any = None
        self._anext: Callable[[], Awaitable[Any]] | None = None  # of the iterator, once it is there
        self._ignoring = False  # a cancellation, and nobody has asked for an item since

    @property
    def next(self) -> Callable[[], Awaitable[Any]]:
        """As a step: the next item."""
        return self._anext or self._first

    async def _begin(self) -> None:
        if self._iterator is None:
            source, self._source = self._source, None
            self._iterator = aiter(await build(source, "__aiter__", "an async iterable"))
            self._anext = self._iterator.__anext__

    async def _first(self) -> Any:
        await self._begin()
        return await self._iterator.__anext__()

    def _or_ahead(self, operation: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
        self._ignoring = False
        return self._take_ahead if operation is self._anext else operation

    async def _take_ahead(self) -> Any:
        return self.ahead.popleft()

    async def _cancelled_idle(self, exc: asyncio.CancelledError) -> None:
        requests = cancellation_requests()
        over = False
        try:
            outcome = await self._throw(exc)
        except BaseException as error:
            outcome = Raised(user_traceback(error))
            over = self._ends_with(error)
        outcomes = [outcome]
        ignored = not over and cancellation_requests() >= requests  # no scope has taken it back
        if ignored and (type(outcome) is Raised or self._ignoring):
            # The iterator cannot be told, or ignores one cancellation after the other: a scope that
            # has not been left cancels on every turn of the loop. In an `async for`, the next
            # `await` would raise the error, and that would be the end.
            over = True
            end = Raised(exc)
            try:
                await self.close_iterator()
            except BaseException as error:
                end = Raised(user_traceback(error))
            if type(outcome) is Raised:
                outcomes.clear()
            outcomes.append(end)
        self._ignoring = ignored
        self.ahead.extend(outcomes)
        if over:
            self.over = True
        del exc, outcome, outcomes  # a traceback may hold this frame

    def _too_late(self, step: Step[Any]) -> None:
        if step.operation == self.close:
            step.succeed(None)  # it is closed
        elif self.ahead:
            step.succeed(self.ahead.popleft())
        else:
            step.fail(self.end())

    def end(self) -> Exception:
        """What comes in place of an item when nothing more can."""
        if self._cut_short:
            return RuntimeError(f"{self.name} was closed by a shutdown before its end")
        return StopAsyncIteration()

    async def send(self, value: object) -> Any:
        """As a step. An iterator that has gone on by itself does not wait for *value* any more."""
        await self._begin()
        return self.ahead.popleft() if self.ahead else await self._iterator.asend(value)

    async def throw(self, exc: BaseException) -> Any:
        """As a step."""
        await self._begin()
        self.ahead.clear()
        return await self._throw(exc)

    async def _throw(self, exc: BaseException) -> Any:
        if hasattr(self._iterator, "athrow"):
            return await self._iterator.athrow(exc)
        raise exc

    async def close(self) -> None:
        """As a step."""
        self.over = True
        await self.close_iterator()

    async def _close(self, body: BaseException | None) -> bool:
        await self.close_iterator()
        return False

    async def close_iterator(self) -> None:
        # What is no generator may have no such method.
        aclose = getattr(self._iterator, "aclose", None)
        if aclose is not None:
            try:
                await aclose()
            except BaseExceptionGroup as group:
                # A task group around a `yield` wraps the GeneratorExit that closes the generator.
                if group.split(GeneratorExit)[1] is not None:
                    raise

    def failed(self, exc: BaseException) -> None:
        if self._ends_with(exc):
            self.over = True

    def _ends_with(self, exc: BaseException) -> bool:
        """Whether nothing can come after *exc*."""
        # A generator without a frame has ended; an iterator that is none may go on.
        generator = hasattr(self._iterator, "athrow")
        return (
            issubclass(type(exc), StopAsyncIteration)
            or (generator and getattr(self._iterator, "ag_frame", None) is None)
            or self._iterator is None  # it could not be made
        )

    def take_unseen(self) -> BaseException | None:
        error = super().take_unseen()
        return None if issubclass(type(error), _EXPECTED) else error


class SyncIterator(Face, Iterator[_T_co]):
    """A synchronous iterator over an async iterable, and a context manager that closes it.

    Made by `sync_iter`. For any thread, one at a time. Leaving the ``with`` block, `close`, and the
    end of the last reference close the async iterator on the loop; `shutdown` does so too.

    .. versionadded:: 0.2.0
    """

    _owner: _IterationOwner

    def __next__(self) -> _T_co:
        """Return the next item.

        Where a cancel scope or a task group in the async iterator has ended since the last item,
        this shows what came of that: the item after it, or the error.

        Raises:
            StopIteration: There is none; with the value that the async iterator ended with.
            BaseException: What the async iterator raised.
            DeadlockError: The caller is on the loop's own thread.
            RuntimeError: The executor is shut down, or another thread is using the iterator.
        """
        owner = self._owner
        return self._rest() if owner.over else self._item(owner.next, "next()")

    def _rest(self) -> _T_co:
        """What is left after the end."""
        owner = self._owner
        try:
            kept = owner.ahead.popleft()
        except IndexError:
            pass
        else:
            return self._given(kept)
        end = owner.end()
        raise StopIteration if isinstance(end, StopAsyncIteration) else end

    def _item(self, operation: Callable[[], Awaitable[Any]], what: str) -> _T_co:
        try:
            item = self._step(operation, what)
        except StopAsyncIteration as stop:
            item = Raised(stop)
        return self._given(item) if type(item) is Raised else item

    def _given(self, item: Any) -> _T_co:
        """Return *item*, or raise it."""
        if type(item) is not Raised:
            given: _T_co = item
            return given
        error = item.take()
        try:
            if issubclass(type(error), StopAsyncIteration):
                raise StopIteration(*error.args[:1])
            raise error
        finally:
            del error  # a raised error holds this frame

    def close(self) -> None:
        """Close the async iterator and wait for its clean-up; again does no harm.

        On the loop's own thread, which cannot wait, it is closed as soon as possible; what its
        clean-up raises goes to the loop's exception handler there. An iterator that waits for an
        item in another thread then is cancelled first.

        Raises:
            BaseException: What the clean-up raised, or the error by which the async iterator has
                ended since the last item.
            RuntimeError: Another thread is using the iterator.
        """
        show_both(self._close(), None)

    def _close(self) -> BaseException | None:
        owner = self._owner
        if not owner.started:
            owner.over = True
        elif owner.service.on_loop():
            owner.service.inbox.post(owner.drop)
        else:
            self._last_step(owner.close, "close()")
            return owner.take_unseen()
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        show_both(self._close(), exc_val)


class SyncGenerator(SyncIterator[_T_co], Generator[_T_co, _SendT_contra, None]):
    """A `SyncIterator` over an async generator, with `send` and `throw`.

    .. versionadded:: 0.2.0
    """

    def send(self, value: _SendT_contra, /) -> _T_co:
        """Resume the async generator with *value*; return or raise as `next` does."""
        owner = self._owner
        if owner.over:
            return self._rest()
        return self._item(functools.partial(owner.send, value), "send()")

    def throw(self, typ: Any, val: Any = None, tb: TracebackType | None = None, /) -> _T_co:
        """Raise an exception inside the async generator; return the next item or raise."""
        owner = self._owner
        exc = typ if isinstance(typ, BaseException) else _instance(typ, val)
        if tb is not None:
            exc = BaseException.with_traceback(exc, tb)
        if owner.over:
            error = owner.take_unseen()
            raise exc if error is None else error
        return self._item(functools.partial(owner.throw, exc), "throw()")

    close = SyncIterator.close


def _instance(typ: Any, val: Any) -> BaseException:
    if not (isinstance(typ, type) and issubclass(typ, BaseException)):
        raise TypeError(f"throw() takes an exception class or instance, not {typ!r}")
    if isinstance(val, typ):
        return val
    return typ() if val is None else typ(val)


class _PrefetchOwner(_IterationOwner):
    """Drives an async iterator ahead of its user, up to a number of items.

    The loop fills `ahead` and the user empties it, without crossing over. An owner that finds it
    full sets `paused` and then looks at it once more; a user takes an item and then looks at
    `paused`. So one of the two sees that there is room. A user who finds nothing takes a step.
    """

    def __init__(self, service: Service, source: Any, size: int) -> None:
        super().__init__(service, source)
        self._size = size
        self._fetching = False  # with no step waiting for it
        self._ended_by_closing = False
        self.paused = False

    @property
    def has_room(self) -> bool:
        """Whether it is worth waking the owner."""
        return len(self.ahead) <= self._size // 2

    def resume(self) -> None:
        """On the loop: go on."""
        self.paused = False
        self._wake()

    async def _rest(self) -> None:
        if len(self.ahead) < self._size:
            self._fetching = True
            self._ignoring = False
            await self._fetch()
            self._fetching = False
            self._uninterrupt()
            return
        self.paused = True
        try:
            if not self.has_room:
                await super()._rest()
        finally:
            self.paused = False

    async def _fetch(self) -> None:
        """Put the next item, or the error that ends the iteration, where the user takes it."""
        error: BaseException | None = None
        try:
            item = await self.next()
        except BaseException as exc:
            error = user_traceback(exc)
            item = Raised(error)
        if not (self._fetching and self._closing):
            self.ahead.append(item)
        elif error is not None and not issubclass(type(error), _EXPECTED):
            self._closing_failed(error)
        if error is not None:
            self.failed(error)
            cancelled = issubclass(type(error), asyncio.CancelledError)
            if self._fetching and cancelled and not (self.over or self._closing):
                # Whoever has cancelled the task wants it to end. The user still gets what is ahead.
                self._fetching = False
                await self._close_unasked()
        del item, error  # a traceback may hold this frame

    async def take_item(self) -> Any:
        """As a step: the next item, once it is there."""
        while not self.ahead:
            if self.over:
                raise self.end()
            await self._fetch()
        return self.ahead.popleft()

    def take(self, step: Step[Any]) -> None:
        if step.operation == self.close:
            self._end_fetching()
        super().take(step)

    def drop(self, exc: BaseException | None = None) -> None:
        super().drop(exc)
        if self._closing:
            self._end_fetching()

    def _end_fetching(self) -> None:
        """End the waiting for an item that nobody wants any more."""
        if self._fetching:
            self._ended_by_closing = True
            self._interrupt(self._closing_message)

    def take_unseen(self) -> BaseException | None:
        # What was fetched ahead goes unseen, but for an error of the clean-up.
        error = super().take_unseen()
        return error if self._ended_by_closing else None


class _PrefetchIterator(SyncIterator[_T_co]):
    """A `SyncIterator` whose items are fetched ahead."""

    _owner: _PrefetchOwner

    def __next__(self) -> _T_co:
        owner = self._owner
        over = owner.over  # before the look at what is ahead, which is filled first
        try:
            item = owner.ahead.popleft()
        except IndexError:
            return self._rest() if over else self._item(owner.take_item, "next()")
        if owner.paused and owner.has_room:
            owner.paused = False
            owner.service.inbox.post(owner.resume)
        return self._given(item) if type(item) is Raised else item


def sync_iter(
    executor: Executor, service: Service, source: object, buffersize: int | None
) -> SyncIterator[Any]:
    """Make the synchronous face of an async iterable, or of a callable that returns one."""
    if not hasattr(type(source), "__aiter__") and not callable(source):
        close_if_coroutine(source)
        raise TypeError(
            f"sync_iter() takes an async iterable, or a callable that returns one, not {source!r}"
        )
    if buffersize is not None:
        if not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        return _PrefetchIterator(executor, _PrefetchOwner(service, source, buffersize))
    owner = _IterationOwner(service, source)
    if hasattr(type(source), "athrow") or inspect.isasyncgenfunction(source):
        return SyncGenerator(executor, owner)
    return SyncIterator(executor, owner)
