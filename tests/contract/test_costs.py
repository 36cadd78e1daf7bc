"""What a call costs, counted: figures that no other load of the machine can bend.

The loop's selector is the witness. Each turn of the loop asks it once, and each wake-up waits in
one of the descriptors it watches: as one more in an eventfd, or as a byte in a socket.
"""

from __future__ import annotations

import asyncio
import gc
import selectors
import sys
import threading
from concurrent.futures import wait
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lifetimes import FREE_THREADED
from palitra import AsyncLoopExecutor, _waiting
from palitra._waiting import Looks, locked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

if sys.platform == "win32":
    pytest.skip("counts bytes in sockets as Unix does", allow_module_level=True)
else:
    import fcntl
    import termios

CALLS = 1000
# Before 3.12 asyncio starts each task in a turn of its own, and tells of its end in another.
FOR_THE_TASK = 0 if sys.version_info >= (3, 12) else 2


class Witness(selectors.DefaultSelector):
    """Counts the loop's turns, and knows when it is asleep."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = 0
        self.asleep = threading.Event()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.turns += 1
        if timeout is None:
            self.asleep.set()
        try:
            return super().select(timeout)
        finally:
            self.asleep.clear()

    def wake_ups_waiting(self) -> int:
        """What was sent to wake the loop and that it has not read yet."""
        return sum(unread(key.fd) for key in self.get_map().values())

    def turns_of(self, work: Callable[[], object]) -> int:
        """Turns of the loop from one sleep to the next, with *work* in between."""
        assert self.asleep.wait(10)
        before = self.turns
        work()
        assert self.asleep.wait(10)
        return self.turns - before


def unread(fd: int) -> int:
    """The count in an eventfd, or the bytes in a socket."""
    if sys.platform == "linux":
        for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines():
            if line.startswith("eventfd-count:"):
                return int(line.split()[1], base=16)
    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)


class Held:
    """While entered, the loop's thread stands still inside a coroutine."""

    def __init__(self, executor: AsyncLoopExecutor) -> None:
        self._executor = executor
        self._standing = threading.Event()
        self._go_on = threading.Event()

    async def _stand(self) -> None:
        await asyncio.sleep(0)  # out of the turn that took the call in
        self._standing.set()
        self._go_on.wait()

    def __enter__(self) -> None:
        self._call = self._executor.submit(self._stand)
        assert self._standing.wait(10)

    def __exit__(self, *exc_info: object) -> None:
        self._go_on.set()
        self._call.result()


@pytest.fixture
def witness() -> Witness:
    return Witness()


@pytest.fixture
def executor(witness: Witness) -> Iterator[AsyncLoopExecutor]:
    with AsyncLoopExecutor(
        loop_factory=lambda: asyncio.SelectorEventLoop(witness), debug=False
    ) as executor:
        executor.get_loop()
        yield executor


async def trivial(item: object = None) -> object:
    return item


async def suspending_once() -> None:
    await asyncio.sleep(0)


def burst(executor: AsyncLoopExecutor, body: Callable[[], Any]) -> None:
    """Many calls, handed over while the loop stands still."""
    done = threading.Event()
    with Held(executor):
        futures = [executor.submit(body) for _ in range(CALLS)]
        futures.append(executor.submit(signalling, trivial, done))
    # Not on the futures: who waits for those holds their locks for moments, and the loop goes on
    # with other calls meanwhile.
    assert done.wait(10)
    wait(futures)


async def signalling(body: Callable[[], Any], done: threading.Event) -> None:
    await body()
    done.set()


def test_a_burst_of_calls_wakes_the_loop_once(
    executor: AsyncLoopExecutor, witness: Witness
) -> None:
    with Held(executor):
        before = witness.wake_ups_waiting()
        futures = [executor.submit(trivial) for _ in range(CALLS)]
        assert witness.wake_ups_waiting() - before == 1
    wait(futures)


def test_threads_that_call_while_the_loop_is_busy_wake_it_once_between_them(
    executor: AsyncLoopExecutor, witness: Witness
) -> None:
    handed_over = threading.Barrier(9)

    def call() -> None:
        future = executor.submit(trivial)
        handed_over.wait()
        future.result()

    threads = [threading.Thread(target=call) for _ in range(8)]
    with Held(executor):
        before = witness.wake_ups_waiting()
        for thread in threads:
            thread.start()
        handed_over.wait()
        # Callers in the very same instant may each find that nobody has woken the loop yet.
        assert 1 <= witness.wake_ups_waiting() - before <= 8
        woken = witness.wake_ups_waiting()
        later = executor.submit(trivial)
        assert witness.wake_ups_waiting() == woken
    later.result()
    for thread in threads:
        thread.join()


def test_a_burst_takes_far_fewer_turns_of_the_loop_than_calls(
    executor: AsyncLoopExecutor, witness: Witness
) -> None:
    assert witness.turns_of(lambda: burst(executor, trivial)) <= CALLS / 20


def test_a_burst_does_not_keep_the_loops_other_callbacks_waiting_for_its_end(
    executor: AsyncLoopExecutor,
) -> None:
    order: list[str] = []

    async def call() -> None:
        if not order:
            asyncio.get_running_loop().call_soon(order.append, "other")
        order.append("call")

    burst(executor, call)
    assert order.count("call") == CALLS
    assert order.index("other") < CALLS / 2


@pytest.mark.parametrize(("body", "turns"), [(trivial, 1), (suspending_once, 2)])
def test_a_run_takes_no_more_turns_than_its_coroutine(
    executor: AsyncLoopExecutor, witness: Witness, body: Callable[[], Any], turns: int
) -> None:
    counted = {witness.turns_of(lambda: executor.run(body())) for _ in range(100)}
    assert counted == {turns + FOR_THE_TASK}


@pytest.mark.parametrize(("body", "turns"), [(trivial, 1), (suspending_once, 2)])
def test_a_submitted_call_takes_no_more_turns_than_its_coroutine(
    executor: AsyncLoopExecutor, witness: Witness, body: Callable[[], Any], turns: int
) -> None:
    def call() -> None:
        done = threading.Event()
        executor.submit(signalling, body, done)
        assert done.wait(10)

    counted = {witness.turns_of(call) for _ in range(100)}
    assert counted == {turns + FOR_THE_TASK}


def test_a_gather_takes_far_fewer_turns_than_it_has_coroutines(
    executor: AsyncLoopExecutor, witness: Witness
) -> None:
    turns = witness.turns_of(lambda: executor.gather(*[trivial() for _ in range(CALLS)]))
    assert turns <= CALLS / 20


def test_plain_callables_do_not_disturb_the_loop(
    executor: AsyncLoopExecutor, witness: Witness
) -> None:
    def call() -> None:
        # Not `wait`: it holds the locks of all, and a worker hands a call whose lock it cannot have
        # for long to the loop.
        for future in [executor.submit(int) for _ in range(CALLS)]:
            future.result()

    assert witness.turns_of(call) == 0


def test_a_call_in_flight_is_one_task(executor: AsyncLoopExecutor) -> None:
    gate = executor.run(make_gate())
    futures = [executor.submit(gate.wait) for _ in range(CALLS)]
    executor.run(all_started())

    async def count() -> int:
        return len(asyncio.all_tasks())

    try:
        # On the loop, where no task is about to end.
        assert executor.run(count()) == CALLS + 1
    finally:
        executor.get_loop().call_soon_threadsafe(gate.set)
        wait(futures)


def test_a_call_in_flight_holds_far_less_than_one_of_run_coroutine_threadsafe(
    executor: AsyncLoopExecutor,
) -> None:
    def threadsafe(body: Callable[[], Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(body(), executor.get_loop())

    ours = blocks_per_call(executor, executor.submit)
    theirs = blocks_per_call(executor, threadsafe)
    assert ours <= 0.6 * theirs


def test_the_collector_has_two_objects_to_look_at_for_each_call_that_waits(
    executor: AsyncLoopExecutor,
) -> None:
    with Held(executor):
        gc.collect()
        before = len(gc.get_objects())
        futures = [executor.submit(trivial) for _ in range(CALLS)]
        made = len(gc.get_objects()) - before
    wait(futures)
    # The future and its context. Before 3.13 an object's attributes may be in a dict of their own.
    assert made <= (2 if sys.version_info >= (3, 13) else 3) * CALLS + CALLS / 10


@pytest.mark.parametrize("kind", ["run", "submit", "map", "gather", "plain"])
def test_a_finished_call_leaves_nothing_allocated(executor: AsyncLoopExecutor, kind: str) -> None:
    calls: dict[str, Callable[[], object]] = {
        "run": lambda: [executor.run(trivial()) for _ in range(CALLS)],
        "submit": lambda: wait([executor.submit(trivial) for _ in range(CALLS)]),
        "map": lambda: list(executor.map(trivial, range(CALLS))),
        "gather": lambda: executor.gather(*[trivial() for _ in range(CALLS)]),
        "plain": lambda: wait([executor.submit(int) for _ in range(CALLS)]),
    }
    work = calls[kind]
    blocks: list[int] = []
    for _ in range(4):  # the first time, some things are made once, such as worker threads
        work()
        executor.run(all_started())
        gc.collect()
        blocks.append(sys.getallocatedblocks())
    # What each call leaves comes each time. Without the global interpreter lock, what one thread
    # has allocated and another one has freed counts until the first one allocates again.
    worst = min if FREE_THREADED else max
    assert worst(after - before for before, after in pairwise(blocks)) < CALLS / 10


@pytest.fixture
def nobody_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_waiting, "wait_for", lambda lock, timeout: False)


def test_nobody_looks_where_a_limit_is_brief(
    monkeypatch: pytest.MonkeyPatch, nobody_sleeps: None
) -> None:
    monkeypatch.setattr(_waiting, "_give_way", pytest.fail)
    for limit in (0, 1e-9, 0.1):
        assert not Looks().wait_for(locked(), limit)


def test_a_wait_gives_way_only_a_few_times(
    monkeypatch: pytest.MonkeyPatch, nobody_sleeps: None
) -> None:
    given: list[None] = []
    monkeypatch.setattr(_waiting, "_give_way", lambda: given.append(None))
    looks = Looks()
    for _ in range(320):
        assert not looks.wait_for(locked(), None)
    assert len(given) <= 320 * 8 + 10 * 60


def test_many_looks_go_on_as_long_as_they_pay(
    monkeypatch: pytest.MonkeyPatch, nobody_sleeps: None
) -> None:
    looks = Looks()
    lock = locked()
    given = 0
    paid_at = 50

    def give_way() -> None:
        nonlocal given
        given += 1
        if given == paid_at:
            lock.release()

    monkeypatch.setattr(_waiting, "_give_way", give_way)
    slept = []
    for number in range(100):
        given = 0
        if not looks.wait_for(lock, None):
            slept.append(number)
    assert slept == list(range(len(slept)))
    assert len(slept) < 32
    paid_at = 0
    for _ in range(10):
        looks.wait_for(lock, None)
    given = 0
    looks.wait_for(lock, None)
    assert given == 8


def test_a_call_that_has_ended_is_not_waited_for(
    executor: AsyncLoopExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    future = executor.submit(trivial, 1)
    wait([future])
    monkeypatch.delattr(_waiting, "_give_way")
    assert future.result() == 1
    lock = locked()
    lock.release()
    assert Looks().wait_for(lock, None)


def test_no_more_than_two_threads_look_at_once(
    monkeypatch: pytest.MonkeyPatch, nobody_sleeps: None
) -> None:
    looks = Looks()
    looking = threading.Semaphore(0)
    go_on = threading.Event()

    def give_way() -> None:
        looking.release()
        go_on.wait()

    monkeypatch.setattr(_waiting, "_give_way", give_way)
    threads = [
        threading.Thread(target=looks.wait_for, args=(locked(), None), daemon=True)
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
        assert looking.acquire(timeout=10)
    monkeypatch.setattr(_waiting, "_give_way", pytest.fail)
    assert not looks.wait_for(locked(), None)
    go_on.set()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def test_in_a_crowd_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Looks()
    locks = [locked() for _ in range(20)]
    waiting = threading.Semaphore(0)
    known: set[int] = set()

    def give_way() -> None:
        if threading.get_ident() not in known:
            known.add(threading.get_ident())
            waiting.release()

    monkeypatch.setattr(_waiting, "_LOOKERS", len(locks))
    monkeypatch.setattr(_waiting, "_give_way", give_way)
    threads = [
        threading.Thread(target=looks.wait_for, args=(lock, None), daemon=True) for lock in locks
    ]
    for thread in threads[:-1]:
        thread.start()
        assert waiting.acquire(timeout=10)
    monkeypatch.setattr(_waiting, "_give_way", pytest.fail)
    assert not looks.wait_for(locks[-1], 0.2)
    for lock in locks:
        lock.release()
    for thread in threads[:-1]:
        thread.join(10)
        assert not thread.is_alive()


def test_interrupted_looks_use_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Looks()
    for _ in range(50):
        given: list[None] = []

        def give_way(given: list[None] = given) -> None:
            given.append(None)
            raise KeyboardInterrupt

        monkeypatch.setattr(_waiting, "_give_way", give_way)
        with pytest.raises(KeyboardInterrupt):
            looks.wait_for(locked(), None)
        assert given


def test_where_threads_cannot_give_way_they_sleep(
    executor: AsyncLoopExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_waiting, "_give_way", None)
    assert executor.run(trivial(1)) == 1
    assert executor.submit(suspending_once).result() is None
    assert not Looks().wait_for(locked(), 0.2)


async def make_gate() -> asyncio.Event:
    return asyncio.Event()


async def all_started() -> None:
    """Returns once every call before it has been taken in, and had a turn to start."""
    for _ in range(CALLS):
        await asyncio.sleep(0)


def blocks_per_call(executor: AsyncLoopExecutor, submit: Callable[[Any], Any]) -> float:
    """Blocks of memory that a suspended call holds."""
    gate = executor.run(make_gate())
    gc.collect()
    before = sys.getallocatedblocks()
    futures = [submit(gate.wait) for _ in range(CALLS)]
    executor.run(all_started())
    gc.collect()
    blocks = sys.getallocatedblocks() - before
    executor.get_loop().call_soon_threadsafe(gate.set)
    wait(futures)
    return blocks / CALLS
