"""CallInfo: what is told of a call in flight."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class CallInfo:
    """A call in flight: what it is, and where it stood when `AsyncLoopExecutor.calls` looked.

    Attributes:
        name: The qualified name of what was called.
        kind: The method that the call came from: ``"iterator"`` is a step of a `sync_iter`,
            ``"context"`` one of a `sync_context` or `enter_context`, ``"submit"`` one of `map` too.
        state: ``"waiting"`` for the loop, a slot or a worker thread; ``"running"``;
            ``"cancelling"``: at its clean-up.
        age: Seconds since the call was accepted.
        thread: The name of the thread that runs it; None while none does.
        stack: The chain of awaits down to where the call stands, or the frames of its worker
            thread, outermost first. Where it waits for several tasks, the first of them goes on.
            Empty where nothing is known.

    .. versionadded:: 0.2.0
    """

    name: str
    kind: Literal["submit", "service", "run", "gather", "iterator", "context"]
    state: Literal["waiting", "running", "cancelling"]
    age: float
    thread: str | None
    stack: traceback.StackSummary

    __hash__ = None  # type: ignore[assignment]  # a stack is a list
