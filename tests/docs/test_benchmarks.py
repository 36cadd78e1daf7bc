"""The page of benchmarks shows each row that was measured."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
RESULTS = DOCS / "_static" / "benchmarks" / "results.json"


@pytest.mark.skipif(not RESULTS.exists(), reason="nothing was measured for this version yet")
def test_each_measured_row_is_shown_with_its_chart() -> None:
    measured = set(json.loads(RESULTS.read_text(encoding="utf-8"))["rows"])
    page = (DOCS / "explanation" / "benchmarks.md").read_text(encoding="utf-8")

    assert set(re.findall(r"^:::\{measurements\} (\w+)$", page, re.MULTILINE)) == measured
    assert {chart.stem for chart in RESULTS.parent.glob("*.svg")} == measured
