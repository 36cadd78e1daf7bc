from palitra._loop import DeadlockError

from palitra._default import (
    enter_context,
    gather,
    get_executor,
    get_loop,
    push_async_callback,
    run,
    shutdown,
    sync,
    sync_context,
    sync_iter,
)
from palitra._executor import AsyncLoopExecutor
from palitra._runner import EventLoopThreadRunner

__all__ = [
    "AsyncLoopExecutor",
    "DeadlockError",
    "EventLoopThreadRunner",
    "enter_context",
    "gather",
    "get_executor",
    "get_loop",
    "push_async_callback",
    "run",
    "shutdown",
    "sync",
    "sync_context",
    "sync_iter",
]
