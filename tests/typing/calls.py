"""What `calls` tells has exact types."""

import io
import sys
import traceback
from typing import Literal

from typing_extensions import assert_type

import palitra
from palitra import AsyncLoopExecutor, CallInfo

executor = AsyncLoopExecutor(stall_timeout=0.5)
AsyncLoopExecutor(stall_timeout=None)
AsyncLoopExecutor(stall_timeout="1")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]

calls = executor.calls()
assert_type(calls, list[CallInfo])

for call in calls:
    assert_type(call.name, str)
    assert_type(call.kind, Literal["submit", "service", "run", "gather", "iterator", "context"])
    assert_type(call.state, Literal["waiting", "running", "cancelling"])
    assert_type(call.age, float)
    assert_type(call.thread, str | None)
    assert_type(call.stack, traceback.StackSummary)
    call.age = 1.0  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]

assert_type(palitra.dump(), None)
assert_type(palitra.dump(sys.stderr), None)
palitra.dump(io.StringIO())
palitra.dump("a file")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
