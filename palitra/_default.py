"""The process-wide default executor, and the module's functions that use it."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from palitra import _hooks
from palitra._executor import AsyncLoopExecutor

_T = TypeVar("_T")


class _Default:
    """One executor for everybody, made on first use, and again after its end."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        # Guards `_executor`; held while it is made, which starts nothing. Re-entrant, because a
        # signal handler may want the executor too.
        self._lock = threading.RLock()
        self._executor: AsyncLoopExecutor | None = None

    def get(self) -> AsyncLoopExecutor:
        executor = self._executor
        if executor is None or not executor._loop_thread.usable:
            with self._lock:
                executor = self._executor  # another thread may have been faster
                if executor is None or not executor._loop_thread.usable:
                    _hooks.restart_after_fork(self)
                    self._executor = executor = AsyncLoopExecutor(thread_name_prefix="palitra")
        return executor

    def after_fork_in_child(self) -> None:
        """Keep the executor, which starts afresh; not the lock, which may never be released."""
        self._lock = threading.RLock()

    def shutdown(self, wait: bool, cancel_futures: bool) -> None:
        executor = self._executor
        if executor is not None:
            executor.shutdown(wait, cancel_futures=cancel_futures)


_default = _Default()


def get_executor() -> AsyncLoopExecutor:
    return _default.get()


def shutdown(wait: bool = True, *, cancel_futures: bool = False) -> None:
    _default.shutdown(wait, cancel_futures)


def run(
    coro: Coroutine[Any, Any, _T],
    *,
    timeout: float | None = None,
    context: contextvars.Context | None = None,
) -> _T:
    return _default.get().run(coro, timeout=timeout, context=context)
