"""What hosts do at their end, with and without the line that docs/howto/teardown.md adds."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
UWSGI = Path(sys.executable).with_name("uwsgi")
ALL = ["entered", "used", "finished", "left"]
LOST = ["entered", "used"]


class Host:
    """One host in a process of its own, with a folder for its program and the journal."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = folder / "journal"
        self.journal.touch()
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, program: str, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        (self.folder / "program.py").write_text(dedent(program), encoding="utf-8")
        paths = [str(self.folder), str(HERE), os.environ.get("PYTHONPATH", "")]
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=self.folder,
            env={
                **os.environ,
                **environment,
                "JOURNAL": str(self.journal),
                "PYTHONPATH": os.pathsep.join(paths),
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def noted(self) -> list[str]:
        return self.journal.read_text(encoding="utf-8").split()

    def wait_for(self, word: str) -> None:
        """Wait for the host to note *word*; the journal is its only voice."""
        deadline = time.monotonic() + 30
        while word not in self.noted():
            assert time.monotonic() < deadline, self.noted()
            time.sleep(0.02)

    def end(self) -> list[str]:
        """Wait for the end of the host and of all that it has started; what was noted."""
        for process in self.started:
            process.wait(30)
            deadline = time.monotonic() + 5
            with suppress(ProcessLookupError):
                while time.monotonic() < deadline:
                    os.killpg(process.pid, 0)
                    time.sleep(0.02)
        return self.noted()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    for process in host.started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def needs(module: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(module) is None
    return pytest.mark.skipif(missing, reason=f"{module} is not installed")


each = pytest.mark.parametrize(
    ("line", "noted"), [("", LOST), ("yes", ALL)], ids=["as it is", "with the line"]
)
# The seconds that a call takes: one that is to be lost must not end before its host, by chance.
SECONDS = {"": "60", "yes": "0.2"}

ASGI = """
import asyncio, os
import hosted, palitra


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if os.environ["LINE"]:
            await palitra.get_executor().aclose()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await asyncio.to_thread(hosted.use)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"used"})
"""


@needs("uvicorn")
@pytest.mark.parametrize("options", [[], ["--reload"], ["--workers", "2"]], ids=" ".join)
@each
def test_uvicorn(host: Host, options: list[str], line: str, noted: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["-m", "uvicorn", "--port", str(port), "--log-level", "critical", *options]
    server = host.start(ASGI, *command, "program:app", LINE=line)
    for _ in range(300):
        with suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=10).close()
            break
        time.sleep(0.05)
    host.wait_for("used")

    server.send_signal(signal.SIGTERM)

    ended = host.end()
    assert ended[: len(noted)] == noted
    assert line or "left" not in ended  # a call may be quick enough, by chance


RQ = """
import os, sys
import fakeredis, hosted, palitra, rq


def job():
    try:
        hosted.use()
    finally:
        if os.environ["LINE"]:
            palitra.shutdown()


if __name__ == "__main__":
    import program

    redis = fakeredis.FakeStrictRedis()
    redis.client_list = lambda *args, **kwargs: []  # the fake's own is not what clients expect
    queue = rq.Queue(connection=redis)
    queue.enqueue(program.job)
    getattr(rq, sys.argv[1])([queue], connection=redis).work(burst=True)
"""


@needs("rq")
@needs("fakeredis")
@each
def test_a_process_of_rq_for_one_job(host: Host, line: str, noted: list[str]) -> None:
    host.start(RQ, "program.py", "Worker", LINE=line, LATER=SECONDS[line])

    assert host.end() == noted


@needs("rq")
@needs("fakeredis")
def test_a_simple_worker_of_rq(host: Host) -> None:
    host.start(RQ, "program.py", "SimpleWorker", LINE="")

    assert host.end() == ALL


JOBLIB = """
import os, sys
import hosted, joblib, palitra


def job():
    try:
        hosted.use()
    finally:
        if os.environ["LINE"]:
            palitra.shutdown()


if __name__ == "__main__":
    import program

    with joblib.parallel_config(sys.argv[1], n_jobs=2):
        joblib.Parallel()([joblib.delayed(program.job)()])
"""


@needs("joblib")
@each
def test_joblibs_multiprocessing(host: Host, line: str, noted: list[str]) -> None:
    host.start(JOBLIB, "program.py", "multiprocessing", LINE=line, LATER=SECONDS[line])

    assert host.end() == noted


@needs("joblib")
def test_joblibs_loky(host: Host) -> None:
    host.start(JOBLIB, "program.py", "loky", LINE="")

    assert host.end() == ALL


HUEY = """
import hosted, huey

app = huey.SqliteHuey(filename="huey.db")


@app.task()
def task():
    hosted.use()
"""
stops = pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])


@needs("huey")
@pytest.mark.parametrize("kind", ["thread", "process"])
@stops
def test_huey(host: Host, kind: str, stop: signal.Signals) -> None:
    consumer = host.start(
        HUEY, "-m", "huey.bin.huey_consumer", "program.app", "-k", kind, "-w", "1", "-d", "0.1"
    )
    host.start(HUEY, "-c", "import program; program.task()").wait(30)
    host.wait_for("used")

    consumer.send_signal(stop)

    assert host.end() == ALL


DRAMATIQ = """
import dramatiq, hosted
from dramatiq.brokers.stub import StubBroker


class AtOnce(dramatiq.Middleware):
    def after_worker_boot(self, broker, worker):
        task.send()


broker = StubBroker()
broker.add_middleware(AtOnce())
dramatiq.set_broker(broker)


@dramatiq.actor
def task():
    hosted.use()
"""


@needs("dramatiq")
@stops
def test_dramatiq(host: Host, stop: signal.Signals) -> None:
    worker = host.start(DRAMATIQ, "-m", "dramatiq", "program", "-p", "1", "-t", "1")
    host.wait_for("used")

    worker.send_signal(stop)

    assert host.end() == ALL


KERNEL = """
import os, signal, sys
from jupyter_client.manager import start_new_kernel

kernel, client = start_new_kernel()
if os.environ["LINE"]:
    line = "import signal, sys; _ = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))"
    client.execute_interactive(line, timeout=20)
client.execute_interactive("import hosted; hosted.use()", timeout=20)
os.kill(kernel.provisioner.pid, signal.SIGTERM)
while kernel.is_alive():
    pass
client.stop_channels()
"""


@needs("ipykernel")
@each
def test_a_kernel_of_jupyter(host: Host, line: str, noted: list[str]) -> None:
    host.start(KERNEL, "program.py", LINE=line, LATER=SECONDS[line])

    assert host.end() == noted


@pytest.mark.skipif(not UWSGI.exists(), reason="uwsgi is not installed")
def test_a_worker_of_uwsgi_that_no_request_has_reached_stops(host: Host) -> None:
    # Its forks run none of Python's hooks.
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    start = f"""
    import os, sys
    paths = [arg for path in sys.path if path for arg in ("--pythonpath", path)]
    options = ["--http-socket", "127.0.0.1:{port}", "--master", "--processes", "2", "--die-on-term"]
    os.execv("{UWSGI}", ["uwsgi", *options, "--enable-threads", "--module", "app", *paths])
    """
    (host.folder / "app.py").write_text(
        dedent(
            """
            import hosted, palitra

            palitra.run(hosted.later())


            def application(environ, start_response):
                palitra.run(hosted.later())
                hosted.note("served")
                start_response("200 OK", [])
                return [b"served"]
            """
        ),
        encoding="utf-8",
    )
    server = host.start(start, "program.py")
    host.wait_for("finished")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=10) as answer:
        assert answer.read() == b"served"

    server.send_signal(signal.SIGTERM)

    assert host.end() == ["finished", "finished", "served"]
