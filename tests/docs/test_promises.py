"""Every test that the page of promises names exists."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "explanation" / "promises.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`(tests/[\w/]+\.py)::([\w:]+)`", PAGE)


@cache
def names_in(path: str) -> set[str]:
    """The tests in a file, as pytest names them: ``test_it`` or ``TestGroup::test_it``."""
    found = set()
    for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{f.name}" for f in node.body if isinstance(f, ast.FunctionDef)}
        elif isinstance(node, ast.FunctionDef):
            found.add(node.name)
    return found


@pytest.mark.parametrize(("path", "name"), NAMED, ids=map("::".join, NAMED))
def test_a_named_test_exists(path: str, name: str) -> None:
    assert name in names_in(path)


def test_each_promise_names_a_test() -> None:
    promised, _, _ = PAGE.partition("## What is not promised")
    promises = re.split(r"^- ", promised, flags=re.MULTILINE)[1:]

    assert len(promises) > 40
    assert [promise for promise in promises if "::" not in promise] == []
