"""A real workload: many HTTP requests to a local server, made in the usual ways.

All clients keep up to 100 connections open, and read every answer.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .processes import peak_memory

if TYPE_CHECKING:
    import aiohttp

CONNECTIONS = 100
DELAY = 0.02
ANSWER = b"x" * 1024
SERVER = f"{__spec__.parent}.http_server"

# Fetches that many times from the URL; gives the answers' total size and the number of threads.
Client = Callable[[str, int], tuple[int, int]]


@dataclass(frozen=True)
class Cost:
    """What it cost to make the requests."""

    seconds: float
    cpu_seconds: float
    peak_memory: int
    threads: int


def measure(client: Client, requests: int) -> Cost:
    """Starts a server, lets the client make its requests, and checks that all were answered."""
    with _server() as url:
        client(url, 1)
        clock, cpu = time.perf_counter(), time.process_time()
        received, threads = client(url, requests)
        seconds, cpu_seconds = time.perf_counter() - clock, time.process_time() - cpu
    if received != requests * len(ANSWER):
        raise RuntimeError(f"{received} bytes received of {requests * len(ANSWER)}")
    return Cost(seconds, cpu_seconds, peak_memory(), threads)


async def _read(session: aiohttp.ClientSession, url: str) -> int:
    async with session.get(url) as response:
        return len(await response.read())


def _palitra(url: str, requests: int) -> tuple[int, int]:
    import aiohttp

    from palitra import AsyncLoopExecutor

    with AsyncLoopExecutor() as executor:
        session = executor.enter_context(aiohttp.ClientSession)
        futures = [executor.submit(_read, session, url) for _ in range(requests)]
        received = sum(future.result() for future in futures)
        return received, threading.active_count()


def _asyncio(url: str, requests: int) -> tuple[int, int]:
    import aiohttp

    async def fetch_all() -> int:
        async with aiohttp.ClientSession() as session:
            return sum(await asyncio.gather(*[_read(session, url) for _ in range(requests)]))

    return asyncio.run(fetch_all()), threading.active_count()


def _pool_of_requests(threads: int) -> Client:
    def fetch_all(url: str, requests: int) -> tuple[int, int]:
        from requests import Session

        # A session of requests is not made for several threads.
        local = threading.local()

        def fetch(_: int) -> int:
            if not hasattr(local, "session"):
                local.session = Session()
            return len(local.session.get(url).content)

        with ThreadPoolExecutor(threads) as pool:
            received = sum(pool.map(fetch, range(requests)))
            return received, threading.active_count()

    return fetch_all


def _pool_of_httpx(threads: int) -> Client:
    def fetch_all(url: str, requests: int) -> tuple[int, int]:
        import httpx

        limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
        with httpx.Client(limits=limits) as client, ThreadPoolExecutor(threads) as pool:
            received = sum(pool.map(lambda _: len(client.get(url).content), range(requests)))
            return received, threading.active_count()

    return fetch_all


BASELINE = "asyncio + aiohttp"
CLIENTS: dict[str, Client] = {
    "palitra + aiohttp": _palitra,
    BASELINE: _asyncio,
    "32 threads + requests": _pool_of_requests(32),
    "100 threads + requests": _pool_of_requests(CONNECTIONS),
    "32 threads + httpx": _pool_of_httpx(32),
    "100 threads + httpx": _pool_of_httpx(CONNECTIONS),
}


@contextmanager
def _server() -> Iterator[str]:
    """A server in a process of its own, on another core than this one."""
    with subprocess.Popen(
        [sys.executable, "-m", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/"
        # Leaving closes the server's standard input, which ends it.
