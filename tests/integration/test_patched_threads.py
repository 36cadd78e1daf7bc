"""Programs under gevent's and eventlet's monkey patching."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from interpreters import Python

GEVENT = "import gevent.monkey"
EVENTLET = """
import warnings
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import eventlet
"""
LIBRARIES = {
    "gevent": (GEVENT, "gevent.monkey.patch_all({})"),
    "eventlet": (EVENTLET, "eventlet.monkey_patch({})"),
}

PROGRAM = """
import asyncio, contextlib, time


async def double(number):
    await asyncio.sleep(0.01)
    return 2 * number


async def count(stop):
    for number in range(stop):
        yield await double(number) // 2


@contextlib.asynccontextmanager
async def context():
    yield "entered"
    await asyncio.to_thread(time.sleep, 0)
    print("left", flush=True)


def uses(executor):
    return [
        lambda: executor.run(double(1)),
        lambda: executor.submit(double, 1).result(),
        lambda: executor.submit(abs, -2).result(),
        lambda: len([*executor.map(time.sleep, [0.01, 0.01])]),
        lambda: executor.gather(double(0), double(1))[1],
        lambda: len([*executor.sync_iter(count(2))]),
        lambda: len(executor.enter_context(context)) - 5,
        lambda: executor.run(asyncio.to_thread(abs, -2)),
    ]
"""

REFUSED = """
for executor in palitra.get_executor(), palitra.AsyncLoopExecutor():
    for use in uses(executor):
        try:
            use()
        except RuntimeError as error:
            assert "real threads" in str(error), error
        else:
            print("not refused")
executor.shutdown()
print("the end", flush=True)
"""

SERVED = """
with palitra.AsyncLoopExecutor() as executor:
    print([use() for use in uses(executor)] == [2] * 8)
print([use() for use in uses(palitra.get_executor())] == [2] * 8)
"""


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> tuple[str, str]:
    if not importlib.util.find_spec(request.param):
        pytest.skip(f"{request.param} is not installed")
    return LIBRARIES[request.param]


@pytest.mark.parametrize("order", ["patched, then imported", "imported, then patched"])
def test_the_first_use_says_that_threads_are_patched_and_nothing_hangs(
    python: Python, library: tuple[str, str], order: str
) -> None:
    imports, patch = library
    steps = [patch.format(""), "import palitra"]
    if order.startswith("imported"):
        steps.reverse()

    end = python.run("\n".join([imports, *steps, PROGRAM, REFUSED]))

    assert (end.stdout, end.stderr, end.returncode) == ("the end\n", "", 0)


def test_all_works_where_threads_are_left_alone(python: Python, library: tuple[str, str]) -> None:
    imports, patch = library

    end = python.run(
        "\n".join([imports, patch.format("thread=False"), "import palitra", PROGRAM, SERVED])
    )

    assert (end.stderr, end.returncode) == ("", 0)
    assert end.stdout.splitlines() == ["True", "left", "True", "left"]


def test_what_was_patched_after_the_first_use_hangs_nothing(
    python: Python, library: tuple[str, str]
) -> None:
    # Standard error is theirs: the interpreter's own records of threads no longer fit.
    imports, patch = library

    end = python.run(
        "\n".join(
            [
                imports,
                "import palitra",
                PROGRAM,
                "print(palitra.run(double(1)))",
                patch.format(""),
                """
print(palitra.run(double(2)))
for executor in palitra.get_executor(), palitra.AsyncLoopExecutor():
    try:
        executor.submit(abs, -1)
    except RuntimeError:
        print("refused")
""",
            ]
        )
    )

    assert (end.stdout.splitlines(), end.returncode) == (["2", "4", "refused", "refused"], 0)
