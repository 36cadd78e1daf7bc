"""Single calls: their mean, their median, and the two heaps that they may fall into.

A call that meets the loop's thread at the right moment can cost half of one that does not. The mean
of both says little about either; so the heaps are told apart.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

_SMALLEST = 0.1  # of the calls: fewer are no heap, but stragglers
_APART = 1.3  # how much dearer the calls of an upper heap are


@dataclass(frozen=True)
class Heaps:
    """Two heaps of durations by their medians; where there is one, both are its median."""

    lower: float
    upper: float
    share_of_upper: float


def heaps(durations: Sequence[float]) -> Heaps:
    """The two heaps, divided where what is left within them varies least (Otsu's threshold)."""
    ordered = sorted(durations)
    # The slowest of all were held up by something else, and would make a heap of their own.
    ordered = ordered[: len(ordered) - len(ordered) // 20]
    total, count = sum(ordered), len(ordered)
    best, divided_at = 0.0, 0
    for below, sum_below in enumerate(itertools.accumulate(ordered[:-1]), 1):
        apart = (total - sum_below) / (count - below) - sum_below / below
        if (between := below * (count - below) * apart * apart) > best:
            best, divided_at = between, below
    lower, upper = ordered[:divided_at], ordered[divided_at:]
    if min(len(lower), len(upper)) >= _SMALLEST * count:
        medians = statistics.median(lower), statistics.median(upper)
        if medians[1] >= _APART * medians[0]:
            return Heaps(*medians, len(upper) / count)
    median = statistics.median(ordered)
    return Heaps(median, median, 0.0)
