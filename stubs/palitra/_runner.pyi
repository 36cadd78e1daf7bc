import asyncio
from collections.abc import Awaitable, Coroutine
from concurrent.futures import Future
from contextvars import Context
from typing import Any

from typing_extensions import TypeVar

_T = TypeVar("_T")

class EventLoopThreadRunner:
    @staticmethod
    def run(
        coro: Coroutine[Any, Any, _T],
        *,
        timeout: float | None = None,
        context: Context | None = None,
    ) -> _T: ...
    @staticmethod
    def gather(
        *coros_or_futures: Awaitable[Any] | Future[Any],
        return_exceptions: bool = False,
        timeout: float | None = None,
    ) -> Any: ...
    @staticmethod
    def get_loop() -> asyncio.AbstractEventLoop: ...
