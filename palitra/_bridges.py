"""Synchronous faces of async functions, iterables and context managers.

One owner task enters, drives and leaves each bridged object, so that whatever in it belongs to a
task (cancel scopes, task groups, `ContextVar.reset`) finds the same task each time. A step (one
item, the entry, the exit) is a blocking call whose work the owner task does.

Who closes what: from its first step on, an unfinished object stands among the loop thread's
`exits`. It is closed by its user, or when the last reference to its synchronous face goes, or by
`shutdown`, whichever comes first.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import inspect
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterator
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager
from types import MethodType, TracebackType
from typing import Any, Generic, ParamSpec, Self, TypeVar, cast

from palitra._loop import (
    BlockingCall,
    LoopThread,
    close_if_coroutine,
    name_of,
    user_traceback,
)

_P = ParamSpec("_P")
_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)
_SendT_contra = TypeVar("_SendT_contra", contravariant=True)


class _Step(BlockingCall[_T]):
    """One thing for an owner task to do while the caller waits."""

    def __init__(self, owner: _Owner, operation: Callable[[], Awaitable[_T]]) -> None:
        super().__init__(owner.loop_thread)
        self._owner = owner
        self.operation = operation

    def start(self) -> None:
        if self.settled or self.cancel_requested:
            self.fail(asyncio.CancelledError())
            return
        try:
            self._owner.take(self)
        except BaseException as exc:
            self.fail(exc)

    def cancel_on_loop(self) -> None:
        if not self.settled:
            self._owner.cancel(self)

    def close(self) -> None:
        self._owner.refused()

    def describe(self) -> str:
        return self._owner.name


class _Owner:
    """The task that owns a bridged object, and the steps it is to take. All on the loop."""

    def __init__(self, loop_thread: LoopThread, name: str) -> None:
        self.loop_thread = loop_thread
        self.name = name
        self.over = False  # nothing more can be done with the object
        self._context = contextvars.copy_context()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._steps: deque[_Step[Any]] = deque()
        self._current: _Step[Any] | None = None
        self._step_cancelled = False
        self._idle: asyncio.Future[None] | None = None  # while the task waits for a step
        # A cancel scope inside the object ended while the object was idle; the object is told
        # with its next step, as an `await` of its user's would have told it.
        self._cancelled_idle = False
        self._closing = False
        self._cut_short = False  # closed by a shutdown

    def take(self, step: _Step[Any]) -> None:
        """Have the task do *step*."""
        if self.over:
            self._too_late(step)
        elif self._loop is None:
            self._loop = asyncio.get_running_loop()
            self.loop_thread.add_exit(self.leave)
            self._steps.append(step)
            work = self._work()
            try:
                self._task = self.loop_thread.create_task(work, self._context)
            except BaseException:
                work.close()
                self._steps.clear()  # `step` gets the error, not its place after the end
                self._finish()
                raise
            self._task.add_done_callback(self._ended)
        elif self._loop is not asyncio.get_running_loop():
            step.fail(
                concurrent.futures.BrokenExecutor(
                    f"{self.name} belongs to the parent process; open it again in this one"
                )
            )
        else:
            self._steps.append(step)
            self._wake()

    def _wake(self) -> None:
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    @property
    def started(self) -> bool:
        """Whether there is anything to close."""
        return self._loop is not None

    async def _work(self) -> None:
        while self._steps or not self.over:
            if self._steps:
                step = self._steps.popleft()
                if step.settled:  # cancelled meanwhile
                    del step
                    continue
                self._current = step
                if self._cancelled_idle:
                    self._tell_of_cancellation(step)
                try:
                    step.result = await step.operation()
                except BaseException as exc:
                    step.error = user_traceback(exc)
                    self.failed(exc)
                step.settle()
                self._current = None
                if self._step_cancelled:
                    self._step_cancelled = False
                    _uncancel()
                del step  # it holds what its caller is to free
            elif self._closing:
                self.over = True
                try:
                    await self._close()
                except asyncio.CancelledError:
                    pass  # by the end of the loop
                except BaseException as exc:
                    asyncio.get_running_loop().call_exception_handler(
                        {
                            "message": f"closing {self.name} failed",
                            "exception": user_traceback(exc),
                        }
                    )
            else:
                await self._rest()
        self._finish()

    def _tell_of_cancellation(self, step: _Step[Any]) -> None:
        """Before *step* is taken: the object was cancelled while it was idle."""

    async def _rest(self) -> None:
        """Wait for the next step."""
        self._idle = asyncio.get_running_loop().create_future()
        try:
            await self._idle
        except asyncio.CancelledError:
            self._cancelled_idle = True
            if self.loop_thread.done:
                self._closing = True  # the end of the loop cancels what is left
        finally:
            self._idle = None

    def _finish(self) -> None:
        self.over = True
        self.loop_thread.exits.pop(self.leave, None)
        while self._steps:
            self._too_late(self._steps.popleft())

    def _too_late(self, step: _Step[Any]) -> None:
        """Settle a step that came after the end."""
        step.fail(RuntimeError(f"{self.name} is closed"))

    def _ended(self, _: object) -> None:
        self._finish()  # a task that was cancelled before its first step has not

    def cancel(self, step: _Step[Any]) -> None:
        """Cancel *step*, begun or not."""
        if step is self._current and self._task is not None:
            self._step_cancelled = True
            self._task.cancel()
        else:
            step.fail(asyncio.CancelledError())

    def refused(self) -> None:
        """A step will not be taken, and was not begun."""

    def failed(self, exc: BaseException) -> None:
        """A step has raised *exc*."""

    async def _close(self) -> None:
        """Close the object, nobody waiting."""
        raise NotImplementedError

    async def leave(self) -> None:
        """At shutdown: close the object and wait for that."""
        self._cut_short = not self.over
        self.drop()
        if self._task is not None:
            await asyncio.wait([self._task])

    def drop(self) -> None:
        """Close the object: nobody uses it any more."""
        if not self.over and self._loop is asyncio.get_running_loop():
            self._closing = True
            self._wake()


def _uncancel() -> None:
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()


def _take(step: _Step[_T], loop_thread: LoopThread, what: str) -> _T:
    """Have *step* taken, wait, and return or raise the outcome."""
    try:
        loop_thread.block(step, what, None)
        error, step.error = step.error, None
        if error is not None:
            raise error
        result = step.result
        del step.result
        return result
    finally:
        error = None  # a raised error holds this frame
        del step


class _Face:
    """The synchronous side of a bridged object: for one thread at a time."""

    def __init__(self, executor: Executor, owner: _Owner) -> None:
        self._executor = executor  # as long as this lives, the executor is not dropped
        self._owner = owner
        self._free = True  # the one permission to take a step

    def _step(self, operation: Callable[[], Awaitable[_T]], what: str) -> _T:
        return self._take(_Step(self._owner, operation), what)

    def _last_step(self, operation: Callable[[], Awaitable[_T]], what: str) -> _T | None:
        """As `_step`; returns None where a shutdown does it, or has."""
        owner = self._owner
        if owner.over or not owner.loop_thread.usable:
            return None
        step = _Step(owner, operation)
        try:
            return self._take(step, what)
        except RuntimeError:
            if step.settled or owner.loop_thread.usable:
                raise
            return None  # another thread has just begun to shut down
        finally:
            del step, operation  # a raised error holds this frame

    def _take(self, step: _Step[_T], what: str) -> _T:
        try:
            del self._free
        except AttributeError:
            raise RuntimeError(f"{self._owner.name} is in use by another thread") from None
        try:
            return _take(step, self._owner.loop_thread, what)
        finally:
            self._free = True
            del step  # a raised error holds this frame

    def __del__(self) -> None:
        owner = self.__dict__.get("_owner")
        if owner is not None and owner.started and not owner.over:
            owner.loop_thread.post(owner.drop)


# -- iterables --------------------------------------------------------------------------------


class _IterationOwner(_Owner):
    """Drives an async iterator, item by item."""

    def __init__(self, loop_thread: LoopThread, source: Any) -> None:
        super().__init__(loop_thread, f"the iterator over {name_of(source)}")
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
            self._iterator = aiter(await _build(source, "__aiter__", "an async iterable"))
            self._anext = self._iterator.__anext__

    async def _first(self) -> Any:
        await self._begin()
        return await self._iterator.__anext__()

    def _tell_of_cancellation(self, step: _Step[Any]) -> None:
        if step.operation != self.close:
            self._cancelled_idle = False
            step.operation = functools.partial(self.throw, asyncio.CancelledError())

    def _too_late(self, step: _Step[Any]) -> None:
        if step.operation == self.close:
            step.result = None  # it is closed
            step.settle()
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


class SyncIterator(_Face, Iterator[_T_co]):
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

    def __init__(self, loop_thread: LoopThread, source: Any, size: int) -> None:
        super().__init__(loop_thread, source)
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

    def take(self, step: _Step[Any]) -> None:
        if step.operation == self.close:
            self._interrupt()
        super().take(step)

    def _tell_of_cancellation(self, step: _Step[Any]) -> None:
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

    def _too_late(self, step: _Step[Any]) -> None:
        if self.buffer and step.operation != self.close:
            step.result = self.buffer.popleft()
            step.settle()
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
            owner.loop_thread.post(owner.resume)
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
    executor: Executor, loop_thread: LoopThread, source: object, buffersize: int | None
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
        return _PrefetchIterator(executor, _PrefetchOwner(loop_thread, source, buffersize))
    owner = _IterationOwner(loop_thread, source)
    if hasattr(type(source), "athrow") or inspect.isasyncgenfunction(source):
        return SyncGenerator(executor, owner)
    return SyncIterator(executor, owner)


async def _build(source: Any, dunder: str, what: str) -> Any:
    """Return *source*, or what it makes, as something that has *dunder*."""
    # Looked up on the type: a class may have the method for its instances.
    if hasattr(type(source), dunder):
        return source
    made = source()
    if not hasattr(type(made), dunder) and inspect.isawaitable(made):
        made = await made
    if not hasattr(type(made), dunder):
        raise TypeError(f"{name_of(source)}() returned {made!r}, which is not {what}")
    return made


# -- context managers -------------------------------------------------------------------------


class _ContextOwner(_Owner, Generic[_T_co]):
    """Enters and leaves an async context manager."""

    def __init__(self, loop_thread: LoopThread, source: Any) -> None:
        super().__init__(loop_thread, f"the context {name_of(source)}")
        self._source = source
        self._context_manager: Any = None

    async def enter(self) -> _T_co:
        source, self._source = self._source, None
        manager = await _build(source, "__aenter__", "an async context manager")
        value: _T_co = await type(manager).__aenter__(manager)
        self._context_manager = manager
        return value

    async def exit(self, exc: BaseException | None) -> bool:
        """Leave, with *exc* from the body; True if the context manager suppresses it."""
        self.over = True
        if exc is None and self._cancelled_idle:
            exc = asyncio.CancelledError()
        manager, self._context_manager = self._context_manager, None
        if manager is None:
            return False
        if exc is None:
            await type(manager).__aexit__(manager, None, None, None)
        elif await type(manager).__aexit__(manager, type(exc), exc, exc.__traceback__):
            return True
        elif self._cancelled_idle and isinstance(exc, asyncio.CancelledError):
            raise exc
        return False

    async def _close(self) -> None:
        await self.exit(None)

    def refused(self) -> None:
        close_if_coroutine(self._source)

    def failed(self, exc: BaseException) -> None:
        if self._context_manager is None:
            self.over = True  # it could not be entered, or has been left

    def _too_late(self, step: _Step[Any]) -> None:
        # The shutdown has left the context before its user did.
        step.result = False
        step.settle()


class _SyncContext(_Face, AbstractContextManager[_T_co, bool]):
    """A synchronous context manager over an async one; usable once."""

    _owner: _ContextOwner[_T_co]
    _used = False

    def __enter__(self) -> _T_co:
        if self._used:
            raise RuntimeError(f"{self._owner.name} has been entered before: make another")
        self._used = True
        return self._step(self._owner.enter, "entering a context")

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool:
        if not self._owner.started:
            raise RuntimeError(f"{self._owner.name} has not been entered")
        leave = functools.partial(self._owner.exit, exc_val)
        return self._last_step(leave, "leaving a context") or False


def sync_context(
    executor: Executor, loop_thread: LoopThread, source: object
) -> AbstractContextManager[Any, Any]:
    """Make the synchronous face of an async context manager, or of a callable that returns one."""
    _check_context("sync_context()", source)
    return _SyncContext(executor, _ContextOwner(loop_thread, source))


def enter_context(loop_thread: LoopThread, source: object) -> Any:
    """Enter now, and leave at the end of the loop."""
    _check_context("enter_context()", source)
    owner: _ContextOwner[Any] = _ContextOwner(loop_thread, source)
    return _take(_Step(owner, owner.enter), loop_thread, "enter_context()")


def _check_context(what: str, source: object) -> None:
    if not hasattr(type(source), "__aenter__") and not callable(source):
        hint = ""
        if hasattr(type(source), "__enter__"):
            hint = ": it is a synchronous one, which needs no bridge"
        close_if_coroutine(source)
        raise TypeError(
            f"{what} takes an async context manager, or a callable that returns one, "
            f"not {source!r}{hint}"
        )


# -- functions --------------------------------------------------------------------------------


class _Synchronous(Generic[_P]):
    """A synchronous face of a function: its names, its binding to instances, its pickling."""

    __wrapped__: Callable[_P, Any]
    __name__: str
    __qualname__: str

    def __init__(
        self,
        fn: Callable[_P, Any],
        get_executor: Callable[[], Any],
        remake: Callable[[Callable[..., Any]], Any] | None,
    ) -> None:
        # Not the attributes of *fn*: one of them may say that it is a coroutine function.
        functools.update_wrapper(cast(Callable[..., Any], self), fn, updated=())
        self._get_executor = get_executor
        self._remake = remake

    def __get__(self, instance: object, owner: type[Any] | None = None, /) -> Any:
        wrapped: Any = self.__wrapped__
        if not hasattr(type(wrapped), "__get__"):
            return self
        bound = wrapped.__get__(instance, owner)
        if bound is wrapped:
            return self
        return type(self)(bound, self._get_executor, self._remake)

    def __repr__(self) -> str:
        return f"<synchronous {name_of(self.__wrapped__)} at {id(self):#x}>"

    def __reduce__(self) -> str | tuple[Any, ...]:
        # A method is found on its object, a decorated function under its own name; otherwise the
        # function is, and is made synchronous again.
        if isinstance(self.__wrapped__, MethodType):
            return getattr, (self.__wrapped__.__self__, self.__wrapped__.__name__)
        qualname: str = getattr(self, "__qualname__", "")
        found: Any = sys.modules.get(self.__module__)
        for name in qualname.split("."):
            found = getattr(found, name, None)
        if found is self:
            return qualname
        if self._remake is None:
            raise TypeError(
                f"{self!r} cannot be pickled, because its executor cannot: use palitra.sync, or "
                "decorate a function of a module"
            )
        return self._remake, (self.__wrapped__,)


class SyncFunction(_Synchronous[_P], Generic[_P, _T]):
    """A function that runs an async function on an executor's loop and waits for it.

    Made by `sync`. It has the name, the docstring and the signature of the async function.

    .. versionadded:: 0.2.0
    """

    __wrapped__: Callable[_P, Awaitable[_T]]

    def __call__(self, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        result: _T = self._get_executor().run(_call(self.__wrapped__, args, kwargs))
        return result

    def submit(self, /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Call without waiting, and return the `concurrent.futures.Future`."""
        future: Future[_T] = self._get_executor().submit(_call(self.__wrapped__, args, kwargs))
        return future


class SyncGeneratorFunction(_Synchronous[_P], Generic[_P, _T_co]):
    """A function that returns a synchronous iterator over what an async generator function makes.

    Made by `sync`. It has the name, the docstring and the signature of the async function.

    .. versionadded:: 0.2.0
    """

    def __call__(self, /, *args: _P.args, **kwargs: _P.kwargs) -> _T_co:
        iterator: _T_co = self._get_executor().sync_iter(self.__wrapped__(*args, **kwargs))
        return iterator


async def _call(
    fn: Callable[..., Awaitable[_T]], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> _T:
    result = fn(*args, **kwargs)
    if not inspect.isawaitable(result):
        raise TypeError(
            f"{name_of(fn)}() returned {result!r}, which cannot be awaited: sync() is for "
            "functions that return an awaitable"
        )
    return await result


def sync(
    fn: Any,
    get_executor: Callable[[], Any],
    remake: Callable[[Callable[..., Any]], Any] | None = None,
) -> Any:
    """Make a synchronous function of an async one, over whatever *get_executor* returns."""
    called = fn.__func__ if isinstance(fn, classmethod | staticmethod) else fn
    if not callable(called):
        hint = ": pass the function itself" if inspect.isawaitable(fn) else ""
        close_if_coroutine(fn)
        raise TypeError(f"sync() takes an async function, not {fn!r}{hint}")
    while isinstance(called, functools.partial):
        called = called.func
    if inspect.isasyncgenfunction(called) or inspect.isasyncgenfunction(type(called).__call__):
        return SyncGeneratorFunction(fn, get_executor, remake)
    return SyncFunction(fn, get_executor, remake)
