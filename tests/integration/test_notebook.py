"""Jupyter: a real notebook through a real kernel, which has a running loop in its main thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

if TYPE_CHECKING:
    from pathlib import Path

DEFINITIONS = """
import asyncio
import contextlib
from concurrent.futures import as_completed

import palitra

async def double(number):
    await asyncio.sleep(0)
    return number * 2
"""

AS_COMPLETED = """
executor = palitra.get_executor()
calls = [executor.submit(double, n) for n in range(4)]
sorted(call.result() for call in as_completed(calls))
"""

LEAVES_A_TRACE = """
@contextlib.asynccontextmanager
async def resource():
    try:
        yield "open"
    finally:
        await asyncio.sleep(0)
        with open("closed", "w") as file:
            file.write("by the exit of the kernel")

palitra.enter_context(resource())
"""


def execute(cells: list[str], folder: Path) -> nbformat.NotebookNode:
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in [DEFINITIONS, *cells]]
    )
    client = NotebookClient(notebook, timeout=20, resources={"metadata": {"path": str(folder)}})
    return client.execute()


def shown(notebook: nbformat.NotebookNode) -> list[str]:
    """Return what each cell after the first shows, streams and values alike."""
    return [
        "".join(
            output["text"] if output["output_type"] == "stream" else output["data"]["text/plain"]
            for output in cell["outputs"]
        )
        for cell in notebook["cells"][1:]
    ]


@pytest.mark.timeout(60)  # a kernel takes seconds to start
def test_a_notebook_runs_coroutines_and_closes_what_it_opened(tmp_path: Path) -> None:
    notebook = execute(
        [
            # asyncio.run refuses here: the kernel's own loop is running.
            "palitra.run(double(21))",
            "palitra.gather(*map(double, range(3)))",
            AS_COMPLETED,
            "await asyncio.wrap_future(executor.submit(double, 5))",
            "async def speak():\n    print('from the loop')\n\npalitra.run(speak())",
            LEAVES_A_TRACE,
        ],
        tmp_path,
    )

    assert shown(notebook) == [
        "42",
        "[0, 2, 4]",
        "[0, 2, 4, 6]",
        "10",
        "from the loop\n",
        "'open'",
    ]
    assert (tmp_path / "closed").read_text() == "by the exit of the kernel"


@pytest.mark.timeout(60)
def test_a_failing_cell_shows_the_lines_of_the_user(tmp_path: Path) -> None:
    with pytest.raises(CellExecutionError) as failed:
        execute(
            ["async def fail():\n    raise LookupError('in the cell')\n\npalitra.run(fail())"],
            tmp_path,
        )

    assert "in the cell" in str(failed.value)
    assert "palitra.run" in str(failed.value)
