"""map checks each iterable's items against the function's parameters, up to five of them."""

from collections.abc import Awaitable, Callable, Coroutine, Iterator
from functools import partial
from itertools import count
from typing import Any

from typing_extensions import assert_type

from palitra import AsyncLoopExecutor

executor = AsyncLoopExecutor()


async def fetch(url: str, retries: int = 3) -> bytes:
    return url.encode() * retries


def read(path: str) -> str:
    return path


async def add2(a: int, b: float) -> float:
    return a + b


async def add3(a: int, b: float, c: complex) -> complex:
    return a + b + c


def add4(a: int, b: float, c: complex, d: int) -> complex:
    return a + b + c + d


async def add5(a: int, b: float, c: complex, d: int, e: str) -> str:
    return f"{a + b + c + d}{e}"


async def add6(a: int, b: float, c: complex, d: int, e: str, f: bytes) -> str:
    return f"{a + b + c + d}{e}{f!r}"


def add_all(*numbers: int) -> int:
    return sum(numbers)


def read_or_fetch(path: str) -> str | Awaitable[str]:
    return path


# --- the results, in order

assert_type(executor.map(fetch, ["/a", "/b"]), Iterator[bytes])
assert_type(list(executor.map(fetch, ["/a", "/b"])), list[bytes])
assert_type(executor.map(fetch, ["/a", "/b"], [1, 2]), Iterator[bytes])
assert_type(executor.map(read, {"/a"}), Iterator[str])
assert_type(executor.map(read_or_fetch, ["/a"]), Iterator[str])
assert_type(executor.map(partial(fetch, retries=1), ["/a"]), Iterator[bytes])
assert_type(executor.map(lambda path: read(path), ["/a"]), Iterator[str])  # noqa: PLW0108
assert_type(executor.map(str, [1, 2]), Iterator[str])
assert_type(executor.map(add2, [1], [2.0]), Iterator[float])
assert_type(executor.map(add3, [1], [2.0], [3j]), Iterator[complex])
assert_type(executor.map(add4, [1], [2.0], [3j], [4]), Iterator[complex])
assert_type(executor.map(add5, [1], [2.0], [3j], [4], ["5"]), Iterator[str])
assert_type(executor.map(add6, [1], [2.0], [3j], [4], ["5"], [b"6"]), Iterator[str])
assert_type(executor.map(add_all, [1]), Iterator[int])
assert_type(executor.map(add_all, [1], [2], [3]), Iterator[int])

rows = [[1, 2], [3, 4]]
assert_type(executor.map(add_all, *rows), Iterator[int])

# --- timeout, chunksize and, on each Python, buffersize

assert_type(
    executor.map(add2, count(), count(), timeout=1.5, chunksize=10, buffersize=100),
    Iterator[float],
)
assert_type(executor.map(fetch, ["/a"], timeout=None, buffersize=None), Iterator[bytes])


# --- where the parameters are unknown, any iterables will do


def parameters_unknown(
    load: Callable[..., int], aload: Callable[..., Coroutine[Any, Any, int]]
) -> None:
    assert_type(executor.map(load, ["/a"]), Iterator[int])
    assert_type(executor.map(load, *rows), Iterator[int])
    numbers: Iterator[int] = executor.map(aload, ["/a"], [1])
    print(numbers)


# --- refused: items of the wrong type

executor.map(fetch, [1, 2])  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
executor.map(read, [1, 2])  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
executor.map(add2, [1], ["2"])  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
executor.map(add5, [1], [2], [3], [4], [5])  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
executor.map(add_all, ["1"])  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]

# --- refused: too many iterables, too few, or none

executor.map(read, ["/a"], ["/b"])  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
executor.map(add2, [1])  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
executor.map(add6, [1])  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
executor.map(read)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]

# --- refused: what is no function, or no iterable

executor.map(fetch("/a"), ["/b"])  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
executor.map(fetch, 3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
executor.map(fetch, ["/a"], buffersize="100")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
