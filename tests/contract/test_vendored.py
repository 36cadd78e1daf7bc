"""The folder `palitra`, taken into another project's tree under another name."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import palitra

if TYPE_CHECKING:
    from interpreters import Python

PROGRAM = """
import asyncio, sys

sys.modules["palitra"] = None  # there is none: to import it raises
from theirs._vendor.palitra import AsyncLoopExecutor, DeadlockError, run, sync_iter

async def double(x):
    await asyncio.sleep(0)
    return 2 * x

async def numbers():
    yield 1
    yield 2

async def deadlock():
    try:
        executor.run(double(1))
    except DeadlockError as error:
        return type(error).__module__

with AsyncLoopExecutor() as executor:
    print(executor.run(double(1)), list(executor.map(double, [2, 3])), executor.run(deadlock()))
print(run(double(4)), list(sync_iter(numbers())))
"""


def test_the_folder_alone_works_under_another_name(python: Python) -> None:
    source = Path(palitra.__file__).parent
    shutil.copytree(source, python.folder / "theirs" / "_vendor" / "palitra")
    child = python.run(PROGRAM)
    assert (child.stdout, child.stderr) == (
        "2 [4, 6] theirs._vendor.palitra._calls\n8 [1, 2]\n",
        "",
    )
