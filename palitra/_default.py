"""The process-wide default executor, and the module's functions that use it."""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, ParamSpec, TextIO, TypeVar

from . import _report
from ._bridges import _contexts, _functions
from ._executor import AsyncLoopExecutor

_P = ParamSpec("_P")
_T = TypeVar("_T")
_ExitT = TypeVar("_ExitT", bound=bool | None)


class _Place:
    """Where a default executor is, if there is one, under one key."""

    def __init__(self, executor: AsyncLoopExecutor | None = None) -> None:
        self.current: dict[str, AsyncLoopExecutor] = {}
        self.was_set = executor  # by `set_executor`: it is never replaced
        if executor is not None:
            self.current["executor"] = executor


class _Default:
    """One executor for everybody: made on first use, and again after its end; or one that was set.

    A thread that finds none, or one that has ended, takes that one out and puts its own in, if no
    other thread has been faster: `dict.setdefault` says whose it is. Whoever sets an executor
    appends its place to the others, and takes the first of them away: so each executor that was
    there is returned once. No lock is held, so none can be left held by Ctrl-C or reach a forked
    child.
    """

    def __init__(self) -> None:
        self._places = deque([_Place()])  # the last is the one that counts

    @property
    def current(self) -> AsyncLoopExecutor | None:
        """The executor that there is."""
        return self._places[-1].current.get("executor")

    def get(self) -> AsyncLoopExecutor:
        place = self._places[-1]
        executor = place.current.get("executor")
        if executor is None or not executor._service.usable:
            return self._renewed(place, executor)
        return executor

    def _renewed(self, place: _Place, ended: AsyncLoopExecutor | None) -> AsyncLoopExecutor:
        if ended is not None:
            if ended is place.was_set:
                return ended  # it says itself why it takes no call
            _take_out(place.current, ended)
        return place.current.setdefault("executor", AsyncLoopExecutor(thread_name_prefix="palitra"))

    def set(self, executor: AsyncLoopExecutor | None) -> AsyncLoopExecutor | None:
        self._places.append(_Place(executor))
        place = self._places.popleft()
        before = place.current.get("executor")
        # Nobody can do anything with one that has ended, unless somebody has set it.
        usable = before is not None and (before is place.was_set or before._service.usable)
        return before if usable else None

    def shutdown(self, wait: bool, cancel_futures: bool, timeout: float | None) -> None:
        executor = self.current
        if executor is not None:
            executor.shutdown(wait, cancel_futures=cancel_futures, timeout=timeout)


def _take_out(current: dict[str, AsyncLoopExecutor], ended: AsyncLoopExecutor) -> None:
    """Remove *ended*, and nothing else that another thread may have put in its place."""
    taken = current.pop("executor", ended)
    if taken is not ended:
        current.setdefault("executor", taken)


_default = _Default()


def get_executor() -> AsyncLoopExecutor:
    """Return the default executor of this process, made on first use and again after its end.

    Where `set_executor` has set one, that one, until another is set.

    Thread-safe.

    >>> import palitra
    >>> palitra.get_executor() is palitra.get_executor()
    True

    .. versionadded:: 0.2.0
    """
    return _default.get()


def set_executor(executor: AsyncLoopExecutor | None) -> AsyncLoopExecutor | None:
    """Set the default executor of this process, and return the one that was there.

    `palitra.run` and all other functions of the module, and what `palitra.sync` has decorated, use
    it from then on: an executor with limits, on uvloop, or over the application's loop
    (`AsyncLoopExecutor.from_loop`). It is not replaced silently: after its end, uses raise until
    another is set.

    Args:
        executor: The executor. None: the next use makes one.

    Returns:
        The executor that was there, which the caller ends; None where there was none.

    Raises:
        TypeError: *executor* is no `AsyncLoopExecutor`.
        ValueError: *executor* has ended.

    Thread-safe.

    >>> import palitra
    >>> before = palitra.set_executor(palitra.AsyncLoopExecutor(max_workers=100))
    >>> if before is not None:
    ...     before.shutdown()
    >>> palitra.set_executor(None).shutdown()

    .. versionadded:: 0.2.0
    """
    if executor is not None:
        if not isinstance(executor, AsyncLoopExecutor):
            raise TypeError(f"set_executor() takes an AsyncLoopExecutor or None, not {executor!r}")
        executor._service.notice_lost_loop()
        if not executor._service.usable:
            raise ValueError(f"set_executor() takes an executor that takes calls, not {executor!r}")
    return _default.set(executor)


def shutdown(
    wait: bool = True, *, cancel_futures: bool = False, timeout: float | None = None
) -> None:
    """Shut down the default executor, if there is one; the next use makes a new one.

    Args:
        wait: Whether to return only when the calls are finished and the threads have ended.
        cancel_futures: Whether to cancel the calls that are unfinished.
        timeout: The most seconds to wait; None: no limit.

    Raises:
        CallTimeoutError: *timeout* is over; the message names what is still there.
        DeadlockError: *wait* is true, and the caller is on one of the executor's own threads.
        ValueError: A *timeout* without *wait*, or a negative one.

    Thread-safe. There is no need to call it: see `AsyncLoopExecutor.shutdown` for what it does, and
    the end of the interpreter does the same.

    >>> import palitra
    >>> palitra.shutdown()

    .. versionadded:: 0.2.0
    """
    _default.shutdown(wait, cancel_futures, timeout)


def dump(file: TextIO | None = None) -> None:
    """Write what all executors of this process do, for people: the default one first.

    For each: its state; whether the loop is idle, or where its thread stands; the worker threads;
    the contexts entered; and the calls in flight, oldest first, with their chains of awaits. Then
    the threads that wait for a call. What is long is cut, with a count.

    Args:
        file: Where to write; None: standard error.

    Thread-safe, also in a signal handler, while the loop is blocked, and after its end.

    >>> import palitra, sys
    >>> palitra.dump(sys.stdout)  # doctest: +ELLIPSIS
    palitra in process ...

    .. versionadded:: 0.2.0
    """
    executor = _default.current
    _report.dump(file, None if executor is None else executor._service)


def run(
    coro: Coroutine[Any, Any, _T],
    *,
    timeout: float | None = None,
    context: contextvars.Context | None = None,
) -> _T:
    """Run a coroutine on the default executor, wait for it, and return its result.

    Arguments, exceptions and thread-safety are those of `AsyncLoopExecutor.run`.

    >>> import palitra
    >>> async def answer():
    ...     return 42
    >>> palitra.run(answer())
    42

    .. versionadded:: 0.2.0
    """
    return _default.get().run(coro, timeout=timeout, context=context)


def gather(
    *coros_or_futures: Awaitable[Any] | Future[Any],
    return_exceptions: bool = False,
    timeout: float | None = None,
) -> list[Any]:
    """Await all arguments on the default executor, concurrently; return a list of their results.

    Arguments, exceptions and thread-safety are those of `AsyncLoopExecutor.gather`.

    >>> import palitra
    >>> async def double(x):
    ...     return 2 * x
    >>> palitra.gather(double(1), double(2))
    [2, 4]

    .. versionadded:: 0.2.0
    """
    try:
        return _default.get().gather(
            *coros_or_futures, return_exceptions=return_exceptions, timeout=timeout
        )
    finally:
        del coros_or_futures  # a raised error holds this frame, and may be that of a future


def get_loop() -> asyncio.AbstractEventLoop:
    """Return the running event loop of the default executor: `AsyncLoopExecutor.get_loop`.

    >>> import palitra
    >>> palitra.get_loop().is_running()
    True

    .. versionadded:: 0.2.0
    """
    return _default.get().get_loop()


def sync(fn: Callable[..., Any]) -> Any:
    """Make a synchronous function of an async one, over the default executor.

    Arguments and result are those of `AsyncLoopExecutor.sync`. The function uses the default
    executor of the process and the moment that it is called in: it pickles, as a function of a
    module does, and works in process pools and on other machines.

    >>> import palitra
    >>> @palitra.sync
    ... async def double(x):
    ...     return 2 * x
    >>> double(21)
    42

    .. versionadded:: 0.2.0
    """
    return _functions.sync(fn, get_executor, sync)


def sync_iter(
    aiterable: AsyncIterable[Any] | Callable[[], AsyncIterable[Any]],
    *,
    buffersize: int | None = None,
) -> Any:
    """Iterate over an async iterable from synchronous code, on the default executor.

    Arguments, result and exceptions are those of `AsyncLoopExecutor.sync_iter`.

    >>> import palitra
    >>> async def count(n):
    ...     for i in range(n):
    ...         yield i
    >>> list(palitra.sync_iter(count(3)))
    [0, 1, 2]

    .. versionadded:: 0.2.0
    """
    return _default.get().sync_iter(aiterable, buffersize=buffersize)


def sync_context(
    acm: AbstractAsyncContextManager[_T, _ExitT]
    | Callable[[], AbstractAsyncContextManager[_T, _ExitT]],
) -> AbstractContextManager[_T, _ExitT]:
    """Use an async context manager in a ``with`` statement, on the default executor.

    Arguments, result and exceptions are those of `AsyncLoopExecutor.sync_context`.

    >>> import contextlib, palitra
    >>> @contextlib.asynccontextmanager
    ... async def connect():
    ...     yield "a connection"
    >>> with palitra.sync_context(connect()) as connection:
    ...     connection
    'a connection'

    .. versionadded:: 0.2.0
    """
    return _default.get().sync_context(acm)


def enter_context(
    acm: AbstractAsyncContextManager[_T] | Callable[[], AbstractAsyncContextManager[_T]],
) -> _T:
    """Enter an async context manager on the default executor; leave it at the executor's end.

    Arguments, result and exceptions are those of `AsyncLoopExecutor.enter_context`.

    >>> import contextlib, palitra
    >>> @contextlib.asynccontextmanager
    ... async def pool():
    ...     yield "a pool"
    >>> palitra.enter_context(pool)
    'a pool'

    .. versionadded:: 0.2.0
    """
    return _default.get().enter_context(acm)


def cached_context(factory: Callable[[], AbstractAsyncContextManager[_T]]) -> Callable[[], _T]:
    """Make a function that enters an async context manager once, on the default executor.

    Arguments, result and exceptions are those of `AsyncLoopExecutor.cached_context`. The function
    uses the default executor of the process and the moment that it is called in: a pool that a
    module makes so is opened in each process that uses it, after a fork and after `shutdown` too.

    >>> import contextlib, palitra
    >>> @palitra.cached_context
    ... @contextlib.asynccontextmanager
    ... async def pool():
    ...     yield ["a pool"]
    >>> pool() is pool()
    True

    .. versionadded:: 0.2.0
    """
    return _contexts.cached_context(factory, get_executor)


def push_async_callback(
    fn: Callable[_P, Awaitable[_T]], /, *args: _P.args, **kwargs: _P.kwargs
) -> Callable[_P, Awaitable[_T]]:
    """Call and await *fn* at the default executor's end, last in first out.

    Arguments, result and exceptions are those of `AsyncLoopExecutor.push_async_callback`.

    >>> import palitra
    >>> async def goodbye():
    ...     print("Goodbye!")
    >>> _ = palitra.push_async_callback(goodbye)
    >>> palitra.shutdown()
    Goodbye!

    .. versionadded:: 0.2.0
    """
    return _default.get().push_async_callback(fn, *args, **kwargs)
