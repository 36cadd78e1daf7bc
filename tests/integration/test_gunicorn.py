"""``gunicorn --preload`` forks its workers from a process that has used palitra."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
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
@pytest.mark.parametrize("threads", [1, WORKERS])
def test_workers_of_a_preloaded_application_serve_and_stop_cleanly(
    tmp_path: Path, threads: int
) -> None:
    journal = tmp_path / "journal"
    log = tmp_path / "errors.log"
    with (
        # Not `tmp_path`, which may be too long for the name of a socket.
        tempfile.TemporaryDirectory() as home,
        upstream(parties=WORKERS) as server,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        listener.set_inheritable(True)
        port = listener.getsockname()[1]
        arguments = [
            *(sys.executable, "-m", "gunicorn", "--preload", "--log-level", "warning"),
            *("--error-logfile", str(log), "--bind", f"fd://{listener.fileno()}"),
            *("--workers", str(WORKERS), "--threads", str(threads)),
            *("--worker-tmp-dir", str(tmp_path), "gunicorn_app:app"),
        ]
        with subprocess.Popen(
            arguments,
            cwd=HERE,
            env={
                **os.environ,
                "UPSTREAM_PORT": str(server.server_port),
                "JOURNAL": str(journal),
                "HOME": home,  # where gunicorn has its control socket
            },
            pass_fds=[listener.fileno()],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as gunicorn:
            try:
                # Answered once as many ask upstream at the same time: without threads, each worker.
                with ThreadPoolExecutor(WORKERS) as clients:
                    answers = list(
                        clients.map(fetch_json, [port] * WORKERS, ["together"] * WORKERS)
                    )
                with ThreadPoolExecutor(WORKERS) as clients:
                    answers += clients.map(fetch_json, [port] * 30, ["again"] * 30)
                server.released.set()
                gunicorn.send_signal(signal.SIGTERM)
                output, errors = gunicorn.communicate(timeout=30)
            finally:
                with suppress(ProcessLookupError):  # where all has gone well
                    os.killpg(gunicorn.pid, signal.SIGKILL)

    assert (gunicorn.returncode, output, errors) == (0, "", "")
    assert log.read_text() == ""
    pids = {answer["pid"] for answer in answers}
    assert len(pids) == WORKERS or threads > 1
    assert gunicorn.pid not in pids
    for number, answer in enumerate(answers):
        pid = answer["pid"]
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
