"""docs/examples/quickstart.py, run as a newcomer runs it: as a program."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

QUICKSTART = Path(__file__).parents[2] / "docs" / "examples" / "quickstart.py"
TIMEOUT = 25

BODY = b"A page of some length. " * 5000


class Handler(BaseHTTPRequestHandler):
    """Pages in each of the ways in which HTTP/1.1 may send them, and some broken ones."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.close_connection = True
        getattr(self, self.path.removeprefix("/").partition("?")[0])()

    def start(self, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def measured(self) -> None:
        self.start(Content_Length=str(len(BODY)))
        self.wfile.write(BODY)

    def chunked(self) -> None:
        self.start(Transfer_Encoding="Chunked")
        for position in range(0, len(BODY), 10_000):
            chunk = BODY[position : position + 10_000]
            self.wfile.write(b"%X;name=value\r\n%s\r\n" % (len(chunk), chunk))
        self.wfile.write(b"0\r\n\r\n")

    def closed(self) -> None:
        self.start()
        self.wfile.write(BODY)

    def empty(self) -> None:
        self.start(204)

    def hinted(self) -> None:
        self.start(103, Link="</style.css>")
        self.measured()

    def missing(self) -> None:
        self.start(404, Content_Length="0")

    def cut(self) -> None:
        self.start(Content_Length=str(len(BODY)))
        self.wfile.write(BODY[:100])

    def noise(self) -> None:
        self.wfile.write(b"220 mail.example ready\r\n\r\n")

    def silent(self) -> None:
        self.server.asked.set()
        self.server.done.wait()

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.asked = threading.Event()
        self.done = threading.Event()


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.05])
        thread.start()
        yield server
        server.done.set()
        server.shutdown()
        thread.join()


def quickstart(*args: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *options, str(QUICKSTART), *args],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def test_it_fetches_its_own_pages_and_checks_each_answer() -> None:
    finished = quickstart()

    assert (finished.returncode, finished.stderr) == (0, "")
    assert "Serving 200 pages on http://127.0.0.1:" in finished.stdout
    assert len(re.findall(r"^  .* 200 pages in +\d+\.\d\d s$", finished.stdout, re.MULTILINE)) == 3
    assert "All 600 answers were right." in finished.stdout


def test_development_mode_finds_nothing_to_complain_about() -> None:
    finished = quickstart("--pages", "20", options=("-X", "dev", "-W", "error"))
    # A busy machine makes callbacks slow, which asyncio's debug mode reports.
    complaints = [line for line in finished.stderr.splitlines() if "Executing" not in line]

    assert (finished.returncode, complaints) == (0, [])
    assert "All 60 answers were right." in finished.stdout


def test_it_fetches_the_pages_it_is_given(server: Server) -> None:
    paths = ["measured", "measured?q=1", "chunked", "closed", "empty", "hinted"]
    finished = quickstart(*[f"{server.address}/{path}" for path in paths])

    assert (finished.returncode, finished.stderr) == (0, "")
    assert "Fetching 6 pages." in finished.stdout
    assert "All 18 answers were right." in finished.stdout


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("missing", "BadAnswer: HTTP status 404"),
        ("cut", "IncompleteReadError: 100 bytes read"),
        ("noise", "BadAnswer: not an HTTP/1 answer: b'220 mail.example ready'"),
    ],
)
def test_a_page_that_fails_is_named_and_the_others_are_fetched(
    server: Server, path: str, reason: str
) -> None:
    finished = quickstart(f"{server.address}/measured", f"{server.address}/{path}")

    assert finished.returncode == 1
    assert finished.stderr.startswith(f"{server.address}/{path}: {reason}")
    assert finished.stderr.count("\n") == 1
    assert "All 3 answers were right." in finished.stdout


def test_a_server_that_is_not_there_is_named() -> None:
    with Server() as closed:
        address = closed.address

    finished = quickstart(address)

    assert finished.returncode == 1
    assert finished.stderr.startswith(f"{address}: ConnectionRefusedError")
    assert "were right" not in finished.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["ftp://host/"],
        ["host/path"],
        ["http://"],
        ["http://host:99999/"],
        ["http://user@host/"],
        ["http://host/a b"],
        ["http://höst/"],
        ["--pages", "0"],
        ["--pages", "many"],
    ],
)
def test_bad_arguments_are_refused_with_a_reason(arguments: list[str]) -> None:
    finished = quickstart(*arguments)

    assert finished.returncode == 2
    assert "quickstart.py: error: argument" in finished.stderr
    assert finished.stdout == ""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
def test_a_terminal_gets_a_line_of_progress() -> None:
    import pty  # Windows has no such module

    terminal, standard_error = pty.openpty()
    with subprocess.Popen(
        [sys.executable, str(QUICKSTART), "--pages", "3"],
        stdout=subprocess.DEVNULL,
        stderr=standard_error,
    ) as process:
        os.close(standard_error)
        shown = b""
        while piece := read_terminal(terminal):
            shown += piece
        os.close(terminal)

    assert process.returncode == 0
    assert shown == b"\r  1 of 3 pages\r  2 of 3 pages\r  3 of 3 pages\r\x1b[K"


def read_terminal(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1024)
    except OSError:  # what Linux says instead of the end of the file
        return b""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGINT to one process")
def test_ctrl_c_ends_it_at_once_and_in_one_line(server: Server) -> None:
    with subprocess.Popen(
        [sys.executable, str(QUICKSTART), f"{server.address}/silent"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert server.asked.wait(TIMEOUT)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=TIMEOUT)

    assert (process.returncode, stderr) == (130, "Interrupted.\n")
