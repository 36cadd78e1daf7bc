"""Dask's local schedulers take the executor; worker processes each have a loop of their own."""

from __future__ import annotations

import threading
from collections import defaultdict
from operator import add
from typing import TYPE_CHECKING

import dask
import dask.threaded
import pytest
from dask.distributed import Client, LocalCluster
from scale_jobs import fetch_connection

import palitra
from palitra import AsyncLoopExecutor

if TYPE_CHECKING:
    from pathlib import Path

    from counting_server import CountingServer

    from interpreters import Python


# The thread in which Dask serializes what it sends lives as long as the process.
pytestmark = pytest.mark.keeps_threads("Dask-Offload")

# Dask's own servers would listen on every address otherwise.
DASHBOARDS = {"dashboard_address": "127.0.0.1:0", "worker_dashboard_address": "127.0.0.1:0"}
LOOPBACK = {"host": "127.0.0.1", **DASHBOARDS}


async def increment(number: int) -> int:
    return number + 1


def thread_name(*_: object) -> str:
    return threading.current_thread().name


def test_the_threaded_scheduler_takes_the_executor_as_its_pool() -> None:
    graph = {"x": 1, "y": (add, "x", 10), "z": (add, "y", 100), "where": (thread_name, "z")}

    with AsyncLoopExecutor(max_workers=4, thread_name_prefix="dask") as executor:
        x, z, where = dask.threaded.get(graph, ["x", "z", "where"], pool=executor)

    assert (x, z) == (1, 111)
    assert where.startswith("dask_")


def test_compute_takes_the_executor_as_its_scheduler(executor: AsyncLoopExecutor) -> None:
    total = dask.delayed(sum)([dask.delayed(add)(number, 1) for number in range(50)])

    assert total.compute(scheduler=executor) == sum(range(1, 51))


def test_tasks_of_dask_call_async_functions_through_sync(executor: AsyncLoopExecutor) -> None:
    # More tasks than worker threads, and each of them blocks on the executor it runs in.
    increment_now = dask.delayed(executor.sync(increment))

    total = dask.delayed(sum)([increment_now(number) for number in range(100)])

    assert dask.compute(total, scheduler=executor) == (sum(range(1, 101)),)


@pytest.mark.timeout(60)  # worker processes import Dask first
def test_each_worker_process_of_dask_keeps_its_connection(
    server: CountingServer, tmp_path: Path
) -> None:
    with (
        LocalCluster(n_workers=2, threads_per_worker=2, **LOOPBACK) as cluster,
        Client(cluster) as client,
    ):
        jobs = client.map(fetch_connection, [server.url] * 40, folder=str(tmp_path), pure=False)
        answers = client.gather(jobs)

    connections = defaultdict(set)
    for pid, connection in answers:
        connections[pid].add(connection)
    assert len(answers) == server.requests == 40
    assert len(connections) == 2
    assert server.connections == 2
    assert all(len(numbers) == 1 for numbers in connections.values())
    assert server.wait_until_all_closed()
    # Each worker closed its session when it ended.
    assert {int(trace.name) for trace in tmp_path.iterdir()} == set(connections)


def test_the_client_of_dask_runs_beside_the_default_executor(
    default_executor: AsyncLoopExecutor,
) -> None:
    with (
        LocalCluster(n_workers=1, processes=False, **DASHBOARDS) as cluster,
        Client(cluster) as client,
    ):
        assert client.submit(palitra.sync(increment), 1).result() == 2


FROM_MAIN = """
import asyncio

from dask.distributed import Client, LocalCluster

import palitra


@palitra.sync
async def double(x):
    await asyncio.sleep(0)
    return 2 * x


class Service:
    def __init__(self, factor):
        self.factor = factor

    @palitra.sync
    async def times(self, x):
        return self.factor * x


def main():
    with (
        LocalCluster(
            n_workers=1, host="127.0.0.1",
            dashboard_address="127.0.0.1:0", worker_dashboard_address="127.0.0.1:0",
        ) as cluster,
        Client(cluster) as client,
    ):
        for function in double, Service(3).times, lambda x: double.submit(x).result(10):
            print(client.gather(client.map(function, range(3))))
        print(client.submit(double, 21).key.partition("-")[0])


if __name__ == "__main__":
    main()
"""


@pytest.mark.timeout(60)  # worker processes import Dask first
def test_dask_sends_sync_functions_from_main_to_its_workers(python: Python) -> None:
    done = python.run(FROM_MAIN, timeout=50)

    assert done.stdout.splitlines() == ["[0, 2, 4]", "[0, 3, 6]", "[0, 2, 4]", "double"]
    assert done.returncode == 0
