"""Time limits: what passes with them, what they say, and what else ends a wait."""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import functools
import gc
import logging
import signal
import sysconfig
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

import palitra
from contract.gates import PATIENCE, Gate, Held, fail_with, in_thread, value_of
from palitra import AsyncLoopExecutor, DeadlockError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from interpreters import Python

LIMIT = 0.1


@pytest.fixture
def held() -> Iterator[Held]:
    """Opened in the end, and before a test's own time is over, so that one that hangs fails."""
    held = Held()
    rescue = threading.Timer(PATIENCE, held.open_all)
    rescue.start()
    yield held
    rescue.cancel()
    held.open_all()
    rescue.join()


def blocking(executor: AsyncLoopExecutor, what: str, coro: Any, timeout: float) -> Any:
    """The result of the coroutine, of `run` or of `gather`."""
    if what == "run":
        return executor.run(coro, timeout=timeout)
    [result] = executor.gather(coro, timeout=timeout)
    return result


def limited(
    executor: AsyncLoopExecutor, what: str, call: Callable[[Gate], Any], timeout: float = LIMIT
) -> Any:
    """The outcome of *call* where the limit passes after *call* has opened the gate it is given.

    On a busy machine the loop may come to a call only when its time is over: then again.
    """
    while True:
        begun = Gate()
        try:
            return blocking(executor, what, call(begun), timeout)
        except palitra.CallTimeoutError:
            if begun.is_open:
                raise


each_wait = pytest.mark.parametrize("what", ["run", "gather"])


# The result, as the limit passes


@each_wait
def test_a_result_that_comes_as_the_limit_passes_is_returned(
    executor: AsyncLoopExecutor, what: str
) -> None:
    """The loop is busy with the call's last step when the limit passes."""

    async def call(begun: Gate) -> str:
        await asyncio.sleep(0)
        begun.open()
        time.sleep(3 * LIMIT)  # noqa: ASYNC251  (a handshake in C, say)
        return "a connection"

    assert limited(executor, what, call) == "a connection"


@each_wait
@pytest.mark.parametrize("pauses", [0, 1, 5])
def test_a_result_that_answers_the_cancellation_is_returned(
    executor: AsyncLoopExecutor, what: str, pauses: int
) -> None:
    async def call(begun: Gate) -> str:
        begun.open()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            for _ in range(pauses):
                await asyncio.sleep(0.001)
        return "finished all the same"

    assert limited(executor, what, call) == "finished all the same"


@each_wait
@pytest.mark.parametrize("result", [None, False, 0, ""])
def test_a_result_that_is_false_is_one(
    executor: AsyncLoopExecutor, what: str, result: object
) -> None:
    async def call(begun: Gate) -> object:
        begun.open()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return result

    assert limited(executor, what, call) is result


def test_gather_returns_all_results_that_answer_the_cancellation(
    executor: AsyncLoopExecutor,
) -> None:
    async def call(number: int, begun: Gate) -> int:
        begun.open()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return number

    results, begun = None, Gate()
    while results is None:
        try:
            # The loop has begun the others, or has their results, when the last has begun.
            results = executor.gather(call(1, Gate()), value_of(2), call(3, begun), timeout=LIMIT)
        except palitra.CallTimeoutError:  # on a busy machine, the time may be over before
            assert not begun.is_open

    assert results == [1, 2, 3]


def test_gather_times_out_where_one_result_is_missing(executor: AsyncLoopExecutor) -> None:
    async def call() -> int:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return 1

    with pytest.raises(palitra.CallTimeoutError):
        executor.gather(call(), asyncio.Event().wait(), timeout=LIMIT)


@each_wait
def test_a_result_after_the_clean_ups_second_is_lost(
    executor: AsyncLoopExecutor, held: Held, what: str
) -> None:
    async def call() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await held.release.passed()
        return "too late"

    with pytest.raises(palitra.CallTimeoutError):
        blocking(executor, what, call(), LIMIT)
    held.open_all()


# Whose limit


@each_wait
def test_palitras_own_limit_is_told_from_the_coroutines(
    executor: AsyncLoopExecutor, what: str
) -> None:
    own = TimeoutError("the coroutine's own")

    with pytest.raises(palitra.CallTimeoutError) as caught:
        blocking(executor, what, asyncio.Event().wait(), LIMIT)
    assert isinstance(caught.value, TimeoutError)

    with pytest.raises(TimeoutError) as caught_own:
        blocking(executor, what, fail_with(own), 60)
    assert caught_own.value is own


def test_a_limit_of_asyncios_is_the_coroutines_own(executor: AsyncLoopExecutor) -> None:
    async def call() -> None:
        async with asyncio.timeout(0.01):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError) as caught:
        executor.run(call(), timeout=60)

    assert type(caught.value) is TimeoutError


@each_wait
def test_its_text_names_what_timed_out(executor: AsyncLoopExecutor, what: str) -> None:
    async def fetch_the_weather() -> None:
        await asyncio.Event().wait()

    with pytest.raises(palitra.CallTimeoutError, match="fetch_the_weather"):
        blocking(executor, what, fetch_the_weather(), LIMIT)


@each_wait
def test_a_clean_up_that_fails_after_the_limit_is_the_cause(
    executor: AsyncLoopExecutor, what: str
) -> None:
    error = LookupError("in the clean-up")

    async def call(begun: Gate) -> None:
        begun.open()
        try:
            await asyncio.Event().wait()
        finally:
            raise error

    with pytest.raises(palitra.CallTimeoutError) as caught:
        limited(executor, what, call)

    assert caught.value.__cause__ is error


def test_a_clean_up_that_fails_after_the_limit_is_no_result(executor: AsyncLoopExecutor) -> None:
    errors = LookupError("before the limit"), LookupError("in the clean-up")

    async def fails_at_once() -> None:
        raise errors[0]

    async def fails_in_its_clean_up() -> None:
        begun.open()
        try:
            await asyncio.Event().wait()
        finally:
            raise errors[1]

    begun = Gate()
    while not begun.is_open:  # see `limited`
        with pytest.raises(palitra.CallTimeoutError) as caught:
            executor.gather(
                fails_at_once(), fails_in_its_clean_up(), return_exceptions=True, timeout=LIMIT
            )

    assert caught.value.__cause__ is errors[1]


def test_a_result_of_a_future_times_out_as_in_the_standard_library(
    executor: AsyncLoopExecutor, held: Held
) -> None:
    future = executor.submit(held.coroutine)

    with pytest.raises(TimeoutError) as caught:
        future.result(0.01)

    assert type(caught.value) is TimeoutError
    held.open_all()


# A clock that stands still


@contextmanager
def frozen(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        for name in ("monotonic", "time", "perf_counter"):
            now = getattr(time, name)()
            patch.setattr(time, name, lambda now=now: now)
        for name in ("monotonic_ns", "time_ns", "perf_counter_ns"):
            now_ns = getattr(time, name)()
            patch.setattr(time, name, lambda now=now_ns: now)
        yield


def ended(call: Callable[[], object]) -> list[object]:
    """What the call came to in a thread, if it ended."""
    outcome: list[object] = []

    def attempt() -> None:
        try:
            outcome.append(call())
        except BaseException as error:
            outcome.append(type(error))

    in_thread(attempt).join(PATIENCE / 2)
    return outcome


@pytest.fixture
def used() -> Iterator[AsyncLoopExecutor]:
    """An executor that is there before the clock stops."""
    executor = AsyncLoopExecutor(max_workers=1)
    executor.run(value_of(None))
    executor.submit(int).result()
    yield executor
    executor.shutdown(cancel_futures=True)


LIMITED: dict[str, Callable[[AsyncLoopExecutor, Held], object]] = {
    "run": lambda executor, held: executor.run(held.coroutine(), timeout=LIMIT),
    "gather": lambda executor, held: executor.gather(held.coroutine(), timeout=LIMIT),
    "gather of a future": lambda executor, held: executor.gather(
        executor.submit(held.coroutine), timeout=LIMIT
    ),
    "result": lambda executor, held: executor.submit(held.coroutine).result(LIMIT),
    "exception": lambda executor, held: executor.submit(held.coroutine).exception(LIMIT),
    "result of a callable": lambda executor, held: executor.submit(held.thread).result(LIMIT),
    "run that must wait for more than a second": lambda executor, held: executor.run(
        held.coroutine(), timeout=1.3
    ),
    "map": lambda executor, held: list(executor.map(held.coroutine, [1, 2], timeout=LIMIT)),
    "map with a buffer": lambda executor, held: list(
        executor.map(held.coroutine, [1, 2], timeout=LIMIT, buffersize=1)
    ),
}


@pytest.mark.parametrize("way", LIMITED)
def test_limits_pass_although_the_clock_stands_still(
    used: AsyncLoopExecutor, held: Held, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    held.cleanup.open()

    with frozen(monkeypatch):
        outcome = ended(lambda: LIMITED[way](used, held))
    held.open_all()

    assert len(outcome) == 1
    assert isinstance(outcome[0], type)
    assert issubclass(outcome[0], TimeoutError)


def test_a_clock_that_stood_still_at_the_import_is_not_kept(python: Python) -> None:
    """As in a test that freezes the clock, and imports the application only then."""
    end = python.run("""
        import time, unittest.mock

        with unittest.mock.patch("time.monotonic", return_value=5.0) as frozen:
            import palitra

            executor = palitra.AsyncLoopExecutor(max_workers=1)
            executor.submit(int).result()
        calls = frozen.call_count
        try:
            print(list(executor.map(time.sleep, [0.3] * 3, timeout=0.5)))
        except TimeoutError:
            print("over")
        print(frozen.call_count - calls)
    """)

    assert (end.stdout, end.stderr) == ("over\n0\n", "")


def test_the_limit_of_a_shutdown_passes_although_the_clock_stands_still(
    used: AsyncLoopExecutor, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    used.submit(held.coroutine)
    held.started.wait()

    with frozen(monkeypatch):
        outcome = ended(functools.partial(used.shutdown, timeout=LIMIT))
    held.open_all()

    assert outcome == [palitra.CallTimeoutError]


@each_wait
def test_the_clean_ups_second_passes_although_the_clock_stands_still(
    used: AsyncLoopExecutor, held: Held, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    with frozen(monkeypatch):
        outcome = ended(lambda: blocking(used, what, held.coroutine(), LIMIT))
    held.open_all()

    assert outcome == [palitra.CallTimeoutError]


def test_a_clock_that_jumps_ends_no_wait_early(
    used: AsyncLoopExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests that move the clock forward by a day."""

    async def call() -> str:
        await asyncio.to_thread(time.sleep, 1.2)
        return "in time"

    with monkeypatch.context() as patch:
        now, jumps = time.monotonic(), iter(range(0, 10**9, 86400))
        patch.setattr(time, "monotonic", lambda: now + next(jumps))
        assert used.run(call(), timeout=60) == "in time"
        assert used.submit(call).result(60) == "in time"


# An exception that arrives in the thread that waits


class Injected(Exception):
    """What a task queue raises in a thread whose job took too long."""


def inject(thread: threading.Thread) -> None:
    assert thread.ident is not None
    raised = ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread.ident), ctypes.py_object(Injected)
    )
    assert raised == 1


@contextmanager
def alarm_raises(seconds: float) -> Iterator[None]:
    def handle(*_: object) -> None:
        raise Injected

    previous = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


async def ignores_cancellation(held: Held) -> None:
    held.started.open()
    while not held.release.is_open:
        with suppress(asyncio.CancelledError):
            await held.release.passed()


@pytest.mark.parametrize("answers", [True, False])
@each_wait
def test_a_signal_handlers_exception_is_answered_soon(
    executor: AsyncLoopExecutor, held: Held, what: str, answers: bool
) -> None:
    """The clean-up has a second; a call that ignores its cancellation does not hold the thread."""
    held.cleanup.open()
    coro = held.coroutine() if answers else ignores_cancellation(held)

    with alarm_raises(0.05), pytest.raises(Injected):
        begun = time.perf_counter()
        blocking(executor, what, coro, 60)
    seconds = time.perf_counter() - begun
    held.open_all()

    assert seconds < (1 if answers else 3)


@pytest.mark.parametrize("answers", [True, False])
@each_wait
def test_an_exception_injected_into_another_thread_is_answered_soon(
    executor: AsyncLoopExecutor, held: Held, what: str, answers: bool
) -> None:
    held.cleanup.open()
    outcome: list[type] = []

    def wait() -> None:
        coro = held.coroutine() if answers else ignores_cancellation(held)
        try:
            blocking(executor, what, coro, 60)
        except Injected as error:
            outcome.append(type(error))

    thread = in_thread(wait)
    held.started.wait()
    begun = time.perf_counter()
    inject(thread)
    thread.join(PATIENCE)
    seconds = time.perf_counter() - begun
    held.open_all()

    assert outcome == [Injected]
    assert seconds < (2.5 if answers else 4)
    if answers:
        assert held.cancelled.is_open


@pytest.mark.parametrize("bridge", ["next", "sync_context", "enter_context"])
def test_an_exception_injected_into_a_bridges_thread_is_answered_soon(
    executor: AsyncLoopExecutor, held: Held, bridge: str
) -> None:
    held.cleanup.open()
    outcome: list[type] = []

    async def items() -> Any:
        yield await held.coroutine()

    class Context:
        async def __aenter__(self) -> object:
            return await held.coroutine()

        async def __aexit__(self, *_: object) -> None: ...

    def wait() -> None:
        with suppress(Injected):
            if bridge == "next":
                next(executor.sync_iter(items()))
            elif bridge == "sync_context":
                executor.sync_context(Context()).__enter__()
            else:
                executor.enter_context(Context())
            return
        outcome.append(Injected)

    thread = in_thread(wait)
    held.started.wait()
    inject(thread)
    thread.join(PATIENCE)
    held.open_all()

    assert outcome == [Injected]


def test_a_wait_for_a_future_can_be_ended_from_outside_and_the_call_goes_on(
    executor: AsyncLoopExecutor, held: Held
) -> None:
    future = executor.submit(held.coroutine, 1)
    outcome: list[type] = []

    def wait() -> None:
        try:
            future.result(60)
        except Injected:
            outcome.append(Injected)

    thread = in_thread(wait)
    held.started.wait()
    while "_sleepers" not in vars(future):  # the thread does not wait yet
        time.sleep(0.001)
    inject(thread)
    thread.join(PATIENCE)
    running = future.running()
    held.open_all()

    assert outcome == [Injected]
    assert running
    assert future.result(PATIENCE) == 1


# Names


@pytest.mark.parametrize("when", ["at once", "later"])
@pytest.mark.parametrize("way", ["run", "run with a timeout", "submit", "coroutine", "gather"])
def test_asyncios_debug_log_names_the_users_coroutine(
    caplog: pytest.LogCaptureFixture, way: str, when: str
) -> None:
    async def block_the_loop() -> None:
        if when == "later":
            await asyncio.sleep(0)
        time.sleep(0.15)  # noqa: ASYNC251

    with caplog.at_level(logging.WARNING, "asyncio"), AsyncLoopExecutor(debug=True) as executor:
        if way == "run":
            executor.run(block_the_loop())
        elif way == "run with a timeout":
            executor.run(block_the_loop(), timeout=60)
        elif way == "submit":
            executor.submit(block_the_loop).result()
        elif way == "coroutine":
            executor.submit(block_the_loop()).result()
        else:
            executor.gather(block_the_loop())
        executor.run(asyncio.sleep(0.01))

    slow = [record.getMessage() for record in caplog.records if " took " in record.getMessage()]
    assert any("block_the_loop" in message for message in slow), slow


def test_asyncios_debug_log_names_what_a_bridge_is_over(caplog: pytest.LogCaptureFixture) -> None:
    async def blocking_items() -> AsyncIterator[int]:
        time.sleep(0.15)  # noqa: ASYNC251
        yield 1

    @asynccontextmanager
    async def blocking_context() -> AsyncIterator[None]:
        time.sleep(0.15)  # noqa: ASYNC251
        yield

    with caplog.at_level(logging.WARNING, "asyncio"), AsyncLoopExecutor(debug=True) as executor:
        list(executor.sync_iter(blocking_items))
        list(executor.sync_iter(blocking_items, buffersize=1))
        with executor.sync_context(blocking_context):
            pass
        executor.enter_context(blocking_context())
        executor.cached_context(blocking_context)()
        executor.run(asyncio.sleep(0.01))

    # On a busy machine something else may be slow, too.
    slow = [record.getMessage() for record in caplog.records if " took " in record.getMessage()]
    named = [message for message in slow if "blocking_" in message]
    assert sum("name='the iterator over" in message for message in named) >= 2, slow
    assert sum("name='the context" in message for message in named) >= 3, slow


@pytest.mark.parametrize("way", ["run", "submit", "coroutine", "gather"])
def test_all_tasks_show_the_users_coroutine(executor: AsyncLoopExecutor, way: str) -> None:
    async def look_around() -> list[str]:
        await asyncio.sleep(0)
        return [repr(task) for task in asyncio.all_tasks()]

    ways: dict[str, Callable[[], list[str]]] = {
        "run": lambda: executor.run(look_around()),
        "submit": lambda: executor.submit(look_around).result(),
        "coroutine": lambda: executor.submit(look_around()).result(),
        "gather": lambda: executor.gather(look_around())[0],
    }
    shown = ways[way]()

    assert any("look_around" in task for task in shown), shown


# Small things of the same kinds


def test_by_default_there_are_as_many_threads_as_in_a_thread_pool() -> None:
    pool = ThreadPoolExecutor()

    assert AsyncLoopExecutor()._max_workers == pool._max_workers


def test_run_in_a_context_on_the_loops_thread_is_a_deadlock(executor: AsyncLoopExecutor) -> None:
    free = contextvars.copy_context()

    async def call(context: contextvars.Context) -> None:
        executor.run(value_of(None), context=context)

    async def call_in_its_own() -> None:
        executor.run(value_of(None), context=mine)

    with pytest.raises(DeadlockError):
        executor.run(call(free))
    mine = contextvars.copy_context()
    with pytest.raises(DeadlockError):  # although the context is in use, too
        executor.run(call_in_its_own(), context=mine)


class Weakly(Exception):
    pass


@pytest.mark.parametrize("failed", ["before", "meanwhile"])
def test_gather_of_a_failed_future_leaves_no_cycle(
    executor: AsyncLoopExecutor, held: Held, failed: str
) -> None:
    async def fail() -> None:
        if failed == "meanwhile":
            await held.release.passed()
        raise Weakly

    def gather() -> weakref.ref[Any]:
        future = executor.submit(fail)
        if failed == "before":
            future.exception(PATIENCE)
        opener = in_thread(held.open_all)
        try:
            executor.gather(future, value_of(1))
        except Weakly as error:
            del future  # or this frame, which is in the traceback, would make the cycle
            opener.join()
            return weakref.ref(error)
        raise AssertionError

    gc.collect()
    gc.disable()
    try:
        seen = gather()
        executor.run(value_of(None))
        left = seen()
    finally:
        gc.enable()
    if left is not None and sysconfig.get_config_var("Py_GIL_DISABLED"):
        del left  # objects go after a collection there
        gc.collect()
        left = seen()

    assert left is None


def test_a_patched_sleep_does_not_disturb_gather(
    executor: AsyncLoopExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests replace asyncio.sleep by something that does not wait."""

    async def no_sleep(delay: float, result: Any = None) -> Any:
        return result

    def broken_sleep(*_: object) -> None:
        raise AssertionError("not the user's own call")

    async def value(number: int) -> int:
        return number

    for replacement in (no_sleep, broken_sleep):
        with monkeypatch.context() as patch:
            patch.setattr(asyncio, "sleep", replacement)
            patch.setattr(asyncio.tasks, "sleep", replacement)
            assert executor.gather(*map(value, range(500))) == list(range(500))
            assert executor.run(value(1), timeout=60) == 1


def test_nothing_is_accepted_once_a_shutdown_has_returned(quick_loop: dict[str, Any]) -> None:
    for _ in range(10):
        executor = AsyncLoopExecutor(**quick_loop)
        executor.run(value_of(None))
        late: list[Any] = []
        shut = Gate()

        def submit(
            executor: AsyncLoopExecutor = executor, late: list[Any] = late, shut: Gate = shut
        ) -> None:
            while True:
                after = shut.is_open
                try:
                    future = executor.submit(value_of, 1)
                except RuntimeError:
                    return
                if after:
                    late.append(future)
                time.sleep(0.0001)

        submitters = [in_thread(submit) for _ in range(2)]
        executor.shutdown(wait=False)
        shut.open()
        for submitter in submitters:
            submitter.join(PATIENCE)
        executor.shutdown()
        assert late == []
