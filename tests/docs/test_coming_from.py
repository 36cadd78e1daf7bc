"""Each line of the page "Coming from 0.1" names a test that holds it."""

import re
from pathlib import Path

import pytest
from test_promises import names_in

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "howto" / "coming-from-0.1.md").read_text(encoding="utf-8")
LINES = re.findall(
    r"^- (.+?)(?=^- |^\n)",
    PAGE.partition("## What is as it was")[2],
    flags=re.MULTILINE | re.DOTALL,
)


def test_the_page_has_its_lines() -> None:
    assert len(LINES) > 20


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[:50])
def test_a_line_names_tests_that_exist(line: str) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", line)

    assert named
    for path, name in named:
        assert name in names_in(path)
