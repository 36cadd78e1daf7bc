"""Synchronous faces: sync, sync_iter, sync_context, enter_context, push_async_callback."""

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterator,
)
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager
from functools import partial
from types import TracebackType

from typing_extensions import Self, assert_type

import palitra
from palitra import AsyncLoopExecutor

executor = AsyncLoopExecutor()


async def fetch(url: str, retries: int = 3) -> bytes:
    return url.encode() * retries


def read(path: str) -> str:
    return path


async def numbers(stop: int) -> AsyncGenerator[int]:
    for number in range(stop):
        yield number


async def echo(first: str) -> AsyncGenerator[str, bytes]:
    received = yield first
    while received:
        received = yield received.decode()


async def lines(path: str) -> AsyncIterator[str]:
    yield path


# --- sync: an async function becomes a function with the same parameters

fetch_now = palitra.sync(fetch)
assert_type(fetch_now("/"), bytes)
assert_type(fetch_now("/", retries=5), bytes)
assert_type(fetch_now(url="/"), bytes)
assert_type(fetch_now.submit("/", retries=5), Future[bytes])
assert_type(fetch_now.__wrapped__("/"), Awaitable[bytes])
assert_type(fetch_now.__name__, str)
assert_type(executor.sync(fetch)("/"), bytes)
assert_type(executor.sync(partial(fetch, "/"))(), bytes)
function: Callable[[str], bytes] = fetch_now


@palitra.sync
async def word_count(text: str, /, *, unique: bool = False) -> int:
    words = text.split()
    return len(set(words) if unique else words)


assert_type(word_count("a b a", unique=True), int)
assert_type(word_count.submit("a b a"), Future[int])


@executor.sync
def fetch_later(url: str) -> Awaitable[bytes]:
    return fetch(url)


assert_type(fetch_later("/"), bytes)

fetch_now(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
fetch_now()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
fetch_now("/", tries=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
fetch_now.submit(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
word_count(text="a")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
palitra.sync(read)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
palitra.sync(fetch("/"))  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
executor.sync(3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


# --- sync: methods bind


class Client:
    @palitra.sync
    async def get(self, url: str) -> bytes:
        return url.encode()

    @palitra.sync
    async def stream(self, url: str) -> AsyncGenerator[bytes]:
        yield url.encode()

    @classmethod
    @palitra.sync
    async def connect(cls, base: str) -> "Client":
        print(base)
        return cls()

    @staticmethod
    @palitra.sync
    async def ping(host: str) -> float:
        return float(len(host))

    # In this order submit binds as well; Python 3.13's classmethod binds nothing but the call.
    @palitra.sync
    @classmethod
    async def reconnect(cls, base: str) -> "Client":
        print(base)
        return cls()

    @palitra.sync
    @staticmethod
    async def ping6(host: str) -> float:
        return float(len(host))

    async def __call__(self, url: str) -> bytes:
        return url.encode()


client = Client()
assert_type(client.get("/"), bytes)
assert_type(client.get(url="/"), bytes)
assert_type(client.get.submit("/"), Future[bytes])
assert_type(Client.get(client, "/"), bytes)
assert_type(list(client.stream("/")), list[bytes])
assert_type(Client.connect("/"), Client)
assert_type(client.connect("/"), Client)
assert_type(Client.ping("localhost"), float)
assert_type(client.ping("localhost"), float)
assert_type(Client.reconnect("/"), Client)
assert_type(client.reconnect("/"), Client)
assert_type(Client.reconnect.submit("/"), Future[Client])
assert_type(client.reconnect.submit("/"), Future[Client])
assert_type(Client.ping6("localhost"), float)
assert_type(client.ping6("localhost"), float)
assert_type(client.ping6.submit("localhost"), Future[float])
assert_type(palitra.sync(client)("/"), bytes)

client.get(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
client.get()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
client.stream(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

# --- sync: an async generator function becomes a generator function

numbers_now = palitra.sync(numbers)
assert_type(list(numbers_now(3)), list[int])
assert_type([number for number in numbers_now(stop=3)], list[int])  # noqa: C416
assert_type(palitra.sync(echo)("a").send(b"b"), str)
assert_type(list(executor.sync(lines)("/")), list[str])
generator: Generator[str, bytes, None] = palitra.sync(echo)("a")

numbers_now("3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
numbers_now.submit(3)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
palitra.sync(lines)("/").send(b"b")  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]

# --- sync_iter: an iterator that closes what it iterates over

assert_type(list(palitra.sync_iter(numbers(3))), list[int])
assert_type(next(executor.sync_iter(lines("/"))), str)
assert_type(list(palitra.sync_iter(lambda: numbers(3))), list[int])
assert_type(list(palitra.sync_iter(partial(lines, "/"))), list[str])
assert_type(list(palitra.sync_iter(numbers(3), buffersize=10)), list[int])
iterator: Iterator[int] = palitra.sync_iter(numbers(3))

with palitra.sync_iter(lines("/")) as entered:
    assert_type([line for line in entered], list[str])  # noqa: C416

with executor.sync_iter(echo("a")) as echoes:
    assert_type(next(echoes), str)
    assert_type(echoes.send(b"b"), str)
    assert_type(echoes.throw(ValueError), str)
    assert_type(echoes.throw(ValueError("no")), str)

echoes.close()


def delegates() -> Generator[str, bytes, None]:
    yield from palitra.sync_iter(echo("a"))


class Feed:
    def __aiter__(self) -> AsyncIterator[str]:
        return lines("/")


def any_async_iterable(feed: AsyncIterable[str]) -> None:
    assert_type(list(palitra.sync_iter(feed)), list[str])
    assert_type(list(palitra.sync_iter(Feed())), list[str])
    assert_type(list(palitra.sync_iter(Feed)), list[str])


palitra.sync_iter([1, 2])  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
palitra.sync_iter(numbers)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
palitra.sync_iter(numbers(3), 10)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
echoes.send("b")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
# A callable may return any async iterable, and prefetched items leave nobody to send to.
palitra.sync_iter(lambda: echo("a")).send(b"b")  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
palitra.sync_iter(echo("a"), buffersize=10).send(b"b")  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]

# --- sync_context and enter_context: the value that the async context manager gives


class Session:
    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        pass


class IgnoresErrors:
    async def __aenter__(self) -> int:
        return 1

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool:
        return True


@asynccontextmanager
async def connect() -> AsyncGenerator[int]:
    yield 1


with palitra.sync_context(Session()) as session:
    assert_type(session, Session)

with executor.sync_context(Session) as session:
    assert_type(session, Session)

with palitra.sync_context(connect()) as connection:
    assert_type(connection, int)

with palitra.sync_context(connect) as connection:
    assert_type(connection, int)

with palitra.sync_context(lambda: asyncio.timeout(3)) as timeout:
    assert_type(timeout, asyncio.Timeout)

with ExitStack() as stack:
    assert_type(stack.enter_context(palitra.sync_context(Session)), Session)

assert_type(palitra.enter_context(Session()), Session)
assert_type(palitra.enter_context(Session), Session)
assert_type(executor.enter_context(connect()), int)
assert_type(executor.enter_context(connect), int)
assert_type(executor.enter_context(lambda: Session()), Session)  # noqa: PLW0108

# Whether it may swallow exceptions: checkers decide by this what is reachable after the block.
assert_type(palitra.sync_context(Session()), AbstractContextManager[Session, None])
assert_type(palitra.sync_context(IgnoresErrors()), AbstractContextManager[int, bool])


def always_returns() -> int:
    with palitra.sync_context(Session()):
        return 1


def synchronous_context(stack: ExitStack) -> None:
    palitra.sync_context(stack)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    palitra.enter_context(stack)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    executor.enter_context(fetch)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    executor.enter_context(Session(), Session())  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


# --- cached_context: a function that gives the value of the context


def connect_to(base: str) -> Session:
    print(base)
    return Session()


@executor.cached_context
@asynccontextmanager
async def pool() -> AsyncGenerator[int]:
    yield 1


assert_type(pool(), int)
assert_type(palitra.cached_context(connect), Callable[[], int])
assert_type(palitra.cached_context(connect)(), int)
assert_type(palitra.cached_context(Session)(), Session)
assert_type(executor.cached_context(lambda: Session())(), Session)  # noqa: PLW0108
assert_type(executor.cached_context(lambda: asyncio.timeout(3))(), asyncio.Timeout)

pool(1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
# A context manager itself could be entered only once; a function needs an argument, or gives none.
palitra.cached_context(Session())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
palitra.cached_context(connect())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
palitra.cached_context(fetch)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
palitra.cached_context(ExitStack)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
executor.cached_context(connect_to)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
executor.cached_context()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

# --- push_async_callback: checked as submit is, and gives the function back

assert_type(palitra.push_async_callback(fetch, "/", retries=5)("/"), Awaitable[bytes])
assert_type(executor.push_async_callback(client, "/")("/"), Awaitable[bytes])
palitra.push_async_callback(fetch, 3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
palitra.push_async_callback(fetch)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
executor.push_async_callback(read, "/")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
