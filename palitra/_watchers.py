"""How `concurrent.futures.wait` and `as_completed` look at a future of palitra's.

Both take the locks of all their futures, note in each that they watch it, and release the locks.
They are Python code: Ctrl-C, or a signal handler, can keep a thread from releasing such a lock for
ever, or for as long as the handler waits. So nobody here waits for one without end, and whoever
settles a call can tell a lock that is lost from one that is held.
"""

from __future__ import annotations

import concurrent.futures
from _thread import get_ident
from contextlib import suppress
from threading import RLock
from types import FrameType
from typing import TYPE_CHECKING, Any

from ._stacks import gil_is_enabled
from ._waiting import locked
from ._words import current_frames

if TYPE_CHECKING:
    from ._futures import FutureCall

_STANDARD = concurrent.futures.wait.__code__.co_filename  # where locks of many futures are held
_UNKNOWN = 5  # attempts at a future's lock if it is not known which thread holds it
HELD: Any = locked()  # for good
# Attempts, each `Service.later`: at a watcher's lock that another thread holds, and at a future's.
# The latter are more where that thread can be seen: to look at a million futures takes seconds.
FOR_WATCHERS = 100
PATIENCE = 400 if gil_is_enabled() else 100


class FutureCondition:
    """What the standard library needs of a future's condition; made when it is first read.

    To enter it takes no lock, since the methods of FutureCall agree with the loop in other ways.
    Only `acquire` and `release` use a real lock: with them, `concurrent.futures.wait` and
    `as_completed` keep futures from changing while they look at many. `acquire` does not wait for
    ever: Ctrl-C may have kept another thread from releasing the lock.
    """

    __slots__ = ("_call",)

    def __init__(self, call: FutureCall[Any]) -> None:
        self._call = call

    def __enter__(self) -> bool:
        return True

    def __exit__(self, *exc: object) -> None:
        pass

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Keep the future from changing; return at once if it does not change any more."""
        call = self._call
        if not blocking or timeout >= 0:
            acquired: bool = call.settled or lock_of(call).acquire(blocking, timeout)
            if acquired:
                call._holder = get_ident()
            return acquired
        for patience in range(PATIENCE, 0, -1):
            if call.settled or lock_of(call).acquire(True, 0.01) or is_lost(call, patience):
                break
        call._holder = get_ident()
        return True

    def release(self) -> None:
        """Let the future change."""
        self._call._holder = 0
        with suppress(RuntimeError, AttributeError):  # another thread's, or none, see `acquire`
            self._call._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the call is settled."""
        return self._call.wait_until_settled(timeout)

    def notify_all(self) -> None:
        """Nobody waits here."""


class ListOnDemand:
    """The future's list of watchers, which is made when somebody first reads it.

    Only `concurrent.futures.wait` and `as_completed` read it, and hold the future's lock then.
    """

    def __get__(self, future: FutureCall[Any] | None, owner: type[FutureCall[Any]]) -> Any:
        if future is None:
            return self
        watchers = future.__dict__.setdefault("_waiters", [])
        future.watched = True
        return watchers


def can_be_told(watcher: Any) -> bool:
    """Whether *watcher* can be told without waiting for a lock of the standard library's.

    The thread that watches may have been interrupted while it held such a lock: by Ctrl-C, after
    which it never releases the lock, or by a signal handler, which may itself wait for the loop.
    """
    for lock in (
        getattr(watcher, "lock", None),
        getattr(getattr(watcher, "event", None), "_cond", None),
    ):
        if lock is not None:
            if not lock.acquire(False):
                return False
            lock.release()
    return True


def lock_of(call: FutureCall[Any]) -> Any:
    """The lock that keeps the state of *call* from changing, made if need be.

    One that nobody can have, where the state is just being changed, or the lock just made.
    """
    if call._lock is None:
        try:
            del call._lockless
        except AttributeError:
            return call.__dict__.get("_lock", HELD)
        call._lock = RLock()
    return call._lock


def is_lost(call: FutureCall[Any], patience: int) -> bool:
    """Whether the lock of *call* is held by a thread that was kept from releasing it."""
    holder = call._holder
    if not gil_is_enabled():  # then the frames of another thread cannot be looked at
        return False
    if not holder:  # the thread has just acquired the lock, or was interrupted just after that
        return patience < PATIENCE - _UNKNOWN
    frames = current_frames()
    if not frames:
        return False
    frame: FrameType | None = frames.get(holder)
    del frames  # see `current_frames`
    while frame is not None:
        if frame.f_code.co_filename == _STANDARD:
            return False
        frame = frame.f_back
    return True
