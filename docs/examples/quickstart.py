"""Fetch a few hundred web pages from a plain, synchronous program, all at once.

    python docs/examples/quickstart.py
    python docs/examples/quickstart.py https://www.python.org/ https://docs.python.org/3/

Without arguments the program serves the pages itself, over real sockets on this machine.
It needs Python's standard library and palitra, nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import re
import sys
from collections.abc import AsyncIterator, Iterable, Mapping
from concurrent.futures import as_completed
from contextlib import asynccontextmanager
from http.client import HTTPMessage, parse_headers
from time import perf_counter
from typing import NamedTuple
from urllib.parse import urlsplit

from palitra import AsyncLoopExecutor

CONNECTIONS = 50  # open at the same time, at most
TIMEOUT = 10.0  # seconds for one page
LATENCY = 0.02  # seconds that the program's own server takes to answer


# --- The asynchronous part: fetch one page ---------------------------------------------


class Page(NamedTuple):
    url: str
    status: int
    body: bytes


class BadAnswer(ValueError):
    """The server answered, but not with the page."""


# What can go wrong with one page: no connection or no time left, an answer that breaks off,
# an answer that makes no sense, a header without end.
FAILURES = (OSError, EOFError, ValueError, asyncio.LimitOverrunError)


async def fetch(url: str) -> Page:
    """GET one page over HTTP/1.1, on a connection of its own."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    request = (
        f"GET {target} HTTP/1.1\r\n"
        f"Host: {parts.netloc}\r\n"
        "User-Agent: palitra-quickstart\r\n"
        "Accept-Encoding: identity\r\n"
        "Connection: close\r\n"
        "\r\n"
    )
    async with asyncio.timeout(TIMEOUT):
        reader, writer = await asyncio.open_connection(
            parts.hostname, parts.port or (443 if secure else 80), ssl=secure or None
        )
        try:
            writer.write(request.encode("ascii"))
            status, headers = await read_head(reader)
            body = await read_body(reader, status, headers)
        finally:
            writer.close()
    return Page(url, status, body)


async def read_head(reader: asyncio.StreamReader) -> tuple[int, HTTPMessage]:
    """Read the status and the headers, passing over interim answers (100 to 199)."""
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        status_line, _, headers = head.partition(b"\r\n")
        match = re.match(rb"HTTP/1\.[01] (\d{3})\b", status_line)
        if match is None:
            raise BadAnswer(f"not an HTTP/1 answer: {status_line[:40]!r}")
        status = int(match[1])
        if status >= 200:
            return status, parse_headers(io.BytesIO(headers))


async def read_body(reader: asyncio.StreamReader, status: int, headers: HTTPMessage) -> bytes:
    """Read the body in whichever of HTTP/1.1's three ways the server delimits it."""
    if status in (204, 304):
        return b""
    if headers.get("Transfer-Encoding", "").lower() == "chunked":
        body = bytearray()
        while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)  # the line end after each chunk
        return bytes(body)
    if length := headers.get("Content-Length"):
        return await reader.readexactly(int(length))
    return await reader.read()  # up to the end of the connection


# --- The synchronous part: fetch many pages, in three ways ------------------------------


def fetch_all(urls: list[str], expected: Mapping[str, bytes]) -> int:
    """Fetch each page three times, check every answer, and return the exit code."""
    with AsyncLoopExecutor(max_workers=CONNECTIONS) as executor:
        try:
            started = perf_counter()
            answered = fetch_as_they_finish(executor, urls, expected)
            at_once = report("submit, as_completed", answered, started)
            if not answered:
                return 1

            started = perf_counter()
            for page in executor.map(fetch, answered):
                check(page, expected)
            report("map", answered, started)

            started = perf_counter()
            for url in answered:
                check(executor.run(fetch(url)), expected)
            one_by_one = report("run, one after another", answered, started)
        except FAILURES as error:
            print(f"A page that was there is gone: {describe(error)}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            executor.shutdown(cancel_futures=True)
            print("Interrupted.", file=sys.stderr)
            return 130

    print(
        f"All {3 * len(answered)} answers were right. "
        f"All at once was {one_by_one / at_once:.1f} times as fast as one after another."
    )
    return 0 if len(answered) == len(urls) else 1


def fetch_as_they_finish(
    executor: AsyncLoopExecutor, urls: list[str], expected: Mapping[str, bytes]
) -> list[str]:
    """Fetch all pages at once, and return the addresses of those that are as they should be."""
    answered = []
    failed = []
    futures = {executor.submit(fetch, url): url for url in urls}
    for done, future in enumerate(as_completed(futures), start=1):
        url = futures[future]
        try:
            check(future.result(), expected)
        except FAILURES as error:
            failed.append(f"{url}: {describe(error)}")
        else:
            answered.append(url)
        show_progress(done, len(urls))
    for line in failed:
        print(line, file=sys.stderr)
    return answered


def check(page: Page, expected: Mapping[str, bytes]) -> None:
    """Raise BadAnswer unless this is the page that was asked for, as far as that is known."""
    if page.status >= 400:
        raise BadAnswer(f"HTTP status {page.status}")
    if page.url in expected and page.body != expected[page.url]:
        raise BadAnswer(f"{page.url}: another page, of {len(page.body)} bytes")


def describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".removesuffix(": ")


def report(way: str, answered: list[str], started: float) -> float:
    seconds = perf_counter() - started
    print(f"  {way:<22} {len(answered):>5} pages in {seconds:6.2f} s", flush=True)
    return seconds


def show_progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        end = "\r\x1b[K" if done == total else ""  # the finished line makes room
        print(f"\r  {done} of {total} pages", end=end, file=sys.stderr, flush=True)


# --- The program's own pages, served on a free port of this machine ---------------------


@asynccontextmanager
async def site(pages: Mapping[str, bytes]) -> AsyncIterator[str]:
    """Serve the pages, given by their paths, for as long as the context lasts."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        path = request.split()[1].decode("latin-1")
        await asyncio.sleep(LATENCY)
        status, body = ("200 OK", pages[path]) if path in pages else ("404 Not Found", b"")
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode("ascii") + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        yield f"http://{host}:{port}"


# --- The command line -------------------------------------------------------------------


def main(arguments: Iterable[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Fetch many pages from a synchronous program, one after another and at once."
    )
    parser.add_argument(
        "urls",
        metavar="URL",
        nargs="*",
        type=http_url,
        help="a page to fetch (default: pages that this program serves itself)",
    )
    parser.add_argument(
        "--pages",
        metavar="N",
        type=positive_number,
        default=200,
        help="how many pages to serve, without a URL (default: %(default)s)",
    )
    options = parser.parse_args(None if arguments is None else list(arguments))

    if options.urls:
        print(f"Fetching {len(options.urls)} pages.", flush=True)
        return fetch_all(options.urls, expected={})

    pages = {f"/page/{n}": f"This is page {n}.\n".encode() * (n + 1) for n in range(options.pages)}
    # A second executor serves: its loop is not kept busy by the one that fetches.
    with AsyncLoopExecutor() as server:
        address = server.enter_context(site(pages))
        print(
            f"Serving {len(pages)} pages on {address}; an answer takes {LATENCY * 1000:.0f} ms.",
            flush=True,
        )
        expected = {address + path: body for path, body in pages.items()}
        return fetch_all(list(expected), expected)


def http_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise argparse.ArgumentTypeError(f"not an http:// or https:// address: {text!r}")
    if not re.fullmatch(r"[!-~]+", text):
        raise argparse.ArgumentTypeError(f"percent-encode what is not plain ASCII: {text!r}")
    if parts.port == 0:
        raise argparse.ArgumentTypeError(f"no such port: {text!r}")
    return text


def positive_number(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"not a positive number: {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
