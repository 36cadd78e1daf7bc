"""httpx and aiohttp: streamed bodies as iterators, and one pool of connections for all threads."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING

import aiohttp
import httpx
import pytest

from palitra import AsyncLoopExecutor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from counting_server import CountingServer


def new_aiohttp_session(limit: int = 4) -> aiohttp.ClientSession:
    """Return a session; to be called on the loop, to which its connector belongs."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=limit))


def new_httpx_client(limit: int = 4) -> httpx.AsyncClient:
    return httpx.AsyncClient(limits=httpx.Limits(max_connections=limit), timeout=20)


def test_a_streamed_body_of_httpx_is_read_through_sync_iter(
    executor: AsyncLoopExecutor, server: CountingServer
) -> None:
    with (
        executor.sync_context(new_httpx_client()) as client,
        executor.sync_context(client.stream("GET", f"{server.url}/lines/50")) as response,
    ):
        assert response.status_code == 200
        lines = list(executor.sync_iter(response.aiter_lines()))

    assert lines == [f"line {number}" for number in range(50)]
    assert server.wait_until_all_closed()


def test_a_streamed_body_of_aiohttp_is_read_through_sync_iter(
    executor: AsyncLoopExecutor, server: CountingServer
) -> None:
    with (
        executor.sync_context(new_aiohttp_session) as session,
        executor.sync_context(session.get(f"{server.url}/lines/50")) as response,
    ):
        lines = list(executor.sync_iter(response.content))

    assert lines == [f"line {number}\n".encode() for number in range(50)]
    assert server.wait_until_all_closed()


def test_a_streamed_body_is_read_ahead_into_a_buffer(
    executor: AsyncLoopExecutor, server: CountingServer
) -> None:
    with (
        executor.sync_context(new_httpx_client()) as client,
        executor.sync_context(client.stream("GET", f"{server.url}/lines/200")) as response,
    ):
        lines = list(executor.sync_iter(response.aiter_lines(), buffersize=16))

    assert lines == [f"line {number}" for number in range(200)]


def test_a_generator_over_a_streamed_body_closes_the_connection_when_left_early(
    executor: AsyncLoopExecutor, server: CountingServer
) -> None:
    closed = threading.Event()

    @executor.sync
    async def lines(url: str) -> AsyncIterator[str]:
        try:
            async with (
                httpx.AsyncClient(timeout=20) as client,
                client.stream("GET", url) as response,
            ):
                async for line in response.aiter_lines():
                    yield line
        finally:
            closed.set()

    for number, line in enumerate(lines(f"{server.url}/endless")):
        assert line == "again"
        if number == 10:
            break

    # No `close()` here: the loop over it was the last to hold the iterator.
    assert closed.wait(10)
    assert server.wait_until_all_closed()


def test_an_endless_body_of_aiohttp_is_left_by_an_exception(
    executor: AsyncLoopExecutor, server: CountingServer
) -> None:
    with (
        pytest.raises(LookupError),
        executor.sync_context(new_aiohttp_session) as session,
        executor.sync_context(session.get(f"{server.url}/endless")) as response,
        executor.sync_iter(response.content) as lines,
    ):
        for line in lines:
            raise LookupError(line)

    assert server.wait_until_all_closed()


def test_a_pool_of_httpx_entered_once_serves_many_threads(server: CountingServer) -> None:
    with AsyncLoopExecutor() as executor, ThreadPoolExecutor(8) as threads:
        client = executor.enter_context(new_httpx_client)

        def fetch(number: int) -> str:
            response = executor.run(client.get(f"{server.url}/{number}"))
            path: str = response.raise_for_status().json()["path"]
            return path

        assert list(threads.map(fetch, range(100))) == [f"/{number}" for number in range(100)]

        assert server.requests == 100
        assert server.connections <= 4
    assert server.wait_until_all_closed()


def test_a_pool_of_aiohttp_entered_once_serves_many_threads(server: CountingServer) -> None:
    with AsyncLoopExecutor() as executor, ThreadPoolExecutor(8) as threads:
        session = executor.enter_context(new_aiohttp_session)

        @executor.sync
        async def fetch(number: int) -> str:
            async with session.get(f"{server.url}/{number}") as response:
                path: str = (await response.json())["path"]
                return path

        assert list(threads.map(fetch, range(100))) == [f"/{number}" for number in range(100)]

        assert server.requests == 100
        assert server.connections <= 4
    assert server.wait_until_all_closed()


def test_a_class_is_entered_as_a_factory(
    executor: AsyncLoopExecutor, server: CountingServer
) -> None:
    session = executor.enter_context(aiohttp.ClientSession)

    # What aiohttp returns from `get` is a request to be awaited, and no coroutine of `async def`.
    response = executor.run(session.get(server.url))

    assert executor.run(response.json())["path"] == "/"


def test_requests_are_submitted_and_taken_as_they_complete(
    executor: AsyncLoopExecutor, server: CountingServer
) -> None:
    client = executor.enter_context(new_httpx_client)

    futures = {executor.submit(client.get, f"{server.url}/{n}"): f"/{n}" for n in range(30)}

    for future in as_completed(futures):
        assert future.result().json()["path"] == futures[future]


def test_a_cancelled_request_closes_its_connection(
    executor: AsyncLoopExecutor, server: CountingServer
) -> None:
    client = executor.enter_context(new_httpx_client)
    request = executor.submit(client.get, f"{server.url}/held")
    assert server.held.acquire(timeout=10)

    assert request.cancel()
    with contextlib.suppress(BaseException):
        request.result(10)

    assert request.cancelled()
    server.release.set()
    assert server.wait_until_all_closed()


def test_a_timeout_of_run_closes_the_connection(
    executor: AsyncLoopExecutor, server: CountingServer
) -> None:
    client = executor.enter_context(new_httpx_client)

    with pytest.raises(TimeoutError):
        executor.run(client.get(f"{server.url}/held"), timeout=0.05)

    server.release.set()
    assert server.wait_until_all_closed()
