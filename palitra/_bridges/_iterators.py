"""Synchronous faces of async iterables: item by item, or fetched ahead."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterator
from concurrent.futures import Executor
from types import TracebackType
from typing import Any, Self, TypeVar

from palitra._bridges._owner import Face, Owner, Step, build
from palitra._service import Service
from palitra._words import close_if_coroutine, name_of, user_traceback

_T_co = TypeVar("_T_co", covariant=True)
_SendT_contra = TypeVar("_SendT_contra", contravariant=True)


class _IterationOwner(Owner):
    """Drives an async iterator, item by item."""

    def __init__(self, service: Service, source: Any) -> None:
        super().__init__(service, f"the iterator over {name_of(source)}")
        self._source = source
        self._iterator: Any = None
        self._anext: Callable[[], Awaitable[Any]] | None = None  # of the iterator, once it is there

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

    def _tell_of_cancellation(self, step: Step[Any]) -> None:
        if step.operation != self.close:
            self._cancelled_idle = False
            step.operation = functools.partial(self.throw, asyncio.CancelledError())

    def _too_late(self, step: Step[Any]) -> None:
        if step.operation == self.close:
            step.succeed(None)  # it is closed
        else:
            step.fail(self.end())

    def end(self) -> Exception:
        """What comes in place of an item when nothing more can."""
        if self._cut_short:
            return RuntimeError(f"{self.name} was closed by a shutdown before its end")
        return StopAsyncIteration()

    async def send(self, value: object) -> Any:
        await self._begin()
        return await self._iterator.asend(value)

    async def throw(self, exc: BaseException) -> Any:
        await self._begin()
        if hasattr(self._iterator, "athrow"):
            return await self._iterator.athrow(exc)
        raise exc

    async def close(self) -> None:
        self.over = True
        await self._close()

    async def _close(self) -> None:
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
        # A generator without a frame has ended; an iterator that is none may go on.
        generator = hasattr(self._iterator, "athrow")
        if (
            isinstance(exc, StopAsyncIteration)
            or (generator and getattr(self._iterator, "ag_frame", None) is None)
            or self._iterator is None  # it could not be made
        ):
            self.over = True


class SyncIterator(Face, Iterator[_T_co]):
    """A synchronous iterator over an async iterable, and a context manager that closes it.

    Made by `sync_iter`. For any thread, one at a time. Leaving the ``with`` block, `close`, and the
    end of the last reference close the async iterator on the loop; `shutdown` does so too.

    .. versionadded:: 0.2.0
    """

    _owner: _IterationOwner

    def __next__(self) -> _T_co:
        """Return the next item.

        Raises:
            StopIteration: There is none.
            BaseException: What the async iterator raised.
            DeadlockError: The caller is on the loop's own thread.
            RuntimeError: The executor is shut down, or another thread is using the iterator.
        """
        self._check_open()
        return self._item(self._owner.next, "next()")

    def _check_open(self) -> None:
        if self._owner.over:
            end = self._owner.end()
            raise StopIteration if isinstance(end, StopAsyncIteration) else end

    def _item(self, operation: Callable[[], Awaitable[Any]], what: str) -> _T_co:
        try:
            item: _T_co = self._step(operation, what)
        except StopAsyncIteration:
            pass
        else:
            return item
        raise StopIteration

    def close(self) -> None:
        """Close the async iterator and wait for its clean-up; again does no harm.

        Raises:
            BaseException: What the clean-up raised.
            DeadlockError: The caller is on the loop's own thread.
            RuntimeError: Another thread is using the iterator.
        """
        owner = self._owner
        if not owner.started:
            owner.over = True
        else:
            self._last_step(owner.close, "close()")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.close()


class SyncGenerator(SyncIterator[_T_co], Generator[_T_co, _SendT_contra, None]):
    """A `SyncIterator` over an async generator, with `send` and `throw`.

    .. versionadded:: 0.2.0
    """

    def send(self, value: _SendT_contra, /) -> _T_co:
        """Resume the async generator with *value*; return or raise as `next` does."""
        self._check_open()
        return self._item(functools.partial(self._owner.send, value), "send()")

    def throw(self, typ: Any, val: Any = None, tb: TracebackType | None = None, /) -> _T_co:
        """Raise an exception inside the async generator; return the next item or raise."""
        exc = typ if isinstance(typ, BaseException) else _instance(typ, val)
        if tb is not None:
            exc = exc.with_traceback(tb)
        if self._owner.over:
            raise exc
        return self._item(functools.partial(self._owner.throw, exc), "throw()")

    close = SyncIterator.close


def _instance(typ: Any, val: Any) -> BaseException:
    if not (isinstance(typ, type) and issubclass(typ, BaseException)):
        raise TypeError(f"throw() takes an exception class or instance, not {typ!r}")
    if isinstance(val, typ):
        return val
    return typ() if val is None else typ(val)


class _PrefetchOwner(_IterationOwner):
    """Drives an async iterator ahead of its user, up to a number of items.

    The loop fills the buffer and the user empties it, without crossing over. An owner that finds it
    full sets `paused` and then looks at the buffer once more; a user takes an item and then looks
    at `paused`. So one of the two sees that there is room. A user who finds the buffer empty takes
    a step.
    """

    def __init__(self, service: Service, source: Any, size: int) -> None:
        super().__init__(service, source)
        self._size = size
        self._fetching = False
        self.buffer: deque[Any] = deque()
        self.paused = False

    @property
    def has_room(self) -> bool:
        """Whether it is worth waking the owner."""
        return len(self.buffer) <= self._size // 2

    def resume(self) -> None:
        """On the loop: go on."""
        self.paused = False
        self._wake()

    async def _rest(self) -> None:
        if len(self.buffer) < self._size:
            await self._fetch()
            return
        self.paused = True
        if not self.has_room:
            await super()._rest()
        self.paused = False

    async def _fetch(self) -> None:
        """Put the next item, or the error that ends the iteration, into the buffer."""
        self._fetching = True
        error: BaseException | None = None
        try:
            if self._cancelled_idle:
                self._cancelled_idle = False
                item = await self.throw(asyncio.CancelledError())
            else:
                item = await self.next()
        except BaseException as exc:
            error = user_traceback(exc)
            item = _Error(exc)
        self._fetching = False
        if not self._closing:
            self.buffer.append(item)
        if error is not None:
            self.failed(error)
        del item, error  # a traceback may hold this frame

    async def take_item(self) -> Any:
        """As a step: the next item, once it is there."""
        while not self.buffer:
            if self.over:
                raise self.end()
            await self._fetch()
        return self.buffer.popleft()

    def take(self, step: Step[Any]) -> None:
        if step.operation == self.close:
            self._interrupt()
        super().take(step)

    def _tell_of_cancellation(self, step: Step[Any]) -> None:
        pass  # `_fetch` tells the iterator of a cancellation, after what is in the buffer

    def drop(self) -> None:
        super().drop()
        if self._closing:
            self._interrupt()

    def _interrupt(self) -> None:
        """End the waiting for an item that nobody wants any more."""
        if self._fetching and self._task is not None:
            self._fetching = False  # not again: it may be at its clean-up by then
            self._task.cancel()

    def _too_late(self, step: Step[Any]) -> None:
        if self.buffer and step.operation != self.close:
            step.succeed(self.buffer.popleft())
        else:
            super()._too_late(step)


class _Error:
    """An error that waits in a buffer for its turn."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class _PrefetchIterator(SyncIterator[_T_co]):
    """A `SyncIterator` whose items are fetched ahead."""

    _owner: _PrefetchOwner

    def __next__(self) -> _T_co:
        owner = self._owner
        over = owner.over  # before the look into the buffer, which is filled first
        try:
            item = owner.buffer.popleft()
        except IndexError:
            if over:
                self._check_open()
            item = self._item(owner.take_item, "next()")
        if owner.paused and owner.has_room:
            owner.paused = False
            owner.service.post(owner.resume)
        if type(item) is _Error:
            try:
                if isinstance(item.error, StopAsyncIteration):
                    raise StopIteration
                raise item.error
            finally:
                del item
        fetched: _T_co = item
        return fetched

    def close(self) -> None:
        super().close()
        self._owner.buffer.clear()


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
