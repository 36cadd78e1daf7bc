"""Loops that break."""

from __future__ import annotations

import asyncio

import pytest

# A dead loop leaves coroutines that nothing can run: of asyncio's own closing, of tasks before
# their first step.
dead_loops_leave_coroutines = pytest.mark.filterwarnings(
    "ignore:coroutine '.*' was never awaited:RuntimeWarning"
)


class Mortal(asyncio.SelectorEventLoop):
    """A loop that is dead for good once it is stopped."""

    dead = False

    def run_forever(self) -> None:
        if not self.dead:
            super().run_forever()
            forget_tasks(self)
        self.dead = True
        raise OSError("the loop died")


class Closes(asyncio.SelectorEventLoop):
    """A loop that is closed when it is stopped."""

    def run_forever(self) -> None:
        super().run_forever()
        forget_tasks(self)
        self.close()


def forget_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Nobody can end the tasks of a dead loop; do not let asyncio complain of each."""
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False  # type: ignore[attr-defined]
