"""asyncio itself as the consumer: what its loops take and refuse, and the line that works."""

from __future__ import annotations

import asyncio
import functools
import threading
from typing import Any

import pytest
import uvloop

from palitra import AsyncLoopExecutor


async def where() -> str:
    return threading.current_thread().name


def where_in_a_thread() -> str:
    return threading.current_thread().name


async def double(number: int) -> int:
    return number * 2


LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def test_run_in_executor_awaits_a_coroutine_function_on_the_loop_of_the_executor(
    executor: AsyncLoopExecutor,
) -> None:
    function: Any = double  # type checkers know `run_in_executor` for plain functions only

    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        return [await loop.run_in_executor(executor, function, number) for number in range(10)]

    assert asyncio.run(main(), debug=False) == [number * 2 for number in range(10)]


@pytest.mark.parametrize("flavour", LOOPS)
def test_run_in_executor_calls_a_plain_function_in_a_worker_thread(
    flavour: str, executor: AsyncLoopExecutor
) -> None:
    async def main() -> str:
        return await asyncio.get_running_loop().run_in_executor(executor, where_in_a_thread)

    with asyncio.Runner(loop_factory=LOOPS[flavour]) as runner:
        name = runner.run(main())

    assert not name.endswith("_loop")
    assert name != threading.current_thread().name


@pytest.mark.parametrize("flavour", LOOPS)
def test_wrap_future_awaits_a_call_from_another_loop(
    flavour: str, executor: AsyncLoopExecutor
) -> None:
    async def main() -> list[int]:
        futures = [asyncio.wrap_future(executor.submit(double, number)) for number in range(100)]
        results: list[int] = await asyncio.gather(*futures)
        return results

    with asyncio.Runner(loop_factory=LOOPS[flavour], debug=True) as runner:
        assert runner.run(main()) == [number * 2 for number in range(100)]


def test_wrap_future_hands_over_the_exception(executor: AsyncLoopExecutor) -> None:
    async def fail() -> None:
        raise LookupError

    async def main() -> None:
        with pytest.raises(LookupError):
            await asyncio.wrap_future(executor.submit(fail))

    asyncio.run(main())


def test_cancelling_the_wrapped_future_cancels_the_coroutine(executor: AsyncLoopExecutor) -> None:
    started = threading.Event()
    cleaned_up = threading.Event()

    async def wait_for_ever() -> None:
        try:
            started.set()
            await asyncio.Event().wait()
        finally:
            cleaned_up.set()

    async def main() -> None:
        call = executor.submit(wait_for_ever)
        async with asyncio.timeout(10):
            await asyncio.to_thread(started.wait)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await asyncio.wrap_future(call)

    asyncio.run(main())

    assert cleaned_up.wait(10)


def test_a_coroutine_function_is_refused_by_run_in_executor_in_debug_mode(
    executor: AsyncLoopExecutor,
) -> None:
    async def main() -> str:
        loop = asyncio.get_running_loop()
        with pytest.raises(TypeError, match=r"coroutines cannot be used with run_in_executor"):
            loop.run_in_executor(executor, where)
        # The line that works in every mode, on every loop.
        return await asyncio.wrap_future(executor.submit(where))

    assert asyncio.run(main(), debug=True).endswith("_loop")


def test_a_coroutine_function_is_refused_by_run_in_executor_of_uvloop(
    executor: AsyncLoopExecutor,
) -> None:
    async def main() -> str:
        loop = asyncio.get_running_loop()
        with pytest.raises(TypeError, match=r"coroutines cannot be used with run_in_executor"):
            loop.run_in_executor(executor, where)
        with pytest.raises(TypeError, match=r"coroutines cannot be used with run_in_executor"):
            loop.run_in_executor(executor, functools.partial(where))
        return await asyncio.wrap_future(executor.submit(where))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(main()).endswith("_loop")


@pytest.mark.parametrize("flavour", LOOPS)
def test_run_in_executor_takes_a_sync_function_in_every_mode(
    flavour: str, executor: AsyncLoopExecutor
) -> None:
    async def main() -> str:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(executor, executor.sync(where))

    with asyncio.Runner(loop_factory=LOOPS[flavour], debug=True) as runner:
        assert runner.run(main()).endswith("_loop")


def test_the_loop_of_asyncio_refuses_the_executor_as_its_default_one(
    executor: AsyncLoopExecutor,
) -> None:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        with pytest.raises(TypeError, match=r"must be ThreadPoolExecutor"):
            loop.set_default_executor(executor)
        # The line that works: the executor is named in each call.
        return await loop.run_in_executor(executor, len, "abc")

    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        assert runner.run(main()) == 3


def test_the_loop_of_uvloop_takes_the_executor_as_its_default_one() -> None:
    executor = AsyncLoopExecutor(thread_name_prefix="default")

    async def main() -> str:
        asyncio.get_running_loop().set_default_executor(executor)
        return await asyncio.to_thread(where_in_a_thread)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(main()) == "default_0"

    # A loop shuts its default executor down when it ends.
    with pytest.raises(RuntimeError, match=r"after shutdown"):
        executor.submit(where)


def test_to_thread_inside_a_coroutine_uses_the_threads_of_its_loop(
    executor: AsyncLoopExecutor,
) -> None:
    async def hop() -> str:
        return await asyncio.to_thread(where_in_a_thread)

    assert not executor.run(hop()).endswith("_loop")
