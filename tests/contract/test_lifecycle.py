"""Start, shutdown in every form and order, and executors that break."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import threading
import time
import tracemalloc
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ThreadPoolExecutor,
    wait,
)
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from contract.gates import PATIENCE, Gate, Held, fail_with, in_thread, value_of
from contract.mortal import Closes, Mortal, dead_loops_leave_coroutines
from lifetimes import FREE_THREADED, on_demand
from palitra import AsyncLoopExecutor, DeadlockError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

AFTER_SHUTDOWN = "^cannot schedule new futures after shutdown$"


@pytest.fixture
def held() -> Iterator[Held]:
    held = Held()
    yield held
    held.open_all()


@pytest.fixture
def made(loop_flavour: dict[str, Any]) -> Iterator[Callable[..., AsyncLoopExecutor]]:
    """Makes executors that the test shuts down itself, if it gets that far."""
    executors = []

    def make(**options: Any) -> AsyncLoopExecutor:
        executor = AsyncLoopExecutor(**{**loop_flavour, **options})
        executors.append(executor)
        return executor

    yield make
    for executor in executors:
        executor.shutdown(wait=False, cancel_futures=True)


def futures() -> int:
    """How many futures there are."""
    return sum(issubclass(type(each), Future) for each in gc.get_objects())


def threads_named(prefix: str) -> set[threading.Thread]:
    return {t for t in threading.enumerate() if t.name.startswith(prefix)}


# Start


def test_an_unused_executor_has_no_thread(made: Any) -> None:
    made(thread_name_prefix="unused")

    assert threads_named("unused") == set()


FIRST_USES: dict[str, Callable[[AsyncLoopExecutor], Any]] = {
    "submit": lambda executor: executor.submit(value_of, 7).result(PATIENCE),
    "submit plain": lambda executor: executor.submit(int, 7).result(PATIENCE),
    "map": lambda executor: list(executor.map(value_of, [7])),
    "run": lambda executor: executor.run(value_of(7)),
    "gather": lambda executor: executor.gather(value_of(7)),
    "get_loop": lambda executor: executor.get_loop(),
    "sync": lambda executor: executor.sync(value_of)(7),
}


@pytest.mark.parametrize("use", FIRST_USES.values(), ids=FIRST_USES)
def test_the_loops_thread_starts_on_first_use(made: Any, use: Any) -> None:
    executor = made(thread_name_prefix="first")
    use(executor)

    assert "first_loop" in {thread.name for thread in threads_named("first")}
    executor.shutdown()
    assert threads_named("first") == set()


def test_there_is_one_loop_and_one_thread(executor: AsyncLoopExecutor) -> None:
    async def look() -> tuple[Any, int]:
        return asyncio.get_running_loop(), threading.get_ident()

    seen = {executor.run(look()), executor.submit(look).result(), *executor.gather(look(), look())}

    assert len(seen) == 1
    assert seen.pop()[0] is executor.get_loop()
    assert executor.get_loop().is_running()


def test_many_threads_may_use_it_first_at_the_same_moment(made: Any) -> None:
    for number in range(20):
        executor = made(thread_name_prefix=f"race{number}")
        together = threading.Barrier(8)

        def first_use(executor: Any = executor, together: Any = together) -> Any:
            together.wait(PATIENCE)
            return executor.run(value_of(executor.get_loop()))

        with ThreadPoolExecutor(8) as pool:
            loops = [pool.submit(first_use) for _ in range(8)]

        assert {future.result(PATIENCE) for future in loops} == {executor.get_loop()}
        while len(threads_named(f"race{number}_loop")) > 1:
            time.sleep(0)  # a thread that came too late just ends
        executor.shutdown()


def test_the_loop_takes_calls_from_asyncio_itself(executor: AsyncLoopExecutor) -> None:
    future = asyncio.run_coroutine_threadsafe(value_of(7), executor.get_loop())

    assert future.result(PATIENCE) == 7


def test_get_loop_works_on_the_loops_own_thread(executor: AsyncLoopExecutor) -> None:
    async def look() -> bool:
        return executor.get_loop() is asyncio.get_running_loop()

    assert executor.run(look())


def test_code_that_builds_executors_can_build_this_one() -> None:
    seen: list[int] = []
    for cls in (ThreadPoolExecutor, AsyncLoopExecutor):
        with cls(2, "prefix", seen.append, (1,)) as executor:
            assert isinstance(executor, Executor)
            assert executor.submit(len, "ab").result(PATIENCE) == 2
    assert set(seen) == {1}


def test_threads_are_named_after_the_class_by_default() -> None:
    before = threads_named("AsyncLoopExecutor-")
    with AsyncLoopExecutor() as one, AsyncLoopExecutor() as other:
        for executor in (one, other):
            executor.submit(len, "").result(PATIENCE)
        names = on_demand(t.name for t in threads_named("AsyncLoopExecutor-") - before)

    assert len(names) == 4
    prefixes = {name.rpartition("_")[0] for name in names}
    assert len(prefixes) == 2
    assert {name.rpartition("_")[2] for name in names} == {"loop", "0"}


def test_loop_factory_makes_the_loop() -> None:
    class Special(asyncio.SelectorEventLoop):
        pass

    with AsyncLoopExecutor(loop_factory=Special) as executor:
        assert type(executor.get_loop()) is Special


class WithoutReaders(asyncio.SelectorEventLoop):
    def add_reader(self, *_: object) -> NoReturn:
        raise NotImplementedError  # as Windows' proactor loop does


@pytest.mark.parametrize("through", ["an eventfd", "a pipe", "asyncio"])
def test_the_loop_is_woken_through_whatever_there_is(
    through: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if through == "a pipe":
        monkeypatch.delattr(os, "eventfd", raising=False)
    factory = WithoutReaders if through == "asyncio" else None
    with AsyncLoopExecutor(loop_factory=factory) as executor:
        assert [executor.run(value_of(x)) for x in range(9)] == [*range(9)]
        callers = [threading.Thread(target=executor.run, args=(value_of(x),)) for x in range(8)]
        for caller in callers:
            caller.start()
        futures = [executor.submit(value_of, x) for x in range(1000)]
        assert sum(future.result() for future in futures) == 499_500
        for caller in callers:
            caller.join()


def test_a_wake_up_that_comes_late_reaches_no_foreign_file(tmp_path: Path) -> None:
    executor = AsyncLoopExecutor()
    executor.run(value_of(None))
    rings = executor._service.inbox._rings  # somebody is just about to ask it
    executor.shutdown()

    files = [(tmp_path / str(number)).open("wb", buffering=0) for number in range(10)]
    next(rings)

    for file in files:
        file.close()
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {b""}


@pytest.mark.parametrize("debug", [True, False])
def test_debug_sets_the_loops_debug_mode(debug: bool) -> None:
    with AsyncLoopExecutor(debug=debug) as executor:
        assert executor.get_loop().get_debug() is debug


def test_an_instance_may_be_given_attributes(executor: AsyncLoopExecutor) -> None:
    executor.name = "mine"  # type: ignore[attr-defined]

    assert executor.name == "mine"  # type: ignore[attr-defined]


# Shutdown


def test_nothing_is_accepted_after_shutdown(executor: AsyncLoopExecutor) -> None:
    executor.run(value_of(None))
    executor.shutdown()

    for fn in (value_of, len):
        with pytest.raises(RuntimeError, match=AFTER_SHUTDOWN):
            executor.submit(fn, "a")
    with pytest.raises(RuntimeError, match=AFTER_SHUTDOWN):
        executor.run(value_of(1))
    with pytest.raises(RuntimeError, match=AFTER_SHUTDOWN):
        executor.gather(value_of(1))
    with pytest.raises(RuntimeError, match=AFTER_SHUTDOWN):
        executor.get_loop()


def test_an_unused_executor_can_be_shut_down_and_takes_nothing_more(made: Any) -> None:
    executor = made(thread_name_prefix="unused")
    executor.shutdown()

    with pytest.raises(RuntimeError, match=AFTER_SHUTDOWN):
        executor.submit(value_of, 7)
    with pytest.raises(RuntimeError, match=AFTER_SHUTDOWN):
        executor.submit(len, "")
    assert threads_named("unused") == set()


def test_shutdown_may_be_called_again_in_every_form(executor: AsyncLoopExecutor) -> None:
    executor.run(value_of(None))
    for _ in range(2):
        for wanted in (True, False):
            for cancel in (True, False):
                executor.shutdown(wait=wanted, cancel_futures=cancel)


def test_many_threads_may_shut_it_down_at_once(made: Any, held: Held) -> None:
    executor = made(thread_name_prefix="many")
    future = executor.submit(held.coroutine, 7)
    held.started.wait()
    with ThreadPoolExecutor(8) as pool:
        shutdowns = [pool.submit(executor.shutdown) for _ in range(8)]
        assert wait(shutdowns, timeout=0.05).done == set()
        held.open_all()
        assert wait(shutdowns, PATIENCE).not_done == set()

    assert [done.exception() for done in shutdowns] == [None] * 8
    assert future.result() == 7
    assert threads_named("many") == set()


def test_leaving_the_with_block_shuts_down(made: Any) -> None:
    executor = made()
    with executor as entered:
        assert entered is executor
        future = executor.submit(value_of, 7)

    assert future.done()
    with pytest.raises(RuntimeError, match=AFTER_SHUTDOWN):
        executor.submit(len, "")


def test_leaving_the_with_block_by_an_error_finishes_the_calls(made: Any) -> None:
    with pytest.raises(ValueError, match="in the block"), made() as executor:
        future = executor.submit(value_of, 7)
        raise ValueError("in the block")

    assert future.result(0) == 7


def test_shutdown_waits_for_every_accepted_call(made: Any) -> None:
    executor = made(max_workers=1)
    calls = [Held() for _ in range(4)]
    futures = [
        executor.submit(calls[0].coroutine, 0),
        executor.submit(calls[1].coroutine, 1),  # waits for its place
        executor.submit(calls[2].thread, 2),
        executor.submit(calls[3].thread, 3),  # waits for a thread
    ]
    calls[0].started.wait()
    calls[2].started.wait()
    shutdown = in_thread(executor.shutdown)
    refused(executor)

    for call in calls:
        assert shutdown.is_alive()
        call.open_all()
        call.ended.wait()
    shutdown.join(PATIENCE)

    assert not shutdown.is_alive()
    assert [future.result(0) for future in futures] == [0, 1, 2, 3]


def refused(executor: AsyncLoopExecutor) -> None:
    """Return when a shutdown under way in another thread has stopped the acceptance."""
    while True:
        try:
            executor.submit(len, "").cancel()
        except RuntimeError:
            return


def test_shutdown_waits_for_run_and_gather_in_other_threads(made: Any) -> None:
    executor = made()
    one, two = Held(), Held()
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(executor.run, one.coroutine(7))
        gathering = pool.submit(executor.gather, two.coroutine(8), value_of(9))
        one.started.wait()
        two.started.wait()
        shutdown = in_thread(executor.shutdown)
        refused(executor)
        for call in (one, two):
            assert shutdown.is_alive()
            call.open_all()
            call.ended.wait()
        shutdown.join(PATIENCE)

        assert not shutdown.is_alive()
        assert running.result(PATIENCE) == 7
        assert gathering.result(PATIENCE) == [8, 9]


def test_shutdown_without_wait_returns_at_once_and_the_rest_happens_behind(
    made: Any, held: Held
) -> None:
    executor = made(thread_name_prefix="behind")
    coroutine = executor.submit(held.coroutine, 7)
    threaded = executor.submit(held.thread, 8)
    held.started.wait()
    loop = executor.get_loop()

    executor.shutdown(wait=False)

    assert not coroutine.done()
    refused(executor)
    held.open_all()
    assert coroutine.result(PATIENCE) == 7
    assert threaded.result(PATIENCE) == 8
    for thread in threads_named("behind"):
        thread.join(PATIENCE)
    assert loop.is_closed()


def test_shutdown_may_wait_for_an_earlier_one_that_did_not(made: Any, held: Held) -> None:
    executor = made(thread_name_prefix="later")
    future = executor.submit(held.coroutine, 7)
    held.started.wait()
    executor.shutdown(wait=False)
    waits = in_thread(executor.shutdown)
    waits.join(0.05)
    assert waits.is_alive()

    held.open_all()
    waits.join(PATIENCE)
    assert future.result(0) == 7
    assert threads_named("later") == set()


def test_cancel_futures_cancels_everything_unfinished_and_waits_for_cleanup(made: Any) -> None:
    executor = made(max_workers=1)
    in_flight, threaded = Held(), Held()
    cleaned = Gate()

    async def cleans_up() -> None:
        in_flight.started.open()
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(10):
                await asyncio.sleep(0)
            cleaned.open()

    coroutine = executor.submit(cleans_up)
    waiting = executor.submit(value_of, 7)
    in_thread_now = executor.submit(threaded.thread, 8)
    in_queue = executor.submit(len, "")
    in_flight.started.wait()
    threaded.started.wait()

    shutdown = in_thread(lambda: executor.shutdown(cancel_futures=True))
    assert wait([coroutine, waiting, in_queue], PATIENCE).not_done == set()
    assert shutdown.is_alive()
    threaded.open_all()
    shutdown.join(PATIENCE)

    assert cleaned.is_open
    assert [f.cancelled() for f in (coroutine, waiting, in_queue)] == [True, True, True]
    assert in_thread_now.result(0) == 8


def test_cancel_futures_starts_nothing_in_the_place_of_what_it_cancels(
    made: Any, held: Held
) -> None:
    executor = made(max_workers=1)
    held.cleanup.open()
    started: list[int] = []

    async def starts(number: int) -> None:
        started.append(number)

    executor.submit(held.coroutine)
    held.started.wait()
    # So many that the first is gone long before the last is cancelled.
    futures = [executor.submit(starts, number) for number in range(2000)]
    executor.shutdown(cancel_futures=True)

    assert started == []
    assert all(future.cancelled() for future in futures)


def test_cancel_futures_also_cancels_run_and_gather(made: Any) -> None:
    executor = made()
    one, two = Held(), Held()
    for call in (one, two):
        call.cleanup.open()
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(executor.run, one.coroutine())
        gathering = pool.submit(executor.gather, two.coroutine())
        one.started.wait()
        two.started.wait()
        executor.shutdown(cancel_futures=True)

        for future in (running, gathering):
            with pytest.raises((asyncio.CancelledError, CancelledError)):
                future.result(PATIENCE)
    assert one.ended.is_open
    assert two.ended.is_open


def test_a_later_shutdown_may_cancel_what_an_earlier_one_waits_for(made: Any, held: Held) -> None:
    executor = made()
    future = executor.submit(held.coroutine)
    held.started.wait()
    patient = in_thread(executor.shutdown)
    refused(executor)
    held.cleanup.open()

    executor.shutdown(cancel_futures=True)
    patient.join(PATIENCE)

    assert not patient.is_alive()
    assert future.cancelled()


def test_cancel_futures_without_wait(made: Any, held: Held) -> None:
    executor = made(thread_name_prefix="both")
    future = executor.submit(held.coroutine)
    held.started.wait()

    executor.shutdown(wait=False, cancel_futures=True)
    held.cancelled.wait()
    assert future.running()
    held.cleanup.open()

    with pytest.raises(CancelledError):
        future.result(PATIENCE)


def test_a_call_that_refuses_to_be_cancelled_is_waited_for(made: Any) -> None:
    executor = made()
    started, go = Gate(), Gate()

    async def stubborn() -> int:
        started.open()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await go.passed()
        return 7

    future = executor.submit(stubborn)
    started.wait()
    shutdown = in_thread(lambda: executor.shutdown(cancel_futures=True))
    refused(executor)
    go.open()
    shutdown.join(PATIENCE)

    assert future.result(0) == 7


def test_a_call_accepted_before_cannot_submit_more_during_shutdown(made: Any, held: Held) -> None:
    executor = made()
    errors: list[str] = []

    async def submits_late() -> None:
        await held.coroutine()
        try:
            executor.submit(value_of, 1)
        except RuntimeError as error:
            errors.append(str(error))

    def runs_late() -> None:
        held.thread()
        try:
            executor.run(value_of(1))
        except RuntimeError as error:
            errors.append(str(error))

    executor.submit(submits_late)
    executor.submit(runs_late)
    held.started.wait()
    shutdown = in_thread(executor.shutdown)
    refused(executor)
    held.open_all()
    shutdown.join(PATIENCE)

    assert errors == ["cannot schedule new futures after shutdown"] * 2


# Shutdown from the executor's own threads


@pytest.mark.parametrize("cancel_futures", [False, True])
def test_waiting_for_shutdown_on_the_loops_thread_is_a_deadlock_and_changes_nothing(
    executor: AsyncLoopExecutor, held: Held, cancel_futures: bool
) -> None:
    bystander = executor.submit(held.coroutine, 8)

    async def shuts_down() -> None:
        executor.shutdown(cancel_futures=cancel_futures)

    with pytest.raises(DeadlockError):
        executor.run(shuts_down())

    assert executor.submit(value_of, 7).result(PATIENCE) == 7
    held.open_all()
    assert bystander.result(PATIENCE) == 8


@pytest.mark.parametrize("cancel_futures", [False, True])
def test_waiting_for_shutdown_in_a_worker_thread_is_a_deadlock_and_changes_nothing(
    executor: AsyncLoopExecutor, held: Held, cancel_futures: bool
) -> None:
    bystander = executor.submit(held.coroutine, 8)
    future = executor.submit(lambda: executor.shutdown(cancel_futures=cancel_futures))

    assert isinstance(future.exception(PATIENCE), DeadlockError)
    assert executor.submit(value_of, 7).result(PATIENCE) == 7
    held.open_all()
    assert bystander.result(PATIENCE) == 8


def test_the_loops_thread_may_shut_down_without_waiting(made: Any) -> None:
    executor = made(thread_name_prefix="own")
    threads = list[threading.Thread]()

    async def shuts_down() -> int:
        threads.append(threading.current_thread())
        executor.shutdown(wait=False)
        await asyncio.sleep(0)
        return 7

    assert executor.submit(shuts_down).result(PATIENCE) == 7
    threads[0].join(PATIENCE)
    assert not threads[0].is_alive()


def test_the_loops_thread_may_cancel_everything_itself_included(made: Any) -> None:
    executor = made()

    async def shuts_down() -> None:
        executor.shutdown(wait=False, cancel_futures=True)
        await asyncio.Event().wait()

    with pytest.raises(CancelledError):
        executor.submit(shuts_down).result(PATIENCE)
    executor.shutdown()


def test_a_worker_thread_may_shut_down_without_waiting(made: Any) -> None:
    executor = made()

    def shuts_down() -> int:
        executor.shutdown(wait=False)
        return 7

    assert executor.submit(shuts_down).result(PATIENCE) == 7
    executor.shutdown()


# The order of the end


def test_contexts_are_left_after_the_calls_and_before_stray_tasks(made: Any, held: Held) -> None:
    executor = made()
    events: list[str] = []

    @asynccontextmanager
    async def entered(name: str) -> AsyncIterator[None]:
        yield
        events.append(name)

    async def stray() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            events.append("stray task")

    async def call() -> None:
        tasks.append(asyncio.create_task(stray()))
        await held.coroutine()
        events.append("call")

    tasks: list[Any] = []
    executor.enter_context(entered("first in"))
    executor.enter_context(entered("last in"))
    executor.submit(call)
    held.started.wait()
    shutdown = in_thread(executor.shutdown)
    refused(executor)
    assert events == []
    held.open_all()
    shutdown.join(PATIENCE)

    assert events == ["call", "last in", "first in", "stray task"]


def test_stray_tasks_are_cancelled_and_their_cleanup_awaited(made: Any) -> None:
    executor = made()
    cleaned = Gate()
    tasks = []

    async def stray() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(10):
                await asyncio.sleep(0)
            cleaned.open()

    async def starts() -> None:
        tasks.append(asyncio.create_task(stray()))
        await asyncio.sleep(0)

    executor.run(starts())
    executor.shutdown()

    assert cleaned.is_open
    assert tasks[0].cancelled()


def test_a_stray_task_that_fails_in_its_cleanup_is_reported(
    made: Any, caplog: pytest.LogCaptureFixture
) -> None:
    executor = made()
    tasks = []

    async def stray() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("stray cleanup")

    async def starts() -> None:
        tasks.append(asyncio.create_task(stray()))
        await asyncio.sleep(0)

    executor.run(starts())
    executor.shutdown()

    assert "stray cleanup" in caplog.text


def test_async_generators_left_open_are_closed(made: Any) -> None:
    executor = made()
    closed = Gate()
    kept = []

    async def generates() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            closed.open()

    async def takes_one() -> int:
        generator = generates()
        kept.append(generator)
        return await anext(generator)

    assert executor.run(takes_one()) == 1
    executor.shutdown()

    assert closed.is_open


def test_the_loops_own_thread_pool_is_shut_down(made: Any) -> None:
    executor = made()
    threads: list[threading.Thread] = []

    executor.run(asyncio.to_thread(lambda: threads.append(threading.current_thread())))
    executor.shutdown()

    threads[0].join(PATIENCE)
    assert not threads[0].is_alive()


def test_the_loop_is_closed_and_all_threads_have_ended(made: Any) -> None:
    executor = made(thread_name_prefix="ended")
    wait([executor.submit(len, "") for _ in range(10)], PATIENCE)
    loop = executor.get_loop()

    executor.shutdown()

    assert loop.is_closed()
    assert threads_named("ended") == set()


# Broken from the start


class NoLoop(Exception):
    pass


def no_loop() -> asyncio.AbstractEventLoop:
    raise NoLoop("no loop today")


class NoInit(Exception):
    pass


def no_init() -> None:
    raise NoInit("no initialisation today")


BROKEN: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "loop_factory": ({"loop_factory": no_loop}, NoLoop),
    "initializer": ({"initializer": no_init}, NoInit),
}
broken = pytest.mark.parametrize(("options", "cause"), BROKEN.values(), ids=BROKEN)


async def endless() -> AsyncIterator[int]:
    while True:
        yield 1


@asynccontextmanager
async def nothing() -> AsyncIterator[None]:
    yield


USES: dict[str, Callable[[AsyncLoopExecutor], Any]] = {
    **FIRST_USES,
    "sync_iter": lambda executor: list(executor.sync_iter(endless)),
    "enter_context": lambda executor: executor.enter_context(nothing),
}


@broken
@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_failing_start_reaches_the_caller_each_time(
    options: dict[str, Any], cause: type[Exception], use: Any
) -> None:
    executor = AsyncLoopExecutor(thread_name_prefix="broken", **options)
    for _ in range(3):
        with pytest.raises(BrokenExecutor) as caught:
            use(executor)
        assert isinstance(caught.value.__cause__, cause)
    executor.shutdown()

    assert threads_named("broken") == set()


@broken
def test_a_failing_start_reaches_every_caller_at_once(
    options: dict[str, Any], cause: type[Exception]
) -> None:
    for _ in range(10):
        executor = AsyncLoopExecutor(**options)
        together = threading.Barrier(8)

        def first_use(executor: Any = executor, together: Any = together) -> Any:
            together.wait(PATIENCE)
            return executor.run(value_of(7))

        with ThreadPoolExecutor(8) as pool:
            uses = [pool.submit(first_use) for _ in range(8)]
        for use in uses:
            assert isinstance(use.exception(PATIENCE), BrokenExecutor)
        executor.shutdown()


@broken
def test_a_broken_executor_can_be_shut_down_in_every_form(
    options: dict[str, Any], cause: type[Exception]
) -> None:
    for wanted in (True, False):
        for cancel in (True, False):
            executor = AsyncLoopExecutor(**options)
            with pytest.raises(BrokenExecutor):
                executor.run(value_of(7))
            executor.shutdown(wait=wanted, cancel_futures=cancel)


@broken
def test_a_broken_executor_says_so(options: dict[str, Any], cause: type[Exception]) -> None:
    executor = AsyncLoopExecutor(**options)
    assert not executor._broken
    with pytest.raises(BrokenExecutor):
        executor.run(value_of(7))

    assert executor._broken


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("option", ["loop_factory", "initializer"])
def test_any_exception_at_the_start_reaches_the_caller(
    kind: type[BaseException], option: str
) -> None:
    error = kind("at the start")

    def fails() -> Any:
        raise error

    options: dict[str, Any] = {option: fails}
    executor = AsyncLoopExecutor(**options)
    with pytest.raises(BrokenExecutor) as caught:
        executor.submit(value_of, 7).result(PATIENCE)

    assert caught.value.__cause__ is error
    executor.shutdown()


@pytest.mark.parametrize("made_loop", [None, object()])
def test_a_loop_factory_that_makes_no_loop_breaks_the_executor(made_loop: Any) -> None:
    executor = AsyncLoopExecutor(loop_factory=lambda: made_loop)
    with pytest.raises(BrokenExecutor):
        executor.run(value_of(7))
    executor.shutdown()


def test_a_failing_initializer_is_logged_as_in_a_thread_pool(
    caplog: pytest.LogCaptureFixture,
) -> None:
    executor = AsyncLoopExecutor(initializer=no_init)
    with pytest.raises(BrokenExecutor):
        executor.run(value_of(7))
    executor.shutdown()

    critical = [r for r in caplog.records if r.levelno == logging.CRITICAL]
    assert [record.name for record in critical] == ["concurrent.futures"]
    assert critical[0].exc_info is not None
    assert isinstance(critical[0].exc_info[1], NoInit)


def test_jobs_fail_whose_threads_initializer_fails_during_a_shutdown(made: Any) -> None:
    gate = Gate()

    def initialize() -> None:
        if not threading.current_thread().name.endswith("_loop"):
            gate.wait()
            raise NoInit

    executor = made(initializer=initialize)
    assert executor.run(value_of(1)) == 1
    futures = [executor.submit(int, 7) for _ in range(3)]
    executor.shutdown(wait=False)
    gate.open()
    executor.shutdown(timeout=PATIENCE)

    assert [type(future.exception(0)) for future in futures] == [BrokenExecutor] * 3


def test_jobs_fail_whose_threads_initializer_fails_as_a_borrowed_executor_ends() -> None:
    gate = threading.Event()

    def initialize() -> None:
        gate.wait(PATIENCE)
        raise NoInit

    async def main() -> Future[int]:
        async with AsyncLoopExecutor.from_loop(initializer=initialize) as executor:
            future = executor.submit(int, 7)
            asyncio.get_running_loop().call_later(0.05, gate.set)
        return future

    assert isinstance(asyncio.run(asyncio.wait_for(main(), PATIENCE)).exception(0), BrokenExecutor)


def test_an_initializer_must_be_callable() -> None:
    with pytest.raises(TypeError, match="initializer must be a callable"):
        AsyncLoopExecutor(initializer=7)  # type: ignore[arg-type]


def test_the_initializer_runs_on_the_loops_thread_and_in_each_worker_thread(
    loop_flavour: dict[str, Any],
) -> None:
    names: list[str] = []

    def initialise(*args: int) -> None:
        assert args == (1, 2)
        names.append(threading.current_thread().name)

    with AsyncLoopExecutor(2, "init", initialise, (1, 2), **loop_flavour) as executor:
        executor.run(value_of(None))
        assert names == ["init_loop"]
        calls = [Held(), Held()]
        for call in calls:
            executor.submit(call.thread)
            call.started.wait()
        assert names == ["init_loop", "init_0", "init_1"]
        for call in calls:
            call.open_all()


def test_what_the_initializer_sets_for_its_thread_is_there_in_the_calls() -> None:
    local = threading.local()

    def initialise() -> None:
        local.value = 7

    async def on_the_loop() -> int:
        return int(local.value)

    with AsyncLoopExecutor(initializer=initialise) as executor:
        assert executor.run(on_the_loop()) == 7
        assert executor.submit(lambda: local.value).result(PATIENCE) == 7


def test_an_initializer_that_fails_in_a_worker_thread_breaks_the_executor() -> None:
    def fails_in_workers() -> None:
        if not threading.current_thread().name.endswith("_loop"):
            raise NoInit

    executor = AsyncLoopExecutor(2, initializer=fails_in_workers)
    assert executor.run(value_of(7)) == 7
    futures = []
    for _ in range(3):
        try:
            futures.append(executor.submit(len, ""))
        except BrokenExecutor:
            break

    assert futures
    for future in futures:
        with pytest.raises(BrokenExecutor):
            future.result(PATIENCE)
    with pytest.raises(BrokenExecutor) as caught:
        executor.submit(len, "")
    assert isinstance(caught.value.__cause__, NoInit)
    executor.shutdown()


# Loops that user code breaks


def test_a_coroutine_that_stops_the_loop_gets_its_result_and_the_next_call_works(
    executor: AsyncLoopExecutor, held: Held
) -> None:
    bystander = executor.submit(held.coroutine, 8)
    held.started.wait()

    async def stops() -> int:
        asyncio.get_running_loop().stop()
        return 7

    async def stops_and_goes_on() -> int:
        asyncio.get_running_loop().stop()
        for _ in range(10):
            await asyncio.sleep(0)
        return 7

    assert executor.run(stops()) == 7
    assert executor.submit(stops).result(PATIENCE) == 7
    assert executor.submit(stops_and_goes_on).result(PATIENCE) == 7
    assert executor.run(value_of(1), timeout=PATIENCE) == 1
    held.open_all()
    assert bystander.result(PATIENCE) == 8


def test_a_loop_stopped_from_outside_goes_on(executor: AsyncLoopExecutor, held: Held) -> None:
    bystander = executor.submit(held.coroutine, 8)
    held.started.wait()
    loop = executor.get_loop()
    for _ in range(5):
        loop.call_soon_threadsafe(loop.stop)

        assert executor.run(value_of(1), timeout=PATIENCE) == 1
    held.open_all()
    assert bystander.result(PATIENCE) == 8


def test_a_stopped_loop_still_shuts_down_in_order(made: Any, held: Held) -> None:
    executor = made()
    loop = executor.get_loop()
    future = executor.submit(held.coroutine, 7)
    held.started.wait()
    shutdown = in_thread(executor.shutdown)
    refused(executor)
    for _ in range(3):
        loop.call_soon_threadsafe(loop.stop)
    held.open_all()
    shutdown.join(PATIENCE)

    assert not shutdown.is_alive()
    assert future.result(0) == 7


def test_closing_the_running_loop_is_refused_and_hurts_nobody(
    executor: AsyncLoopExecutor,
) -> None:
    async def closes() -> None:
        asyncio.get_running_loop().close()

    with pytest.raises(RuntimeError):
        executor.run(closes())
    assert executor.run(value_of(7)) == 7


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_a_task_of_the_users_own_that_wants_to_exit_hurts_nobody(
    executor: AsyncLoopExecutor, held: Held, kind: type[BaseException]
) -> None:
    error = kind("of the user")
    bystander = executor.submit(held.coroutine, 8)
    held.started.wait()
    tasks = []

    async def starts() -> None:
        tasks.append(asyncio.create_task(fail_with(error)))

    executor.run(starts())
    for _ in range(3):
        assert executor.run(value_of(7), timeout=PATIENCE) == 7

    held.open_all()
    assert bystander.result(PATIENCE) == 8
    assert tasks[0].exception() is error


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_a_callback_of_the_loop_that_wants_to_exit_hurts_nobody(
    executor: AsyncLoopExecutor, held: Held, kind: type[BaseException]
) -> None:
    error = kind("of the user")
    bystander = executor.submit(held.coroutine, 8)
    held.started.wait()

    def leaves() -> None:
        raise error

    executor.get_loop().call_soon_threadsafe(leaves)
    for _ in range(3):
        assert executor.run(value_of(7), timeout=PATIENCE) == 7

    held.open_all()
    assert bystander.result(PATIENCE) == 8


def test_a_task_that_wants_to_exit_during_shutdown_does_not_hang_it(made: Any) -> None:
    executor = made()
    tasks = []

    async def stray() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise SystemExit(3)

    async def starts() -> None:
        tasks.append(asyncio.create_task(stray()))
        await asyncio.sleep(0)

    executor.run(starts())
    loop = executor.get_loop()
    executor.shutdown()

    assert loop.is_closed()


def test_a_loop_that_is_blocked_for_a_while_settles_everything_later(
    executor: AsyncLoopExecutor,
) -> None:
    gate, entered = Gate(), Gate()

    async def blocks() -> int:
        entered.open()
        gate.wait()
        return 7

    blocking = executor.submit(blocks)
    entered.wait()
    others = [executor.submit(value_of, n) for n in range(100)]
    threaded = executor.submit(len, "ab")

    assert threaded.result(PATIENCE) == 2
    assert wait(others, timeout=0).done == set()
    gate.open()
    assert blocking.result(PATIENCE) == 7
    assert [future.result(PATIENCE) for future in others] == list(range(100))


@dead_loops_leave_coroutines
@pytest.mark.parametrize("loop_factory", [Mortal, Closes])
def test_when_the_loop_dies_outstanding_calls_fail_and_the_next_is_refused(
    graveyard: None, loop_factory: Any, held: Held
) -> None:
    executor = AsyncLoopExecutor(
        max_workers=1, thread_name_prefix="mortal", loop_factory=loop_factory
    )
    in_flight = executor.submit(held.coroutine)
    waiting = executor.submit(value_of, 7)
    threaded = Held()
    in_worker = executor.submit(threaded.thread, 8)
    queued = executor.submit(len, "")
    held.started.wait()
    threaded.started.wait()
    one = Held()
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(executor.run, one.coroutine())
        gathering = pool.submit(executor.gather, held.coroutine(), held.coroutine())
        one.started.wait()
        loop = executor.get_loop()

        loop.call_soon_threadsafe(loop.stop)

        for future in (in_flight, waiting, running, gathering):
            assert isinstance(future.exception(PATIENCE), BrokenExecutor), future
    threaded.open_all()
    for future in (in_worker, queued):
        assert isinstance(future.exception(PATIENCE), BrokenExecutor | None), future

    for use in USES.values():
        with pytest.raises(BrokenExecutor):
            use(executor)
    assert executor._broken
    executor.shutdown()
    assert threads_named("mortal") == set()


@dead_loops_leave_coroutines
def test_a_loop_that_dies_during_shutdown_does_not_hang_it(graveyard: None, held: Held) -> None:
    executor = AsyncLoopExecutor(loop_factory=Mortal)
    future = executor.submit(held.coroutine)
    held.started.wait()
    loop = executor.get_loop()
    shutdown = in_thread(executor.shutdown)
    refused(executor)

    loop.call_soon_threadsafe(loop.stop)
    shutdown.join(PATIENCE)

    assert not shutdown.is_alive()
    assert isinstance(future.exception(0), BrokenExecutor)


# Nothing is left over


def descriptors() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors in /proc")
def test_two_hundred_lives_leave_no_thread_descriptor_or_memory(
    loop_flavour: dict[str, Any],
) -> None:
    def live() -> None:
        with AsyncLoopExecutor(thread_name_prefix="life", **loop_flavour) as executor:
            assert executor.submit(value_of, 7).result(PATIENCE) == 7
            assert executor.submit(len, "ab").result(PATIENCE) == 2
            assert executor.run(value_of(7)) == 7
            assert list(executor.map(value_of, range(3))) == [0, 1, 2]

    def lives(count: int) -> tuple[int, int]:
        for _ in range(count):
            live()
        gc.collect()
        return descriptors(), tracemalloc.get_traced_memory()[0]

    threads = threading.active_count()
    tracemalloc.start()
    try:
        lives(50)  # fills caches
        descriptors_before, memory_before = lives(50)
        descriptors_after, memory_after = lives(150)
        if FREE_THREADED:
            # There, memory that is given back is counted until all threads have gone on.
            for _ in range(20):
                if memory_after - memory_before >= 20_000:
                    descriptors_after, memory_after = lives(1)
    finally:
        tracemalloc.stop()

    assert threading.active_count() == threads
    assert descriptors_after == descriptors_before
    assert memory_after - memory_before < 20_000


def test_a_hundred_lives_without_wait_end_as_well(loop_flavour: dict[str, Any]) -> None:
    futures: list[Future[Any]] = []
    for number in range(100):
        executor = AsyncLoopExecutor(thread_name_prefix="brief", **loop_flavour)
        futures.append(executor.submit(value_of, number))
        executor.shutdown(wait=False)

    assert [future.result(PATIENCE) for future in futures] == list(range(100))
    for thread in threads_named("brief"):
        thread.join(PATIENCE)
    assert threads_named("brief") == set()


def test_shutdown_with_wait_is_what_concurrent_futures_expects() -> None:
    with AsyncLoopExecutor() as executor:
        assert executor.__exit__(None, None, None) is False


@pytest.mark.parametrize("begun", [False, True], ids=["never begun", "begun"])
def test_an_ended_executor_keeps_nothing_of_the_calls_that_it_refuses(
    made: Any, begun: bool
) -> None:
    executor = made()
    if begun:
        executor.run(value_of(1))
    executor.shutdown()
    gc.collect()
    before = futures()
    for fn in (value_of, int):
        with pytest.raises(RuntimeError, match=AFTER_SHUTDOWN):
            executor.submit(fn, 7)
    gc.collect()

    assert futures() == before


def test_an_error_that_cannot_be_shown_breaks_the_executor_as_any_other() -> None:
    class Unshown(Exception):
        def __str__(self) -> str:
            raise RuntimeError("not today")

        __repr__ = __str__

    def fails() -> None:
        raise Unshown

    executor = AsyncLoopExecutor(initializer=fails)
    logging.disable(logging.CRITICAL)
    try:
        with pytest.raises(BrokenExecutor, match="Unshown") as caught:
            executor.run(value_of(7))
    finally:
        logging.disable(logging.NOTSET)
    assert isinstance(caught.value.__cause__, Unshown)
    executor.shutdown()
