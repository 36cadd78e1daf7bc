"""Every code block of the docs and of the README runs, in a process of its own for each page."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from run_page import EXECUTED, NOT_EXECUTED, blocks

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page.relative_to(ROOT)
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    if "_build" not in page.parts and "_inventories" not in page.parts
)
# A progress bar is drawn on standard error.
SPEAKS_ON_STDERR = {Path("docs/howto/progress.md")}
# The blocks of this page are the cells of a notebook: tests/integration runs them in a kernel.
NOTEBOOKS = {Path("docs/howto/jupyter.md")}
# Children of a page's processes import its modules by name from here.
EXAMPLES = ROOT / "docs" / "examples"


def languages(page: Path) -> set[str]:
    return {block.language for block in blocks(ROOT / page)}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_block_is_executed_or_of_a_language_that_is_only_shown(page: Path) -> None:
    assert languages(page) <= EXECUTED | NOT_EXECUTED


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page not in NOTEBOOKS and languages(page) & EXECUTED],
    ids=str,
)
def test_a_page_runs_from_top_to_bottom(page: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(Path(__file__).with_name("run_page.py")), ROOT / page],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(EXAMPLES), "HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    if page not in SPEAKS_ON_STDERR:
        assert done.stderr == ""


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_each_example_has_a_test(example: Path) -> None:
    tests = (ROOT / "tests").rglob("test_*.py")

    assert any(example.stem in test.read_text(encoding="utf-8") for test in tests)


def test_the_readme_links_to_files_that_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    files = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text)]

    assert len(files) > 20
    assert [file for file in files if not (ROOT / file).exists()] == []
