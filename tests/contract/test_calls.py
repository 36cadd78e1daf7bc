"""`calls()`: what is in flight, and where it stands."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import re
import threading
import traceback
import types
import weakref
from typing import TYPE_CHECKING, Any

import pytest

import palitra
from contract.gates import Gate, Held, in_thread
from palitra._stacks import gil_is_enabled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator

    from interpreters import Python
    from palitra import AsyncLoopExecutor, CallInfo


@pytest.fixture
def held() -> Iterator[Held]:
    held = Held()
    yield held
    held.open_all()


def names(stack: traceback.StackSummary) -> list[str]:
    """The functions of this module in a stack, outermost first."""
    return [frame.name for frame in stack if frame.filename == __file__]


def only_call(executor: AsyncLoopExecutor) -> CallInfo:
    [call] = executor.calls()
    return call


def test_before_the_first_call_and_after_the_end_there_are_none(held: Held) -> None:
    executor = palitra.AsyncLoopExecutor()
    before = executor.calls()
    future = executor.submit(held.coroutine)
    held.started.wait()
    executor.shutdown(wait=False)
    while_ending = executor.calls()
    held.release.open()
    future.result()
    executor.shutdown()

    assert (before, len(while_ending), executor.calls()) == ([], 1, [])


def test_a_coroutine_in_flight_is_told_in_full(executor: AsyncLoopExecutor, held: Held) -> None:
    async def waits() -> None:
        await held.coroutine()

    future = executor.submit(waits)
    held.started.wait()
    executor.run(asyncio.sleep(0))  # the loop's next turn: the call waits
    call = only_call(executor)
    held.release.open()
    future.result()

    assert call.name == waits.__qualname__
    assert (call.kind, call.state) == ("submit", "running")
    assert 0 <= call.age < 60
    assert call.thread is not None
    assert call.thread.endswith("_loop")
    assert isinstance(call.stack, traceback.StackSummary)
    assert names(call.stack) == ["waits"]
    assert call.stack[0].line == "await held.coroutine()"
    assert [frame.name for frame in call.stack][:3] == ["waits", "coroutine", "passed"]
    assert executor.calls() == []


def test_a_record_is_frozen_and_not_hashable(executor: AsyncLoopExecutor, held: Held) -> None:
    executor.submit(held.coroutine)
    call = only_call(executor)
    held.release.open()

    assert isinstance(call, palitra.CallInfo)
    with pytest.raises(dataclasses.FrozenInstanceError):
        call.name = "another"  # type: ignore[misc]
    with pytest.raises(TypeError, match="unhashable"):
        hash(call)
    assert not hasattr(call, "__dict__")


def test_the_oldest_is_first(executor: AsyncLoopExecutor, held: Held) -> None:
    def first() -> Any:
        return held.thread()

    async def second() -> None:
        await held.release.passed()

    async def third() -> None:
        await held.release.passed()

    futures = [executor.submit(first)]
    futures.append(executor.submit_service(second))
    futures.append(executor.submit(third))
    calls = executor.calls()
    held.release.open()
    for future in futures:
        future.result()

    assert [call.name.rpartition(".")[2] for call in calls] == ["first", "second", "third"]
    assert [call.kind for call in calls] == ["submit", "service", "submit"]
    assert [call.age for call in calls] == sorted((call.age for call in calls), reverse=True)


def test_a_plain_function_has_the_stack_of_its_thread(
    executor: AsyncLoopExecutor, held: Held
) -> None:
    def outer() -> None:
        inner()

    def inner() -> None:
        held.thread()

    future = executor.submit(outer)
    held.started.wait()
    call = only_call(executor)
    held.release.open()
    future.result()

    assert names(call.stack) == ["outer", "inner"]
    assert call.stack[0].name == "outer"
    assert call.state == "running"
    assert call.thread is not None
    assert call.thread.endswith("_0")


def test_those_that_have_not_started_wait(held: Held, quick_loop: dict[str, Any]) -> None:
    with palitra.AsyncLoopExecutor(max_workers=1, **quick_loop) as executor:
        for body in (held.coroutine, held.thread):
            executor.submit(body)
        held.started.wait()
        executor.submit(held.coroutine)
        executor.submit(held.thread)
        calls = executor.calls()[2:]
        held.release.open()

    assert [(call.state, call.thread, [*call.stack]) for call in calls] == [
        ("waiting", None, []),
        ("waiting", None, []),
    ]


def test_one_at_its_clean_up_is_cancelling(executor: AsyncLoopExecutor, held: Held) -> None:
    future = executor.submit(held.coroutine)
    held.started.wait()
    future.cancel()
    held.cancelled.wait()
    executor.run(asyncio.sleep(0))  # the loop's next turn: the call waits
    call = only_call(executor)
    held.cleanup.open()

    assert call.state == "cancelling"
    assert "passed" in [frame.name for frame in call.stack]


def test_each_kind_has_its_name(executor: AsyncLoopExecutor, held: Held) -> None:
    async def items() -> AsyncIterator[int]:
        await held.release.passed()
        yield 1

    @contextlib.asynccontextmanager
    async def pool() -> AsyncIterator[int]:
        await held.release.passed()
        yield 1

    async def runs() -> None:
        await held.release.passed()

    def enters() -> None:
        with executor.sync_context(pool()):
            pass

    threads = [
        in_thread(lambda: executor.run(runs())),
        in_thread(lambda: executor.gather(runs(), runs())),
        in_thread(lambda: list(executor.sync_iter(items()))),
        in_thread(enters),
    ]
    expected = {
        "run": ["runs"],
        "gather": ["runs"],
        "iterator": ["items"],
        "context": ["pool"],
    }
    while {call.kind: names(call.stack) for call in executor.calls()} != expected:
        assert all(thread.is_alive() for thread in threads)  # some start later than others
    held.release.open()
    for thread in threads:
        thread.join()


# -- chains of awaits --------------------------------------------------------------------------


class Made:
    """Awaitable by a coroutine that another method makes."""

    def __init__(self, wait: Callable[[], Awaitable[None]]) -> None:
        self._wait = wait

    async def innermost(self) -> None:
        await self._wait()

    def __await__(self) -> Generator[Any, None, None]:
        return self.innermost().__await__()


class WithoutFrames:
    """Awaitable without a frame, as what Cython and other compilers make."""

    def __init__(self, wait: Callable[[], Awaitable[None]]) -> None:
        self._wait = wait

    def __await__(self) -> Any:
        return Steps(self._wait().__await__())


class Steps:
    def __init__(self, steps: Any) -> None:
        self._steps = steps

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        return next(self._steps)

    send = None

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"nobody may ask for {name}")


@types.coroutine
def generator(wait: Callable[[], Any]) -> Generator[Any, None, None]:
    yield from wait().__await__()


async def in_generator(wait: Any) -> None:
    await generator(wait)


async def in_made(wait: Any) -> None:
    await Made(wait)


async def without_frames(wait: Any) -> None:
    await WithoutFrames(wait)


async def items(wait: Any) -> AsyncIterator[int]:
    await wait()
    yield 1


async def in_async_for(wait: Any) -> None:
    async for _ in items(wait):
        pass


async def in_anext(wait: Any) -> None:
    await anext(items(wait), None)


async def in_comprehension(wait: Any) -> None:
    assert [item async for item in items(wait)] == [1]


async def in_context(wait: Any) -> None:
    @contextlib.asynccontextmanager
    async def entered() -> AsyncIterator[None]:
        await wait()
        yield

    async with entered():
        pass


async def leaf(wait: Any) -> None:
    await wait()


async def in_gather(wait: Any) -> None:
    await asyncio.gather(leaf(wait), asyncio.sleep(0))


async def in_group(wait: Any) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(leaf(wait))
        group.create_task(leaf(wait))


async def in_task(wait: Any) -> None:
    await asyncio.create_task(leaf(wait))


async def in_wait(wait: Any) -> None:
    await asyncio.wait([asyncio.create_task(leaf(wait))])


async def in_wait_for(wait: Any) -> None:
    await asyncio.wait_for(leaf(wait), 60)


async def in_anyio(wait: Any) -> None:
    anyio = pytest.importorskip("anyio")
    async with anyio.create_task_group() as group:
        group.start_soon(leaf, wait)


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        (in_generator, ["generator"]),
        (in_made, ["innermost"]),
        (without_frames, []),
        (in_async_for, ["items"]),
        (in_anext, ["items"]),
        (in_comprehension, ["items"]),
        (in_context, ["entered"]),
        (in_gather, ["leaf"]),
        (in_group, ["leaf"]),
        (in_task, ["leaf"]),
        (in_wait, ["leaf"]),
        (in_wait_for, ["leaf"]),
        (in_anyio, ["leaf"]),
    ],
)
def test_a_chain_leads_through(
    executor: AsyncLoopExecutor, outer: Callable[..., Any], inner: list[str]
) -> None:
    started, release = Gate(), Gate()

    async def wait() -> None:
        started.open()
        await release.passed()

    future = executor.submit(outer, wait)
    started.wait()
    executor.run(asyncio.sleep(0))  # the loop's next turn: the chain is complete
    executor.run(asyncio.sleep(0))
    found = [name for name in names(only_call(executor).stack) if name != "<listcomp>"]
    release.open()
    future.result()

    expected = [outer.__name__, *inner, *(["wait"] if inner else [])]
    assert found == expected


def test_a_coroutine_that_holds_the_loop_has_its_running_frames(
    executor: AsyncLoopExecutor, held: Held
) -> None:
    async def outer() -> None:
        await inner()

    async def inner() -> None:
        plain()

    def plain() -> None:
        held.thread()

    future = executor.submit(outer)
    held.started.wait()
    call = only_call(executor)
    held.release.open()
    future.result()

    assert names(call.stack) == ["outer", "inner", "plain"]


def test_on_the_loop_itself_a_call_sees_itself(executor: AsyncLoopExecutor) -> None:
    async def looks() -> list[CallInfo]:
        await asyncio.sleep(0)
        return executor.calls()

    [call] = executor.run(looks())

    assert names(call.stack) == ["looks"]


def test_over_the_applications_loop_too() -> None:
    async def main() -> CallInfo:
        async with palitra.AsyncLoopExecutor.from_loop() as executor:
            started, release = Gate(), Gate()

            async def waits() -> None:
                started.open()
                await release.passed()

            future = executor.submit(waits)
            await started.passed()
            call = await asyncio.to_thread(only_call, executor)
            release.open()
            await asyncio.wrap_future(future)
            return call

    call = asyncio.run(main())

    assert names(call.stack) == ["waits"]
    assert call.thread == threading.current_thread().name


def test_nothing_is_raised_while_calls_come_and_go(
    switching: None, quick_loop: dict[str, Any]
) -> None:
    # On free-threaded builds each look waits for the loop.
    snapshots = 10_000 if gil_is_enabled() else 500
    over = threading.Event()

    async def brief() -> None:
        await asyncio.gather(asyncio.sleep(0.001), asyncio.sleep(0))

    def come_and_go() -> None:
        while not over.is_set():
            futures = [executor.submit(brief) for _ in range(5)]
            futures.append(executor.submit(threading.get_ident))
            executor.run(brief())
            for future in futures:
                future.result()

    with palitra.AsyncLoopExecutor(**quick_loop) as executor:
        thread = in_thread(come_and_go)
        seen = 0
        try:
            while snapshots > 0:
                assert thread.is_alive()
                calls = executor.calls()
                snapshots -= bool(calls)
                for call in calls:
                    seen += bool(call.stack)
                    assert call.name
                    assert call.state in {"waiting", "running", "cancelling"}
        finally:
            over.set()
            thread.join()

    assert seen


def test_a_look_keeps_nothing_alive(executor: AsyncLoopExecutor, held: Held) -> None:
    class Value:
        pass

    async def waits(value: Value) -> None:
        await held.release.passed()

    value = Value()
    gone = weakref.ref(value)
    future = executor.submit(waits, value)
    del value
    while not (calls := executor.calls())[0].stack:
        pass
    held.release.open()
    future.result()
    del future
    gc.collect()

    assert gone() is None
    assert calls[0].stack


# -- the same words elsewhere ------------------------------------------------------------------


def test_a_shutdown_that_takes_too_long_says_the_same(
    quick_loop: dict[str, Any], held: Held
) -> None:
    async def waits() -> None:
        await held.coroutine()

    with palitra.AsyncLoopExecutor(**quick_loop) as executor:
        executor.submit(waits)
        held.started.wait()
        executor.run(asyncio.sleep(0))  # the loop's next turn: the call waits
        with pytest.raises(palitra.CallTimeoutError) as caught:
            executor.shutdown(timeout=0.01)
        held.release.open()

    name = re.escape(waits.__qualname__)
    assert re.search(
        rf"waiting for {name} \(submit, running for \d\.\d s\), at \S+:\d+ in Gate\.passed$",
        str(caught.value),
    )


def test_the_line_at_exit_says_the_same(python: Python) -> None:
    child = python.start(
        """
        import asyncio
        import palitra

        async def waits():
            await asyncio.sleep(60)

        executor = palitra.AsyncLoopExecutor(exit_timeout=0.1)
        executor.submit(waits)
        executor.run(asyncio.sleep(0))

        async def ignores():
            while True:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    pass

        executor.submit(ignores)
        executor.run(asyncio.sleep(0))
        """
    )
    end = child.finish()

    assert end.returncode == 0
    assert re.search(
        r"left behind at exit: ignores \(submit, cancelling for \d\.\d s\), "
        r"at \S+program_0\.py:\d+ in ignores$",
        end.stderr.strip(),
    )
