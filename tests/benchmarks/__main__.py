"""The command: measures, prints, and writes what the documentation shows."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from . import charts
from .processes import last_core
from .report import Result, as_json, row_table, summarize, summary_table
from .rounds import Measured, measure_in_rounds
from .rows import Row, rows

RESULTS = Path(__file__).with_name("results")


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Measures palitra beside its peers. Each measurement is a fresh process on one "
        "core; the systems take turns.",
        epilog="rows: " + ", ".join(rows()),
    )
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="only these rows")
    parser.add_argument(
        "--systems", nargs="+", metavar="NAME", help="only entries whose name contains one of these"
    )
    parser.add_argument("--rounds", type=int, help="at most this many rounds of each row")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work, in three rounds")
    parser.add_argument("--uvloop", action="store_true", help="measure over uvloop as well")
    parser.add_argument("--core", type=int, default=last_core(), help="core to measure on")
    parser.add_argument(
        "--output",
        type=Path,
        default=RESULTS,
        help="folder for results.json, summary.md and the charts (default: %(default)s)",
    )
    return parser


def selected(options: argparse.Namespace) -> dict[str, Row]:
    """The rows asked for."""
    known = rows(quick=options.quick, uvloop=options.uvloop)
    unknown = set(options.rows or ()) - set(known)
    if unknown:
        parser().error(f"no such row: {', '.join(sorted(unknown))}")
    return {name: row for name, row in known.items() if not options.rows or name in options.rows}


def entries_of(row: Row, options: argparse.Namespace) -> list[str]:
    """The entries of a row asked for."""
    if not options.systems:
        return list(row.entries)
    return [name for name in row.entries if any(part in name for part in options.systems)]


def rounds_of(row: Row, options: argparse.Namespace) -> int:
    """How many rounds a row gets."""
    wanted: int = options.rounds or (3 if options.quick else row.rounds)
    return min(wanted, row.rounds)


def write(results: Sequence[Result], everything: Mapping[str, Measured], folder: Path) -> None:
    """Write the figures and draw the charts."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = json.dumps(as_json(results, everything), indent=1)
    (folder / "results.json").write_text(figures + "\n")
    (folder / "summary.md").write_text(summary_table(results) + "\n")
    charts.draw(results, folder)


def main() -> int:
    """Measure, print and write; not 0 if something could not be measured."""
    options = parser().parse_args()
    flags = [flag for flag in ("quick", "uvloop") if getattr(options, flag)]
    passed_on = [f"--{flag}" for flag in flags]
    if options.core is not None:
        passed_on.append(f"--core={options.core}")
    plan = [
        (name, row, entries, rounds_of(row, options))
        for name, row in selected(options).items()
        if (entries := entries_of(row, options))
    ]
    everything: dict[str, Measured] = {}
    results: list[Result] = []
    total = sum(len(entries) * rounds for _, _, entries, rounds in plan)
    with tqdm(total=total, unit="measurement", dynamic_ncols=True, file=sys.stderr) as progress:
        for name, row, entries, rounds in plan:
            progress.set_description(name)
            for measured in measure_in_rounds(name, entries, rounds, passed_on):
                everything[name] = measured
                progress.update()
            results.append(summarize(name, row, everything[name]))
            progress.write(row_table(results[-1]) + "\n", file=sys.stdout)
            # After each row, so that an interrupted run leaves what it had.
            write(results, everything, options.output)
    print(summary_table(results))
    print(f"\nwritten to {os.path.relpath(options.output)}")
    return 1 if any(result.failures for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
