"""What palitra 0.1.0 had: EventLoopThreadRunner and two functions. All of it goes on working."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from types import MethodType, TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from . import _default
from ._calls import DeadlockError
from ._executor import AsyncLoopExecutor
from ._gather import Gathering
from ._hosts import current_service
from ._words import close_if_coroutine

_P = ParamSpec("_P")
_T = TypeVar("_T")


class _Shared(staticmethod, Generic[_P, _T]):  # type: ignore[type-arg]
    """A method that can be called on the class too; its first argument is the instance or class.

    It derives from `staticmethod` because the stubs say so: type checkers know no other method that
    can be called on an instance and on its class alike.
    """

    def __init__(
        self, fn: Callable[Concatenate[EventLoopThreadRunner | type[EventLoopThreadRunner], _P], _T]
    ) -> None:
        super().__init__(fn)

    def __get__(self, runner: Any, owner: type | None = None) -> Callable[_P, _T]:
        return MethodType(self.__func__, owner if runner is None else runner)


class EventLoopThreadRunner:
    """An event loop in a thread of its own, as palitra 0.1.0 had it.

    An instance has its own loop, which `close` or the end of a ``with`` block closes. On the class
    itself, `run`, `gather` and `get_loop` use the default executor, as in palitra's first README.

    New code uses an `AsyncLoopExecutor` instead of an instance, and `palitra.run`, `palitra.gather`
    and `palitra.get_loop` instead of the class's functions.

    All methods may be called from any thread.

    Raises:
        RuntimeError: The thread of the loop cannot start.

    Example:
        >>> from palitra import EventLoopThreadRunner
        >>> async def double(x):
        ...     return 2 * x
        >>> with EventLoopThreadRunner() as runner:
        ...     runner.run(double(21))
        ...     runner.gather(double(1), double(2))
        42
        [2, 4]
        >>> EventLoopThreadRunner.run(double(21))
        42

    .. versionadded:: 0.1.0
    """

    def __init__(self) -> None:
        self._executor = AsyncLoopExecutor(thread_name_prefix="LoopThread")
        # The loop as it was last seen. After the end, `get_loop` returns this one, closed.
        self._loop = self._executor.get_loop()

    @_Shared
    def run(
        self: EventLoopThreadRunner | type[EventLoopThreadRunner],
        coro: Coroutine[Any, Any, _T],
        *,
        timeout: float | None = None,
        debug: bool | None = None,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
        context: contextvars.Context | None = None,
    ) -> _T:
        """Run a coroutine, wait for it, and return its result.

        New code writes `palitra.run`, or `AsyncLoopExecutor.run`.

        Args:
            coro: The coroutine. An instance takes any awaitable, as in 0.1.0.
            timeout: Seconds after which the coroutine is cancelled; None: never.
            debug: Turns the loop's debug mode on or off, for all that runs there from now on; None:
                leaves the mode as it is. New code writes ``AsyncLoopExecutor(debug=True)``.
            loop_factory: Must be None, as in 0.1.0. New code writes
                ``AsyncLoopExecutor(loop_factory=...)``.
            context: The context to run in; None: a copy of the caller's.

        Returns:
            The coroutine's result.

        Raises:
            BaseException: What the coroutine raised, unchanged.
            CallTimeoutError: *timeout* is over.
            NotImplementedError: *loop_factory* is not None; or *coro* is awaitable, but not a
                coroutine, and `run` was called on the class.
            TypeError: *coro* cannot be awaited.
            DeadlockError: The caller is on the loop's own thread.
            RuntimeError: The runner is closed.

        Thread-safe.

        >>> import asyncio, palitra
        >>> with palitra.EventLoopThreadRunner() as runner:
        ...     runner.run(asyncio.sleep(0.01, "done"), timeout=5, debug=False)
        'done'

        .. versionadded:: 0.1.0
        """
        if loop_factory is not None:
            close_if_coroutine(coro)
            raise NotImplementedError(
                "run() cannot change the event loop that is running: write "
                "AsyncLoopExecutor(loop_factory=...) and use its run()"
            )
        if debug is not None:
            get_loop = _default.get_loop if isinstance(self, type) else self._executor.get_loop
            try:
                get_loop().set_debug(debug)
            except BaseException:
                close_if_coroutine(coro)
                raise
        # What is neither coroutine nor awaitable is refused below.
        if not (isinstance(self, type) or asyncio.iscoroutine(coro)) and inspect.isawaitable(coro):
            coro = _await(coro)
        run = _default.run if isinstance(self, type) else self._executor.run
        return run(coro, timeout=timeout, context=context)

    @_Shared
    def gather(
        self: EventLoopThreadRunner | type[EventLoopThreadRunner],
        *coros_or_futures: Awaitable[Any] | Future[Any],
        return_exceptions: bool = False,
        timeout: float | None = None,
    ) -> Any:
        """Await all arguments concurrently, and return a list of their results.

        New code writes `palitra.gather`, or `AsyncLoopExecutor.gather`; inside a coroutine,
        `asyncio.gather` or a task group.

        Args:
            *coros_or_futures: Coroutines, other awaitables, and futures.
            return_exceptions: Whether exceptions are results like any other.
            timeout: Seconds after which the coroutines are cancelled; None: never.

        Returns:
            The results in the order of the arguments. Inside a coroutine, where `gather` cannot
            wait, the class's `gather` returns an awaitable of the results.

        Raises:
            BaseException: What the first to fail raised, unless *return_exceptions* is true.
            TypeError: An argument cannot be awaited.
            CallTimeoutError: *timeout* is over.
            DeadlockError: The caller is on the loop's own thread, and `gather` was called on an
                instance.
            RuntimeError: The runner is closed.

        Thread-safe.

        >>> import asyncio, palitra
        >>> with palitra.EventLoopThreadRunner() as runner:
        ...     runner.gather(asyncio.sleep(0.01, 1), asyncio.sleep(0.01, 2))
        [1, 2]

        .. versionadded:: 0.1.0
        """
        service = current_service() if isinstance(self, type) else None
        if service is None:
            gather = _default.gather if isinstance(self, type) else self._executor.gather
            return gather(*coros_or_futures, return_exceptions=return_exceptions, timeout=timeout)
        gathering = Gathering(service, coros_or_futures, return_exceptions)
        gathered = gathering.run()

        def close(_: object) -> None:
            gathered.close()
            gathering.close()

        task = asyncio.ensure_future(asyncio.wait_for(gathered, timeout))
        task.add_done_callback(close)  # in case the task is cancelled before it begins
        return task

    @_Shared
    def get_loop(
        self: EventLoopThreadRunner | type[EventLoopThreadRunner],
    ) -> asyncio.AbstractEventLoop:
        """Return the event loop, which is running unless the runner is closed.

        New code writes `palitra.get_loop`, or `AsyncLoopExecutor.get_loop`.

        Returns:
            The loop; of a runner that is closed, its closed loop.

        Raises:
            RuntimeError: The thread of the loop cannot start.

        Thread-safe.

        >>> import palitra
        >>> with palitra.EventLoopThreadRunner() as runner:
        ...     runner.get_loop().is_running()
        True

        .. versionadded:: 0.1.0
        """
        if isinstance(self, type):
            return _default.get_loop()
        try:
            self._loop = self._executor.get_loop()  # a forked child has another one
        except RuntimeError:
            if not self._loop.is_closed():
                raise
        return self._loop

    def close(self) -> None:
        """Cancel the calls in flight, close the loop, and wait for the thread to end.

        A second call does no harm. On the loop's own thread, `close` does not wait. New code writes
        `AsyncLoopExecutor.shutdown`.

        Thread-safe; raises nothing.

        >>> import palitra
        >>> runner = palitra.EventLoopThreadRunner()
        >>> runner.close()
        >>> runner.get_loop().is_closed()
        True

        .. versionadded:: 0.1.0
        """
        _shut_down(self._executor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.close()


def is_runner_alive() -> bool:
    """Tell whether there is a default executor, without making one.

    New code need not ask: the next use makes a new executor.

    Returns:
        True from the first use of `palitra.run`, or of another function of the module, until the
        end of the default executor; otherwise False.

    Thread-safe; raises nothing.

    >>> import palitra
    >>> palitra.shutdown()
    >>> palitra.is_runner_alive()
    False

    .. versionadded:: 0.1.0
    """
    executor = _default._default.current
    return executor is not None and executor._service.usable


def shutdown_global_runner() -> None:
    """Cancel the calls of the default executor, and end it; the next use makes a new executor.

    On the executor's own threads, this function does not wait. New code writes `palitra.shutdown`,
    which finishes the calls in flight unless *cancel_futures* is true.

    Thread-safe; raises nothing.

    >>> import palitra
    >>> palitra.shutdown_global_runner()

    .. versionadded:: 0.1.0
    """
    executor = _default._default.current
    if executor is not None:
        _shut_down(executor)


def _shut_down(executor: AsyncLoopExecutor) -> None:
    try:
        executor.shutdown(cancel_futures=True)
    except DeadlockError:  # on one of its own threads, which cannot wait for itself
        executor.shutdown(wait=False, cancel_futures=True)


async def _await(awaitable: Awaitable[_T]) -> _T:
    return await awaitable
