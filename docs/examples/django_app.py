"""A Django project in one file: a view for WSGI that fetches documents at the same time.

``python django_app.py runserver`` starts it; any WSGI server takes ``django_app:application``.
The environment variable UPSTREAM says where the documents are.
"""

import asyncio
import os
import sys
from functools import cache
from threading import Lock
from typing import Any

import aiohttp
import django
from django.conf import settings
from django.core.management import execute_from_command_line
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path

import palitra

UPSTREAM = os.environ.get("UPSTREAM", "http://127.0.0.1:8000")

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="only for this example",  # noqa: S106  (nothing is signed with it)
)
django.setup()

opening = Lock()


@cache
def open_session() -> aiohttp.ClientSession:
    return palitra.enter_context(aiohttp.ClientSession)


def shared_session() -> aiohttp.ClientSession:
    """One session for each process, opened by the first request."""
    with opening:
        return open_session()


@palitra.sync
async def fetch_all(session: aiohttp.ClientSession, names: list[str]) -> list[Any]:
    """An async function inside, an ordinary one for the view that calls it."""

    async def fetch(name: str) -> Any:
        async with session.get(f"{UPSTREAM}/{name}.json") as response:
            response.raise_for_status()
            return await response.json()

    return await asyncio.gather(*map(fetch, names))


def documents(request: HttpRequest) -> JsonResponse:
    """Answer with three documents."""
    names = ["profile", "orders", "messages"]
    return JsonResponse(dict(zip(names, fetch_all(shared_session(), names), strict=True)))


urlpatterns = [path("", documents)]
application = get_wsgi_application()

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
