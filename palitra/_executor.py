"""AsyncLoopExecutor: a `concurrent.futures.Executor` over one event loop in a background thread."""

from __future__ import annotations

import asyncio
import contextvars
import enum
import functools
import inspect
import itertools
import os
import sys
import threading
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from inspect import CO_COROUTINE
from types import CoroutineType, FunctionType, TracebackType
from typing import Any, NoReturn, ParamSpec, Self, TypeGuard, TypeVar

from . import _report
from ._bridges import _contexts, _functions, _iterators
from ._calls import DeadlockError, RunCall
from ._ending import State
from ._futures import FutureCall
from ._gather import Gathering
from ._hosts import BorrowedLoop, Host, OwnLoop
from ._records import CallInfo
from ._results import Results
from ._service import Service
from ._stalls import StallWatch, stall_limit
from ._waiting import Deadline, clock, limit, waits_for
from ._words import close_if_coroutine, hint, name_of, user_traceback
from ._workers import default_number_of_threads, is_plain

_P = ParamSpec("_P")
_T = TypeVar("_T")
_ExitT = TypeVar("_ExitT", bound=bool | None)

_numbers = itertools.count()


class _Kind(enum.Enum):
    """What `submit` does with its first argument."""

    CALL = "call and await it on the loop"
    AWAIT = "await it on the loop"
    THREAD = "call it in a worker thread"


class AsyncLoopExecutor(Executor):
    """An executor that runs coroutines on one event loop, in a thread of its own.

    Coroutine functions and coroutines run on the loop, concurrently; any other callable runs in a
    worker thread, so that it never blocks the loop. Futures are `concurrent.futures.Future`s. The
    loop's thread starts with the first call. Leaving the ``with`` block calls `shutdown`.

    When the interpreter ends, the calls in flight are finished first; other threads can make calls
    as long as they live. Python 3.12 starts no thread after the end of the main thread. There, a
    call that needs a new thread by then, such as the first call of an executor, is refused with a
    RuntimeError.

    All methods may be called from any thread. Those that wait raise `DeadlockError` on the loop's
    own thread, where they would wait for themselves.

    Args:
        max_workers: The most coroutines from `submit` and `map` that are in flight at a time, and
            the most worker threads. None: any number of coroutines, and as many threads as
            `concurrent.futures.ThreadPoolExecutor` has by default.
        thread_name_prefix: What the names of the threads begin with.
        initializer: Called in each thread before its first call: the loop's, and the workers'.
            If it raises, the executor is broken: this and all later calls get
            `concurrent.futures.BrokenExecutor`.
        initargs: Arguments for *initializer*.
        loop_factory: Makes the event loop, in the loop's thread; `asyncio.new_event_loop` if None.
            If it raises, the executor is broken.
        debug: Whether the loop is in asyncio's debug mode; None: as the environment says.
        exit_timeout: The most seconds to wait for calls at the exit of the process, counted from
            the end of the main thread; None: no limit. After that, the calls in flight are
            cancelled, have a second for their clean-up, and are left behind: a log line names them,
            and their futures get `concurrent.futures.BrokenExecutor`.
        stall_timeout: Seconds. When user code has held the loop for that long, a warning on the
            logger ``palitra`` says which call holds the loop, and where; another warning follows
            when the loop goes on. None: what the environment variable ``PALITRA_STALL_TIMEOUT``
            says; 0: never.

    Raises:
        ValueError: *max_workers* is less than 1; or *exit_timeout*, *stall_timeout* or the
            environment variable is negative or not a number.
        TypeError: *max_workers* is not an integer, or *initializer* or *loop_factory* is not
            callable.

    Example:
        >>> import asyncio
        >>> from concurrent.futures import as_completed
        >>> from palitra import AsyncLoopExecutor
        >>> async def double(x):
        ...     await asyncio.sleep(0)
        ...     return 2 * x
        >>> with AsyncLoopExecutor() as executor:
        ...     futures = [executor.submit(double, x) for x in range(3)]
        ...     sorted(future.result() for future in as_completed(futures))
        [0, 2, 4]

    .. versionadded:: 0.2.0
    """

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
        debug: bool | None = None,
        exit_timeout: float | None = None,
        stall_timeout: float | None = None,
    ) -> None:
        for name, value in (("initializer", initializer), ("loop_factory", loop_factory)):
            if value is not None and not callable(value):
                raise TypeError(f"{name} must be a callable, not {value!r}")
        self._set_up(
            max_workers,
            thread_name_prefix,
            None if initializer is None else functools.partial(initializer, *initargs),
            exit_timeout,
            stall_timeout,
            functools.partial(OwnLoop, loop_factory, debug),
        )

    def _set_up(
        self,
        max_workers: int | None,
        thread_name_prefix: str,
        initialize: Callable[[], object] | None,
        exit_timeout: float | None,
        stall_timeout: float | None,
        make_host: Callable[[], Host],
    ) -> None:
        if max_workers is not None:
            if not isinstance(max_workers, int):
                raise TypeError(f"max_workers must be an integer or None, not {max_workers!r}")
            if max_workers < 1:
                raise ValueError("max_workers must be greater than 0")
        if exit_timeout is not None:
            exit_timeout = limit(exit_timeout, "exit_timeout")
        longest = stall_limit(stall_timeout)
        self._max_workers = default_number_of_threads() if max_workers is None else max_workers
        self._service = Service(
            name_prefix=thread_name_prefix or f"AsyncLoopExecutor-{next(_numbers)}",
            max_workers=max_workers,
            max_threads=self._max_workers,
            initialize=initialize,
            exit_timeout=exit_timeout,
            make_host=make_host,
            make_watch=functools.partial(StallWatch, timeout=longest) if longest else None,
        )

    @classmethod
    def from_loop(
        cls,
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        exit_timeout: float | None = None,
        stall_timeout: float | None = None,
    ) -> Self:
        """Make an executor over a loop that the application runs.

        Threads of the application then run coroutines on its own loop, with its clients and pools.
        The executor neither starts nor stops the loop. Its end waits for its own calls and leaves
        the contexts that were entered on it; on the loop's thread, end it with ``async with`` or
        `aclose`. If the loop ends first, unfinished calls get
        `concurrent.futures.BrokenExecutor`, and further ones are refused. While the loop is only
        stopped, calls wait.

        Args:
            loop: The loop. None: the one that runs where this is called.
            max_workers: As for the class.
            thread_name_prefix: What the names of the worker threads begin with.
            initializer: Called in each worker thread before its first call.
            initargs: Arguments for *initializer*.
            exit_timeout: Seconds, as for the class.
            stall_timeout: Seconds, as for the class.

        Returns:
            The executor.

        Raises:
            RuntimeError: *loop* is None, and no loop is running here; or *loop* is closed.
            ValueError: As for the class.
            TypeError: *loop* is not an event loop; and as for the class.

        Thread-safe. In a forked child the executor refuses calls: the loop is the parent's.

        >>> import asyncio, palitra
        >>> async def answer():
        ...     return 42
        >>> async def main():
        ...     async with palitra.AsyncLoopExecutor.from_loop() as executor:
        ...         return await asyncio.to_thread(executor.run, answer())
        >>> asyncio.run(main())
        42

        .. versionadded:: 0.2.0
        """
        if loop is None:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                raise RuntimeError(
                    "from_loop() without a loop takes the running one, and none is running here: "
                    "call it in a coroutine, or hand over the loop"
                ) from None
        if not isinstance(loop, asyncio.AbstractEventLoop):
            raise TypeError(f"from_loop() takes an event loop, not {loop!r}")
        if loop.is_closed():
            raise RuntimeError(f"from_loop() takes a loop that is not closed, not {loop!r}")
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer must be a callable, not {initializer!r}")
        executor = cls.__new__(cls)
        executor._set_up(
            max_workers,
            thread_name_prefix,
            None if initializer is None else functools.partial(initializer, *initargs),
            exit_timeout,
            stall_timeout,
            functools.partial(BorrowedLoop, loop, os.getpid()),
        )
        return executor

    def __del__(self, _is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # An executor that is dropped ends as if it had been shut down. The loop's thread keeps no
        # reference to the executor, so it does get dropped. While the interpreter is torn down,
        # nothing is left to end.
        service = self.__dict__.get("_service")  # not there if a bad argument was refused
        if service is not None and not _is_finalizing():
            service.ending.contexts.orphaned = True
            service.ending.shut_down()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool | None:
        try:
            # First: a block that is refused tells the contexts nothing.
            self._service.check_process()
            _refuse_to_wait_here(self._service)
            contexts = self._service.ending.contexts
            contexts.tell(exc_val)
            self.shutdown(wait=True)
            return contexts.have_suppressed(exc_val)
        finally:
            del exc_val, exc_tb

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool | None:
        try:
            # First, as in `__exit__`.
            self._service.check_process()
            _refuse_to_await_here(self._service)
            contexts = self._service.ending.contexts
            contexts.tell(exc_val)
            await self.aclose()
            return contexts.have_suppressed(exc_val)
        finally:
            del exc_val, exc_tb

    def __repr__(self) -> str:
        return f"<palitra.AsyncLoopExecutor at {id(self):#x}: {self._service.state.value}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an executor cannot be pickled: it belongs to this process; pickle a function made by "
            "palitra.sync, which uses the executor of the process that it is called in"
        )

    @property
    def _broken(self) -> str | bool:
        # The name is that of ThreadPoolExecutor's attribute, which other code looks at.
        ending = self._service.ending
        return str(ending.refusal()) if ending.state is State.BROKEN else False

    # -- the Executor interface ---------------------------------------------------------------

    def submit(
        self, fn: Callable[..., Any] | Coroutine[Any, Any, Any], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:
        """Schedule a call, and return its future.

        A coroutine function is called and awaited on the loop; a coroutine is awaited there. Any
        other callable is called in a worker thread; if it returns an awaitable, that is awaited on
        the loop. Each call runs in a copy of the caller's context (`contextvars`).

        Args:
            fn: A coroutine function, a coroutine, or any other callable.
            *args: Positional arguments for *fn*; none if it is a coroutine.
            **kwargs: Keyword arguments for *fn*; none if it is a coroutine.

        Returns:
            A `concurrent.futures.Future`. `cancel` of a coroutine in flight requests its
            cancellation and returns True; the future is `running` until the coroutine has finished
            its clean-up.

        Raises:
            TypeError: *fn* cannot be called or awaited, or is an async generator (see `sync_iter`).
            RuntimeError: The executor or the interpreter is shut down.
            concurrent.futures.BrokenExecutor: The loop has failed.

        Thread-safe; never blocks, but for the start of the loop at the first call.

        >>> import palitra
        >>> async def greet(name):
        ...     return f"Hello, {name}!"
        >>> with palitra.AsyncLoopExecutor() as executor:
        ...     executor.submit(greet, "Ada").result()
        'Hello, Ada!'

        .. versionadded:: 0.2.0
        """
        # The most usual kind first: to tell it takes no time. `_kind` tells all of them.
        if type(fn) is FunctionType and fn.__code__.co_flags & CO_COROUTINE:
            return _submit(self._service, _Kind.CALL, fn, args, kwargs)
        return _submit(self._service, _kind(fn), fn, args, kwargs)

    def submit_service(
        self, fn: Callable[..., Any] | Coroutine[Any, Any, Any], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:
        """Schedule a coroutine that runs beside the program, without an end of its own.

        As `submit`, but nobody waits for the coroutine to end. Once the other calls are over, a
        shutdown or the exit of the process cancels the coroutine, before entered contexts are left;
        its clean-up has a second. *max_workers* does not count it. If it ends by an exception that
        nobody has asked its future for, the loop's exception handler is told.

        Args:
            fn: A coroutine function or a coroutine.
            *args: Positional arguments for *fn*; none if it is a coroutine.
            **kwargs: Keyword arguments for *fn*; none if it is a coroutine.

        Returns:
            A `concurrent.futures.Future`; its `cancel` ends the service.

        Raises:
            TypeError: *fn* is neither.
            RuntimeError: The executor or the interpreter is shut down.
            concurrent.futures.BrokenExecutor: The loop has failed.

        Thread-safe; never blocks, but for the start of the loop at the first call.

        >>> import asyncio, palitra
        >>> async def heartbeat():
        ...     while True:
        ...         await asyncio.sleep(1)
        >>> with palitra.AsyncLoopExecutor() as executor:
        ...     service = executor.submit_service(heartbeat)
        >>> service.cancelled()
        True

        .. versionadded:: 0.2.0
        """
        kind = _kind(fn, "submit_service() takes a coroutine function or a coroutine")
        if kind is _Kind.THREAD:
            raise TypeError(
                f"submit_service() takes a coroutine function or a coroutine, not {fn!r}: use "
                "submit() for a function that runs in a thread"
            )
        return _submit(self._service, kind, fn, args, kwargs, is_service=True)

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[Any]:
        """Call *fn* for each tuple of items, all at once, and iterate over the results in order.

        Args:
            fn: What `submit` takes, except coroutines.
            *iterables: As many as *fn* has parameters; the shortest ends the iteration.
            timeout: Seconds from now after which the iterator raises; None: never.
            chunksize: Ignored, as by thread pools.
            buffersize: The most calls whose results have not been taken yet; the iterables are read
                no further than that. None: they are read to their end at once.

        Returns:
            An iterator. It raises what a call raised when that call's turn comes. Closing the
            iterator, or dropping it, cancels the calls that are left. But plain callables run, as
            in a thread pool, where the iterator is dropped before anything was read from it.

        Raises:
            TimeoutError: From the iterator, when *timeout* is over.
            TypeError: *buffersize* is not an integer, or *fn* is nothing that `submit` takes.
            ValueError: *buffersize* is less than 1. From the iterator, while another thread reads.
            RuntimeError: The executor is shut down.
            concurrent.futures.BrokenExecutor: The loop has failed.

        Thread-safe; the iterator is for one thread at a time.

        >>> import palitra
        >>> async def double(x):
        ...     return 2 * x
        >>> with palitra.AsyncLoopExecutor() as executor:
        ...     list(executor.map(double, range(3)))
        [0, 2, 4]

        .. versionadded:: 0.2.0
        """
        if buffersize is not None:
            if not isinstance(buffersize, int):
                raise TypeError("buffersize must be an integer or None")
            if buffersize < 1:
                raise ValueError("buffersize must be None or > 0")
        deadline = None if timeout is None else clock() + timeout
        submit = functools.partial(self.submit, fn)  # it may be replaced on the instance
        # Not `zip`, which would keep the arguments of the last call alive.
        calls = map(submit, *iterables) if iterables else iter(())
        return Results(calls, buffersize, deadline, runs_unread=_runs_in_a_thread(fn))

    def shutdown(
        self, wait: bool = True, *, cancel_futures: bool = False, timeout: float | None = None
    ) -> None:
        """Accept no more calls, finish those there are, leave entered contexts, close the loop.

        Tasks that user code started beside the calls are cancelled, and async generators closed, as
        `asyncio.run` does. A second call does no harm, and can wait or cancel where the first one
        did not.

        Args:
            wait: Whether to return only when all of this is done and the threads have ended.
            cancel_futures: Whether to cancel the calls that are unfinished, including coroutines in
                flight and those of `run` and `gather`. A callable that runs in a worker thread
                cannot be cancelled, nor can an awaitable that it then returns. What leaves a
                context or closes an iterator just then is not cancelled. Services are cancelled
                after the calls.
            timeout: The most seconds to wait; None: no limit. The executor goes on ending when the
                limit has passed, and this can be called again. If the process exits before that,
                the exit cancels what is left, gives it a second, and leaves it behind.

        Raises:
            CallTimeoutError: *timeout* is over; the message names what is still there.
            DeadlockError: *wait* is true, and the caller is on one of the executor's own threads;
                nothing is changed.
            ValueError: A *timeout* without *wait*, or a negative one.

        Thread-safe.

        >>> import palitra
        >>> executor = palitra.AsyncLoopExecutor()
        >>> executor.shutdown(timeout=5)

        .. versionadded:: 0.2.0
        """
        if timeout is not None:
            timeout = limit(timeout, "timeout")
            if not wait:
                raise ValueError("shutdown(wait=False) waits for nothing: it takes no timeout")
        self._service.check_process()
        if wait:
            _refuse_to_wait_here(self._service)
        self._service.ending.shut_down()
        if cancel_futures:
            self._service.ending.cancel_calls()
        if wait:
            self._service.join(timeout)

    async def aclose(self, *, cancel_futures: bool = False) -> None:
        """Shut down as `shutdown` does, for async code: wait without blocking the caller's loop.

        ``async with`` calls this method at the end of its block, and an exception of the block
        reaches the entered contexts, as in ``with``. If the waiting is cancelled, the executor goes
        on ending.

        Args:
            cancel_futures: Whether to cancel the calls that are unfinished, as for `shutdown`.

        Raises:
            DeadlockError: The caller is one of the executor's own calls, or on one of its threads,
                or at the clean-up of its end, and would wait for itself; nothing is changed.

        Thread-safe, on any event loop.

        >>> import asyncio, palitra
        >>> async def main():
        ...     async with palitra.AsyncLoopExecutor() as executor:
        ...         return executor.submit(pow, 2, 3)
        >>> asyncio.run(main()).result()
        8

        .. versionadded:: 0.2.0
        """
        service = self._service
        service.check_process()
        _refuse_to_await_here(service)
        loop = asyncio.get_running_loop()
        service.ending.shut_down()
        if cancel_futures:
            service.ending.cancel_calls()
        await service.ending.over.on(loop)
        for stopped in list(service.workers.threads.values()):
            await stopped.on(loop)
        service.wait_for_end(Deadline(None))

    def on_loop(self) -> bool:
        """Tell whether the caller is on the loop's own thread, where blocking calls never return.

        For code that is called from both sides. With a second executor, such code can write
        ``(other if executor.on_loop() else executor).run(coro)``.

        Returns:
            True on the loop's own thread, and False elsewhere.

        Thread-safe; raises nothing.

        >>> import palitra
        >>> async def on_loop():
        ...     return executor.on_loop()
        >>> with palitra.AsyncLoopExecutor() as executor:
        ...     executor.on_loop(), executor.run(on_loop())
        (False, True)

        .. versionadded:: 0.2.0
        """
        return self._service.on_loop()

    def calls(self) -> list[CallInfo]:
        """Return a record of each call in flight, oldest first: what it is, and where it stands.

        Returns:
            A list of `CallInfo`; empty before the first call and after the end.

        Thread-safe; raises nothing. Never waits for the loop, except on free-threaded builds: there
        the loop is asked where its coroutines wait, for half a second at most.

        >>> import asyncio, palitra
        >>> async def wait_for_ever():
        ...     await asyncio.Event().wait()
        >>> with palitra.AsyncLoopExecutor() as executor:
        ...     future = executor.submit(wait_for_ever)
        ...     [(call.name, call.kind) for call in executor.calls()]
        ...     future.cancel()
        [('wait_for_ever', 'submit')]
        True

        .. versionadded:: 0.2.0
        """
        self._service.check_process()
        return _report.calls(self._service)

    # -- blocking calls -----------------------------------------------------------------------

    def run(
        self,
        coro: Coroutine[Any, Any, _T],
        *,
        timeout: float | None = None,
        context: contextvars.Context | None = None,
    ) -> _T:
        """Run a coroutine on the loop, wait for it, and return its result.

        Args:
            coro: The coroutine.
            timeout: Seconds after which the coroutine is cancelled; None: never. The coroutine then
                has a second for its clean-up. If that is not enough, or if the loop is blocked, the
                exception carries a note that says where the loop's thread stands.
            context: The context to run in, which nobody else may enter meanwhile; None: a copy of
                the caller's.

        Returns:
            The coroutine's result.

        Raises:
            BaseException: What the coroutine raised, unchanged.
            CallTimeoutError: *timeout* is over.
            KeyboardInterrupt: Ctrl-C. The coroutine is cancelled, and its clean-up awaited; a
                second Ctrl-C ends that waiting. The same goes for any other exception that a signal
                handler raises.
            NotImplementedError: *coro* is awaitable, but not a coroutine.
            TypeError: *coro* is neither.
            DeadlockError: The caller is on the loop's own thread.
            RuntimeError: The executor is shut down, or *context* is in use.
            concurrent.futures.BrokenExecutor: The loop has failed.

        Thread-safe. Not counted by *max_workers*.

        >>> import palitra
        >>> async def answer():
        ...     return 42
        >>> with palitra.AsyncLoopExecutor() as executor:
        ...     executor.run(answer(), timeout=5)
        42

        .. versionadded:: 0.2.0
        """
        if type(coro) is not CoroutineType:
            _check_coroutine(coro)
        if timeout is not None or context is not None:
            timeout = self._checked(coro, timeout, context)
        call = RunCall(self._service, coro, context)
        try:
            return call.wait("run()", timeout)
        except BaseException as exc:
            raise user_traceback(exc)  # noqa: B904  (the same exception, without frames of ours)
        finally:
            del call, coro  # a raised error holds this frame

    def _checked(
        self,
        coro: Coroutine[Any, Any, Any],
        timeout: float | None,
        context: contextvars.Context | None,
    ) -> float | None:
        try:
            if context is not None:
                self._service.refuse_on_loop("run()")
                context.run(int)  # raises if the context is in use: the loop could not enter it
            return None if timeout is None else _seconds(timeout)
        except BaseException:
            coro.close()
            raise

    def gather(
        self,
        *coros_or_futures: Awaitable[Any] | Future[Any],
        return_exceptions: bool = False,
        timeout: float | None = None,
    ) -> list[Any]:
        """Await all arguments on the loop, concurrently, and return a list of their results.

        On the first failure, after *timeout*, and on Ctrl-C, the coroutines are cancelled and their
        clean-up awaited; then the exception is raised. Futures are awaited but never cancelled.

        Args:
            *coros_or_futures: Coroutines, other awaitables, `concurrent.futures.Future`s, and
                `asyncio.Future`s of this loop.
            return_exceptions: Whether exceptions are results like any other.
            timeout: Seconds after which the coroutines are cancelled, as for `run`; None: never.

        Returns:
            The results in the order of the arguments.

        Raises:
            BaseException: What the first to fail raised, unless *return_exceptions* is true.
            CallTimeoutError: *timeout* is over.
            KeyboardInterrupt: Ctrl-C, as for `run`.
            ValueError: An `asyncio.Future` belongs to another loop.
            TypeError: An argument cannot be awaited.
            DeadlockError: The caller is on the loop's own thread.
            RuntimeError: The executor is shut down.
            concurrent.futures.BrokenExecutor: The loop has failed.

        Thread-safe. Not counted by *max_workers*.

        >>> import palitra
        >>> async def double(x):
        ...     return 2 * x
        >>> with palitra.AsyncLoopExecutor() as executor:
        ...     executor.gather(double(1), double(2))
        [2, 4]

        .. versionadded:: 0.2.0
        """
        gathering = Gathering(self._service, coros_or_futures, return_exceptions)
        try:
            self._service.refuse_on_loop("gather()")
            coro = gathering.run()
            timeout = self._checked(coro, timeout, None)
            return RunCall(self._service, coro, None, gathering.tasks).wait("gather()", timeout)
        except BaseException as exc:
            raise user_traceback(exc)  # noqa: B904  (the same exception, without a frame of ours)
        finally:
            gathering.close()
            # A raised error holds this frame, and may be that of a future that was handed in.
            del gathering, coros_or_futures

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the running event loop; start the loop if need be.

        For code that wants the loop itself (``loop.call_soon_threadsafe``, and libraries that take
        a loop).

        Returns:
            The loop, which nobody but `shutdown` may stop or close.

        Raises:
            RuntimeError: The executor is shut down.
            concurrent.futures.BrokenExecutor: The loop has failed.

        Thread-safe.

        >>> import palitra
        >>> with palitra.AsyncLoopExecutor() as executor:
        ...     executor.get_loop().is_running()
        True

        .. versionadded:: 0.2.0
        """
        return self._service.loop()

    # -- bridges ------------------------------------------------------------------------------

    def sync(self, fn: Callable[..., Any]) -> Any:
        """Make a synchronous function of an async one.

        Works as a decorator, on functions, methods and callable objects, inside or outside of
        ``classmethod`` and ``staticmethod``. Since Python 3.13, the `submit` of a class method
        passes the class on only where `sync` is the outer decorator.

        Args:
            fn: An async function, an async generator function, or a function that returns an
                awaitable.

        Returns:
            A function with the name, the docstring and the signature of *fn*, and *fn* itself as
            ``__wrapped__``. Calling it raises what `run` raises, and TypeError if a plain *fn*
            returns something that cannot be awaited. Its ``submit`` returns a future instead of
            waiting. If *fn* is an async generator function: a function that returns what
            `sync_iter` returns.

        Raises:
            TypeError: *fn* is not callable.

        Thread-safe, and so is the function.

        >>> import palitra
        >>> executor = palitra.AsyncLoopExecutor()
        >>> @executor.sync
        ... async def double(x):
        ...     return 2 * x
        >>> double(21)
        42
        >>> double.submit(4).result()
        8
        >>> executor.shutdown()

        .. versionadded:: 0.2.0
        """
        return _functions.sync(fn, lambda: self)

    def sync_iter(
        self,
        aiterable: AsyncIterable[Any] | Callable[[], AsyncIterable[Any]],
        *,
        buffersize: int | None = None,
    ) -> Any:
        """Iterate over an async iterable from synchronous code.

        Args:
            aiterable: The async iterable, or a callable without arguments that returns one; it is
                called on the loop.
            buffersize: How many items to fetch ahead. None: each is fetched when it is asked for.

        Returns:
            An iterator that is a context manager too. Its `close`, the end of the ``with`` block,
            the end of the last reference to the iterator, and `shutdown` close the async iterator
            on the loop. The iterator over an async generator has ``send`` and ``throw``, unless
            *buffersize* is given. One task runs the async iterable from beginning to end.

        Raises:
            TypeError: *aiterable* is neither, or *buffersize* is not an integer.
            ValueError: *buffersize* is less than 1.

        Thread-safe; the iterator is for one thread at a time.

        >>> import palitra
        >>> async def count(n):
        ...     for i in range(n):
        ...         yield i
        >>> with palitra.AsyncLoopExecutor() as executor:
        ...     list(executor.sync_iter(count(3)))
        [0, 1, 2]

        .. versionadded:: 0.2.0
        """
        return _iterators.sync_iter(self, self._service, aiterable, buffersize)

    def sync_context(
        self,
        acm: AbstractAsyncContextManager[_T, _ExitT]
        | Callable[[], AbstractAsyncContextManager[_T, _ExitT]],
    ) -> AbstractContextManager[_T, _ExitT]:
        """Use an async context manager in a ``with`` statement.

        An exception in the block reaches the async context manager as it is, and can be suppressed
        there. One task enters and leaves the async context manager.

        A cancel scope or a task group inside may end while the block still runs. It is then left at
        once, and the end of the block raises what the end of an ``async with`` would raise. If the
        block has raised an exception itself, that one goes on, with the scope's as its context, or
        joins the group that a task group raises.

        On the loop's own thread, which cannot wait, the end of the block only requests that the
        context be left.

        Args:
            acm: The async context manager, or a callable without arguments that returns one; it is
                called on the loop.

        Returns:
            A context manager, usable once. A shutdown leaves the context if it is still entered, as
            the end of the block would. If the context manager is dropped while it is entered, or
            the interpreter exits, nobody can finish the block: the async context manager then gets
            GeneratorExit, as a generator does that is dropped.

        Raises:
            TypeError: *acm* is neither.

        Thread-safe; the context manager is for one thread at a time.

        >>> import contextlib, palitra
        >>> @contextlib.asynccontextmanager
        ... async def connect():
        ...     yield "a connection"
        >>> with palitra.AsyncLoopExecutor() as executor:
        ...     with executor.sync_context(connect()) as value:
        ...         value
        'a connection'

        .. versionadded:: 0.2.0
        """
        return _contexts.sync_context(self, self._service, acm)

    def enter_context(
        self,
        acm: AbstractAsyncContextManager[_T] | Callable[[], AbstractAsyncContextManager[_T]],
    ) -> _T:
        """Enter an async context manager now; leave it at `shutdown`, or when the interpreter ends.

        So a connection pool lives as long as the loop. The context that was entered last is left
        first. If leaving one raises, that is reported to the loop's exception handler, and the
        others are still left. A context that ends by itself is reported to that handler at once.

        Args:
            acm: The async context manager, or a callable without arguments that returns one (a
                class, say); it is called on the loop.

        Returns:
            What entering returned.

        Raises:
            TypeError: *acm* is neither.
            BaseException: What entering raised, and what `run` raises.

        Thread-safe.

        >>> import contextlib, palitra
        >>> @contextlib.asynccontextmanager
        ... async def pool():
        ...     yield "a pool"
        ...     print("closed")
        >>> with palitra.AsyncLoopExecutor() as executor:
        ...     executor.enter_context(pool)
        'a pool'
        closed

        .. versionadded:: 0.2.0
        """
        value: _T = _contexts.enter_context(self._service, acm)
        return value

    def cached_context(
        self, factory: Callable[[], AbstractAsyncContextManager[_T]]
    ) -> Callable[[], _T]:
        """Make a function that enters an async context manager once, and returns its value.

        The function's first call, in each process and in each life of the executor, calls *factory*
        on the loop and enters the context; if several threads come first at once, only one of them
        does so. From then on the function returns the same value, on the loop's own thread too. The
        context is left as those of `enter_context` are. A context that ends by itself is reported
        to the loop's exception handler, and the next call enters a new one.

        Args:
            factory: A callable without arguments that returns an async context manager. So
                `cached_context` can decorate a function made by `contextlib.asynccontextmanager`.

        Returns:
            A function without arguments, with the name and the docstring of *factory*. It raises
            what entering raised, and what `run` raises. If the first call fails or is interrupted,
            the threads that wait for it get the same error, and the next call tries again. On the
            loop's own thread, a first call raises `DeadlockError`.

        Raises:
            TypeError: *factory* cannot be called, or is an async context manager itself.

        Thread-safe, and so is the function.

        >>> import contextlib, palitra
        >>> executor = palitra.AsyncLoopExecutor()
        >>> @executor.cached_context
        ... @contextlib.asynccontextmanager
        ... async def pool():
        ...     print("opened")
        ...     yield "a pool"
        ...     print("closed")
        >>> pool(), pool()
        opened
        ('a pool', 'a pool')
        >>> executor.shutdown()
        closed

        .. versionadded:: 0.2.0
        """
        return _contexts.cached_context(factory, lambda: self)

    def push_async_callback(
        self, fn: Callable[_P, Awaitable[_T]], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> Callable[_P, Awaitable[_T]]:
        """Call and await *fn* at `shutdown`, or when the interpreter ends, last in first out.

        Args:
            fn: An async function, called in a copy of the caller's context.
            *args: Positional arguments for *fn*.
            **kwargs: Keyword arguments for *fn*.

        Returns:
            *fn*, so that this can be used as a decorator.

        Raises:
            TypeError: *fn* is not callable.
            RuntimeError: The executor is shut down.
            concurrent.futures.BrokenExecutor: The loop has failed.

        Thread-safe; inside a coroutine on the loop too.

        >>> import palitra
        >>> async def goodbye(name):
        ...     print(f"Goodbye, {name}!")
        >>> with palitra.AsyncLoopExecutor() as executor:
        ...     _ = executor.push_async_callback(goodbye, "Ada")
        Goodbye, Ada!

        .. versionadded:: 0.2.0
        """
        if not callable(fn):
            close_if_coroutine(fn)
            raise TypeError(f"push_async_callback() takes an async function, not {fn!r}")
        context = contextvars.copy_context()
        service = self._service  # not `self`: what waits to be left must not keep the executor

        async def call() -> None:
            await fn(*args, **kwargs)

        async def leave(_: BaseException | None) -> None:
            await service.create_task(call(), context, fn)

        async def push() -> None:
            service.ending.add_exit(leave)

        leave.__qualname__ = name_of(fn)
        if service.on_loop():
            service.loop()  # which begins here, if this is the first use
            service.ending.add_exit(leave)
        else:
            self.run(push())
        return fn


def _runs_in_a_thread(fn: object) -> bool:
    try:
        return _kind(fn) is _Kind.THREAD
    except Exception:  # `submit` says what is wrong, or was replaced and takes something else
        return False


def _kind(fn: object, takes: str = "submit() takes a callable or a coroutine") -> _Kind:
    """Tell what `submit` is to do with *fn*; raise TypeError if nothing can be done."""
    if is_plain(fn):
        return _Kind.THREAD
    if _is_coroutine(fn):
        return _Kind.AWAIT
    called = fn
    while isinstance(called, functools.partial):
        called = called.func
    if inspect.isasyncgen(fn) or _is(inspect.isasyncgenfunction, called):
        raise TypeError(f"{takes}, not {fn!r}{hint(called)}")
    if not callable(fn):
        raise TypeError(f"{takes}, not {fn!r}{hint(fn)}")
    if _is(inspect.iscoroutinefunction, called) or inspect.iscoroutinefunction(
        type(called).__call__
    ):
        return _Kind.CALL
    return _Kind.THREAD


def _is(asked: Callable[[object], bool], obj: object) -> bool:
    """Whether *obj* is what *asked* looks for; not if its attributes raise, as a proxy's may."""
    try:
        return asked(obj)
    except Exception:
        return False


def _submit(
    service: Service,
    kind: _Kind,
    fn: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    is_service: bool = False,
) -> Future[Any]:
    call: FutureCall[Any]
    if kind is _Kind.AWAIT:
        if args or kwargs:
            fn.close()
            raise TypeError("a coroutine takes no arguments: pass the function and its arguments")
        call = FutureCall(service, fn, None, None)
    else:
        call = FutureCall(service, fn, args, kwargs or None)
    if is_service:
        call.kind = "service"
    try:
        service.accept(call, call if kind is _Kind.THREAD else None)
    except BaseException:
        # Withdraw a call that was refused or interrupted. If Ctrl-C comes once more, the loop does
        # so: nothing can interrupt the next two lines, which tell the loop.
        call.withdrawn = True
        service.inbox.items.append(call)
        call.cancel()
        service.inbox.ring()
        raise
    return call


def _is_coroutine(obj: object) -> TypeGuard[Coroutine[Any, Any, Any]]:
    # Before 3.12, asyncio takes plain generators for coroutines; those cannot be awaited.
    return asyncio.iscoroutine(obj) and inspect.isawaitable(obj)


def _check_coroutine(obj: object) -> None:
    if _is_coroutine(obj):
        return
    if inspect.isawaitable(obj):
        raise NotImplementedError(
            f"run() takes a coroutine, not {obj!r}: use gather(), or await it in a coroutine"
        )
    raise TypeError(f"run() takes a coroutine, not {obj!r}{hint(obj)}")


def _seconds(timeout: float) -> float:
    """Return *timeout* as a number that a lock takes; raise TypeError if it is not a number."""
    return max(0.0, min(float(timeout), threading.TIMEOUT_MAX))


def _refuse_to_wait_here(service: Service) -> None:
    """Raise if the caller is on a thread that the end waits for: nothing is changed then."""
    if service.is_own_thread():
        raise DeadlockError(
            "shutdown(wait=True) would wait for the thread that it is called on; "
            "use shutdown(wait=False) there, or await aclose()"
        )


def _refuse_to_await_here(service: Service) -> None:
    """Raise if the caller is part of what the end waits for: nothing is changed then."""
    task = asyncio.current_task()
    if service.on_loop() and any(
        call.takes_first_step or waits_for(call.task, task) for call in service.calls.snapshot()
    ):
        raise DeadlockError(
            "aclose() would wait for the call that it is called in: use shutdown(wait=False) there"
        )
    if waits_for(service.ending.clean_up, task):
        raise DeadlockError(
            "aclose() would wait for the clean-up that it is called in, which is that of the "
            "executor's own end: leave it out there"
        )
    if service.is_own_thread() and not (service.on_loop() and service.host.is_borrowed):
        raise DeadlockError(
            "aclose() would wait for the end of the thread that it runs on: use "
            "shutdown(wait=False) there"
        )
