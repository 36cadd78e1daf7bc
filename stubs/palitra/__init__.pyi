from ._calls import CallTimeoutError, DeadlockError
from ._default import (
    cached_context,
    dump,
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
from ._executor import AsyncLoopExecutor
from ._records import CallInfo
from ._runner import (
    EventLoopThreadRunner,
    is_runner_alive,
    shutdown_global_runner,
)

__all__ = [
    "AsyncLoopExecutor",
    "CallInfo",
    "CallTimeoutError",
    "DeadlockError",
    "EventLoopThreadRunner",
    "cached_context",
    "dump",
    "enter_context",
    "gather",
    "get_executor",
    "get_loop",
    "is_runner_alive",
    "push_async_callback",
    "run",
    "set_executor",
    "shutdown",
    "shutdown_global_runner",
    "sync",
    "sync_context",
    "sync_iter",
]
