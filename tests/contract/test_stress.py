"""Many threads, random cancels, a shutdown in the middle: every call settles.

`PALITRA_STRESS=5` makes each test five times as long: 8 threads with 5,000 calls each.
A failing run prints its seed; `PALITRA_SEED` repeats it.
"""

from __future__ import annotations

import asyncio
import functools
import os
import random
import threading
from collections import Counter
from concurrent.futures import BrokenExecutor, CancelledError, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

import pytest

from contract.gates import Gate, in_thread
from contract.mortal import Mortal, dead_loops_leave_coroutines
from palitra import AsyncLoopExecutor

if TYPE_CHECKING:
    pass

LENGTH = int(os.environ.get("PALITRA_STRESS", "1"))
THREADS = 8
CALLS = 1000 * LENGTH
PATIENCE = 60.0 * LENGTH

pytestmark = pytest.mark.timeout(30 + 60 * LENGTH)


@pytest.fixture
def seed() -> int:
    seed = int(os.environ.get("PALITRA_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)
    print(f"PALITRA_SEED={seed}")
    return seed


class Failure(Exception):
    pass


async def at_once(number: int) -> int:
    return number


async def in_steps(number: int) -> int:
    for _ in range(number % 4):
        await asyncio.sleep(0)
    return number


async def fails(number: int) -> int:
    await asyncio.sleep(0)
    raise Failure(number)


async def cleans_up(number: int) -> int:
    try:
        await asyncio.sleep(0.001)
    finally:
        await asyncio.sleep(0)
    return number


async def shields(number: int) -> int:
    try:
        await asyncio.sleep(0.001)
    except asyncio.CancelledError:
        pass
    return number


def in_worker(number: int) -> int:
    return number


def returns_awaitable(number: int) -> Any:
    return in_steps(number)


COROUTINES = [at_once, in_steps, fails, cleans_up, shields]
CALLABLES = [*COROUTINES, at_once, in_steps, in_worker, returns_awaitable]
# None of these awaits in a cleanup, which nothing can do when its loop has died.
BRIEF = [at_once, in_steps, fails, shields, in_worker, returns_awaitable]


def expect_shutdown(error: RuntimeError) -> None:
    """The one reason for which a call may be refused here."""
    if str(error) != "cannot schedule new futures after shutdown":
        raise error


class Storm:
    """Submits from one thread, cancels at random, and remembers every future."""

    def __init__(self, executor: AsyncLoopExecutor, seed: int) -> None:
        self.executor = executor
        self.randoms = random.Random(seed)
        self.futures: list[tuple[int, Future[Any]]] = []
        self.told: list[int] = []  # appended to from other threads, which is atomic
        self.refused = 0

    def __call__(self) -> None:
        randoms = self.randoms
        for number in range(CALLS):
            try:
                if randoms.random() < 0.2:
                    future = self.executor.submit(randoms.choice(COROUTINES)(number))
                else:
                    future = self.executor.submit(randoms.choice(CALLABLES), number)
            except RuntimeError as error:
                expect_shutdown(error)
                self.refused += 1
                continue
            self.futures.append((number, future))
            future.add_done_callback(functools.partial(self.tell, number))
            chance = randoms.random()
            if chance < 0.2:
                future.cancel()
            elif chance < 0.3:
                randoms.choice(self.futures)[1].cancel()

    def tell(self, number: int, _: Future[Any]) -> None:
        self.told.append(number)

    def assert_all_settled(self) -> Counter[str]:
        assert wait([future for _, future in self.futures], PATIENCE).not_done == set()
        assert len(self.futures) + self.refused == CALLS
        assert sorted(self.told) == [number for number, _ in self.futures]
        return Counter(self.outcome(number, future) for number, future in self.futures)

    @staticmethod
    def outcome(number: int, future: Future[Any]) -> str:
        assert future.done()
        assert not future.running()
        try:
            assert future.result(0) == number
        except CancelledError:
            assert future.cancelled()
            return "cancelled"
        except Failure as error:
            return "failed" if error.args == (number,) else "mixed up"
        assert not future.cancelled()
        return "returned"


@pytest.mark.parametrize("max_workers", [None, 3])
def test_every_future_settles_whatever_is_cancelled(
    quick_loop: dict[str, Any], max_workers: int | None, seed: int, switching: None
) -> None:
    with AsyncLoopExecutor(max_workers, **quick_loop) as executor:
        storms = [Storm(executor, seed + n) for n in range(THREADS)]
        threads = [in_thread(storm) for storm in storms]
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
    outcomes = sum((storm.assert_all_settled() for storm in storms), Counter[str]())

    assert sum(outcomes.values()) == THREADS * CALLS
    assert set(outcomes) == {"returned", "failed", "cancelled"}


@pytest.mark.parametrize("cancel_futures", [False, True])
@pytest.mark.parametrize("max_workers", [None, 3])
def test_every_accepted_future_settles_when_shutdown_comes_in_the_middle(
    quick_loop: dict[str, Any],
    max_workers: int | None,
    cancel_futures: bool,
    seed: int,
    switching: None,
) -> None:
    executor = AsyncLoopExecutor(max_workers, **quick_loop)
    storms = [Storm(executor, seed + n) for n in range(THREADS)]
    threads = [in_thread(storm) for storm in storms]
    middle = random.Random(seed).randrange(CALLS)
    # The moment is that of a call, not of a clock: slow machines stop in the middle, too.
    while threads[0].is_alive() and len(storms[0].futures) < middle:
        threads[0].join(0.001)
    executor.shutdown(cancel_futures=cancel_futures)

    settled = [future.done() for storm in storms for _, future in list(storm.futures)]
    assert all(settled)
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    for storm in storms:
        storm.assert_all_settled()


def test_run_and_gather_end_when_shutdown_comes_in_the_middle(
    quick_loop: dict[str, Any], seed: int, switching: None
) -> None:
    for number in range(10 * LENGTH):
        executor = AsyncLoopExecutor(**quick_loop)
        limit = random.Random(seed + number).randrange(1, 300)
        enough = Gate()
        served = Counter[str]()

        def calls(
            executor: Any = executor,
            enough: Any = enough,
            served: Any = served,
            limit: int = limit,
        ) -> None:
            while True:
                try:
                    assert executor.run(in_steps(3)) == 3
                    served.update(["run"])
                    assert executor.gather(in_steps(1), at_once(2)) == [1, 2]
                    if served.total() > limit:
                        enough.open()
                except RuntimeError as error:
                    expect_shutdown(error)
                    return

        with ThreadPoolExecutor(THREADS) as pool:
            callers = [pool.submit(calls) for _ in range(THREADS)]
            enough.wait()
            executor.shutdown()
            for caller in callers:
                caller.result(PATIENCE)


def test_short_lives_with_many_users_always_end(
    quick_loop: dict[str, Any], seed: int, switching: None
) -> None:
    """First use, submission and shutdown all at the same moment."""
    for number in range(40 * LENGTH):
        executor = AsyncLoopExecutor(2, **quick_loop)
        together = threading.Barrier(4)
        futures: list[Future[Any]] = []

        def submits(
            kind: int, executor: Any = executor, together: Any = together, futures: Any = futures
        ) -> None:
            together.wait(PATIENCE)
            try:
                for n in range(10):
                    futures.append(executor.submit(CALLABLES[(kind + n) % len(CALLABLES)], n))
            except RuntimeError as error:
                expect_shutdown(error)

        with ThreadPoolExecutor(4) as pool:
            users = [pool.submit(submits, kind + number) for kind in range(3)]
            together.wait(PATIENCE)
            executor.shutdown(cancel_futures=bool(number % 2))
            for user in users:
                user.result(PATIENCE)

        assert all(future.done() for future in futures)


@dead_loops_leave_coroutines
def test_every_future_settles_when_the_loop_dies_in_the_middle(
    graveyard: None, seed: int, switching: None
) -> None:
    for number in range(10 * LENGTH):
        executor = AsyncLoopExecutor(3 if number % 2 else None, loop_factory=Mortal)
        loop = executor.get_loop()
        futures: list[Future[Any]] = []
        enough = Gate()

        def submits(executor: Any = executor, futures: Any = futures, enough: Any = enough) -> None:
            randoms = random.Random(seed)
            while True:
                try:
                    future = executor.submit(randoms.choice(BRIEF), 1)
                except BrokenExecutor:
                    return
                futures.append(future)
                if randoms.random() < 0.1:
                    future.cancel()
                if len(futures) > 200:
                    enough.open()

        with ThreadPoolExecutor(3) as pool:
            users = [pool.submit(submits) for _ in range(3)]
            enough.wait()
            loop.call_soon_threadsafe(loop.stop)
            for user in users:
                user.result(PATIENCE)

        assert wait(futures, PATIENCE).not_done == set()
        executor.shutdown()
