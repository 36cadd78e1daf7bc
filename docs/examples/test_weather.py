"""Synchronous tests of async code: ``python -m pytest test_weather.py``."""

from collections.abc import Iterator

import pytest
from aiohttp import ClientSession, web

from palitra import AsyncLoopExecutor


async def temperature(session: ClientSession, url: str) -> int:
    """The code under test."""
    async with session.get(url) as response:
        response.raise_for_status()
        celsius: int = (await response.json())["celsius"]
        return celsius


@pytest.fixture(scope="session")
def executor() -> Iterator[AsyncLoopExecutor]:
    """One loop for all tests; what is still in flight at the end is cancelled."""
    executor = AsyncLoopExecutor()
    yield executor
    executor.shutdown(cancel_futures=True)


@pytest.fixture(scope="session")
def service(executor: AsyncLoopExecutor) -> str:
    """A real server on the same loop, stopped when the executor is shut down."""

    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"celsius": 4})

    async def start() -> web.AppRunner:
        app = web.Application()
        app.router.add_get("/oslo", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner

    runner = executor.run(start())
    executor.push_async_callback(runner.cleanup)
    host, port = runner.addresses[0][:2]
    return f"http://{host}:{port}"


@pytest.fixture(scope="session")
def session(executor: AsyncLoopExecutor, service: str) -> ClientSession:
    """One session for all tests, closed before the server is."""
    return executor.enter_context(ClientSession)


def test_one_city(executor: AsyncLoopExecutor, session: ClientSession, service: str) -> None:
    assert executor.run(temperature(session, f"{service}/oslo")) == 4


def test_many_at_once(executor: AsyncLoopExecutor, session: ClientSession, service: str) -> None:
    calls = [temperature(session, f"{service}/oslo") for _ in range(20)]

    assert executor.gather(*calls) == [4] * 20
