"""`map`: the standard library's contract, `buffersize` included, on every Python."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
import weakref
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any

import pytest

from contract.gates import PATIENCE, Gate, Held, value_of
from lifetimes import collect_where_due
from palitra import AsyncLoopExecutor, DeadlockError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


async def power(base: int, exponent: int) -> int:
    await asyncio.sleep(0)
    return int(pow(base, exponent))


async def divide(a: int, b: int) -> float:
    await asyncio.sleep(0)
    return a / b


KINDS = {
    "coroutines": (power, divide),
    "plain callables": (pow, lambda a, b: a / b),
}
both_kinds = pytest.mark.parametrize(("powers", "divides"), KINDS.values(), ids=KINDS)


class Pulls:
    """An endless iterable that counts what was taken from it, from any thread."""

    def __init__(self) -> None:
        self.count = 0
        self.threads: set[int] = set()

    def __iter__(self) -> Iterator[int]:
        while True:
            self.threads.add(threading.get_ident())
            self.count += 1
            yield self.count - 1


@pytest.fixture
def held() -> Iterator[Held]:
    held = Held()
    yield held
    held.open_all()


@both_kinds
def test_results_come_in_the_order_of_the_arguments(
    executor: AsyncLoopExecutor, powers: Callable[[int, int], Any], divides: Any
) -> None:
    expected = [pow(n, n) for n in range(10)]

    assert list(executor.map(powers, range(10), range(10))) == expected
    assert list(executor.map(powers, range(10), range(10), chunksize=3)) == expected
    assert list(executor.map(powers, range(10), range(10), buffersize=3)) == expected
    assert list(executor.map(powers, range(10), range(10), chunksize=4, buffersize=3)) == expected


def test_a_slow_first_call_does_not_lose_its_place(executor: AsyncLoopExecutor) -> None:
    gate = Gate()

    async def first_last(number: int) -> int:
        if number == 0:
            await gate.passed()
        else:
            gate.open()
        return number

    assert list(executor.map(first_last, range(3), timeout=PATIENCE)) == [0, 1, 2]


@pytest.mark.parametrize("buffersize", [None, 2])
def test_the_shortest_iterable_ends_the_map(
    executor: AsyncLoopExecutor, buffersize: int | None
) -> None:
    results = executor.map(power, [2, 3, 4], [1, 2], buffersize=buffersize)

    assert list(results) == [2, 9]


@pytest.mark.parametrize("buffersize", [None, 2])
def test_nothing_to_map_gives_nothing(executor: AsyncLoopExecutor, buffersize: int | None) -> None:
    assert list(executor.map(power, [], [], buffersize=buffersize)) == []
    assert list(executor.map(power, buffersize=buffersize)) == []


def test_fn_may_be_named(executor: AsyncLoopExecutor) -> None:
    assert list(executor.map(fn=power)) == []


@pytest.mark.parametrize("buffersize", [None, 1, 2, 10])
@both_kinds
def test_an_error_comes_in_its_turn(
    executor: AsyncLoopExecutor, powers: Any, divides: Any, buffersize: int | None
) -> None:
    results = executor.map(divides, [1, 1, 1, 1], [2, 4, 0, 5], buffersize=buffersize)

    assert next(results) == 0.5
    assert next(results) == 0.25
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(results) == []


def test_everything_is_submitted_before_the_first_result_is_asked_for(
    executor: AsyncLoopExecutor,
) -> None:
    pulled = list[int]()
    started = [Gate() for _ in range(5)]

    def arguments() -> Iterator[Gate]:
        for number, gate in enumerate(started):
            pulled.append(number)
            yield gate

    async def start(gate: Gate) -> None:
        gate.open()

    results = executor.map(start, arguments())

    assert pulled == [0, 1, 2, 3, 4]
    for gate in started:
        gate.wait()
    assert list(results) == [None] * 5


def test_calls_run_although_nobody_iterates(executor: AsyncLoopExecutor) -> None:
    seen = list[int]()

    async def note(number: int) -> None:
        seen.append(number)

    executor.map(note, range(10))
    executor.shutdown()

    assert seen == list(range(10))


@both_kinds
def test_the_iterator_cannot_be_asked_on_the_loops_thread(
    executor: AsyncLoopExecutor, held: Held, powers: Any, divides: Any
) -> None:
    results = executor.map(held.coroutine, [1])

    async def asks() -> Any:
        return next(results)

    with pytest.raises(DeadlockError):
        executor.run(asks())


# buffersize


@pytest.mark.parametrize("buffersize", [1, 2, 7])
@both_kinds
def test_an_endless_iterable_is_pulled_no_further_than_needed(
    executor: AsyncLoopExecutor, powers: Any, divides: Any, buffersize: int
) -> None:
    pulls = Pulls()
    results = executor.map(powers, pulls, itertools.repeat(1), buffersize=buffersize)
    assert pulls.count == buffersize

    for number in range(20):
        assert next(results) == number
        assert pulls.count <= buffersize + number + 1
    assert pulls.threads == {threading.get_ident()}

    results.close()  # type: ignore[attr-defined]
    assert pulls.count <= buffersize + 20


def test_the_buffer_is_in_flight_while_the_caller_is_busy(executor: AsyncLoopExecutor) -> None:
    barrier = [Gate() for _ in range(3)]

    async def together(number: int) -> int:
        barrier[number % 3].open()
        for gate in barrier:
            await gate.passed()
        return number

    results = executor.map(together, itertools.count(), buffersize=3)

    assert [next(results) for _ in range(3)] == [0, 1, 2]
    results.close()  # type: ignore[attr-defined]


def test_the_next_call_is_submitted_before_the_wait_for_a_result(
    executor: AsyncLoopExecutor,
) -> None:
    """With a buffer of one, the call after the awaited one is what opens the gate."""
    gate = Gate()

    async def needs_the_next(number: int) -> int:
        if number:
            gate.open()
        await gate.passed()
        return number

    assert list(executor.map(needs_the_next, range(3), buffersize=1, timeout=PATIENCE)) == [0, 1, 2]


@pytest.mark.parametrize("buffersize", [0, -1])
def test_a_buffer_holds_at_least_one(executor: AsyncLoopExecutor, buffersize: int) -> None:
    pulls = Pulls()

    with pytest.raises(ValueError, match="buffersize"):
        executor.map(power, pulls, pulls, buffersize=buffersize)

    assert pulls.count == 0


@pytest.mark.parametrize("buffersize", ["3", 1.5])
def test_a_buffersize_is_an_integer(executor: AsyncLoopExecutor, buffersize: Any) -> None:
    with pytest.raises(TypeError, match="buffersize"):
        executor.map(power, [], [], buffersize=buffersize)


def test_a_buffered_map_goes_on_from_another_thread(executor: AsyncLoopExecutor) -> None:
    results = executor.map(value_of, range(6), buffersize=2)
    first = [next(results) for _ in range(3)]

    rest = executor.submit(list, results).result(PATIENCE)

    assert first + rest == [0, 1, 2, 3, 4, 5]


# Time limits


@pytest.mark.parametrize("buffersize", [None, 1, 2])
def test_a_timeout_counts_from_the_call_of_map(
    executor: AsyncLoopExecutor, held: Held, buffersize: int | None
) -> None:
    async def body(number: int) -> Any:
        return await held.coroutine() if number == 2 else number

    results = executor.map(body, range(4), timeout=0.5, buffersize=buffersize)

    assert next(results) == 0
    assert next(results) == 1
    with pytest.raises(TimeoutError):
        next(results)
    held.cancelled.wait()


def test_a_timeout_that_is_over_raises_at_the_first_unfinished_call(
    executor: AsyncLoopExecutor, held: Held
) -> None:
    start = time.monotonic()
    results = executor.map(held.coroutine, range(4), timeout=0)

    with pytest.raises(TimeoutError):
        next(results)
    assert time.monotonic() - start < PATIENCE  # not the sum over all calls


# Abandoned and failed iterators


class Tracked:
    """Starts calls that stay, and keeps their futures by replacing `submit`."""

    def __init__(self, executor: AsyncLoopExecutor) -> None:
        self.futures: list[Future[Any]] = []
        self.started = [Gate() for _ in range(4)]
        submit = executor.submit

        def tracked(fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            future = submit(fn, *args, **kwargs)
            self.futures.append(future)
            return future

        executor.submit = tracked  # type: ignore[method-assign]

    async def body(self, number: int) -> int:
        self.started[number].open()
        if number:
            await asyncio.Event().wait()
        return number

    async def fails(self, number: int) -> int:
        if number == 1:
            for gate in self.started[2:]:
                await gate.passed()
            raise ValueError("second")
        return await self.body(number)

    def assert_rest_is_cancelled(self, first: int = 1) -> None:
        rest = self.futures[first:]
        assert wait(rest, PATIENCE).not_done == set()
        assert [future.cancelled() for future in rest] == [True] * len(rest)


@pytest.mark.parametrize("buffersize", [None, 3])
def test_closing_the_iterator_cancels_what_is_left(
    executor: AsyncLoopExecutor, buffersize: int | None
) -> None:
    tracked = Tracked(executor)
    results = executor.map(tracked.body, range(4), buffersize=buffersize)
    assert next(results) == 0

    results.close()  # type: ignore[attr-defined]

    tracked.assert_rest_is_cancelled()


@pytest.mark.parametrize("buffersize", [None, 3])
def test_dropping_the_iterator_cancels_what_is_left(
    executor: AsyncLoopExecutor, buffersize: int | None
) -> None:
    tracked = Tracked(executor)
    results = executor.map(tracked.body, range(4), buffersize=buffersize)
    assert next(results) == 0

    del results

    tracked.assert_rest_is_cancelled()


@pytest.mark.parametrize("buffersize", [None, 4])
def test_a_failed_call_cancels_what_is_left(
    executor: AsyncLoopExecutor, buffersize: int | None
) -> None:
    tracked = Tracked(executor)
    results = executor.map(tracked.fails, range(4), buffersize=buffersize)
    assert next(results) == 0

    with pytest.raises(ValueError, match="second"):
        next(results)

    tracked.assert_rest_is_cancelled(first=2)


@pytest.mark.parametrize("buffersize", [None, 3])
def test_a_timeout_cancels_what_is_left(
    executor: AsyncLoopExecutor, buffersize: int | None
) -> None:
    tracked = Tracked(executor)
    results = executor.map(tracked.body, range(1, 4), timeout=0, buffersize=buffersize)

    with pytest.raises(TimeoutError):
        next(results)

    tracked.assert_rest_is_cancelled(first=0)


def test_an_iterator_that_nobody_started_leaves_its_calls_alone(
    executor: AsyncLoopExecutor, held: Held
) -> None:
    """As in the standard library: `map` for its effects alone is a common habit."""
    executor.map(held.coroutine, [1])
    held.started.wait()
    held.open_all()
    held.ended.wait()

    assert not held.cancelled.is_open


@pytest.mark.parametrize("buffersize", [None, 2])
def test_an_error_of_the_arguments_is_raised(
    executor: AsyncLoopExecutor, buffersize: int | None
) -> None:
    def arguments() -> Iterator[int]:
        yield 1
        raise ValueError("in the arguments")

    with pytest.raises(ValueError, match="in the arguments"):
        list(executor.map(value_of, arguments(), buffersize=buffersize))


# submit, replaced on the instance


@pytest.mark.parametrize("buffersize", [None, 2])
def test_map_goes_through_the_instances_submit(
    executor: AsyncLoopExecutor, buffersize: int | None
) -> None:
    tracked = Tracked(executor)

    assert list(executor.map(value_of, range(5), buffersize=buffersize)) == [0, 1, 2, 3, 4]
    assert [future.result() for future in tracked.futures] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("buffersize", [None, 2])
def test_map_goes_through_a_subclasss_submit(
    loop_flavour: dict[str, Any], buffersize: int | None
) -> None:
    class Doubles(AsyncLoopExecutor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            return super().submit(fn, *(2 * arg for arg in args), **kwargs)

    with Doubles(**loop_flavour) as executor:
        assert list(executor.map(value_of, range(4), buffersize=buffersize)) == [0, 2, 4, 6]


# Ends


def test_map_is_refused_after_shutdown(executor: AsyncLoopExecutor) -> None:
    executor.shutdown()

    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.map(value_of, [1])


def test_a_shutdown_lets_submitted_calls_of_a_map_finish(executor: AsyncLoopExecutor) -> None:
    results = executor.map(value_of, range(3))
    executor.shutdown()

    assert list(results) == [0, 1, 2]


@pytest.mark.parametrize("buffersize", [None, 2])
def test_the_iterator_holds_no_result_it_gave_away(
    executor: AsyncLoopExecutor, buffersize: int | None
) -> None:
    class Thing:
        pass

    async def make(_: int) -> Thing:
        return Thing()

    for thing in executor.map(make, range(5), buffersize=buffersize):
        seen = weakref.ref(thing)
        del thing
        assert gone(executor, seen)


def gone(executor: AsyncLoopExecutor, reference: weakref.ref[Any]) -> bool:
    """The loop may still be in the step that settled the future; let it pass."""
    executor.run(value_of(None))
    collect_where_due()
    return reference() is None
