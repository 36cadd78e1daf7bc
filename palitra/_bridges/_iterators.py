"""Synchronous faces of async iterables: item by item, or fetched ahead."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Generator, Iterator
from concurrent.futures import Executor
from types import TracebackType
from typing import Any, Self, TypeVar

from .._service import Service
from .._words import args_of, close_if_coroutine, name_of, user_traceback
from ._owner import (
    Face,
    Owner,
    Raised,
    Step,
    build,
    cancellation_requests,
    holds_only,
    show_both,
)

_T_co = TypeVar("_T_co", covariant=True)
_SendT_contra = TypeVar("_SendT_contra", contravariant=True)

# What may come of closing an iterator without being an error of its clean-up.
_EXPECTED = (StopAsyncIteration, asyncio.CancelledError)


class _IterationOwner(Owner):
    """Drives an async iterator, item by item."""

    def __init__(self, service: Service, source: Any) -> None:
        super().__init__(service, f"the iterator over {name_of(source)}")
        self._source = source
        self._iterator: Any = None
        self._anext: Callable[[], Awaitable[Any]] | None = None  # once there is an iterator
        # Whether the iterator ignored a cancellation, and nobody has asked for an item since.
        self._ignoring = False

    @property
    def next(self) -> Callable[[], Awaitable[Any]]:
        """What a step calls for the next item."""
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
        # A scope that swallows the cancellation takes its request back; here none has.
        ignored = not over and cancellation_requests() >= requests
        if ignored and (type(outcome) is Raised or self._ignoring):
            # The iterator has no `athrow`, or ignores one cancellation after the other. A scope
            # that is not left would cancel again on every turn of the loop, so close the iterator.
            # In an `async for`, too, the next `await` would raise the error and end the iteration.
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
            step.succeed(None)  # the iterator is closed
        elif self.ahead:
            step.succeed(self.ahead.popleft())
        else:
            step.fail(self.end())

    def end(self) -> Exception:
        """Return what to raise in place of an item after the end."""
        if self._cut_short:
            return RuntimeError(f"{self.name} was closed by a shutdown before its end")
        return StopAsyncIteration()

    async def send(self, value: object) -> Any:
        """As a step: send *value*, unless the iterator has gone on by itself and does not wait."""
        await self._begin()
        return self.ahead.popleft() if self.ahead else await self._iterator.asend(value)

    async def throw(self, exc: BaseException) -> Any:
        """As a step: throw *exc* into the iterator."""
        await self._begin()
        self.ahead.clear()
        return await self._throw(exc)

    async def _throw(self, exc: BaseException) -> Any:
        if hasattr(self._iterator, "athrow"):
            return await self._iterator.athrow(exc)
        raise exc

    async def close(self) -> None:
        """As a step: close the iterator."""
        self.over = True
        await self.close_iterator()

    async def _close(self, body: BaseException | None) -> bool:
        await self.close_iterator()
        return False

    async def close_iterator(self) -> None:
        # An iterator that is not a generator may have no such method.
        aclose = getattr(self._iterator, "aclose", None)
        if aclose is not None:
            try:
                await aclose()
            except BaseExceptionGroup as group:
                # A task group around a `yield` wraps the GeneratorExit that closes the generator.
                if not holds_only(group, GeneratorExit):
                    raise

    def failed(self, exc: BaseException) -> None:
        if self._ends_with(exc):
            self.over = True

    def _ends_with(self, exc: BaseException) -> bool:
        """Whether nothing can come after *exc*."""
        # A generator without a frame has ended. Other iterators may go on after an exception.
        generator = hasattr(self._iterator, "athrow")
        return (
            issubclass(type(exc), StopAsyncIteration)
            or (generator and getattr(self._iterator, "ag_frame", None) is None)
            or self._iterator is None  # making the iterator has failed
        )

    def take_unseen(self) -> BaseException | None:
        error = super().take_unseen()
        return None if issubclass(type(error), _EXPECTED) else error


class SyncIterator(Face, Iterator[_T_co]):
    """A synchronous iterator over an async iterable, and a context manager that closes it.

    Made by `sync_iter`. Leaving the ``with`` block, `close`, the end of the last reference, and
    `shutdown` close the async iterator on the loop.

    Any thread may use the iterator, one thread at a time.

    >>> import palitra
    >>> async def count(n):
    ...     for i in range(n):
    ...         yield i
    >>> with palitra.sync_iter(count(3)) as numbers:
    ...     next(numbers)
    0

    .. versionadded:: 0.2.0
    """

    _owner: _IterationOwner

    def __next__(self) -> _T_co:
        """Return the next item.

        If a cancel scope or a task group in the async iterator has ended since the last item, the
        next item or the error is what came of that.

        Returns:
            The next item.

        Raises:
            StopIteration: There are no more items. If the async iterator has ended with a value,
                the exception carries that value.
            BaseException: What the async iterator raised.
            DeadlockError: The caller is on the loop's own thread.
            RuntimeError: The executor is shut down, or another thread is using the iterator.

        Any thread may call it, one thread at a time.

        >>> import palitra
        >>> async def count(n):
        ...     for i in range(n):
        ...         yield i
        >>> numbers = palitra.sync_iter(count(2))
        >>> next(numbers), next(numbers), next(numbers, "the end")
        (0, 1, 'the end')

        .. versionadded:: 0.2.0
        """
        owner = self._owner
        return self._rest() if owner.over else self._item(owner.next, "next()")

    def _rest(self) -> _T_co:
        """Return or raise what is left in `ahead` after the end; then say that this is the end."""
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
        except (StopAsyncIteration, StopIteration) as stop:
            item = Raised(stop)
        return self._given(item) if type(item) is Raised else item

    def _given(self, item: Any) -> _T_co:
        """Return *item*, or raise it."""
        if type(item) is not Raised:
            given: _T_co = item
            return given
        error = item.take()
        try:
            if issubclass(type(error), asyncio.CancelledError):
                error = self._owner.service.ending.host_failure() or error
            if issubclass(type(error), StopAsyncIteration):
                raise StopIteration(*args_of(error)[:1])
            raise error
        finally:
            del error  # a raised error holds this frame

    def close(self) -> None:
        """Close the async iterator and wait for its clean-up; a second call does no harm.

        The loop's own thread cannot wait. There, this method only requests the closing: an item
        that another thread is waiting for is cancelled first, and what the clean-up raises goes to
        the loop's exception handler.

        Raises:
            BaseException: What the clean-up raised, or the error by which the async iterator has
                ended since the last item.
            RuntimeError: Another thread is using the iterator.

        Any thread may call it, one thread at a time.

        >>> import palitra
        >>> async def count():
        ...     try:
        ...         yield 1
        ...     finally:
        ...         print("closed")
        >>> numbers = palitra.sync_iter(count)
        >>> next(numbers)
        1
        >>> numbers.close()
        closed

        .. versionadded:: 0.2.0
        """
        if not self._is_finalizing():
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
        if not self._is_finalizing():
            show_both(self._close(), exc_val)


class SyncGenerator(SyncIterator[_T_co], Generator[_T_co, _SendT_contra, None]):
    """A `SyncIterator` over an async generator, with `send` and `throw`.

    Any thread may use the iterator, one thread at a time.

    >>> import palitra
    >>> async def echo():
    ...     said = yield "first"
    ...     yield said
    >>> replies = palitra.sync_iter(echo)
    >>> next(replies), replies.send("second")
    ('first', 'second')

    .. versionadded:: 0.2.0
    """

    def send(self, value: _SendT_contra, /) -> _T_co:
        """Resume the async generator with *value*, and return the next item.

        Args:
            value: What the ``yield`` at which the generator stands returns; None at the start.

        Returns:
            The next item.

        Raises:
            BaseException: What `next` of the iterator raises.

        Any thread may call it, one thread at a time.

        >>> import palitra
        >>> async def echo():
        ...     said = yield "first"
        ...     yield said
        >>> replies = palitra.sync_iter(echo)
        >>> replies.send(None), replies.send("second")
        ('first', 'second')

        .. versionadded:: 0.2.0
        """
        owner = self._owner
        if owner.over:
            return self._rest()
        return self._item(functools.partial(owner.send, value), "send()")

    def throw(self, typ: Any, val: Any = None, tb: TracebackType | None = None, /) -> _T_co:
        """Raise an exception inside the async generator, and return the next item.

        Args:
            typ: The exception, or its class.
            val: With a class: the exception, or the argument to make it with; None: no argument.
            tb: A traceback for the exception; None: the exception keeps its own.

        Returns:
            The next item.

        Raises:
            TypeError: *typ* is neither an exception nor a class of exceptions.
            BaseException: The exception itself if the generator does not catch it, and what `next`
                of the iterator raises.

        Any thread may call it, one thread at a time.

        >>> import palitra
        >>> async def patient():
        ...     try:
        ...         yield "waiting"
        ...     except ValueError as error:
        ...         yield f"caught {error}"
        >>> replies = palitra.sync_iter(patient)
        >>> next(replies), replies.throw(ValueError("it"))
        ('waiting', 'caught it')

        .. versionadded:: 0.2.0
        """
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
    if val is None:
        return typ()
    # By the type itself: `isinstance` asks `val` for its class, which may raise.
    exc: BaseException = val if issubclass(type(val), typ) else typ(val)
    return exc


class _PrefetchOwner(_IterationOwner):
    """Drives an async iterator ahead of its user, up to a number of items.

    The loop fills `ahead`, and the user takes items from it without a step. They agree by writing
    first and looking second (see `_waiting`). An owner that finds `ahead` full sets `paused`, and
    then looks at `ahead` once more; a user takes an item, and then looks at `paused`. So one of the
    two sees that there is room. A user who finds `ahead` empty takes a step.
    """

    def __init__(self, service: Service, source: Any, size: int) -> None:
        super().__init__(service, source)
        self._size = size
        self._fetching = False  # an item, while no step waits for one
        self._ended_by_closing = False
        self.paused = False

    @property
    def has_room(self) -> bool:
        """Whether so much of `ahead` is free that waking the owner is worth it."""
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
        """As a step: wait for the next item, and take it."""
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
        # What was fetched ahead and not taken is dropped, except an error of the clean-up.
        error = super().take_unseen()
        return error if self._ended_by_closing else None


class _PrefetchIterator(SyncIterator[_T_co]):
    """A `SyncIterator` whose items are fetched ahead."""

    _owner: _PrefetchOwner

    def __next__(self) -> _T_co:
        owner = self._owner
        over = owner.over  # look at `over` first: the owner fills `ahead` before it sets `over`
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
