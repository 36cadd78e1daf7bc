import traceback
from dataclasses import dataclass
from typing import ClassVar, Literal

@dataclass(frozen=True, slots=True)
class CallInfo:
    name: str
    kind: Literal["submit", "service", "run", "gather", "iterator", "context"]
    state: Literal["waiting", "running", "cancelling"]
    age: float
    thread: str | None
    stack: traceback.StackSummary
    __hash__: ClassVar[None]  # type: ignore[assignment]
