"""Every link from one file of the repository to another leads somewhere, headings included."""

import re
from pathlib import Path

import pytest
from test_pages import PAGES, ROOT

FILES = [*PAGES, Path("CHANGELOG.md"), Path("SECURITY.md")]


def text_of(file: Path) -> str:
    """The file without its code."""
    text = file.read_text(encoding="utf-8")
    return re.sub(r"^(```+|:::+)[^\n]*\n.*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(file: Path) -> set[str]:
    """The headings, as pages and code hosts make addresses of them."""
    headings = re.findall(r"^#+ (.+)$", text_of(file), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("file", FILES, ids=str)
def test_its_links_lead_somewhere(file: Path) -> None:
    lost = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(ROOT / file)):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / file).parent / path if path else ROOT / file
        if not target.exists() or (anchor and anchor not in anchors(target)):
            lost.append(link)

    assert lost == []
