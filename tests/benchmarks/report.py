"""The figures as tables, as JSON, and as the summary that the documentation shows."""

from __future__ import annotations

import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from .rounds import Measured
from .rows import Row, Sample
from .targets import Figures, Verdict, ratio

PEERS = (
    "palitra",
    "anyio",
    "asgiref",
    "asyncio-thread-runner",
    "unsync",
    "fsspec",
    "synchronicity",
    "uvloop",
    "aiohttp",
    "requests",
    "httpx",
)


@dataclass(frozen=True)
class Summary:
    """One entry's figures over all rounds."""

    median: float
    lower_quartile: float
    upper_quartile: float
    ratio: float | None
    more: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """One row's figures, ready to be shown."""

    name: str
    row: Row
    entries: Mapping[str, Summary]
    failures: Mapping[str, str]
    verdicts: Sequence[Verdict]
    # The same targets by the processor's clock, for rows that measure time.
    cpu_verdicts: Sequence[Verdict]


def summarize(name: str, row: Row, measured: Measured) -> Result:
    """Medians, spread, ratios and verdicts of a row."""
    figures = {entry: [one.value for one in samples] for entry, samples in measured.samples.items()}
    figures |= {
        f"{entry}: {key}": [one.more[key] for one in samples]
        for entry, samples in measured.samples.items()
        for key in row.more
    }
    cpu = {
        entry: [one.cpu for one in samples if one.cpu is not None]
        for entry, samples in measured.samples.items()
    }
    entries = {
        entry: _summary(samples, ratio(figures, entry, row.baseline), row)
        for entry, samples in measured.samples.items()
        if samples
    }
    return Result(
        name, row, entries, measured.failures, _verdicts(row, figures), _verdicts(row, cpu)
    )


def _summary(samples: Sequence[Sample], to_baseline: float | None, row: Row) -> Summary:
    values = [one.value for one in samples]
    lower, median, upper = (
        statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    )
    more = {key: statistics.median(one.more[key] for one in samples) for key in row.more}
    return Summary(median, lower, upper, to_baseline, more)


def _verdicts(row: Row, figures: Figures) -> list[Verdict]:
    verdicts = (target.judge(figures) for target in row.targets)
    return [verdict for verdict in verdicts if verdict is not None]


def row_table(result: Result) -> str:
    """One row: every entry with median, quartiles and the ratio to the baseline."""
    row = result.row
    header = ["", row.unit, "quartiles", "ratio", *labels_of_more(row)]
    lines = [
        [
            entry,
            _figure(one.median),
            f"{_figure(one.lower_quartile)} to {_figure(one.upper_quartile)}",
            "" if one.ratio is None else f"{one.ratio:.2f}",
            *(_figure(one.more[key]) for key in row.more),
        ]
        for entry, one in sorted(result.entries.items(), key=lambda item: item[1].median)
    ]
    parts = [f"{result.name}: {row.title}", _columns([header, *lines])]
    parts += [f"  {entry}: failed: {reason}" for entry, reason in result.failures.items()]
    by_cpu = [f" ({verdict.reached} by processor time)" for verdict in result.cpu_verdicts]
    by_cpu += [""] * (len(result.verdicts) - len(by_cpu))
    parts += [
        f"  {'met   ' if verdict.met else 'MISSED'}  {verdict.wanted}: {verdict.reached}{beside}"
        for verdict, beside in zip(result.verdicts, by_cpu, strict=True)
    ]
    return "\n".join(parts)


def labels_of_more(row: Row) -> list[str]:
    """What the row's further figures are called in tables and charts."""
    return [key if key == unit else f"{key}, {unit}" for key, unit in row.more.items()]


def summary_table(results: Sequence[Result]) -> str:
    """Every target of every row, as a Markdown table."""
    header = ["row", "to reach", "reached", "by processor time", "met"]
    lines = [
        [
            result.row.title,
            verdict.wanted,
            verdict.reached,
            result.cpu_verdicts[number].reached if number < len(result.cpu_verdicts) else "",
            "yes" if verdict.met else "no",
        ]
        for result in results
        for number, verdict in enumerate(result.verdicts)
    ]
    rules = ["---"] * len(header)
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, rules, *lines])


def as_json(results: Sequence[Result], measured: Mapping[str, Measured]) -> dict[str, Any]:
    """Everything that was measured, and on what."""
    return {
        "python": sys.version,
        "platform": platform.platform(),
        "versions": _versions(),
        "rows": {
            result.name: {
                "title": result.row.title,
                "unit": result.row.unit,
                "baseline": result.row.baseline,
                "entries": {
                    entry: {
                        "median": one.median,
                        "quartiles": [one.lower_quartile, one.upper_quartile],
                        "ratio": one.ratio,
                        **one.more,
                        "samples": [
                            sample.value for sample in measured[result.name].samples[entry]
                        ],
                        "cpu_samples": [
                            sample.cpu for sample in measured[result.name].samples[entry]
                        ],
                    }
                    for entry, one in result.entries.items()
                },
                "failures": dict(result.failures),
                "targets": [vars(verdict) for verdict in result.verdicts],
                "targets_by_cpu": [vars(verdict) for verdict in result.cpu_verdicts],
            }
            for result in results
        },
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in PEERS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _figure(value: float) -> str:
    """Three digits that count, without an exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _columns(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  " + "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in lines
    )
