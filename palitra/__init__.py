"""Run async code from synchronous programs, behind the interface of `concurrent.futures`."""

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
from palitra._loop import DeadlockError
from palitra._runner import (
    EventLoopThreadRunner,
    is_runner_alive,
    shutdown_global_runner,
)

__all__ = [
    "AsyncLoopExecutor",
    "DeadlockError",
    "EventLoopThreadRunner",
    "enter_context",
    "gather",
    "get_executor",
    "get_loop",
    "is_runner_alive",
    "push_async_callback",
    "run",
    "shutdown",
    "shutdown_global_runner",
    "sync",
    "sync_context",
    "sync_iter",
]
