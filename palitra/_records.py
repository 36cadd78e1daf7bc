"""CallInfo: the record of a call in flight."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class CallInfo:
    """A call in flight: what it is, and where it stood when `AsyncLoopExecutor.calls` looked.

    Attributes:
        name: The qualified name of what was called.
        kind: The method that the call came from. ``"submit"`` is a call of `map` too,
            ``"iterator"`` a step of a `sync_iter`, ``"context"`` a step of a `sync_context`,
            `enter_context` or `cached_context`.
        state: ``"waiting"`` for the loop, a slot or a worker thread; ``"running"``; or
            ``"cancelling"``, when the call was cancelled and is at its clean-up.
        age: Seconds since the call was accepted.
        thread: The name of the thread that runs the call; None while no thread does.
        stack: The chain of awaits down to where the call stands, or the frames of its worker
            thread, outermost first. If the call waits for several tasks, the chain of the first
            task follows. Empty if nothing is known.

    Any thread may use it: a record does not change.

    >>> import asyncio, palitra
    >>> async def stand_still():
    ...     [call] = palitra.get_executor().calls()
    ...     return call.name, call.kind, call.state
    >>> palitra.run(stand_still())
    ('stand_still', 'run', 'running')

    .. versionadded:: 0.2.0
    """

    name: str
    kind: Literal["submit", "service", "run", "gather", "iterator", "context"]
    state: Literal["waiting", "running", "cancelling"]
    age: float
    thread: str | None
    stack: traceback.StackSummary

    __hash__ = None  # type: ignore[assignment]  # a stack is a list, which has no hash
