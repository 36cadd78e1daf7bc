"""`map`: the standard library's contract, `buffersize` included, on every Python."""

from __future__ import annotations

import asyncio
import gc
import itertools
import queue
import threading
import time
import weakref
from collections.abc import Generator
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any, cast

import pytest

from contract.gates import PATIENCE, Gate, Held, in_thread, value_of
from lifetimes import collect_where_due
from palitra import AsyncLoopExecutor, DeadlockError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.any_host


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

    results = executor.map(note, range(10))
    executor.shutdown()

    assert seen == list(range(10))
    del results  # dropped before, it would have cancelled them


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


def test_a_second_thread_is_refused_while_one_reads(
    executor: AsyncLoopExecutor, held: Held
) -> None:
    """As by a generator: nothing is given twice, and nothing is lost."""
    inside = Gate()

    def inputs() -> Iterator[int]:
        yield 0
        inside.open()
        yield from (1, 2)

    results = executor.map(held.coroutine, inputs(), buffersize=1)
    first: list[int] = []
    reader = in_thread(lambda: first.append(next(results)))
    inside.wait()

    with pytest.raises(ValueError, match="already executing"):
        next(results)
    held.open_all()
    reader.join(PATIENCE)

    assert first + list(results) == [0, 1, 2]


def test_the_inputs_are_refused_the_results_while_these_are_read(
    executor: AsyncLoopExecutor,
) -> None:
    """As by the generator of a thread pool: the reading that goes on is left alone."""
    refused: list[str] = []

    def inputs() -> Iterator[int]:
        yield from (0, 1)
        for ask in (next, list, lambda each: each.send(None)):
            try:
                ask(results)
            except ValueError as error:
                refused.append(str(error))
        yield 2

    results: Any = executor.map(value_of, inputs(), buffersize=1)

    assert list(results) == [0, 1, 2]
    assert refused == ["generator already executing"] * 3


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
        not_done = wait(rest, PATIENCE).not_done
        cancelled = [future.cancelled() for future in rest]
        for future in rest:
            future.cancel()  # or the executor would wait for them, and nobody see this fail
        assert not_done == set()
        assert cancelled == [True] * len(rest)


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


def test_dropping_an_unread_iterator_leaves_plain_callables_to_run(held: Held) -> None:
    seen = list[int]()
    with AsyncLoopExecutor(max_workers=1) as executor:
        executor.submit(held.thread)
        held.started.wait()
        executor.map(seen.append, range(10))
        held.release.open()

    assert seen == list(range(10))


def test_dropping_an_iterator_half_way_cancels_plain_callables_too(held: Held) -> None:
    with AsyncLoopExecutor(max_workers=1) as executor:
        tracked = Tracked(executor)
        results = executor.map(lambda number: number and held.thread(), range(4))
        assert next(results) == 0
        held.started.wait()
        del results
        cancelled = [future.cancelled() for future in tracked.futures]
        held.release.open()

    assert cancelled == [False, False, True, True]


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


@pytest.mark.parametrize("buffersize", [None, 2])
def test_an_error_of_the_arguments_is_raised(
    executor: AsyncLoopExecutor, buffersize: int | None
) -> None:
    def arguments() -> Iterator[int]:
        yield 1
        raise ValueError("in the arguments")

    with pytest.raises(ValueError, match="in the arguments"):
        list(executor.map(value_of, arguments(), buffersize=buffersize))


# What is read of the iterables


@pytest.mark.parametrize("buffersize", [None, 1, 2, 5])
def test_the_iterables_are_read_as_zip_reads_them(
    executor: AsyncLoopExecutor, buffersize: int | None
) -> None:
    """One item of the longer one is lost, and the one after the shorter is not asked for."""
    read: list[str] = []

    def items(name: str, stop: int) -> Iterator[int]:
        for number in range(stop):
            read.append(f"{name}{number}")
            yield number
        read.append(f"{name} ended")

    sources = items("a", 9), items("b", 2), items("c", 9)
    list(executor.map(sum_of, *sources, buffersize=buffersize))
    by_map = read.copy()
    read.clear()
    list(zip(items("a", 9), items("b", 2), items("c", 9), strict=False))

    assert by_map == read == ["a0", "b0", "c0", "a1", "b1", "c1", "a2", "b ended"]


async def sum_of(*numbers: int) -> int:
    return sum(numbers)


@pytest.mark.parametrize("buffersize", [None, 1, 2, 3, 10])
def test_nothing_is_read_after_the_end(executor: AsyncLoopExecutor, buffersize: int | None) -> None:
    class EndsOnce:
        """As a queue's consumer: who asks again after the end waits for ever."""

        def __init__(self) -> None:
            self.left = 3
            self.ends = 0

        def __iter__(self) -> Iterator[int]:
            return self

        def __next__(self) -> int:
            if not self.left:
                self.ends += 1
                raise StopIteration
            self.left -= 1
            return self.left

    for others in ([], [itertools.count()], [range(3)]):
        source = EndsOnce()
        results = executor.map(sum_of, source, *others, buffersize=buffersize)
        assert len(list(results)) == 3
        assert source.ends == 1
        assert list(results) == []
        assert source.ends == 1


@pytest.mark.parametrize("buffersize", [1, 2, 3])
def test_no_input_is_waited_for_that_another_iterable_has_made_useless(
    executor: AsyncLoopExecutor, buffersize: int
) -> None:
    source: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    for number in range(2):
        source.put(number)
    results: list[int] = []
    calls = executor.map(sum_of, [10, 20], iter(source.get, None), buffersize=buffersize)

    reader = in_thread(lambda: results.extend(calls))
    reader.join(PATIENCE)
    hangs = reader.is_alive()
    source.put(None)

    assert not hangs
    assert results == [10, 21]


@pytest.mark.parametrize("buffersize", [2, 3])
def test_results_at_hand_come_before_an_error_of_the_arguments(
    executor: AsyncLoopExecutor, buffersize: int
) -> None:
    """As in the standard library, what was submitted before is lost only where it must be."""

    def arguments() -> Iterator[int]:
        yield from range(4)
        raise LookupError("in the arguments")

    results = executor.map(value_of, arguments(), buffersize=buffersize)
    got: list[int] = []
    with pytest.raises(LookupError, match="in the arguments"):
        got.extend(results)

    assert got == list(range(len(got)))
    assert len(got) >= 4 - buffersize
    assert list(results) == []


@pytest.mark.parametrize("buffersize", [None, 2])
def test_an_error_of_the_arguments_cancels_what_was_submitted(
    executor: AsyncLoopExecutor, buffersize: int | None
) -> None:
    tracked = Tracked(executor)

    def arguments() -> Iterator[int]:
        yield 1
        raise LookupError("in the arguments")

    with pytest.raises(LookupError, match="in the arguments"):
        list(executor.map(tracked.body, arguments(), buffersize=buffersize))

    tracked.assert_rest_is_cancelled(first=0)


# The end of the iterator, before its first item


@pytest.mark.parametrize("how", ["close", "drop"])
@pytest.mark.parametrize("buffersize", [None, 3])
def test_ended_before_its_first_item_an_iterator_cancels_all(
    executor: AsyncLoopExecutor, buffersize: int | None, how: str
) -> None:
    tracked = Tracked(executor)
    results = executor.map(tracked.body, range(1, 4), buffersize=buffersize)

    end(results, how)
    del results

    tracked.assert_rest_is_cancelled(first=0)


@pytest.mark.parametrize(
    ("fn", "how"), [("coroutine", "close"), ("coroutine", "drop"), ("thread", "close")]
)
def test_calls_that_wait_for_their_turn_are_cancelled_too(
    quick_loop: dict[str, Any], held: Held, fn: str, how: str
) -> None:
    with AsyncLoopExecutor(max_workers=1, **quick_loop) as executor:
        tracked = Tracked(executor)
        executor.submit(getattr(held, fn))
        held.started.wait()
        results = executor.map(getattr(Held(), fn), range(3))

        end(results, how)
        del results
        gc.collect()

        cancelled = [future.cancelled() for future in tracked.futures[1:]]
        for future in tracked.futures[1:]:
            future.cancel()
        held.open_all()
        assert cancelled == [True] * 3


def end(results: Iterator[Any], how: str) -> None:
    """The caller drops it."""
    if how == "close":
        results.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("buffersize", [None, 2])
def test_a_closed_iterator_is_at_its_end(
    executor: AsyncLoopExecutor, buffersize: int | None
) -> None:
    results = executor.map(value_of, range(3), buffersize=buffersize)

    end(results, "close")
    end(results, "close")

    assert list(results) == []


# A dropped executor


def test_an_iterator_whose_inputs_were_all_read_keeps_no_executor() -> None:
    executor = AsyncLoopExecutor(max_workers=2)
    dropped = weakref.ref(executor)
    loop = executor.get_loop()
    results = executor.map(abs, range(-5, 5))
    coroutines = executor.map(value_of, range(5))
    exhausted = executor.map(value_of, range(2), buffersize=3)
    list(exhausted)

    del executor
    gc.collect()

    assert dropped() is None
    assert list(results) == [abs(number) for number in range(-5, 5)]
    assert list(coroutines) == list(range(5))
    until(loop.is_closed)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.perf_counter() + PATIENCE
    while not condition():
        assert time.perf_counter() < deadline
        time.sleep(0.001)


def test_an_iterator_that_has_inputs_left_keeps_the_executor() -> None:
    executor = AsyncLoopExecutor(max_workers=2)
    dropped = weakref.ref(executor)
    loop = executor.get_loop()
    results = executor.map(value_of, range(20), buffersize=2)

    del executor
    gc.collect()

    assert list(results) == list(range(20))
    del results
    gc.collect()
    assert dropped() is None
    until(loop.is_closed)


@pytest.mark.parametrize("buffersize", [None, 2])
def test_a_dropped_iterator_keeps_no_executor(buffersize: int | None) -> None:
    executor = AsyncLoopExecutor(max_workers=2)
    dropped = weakref.ref(executor)
    loop = executor.get_loop()
    results = executor.map(value_of, itertools.islice(itertools.count(), 9), buffersize=buffersize)
    assert next(results) == 0

    del executor, results
    gc.collect()

    assert dropped() is None
    until(loop.is_closed)


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


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
def test_a_call_that_raises_stop_iteration_does_not_look_like_the_end(
    executor: AsyncLoopExecutor, kind: str
) -> None:
    async def first(items: Iterator[int]) -> int:
        return next(items)

    calls = executor.map(next if kind == "plain" else first, [iter([1]), iter([]), iter([3])])
    assert next(calls) == 1
    with pytest.raises(RuntimeError, match="raised StopIteration"):
        next(calls)


def test_the_iterator_is_a_generator_as_that_of_a_thread_pool(
    executor: AsyncLoopExecutor, held: Held
) -> None:
    results = cast("Generator[int, None, None]", executor.map(held.coroutine, [1, 2]))
    held.started.wait()
    with pytest.raises(LookupError):
        results.throw(LookupError())
    held.cancelled.wait()
    held.open_all()
    assert list(results) == []

    results = cast("Generator[int, None, None]", executor.map(value_of, [1, 2]))
    assert isinstance(results, Generator)
    assert (results.send(None), next(results)) == (1, 2)
