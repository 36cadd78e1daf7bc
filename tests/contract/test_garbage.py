"""Nothing outlives its use: results, arguments, exceptions, frames, executors.

The collector is off in these tests, so that whatever goes away does so without its
help: no reference cycle leads through palitra. `lifetimes` collects where it must.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import io
import threading
import weakref
from concurrent.futures import Future, wait
from contextlib import suppress
from types import BuiltinMethodType
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

import palitra
from contract.gates import PATIENCE, Gate, Held, interrupt, value_of
from lifetimes import collect_where_due, ends, opens
from palitra import AsyncLoopExecutor, _hooks
from palitra._stalls import StallWatch
from palitra._watchers import is_lost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

# Things go within microseconds; this is for a machine that is busy.
SOON = 5.0


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def held() -> Iterator[Held]:
    held = Held()
    yield held
    held.open_all()


class Thing:
    """Something to hold a weak reference to."""


class Failure(Exception):
    pass


class Watch:
    """Waits for things to go, wherever their last reference is dropped."""

    def __init__(self) -> None:
        self.finalizers: list[tuple[str, Gate]] = []

    def __call__(self, thing: T) -> T:
        gate = Gate()
        self.finalizers.append((type(thing).__name__, gate))
        weakref.finalize(thing, gate.open)
        return thing

    def all_gone(self) -> bool:
        """Every watched thing has gone, or goes when a thread has left its last step."""
        assert self.finalizers
        for name, gate in self.finalizers:
            assert opens(gate, SOON), f"a {name} is still there"
        return True


@pytest.fixture
def watch() -> Watch:
    return Watch()


# Bodies; each is called with the things it gets and gives them back, or fails.


async def returns(thing: Any) -> Any:
    await asyncio.sleep(0)
    return thing


async def returns_at_once(thing: Any) -> Any:
    return thing


def returns_in_thread(thing: Any) -> Any:
    return thing


def returns_awaitable(thing: Any) -> Any:
    return returns(thing)


async def fails(thing: Any) -> None:
    await asyncio.sleep(0)
    raise Failure(thing)


async def fails_at_once(thing: Any) -> None:
    raise Failure(thing)


def fails_in_thread(thing: Any) -> None:
    raise Failure(thing)


def fails_later(thing: Any) -> Any:
    return fails(thing)


RETURNS = [returns, returns_at_once, returns_in_thread, returns_awaitable]
FAILS = [fails, fails_at_once, fails_in_thread, fails_later]


@pytest.mark.parametrize("fn", RETURNS)
def test_a_result_goes_with_its_future(executor: AsyncLoopExecutor, watch: Watch, fn: Any) -> None:
    future = executor.submit(fn, watch(Thing()))
    assert isinstance(future.result(PATIENCE), Thing)

    watch(future)
    del future

    assert watch.all_gone()


@pytest.mark.parametrize("fn", RETURNS)
def test_a_result_stays_with_its_future(executor: AsyncLoopExecutor, fn: Any) -> None:
    future = executor.submit(fn, Thing())
    reference = weakref.ref(future.result(PATIENCE))
    executor.run(value_of(None))

    assert reference() is future.result()


@pytest.mark.parametrize("fn", RETURNS + FAILS)
def test_a_future_that_nobody_keeps_leaves_nothing(
    executor: AsyncLoopExecutor, watch: Watch, fn: Any
) -> None:
    executor.submit(fn, watch(Thing()))

    assert watch.all_gone()


def test_a_coroutine_object_and_its_arguments_go(executor: AsyncLoopExecutor, watch: Watch) -> None:
    executor.submit(watch(returns(watch(Thing())))).result(PATIENCE)
    executor.run(watch(returns(watch(Thing()))))
    executor.gather(watch(returns(watch(Thing()))))

    assert watch.all_gone()


def test_arguments_go_when_the_call_has_ended_though_the_future_stays(
    executor: AsyncLoopExecutor, watch: Watch
) -> None:
    async def coroutine(*args: Any, **kwargs: Any) -> None:
        await asyncio.sleep(0)

    def thread(*args: Any, **kwargs: Any) -> None:
        pass

    futures = [
        executor.submit(watch(coroutine), watch(Thing()), key=watch(Thing())),
        executor.submit(watch(thread), watch(Thing()), key=watch(Thing())),
    ]
    del coroutine, thread
    wait(futures, PATIENCE)

    assert watch.all_gone()


@pytest.mark.parametrize("fn", FAILS)
def test_an_exception_its_frames_and_their_locals_go_with_the_future(
    executor: AsyncLoopExecutor, watch: Watch, fn: Any
) -> None:
    future = executor.submit(fn, watch(Thing()))
    with suppress(Failure):
        future.result(PATIENCE)
    watch(future.exception())
    del future

    assert watch.all_gone()


@pytest.mark.parametrize("fn", FAILS)
def test_an_exception_alone_holds_neither_future_nor_executor(
    loop_flavour: dict[str, Any], watch: Watch, fn: Any
) -> None:
    executor = AsyncLoopExecutor(**loop_flavour)
    future = watch(executor.submit(fn, None))
    error = future.exception(PATIENCE)
    executor.shutdown()
    watch(executor)
    del future, executor

    assert watch.all_gone()
    assert isinstance(error, Failure)


def test_the_exception_of_a_raising_result_goes(executor: AsyncLoopExecutor, watch: Watch) -> None:
    def ask() -> None:
        local = watch(Thing())
        try:
            executor.submit(fails, local).result(PATIENCE)
        except Failure as error:
            watch(error)

    ask()

    assert watch.all_gone()


@pytest.mark.parametrize("fn", [returns, returns_at_once])
def test_what_run_returned_is_the_callers_alone(
    executor: AsyncLoopExecutor, watch: Watch, fn: Any
) -> None:
    executor.run(fn(watch(Thing())))
    executor.run(fn(watch(Thing())), timeout=PATIENCE)

    assert watch.all_gone()


@pytest.mark.parametrize("fn", [fails, fails_at_once])
@pytest.mark.parametrize("timeout", [None, PATIENCE])
def test_what_run_raised_is_the_callers_alone(
    executor: AsyncLoopExecutor, watch: Watch, fn: Any, timeout: float | None
) -> None:
    def ask() -> None:
        local = watch(Thing())
        try:
            executor.run(fn(local), timeout=timeout)
        except Failure as error:
            watch(error)

    ask()

    assert watch.all_gone()


def test_a_run_that_timed_out_leaves_nothing(executor: AsyncLoopExecutor, watch: Watch) -> None:
    async def never(thing: Any) -> None:
        await asyncio.Event().wait()

    def ask() -> None:
        local = watch(Thing())
        with suppress(TimeoutError):
            executor.run(never(local), timeout=0.01)

    ask()

    assert watch.all_gone()


def test_what_gather_returned_is_the_callers_alone(
    executor: AsyncLoopExecutor, watch: Watch
) -> None:
    executor.gather(returns(watch(Thing())), returns_at_once(watch(Thing())))
    executor.gather(executor.submit(returns, watch(Thing())))
    executor.gather(fails(watch(Thing())), return_exceptions=True)

    assert watch.all_gone()


def test_what_gather_raised_is_the_callers_alone(executor: AsyncLoopExecutor, watch: Watch) -> None:
    async def never(thing: Any) -> None:
        await asyncio.Event().wait()

    def ask() -> None:
        local = watch(Thing())
        try:
            executor.gather(
                returns(watch(Thing())), never(watch(Thing())), fails(local), fails(local)
            )
        except Failure as error:
            watch(error)

    ask()

    assert watch.all_gone()


def test_a_gather_that_timed_out_leaves_nothing(executor: AsyncLoopExecutor, watch: Watch) -> None:
    async def never(thing: Any) -> None:
        await asyncio.Event().wait()

    def ask() -> None:
        future = watch(executor.submit(returns, watch(Thing())))
        with suppress(TimeoutError):
            executor.gather(never(watch(Thing())), future, timeout=0.01)

    ask()

    assert watch.all_gone()


@pytest.mark.parametrize("wait", ["run", "gather"])
@pytest.mark.parametrize("timeout", [None, PATIENCE])
@pytest.mark.parametrize("answer", [asyncio.CancelledError, Failure])
def test_an_interrupted_call_leaves_nothing(
    executor: AsyncLoopExecutor,
    watch: Watch,
    wait: str,
    timeout: float | None,
    answer: type[BaseException],
) -> None:
    async def waits(thing: Any) -> None:
        local = watch(Thing())
        interrupt()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise answer(thing, local) from None

    def ask() -> None:
        local = watch(Thing())
        blocking: Any = executor.run if wait == "run" else executor.gather
        with suppress(KeyboardInterrupt):
            blocking(watch(waits(local)), timeout=timeout)

    ask()

    assert watch.all_gone()


def test_a_future_of_others_keeps_nothing_of_the_gather(
    executor: AsyncLoopExecutor, watch: Watch
) -> None:
    """It may live much longer than the gather that gave up on it."""
    forever: Future[None] = Future()

    def ask() -> None:
        local = watch(Thing())
        with suppress(Failure):
            executor.gather(forever, fails(local))

    for _ in range(3):
        ask()

    assert watch.all_gone()
    assert not forever.done()


@pytest.mark.parametrize("buffersize", [None, 1, 3])
@pytest.mark.parametrize("fn", RETURNS)
def test_a_map_keeps_no_result_argument_or_future(
    executor: AsyncLoopExecutor, fn: Any, buffersize: int | None
) -> None:
    for thing in executor.map(fn, (Thing() for _ in range(5)), buffersize=buffersize):
        watch = Watch()
        watch(thing)
        del thing

        assert watch.all_gone()


@pytest.mark.parametrize("buffersize", [None, 2])
def test_a_map_that_failed_leaves_nothing(
    executor: AsyncLoopExecutor, watch: Watch, buffersize: int | None
) -> None:
    def ask() -> None:
        results = watch(
            executor.map(fails, [watch(Thing()) for _ in range(3)], buffersize=buffersize)
        )
        try:
            next(results)
        except Failure as error:
            watch(error)

    ask()

    assert watch.all_gone()


def test_a_call_cancelled_before_its_start_leaves_nothing(
    loop_flavour: dict[str, Any], watch: Watch, held: Held
) -> None:
    with AsyncLoopExecutor(max_workers=1, **loop_flavour) as executor:
        for body in (held.coroutine, held.thread):
            executor.submit(body)
        held.started.wait()
        for fn in (returns, returns_in_thread):
            future = executor.submit(fn, watch(Thing()))
            future.cancel()
            watch(future)
        executor.submit(watch(returns(watch(Thing())))).cancel()
        del future
        held.open_all()
        # Places in a queue are given up when their turn comes.
        wait([executor.submit(returns, None), executor.submit(returns_in_thread, None)], PATIENCE)

        assert watch.all_gone()


def test_a_call_cancelled_in_flight_leaves_nothing(
    executor: AsyncLoopExecutor, watch: Watch
) -> None:
    started = Gate()

    async def waits(thing: Any) -> None:
        started.open()
        await asyncio.Event().wait()

    future = watch(executor.submit(waits, watch(Thing())))
    started.wait()
    future.cancel()
    wait([future], PATIENCE)
    del future

    assert watch.all_gone()


def test_a_finished_call_keeps_no_callback(executor: AsyncLoopExecutor, watch: Watch) -> None:
    called = Gate()

    class Callback:
        def __call__(self, future: Future[Any]) -> None:
            called.open()

    executor.submit(value_of, 7).add_done_callback(watch(Callback()))
    called.wait()

    assert watch.all_gone()


@pytest.mark.parametrize("fn", RETURNS)
def test_the_context_of_a_call_goes_when_it_has_ended_though_the_future_stays(
    executor: AsyncLoopExecutor, watch: Watch, fn: Any
) -> None:
    variable: contextvars.ContextVar[Any] = contextvars.ContextVar("variable")

    def submits() -> Future[Any]:
        variable.set(watch(Thing()))
        return executor.submit(fn, None)

    future = contextvars.Context().run(submits)
    future.result(PATIENCE)

    assert watch.all_gone()


def test_a_refused_call_leaves_nothing() -> None:
    executor = AsyncLoopExecutor()
    executor.run(value_of(None))
    executor.shutdown()
    before = futures_alive()
    for refused in value_of, returns_in_thread:
        with pytest.raises(RuntimeError):
            executor.submit(refused, None)

    assert futures_alive() == before


def futures_alive() -> int:
    collect_where_due()
    return sum(issubclass(type(thing), Future) for thing in gc.get_objects())


def test_the_first_users_context_is_not_kept(watch: Watch) -> None:
    """Neither the loop's thread nor a worker holds on to whoever happened to start it."""
    variable: contextvars.ContextVar[Any] = contextvars.ContextVar("variable")

    def first_use() -> AsyncLoopExecutor:
        variable.set(watch(Thing()))
        executor = AsyncLoopExecutor()
        executor.run(value_of(None))
        executor.submit(len, "").result(PATIENCE)
        return executor

    with contextvars.Context().run(first_use):
        assert watch.all_gone()


# Executors


def loop_thread_of(executor: AsyncLoopExecutor) -> threading.Thread:
    async def current() -> threading.Thread:
        return threading.current_thread()

    return executor.run(current())


def ended(thread: threading.Thread) -> bool:
    return ends(thread, PATIENCE)


def test_an_unused_executor_goes(watch: Watch, loop_flavour: dict[str, Any]) -> None:
    watch(AsyncLoopExecutor(**loop_flavour))

    assert watch.all_gone()


def test_an_executor_dropped_without_shutdown_goes_and_its_threads_end(
    watch: Watch, loop_flavour: dict[str, Any]
) -> None:
    executor = watch(AsyncLoopExecutor(**loop_flavour))
    thread = loop_thread_of(executor)
    worker = executor.submit(threading.current_thread).result(PATIENCE)
    executor.gather(value_of(1))
    list(executor.map(value_of, range(3)))
    del executor

    assert watch.all_gone()
    assert ended(thread)
    assert ended(worker)


def test_a_dropped_executor_finishes_its_calls(watch: Watch, loop_flavour: dict[str, Any]) -> None:
    executor = watch(AsyncLoopExecutor(max_workers=1, **loop_flavour))
    thread = loop_thread_of(executor)
    calls = [Held() for _ in range(4)]
    futures = [
        executor.submit(calls[0].coroutine, 0),
        executor.submit(calls[1].coroutine, 1),
        executor.submit(calls[2].thread, 2),
        executor.submit(calls[3].thread, 3),
    ]
    calls[0].started.wait()
    calls[2].started.wait()
    del executor

    for call in calls:
        assert thread.is_alive()
        call.open_all()
        call.ended.wait()
    assert [future.result(PATIENCE) for future in futures] == [0, 1, 2, 3]
    assert ended(thread)
    assert watch.all_gone()


def test_a_dropped_executor_closes_its_loop(loop_flavour: dict[str, Any]) -> None:
    executor = AsyncLoopExecutor(**loop_flavour)
    thread, loop = loop_thread_of(executor), executor.get_loop()
    cleaned = Gate()

    async def stray() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.open()

    tasks: list[Any] = []

    async def starts() -> None:
        tasks.append(asyncio.create_task(stray()))
        await asyncio.sleep(0)

    executor.run(starts())
    del executor

    assert ended(thread)
    assert cleaned.is_open
    assert loop.is_closed()


def test_an_executor_goes_after_shutdown(watch: Watch, loop_flavour: dict[str, Any]) -> None:
    with watch(AsyncLoopExecutor(**loop_flavour)) as executor:
        executor.run(value_of(None))
        executor.submit(len, "").result(PATIENCE)
    del executor

    assert watch.all_gone()


def test_a_broken_executor_goes(watch: Watch) -> None:
    def broken() -> Any:
        raise Failure(watch(Thing()))

    def use() -> None:
        executor = watch(AsyncLoopExecutor(loop_factory=broken))
        for _ in range(2):
            with suppress(RuntimeError):
                executor.run(value_of(None))

    use()

    assert watch.all_gone()


def test_the_last_reference_may_be_dropped_on_the_loops_thread(
    watch: Watch, loop_flavour: dict[str, Any]
) -> None:
    executors = [watch(AsyncLoopExecutor(**loop_flavour))]
    thread = loop_thread_of(executors[0])
    dropped = Gate()

    async def drops() -> int:
        executors.clear()
        dropped.open()
        await asyncio.sleep(0)
        return 7

    future = executors[0].submit(drops)

    assert future.result(PATIENCE) == 7
    assert ended(thread)
    assert watch.all_gone()


def test_the_last_reference_may_be_dropped_in_a_worker_thread(
    watch: Watch, loop_flavour: dict[str, Any]
) -> None:
    executors = [watch(AsyncLoopExecutor(**loop_flavour))]
    thread = loop_thread_of(executors[0])

    def drops() -> int:
        executors.clear()
        return 7

    future = executors[0].submit(drops)

    assert future.result(PATIENCE) == 7
    assert ended(thread)
    assert watch.all_gone()


def test_futures_do_not_keep_their_executor(watch: Watch, held: Held) -> None:
    executor = watch(AsyncLoopExecutor())
    thread = loop_thread_of(executor)
    futures = [executor.submit(held.coroutine, 7), executor.submit(value_of, 8)]
    held.started.wait()
    del executor

    assert watch.all_gone()
    held.open_all()
    assert [future.result(PATIENCE) for future in futures] == [7, 8]
    assert ended(thread)


class Reraises(Thing):
    """A context that ends with the exception that it is left with, which then holds frames."""

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *exc_info: object) -> bool:
        try:
            assert isinstance(exc_info[1], GeneratorExit)
            raise exc_info[1]
        finally:
            del self, exc_info


def test_a_context_that_was_dropped_while_entered_goes(watch: Watch) -> None:
    with AsyncLoopExecutor() as executor:
        executor.sync_context(watch(Reraises())).__enter__()

        assert watch.all_gone()


def looks_for_a_lost_lock(executor: AsyncLoopExecutor, holder: int) -> None:
    future: Any = executor.submit(returns, 1)
    future._holder = holder
    is_lost(future, 1)
    future._holder = 0


LOOKS: dict[str, Callable[[AsyncLoopExecutor, int], object]] = {
    "for people": lambda executor, holder: palitra.dump(io.StringIO()),
    "for what a shutdown waits for": lambda executor, holder: executor._service.workers.names(),
    "for a stall": lambda executor, holder: StallWatch(executor._service, 1.0)._look(0.0),
    "for a lost lock": looks_for_a_lost_lock,
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_looking_where_threads_stand_keeps_nothing_of_theirs(
    watch: Watch, look: Callable[[AsyncLoopExecutor, int], object]
) -> None:
    stands, goes = Gate(), Gate()

    def holds(thing: Any) -> None:
        stands.open()
        goes.wait()

    thread = threading.Thread(target=lambda: holds(watch(Thing())))
    thread.start()
    stands.wait()
    with AsyncLoopExecutor() as executor:
        executor.run(value_of(1))
        look(executor, thread.ident or 0)
        goes.open()
        thread.join()
    assert watch.all_gone()


def test_a_hundred_dropped_executors_leave_no_thread(loop_flavour: dict[str, Any]) -> None:
    threads = [loop_thread_of(AsyncLoopExecutor(**loop_flavour)) for _ in range(100)]

    assert all(ended(thread) for thread in threads)


def test_no_python_code_runs_where_ctrl_c_would_be_lost_when_a_service_or_its_threads_go() -> None:
    with AsyncLoopExecutor(stall_timeout=60) as executor:
        before = {*threading.enumerate()}
        executor.run(asyncio.to_thread(int))
        executor.submit(int).result()
        threads = {*threading.enumerate()} - before
        references = weakref.getweakrefs(executor._service)
        assert references
        for thread in threads:
            references += weakref.getweakrefs(thread)

    assert len(threads) == 4  # the loop's, its own for `to_thread`, a worker, and the watch
    # Functions of the interpreter's: it looks for signals in Python code alone.
    assert {type(reference.__callback__) for reference in references} <= {BuiltinMethodType}


def test_dead_executors_are_forgotten() -> None:
    collect_where_due()
    before = len(_hooks._process.services._references)
    for _ in range(20):
        with AsyncLoopExecutor() as executor:
            executor.get_loop()
            assert executor._service in _hooks.services()

    del executor
    collect_where_due()
    assert len(_hooks._process.services._references) <= before
