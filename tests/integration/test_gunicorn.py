"""``gunicorn --preload`` forks its workers from a process that has used palitra."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from upstream import upstream

HERE = Path(__file__).parent
WORKERS = 3


def fetch_json(port: int, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/fetch/{path}", timeout=30) as answer:
        return json.load(answer)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("worker_class", ["sync", "gthread"])
def test_workers_of_a_preloaded_application_serve_and_stop_cleanly(
    tmp_path: Path, worker_class: str
) -> None:
    journal = tmp_path / "journal"
    log = tmp_path / "errors.log"
    with upstream(parties=WORKERS) as server, socket.create_server(("127.0.0.1", 0)) as listener:
        listener.set_inheritable(True)
        port = listener.getsockname()[1]
        arguments = [
            *(sys.executable, "-m", "gunicorn", "--preload", "--log-level", "warning"),
            *("--error-logfile", str(log), "--bind", f"fd://{listener.fileno()}"),
            *("--workers", str(WORKERS), "--worker-class", worker_class, "--threads", "1"),
            *("--worker-tmp-dir", str(tmp_path), "gunicorn_app:app"),
        ]
        gunicorn = subprocess.Popen(
            arguments,
            cwd=HERE,
            env={**os.environ, "UPSTREAM_PORT": str(server.server_port), "JOURNAL": str(journal)},
            pass_fds=[listener.fileno()],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            # Answered only when as many workers as there are ask upstream at the same time.
            with ThreadPoolExecutor(WORKERS) as clients:
                answers = list(clients.map(fetch_json, [port] * WORKERS, ["together"] * WORKERS))
            with ThreadPoolExecutor(WORKERS) as clients:
                answers += clients.map(fetch_json, [port] * 30, ["again"] * 30)
            server.released.set()
            gunicorn.send_signal(signal.SIGTERM)
            output, errors = gunicorn.communicate(timeout=30)
        finally:
            gunicorn.kill()
            gunicorn.wait()

    assert (gunicorn.returncode, output, errors) == (0, "", "")
    assert log.read_text() == ""
    pids = {answer["pid"] for answer in answers[:WORKERS]}
    assert len(pids) == WORKERS
    assert gunicorn.pid not in pids
    for number, answer in enumerate(answers):
        pid = answer["pid"]
        assert pid in pids
        assert answer == {
            "pid": pid,
            "preloaded": ["/preload", "/preload"],
            "pool": pid,
            "default": "/together" if number < WORKERS else "/again",
            "explicit": "/plain",
            "thread": pid,
            "several": ["/a", "/b"],
            "loop is the arbiter's": False,
            "arbiter's call": "BrokenExecutor",
        }
    # Each process closed its own pool, and the arbiter's call ended there and nowhere else.
    assert sorted(journal.read_text().splitlines()) == sorted(
        [f"{pid} pool {what}" for pid in [*pids, gunicorn.pid] for what in ("opened", "closed")]
        + [f"{gunicorn.pid} arbiter's call: /release"]
    )
