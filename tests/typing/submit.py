"""What submit takes, row by row, and the type of the result that the future promises."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

from typing_extensions import assert_type

from palitra import AsyncLoopExecutor

executor = AsyncLoopExecutor()


async def fetch(url: str, retries: int = 3) -> bytes:
    return url.encode() * retries


def read(path: str, limit: int = -1) -> str:
    return path[:limit]


# --- coroutine functions: the coroutine's result, not the coroutine

assert_type(executor.submit(fetch, "/"), Future[bytes])
assert_type(executor.submit(fetch, "/", 5), Future[bytes])
assert_type(executor.submit(fetch, "/", retries=5), Future[bytes])
assert_type(executor.submit(fetch, "/").result(), bytes)
assert_type(executor.submit(partial(fetch, retries=5), "/"), Future[bytes])
assert_type(executor.submit(partial(fetch, "/")), Future[bytes])


class Client:
    def __init__(self, base: str = "") -> None:
        self.base = base

    async def get(self, url: str) -> bytes:
        return (self.base + url).encode()

    @classmethod
    async def connect(cls, base: str) -> "Client":
        return cls(base)

    @staticmethod
    async def ping() -> float:
        return 0.0

    async def __call__(self, url: str) -> bytes:
        return await self.get(url)


assert_type(executor.submit(Client().get, "/"), Future[bytes])
assert_type(executor.submit(Client.get, Client(), "/"), Future[bytes])
assert_type(executor.submit(Client.connect, "/"), Future[Client])
assert_type(executor.submit(Client.ping), Future[float])
assert_type(executor.submit(Client(), "/"), Future[bytes])

# --- coroutine objects

assert_type(executor.submit(fetch("/")), Future[bytes])

# --- plain callables

assert_type(executor.submit(read, "/"), Future[str])
assert_type(executor.submit(read, "/", limit=3), Future[str])
assert_type(executor.submit(partial(read, "/")), Future[str])
assert_type(executor.submit(lambda: 3), Future[int])
assert_type(executor.submit(time.sleep, 1), Future[None])
assert_type(executor.submit(Path, "/"), Future[Path])
assert_type(executor.submit(Path.read_text, Path("/")), Future[str])
assert_type(executor.submit(Client), Future[Client])

# --- callables that return an awaitable: what it yields when awaited


def fetch_later(url: str) -> Awaitable[bytes]:
    return fetch(url)


def fetch_or_cached(url: str) -> bytes | Awaitable[bytes]:
    return b"" if url == "/" else fetch(url)


def create_future(loop: asyncio.AbstractEventLoop) -> asyncio.Future[int]:
    return loop.create_future()


assert_type(executor.submit(fetch_later, "/"), Future[bytes])
assert_type(executor.submit(fetch_or_cached, "/"), Future[bytes])
assert_type(executor.submit(create_future, executor.get_loop()), Future[int])
assert_type(executor.submit(lambda: fetch("/")), Future[bytes])


# --- callables whose parameters are unknown keep their result


def parameters_unknown(
    load: Callable[..., int],
    aload: Callable[..., Coroutine[Any, Any, int]],
    anything: Callable[..., Any],
) -> None:
    assert_type(executor.submit(load, "/", deep=True), Future[int])
    assert_type(executor.submit(aload, "/", deep=True), Future[int])
    assert_type(executor.submit(anything, 1, 2), Future[Any])


# --- refused: arguments that do not fit, in number, name or type

executor.submit(fetch, 3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
executor.submit(fetch)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
executor.submit(fetch, "/", 1, 2)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
executor.submit(fetch, "/", tries=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
executor.submit(read, 3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
executor.submit(read)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
executor.submit(Client().get, 3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
executor.submit(fetch("/"), 3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
executor.submit()  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]

# --- refused: what is neither callable nor a coroutine


async def lines(path: str) -> AsyncGenerator[str]:
    yield path


def not_callable(task: Awaitable[int], stream: AsyncIterator[str]) -> None:
    executor.submit(3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    executor.submit(lines("/"))  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    executor.submit(stream)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    executor.submit(task)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


# --- refused: taking the result for something else

wrong_result: Future[str] = executor.submit(fetch, "/")  # type: ignore[call-overload]  # pyright: ignore[reportAssignmentType]

# --- submit_service: coroutine functions and coroutines, checked as submit checks them

assert_type(executor.submit_service(fetch, "/"), Future[bytes])
assert_type(executor.submit_service(fetch, "/", retries=5), Future[bytes])
assert_type(executor.submit_service(fetch, url="/").result(), bytes)
assert_type(executor.submit_service(fetch("/")), Future[bytes])
assert_type(executor.submit_service(partial(fetch, "/"), retries=5), Future[bytes])
assert_type(executor.submit_service(Client().get, "/"), Future[bytes])
assert_type(executor.submit_service(Client(), "/"), Future[bytes])
assert_type(executor.submit_service(Client.connect, "/"), Future[Client])


def service_of_unknown_parameters(poll: Callable[..., Coroutine[Any, Any, int]]) -> None:
    assert_type(executor.submit_service(poll, "/", deep=True), Future[int])


executor.submit_service(fetch, 3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
executor.submit_service(fetch)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
executor.submit_service(fetch, "/", tries=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
executor.submit_service(fetch("/"), 3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
executor.submit_service()  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
# What would run in a thread, and what no coroutine comes of.
executor.submit_service(read, "/")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
executor.submit_service(time.sleep, 1)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
executor.submit_service(fetch_later, "/")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
executor.submit_service(create_future, executor.get_loop())  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
executor.submit_service(lines, "/")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
executor.submit_service(3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
