"""Slots: how many coroutines of an executor are in flight, and which wait for their turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ._inbox import Inbox


class Slots:
    """Lets at most so many coroutines be in flight, first come first served. On the loop only."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._free = limit
        self._waiting: deque[Callable[[], object]] = deque()

    @property
    def full(self) -> bool:
        """Whether the next to come has to wait; known in any thread."""
        return not self._free

    def enter(self, start: Callable[[], object]) -> bool:
        """Take a slot; where none is free, return False and call *start* when one is.

        Whoever has got a slot calls `leave`.
        """
        if self._free:
            self._free -= 1
            return True
        self._waiting.append(start)
        return False

    def leave(self, inbox: Inbox) -> None:
        """Pass the slot on."""
        if self._waiting:
            # Not called from here: a chain of calls that end at once would nest ever deeper.
            inbox.post(self._waiting.popleft())
        else:
            self._free += 1
