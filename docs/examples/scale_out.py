"""Spread async work over processes: one loop, and one pool of connections, in each.

    python scale_out.py           # concurrent.futures.ProcessPoolExecutor
    python scale_out.py --dask    # dask.distributed, with worker processes on this machine

It starts the server that it fetches from, and ends by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import multiprocessing
import os
import threading
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import aiohttp

import palitra

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

WORKERS = 2
CONNECTIONS = 4  # of each worker, at most
BATCHES = 20
PAGES = 10  # in each batch
LOOPBACK = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}  # what Dask listens on


@functools.cache
def session() -> aiohttp.ClientSession:
    """Return the session of this process: opened when first asked for, closed when it ends."""
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONNECTIONS))
    palitra.push_async_callback(session.close)
    return session


async def fetch(url: str) -> int:
    async with session().get(url) as response:
        return len(await response.read())


# A plain function from outside, which any engine can send to its workers by name.
@palitra.sync
async def fetch_batch(urls: list[str]) -> tuple[int, int]:
    """Fetch all at once; return this process's id and how many bytes arrived."""
    return os.getpid(), sum(await asyncio.gather(*map(fetch, urls)))


def with_processes(batches: list[list[str]]) -> Iterable[tuple[int, int]]:
    # "spawn" works on every system, and beside the threads of the server below.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(WORKERS, mp_context=context) as pool:
        yield from pool.map(fetch_batch, batches)


def with_dask(batches: list[list[str]]) -> Iterable[tuple[int, int]]:
    from dask.distributed import Client, LocalCluster  # noqa: PLC0415  (only this needs Dask)

    with (
        LocalCluster(n_workers=WORKERS, threads_per_worker=2, **LOOPBACK) as cluster,
        Client(cluster) as client,
    ):
        yield from client.gather(client.map(fetch_batch, batches, pure=False))


class Pages(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        body = f"This is {self.path}.".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    request_queue_size = 100
    connections = 0

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections += 1
        super().process_request(request, client_address)


@contextmanager
def serving() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Pages) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield server
        finally:
            server.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dask", action="store_true", help="use Dask instead of a process pool")
    spread = with_dask if parser.parse_args().dask else with_processes

    with serving() as server:
        url = f"http://127.0.0.1:{server.server_port}"
        batches = [[f"{url}/{batch}/{page}" for page in range(PAGES)] for batch in range(BATCHES)]
        answers = list(spread(batches))

    for pid, done in Counter(pid for pid, _ in answers).items():
        print(f"process {pid} fetched {done * PAGES} pages")
    print(f"{sum(size for _, size in answers)} bytes in {BATCHES * PAGES} pages")
    print(f"{server.connections} connections, at most {CONNECTIONS} for each of {WORKERS} workers")


if __name__ == "__main__":
    main()
