"""A Flask view that fetches three documents at once, over one connection pool per process.

    FLASK_UPSTREAM=http://127.0.0.1:8000 flask --app docs/examples/flask_app.py run

The view is an ordinary function in an ordinary WSGI application. aiohttp, which it fetches with,
runs on palitra's event loop, where its session and connections outlive the request.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import aiohttp
import flask

import palitra

DOCUMENTS = ("profile", "orders", "messages")


async def fetch(session: aiohttp.ClientSession, document: str) -> Any:
    async with session.get(f"/{document}.json") as response:
        response.raise_for_status()
        return await response.json()


def create_app(upstream: str | None = None) -> flask.Flask:
    """Make the application; `upstream` is the address that the documents come from."""
    app = flask.Flask(__name__)
    app.config["UPSTREAM"] = upstream
    app.config.from_prefixed_env()  # FLASK_UPSTREAM=... sets UPSTREAM
    if not app.config["UPSTREAM"]:
        raise RuntimeError("say where the documents are: FLASK_UPSTREAM=http://host:port")

    # Opened by the first request rather than here: a server that makes the application and then
    # forks its workers needs a session in each of them. Two first requests at the same moment may
    # open two. palitra closes each at exit.
    @cache
    def session() -> aiohttp.ClientSession:
        return palitra.enter_context(
            lambda: aiohttp.ClientSession(
                app.config["UPSTREAM"], timeout=aiohttp.ClientTimeout(total=10)
            )
        )

    @app.get("/dashboard")
    def dashboard() -> flask.Response:
        documents = palitra.gather(*[fetch(session(), document) for document in DOCUMENTS])
        return flask.jsonify(dict(zip(DOCUMENTS, documents, strict=True)))

    @app.errorhandler(aiohttp.ClientError)
    @app.errorhandler(TimeoutError)
    def upstream_failed(error: Exception) -> tuple[flask.Response, int]:
        return flask.jsonify(error=str(error) or "the upstream did not answer in time"), 502

    return app
