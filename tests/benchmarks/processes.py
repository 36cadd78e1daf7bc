"""What the operating system tells of a process, and where it may run."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def last_core() -> int | None:
    """The core to measure on: the first one is where interrupts tend to go."""
    return max(os.sched_getaffinity(0)) if sys.platform == "linux" else None


def pin(core: int | None) -> None:
    """Keep this process and its threads on one core, where the platform can."""
    if core is not None and sys.platform == "linux":
        os.sched_setaffinity(0, {core})


def unpin() -> None:
    """Let this process and the threads that it will start run on every core again."""
    if sys.platform == "linux":
        os.sched_setaffinity(0, range(os.cpu_count() or 1))


def leave_to_parent() -> None:
    """Keep this process off the cores that its parent is pinned to, where there are others."""
    if sys.platform == "linux":
        others = set(range(os.cpu_count() or 1)) - os.sched_getaffinity(0)
        if others:
            os.sched_setaffinity(0, others)


def resident_memory() -> int:
    """Bytes of this process that are in memory now."""
    return _status("VmRSS")


def peak_memory() -> int:
    """Bytes of this process that were in memory at most."""
    return _status("VmHWM")


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    raise LookupError(f"/proc/self/status has no {name}")
