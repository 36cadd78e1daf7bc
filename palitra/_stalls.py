"""The stall watch: tells when user code holds the loop for too long.

Guarantees
    * The watch makes no call more expensive: a thread of its own looks at the loop's thread from
      outside, a few times within the limit. An idle loop is not woken, and is never reported.
    * A loop that goes on is not reported, however busy it is. Two things show that it goes on: it
      has answered a probe, which it does in its next turn, or its next callback has other frames.
    * Time in which the watch's thread itself did not run does not count: the process was stopped
      then, by a debugger or by the system.

Assumes
    What `_stacks` assumes. Only a loop that was seen at work gets a probe. A frame is kept from one
    look to the next only if the loop's turn has already taken longer than that.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
import threading
import weakref
from _thread import get_ident
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING

from ._report import about_chain, holder, in_seconds
from ._stacks import (
    Threads,
    chain_of_frames,
    gil_is_enabled,
    in_callback,
    is_of_library,
    name_of_callback,
)
from ._waiting import Deadline, Moment, Permission, clock, limit, locked, release
from ._workers import make_thread

if TYPE_CHECKING:
    from ._calls import Call
    from ._service import Service

LOGGER = logging.getLogger("palitra")
_LOOKS = 8  # within the limit
_SHORTEST, _LONGEST = 0.02, 0.5  # seconds between two looks
_LATE = 0.1  # seconds that this thread may wake up too late on a busy machine
# The first parts of the names of debuggers' modules.
_DEBUGGERS = frozenset({"bdb", "pdb", "pydevd", "debugpy"})


def stall_limit(seconds: float | None) -> float:
    """The limit of the stall watch, in seconds; 0: no watch."""
    if seconds is not None:
        longest = limit(seconds, "stall_timeout")
    elif text := os.environ.get("PALITRA_STALL_TIMEOUT", "").strip():
        try:
            longest = limit(float(text), "PALITRA_STALL_TIMEOUT")
        except ValueError:
            raise ValueError(
                "the environment variable PALITRA_STALL_TIMEOUT must be a number of seconds that "
                f"is not negative, not {text!r}"
            ) from None
    else:
        longest = 0.0
    return 0.0 if math.isinf(longest) else longest


class _Probe:
    """A callback for the loop: once it has run, the loop has begun another turn."""

    answered = False

    def answer(self) -> None:
        """On the loop: note that the loop goes on."""
        self.answered = True


class _Hold:
    """A stretch of time in which the loop does one thing."""

    def __init__(self, since: float, probe: _Probe, traits: tuple[int, ...]) -> None:
        self.since = since
        self.probe = probe
        self.traits = traits
        self.frames: tuple[FrameType, ...] | None = None  # once the turn has taken long
        self.call: weakref.ref[Call] | None = None  # on free-threaded builds alone
        self.reported: str | None = None  # what the warning has named as holding the loop


class StallWatch:
    """Looks at the loop of one service, in a thread of its own, as long as the service lives."""

    def __init__(self, service: Service, timeout: float) -> None:
        self._service = service
        self._timeout = timeout
        self._interval = min(max(timeout / _LOOKS, _SHORTEST), _LONGEST)
        self._unbegun = Permission()
        self._hold: _Hold | None = None
        self._cpu: float | None = None  # seconds that the loop's thread has computed
        # The loop's thread, and the system's number of that thread.
        self._native_id: tuple[int | None, int | None] = None, None
        self._ident = 0
        self._ended = Moment()

    def begin(self) -> None:
        if self._unbegun.take():
            name = f"{self._service.name_prefix}_stalls"
            # Late in an exit, no thread can start any more; there is no watch then.
            try:
                make_thread(self._main, name=name).start()
            except RuntimeError:
                self._ended.happen()

    def held_for(self) -> float | None:
        hold = self._hold
        return None if hold is None or hold.probe.answered else max(0.0, clock() - hold.since)

    def join(self, deadline: Deadline) -> bool:
        # A handler of the log may shut the executor down. It runs in the watch's thread, which must
        # not wait for itself.
        return self._unbegun.free or self._ident == get_ident() or deadline.wait(self._ended.wait)

    def _main(self) -> None:
        self._ident = get_ident()
        try:
            self._watch()
        finally:
            self._ended.happen()

    def _watch(self) -> None:
        over = locked()
        self._service.ending.over.tell(partial(release, over))
        while True:
            pause = self._pause()
            before = clock()
            if over.acquire(True, pause):
                break
            try:
                self._look(clock() - before - pause)
            except Exception:  # raised by a handler of the log, after which the watch goes on
                error = *sys.exc_info(), threading.current_thread()
                threading.excepthook(threading.ExceptHookArgs(error))
        self._end_hold()

    def _pause(self) -> float:
        hold = self._hold
        if hold is None or hold.reported is not None:
            return self._interval
        left = hold.since + self._timeout - clock()
        return min(self._interval, max(left, _SHORTEST / 4))

    # -- one look -----------------------------------------------------------------------------

    def _look(self, late: float) -> None:
        """Look at the loop's thread; the watch's thread has woken up *late* seconds too late."""
        host = self._service.host
        threads = Threads()
        frames = threads.frames(host.ident)
        callback = in_callback(frames, host.base)
        missed = late if late > max(_LATE, self._interval) else 0.0
        if host.ident != self._native_id[0]:
            self._native_id = host.ident, threads.native_id(host.ident)
        computed = self._computed(self._native_id[1])
        stopped = missed if computed < missed / 2 else 0.0
        idle = not callback and (bool(frames) or gil_is_enabled())
        if idle or host.ident is None or _in_debugger(frames):
            self._end_hold()
            return
        hold = self._hold
        now = clock()
        if hold is not None:
            hold.since += stopped
            if not self._goes_on(hold, callback):
                if hold.reported is None and now - hold.since >= self._timeout:
                    self._report(hold, callback)
                return
            self._end_hold()
        self._hold = self._new_hold(callback)
        if missed and not stopped:
            # The loop's thread has computed, and let no other thread run: code in C has kept the
            # interpreter's lock. That code has just ended, or this thread would not run.
            self._hold.since -= missed
            if missed >= self._timeout:
                self._report(self._hold, callback)

    def _computed(self, native_id: int | None) -> float:
        """The seconds that the loop's thread has computed since the last look; 0 if not known."""
        before, self._cpu = self._cpu, _cpu_of(native_id)
        return 0.0 if before is None or self._cpu is None else self._cpu - before

    def _new_hold(self, callback: list[FrameType]) -> _Hold:
        probe = _Probe()
        hold = _Hold(clock(), probe, _traits(callback))
        if not gil_is_enabled() and (call := self._running_call()) is not None:
            hold.call = weakref.ref(call)
        loop = self._service.host.loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop may have been closed just now
                loop.call_soon_threadsafe(probe.answer)
        return hold

    def _running_call(self) -> Call | None:
        seen = holder(self._service, [])
        return None if seen is None else seen.call

    def _goes_on(self, hold: _Hold, callback: list[FrameType]) -> bool:
        """Whether the loop has done something else since the last look."""
        if hold.probe.answered:
            return True
        if not gil_is_enabled():
            # Without the interpreter's lock, frames are seen only while they stand still. Which
            # call runs is known at any time.
            call = self._running_call()
            before = None if hold.call is None else hold.call()
            if call is not None or before is not None:
                return call is not before
        if not callback:
            return True  # nothing says that the loop stands still
        traits = _traits(callback)
        if hold.frames is None:
            if hold.traits and traits != hold.traits:
                return True
            hold.frames, hold.traits = _roots(callback), traits
            return False
        return any(a is not b for a, b in zip(hold.frames, _roots(callback), strict=False))

    # -- what is said -------------------------------------------------------------------------

    def _report(self, hold: _Hold, callback: list[FrameType]) -> None:
        service = self._service
        held = clock() - hold.since
        seen = holder(service, callback)
        hold.reported = name_of_callback(callback) if seen is None else seen.name
        stack = "\n".join(about_chain(chain_of_frames(callback), "  "))
        place = chain_of_frames(callback).innermost
        LOGGER.warning(
            "%s: the event loop has been held for %s by %s%s%s",
            service.name_prefix,
            in_seconds(held),
            hold.reported if seen is None else seen,
            "" if place is None else f", at {place}",
            f"\n{stack}" if stack else "",
        )

    def _end_hold(self) -> None:
        hold, self._hold = self._hold, None
        if hold is not None and hold.reported is not None:
            hold.frames = None  # do not keep the values in these frames alive any longer
            LOGGER.warning(
                "%s: the event loop goes on; it was held for %s by %s",
                self._service.name_prefix,
                in_seconds(clock() - hold.since),
                hold.reported,
            )


def _roots(callback: list[FrameType]) -> tuple[FrameType, ...]:
    """The frames that differ once the loop, or a batch of calls that it runs, has gone on."""
    for frame in callback[1:]:
        if not is_of_library(frame.f_code):
            return callback[0], frame
    return (callback[0],)


def _traits(callback: list[FrameType]) -> tuple[int, ...]:
    """Numbers that probably differ once the loop has gone on; they keep no frame alive."""
    return tuple(map(id, _roots(callback))) if callback else ()


def _in_debugger(frames: list[FrameType]) -> bool:
    names = (frame.f_globals.get("__name__") for frame in frames)
    return any(type(name) is str and name.partition(".")[0] in _DEBUGGERS for name in names)


def _cpu_of(native_id: int | None) -> float | None:
    if native_id is None or sys.platform != "linux":
        return None
    try:
        with open(f"/proc/self/task/{native_id}/schedstat", "rb") as file:  # noqa: PTH123
            return int(file.read().split()[0]) / 1e9
    except (OSError, ValueError, IndexError):
        return None
