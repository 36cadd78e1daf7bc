"""The page of benchmarks shows each row that was measured."""

from __future__ import annotations

import json
import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
RESULTS = DOCS / "_static" / "benchmarks" / "results.json"


def test_each_measured_row_is_shown_with_its_chart() -> None:
    measured = set()
    if RESULTS.exists():
        measured = set(json.loads(RESULTS.read_text(encoding="utf-8"))["rows"])
    page = (DOCS / "explanation" / "benchmarks.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^:::\{measurements\} (\w+)$", page, re.MULTILINE))

    # A version that nothing was measured for yet says so on its page.
    assert measured in (shown, set())
    assert {chart.stem for chart in RESULTS.parent.glob("*.svg")} == measured
