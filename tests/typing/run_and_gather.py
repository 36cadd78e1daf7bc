"""run and gather, of an executor and of the module."""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from typing_extensions import assert_type

import palitra
from palitra import (
    AsyncLoopExecutor,
    EventLoopThreadRunner,
    is_runner_alive,
    shutdown_global_runner,
)

executor = AsyncLoopExecutor()


async def fetch(url: str) -> bytes:
    return url.encode()


async def count_words(text: str) -> int:
    return len(text.split())


async def nothing() -> None:
    pass


# --- run: one coroutine's result

assert_type(executor.run(fetch("/")), bytes)
assert_type(executor.run(count_words("a b"), timeout=1.5), int)
assert_type(executor.run(fetch("/"), timeout=None, context=contextvars.copy_context()), bytes)
assert_type(palitra.run(fetch("/")), bytes)
assert_type(palitra.run(count_words("a b"), timeout=1, context=None), int)
assert_type(EventLoopThreadRunner.run(fetch("/")), bytes)

executor.run(nothing())
executor.run(fetch)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
executor.run(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
executor.run(fetch("/"), 1.5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
executor.run(fetch("/"), timeout="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
palitra.run(executor.submit(fetch, "/"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def not_a_coroutine(task: asyncio.Task[int], awaitable: Awaitable[int]) -> None:
    palitra.run(task)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    palitra.run(awaitable)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    EventLoopThreadRunner.run(awaitable)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# --- gather: a type for each of one to six arguments

a, n = fetch("/"), count_words("a b")
assert_type(executor.gather(fetch("/")), tuple[bytes])
assert_type(executor.gather(fetch("/"), count_words("")), tuple[bytes, int])
assert_type(executor.gather(fetch("/"), count_words(""), nothing()), tuple[bytes, int, None])
assert_type(
    executor.gather(fetch("/"), count_words(""), nothing(), fetch("/")),
    tuple[bytes, int, None, bytes],
)
assert_type(
    executor.gather(fetch("/"), count_words(""), nothing(), fetch("/"), count_words("")),
    tuple[bytes, int, None, bytes, int],
)
assert_type(
    palitra.gather(fetch("/"), count_words(""), nothing(), fetch("/"), count_words(""), nothing()),
    tuple[bytes, int, None, bytes, int, None],
)
page, words = palitra.gather(fetch("/"), count_words(""), timeout=3)
assert_type(page, bytes)
assert_type(words, int)

# --- gather: a list for star-arguments, and for more than six

coros = [fetch(url) for url in ("/a", "/b")]
assert_type(executor.gather(*coros), list[bytes])
assert_type(palitra.gather(*coros), list[bytes])
assert_type(palitra.gather(*(fetch(url) for url in ("/a", "/b"))), list[bytes])
assert_type(
    executor.gather(a, fetch("/"), fetch("/"), fetch("/"), fetch("/"), fetch("/"), fetch("/")),
    list[bytes],
)

# --- gather: exceptions in place of results

assert_type(
    executor.gather(fetch("/"), count_words(""), return_exceptions=True),
    tuple[bytes | BaseException, int | BaseException],
)
assert_type(
    palitra.gather(fetch("/"), return_exceptions=True, timeout=3), tuple[bytes | BaseException]
)
assert_type(palitra.gather(*coros, return_exceptions=True), list[bytes | BaseException])
assert_type(palitra.gather(fetch("/"), n, return_exceptions=False), tuple[bytes, int])


def decided_later(flag: bool) -> None:
    assert_type(palitra.gather(fetch("/"), return_exceptions=flag), tuple[bytes | BaseException])
    assert_type(palitra.gather(*coros, return_exceptions=flag), list[bytes | BaseException])


# --- gather: awaitables and futures of both kinds, mixed


def futures_too(awaitable: Awaitable[str], task: asyncio.Task[float]) -> None:
    assert_type(
        palitra.gather(awaitable, task, executor.submit(fetch, "/"), fetch("/")),
        tuple[str, float, bytes, bytes],
    )
    futures = [executor.submit(count_words, text) for text in ("a", "a b")]
    assert_type(futures, list[Future[int]])
    assert_type(executor.gather(*futures), list[int])


executor.gather(fetch)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
executor.gather(fetch("/"), 3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
palitra.gather(coros)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
palitra.gather(fetch("/"), return_exceptions="no")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
wrong: list[str] = palitra.gather(*coros)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]

# --- the runner's gather is a list or an awaitable, by where it is called: Any


async def inside_the_loop() -> list[bytes]:
    result: list[bytes] = await EventLoopThreadRunner.gather(*coros, return_exceptions=False)
    return result


assert_type(EventLoopThreadRunner.gather(*coros), Any)
assert_type(EventLoopThreadRunner.run(inside_the_loop()), list[bytes])
assert_type(EventLoopThreadRunner.get_loop(), asyncio.AbstractEventLoop)
with EventLoopThreadRunner() as runner:
    assert_type(runner, EventLoopThreadRunner)
    assert_type(runner.run(fetch("/"), timeout=1, debug=True, loop_factory=None), bytes)
    assert_type(runner.get_loop(), asyncio.AbstractEventLoop)
    pages: list[bytes] = runner.gather(fetch("/"), fetch("/about"), return_exceptions=False)
    runner.run(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
assert_type(runner.close(), None)
assert_type(is_runner_alive(), bool)
assert_type(shutdown_global_runner(), None)
EventLoopThreadRunner.gather(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

# --- the default executor

assert_type(palitra.get_executor(), AsyncLoopExecutor)
assert_type(palitra.get_loop(), asyncio.AbstractEventLoop)
palitra.shutdown()
palitra.shutdown(False, cancel_futures=True)
palitra.shutdown(timeout=1.5)
palitra.shutdown(True, True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
palitra.shutdown(timeout="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
assert_type(palitra.set_executor(executor), AsyncLoopExecutor | None)
assert_type(palitra.set_executor(None), AsyncLoopExecutor | None)
palitra.set_executor()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
palitra.set_executor(ThreadPoolExecutor())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
palitra.set_executor(AsyncLoopExecutor)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
palitra.set_executor(None).shutdown()  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]
runs: list[Callable[..., Any]] = [palitra.run, palitra.gather, palitra.get_loop]
