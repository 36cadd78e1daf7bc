"""Celery's prefork pool is forked from a process that has used palitra."""

import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from upstream import upstream

HERE = Path(__file__).parent
PROCESSES = 2

# A process of its own, so that none of Celery's state comes into this one.
CLIENT = f"""
import json, os
from celery import group
from celery_app import fetch_task

together = group(fetch_task.s("/together") for _ in range({PROCESSES}))()
again = group(fetch_task.s("/again") for _ in range(20))()
print("sent", flush=True)
answers = together.get(30, interval=0.05) + again.get(30, interval=0.05)
print(json.dumps([os.getpid(), answers]))
"""


def kill(process: "subprocess.Popen[str]") -> None:
    with suppress(ProcessLookupError):  # where all has gone well
        os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.timeout(120)
def test_tasks_of_a_prefork_worker_call_and_the_worker_stops_cleanly(tmp_path: Path) -> None:
    for folder in ("broker", "control", "results"):
        (tmp_path / folder).mkdir()
    journal = tmp_path / "journal"
    log = tmp_path / "worker.log"
    with upstream(parties=PROCESSES) as server:
        environment = {
            **os.environ,
            "UPSTREAM_PORT": str(server.server_port),
            "CELERY_FOLDER": str(tmp_path),
            "JOURNAL": str(journal),
        }
        arguments = [
            # Machines that run tests often have no user but root.
            *(sys.executable, "-W", "ignore:You're running the worker with superuser"),
            *("-m", "celery", "-A", "celery_app", "worker"),
            *("--pool", "prefork", "--concurrency", str(PROCESSES), "-O", "fair"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
            *("--loglevel", "WARNING", "--logfile", str(log)),
        ]
        with ExitStack() as stack:

            def start(*command: str) -> subprocess.Popen[str]:
                process = stack.enter_context(
                    subprocess.Popen(
                        command,
                        cwd=HERE,
                        env=environment,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.PIPE,
                        text=True,
                        start_new_session=True,
                    )
                )
                stack.callback(kill, process)
                return process

            client = start(sys.executable, "-c", CLIENT)
            assert client.stdout is not None
            # The broker of files moves a message that is still being written. So all is sent before
            # the worker starts.
            sent = client.stdout.readline()
            worker = start(*arguments)
            output, client_errors = client.communicate(timeout=60)
            worker.send_signal(signal.SIGTERM)
            _, errors = worker.communicate(timeout=30)

    assert (sent, client_errors, client.returncode) == ("sent\n", "", 0)
    assert (worker.returncode, errors, log.read_text()) == (0, "", "")
    client_pid, answers = json.loads(output)
    pids = {answer["pid"] for answer in answers[:PROCESSES]}
    assert len(pids) == PROCESSES
    for number, answer in enumerate(answers):
        pid = answer["pid"]
        assert pid in pids
        assert answer == {
            "pid": pid,
            "pool": pid,
            "forked": True,
            "preloaded": ["/preload", "/preload"],
            "default": "/together" if number < PROCESSES else "/again",
            "explicit": "/plain",
            "thread": pid,
            "several": ["/a", "/b"],
            "loop is the main process's": False,
        }
    # Each process closed its own pool; in those that ran tasks, the calls in flight came first.
    lines = journal.read_text().splitlines()
    for pid in [client_pid, worker.pid, *pids]:
        assert [line for line in lines if line.startswith(f"{pid} ")] == [
            f"{pid} pool opened",
            *([f"{pid} call finished"] if pid in pids else []),
            f"{pid} pool closed",
        ]
    assert {int(line.split()[0]) for line in lines} == {client_pid, worker.pid, *pids}
