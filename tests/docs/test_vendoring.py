"""A copy of palitra in another package: as it is, and rewritten as a page shows."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_pages import ROOT

import palitra

PAGE = (ROOT / "docs" / "howto" / "own-helper.md").read_text(encoding="utf-8")
NEW = "myapp._vendor.palitra"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    folder = tmp_path.joinpath(*NEW.split("."))
    shutil.copytree(Path(palitra.__file__).parent, folder)
    return folder


def printed(program: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_copy_as_it_is_imports_the_palitra_that_is_installed(copy: Path, tmp_path: Path) -> None:
    program = f"from {NEW} import AsyncLoopExecutor as copy; print(copy.__module__)"

    assert printed(program, tmp_path) == "palitra._executor\n"


def test_a_copy_whose_imports_are_rewritten_stands_alone(copy: Path, tmp_path: Path) -> None:
    rewritten = f'text.replace("from palitra", "from {NEW}")'
    assert rewritten in PAGE
    for path in [*copy.rglob("*.py"), *copy.rglob("*.pyi")]:
        text = path.read_text(encoding="utf-8")
        path.write_text(eval(rewritten, {"text": text}), encoding="utf-8")
    program = f"""
import asyncio
import importlib
import pickle
import pkgutil
import sys
import traceback

import {NEW} as copy

for module in pkgutil.walk_packages(copy.__path__, "{NEW}."):
    importlib.import_module(module.name)


async def value_of(number):
    await asyncio.sleep(0)
    return number


async def fail():
    raise ValueError


async def numbers():
    yield 4
    yield 5


print(copy.run(value_of(1)), copy.gather(value_of(2), value_of(3)), [*copy.sync_iter(numbers)])
submit = copy.get_executor().submit
print(submit(value_of, 6).result(), submit(len, "7").result())
print(pickle.loads(pickle.dumps(copy.is_runner_alive)).__module__)
try:
    submit(fail).result()
except ValueError as error:
    frames = traceback.extract_tb(error.__traceback__)
print([frame.name for frame in frames])
print([name for name in sys.modules if name.partition(".")[0] == "palitra"])
"""

    assert printed(program, tmp_path).splitlines() == [
        "1 [2, 3] [4, 5]",
        "6 1",
        f"{NEW}._runner",
        "['<module>', 'result', 'fail']",  # the copy knows its own frames
        "[]",
    ]
