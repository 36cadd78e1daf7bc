"""When what nobody refers to any more goes.

With the global interpreter lock it goes at once, and the tests hold palitra to that: no reference
cycle leads through it. A free-threaded build leaves some of it to the next collection, such as what
a thread other than its maker has let go of; so there, and only there, the tests collect.
"""

from __future__ import annotations

import gc
import sys
import sysconfig
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable

    from contract.gates import Gate

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

_BETWEEN_COLLECTIONS = 0.02


def on_demand(names: Iterable[str]) -> list[str]:
    """Those of *names* whose threads start on demand: 3.12 has one of asyncio's from the start."""
    early = sys.version_info[:2] == (3, 12)
    return [name for name in names if not (early and name.endswith("_asyncio_0"))]


def collect_where_due() -> None:
    """Let go what nobody refers to, where that takes a collection."""
    if FREE_THREADED:
        gc.collect()


def happens(wait: Callable[[float], object], patience: float) -> bool:
    """Whether that happens in time which the end of an object brings about.

    *wait* waits for it, for as many seconds as it is given, and says whether it has happened.
    """
    if not FREE_THREADED:
        return bool(wait(patience))
    # An earlier collection may have done it; each takes long in a process with many objects.
    happened = bool(wait(0.0))
    deadline = time.monotonic() + patience
    while not happened and time.monotonic() < deadline:
        gc.collect()
        happened = bool(wait(_BETWEEN_COLLECTIONS))
    return happened


def opens(gate: Gate, patience: float) -> bool:
    """Whether *gate* is opened in time by what runs at the end of an object.

    Where the tests collect, this thread may be the one that runs it, in the middle of any wait: so
    it waits for no lock that opening the gate takes.
    """
    if not FREE_THREADED:
        return gate._opened.wait(patience)
    deadline = time.monotonic() + patience
    while not gate.is_open and time.monotonic() < deadline:
        gc.collect()
        time.sleep(_BETWEEN_COLLECTIONS)
    return gate.is_open


def ends(thread: threading.Thread, patience: float) -> bool:
    """Whether a thread that ends with an object does so in time."""

    def joined(seconds: float) -> bool:
        thread.join(seconds)
        return not thread.is_alive()

    return happens(joined, patience)
