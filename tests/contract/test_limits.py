"""`max_workers`: what it bounds, in which order, and what it does not count."""

from __future__ import annotations

import asyncio
import inspect
import os
import random
import threading
import time
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

import pytest

from contract.gates import PATIENCE, Gate, Held, fail_with, value_of
from lifetimes import on_demand
from palitra import AsyncLoopExecutor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def held() -> Iterator[Held]:
    held = Held()
    yield held
    held.open_all()


@pytest.fixture
def single(loop_flavour: dict[str, Any]) -> Iterator[AsyncLoopExecutor]:
    """One coroutine and one worker thread at a time."""
    with AsyncLoopExecutor(max_workers=1, **loop_flavour) as executor:
        yield executor


def settle(executor: AsyncLoopExecutor) -> None:
    """Give the loop every chance to start what it may start."""
    for _ in range(3):
        executor.run(value_of(None))


class Crowd:
    """Calls that count how many of them are in flight."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.present = 0
        self.most = 0

    def enter(self) -> None:
        with self.lock:
            self.present += 1
            self.most = max(self.most, self.present)

    def leave(self) -> None:
        with self.lock:
            self.present -= 1

    async def coroutine(self, steps: int) -> None:
        self.enter()
        for _ in range(steps):
            await asyncio.sleep(0)
        self.leave()

    def thread(self, steps: int) -> None:
        self.enter()
        for _ in range(steps):
            os.sched_yield()
        self.leave()


@pytest.mark.parametrize("kind", ["coroutine", "thread"])
@pytest.mark.parametrize("bound", [1, 3])
def test_no_more_than_max_workers_are_in_flight(
    loop_flavour: dict[str, Any], kind: str, bound: int
) -> None:
    randoms = random.Random(bound)
    crowd = Crowd()
    with AsyncLoopExecutor(bound, **loop_flavour) as executor:
        body = getattr(crowd, kind)
        wait([executor.submit(body, randoms.randrange(5)) for _ in range(200)], PATIENCE)

    assert 1 <= crowd.most <= bound
    assert crowd.present == 0


@pytest.mark.parametrize("as_object", [False, True])
def test_max_workers_coroutines_are_in_flight_and_the_next_waits_for_one_to_end(
    loop_flavour: dict[str, Any], as_object: bool
) -> None:
    calls = [Held() for _ in range(5)]
    with AsyncLoopExecutor(max_workers=3, **loop_flavour) as executor:
        for call in calls:
            if as_object:
                executor.submit(call.coroutine())
            else:
                executor.submit(call.coroutine)
        for call in calls[:3]:
            call.started.wait()
        settle(executor)
        assert not calls[3].started.is_open

        calls[1].release.open()
        calls[3].started.wait()
        settle(executor)
        assert not calls[4].started.is_open

        for call in calls:
            call.open_all()


def test_max_workers_threads_are_in_use_and_the_next_call_waits(
    loop_flavour: dict[str, Any],
) -> None:
    calls = [Held() for _ in range(4)]
    with AsyncLoopExecutor(max_workers=2, **loop_flavour) as executor:
        futures = [executor.submit(call.thread) for call in calls]
        for call in calls[:2]:
            call.started.wait()
        settle(executor)
        assert [future.running() for future in futures] == [True, True, False, False]

        calls[0].release.open()
        calls[2].started.wait()
        assert not calls[3].started.is_open

        for call in calls:
            call.open_all()


def test_map_is_bounded_as_submit_is(loop_flavour: dict[str, Any]) -> None:
    crowd = Crowd()
    with AsyncLoopExecutor(max_workers=2, **loop_flavour) as executor:
        list(executor.map(crowd.coroutine, [3] * 50))

    assert crowd.most == 2


@pytest.mark.parametrize("bound", [1, 2])
@pytest.mark.parametrize("kind", ["coroutine", "thread"])
def test_first_come_first_served(loop_flavour: dict[str, Any], bound: int, kind: str) -> None:
    order: list[int] = []

    async def coroutine(number: int) -> None:
        order.append(number)
        await asyncio.sleep(0)

    def thread(number: int) -> None:
        order.append(number)

    first = Held()
    with AsyncLoopExecutor(bound, **loop_flavour) as executor:
        for _ in range(bound):
            executor.submit(getattr(first, kind))
        first.started.wait()
        futures = [
            executor.submit(coroutine if kind == "coroutine" else thread, number)
            for number in range(50)
        ]
        first.open_all()
        wait(futures, PATIENCE)

    if kind == "thread" and bound > 1:
        order.sort()  # two threads may note their numbers in either order
    assert order == list(range(50))


def test_a_late_call_does_not_overtake_those_that_wait(
    single: AsyncLoopExecutor, held: Held
) -> None:
    """A slot that is free again belongs to the first in the queue, also between two steps."""
    order: list[str] = []
    futures: list[Future[Any]] = []

    async def note(name: str) -> None:
        order.append(name)

    async def submits_late() -> None:
        held.started.open()
        await held.release.passed()
        futures.append(single.submit(note, "late"))

    single.submit(submits_late)
    held.started.wait()
    futures += [single.submit(note, "early"), single.submit(note, "next")]
    held.release.open()
    settle(single)
    wait(futures, PATIENCE)

    assert order == ["early", "next", "late"]


# Cancelled while waiting


@pytest.mark.parametrize("kind", ["coroutine", "thread"])
def test_a_waiting_call_is_cancelled_at_once_and_never_starts(
    single: AsyncLoopExecutor, held: Held, kind: str
) -> None:
    single.submit(getattr(held, kind))
    held.started.wait()
    second, third = Held(), Held()
    cancelled = single.submit(getattr(second, kind))
    following = single.submit(getattr(third, kind), 7)
    told = Gate()
    cancelled.add_done_callback(told.open)

    assert cancelled.cancel()
    assert cancelled.done()
    assert told.is_open
    assert wait([cancelled], PATIENCE).done == {cancelled}

    for call in (held, third):
        call.open_all()
    assert following.result(PATIENCE) == 7
    assert not second.started.is_open


def test_a_waiting_coroutine_object_that_is_cancelled_is_closed(
    single: AsyncLoopExecutor, held: Held
) -> None:
    single.submit(held.coroutine)
    held.started.wait()
    coro = value_of(1)
    single.submit(coro).cancel()
    held.open_all()
    settle(single)
    single.submit(value_of, 2).result(PATIENCE)

    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED


def test_cancelled_calls_do_not_change_the_order_of_the_others(single: AsyncLoopExecutor) -> None:
    first = Held()
    order: list[int] = []

    async def note(number: int) -> None:
        order.append(number)

    single.submit(first.coroutine)
    first.started.wait()
    futures = [single.submit(note, number) for number in range(20)]
    for future in futures[::3]:
        future.cancel()
    first.open_all()
    wait(futures, PATIENCE)

    assert order == [number for number in range(20) if number % 3]


def test_many_cancelled_calls_take_no_place(single: AsyncLoopExecutor, held: Held) -> None:
    single.submit(held.coroutine)
    held.started.wait()
    for _ in range(5000):
        single.submit(value_of, None).cancel()
    last = single.submit(value_of, 7)
    held.open_all()

    assert last.result(PATIENCE) == 7


def test_a_cancelled_call_in_flight_keeps_its_place_until_its_cleanup_is_done(
    single: AsyncLoopExecutor, held: Held
) -> None:
    first = single.submit(held.coroutine)
    second = Held()
    following = single.submit(second.coroutine, 7)
    held.started.wait()
    first.cancel()
    held.cancelled.wait()
    settle(single)

    assert not second.started.is_open
    held.cleanup.open()
    second.open_all()
    assert following.result(PATIENCE) == 7


# Whatever ends a call frees its place


class Unusual(BaseException):
    pass


@pytest.mark.parametrize("kind", [ValueError, SystemExit, Unusual, asyncio.CancelledError])
def test_a_failed_call_gives_its_place_away(
    single: AsyncLoopExecutor, kind: type[BaseException]
) -> None:
    error = kind("failed")

    async def fails_at_once() -> None:
        raise error

    def fails_in_a_thread() -> None:
        raise error

    for _ in range(3):
        single.submit(fails_at_once)
        single.submit(fail_with, error)
        single.submit(fail_with(error))
        single.submit(fails_in_a_thread)

    assert single.submit(value_of, 7).result(PATIENCE) == 7
    assert single.submit(len, "a").result(PATIENCE) == 1


def test_a_coroutine_object_that_cannot_run_gives_its_place_away(
    single: AsyncLoopExecutor,
) -> None:
    used = value_of(1)
    single.submit(used).result(PATIENCE)
    for _ in range(3):
        with pytest.raises(RuntimeError):
            single.submit(used).result(PATIENCE)

    assert single.submit(value_of, 7).result(PATIENCE) == 7


def test_a_call_with_wrong_arguments_gives_its_place_away(single: AsyncLoopExecutor) -> None:
    submit: Any = single.submit
    for _ in range(3):
        with pytest.raises(TypeError):
            submit(value_of, 1, 2, 3).result(PATIENCE)

    assert single.submit(value_of, 7).result(PATIENCE) == 7


def test_a_task_factory_that_fails_gives_the_place_away(single: AsyncLoopExecutor) -> None:
    loop = single.get_loop()

    def fails(*args: Any, **kwargs: Any) -> Any:
        raise ValueError("no task today")

    async def set_factory() -> None:
        loop.set_task_factory(fails)

    single.run(set_factory())
    try:
        for coro in [value_of(1) for _ in range(3)]:
            with pytest.raises(ValueError, match="no task today"):
                single.submit(coro).result(PATIENCE)
            assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED
            with pytest.raises(ValueError, match="no task today"):
                single.submit(value_of, 1).result(PATIENCE)
            with pytest.raises(ValueError, match="no task today"):
                single.run(value_of(1))
    finally:
        reset = Gate()
        loop.call_soon_threadsafe(loop.set_task_factory, None)
        loop.call_soon_threadsafe(reset.open)
        reset.wait()

    assert single.submit(value_of, 7).result(PATIENCE) == 7


# Separate bounds


def test_a_coroutine_takes_no_worker_thread(single: AsyncLoopExecutor, held: Held) -> None:
    single.submit(held.coroutine)
    held.started.wait()

    assert single.submit(len, "a").result(PATIENCE) == 1


def test_a_worker_thread_takes_no_coroutines_place(single: AsyncLoopExecutor, held: Held) -> None:
    single.submit(held.thread)
    held.started.wait()

    assert single.submit(value_of, 7).result(PATIENCE) == 7


def test_a_worker_thread_may_wait_for_a_coroutine(single: AsyncLoopExecutor) -> None:
    def waits() -> Any:
        return single.submit(value_of, 7).result(PATIENCE)

    assert single.submit(waits).result(PATIENCE) == 7


def test_awaitables_that_threads_return_do_not_exhaust_the_places(
    single: AsyncLoopExecutor,
) -> None:
    futures = [single.submit(lambda n=n: value_of(n)) for n in range(10)]

    assert [future.result(PATIENCE) for future in futures] == list(range(10))


# Not counted


def test_run_and_gather_are_not_counted(single: AsyncLoopExecutor, held: Held) -> None:
    single.submit(held.coroutine)
    single.submit(value_of, None)
    held.started.wait()

    assert single.run(value_of(7), timeout=PATIENCE) == 7
    assert single.gather(value_of(7), value_of(8), timeout=PATIENCE) == [7, 8]


def test_run_takes_no_place_from_others(single: AsyncLoopExecutor, held: Held) -> None:
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(single.run, held.coroutine(7))
        held.started.wait()

        assert single.submit(value_of, 8).result(PATIENCE) == 8
        held.open_all()
        assert running.result(PATIENCE) == 7


def test_worker_threads_that_run_coroutines_of_their_own_executor_do_not_starve(
    single: AsyncLoopExecutor,
) -> None:
    futures = [single.submit(lambda n=n: single.run(value_of(n))) for n in range(10)]

    assert [future.result(PATIENCE) for future in futures] == list(range(10))


# No bound


def test_without_max_workers_any_number_of_coroutines_is_in_flight(
    executor: AsyncLoopExecutor,
) -> None:
    everybody = Gate()
    present = 0

    async def meet(number: int) -> int:
        nonlocal present
        present += 1
        if present == 1000:
            everybody.open()
        await everybody.passed()
        return number

    futures = [executor.submit(meet, number) for number in range(1000)]

    assert [future.result(PATIENCE) for future in futures] == list(range(1000))


def test_without_max_workers_there_are_as_many_threads_as_in_a_thread_pool(
    executor: AsyncLoopExecutor,
) -> None:
    with ThreadPoolExecutor() as pool:
        assert executor._max_workers == pool._max_workers


def test_max_workers_says_how_many_threads_there_may_be(single: AsyncLoopExecutor) -> None:
    assert single._max_workers == 1


@pytest.mark.parametrize("max_workers", [0, -1])
def test_max_workers_is_at_least_one(max_workers: int) -> None:
    with pytest.raises(ValueError, match="max_workers must be greater than 0"):
        AsyncLoopExecutor(max_workers=max_workers)


# Threads


def test_an_idle_thread_is_used_again(executor: AsyncLoopExecutor) -> None:
    threads = set()
    for _ in range(5):
        threads.add(executor.submit(threading.get_ident).result(PATIENCE))
        while not executor._service.workers._idle:  # it gives the result first
            time.sleep(0.001)

    assert len(threads) == 1


def test_threads_start_as_calls_need_them() -> None:
    calls = [Held() for _ in range(3)]
    with AsyncLoopExecutor(max_workers=3, thread_name_prefix="grow") as executor:
        for number, call in enumerate(calls):
            executor.submit(call.thread)
            call.started.wait()

            names = {t.name for t in threading.enumerate() if t.name.startswith("grow")}
            assert {*on_demand(names)} == {"grow_loop", *(f"grow_{n}" for n in range(number + 1))}

        for call in calls:
            call.open_all()


def test_each_call_runs_in_one_of_at_most_max_workers_threads(
    loop_flavour: dict[str, Any],
) -> None:
    with AsyncLoopExecutor(max_workers=3, **loop_flavour) as executor:
        futures = [executor.submit(threading.get_ident) for _ in range(300)]

        assert len({future.result(PATIENCE) for future in futures}) <= 3


# Everybody at once


@pytest.mark.parametrize("cancel", [lambda n: n % 3 == 0, lambda n: n % 2 == 0])
def test_a_crowd_of_submitters_and_cancellers_keeps_the_bound(
    loop_flavour: dict[str, Any], cancel: Callable[[int], bool]
) -> None:
    crowd = Crowd()
    futures: list[Future[None]] = []
    with (
        AsyncLoopExecutor(max_workers=4, **loop_flavour) as executor,
        ThreadPoolExecutor(4) as pool,
    ):

        def submits(start: int) -> None:
            for number in range(start, start + 100):
                future = executor.submit(crowd.coroutine, number % 4)
                futures.append(future)
                if cancel(number):
                    future.cancel()

        list(pool.map(submits, range(0, 400, 100)))
        wait(futures, PATIENCE)

        # The bound holds; what was cancelled between enter and leave never left.
        assert executor.submit(value_of, 7).result(PATIENCE) == 7

    assert all(future.done() for future in futures)
    for future in futures:
        try:
            future.result()
        except CancelledError:
            pass
