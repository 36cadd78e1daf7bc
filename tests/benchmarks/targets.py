"""What a row is to reach, and whether it did."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

# For each entry of a row, one figure a round, in the order of the rounds; and for each further
# figure, under "entry: figure".
Figures = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Verdict:
    """A target beside what was reached."""

    wanted: str
    reached: str
    met: bool


class Target(Protocol):
    """Judges the figures of a row; None if an entry that it needs was not measured."""

    def judge(self, figures: Figures) -> Verdict | None: ...


def ratio(figures: Figures, entry: str, baseline: str) -> float | None:
    """The median of an entry's figure over the baseline's in the same round.

    Round by round, because what else the machine does changes from one to the next.
    """
    if not figures.get(entry) or not figures.get(baseline):
        return None
    pairs = zip(figures[entry], figures[baseline], strict=False)
    return statistics.median(one / other for one, other in pairs)


@dataclass(frozen=True)
class Ratio:
    """An entry costs at most ``limit`` times the baseline."""

    entry: str
    baseline: str
    limit: float

    def judge(self, figures: Figures) -> Verdict | None:
        reached = ratio(figures, self.entry, self.baseline)
        if reached is None:
            return None
        wanted = f"{self.entry} <= {self.limit:.2f} of {self.baseline}"
        return Verdict(wanted, f"{reached:.2f}", reached <= self.limit)


@dataclass(frozen=True)
class Flat:
    """The dearest of these entries costs at most ``limit`` times the cheapest."""

    entries: tuple[str, ...]
    limit: float

    def judge(self, figures: Figures) -> Verdict | None:
        medians = [
            statistics.median(figures[entry]) for entry in self.entries if figures.get(entry)
        ]
        if len(medians) < 2:
            return None
        reached = max(medians) / min(medians)
        wanted = f"{self.entries[0]} to {self.entries[-1]} within {self.limit - 1:.0%}"
        return Verdict(wanted, f"{reached - 1:.0%}", reached <= self.limit)


@dataclass(frozen=True)
class AtMost:
    """An entry stays within ``limit``, in the row's unit, in the median round."""

    entry: str
    limit: float
    unit: str

    def judge(self, figures: Figures) -> Verdict | None:
        if not figures.get(self.entry):
            return None
        reached = statistics.median(figures[self.entry])
        wanted = f"{self.entry} <= {self.limit:g} {self.unit}"
        return Verdict(wanted, f"{reached:.1f} {self.unit}", reached <= self.limit)
