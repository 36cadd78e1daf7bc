"""pytest-asyncio: palitra inside async tests, which have a loop of their own."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

SUITE = """
import asyncio
import threading
from concurrent.futures import as_completed

import pytest

import palitra
from palitra import AsyncLoopExecutor


async def double(number):
    await asyncio.sleep(0)
    return number * 2


@pytest.fixture(scope="session")
def executor():
    with AsyncLoopExecutor() as executor:
        yield executor


@pytest.fixture
def doubled(executor):
    # A plain fixture that needs an async function, whatever the loop of the test.
    return executor.run(double(21))


@pytest.mark.asyncio
async def test_run_blocks_for_a_coroutine_of_the_other_loop(doubled):
    assert doubled == 42
    assert palitra.run(double(2)) == 4
    assert palitra.get_loop() is not asyncio.get_running_loop()


@pytest.mark.asyncio
async def test_a_call_is_awaited(executor):
    assert await asyncio.wrap_future(executor.submit(double, 3)) == 6


@pytest.mark.asyncio
async def test_calls_are_gathered(executor):
    calls = [asyncio.wrap_future(executor.submit(double, number)) for number in range(10)]
    assert await asyncio.gather(*calls) == [number * 2 for number in range(10)]


@pytest.mark.asyncio
async def test_a_sync_function_works_in_a_thread(executor):
    assert await asyncio.to_thread(executor.sync(double), 4) == 8


@pytest.mark.asyncio
@pytest.mark.parametrize("number", range(3))
async def test_one_executor_outlives_the_loops_of_many_tests(executor, number):
    assert executor.run(double(number)) == number * 2


def test_a_plain_test_beside_them(executor):
    futures = [executor.submit(double, number) for number in range(5)]
    assert sorted(future.result() for future in as_completed(futures)) == [0, 2, 4, 6, 8]
"""


def test_async_tests_use_palitra(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SUITE)

    result = pytester.runpytest_subprocess(
        "-W", "error", "-o", "asyncio_default_fixture_loop_scope=function"
    )

    result.assert_outcomes(passed=8)
    assert result.ret == pytest.ExitCode.OK
