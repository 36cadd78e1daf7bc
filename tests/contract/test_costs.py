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
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from palitra import AsyncLoopExecutor

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
    assert len(asyncio.all_tasks(executor.get_loop())) == CALLS
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
    work()  # what is made once, such as worker threads
    executor.run(all_started())
    gc.collect()
    before = sys.getallocatedblocks()
    work()
    executor.run(all_started())
    gc.collect()
    assert sys.getallocatedblocks() - before < CALLS / 10


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
