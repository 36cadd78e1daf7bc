"""The examples of loops that are there already, and of ends that come, over real sockets."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from counting_server import CountingServer

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
CLIENTS = 4
LOOPS = ["asyncio", "uvloop"]


@pytest.mark.parametrize("loop", LOOPS)
def test_sync_endpoints_and_a_sync_library_use_the_applications_own_pool(
    server: CountingServer, loop: str
) -> None:
    pytest.importorskip("fastapi")
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.set_inheritable(True)
        port = listener.getsockname()[1]
        options = ["--log-level", "warning", "--loop", loop, "--fd", str(listener.fileno())]
        application = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", *options, "fastapi_own_loop:app"],
            cwd=EXAMPLES,
            env={**os.environ, "UPSTREAM": server.url},
            pass_fds=[listener.fileno()],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

        def ask(number: int) -> Any:
            address = ["async/profile", "sync/profile", "library"][number % 3]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{address}", timeout=30) as answer:
                return json.load(answer)

        try:
            with ThreadPoolExecutor(CLIENTS) as clients:
                answers = list(clients.map(ask, range(30)))
            application.send_signal(signal.SIGTERM)
            output, errors = application.communicate(timeout=30)
        finally:
            application.kill()
            application.wait()

    for number, answer in enumerate(answers):
        if number % 3 == 2:
            assert [answer[name]["path"] for name in ("profile", "orders")] == [
                "/profile.json",
                "/orders.json",
            ]
        else:
            assert answer["path"] == "/profile.json"
    assert server.requests == 40
    assert server.connections <= CLIENTS  # one pool for all endpoints
    assert server.wait_until_all_closed()
    assert (application.returncode, output, errors) == (-signal.SIGTERM, "", "")


def test_a_program_stops_a_stream_half_way_and_ends_in_time(server: CountingServer) -> None:
    program = subprocess.Popen(
        [sys.executable, "stream_answer.py", f"{server.url}/endless"],
        cwd=EXAMPLES,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert program.stdout is not None
        tokens = []
        while (line := program.stdout.readline()) != "enough\n":
            assert line, program.communicate()[1]
            tokens.append(line)
        assert server.wait_until_all_closed()  # leaving the loop has closed the stream
        output, errors = program.communicate(timeout=30)
    finally:
        program.kill()
        program.wait()

    # Without its limit, the exit would wait an hour for the call that is left behind.
    assert len(tokens) == 5
    assert output == "not now\n"
    assert errors.startswith("left behind at exit: stubborn (submit, cancelling for ")
    assert len(errors.splitlines()) == 1
    assert program.returncode == 0
