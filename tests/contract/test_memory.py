"""A long `map` in flat memory.

Some ten thousands of calls by default; `PALITRA_STRESS=50` makes it the million.
"""

from __future__ import annotations

import gc
import itertools
import os
import tracemalloc
from typing import Any

import pytest

from palitra import AsyncLoopExecutor

CALLS = min(1_000_000, 20_000 * int(os.environ.get("PALITRA_STRESS", "1")))
BUFFER = 1000

pytestmark = pytest.mark.timeout(600)


async def coroutine(number: int) -> int:
    return number


def plain(number: int) -> int:
    return number


@pytest.mark.parametrize("fn", [coroutine, plain])
def test_a_long_map_runs_in_flat_memory(quick_loop: dict[str, Any], fn: Any) -> None:
    with AsyncLoopExecutor(**quick_loop) as executor:
        results = executor.map(fn, itertools.count(), buffersize=BUFFER)
        total = sum(itertools.islice(results, 2 * BUFFER))  # fills the buffer, and all caches
        gc.collect()
        tracemalloc.start()
        try:
            peaks = []
            for _ in range(4):
                tracemalloc.reset_peak()
                total += sum(itertools.islice(results, CALLS // 4))
                peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        results.close()  # type: ignore[attr-defined]

    count = 2 * BUFFER + CALLS // 4 * 4
    assert total == count * (count - 1) // 2
    # What the buffer holds is replaced over and over, and nothing is added. How many of its calls
    # are in flight at a time depends on who gets to run; each takes less than 2 kB.
    assert max(peaks[1:]) < peaks[0] + BUFFER * 2_000
