"""tqdm: its executor map takes the class, and a bar goes over `as_completed`."""

from __future__ import annotations

import io
from concurrent.futures import as_completed
from functools import partial

import pytest
import tqdm.contrib.concurrent
from tqdm import tqdm as bar

from palitra import AsyncLoopExecutor

# The thread that refreshes slow bars lives as long as the process.
pytestmark = pytest.mark.keeps_threads("tqdm_monitor")


class FailureError(Exception):
    pass


async def double(number: int) -> int:
    return number * 2


def double_in_a_thread(number: int) -> int:
    return number * 2


async def fail_at_three(number: int) -> int:
    if number == 3:
        raise FailureError
    return number


# What `thread_map` and `process_map` are made of; tqdm offers no public name that takes a class.
executor_map = partial(tqdm.contrib.concurrent._executor_map, AsyncLoopExecutor)


def test_the_executor_map_of_tqdm_runs_coroutine_functions() -> None:
    shown = io.StringIO()

    results = executor_map(double, range(40), file=shown, max_workers=4)

    assert results == [number * 2 for number in range(40)]
    assert "40/40" in shown.getvalue()


def test_the_executor_map_of_tqdm_runs_plain_functions_in_worker_threads() -> None:
    shown = io.StringIO()

    results = executor_map(double_in_a_thread, range(40), file=shown, max_workers=4)

    assert results == [number * 2 for number in range(40)]
    assert "40/40" in shown.getvalue()


def test_the_executor_map_of_tqdm_takes_several_iterables_and_thread_names() -> None:
    async def add(left: int, right: int) -> int:
        return left + right

    results = executor_map(
        add, [1, 2, 3], [10, 20, 30], file=io.StringIO(), thread_name_prefix="bar", timeout=20
    )

    assert results == [11, 22, 33]


def test_the_executor_map_of_tqdm_raises_what_a_coroutine_raised() -> None:
    with pytest.raises(FailureError):
        executor_map(fail_at_three, range(10), file=io.StringIO())


def test_a_bar_over_as_completed_counts_every_future(executor: AsyncLoopExecutor) -> None:
    shown = io.StringIO()
    futures = [executor.submit(double, number) for number in range(25)]

    with bar(as_completed(futures), total=len(futures), file=shown, mininterval=0) as futures_bar:
        results = sorted(future.result() for future in futures_bar)

    assert results == [number * 2 for number in range(25)]
    assert "25/25" in shown.getvalue()
