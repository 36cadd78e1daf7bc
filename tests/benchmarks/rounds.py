"""Rounds: in each one every entry of a row is measured once, in a fresh process.

The entries take turns, so that whatever else the machine does falls on all of them alike.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from .rows import Sample

PROGRAM = f"{__spec__.parent}.measure"
TIME_LIMIT = 300


@dataclass
class Measured:
    """What the rounds of one row gave."""

    samples: dict[str, list[Sample]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def measure_in_rounds(
    row: str, entries: Sequence[str], rounds: int, options: Iterable[str]
) -> Iterator[Measured]:
    """Measures the entries in turns, and hands out what there is so far after each measurement.

    An entry that fails is reported once and left out of the rounds that follow.
    """
    measured = Measured({entry: [] for entry in entries})
    for number in range(rounds):
        # Each round starts with another entry, so that none always follows the same one.
        start = number % len(entries)
        for entry in (*entries[start:], *entries[:start]):
            if entry not in measured.failures:
                try:
                    measured.samples[entry].append(_measure(row, entry, options))
                except RuntimeError as error:
                    measured.failures[entry] = str(error)
                    measured.samples[entry].clear()
            yield measured


def _measure(row: str, entry: str, options: Iterable[str]) -> Sample:
    command = [sys.executable, "-m", PROGRAM, row, entry, *options]
    try:
        process = subprocess.run(
            command, check=False, text=True, capture_output=True, timeout=TIME_LIMIT
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"not done after {TIME_LIMIT} s") from None
    if process.returncode != 0:
        lines = process.stderr.strip().splitlines() or [f"exit code {process.returncode}"]
        raise RuntimeError(lines[-1])
    return Sample(**json.loads(process.stdout.splitlines()[-1]))
