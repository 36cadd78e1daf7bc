"""docs/examples/flask_app.py over real HTTP: threaded werkzeug in front, aiohttp upstream."""

from __future__ import annotations

import json
import runpy
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from aiohttp import web
from werkzeug.serving import make_server

import palitra

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    import flask

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "flask_app.py"

DOCUMENTS = {
    "profile": {"name": "Ada", "id": 7},
    "orders": [{"number": 1, "sum": "12.50"}, {"number": 2, "sum": "0.99"}],
    "messages": {"unread": 3, "text": "grüß dich"},
}

pytestmark = pytest.mark.usefixtures("default_executor")


class Upstream:
    """A real aiohttp server that counts the connections and the requests it gets."""

    def __init__(self) -> None:
        self.address = ""
        self.connections: set[object] = set()
        self.requests = 0
        self.failing = False

    async def answer(self, request: web.Request) -> web.Response:
        self.connections.add(request.transport)
        self.requests += 1
        if self.failing:
            raise web.HTTPServiceUnavailable
        return web.json_response(DOCUMENTS[request.match_info["name"]])

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        application = web.Application()
        application.router.add_get("/{name}.json", self.answer)
        runner = web.AppRunner(application)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0][:2]
            self.address = f"http://{host}:{port}"
            yield
        finally:
            await runner.cleanup()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    upstream = Upstream()
    with palitra.AsyncLoopExecutor(thread_name_prefix="upstream") as executor:
        executor.enter_context(upstream.serving())
        yield upstream


@contextmanager
def serve(app: flask.Flask) -> Iterator[str]:
    """Serve the application as threaded WSGI, one thread per request."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def create_app(upstream: str | None = None) -> flask.Flask:
    make: Callable[[str | None], flask.Flask] = runpy.run_path(str(EXAMPLE))["create_app"]
    return make(upstream)


def get(url: str) -> Any:
    with urlopen(url, timeout=10) as response:
        return json.load(response)


def test_many_clients_at_once_get_every_document(upstream: Upstream) -> None:
    clients, rounds = 8, 5
    start = threading.Barrier(clients)

    def client(address: str) -> list[Any]:
        start.wait()
        return [get(f"{address}/dashboard") for _ in range(rounds)]

    with serve(create_app(upstream.address)) as address, ThreadPoolExecutor(clients) as pool:
        answers = list(pool.map(client, [address] * clients))

    assert answers == [[DOCUMENTS] * rounds] * clients
    assert upstream.requests == clients * rounds * len(DOCUMENTS)


def test_connections_live_on_from_request_to_request(upstream: Upstream) -> None:
    with serve(create_app(upstream.address)) as address:
        for _ in range(10):
            assert get(f"{address}/dashboard") == DOCUMENTS

    assert upstream.requests == 10 * len(DOCUMENTS)
    assert len(upstream.connections) <= len(DOCUMENTS)


def test_an_upstream_that_fails_becomes_a_bad_gateway(upstream: Upstream) -> None:
    with serve(create_app(upstream.address)) as address:
        upstream.failing = True
        with pytest.raises(HTTPError) as caught:
            get(f"{address}/dashboard")
        with caught.value as error:
            assert error.code == 502
            assert "503" in json.load(error)["error"]

        upstream.failing = False
        assert get(f"{address}/dashboard") == DOCUMENTS


def test_the_upstream_comes_from_the_configuration(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLASK_UPSTREAM", upstream.address)
    with serve(create_app()) as address:
        assert get(f"{address}/dashboard") == DOCUMENTS


def test_an_application_without_an_upstream_says_what_to_set() -> None:
    with pytest.raises(RuntimeError, match="FLASK_UPSTREAM"):
        create_app()
