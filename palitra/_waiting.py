"""Waiting in such a way that Ctrl-C is heard, and that a signal handler may wait as well.

A waiter has a lock of its own, which nobody else holds or waits for. `threading.Event` and
`threading.Condition` have locks that several share: a signal handler that came while one is held,
and needed it, would wait for the code that it interrupts.
"""

from __future__ import annotations

import sys
import time
from _thread import LockType, allocate_lock
from contextlib import suppress

# Seconds between looks for a Ctrl-C: it does not end the wait for a lock where it comes just before
# the wait begins; on Windows, never.
_SLICE = 0.1 if sys.platform == "win32" else 1.0


def locked() -> LockType:
    """A new lock that is held."""
    lock = allocate_lock()
    lock.acquire()
    return lock


def wait_for(lock: LockType, timeout: float | None) -> bool:
    """Acquire *lock*, and hear Ctrl-C meanwhile; False after *timeout* seconds."""
    if timeout is None:
        while not lock.acquire(True, _SLICE):
            pass
        return True
    deadline = time.monotonic() + timeout
    while not lock.acquire(True, max(0.0, min(timeout, _SLICE))):
        timeout = deadline - time.monotonic()
        if not timeout > 0:  # also where it is no number
            return False
    return True


class Moment:
    """Something that happens once, and that any number of threads may wait for.

    A waiter adds its lock to the waiters and then looks whether the moment has passed; `happen`
    says so and then releases each waiter. So either the waiter does not wait, or it is released.
    """

    def __init__(self) -> None:
        self.passed = False
        self._waiters: list[LockType] = []

    def happen(self) -> None:
        """Let everybody go on who waits, now or later; several threads may say so at once."""
        self.passed = True
        with suppress(IndexError):
            while True:
                self._waiters.pop().release()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the moment; False after *timeout* seconds."""
        waiter = locked()
        self._waiters.append(waiter)
        return self.passed or wait_for(waiter, timeout)
