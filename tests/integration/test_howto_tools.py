"""The how-to guides whose code runs inside another program: pytest and Jupyter."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest

DOCS = Path(__file__).parents[2] / "docs"


def test_the_example_of_the_pytest_guide_passes(tmp_path: Path) -> None:
    (tmp_path / "test_weather.py").write_text((DOCS / "examples" / "test_weather.py").read_text())

    # pytest-asyncio, where it is installed, wants settings that this guide does without.
    plugins = ["-p", "no:cacheprovider", "-p", "no:asyncio"]

    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pytest", "-q", *plugins],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


@pytest.mark.timeout(60)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the kernel's own client
def test_the_cells_of_the_jupyter_guide_run_in_a_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    page = (DOCS / "howto" / "jupyter.md").read_text(encoding="utf-8")
    cells = re.findall("^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])

    nbclient.execute(notebook, timeout=30, kernel_name="python3")

    shown = [
        output["data"]["text/plain"]
        for cell in notebook.cells
        for output in cell["outputs"]
        if output["output_type"] == "execute_result"
    ]
    assert shown == ["42", "False", "42"]
    assert not [
        o for cell in notebook.cells for o in cell["outputs"] if o["output_type"] == "stream"
    ]
