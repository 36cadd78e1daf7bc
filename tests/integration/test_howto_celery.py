"""The Celery application of its how-to guide, with a real worker that forks its pool."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from counting_server import CountingServer

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
CLIENT = """
import json, sys
from celery_tasks import fetch_all

urls = [[f"{sys.argv[1]}/{task}/{number}" for number in range(3)] for task in range(6)]
calls = [fetch_all.delay(some) for some in urls]
print("sent", flush=True)
print(json.dumps([call.get(timeout=30) for call in calls]))
"""

# Its receiver is connected after the application's, so it sees what that one has left.
WITNESS = """
from pathlib import Path
from celery.signals import worker_process_shutdown
from celery_tasks import FOLDER, open_session

@worker_process_shutdown.connect
def testify(pid, **_):
    if open_session.cache_info().currsize:
        Path(FOLDER, f"{pid}.ended").write_text(f"closed: {open_session().closed}")
"""


@pytest.mark.timeout(60)
def test_tasks_fetch_over_one_session_in_each_worker_process(
    server: CountingServer, tmp_path: Path
) -> None:
    (tmp_path / "witness.py").write_text(WITNESS, encoding="utf-8")
    environment = {
        **os.environ,
        "CELERY_FOLDER": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(EXAMPLES), str(tmp_path)]),
    }
    # The broker of files moves a message that is still being written. So all is sent before the
    # worker starts.
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT, server.url],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert client.stdout is not None
    sent = client.stdout.readline()
    command = [sys.executable, "-m", "celery", "--app", "celery_tasks", "worker"]
    worker = subprocess.Popen(
        [
            *(*command, "--pool", "prefork", "--concurrency", "2", "--loglevel", "warning"),
            *("--include", "witness"),
        ],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        output, client_errors = client.communicate(timeout=45)
        worker.send_signal(signal.SIGTERM)
        _, errors = worker.communicate(timeout=30)
    finally:
        for process in (client, worker):
            process.kill()
            process.wait()

    assert (sent, client.returncode) == ("sent\n", 0), client_errors
    answers = json.loads(output)
    assert [[document["path"] for document in answer] for answer in answers] == [
        [f"/{task}/{number}" for number in range(3)] for task in range(6)
    ]
    # Two processes, three requests at the same time in each.
    assert server.connections <= 6
    # Each process that had opened its session closed it.
    traces = [trace.read_text() for trace in tmp_path.glob("*.ended")]
    assert 1 <= len(traces) <= 2
    assert set(traces) == {"closed: True"}
    assert server.wait_until_all_closed()
    assert worker.returncode == 0
    assert "Traceback" not in errors
