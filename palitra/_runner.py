"""EventLoopThreadRunner: the interface of palitra's first days."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from palitra import _default
from palitra._gather import Gathering
from palitra._hosts import current_service

_T = TypeVar("_T")


class EventLoopThreadRunner:
    """`palitra.run`, `gather` and `get_loop` as functions of a class, over the default executor.

    New code calls the functions themselves.

    Example:
        >>> from palitra import EventLoopThreadRunner
        >>> async def double(x):
        ...     return 2 * x
        >>> async def double_all(*xs):
        ...     return await EventLoopThreadRunner.gather(*[double(x) for x in xs])
        >>> EventLoopThreadRunner.run(double_all(1, 2))
        [2, 4]

    .. versionadded:: 0.2.0
    """

    @staticmethod
    def run(
        coro: Coroutine[Any, Any, _T],
        *,
        timeout: float | None = None,
        context: contextvars.Context | None = None,
    ) -> _T:
        """Run a coroutine, wait for it, and return its result: `palitra.run`."""
        return _default.run(coro, timeout=timeout, context=context)

    @staticmethod
    def gather(
        *coros_or_futures: Awaitable[Any] | Future[Any],
        return_exceptions: bool = False,
        timeout: float | None = None,
    ) -> Any:
        """Await all arguments, concurrently: `palitra.gather`.

        Called on the loop, inside a coroutine, it returns an awaitable instead of waiting.
        """
        service = current_service()
        if service is None:
            return _default.gather(
                *coros_or_futures, return_exceptions=return_exceptions, timeout=timeout
            )
        gathering = Gathering(service, coros_or_futures, return_exceptions)
        gathered = gathering.run()

        def close(_: object) -> None:
            gathered.close()
            gathering.close()

        task = asyncio.ensure_future(asyncio.wait_for(gathered, timeout))
        task.add_done_callback(close)  # where it was cancelled before it began
        return task

    @staticmethod
    def get_loop() -> asyncio.AbstractEventLoop:
        """Return the running event loop: `palitra.get_loop`."""
        return _default.get_loop()
