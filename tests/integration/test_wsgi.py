"""Flask and Django: async code in synchronous views, served over real HTTP."""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any

import aiohttp
import django
import flask
import pytest
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.middleware.csrf import CsrfViewMiddleware
from django.test import RequestFactory
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_safe
from werkzeug.serving import WSGIRequestHandler, make_server

import palitra

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from wsgiref.types import WSGIApplication

    from counting_server import CountingServer


class _QuietHandler(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def serving(application: WSGIApplication) -> Iterator[int]:
    """Serve the application with a thread for each request; the value is the port."""
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=_QuietHandler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def get(port: int, target: str) -> tuple[int, str]:
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", target)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


async def words(count: int) -> AsyncIterator[str]:
    for number in range(count):
        await asyncio.sleep(0)
        yield f"word {number}\n"


def flask_application(upstream: str) -> flask.Flask:
    app = flask.Flask(__name__)
    session = palitra.enter_context(
        lambda: aiohttp.ClientSession(upstream, connector=aiohttp.TCPConnector(limit=2))
    )

    async def fetch(target: str) -> dict[str, Any]:
        async with session.get(target) as response:
            answer: dict[str, Any] = await response.json()
            return answer

    @app.get("/one")
    def one() -> dict[str, Any]:
        return palitra.run(fetch("/one"))

    @app.get("/many")
    def many() -> list[str]:
        return [answer["path"] for answer in palitra.gather(*(fetch(f"/{n}") for n in range(5)))]

    @app.get("/context/<name>")
    @palitra.sync
    async def context(name: str) -> dict[str, Any]:
        # Flask's request lives in a context variable, which the coroutine sees.
        return {"name": name, "path": flask.request.path, "asked": (await fetch("/x"))["path"]}

    @app.get("/stream")
    def stream() -> flask.Response:
        return flask.Response(palitra.sync_iter(words(5)), mimetype="text/plain")

    @app.get("/failure")
    def failure() -> str:
        async def fail() -> str:
            raise LookupError

        return palitra.run(fail())

    @app.errorhandler(LookupError)
    def on_failure(error: LookupError) -> tuple[str, int]:
        return type(error).__name__, 404

    return app


def test_flask_views_run_coroutines(
    default_executor: palitra.AsyncLoopExecutor, server: CountingServer
) -> None:
    with serving(flask_application(server.url)) as port:
        assert json.loads(get(port, "/one")[1])["path"] == "/one"
        assert json.loads(get(port, "/many")[1]) == ["/0", "/1", "/2", "/3", "/4"]
        assert json.loads(get(port, "/context/me")[1]) == {
            "name": "me",
            "path": "/context/me",
            "asked": "/x",
        }
        assert get(port, "/stream")[1] == "".join(f"word {n}\n" for n in range(5))
        assert get(port, "/failure") == (404, "LookupError")


def test_the_threads_of_a_flask_server_share_one_pool_of_connections(
    default_executor: palitra.AsyncLoopExecutor, server: CountingServer
) -> None:
    with (
        serving(flask_application(server.url)) as port,
        ThreadPoolExecutor(8) as clients,
    ):
        answers = list(clients.map(lambda number: get(port, f"/context/{number}"), range(40)))

    assert {status for status, _ in answers} == {200}
    assert [json.loads(body)["path"] for _, body in answers] == [
        f"/context/{number}" for number in range(40)
    ]
    assert server.requests == 40
    assert server.connections <= 2


@palitra.sync
async def django_view(request: HttpRequest, name: str) -> JsonResponse:
    await asyncio.sleep(0)
    return JsonResponse({"name": name, "path": request.path})


def django_gather(request: HttpRequest) -> JsonResponse:
    async def double(number: int) -> int:
        return number * 2

    return JsonResponse({"numbers": palitra.gather(*map(double, range(4)))})


def django_stream(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(palitra.sync_iter(words(5)))


def django_failure(request: HttpRequest) -> JsonResponse:
    async def fail() -> None:
        from django.http import Http404

        raise Http404

    palitra.run(fail())
    raise AssertionError


urlpatterns = [
    path("view/<name>", django_view),
    path("gather", django_gather),
    path("stream", django_stream),
    path("failure", django_failure),
]


@pytest.fixture(scope="module")
def django_application() -> WSGIApplication:
    settings.configure(
        ALLOWED_HOSTS=["127.0.0.1"], ROOT_URLCONF=__name__, SECRET_KEY="not one", USE_TZ=True
    )
    django.setup()
    application: WSGIApplication = get_wsgi_application()
    return application


def test_django_views_run_coroutines(
    default_executor: palitra.AsyncLoopExecutor, django_application: WSGIApplication
) -> None:
    with serving(django_application) as port:
        assert json.loads(get(port, "/view/me")[1]) == {"name": "me", "path": "/view/me"}
        assert json.loads(get(port, "/gather")[1]) == {"numbers": [0, 2, 4, 6]}
        assert get(port, "/stream")[1] == "".join(f"word {n}\n" for n in range(5))
        assert get(port, "/failure")[0] == 404


def test_django_serves_many_requests_at_once(
    default_executor: palitra.AsyncLoopExecutor, django_application: WSGIApplication
) -> None:
    with serving(django_application) as port, ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda number: get(port, f"/view/{number}"), range(40)))

    assert [json.loads(body)["name"] for _, body in answers] == [str(n) for n in range(40)]


@pytest.mark.parametrize("sync", ["above", "below"])
def test_django_views_keep_what_decorators_note_on_either_side_of_sync(
    sync: str, default_executor: palitra.AsyncLoopExecutor, django_application: WSGIApplication
) -> None:
    async def answer(request: HttpRequest) -> HttpResponse:
        await asyncio.sleep(0)
        return HttpResponse(b"seen")

    def exempt(view: Any) -> Any:
        view.csrf_exempt = True
        return view

    view: Any
    if sync == "above":
        view = require_safe(palitra.sync(exempt(answer)))
    else:
        view = require_safe(csrf_exempt(palitra.sync(answer)))
    requests = RequestFactory(enforce_csrf_checks=True)
    middleware = CsrfViewMiddleware(lambda request: HttpResponse())

    assert middleware.process_view(requests.post("/"), view, (), {}) is None
    assert view(requests.get("/")).content == b"seen"
    assert view(requests.post("/")).status_code == 405
