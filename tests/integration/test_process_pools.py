"""`sync` functions through process pools: each worker has one loop, and keeps its connections."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from counting_server import CountingServer

    from interpreters import Python

HERE = Path(__file__).parent

# A process of its own: other consumers leave threads behind that would meet the fork.
PROGRAM = """
import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

from scale_jobs import fetch_connection


def main(start_method, url, folder):
    # The parent has a loop and a connection already; no worker may mistake them for its own.
    before = fetch_connection(url, folder)
    context = multiprocessing.get_context(start_method)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        answers = list(pool.map(fetch_connection, [url] * 40, [folder] * 40))
    after = fetch_connection(url, folder)
    print(json.dumps({"workers": answers, "parent": [before, after]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
"""


@pytest.mark.parametrize("start_method", ["fork", "forkserver", "spawn"])
def test_each_worker_of_a_process_pool_keeps_its_connection(
    start_method: str, server: CountingServer, python: Python, tmp_path: Path
) -> None:
    # Since 3.12 a fork beside threads warns; that palitra has one here is the point of the test.
    options = ("-W", "error", "-W", "ignore:This process:DeprecationWarning")

    folder = tmp_path / "ended"
    folder.mkdir()

    ended = python.run(
        PROGRAM,
        start_method,
        server.url,
        str(folder),
        options=options,
        env={"PYTHONPATH": str(HERE)},
    )

    assert ended.stderr == ""
    assert ended.returncode == 0
    answers = json.loads(ended.stdout)
    connections = {(pid, connection) for pid, connection in answers["workers"]}
    workers = {pid for pid, _ in connections}
    parent, first = answers["parent"][0]
    assert len(answers["workers"]) == 40
    assert 1 <= len(workers) <= 2
    # One connection for each worker; the parent went on with the one that it had.
    assert len(connections) == len(workers)
    assert answers["parent"] == [[parent, first], [parent, first]]
    assert parent not in workers
    assert server.connections == len(workers) + 1
    assert server.requests == 42
    # Each process closed its session when it ended.
    assert {int(trace.name) for trace in folder.iterdir()} == {*workers, parent}
    assert server.wait_until_all_closed()
