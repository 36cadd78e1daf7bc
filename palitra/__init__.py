"""Run async code from synchronous programs, behind the interface of `concurrent.futures`."""

from palitra._calls import CallTimeoutError, DeadlockError
from palitra._default import (
    cached_context,
    enter_context,
    gather,
    get_executor,
    get_loop,
    push_async_callback,
    run,
    set_executor,
    shutdown,
    sync,
    sync_context,
    sync_iter,
)
from palitra._executor import AsyncLoopExecutor
from palitra._runner import EventLoopThreadRunner

__all__ = [
    "AsyncLoopExecutor",
    "CallTimeoutError",
    "DeadlockError",
    "EventLoopThreadRunner",
    "cached_context",
    "enter_context",
    "gather",
    "get_executor",
    "get_loop",
    "push_async_callback",
    "run",
    "set_executor",
    "shutdown",
    "sync",
    "sync_context",
    "sync_iter",
]
