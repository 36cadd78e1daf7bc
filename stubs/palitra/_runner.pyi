import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from contextvars import Context
from types import TracebackType
from typing import Any, Self

from typing_extensions import TypeVar

_T = TypeVar("_T")

class EventLoopThreadRunner:
    def __init__(self) -> None: ...
    # Static for type checkers alone: these three can be called on the class and on an instance.
    @staticmethod
    def run(
        coro: Coroutine[Any, Any, _T],
        *,
        timeout: float | None = None,
        debug: bool | None = None,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
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
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None: ...

def is_runner_alive() -> bool: ...
def shutdown_global_runner() -> None: ...
