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
from ._words import close_if_coroutine

_P = ParamSpec("_P")
_T = TypeVar("_T")
_ExitT = TypeVar("_ExitT", bound=bool | None)


class _Made:
    """An executor that was made as the default, and the one that was made after its end."""

    def __init__(self) -> None:
        self.executor = AsyncLoopExecutor(thread_name_prefix="palitra")
        self.after: dict[str, _Made] = {}  # under one key


class _Place:
    """Holds the executor that somebody has set, or the latest that was made."""

    def __init__(self, executor: AsyncLoopExecutor | None = None) -> None:
        self.was_set = executor  # by `set_executor`; such an executor is never replaced
        self.made: dict[str, _Made] = {}  # under one key

    @property
    def current(self) -> AsyncLoopExecutor | None:
        made = self.made.get("latest")
        return self.was_set if made is None else made.executor


class _Default:
    """One executor for everybody: made on first use, and again after its end; or one that was set.

    A thread that finds no executor, or one that has ended, makes a new one. If several threads do
    so at once, `dict.setdefault` decides which one comes after that which has ended, and all use
    the same. A slow thread may note an older one as the latest again: that has ended, and leads to
    the one that came after it.

    Whoever sets an executor appends a new place to `_places`, and takes the first place away: so
    each executor that was there is returned once. No lock is held, so Ctrl-C can leave none held,
    and a forked child finds none.
    """

    def __init__(self) -> None:
        self._places = deque([_Place()])  # the last is the one that counts

    @property
    def current(self) -> AsyncLoopExecutor | None:
        """The present executor; None where there is none."""
        return self._places[-1].current

    def get(self) -> AsyncLoopExecutor:
        place = self._places[-1]
        if place.was_set is not None:
            return place.was_set  # if it has ended, its methods raise, and say why
        made = place.made.get("latest")
        if made is None:
            made = place.made.setdefault("latest", _Made())
        while not made.executor._service.usable:
            made = made.after.setdefault("next", _Made())
            place.made["latest"] = made
        return made.executor

    def set(self, executor: AsyncLoopExecutor | None) -> AsyncLoopExecutor | None:
        self._places.append(_Place(executor))
        place = self._places.popleft()
        before = place.current
        # An executor that has ended is of no use to the caller, unless somebody had set it.
        usable = before is not None and (before is place.was_set or before._service.usable)
        return before if usable else None

    def shutdown(self, wait: bool, cancel_futures: bool, timeout: float | None) -> None:
        executor = self.current
        if executor is not None:
            executor.shutdown(wait, cancel_futures=cancel_futures, timeout=timeout)


_default = _Default()


def get_executor() -> AsyncLoopExecutor:
    """Return the default executor of this process, made on first use and again after its end.

    Returns:
        The executor. If `set_executor` has set one, that one, until another is set.

    Raises:
        ValueError: A new executor is needed, and the environment variable
            ``PALITRA_STALL_TIMEOUT`` is not a number of seconds.

    Thread-safe; starts nothing.

    >>> import palitra
    >>> palitra.get_executor() is palitra.get_executor()
    True

    .. versionadded:: 0.2.0
    """
    return _default.get()


def set_executor(executor: AsyncLoopExecutor | None) -> AsyncLoopExecutor | None:
    """Set the default executor of this process, and return the one that was there.

    `palitra.run` and all other functions of the module, and what `palitra.sync` has decorated, use
    the new executor from then on. It may have limits, run on uvloop, or be over the application's
    loop (`AsyncLoopExecutor.from_loop`). An executor that was set is not replaced silently: after
    its end, uses raise until another is set.

    Args:
        executor: The executor. None: the next use makes one.

    Returns:
        The executor that was there, for the caller to shut down; None if there was none.

    Raises:
        TypeError: *executor* is neither an `AsyncLoopExecutor` nor None.
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
        CallTimeoutError: *timeout* is over; the message names what is still unfinished.
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

    Raises:
        OSError: *file* cannot be written to.

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

    Args:
        coro: The coroutine.
        timeout: Seconds after which the coroutine is cancelled; None: never.
        context: The context to run in; None: a copy of the caller's.

    Returns:
        The coroutine's result.

    Raises:
        BaseException: What the coroutine raised, unchanged.
        CallTimeoutError: *timeout* is over.
        KeyboardInterrupt: Ctrl-C; the coroutine is cancelled, and its clean-up awaited.
        NotImplementedError: *coro* is awaitable, but not a coroutine.
        TypeError: *coro* is neither.
        DeadlockError: The caller is on the loop's own thread.
        RuntimeError: The executor takes no more calls, or *context* is in use.
        concurrent.futures.BrokenExecutor: The loop has failed.

    Thread-safe. `AsyncLoopExecutor.run` says more.

    >>> import palitra
    >>> async def answer():
    ...     return 42
    >>> palitra.run(answer())
    42

    .. versionadded:: 0.2.0
    """
    try:
        executor = _default.get()
    except BaseException:
        close_if_coroutine(coro)
        raise
    return executor.run(coro, timeout=timeout, context=context)


def gather(
    *coros_or_futures: Awaitable[Any] | Future[Any],
    return_exceptions: bool = False,
    timeout: float | None = None,
) -> list[Any]:
    """Await all arguments on the default executor, concurrently; return a list of their results.

    Args:
        *coros_or_futures: Coroutines, other awaitables, and futures.
        return_exceptions: Whether exceptions are results like any other.
        timeout: Seconds after which the coroutines are cancelled; None: never.

    Returns:
        The results in the order of the arguments.

    Raises:
        BaseException: What the first to fail raised, unless *return_exceptions* is true.
        CallTimeoutError: *timeout* is over.
        KeyboardInterrupt: Ctrl-C; the coroutines are cancelled, and their clean-up awaited.
        TypeError: An argument cannot be awaited.
        ValueError: An `asyncio.Future` belongs to another loop.
        DeadlockError: The caller is on the loop's own thread.
        RuntimeError: The executor takes no more calls.
        concurrent.futures.BrokenExecutor: The loop has failed.

    Thread-safe. `AsyncLoopExecutor.gather` says more.

    >>> import palitra
    >>> async def double(x):
    ...     return 2 * x
    >>> palitra.gather(double(1), double(2))
    [2, 4]

    .. versionadded:: 0.2.0
    """
    try:
        try:
            executor = _default.get()
        except BaseException:
            for awaitable in coros_or_futures:
                close_if_coroutine(awaitable)
            raise
        return executor.gather(
            *coros_or_futures, return_exceptions=return_exceptions, timeout=timeout
        )
    finally:
        del coros_or_futures  # a raised error holds this frame, and may be that of a future


def get_loop() -> asyncio.AbstractEventLoop:
    """Return the running event loop of the default executor; start the loop if need be.

    Returns:
        The loop, which nobody but `shutdown` may stop or close.

    Raises:
        RuntimeError: The executor takes no more calls.
        concurrent.futures.BrokenExecutor: The loop has failed.

    Thread-safe.

    >>> import palitra
    >>> palitra.get_loop().is_running()
    True

    .. versionadded:: 0.2.0
    """
    return _default.get().get_loop()


def sync(fn: Callable[..., Any]) -> Any:
    """Make a synchronous function of an async one, over the default executor.

    The function uses whatever is the default executor at the time of each call, in the process of
    the call. So it can be pickled, as a function of a module can, and works in process pools and on
    other machines.

    Args:
        fn: An async function, an async generator function, or a function that returns an
            awaitable.

    Returns:
        A function with the name, the docstring and the signature of *fn*. Calling it raises what
        `run` raises; its ``submit`` returns a future instead.

    Raises:
        TypeError: *fn* is not callable.

    Thread-safe, and so is the function. `AsyncLoopExecutor.sync` says more.

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

    Args:
        aiterable: The async iterable, or a callable without arguments that returns one; it is
            called on the loop.
        buffersize: How many items to fetch ahead. None: each is fetched when it is asked for.

    Returns:
        An iterator that is a context manager too. Its `close`, the end of the ``with`` block, and
        the end of the last reference to it close the async iterator on the loop.

    Raises:
        TypeError: *aiterable* is neither, or *buffersize* is not an integer.
        ValueError: *buffersize* is less than 1.

    Thread-safe; the iterator is for one thread at a time. `AsyncLoopExecutor.sync_iter` says more.

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

    Args:
        acm: The async context manager, or a callable without arguments that returns one; it is
            called on the loop.

    Returns:
        A context manager, usable once. An exception of the ``with`` block reaches *acm*, and can be
        suppressed there. If nobody can finish the block, because the context manager is dropped or
        the interpreter exits, GeneratorExit reaches *acm*.

    Raises:
        TypeError: *acm* is neither.

    Thread-safe; the context manager is for one thread at a time. `AsyncLoopExecutor.sync_context`
    says more.

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

    Args:
        acm: The async context manager, or a callable without arguments that returns one (a class,
            say); it is called on the loop.

    Returns:
        What entering returned.

    Raises:
        TypeError: *acm* is neither.
        BaseException: What entering raised, and what `run` raises.

    Thread-safe. `AsyncLoopExecutor.enter_context` says more.

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

    The function uses whatever is the default executor at the time of each call, in the process of
    the call. So a pool of a module is opened in each process that uses it, after a fork and after
    `shutdown` too.

    Args:
        factory: A callable without arguments that returns an async context manager; it is called on
            the loop.

    Returns:
        A function without arguments. Its first call enters the context, and raises what entering
        raises and what `run` raises; each call returns the value of the context.

    Raises:
        TypeError: *factory* cannot be called, or is an async context manager itself.

    Thread-safe, and so is the function. `AsyncLoopExecutor.cached_context` says more.

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

    Args:
        fn: An async function, called in a copy of the caller's context.
        *args: Positional arguments for *fn*.
        **kwargs: Keyword arguments for *fn*.

    Returns:
        *fn*, so that this can be used as a decorator.

    Raises:
        TypeError: *fn* is not callable.
        RuntimeError: The executor takes no more calls.
        concurrent.futures.BrokenExecutor: The loop has failed.

    Thread-safe; inside a coroutine on the loop too.

    >>> import palitra
    >>> async def goodbye():
    ...     print("Goodbye!")
    >>> _ = palitra.push_async_callback(goodbye)
    >>> palitra.shutdown()
    Goodbye!

    .. versionadded:: 0.2.0
    """
    return _default.get().push_async_callback(fn, *args, **kwargs)
