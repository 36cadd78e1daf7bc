"""Every wait of palitra's that blocks a thread, and how two threads agree.

Guarantees
    * A thread that waits hears a signal: at once, or where the signal came just before the wait
      began, after `_SLICE` seconds in the main thread and `_LONG_SLICE` elsewhere.
    * A wait ends in time although a test has frozen or replaced the clock: only the timeouts of the
      interpreter's own locks measure a wait. `clock` is for ages, stalls and `map`.
    * A signal handler may wait while the code that it interrupted waits or tells others to go on.

How two threads agree: in one of two ways, everywhere in palitra

    A permission is something that only one thread can take: an attribute that it deletes, an item
    that it pops, or a key that it is the first to set, with `setdefault`. Whoever has taken the
    permission does what is permitted, and nobody else.

    Write first, look second: each of two threads writes one variable and then reads the other's.
    At least one of the two sees what the other wrote.

    So a waiter has a lock of its own, which nobody else holds or waits for. `threading.Event` and
    `threading.Condition` have locks that several threads share: a signal handler that came while
    one of these is held, and needed it, would wait for the code that it interrupts.

Assumes
    Deleting or setting an attribute, setting, popping and `setdefault` of an item of a dict,
    `append`, `pop` and `popleft` of a list or deque, and `put` and `get` of a SimpleQueue are
    atomic. With the global interpreter lock they are, and whatever one thread wrote before them
    another sees after them. Without it (free-threaded builds) each of these takes and releases the
    lock of its object; the release is a sequentially consistent exchange, and so neither the
    processor nor the compiler moves a later load before an earlier store.
"""

from __future__ import annotations

import asyncio
import functools
import math
import operator
import os
import sys
import threading
import time
from _thread import LockType, allocate_lock, get_ident
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import BuiltinFunctionType
from typing import Any

# In a tuple, where tools that freeze clocks do not find the function. If such a tool was there
# before palitra, the tool's function has the name `time.monotonic`.
REAL_CLOCK: tuple[Callable[[], float]] = (
    functools.partial(time.clock_gettime, time.CLOCK_MONOTONIC)
    if hasattr(time, "clock_gettime") and not isinstance(time.monotonic, BuiltinFunctionType)
    else time.monotonic,
)
# Seconds between looks for a signal. On Windows, a signal does not end the wait for a lock.
_SLICE = 0.1
_LONG_SLICE = 0.1 if sys.platform == "win32" else 1.0
# How often a thread looks at a lock before it sleeps on it, how often where that has paid, in how
# many waits it tries whether that would pay, how many threads look at once, and how many wait where
# none looks. See `Looks`.
_FEW = range(8)
_MANY = range(60)
_TRIAL = 32
_LOOKERS = 2
_CROWD = 20
_BRIEF = 0.1  # seconds: a wait in which nobody looks, since looking may take as long
_LONG = 10.0  # seconds: a wait in which many looks make no difference to its limit
_TRUST = 8  # the most that `Looks` remembers of what has paid
_give_way: Callable[[], object] | None = getattr(os, "sched_yield", None)  # not everywhere
# The steps in which a `Deadline` counts.
_STEP = 0.05
# Where coroutines wait for many tasks at once.
_GROUPS = ("asyncio.", "anyio.")


def clock() -> float:
    """Seconds, as `time.monotonic` counts them."""
    return REAL_CLOCK[0]()


def locked() -> LockType:
    """A new lock that is held."""
    lock = allocate_lock()
    lock.acquire()
    return lock


def release(lock: LockType) -> None:
    """Let the waiter go on whose lock this is; a second call does no harm."""
    try:
        lock.release()
    except RuntimeError:
        pass


def wait_for(lock: LockType, timeout: float | None) -> bool:
    """Acquire *lock*, and run signal handlers meanwhile; False after *timeout* seconds."""
    if timeout is None:
        if lock.acquire(True, _SLICE):
            return True
        in_main_thread = threading.main_thread().ident == get_ident()
        slice_ = _SLICE if in_main_thread else _LONG_SLICE
        while not lock.acquire(True, slice_):
            pass
        return True
    while timeout > _SLICE:
        if lock.acquire(True, _SLICE):
            return True
        timeout -= _SLICE
    return lock.acquire(True, max(0.0, timeout))


class Looks:
    """Waits for locks that may be released at once: looks at each a few times before it sleeps.

    A thread that sleeps on a lock is woken while the loop's thread holds the global interpreter
    lock; it finds that taken, sleeps again, and is woken again when the loop has nothing to do.
    On another core each waking costs more than a short call. A thread that looks, and lets others
    have the interpreter and the core between two looks, is there when the loop has done its work.

    It looks a few times only, some microseconds in all, so that a call that waits for the network
    costs no more than that. Between cores it takes more looks until an answer can be there: one
    wait in so many tries that, and as long as it pays it goes on.

    A crowd that looks would only take turns at looking. So few do at once, and the others sleep.
    Threads enter themselves by their own names: where an interruption keeps one from leaving, its
    next wait makes that good. All this is about speed; nothing depends on what is remembered here.

    Looks are counted, not timed: no clock is read, which a test may have frozen. Where another
    thread computes, it has the interpreter for 5 ms between two looks; so with a limit that this
    could exceed by much there are none, or few. Signals are heard, since this is Python code.
    """

    __slots__ = ("_looking", "_trust", "_waiting", "_waits")

    def __init__(self) -> None:
        self._waiting: dict[int, None] = {}  # the threads that wait
        self._looking: dict[int, None] = {}  # those of them that look
        self._trust = 0  # above zero: many looks have paid of late
        self._waits = 0

    def wait_for(self, lock: LockType, timeout: float | None) -> bool:
        """As the function of that name, and at once, without a system call, if *lock* is free."""
        if lock.acquire(False):
            return True
        me = get_ident()
        waiting = self._waiting
        waiting[me] = None
        try:
            return self._looked(lock, me, timeout) or wait_for(lock, timeout)
        finally:
            waiting.pop(me, None)

    def _looked(self, lock: LockType, me: int, timeout: float | None) -> bool:
        looking = self._looking
        brief = timeout is not None and timeout <= _BRIEF
        few = len(looking) < _LOOKERS and len(self._waiting) < _CROWD
        if _give_way is None or brief or not few:
            return False
        looking[me] = None
        try:
            return self._look(lock, _give_way, timeout is None or timeout >= _LONG)
        finally:
            looking.pop(me, None)

    def _look(self, lock: LockType, give_way: Callable[[], object], long: bool) -> bool:
        for _ in _FEW:
            give_way()
            if lock.acquire(False):
                return True
        self._waits = waits = (self._waits + 1) % _TRIAL
        if not long or (waits and self._trust <= 0):
            return False
        for _ in _MANY:
            give_way()
            if lock.acquire(False):
                self._trust = min(self._trust + 1, _TRUST)
                return True
        self._trust = max(self._trust - 2, 0)
        return False


def limit(seconds: float, name: str) -> float:
    """Return *seconds* if it can limit a wait; raise ValueError or TypeError otherwise."""
    given = float(seconds)
    if math.isnan(given) or given < 0:
        raise ValueError(f"{name} must be a number of seconds that is not negative, or None")
    return given


class Deadline:
    """A limit to the time that several waits take together; None: no limit.

    The time between the waits does not count.
    """

    def __init__(self, seconds: float | None) -> None:
        self._left = seconds

    @property
    def passed(self) -> bool:
        """Whether no time is left."""
        return self._left is not None and self._left <= 0

    def wait(self, wait: Callable[[float], bool]) -> bool:
        """Call *wait* with a number of seconds until it returns True; False at the limit."""
        while True:
            step = _STEP if self._left is None else max(0.0, min(self._left, _STEP))
            if wait(step):
                return True
            if self._left is not None:
                self._left -= step
                if self._left <= 0:
                    return False


class Permission:
    """What only one thread can take: once, unless the permission is given back."""

    __slots__ = ("_free",)

    def __init__(self) -> None:
        self._free = True

    @property
    def free(self) -> bool:
        """Whether nobody had taken the permission a moment ago."""
        return hasattr(self, "_free")

    def take(self) -> bool:
        """Take the permission; False if another thread has it."""
        try:
            del self._free
        except AttributeError:
            return False
        return True

    def give(self) -> None:
        """Give the permission back."""
        self._free = True


class Moment:
    """Something that happens once, and that any number of threads and loops may wait for.

    Write first, look second: a waiter adds its callback, and then looks at `passed`; `happen` sets
    `passed`, and then calls all callbacks. So a waiter either does not wait, or is called.
    """

    def __init__(self) -> None:
        self.passed = False
        self._waiters: list[Callable[[], object]] = []

    def happen(self) -> None:
        """Let all who wait go on, and all who come later; several threads may call it at once."""
        self.passed = True
        with suppress(IndexError):
            # Each waiter is taken and called in one call of a built-in function: Ctrl-C cannot come
            # between the two, and keep a waiter waiting.
            deque(map(operator.call, iter(self._waiters.pop, None)), maxlen=0)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the moment; False after *timeout* seconds."""
        passed = self.passed  # a copy: type checkers do not know that other threads set it
        if passed:
            return True
        lock = locked()
        waiter = lock.release
        self._waiters.append(waiter)
        try:
            return self.passed or wait_for(lock, timeout)
        finally:
            self.forget(waiter)

    def tell(self, waiter: Callable[[], object]) -> None:
        """Call *waiter*, which raises nothing, when the moment has come; at once if it has."""
        self._waiters.append(waiter)
        if self.passed and self.forget(waiter):
            waiter()

    async def on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait for the moment on *loop*, which runs on meanwhile."""
        future = loop.create_future()

        def go_on() -> None:
            if not future.done():
                future.set_result(None)

        def waiter() -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(go_on)

        self.tell(waiter)
        try:
            await future
        finally:
            self.forget(waiter)

    def forget(self, waiter: Callable[[], object]) -> bool:
        """Do not call *waiter* any more; False if that is too late."""
        try:
            self._waiters.remove(waiter)
        except ValueError:
            return False
        return True


def waits_for(waiting: asyncio.Task[Any] | None, task: asyncio.Task[Any] | None) -> bool:
    """On the loop of both: whether *waiting* is *task*, or awaits it, as far as can be told.

    To find out, look at what the frames of asyncio and anyio hold in which *waiting* is suspended:
    the task that they wait for, or a group with that task.
    """
    seen: set[int] = set()
    to_look_at: list[object] = [waiting]
    while to_look_at and task is not None:
        each = to_look_at.pop()
        if each is task:
            return True
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, asyncio.Task):
            to_look_at.append(getattr(each, "_fut_waiter", None))
            to_look_at += _awaited_in_frames(each.get_coro())
        elif isinstance(each, asyncio.Future):
            to_look_at += getattr(each, "_children", ())  # of gather
    return False


def _awaited_in_frames(awaitable: object) -> Iterator[object]:
    while awaitable is not None:
        frame = getattr(awaitable, "cr_frame", None)
        if frame is not None and frame.f_globals.get("__name__", "").startswith(_GROUPS):
            for value in list(frame.f_locals.values()):
                group = getattr(value, "_tasks", value)
                if isinstance(group, set | list | tuple):
                    yield from group
                else:
                    yield group
        awaitable = getattr(awaitable, "cr_await", None)
