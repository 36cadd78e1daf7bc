"""Inbox: items for the loop, and the bell that has the loop look at them.

Guarantees
    * What `put` appends is started on the loop, in the order of its arrival, unless the loop has
      ended; after its end `put` does nothing.
    * `put` may be called by any thread, by a signal handler, and by a finalizer in the middle of
      another `put`, and neither waits nor raises.
    * One wake-up for a burst: whoever puts something while the loop is awake does not ring.
    * The bell's descriptor is closed after the last write, never before: a descriptor that is
      closed early is soon somebody else's.

How an item and the loop find each other: whoever has the permission to ring rings

    put       appends to `items`, then takes the permission, and rings
    _drain    gives the permission back, then looks at `items`, and takes it again if there are any
        While the loop is awake, the permission is the loop's. So either somebody who put an item
        finds the permission and rings, or the loop sees the item.

    Taking the permission and ringing are one call of a built-in function. No signal handler comes
    between the two, so none waits for a bell that only the code which it interrupts would ring.

A loop that watches no descriptors (Windows' proactor), and one where the bell does not hang yet, is
woken by `call_soon_threadsafe` for each item: that function is Python code, which a signal handler
can interrupt, so that there nobody may rely on somebody else's wake-up.

Assumes
    What `_waiting` assumes; and that CPython runs signal handlers, finalizers of cycles and other
    threads' requests only where it evaluates Python code.
"""

from __future__ import annotations

import asyncio
import operator
import os
import select
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import repeat
from typing import Protocol

from . import _hooks

_BATCH = 100  # items that a drain takes before the loop's callbacks have their turn
_LAST_WRITE = 1000  # milliseconds to wait for a write whose permission has been taken


class Startable(Protocol):
    """What the inbox holds."""

    def start(self) -> object:
        """On the loop: begin. Raises only what a done-callback wants to end the loop with."""


class Callback:
    """A callback, which raises nothing, as an item of the inbox."""

    __slots__ = ("start",)

    def __init__(self, callback: Callable[[], object]) -> None:
        self.start = callback


def _nothing() -> None:
    """Called instead of ringing by those who have no permission."""


class Inbox:
    """The items, and the bell."""

    def __init__(self) -> None:
        self.items: deque[Startable] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._bell: _Bell | None = None
        # The permission to ring, under one key, and whether to look for it at all.
        self._permission: dict[str, Callable[[], object]] = {}
        self._rings = _rings(self._permission)
        self._wake: Callable[[], object] | None = None  # wakes a loop that has no bell
        self._closed = False

    def put(self, item: Startable) -> None:
        """Have *item* started on the loop."""
        self.items.append(item)
        if self._permission:
            next(self._rings)
        elif self._bell is None:
            self.wake()
        # Otherwise somebody has rung whom the loop has not answered yet, or the loop is awake.

    def post(self, callback: Callable[[], object]) -> None:
        """Run *callback*, which raises nothing, on the loop; do nothing if the loop has ended."""
        self.put(Callback(callback))

    def ring(self) -> None:
        """Have the loop look at the items, for instance after `put` was interrupted."""
        if self._permission:
            next(self._rings)
        elif self._bell is None:
            self.wake()

    def wake(self) -> None:
        """Have the loop look at the items, without the bell."""
        wake = self._wake
        if wake is not None:
            with suppress(RuntimeError):  # the loop is closed, and its host settles the calls
                wake()
        elif self._closed:
            self.items.clear()

    def attend(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on, have *loop* drain the items; in any thread. A loop of ours hangs a bell."""
        self._loop = loop
        self._wake = partial(loop.call_soon_threadsafe, self._drain)

    def hang_bell(self) -> None:
        """On the loop: be woken through a descriptor, where the loop can watch one.

        `call_soon_threadsafe` would do, but makes a handle, and asyncio reads its own descriptor
        in one callback and drains the inbox in a second one: a bell of our own makes a `run`
        cheaper by a tenth. An eventfd is the cheapest descriptor there is.
        """
        loop = self._loop
        assert loop is not None
        bell = _Bell()
        try:
            loop.add_reader(bell.reader, self._answer)
        except NotImplementedError:
            bell.close()
        else:
            self._bell = bell  # the loop has the permission, until the drain gives it back
        loop.call_soon(self._drain)

    def close(self) -> None:
        """On the loop, as its last act, or in its thread after its end: start nothing more."""
        self._closed = True
        self._wake = None
        bell = self._bell
        loop = self._loop
        if bell is not None and loop is not None and not loop.is_closed():
            if not loop.is_running() or asyncio._get_running_loop() is not loop:
                # A borrowed loop may go on, and watches the descriptor until it is told to stop.
                self._loop = None
                try:
                    loop.call_soon_threadsafe(self._take_down, loop, bell)
                except RuntimeError:  # the loop was closed just now
                    self._close(bell)
            else:
                loop.remove_reader(bell.reader)
                self._close(bell)
        elif bell is not None:
            self._close(bell)
        self._bell = None
        self.items.clear()
        self._loop = None

    def _take_down(self, loop: asyncio.AbstractEventLoop, bell: _Bell) -> None:
        """On a loop that went on: no drain gives the permission back after this."""
        loop.remove_reader(bell.reader)
        self._close(bell)

    def _close(self, bell: _Bell) -> None:
        """Close *bell* once nobody writes into it any more; no drain may run meanwhile.

        Whoever took the permission has written, or is just about to write: nothing but the
        scheduler comes between. If the write does not come, leave the descriptor open.
        """
        mine = self._permission.pop("ring", None) is not None
        if mine or bell.answered or bell.rung(_LAST_WRITE):
            bell.close()

    def abandon(self) -> None:
        """In a forked child, where nobody else can be ringing: let go of the parent's loop."""
        self._closed = True
        self._wake = self._loop = None
        self._permission.clear()
        self.items.clear()
        if self._bell is not None:
            self._bell.close()

    def _answer(self) -> None:
        """On the loop: somebody has rung, and has handed the permission to the loop with that."""
        bell = self._bell
        if bell is not None and self._loop is not None:
            try:
                os.read(bell.reader, 8)
            except BlockingIOError:
                pass
            bell.answered = True
            self._drain()

    def _drain(self) -> None:
        """On the loop: start a batch of the items."""
        items = self.items
        try:
            for _ in range(_BATCH):
                if not items:
                    break
                items.popleft().start()
        finally:
            if not _hooks.in_order():
                _hooks.outlast_no_pool()  # a call that was just started has imported a pool
            bell = self._bell
            if bell is not None and bell.answered and self._loop is not None:
                if not items:
                    bell.answered = False
                    self._permission["ring"] = bell.ring
                # These were put while the loop had the permission, so nobody has rung for them.
                if items and (bell.answered or self._permission.pop("ring", None) is not None):
                    bell.answered = True
                    self._loop.call_soon(self._drain)
            elif items and self._wake is not None:
                self.wake()


def _rings(permission: dict[str, Callable[[], object]]) -> map[object]:
    """An endless iterator: each `next` takes the permission to ring and rings, in one call."""
    return map(
        operator.call,
        map(permission.pop, repeat("ring"), repeat(_nothing)),
    )


class _Bell:
    """A descriptor to write into and one to watch."""

    __slots__ = ("_open", "answered", "reader", "ring")

    def __init__(self) -> None:
        self.answered = True  # whether the loop has the permission to ring
        ring: Callable[[], object]
        if sys.platform == "linux" and hasattr(os, "eventfd"):
            self.reader = writer = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            ring = partial(os.write, writer, (1).to_bytes(8, sys.byteorder))
        else:
            self.reader, writer = os.pipe()
            os.set_blocking(self.reader, False)
            os.set_blocking(writer, False)
            ring = partial(os.write, writer, b"\0")
        self.ring = ring
        self._open = {self.reader, writer}  # whoever pops a descriptor closes it, and nobody else

    def rung(self, milliseconds: int) -> bool:
        """Whether something is written within so many milliseconds."""
        if not hasattr(select, "poll"):
            return False
        poll = select.poll()
        poll.register(self.reader, select.POLLIN)
        return bool(poll.poll(milliseconds))

    def close(self) -> None:
        while self._open:
            with suppress(KeyError, OSError):
                os.close(self._open.pop())
