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
print(json.dumps([call.get(timeout=30) for call in calls]))
"""


@pytest.mark.timeout(60)
def test_tasks_fetch_over_one_session_in_each_worker_process(
    server: CountingServer, tmp_path: Path
) -> None:
    environment = {**os.environ, "CELERY_FOLDER": str(tmp_path), "PYTHONPATH": str(EXAMPLES)}
    command = [sys.executable, "-m", "celery", "--app", "celery_tasks", "worker"]
    worker = subprocess.Popen(
        [*command, "--pool", "prefork", "--concurrency", "2", "--loglevel", "warning"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        client = subprocess.run(
            [sys.executable, "-c", CLIENT, server.url],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=45,
        )
        worker.send_signal(signal.SIGTERM)
        _, errors = worker.communicate(timeout=30)
    finally:
        worker.kill()
        worker.wait()

    assert client.returncode == 0, client.stderr
    answers = json.loads(client.stdout)
    assert [[document["path"] for document in answer] for answer in answers] == [
        [f"/{task}/{number}" for number in range(3)] for task in range(6)
    ]
    # Two processes, three requests at the same time in each.
    assert server.connections <= 6
    assert server.wait_until_all_closed()
    assert worker.returncode == 0
    assert "Traceback" not in errors
