"""The web applications of the how-to guides, each under the server that its guide names."""

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
GUNICORN = [*("-m", "gunicorn", "--log-level", "warning", "--bind", "fd://{fd}", "--threads", "4")]
UVICORN = [*("-m", "uvicorn", "--log-level", "warning", "--fd", "{fd}")]

# (command, address to ask, upstream paths that the answer must hold, exit code after SIGTERM)
SERVERS = {
    "flask": (
        [*GUNICORN, "--preload", "--workers", "2", "flask_app:create_app()"],
        "dashboard",
        ["profile", "orders", "messages"],
        0,
    ),
    "django": ([*GUNICORN, "django_app:application"], "", ["profile", "orders", "messages"], 0),
    "fastapi, async": ([*UVICORN, "fastapi_app:app"], "async/profile", ["profile"], -15),
    "fastapi, sync": ([*UVICORN, "fastapi_app:app"], "sync/profile", ["profile"], -15),
}


def paths(answer: Any) -> set[str]:
    """The upstream paths in an answer, which is one document or several by name."""
    documents = [answer] if "path" in answer else list(answer.values())
    return {document["path"] for document in documents}


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("command", "address", "names", "status"), SERVERS.values(), ids=SERVERS.keys()
)
def test_an_application_serves_many_clients_over_few_connections_and_stops_cleanly(
    server: CountingServer, command: list[str], address: str, names: list[str], status: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.set_inheritable(True)
        port = listener.getsockname()[1]
        application = subprocess.Popen(
            [sys.executable, *(part.format(fd=listener.fileno()) for part in command)],
            cwd=EXAMPLES,
            env={**os.environ, "UPSTREAM": server.url, "FLASK_UPSTREAM": server.url},
            pass_fds=[listener.fileno()],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

        def ask(_: int) -> Any:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{address}", timeout=30) as answer:
                return json.load(answer)

        try:
            with ThreadPoolExecutor(CLIENTS) as clients:
                answers = list(clients.map(ask, range(10 * CLIENTS)))
            application.send_signal(signal.SIGTERM)
            output, errors = application.communicate(timeout=30)
        finally:
            application.kill()
            application.wait()

    assert [paths(answer) for answer in answers] == [{f"/{name}.json" for name in names}] * 40
    assert server.requests == 40 * len(names)
    assert server.connections < server.requests / 2
    assert server.wait_until_all_closed()
    assert (application.returncode, output, errors) == (status, "", "")
