"""Time limits, task groups and cancel scopes that are held open across `yield`."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import anyio
import httpx
import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from counting_server import CountingServer

    from palitra import AsyncLoopExecutor


class FailureError(Exception):
    pass


async def fetch_all(urls: list[str], limit: float = 20) -> AsyncIterator[str]:
    """Fetch all at once, and yield each path while the others are under way."""
    arrived: asyncio.Queue[str] = asyncio.Queue()

    async def fetch(client: httpx.AsyncClient, url: str) -> None:
        arrived.put_nowait((await client.get(url)).json()["path"])

    async with (
        asyncio.timeout(limit),
        httpx.AsyncClient(timeout=20) as client,
        asyncio.TaskGroup() as group,
    ):
        for url in urls:
            group.create_task(fetch(client, url))
        for _ in urls:
            yield await arrived.get()


def test_a_time_limit_and_a_task_group_are_held_across_yield(
    executor: AsyncLoopExecutor, server: CountingServer
) -> None:
    urls = [f"{server.url}/{number}" for number in range(20)]

    assert sorted(executor.sync_iter(fetch_all(urls))) == sorted(f"/{n}" for n in range(20))
    assert server.wait_until_all_closed()


def test_a_task_group_is_cancelled_when_its_generator_is_left_early(
    executor: AsyncLoopExecutor, server: CountingServer
) -> None:
    urls = [f"{server.url}/first", *[f"{server.url}/held"] * 3]

    with executor.sync_iter(fetch_all(urls)) as paths:
        assert next(paths) == "/first"
    server.release.set()

    assert server.wait_until_all_closed()


def test_a_time_limit_that_runs_out_in_the_generator_is_its_timeout(
    executor: AsyncLoopExecutor, server: CountingServer
) -> None:
    with pytest.raises(TimeoutError):
        list(executor.sync_iter(fetch_all([f"{server.url}/held"], limit=0.05)))

    server.release.set()
    assert server.wait_until_all_closed()


def test_a_time_limit_that_runs_out_between_two_items_is_seen_at_the_next(
    executor: AsyncLoopExecutor,
) -> None:
    ran_out = threading.Event()

    async def items() -> AsyncIterator[int]:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(None) as limit:
            limit.reschedule(loop.time())
            loop.call_later(0.001, ran_out.set)
            yield 1
            await asyncio.sleep(60)
            yield 2

    iterator = executor.sync_iter(items())
    assert next(iterator) == 1
    assert ran_out.wait(10)
    with pytest.raises(TimeoutError):
        next(iterator)
    with pytest.raises(StopIteration):
        next(iterator)


def test_a_task_that_fails_between_two_items_is_seen_at_the_next(
    executor: AsyncLoopExecutor,
) -> None:
    failed = threading.Event()

    async def fail() -> None:
        asyncio.get_running_loop().call_soon(failed.set)
        raise FailureError

    async def items() -> AsyncIterator[int]:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            yield 1
            await asyncio.sleep(60)
            yield 2

    iterator = executor.sync_iter(items())
    assert next(iterator) == 1
    assert failed.wait(10)
    with pytest.raises(ExceptionGroup) as group:
        next(iterator)
    assert group.group_contains(FailureError)


def test_a_context_manager_holds_a_task_group_open(executor: AsyncLoopExecutor) -> None:
    finished = []

    @asynccontextmanager
    async def background() -> AsyncIterator[asyncio.Queue[int | None]]:
        queue: asyncio.Queue[int | None] = asyncio.Queue()

        async def consume() -> None:
            while (number := await queue.get()) is not None:
                finished.append(number)

        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            group.create_task(consume())
            yield queue
            await queue.put(None)

    with executor.sync_context(background()) as queue:
        for number in range(5):
            executor.run(queue.put(number))

    assert finished == [0, 1, 2, 3, 4]


def test_a_task_group_itself_is_entered_and_left_by_sync_context(
    executor: AsyncLoopExecutor,
) -> None:
    finished = []

    async def work(number: int) -> None:
        await asyncio.sleep(0)
        finished.append(number)

    with executor.sync_context(asyncio.TaskGroup) as group:
        executor.get_loop().call_soon_threadsafe(group.create_task, work(1))
        executor.get_loop().call_soon_threadsafe(group.create_task, work(2))

    assert finished == [1, 2]


def test_a_task_group_cancels_its_tasks_for_an_exception_of_the_caller(
    executor: AsyncLoopExecutor,
) -> None:
    started, cancelled = threading.Event(), threading.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with (
        pytest.raises(ExceptionGroup) as group,
        executor.sync_context(asyncio.TaskGroup) as tasks,
    ):
        executor.get_loop().call_soon_threadsafe(tasks.create_task, work())
        assert started.wait(10)
        raise FailureError

    assert group.group_contains(FailureError)
    assert cancelled.is_set()


def test_the_cancel_scopes_of_anyio_are_held_across_yield(executor: AsyncLoopExecutor) -> None:
    async def items() -> AsyncIterator[int]:
        send, receive = anyio.create_memory_object_stream[int](2)

        async def produce() -> None:
            with send:
                for number in range(10):
                    await send.send(number)

        with receive:
            async with anyio.create_task_group() as group:
                group.start_soon(produce)
                with anyio.fail_after(20):
                    async for number in receive:
                        yield number

    assert list(executor.sync_iter(items())) == list(range(10))
    with executor.sync_iter(items()) as left_early:
        assert next(left_early) == 0


def test_a_context_variable_is_reset_where_it_was_set(executor: AsyncLoopExecutor) -> None:
    user: ContextVar[str] = ContextVar("user", default="nobody")

    async def items() -> AsyncIterator[str]:
        token = user.set("inside")
        try:
            yield user.get()
            yield user.get()
        finally:
            user.reset(token)

    assert list(executor.sync_iter(items())) == ["inside", "inside"]
    with executor.sync_iter(items()) as left_early:
        assert next(left_early) == "inside"
    assert user.get() == "nobody"
