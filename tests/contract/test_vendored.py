"""The folder `palitra`, taken into another project's tree under another name."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import palitra

if TYPE_CHECKING:
    from interpreters import Python

PROGRAM = """
import asyncio, importlib, pickle, pkgutil, sys, traceback

sys.modules["palitra"] = None  # there is none: to import it raises
import theirs._vendor.palitra
from theirs._vendor.palitra import AsyncLoopExecutor, DeadlockError, is_runner_alive, run, sync_iter

for module in pkgutil.walk_packages(theirs._vendor.palitra.__path__, "theirs._vendor.palitra."):
    importlib.import_module(module.name)

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

async def fail():
    raise ValueError

with AsyncLoopExecutor() as executor:
    print(executor.run(double(1)), list(executor.map(double, [2, 3])), executor.run(deadlock()))
    error = executor.submit(fail).exception()
    print([frame.name for frame in traceback.extract_tb(error.__traceback__)])
print(pickle.loads(pickle.dumps(is_runner_alive)).__module__)
print(run(double(4)), list(sync_iter(numbers())))
"""


def test_the_folder_alone_works_under_another_name(python: Python) -> None:
    source = Path(palitra.__file__).parent
    shutil.copytree(source, python.folder / "theirs" / "_vendor" / "palitra")
    child = python.run(PROGRAM)
    assert child.stderr == ""
    assert child.stdout.splitlines() == [
        "2 [4, 6] theirs._vendor.palitra._calls",
        "['fail']",  # the copy knows its own frames
        "theirs._vendor.palitra._runner",
        "8 [1, 2]",
    ]
