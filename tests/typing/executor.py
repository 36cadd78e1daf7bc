"""An AsyncLoopExecutor is a concurrent.futures.Executor, for type checkers too."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor, as_completed, wait
from contextlib import AsyncExitStack, ExitStack
from types import TracebackType
from typing import Any, TypeVar

from typing_extensions import ParamSpec, assert_type, override

from palitra import AsyncLoopExecutor, CallTimeoutError, DeadlockError

P = ParamSpec("P")
T = TypeVar("T")


async def fetch(url: str) -> bytes:
    return url.encode()


def set_up(name: str, level: int) -> None:
    print(name, level)


# --- the constructor takes ThreadPoolExecutor's parameters, and asyncio.Runner's by keyword

assert_type(AsyncLoopExecutor(), AsyncLoopExecutor)
assert_type(AsyncLoopExecutor(8, "fetcher", set_up, ("fetcher", 3)), AsyncLoopExecutor)
assert_type(AsyncLoopExecutor(max_workers=None, thread_name_prefix="fetcher"), AsyncLoopExecutor)
assert_type(
    AsyncLoopExecutor(max_workers=8, initializer=set_up, initargs=("fetcher", 3)),
    AsyncLoopExecutor,
)
assert_type(AsyncLoopExecutor(loop_factory=asyncio.new_event_loop, debug=True), AsyncLoopExecutor)
assert_type(AsyncLoopExecutor(loop_factory=None, debug=None), AsyncLoopExecutor)
assert_type(AsyncLoopExecutor(exit_timeout=3), AsyncLoopExecutor)
assert_type(AsyncLoopExecutor(8, "fetcher", set_up, ("a", 3), exit_timeout=None), AsyncLoopExecutor)

AsyncLoopExecutor("8")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
AsyncLoopExecutor(1, "fetcher", None, (), asyncio.new_event_loop)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
AsyncLoopExecutor(loop_factory=asyncio.sleep)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
# Arguments that do not fit the initializer, or none where it needs some.
AsyncLoopExecutor(initializer=set_up)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
AsyncLoopExecutor(initializer=set_up, initargs=("fetcher", "3"))  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
AsyncLoopExecutor(exit_timeout="3")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]


# --- from_loop: an executor of the class that it is called on, over a loop that is there


class Tuned(AsyncLoopExecutor):
    pass


def over_a_loop(loop: asyncio.AbstractEventLoop) -> None:
    assert_type(AsyncLoopExecutor.from_loop(), AsyncLoopExecutor)
    assert_type(AsyncLoopExecutor.from_loop(loop), AsyncLoopExecutor)
    assert_type(AsyncLoopExecutor.from_loop(loop=None, exit_timeout=1.5), AsyncLoopExecutor)
    assert_type(Tuned.from_loop(loop, max_workers=8, thread_name_prefix="fetcher"), Tuned)
    assert_type(
        Tuned.from_loop(loop, initializer=set_up, initargs=("fetcher", 3), exit_timeout=None), Tuned
    )
    AsyncLoopExecutor.from_loop(loop, 8)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    AsyncLoopExecutor.from_loop(asyncio.new_event_loop)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    AsyncLoopExecutor.from_loop(loop_factory=asyncio.new_event_loop)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    AsyncLoopExecutor.from_loop(loop, initializer=set_up)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AsyncLoopExecutor.from_loop(loop, initializer=set_up, initargs=("a", "b"))  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]


# --- it goes wherever an Executor is expected, without a cast


def starts_work(pool: Executor) -> None:
    print(pool)


def builds_its_pool(pool_type: type[ThreadPoolExecutor] | type[AsyncLoopExecutor]) -> Executor:
    return pool_type(max_workers=8, initializer=set_up, initargs=("fetcher", 3))


executor = AsyncLoopExecutor()
starts_work(executor)
builds_its_pool(AsyncLoopExecutor)
pool: Executor = executor
pools: list[Executor] = [executor, ThreadPoolExecutor()]
pool_class: type[Executor] = AsyncLoopExecutor


async def offers_it_to_asyncio() -> None:
    loop = asyncio.get_running_loop()
    assert_type(await loop.run_in_executor(executor, len, "four"), int)
    assert_type(await asyncio.wrap_future(executor.submit(fetch, "/")), bytes)


# --- it is a context manager, and what comes back are plain futures

with AsyncLoopExecutor() as entered:
    assert_type(entered, AsyncLoopExecutor)

with ExitStack() as stack:
    assert_type(stack.enter_context(AsyncLoopExecutor()), AsyncLoopExecutor)


# Its end says whether a context has suppressed the exception; checkers that took each block for
# one that swallows exceptions would ask for a return after it.
def always_returns() -> int:
    with AsyncLoopExecutor() as inner:
        return inner.run(asyncio.sleep(0, 1))


async def ends_it_on_a_loop() -> int:
    async with Tuned.from_loop() as own:
        assert_type(own, Tuned)
    async with AsyncExitStack() as stack:
        assert_type(await stack.enter_async_context(AsyncLoopExecutor()), AsyncLoopExecutor)
    assert_type(await own.aclose(), None)
    await own.aclose(cancel_futures=True)
    await own.aclose(True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await own.aclose(timeout=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    own.aclose().result()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    async with AsyncLoopExecutor():
        return 1


futures = [executor.submit(fetch, url) for url in ("/a", "/b")]
assert_type(futures, list[Future[bytes]])
assert_type([future.result(timeout=1) for future in as_completed(futures)], list[bytes])
assert_type(wait(futures).done, set[Future[bytes]])
assert_type(futures[0].exception(), BaseException | None)

assert_type(executor.get_loop(), asyncio.AbstractEventLoop)
executor.shutdown()
executor.shutdown(False, cancel_futures=True)
executor.shutdown(timeout=1.5)
executor.shutdown(wait=True, timeout=None)
executor.shutdown(timeout="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
executor.shutdown(True, True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

try:
    executor.run(fetch("/"))
except DeadlockError as error:
    refused: RuntimeError = error
except CallTimeoutError as error:
    late: TimeoutError = error

assert_type(executor.on_loop(), bool)
assert_type((executor if executor.on_loop() else Tuned()).run(fetch("/")), bytes)
executor.on_loop(executor)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


# --- overriding submit, map and shutdown takes no ignore


class LooselyTypedExecutor(AsyncLoopExecutor):
    @override
    def submit(
        self, fn: Callable[..., Any] | Coroutine[Any, Any, Any], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:
        return super().submit(fn, *args, **kwargs)

    @override
    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[Any]:
        return super().map(
            fn, *iterables, timeout=timeout, chunksize=chunksize, buffersize=buffersize
        )

    @override
    def shutdown(
        self, wait: bool = True, *, cancel_futures: bool = False, timeout: float | None = None
    ) -> None:
        super().shutdown(wait, cancel_futures=cancel_futures, timeout=timeout)

    @override
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool | None:
        return super().__exit__(exc_type, exc_val, exc_tb)


# --- functions that forward to submit keep their types


def submit_twice(
    fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
) -> tuple[Future[T], Future[T]]:
    return executor.submit(fn, *args, **kwargs), executor.submit(fn, *args, **kwargs)


assert_type(submit_twice(fetch, "/"), tuple[Future[bytes], Future[bytes]])
