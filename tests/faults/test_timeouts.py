"""A call that outlasts its time, and a loop that does not come back."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import palitra

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

THIS_FILE = Path(__file__).name
LIMIT = 10.0
LATE = 4.0  # seconds after which a call ends by itself: well past the grace, which is one second


class Gate:
    """What blocks a loop, in C: the innermost frame is the one that waits."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.lock.acquire()

    def open(self) -> None:
        with suppress(RuntimeError):  # open already
            self.lock.release()


@pytest.fixture
def gate() -> Iterator[Gate]:
    """Opened at the end of the test in any case."""
    gate = Gate()
    yield gate
    gate.open()


def block(gate: Gate, limit: float = LIMIT) -> None:
    gate.lock.acquire(timeout=limit)


def time_out(wait: Callable[[float], object], started: threading.Event) -> TimeoutError:
    """Let *wait* time out while its call runs: on a busy machine, not at once."""
    timeout = 0.01
    while True:
        with pytest.raises(TimeoutError) as caught:
            wait(timeout)
        if started.is_set():
            return caught.value
        timeout *= 2


def notes(error: BaseException) -> str:
    return "\n".join(getattr(error, "__notes__", ()))


class TestTimeouts:
    def test_the_cleanup_is_over_when_run_raises(self, executor: palitra.AsyncLoopExecutor) -> None:
        started = threading.Event()
        steps = []

        async def call() -> None:
            try:
                started.set()
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.05)
                steps.append("cleaned up")

        error = time_out(lambda timeout: executor.run(call(), timeout=timeout), started)

        assert steps == ["cleaned up"]
        assert notes(error) == ""

    def test_of_gather_cancels_what_it_started(self, executor: palitra.AsyncLoopExecutor) -> None:
        started = threading.Event()
        steps = []

        async def call() -> None:
            try:
                started.set()
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.05)
                steps.append("cleaned up")

        given = executor.submit(asyncio.Event().wait)
        time_out(lambda timeout: executor.gather(call(), call(), given, timeout=timeout), started)
        running = given.running()
        given.cancel()

        assert steps == ["cleaned up"] * 2
        assert running

    def test_are_raised_where_a_cancelled_coroutine_answers_with_an_error(
        self, executor: palitra.AsyncLoopExecutor
    ) -> None:
        started = threading.Event()

        async def call() -> None:
            try:
                started.set()
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise ValueError from None

        time_out(lambda timeout: executor.run(call(), timeout=timeout), started)

    def test_an_exceptions_own_timeout_error_is_raised_as_it_is(
        self, executor: palitra.AsyncLoopExecutor
    ) -> None:
        error = TimeoutError("the coroutine's own")

        async def call() -> None:
            raise error

        with pytest.raises(TimeoutError) as caught:
            executor.run(call(), timeout=60)

        assert caught.value is error
        assert notes(error) == ""

    @pytest.mark.parametrize("wait", ["run", "gather"])
    def test_a_coroutine_that_ignores_cancellation_is_left_with_a_note(
        self, executor: palitra.AsyncLoopExecutor, wait: str
    ) -> None:
        let_go = asyncio.Event()
        started = threading.Event()
        ended = threading.Event()

        async def ignore_cancellation() -> None:
            started.set()
            while not let_go.is_set():
                try:
                    await let_go.wait()
                except asyncio.CancelledError:
                    asyncio.get_running_loop().call_later(LATE, let_go.set)
            ended.set()

        blocking = executor.run if wait == "run" else executor.gather
        error = time_out(lambda timeout: blocking(ignore_cancellation(), timeout=timeout), started)
        left = not ended.is_set()
        went_on = executor.run(asyncio.sleep(0, "goes on"))
        executor.get_loop().call_soon_threadsafe(let_go.set)

        assert left
        assert went_on == "goes on"
        assert ended.wait(LIMIT)
        # Where the coroutine waits, and where the loop's thread stands.
        note = notes(error)
        assert "selectors.py" in note or "in OwnLoop" in note
        assert ("ignore_cancellation" if wait == "run" else "gather of 1") in note

    @pytest.mark.parametrize("wait", ["run", "gather"])
    def test_a_blocked_loop_is_left_with_a_note_that_says_where_it_stands(
        self, executor: palitra.AsyncLoopExecutor, gate: Gate, wait: str
    ) -> None:
        started = threading.Event()
        ended = threading.Event()

        async def call() -> None:
            started.set()
            block(gate, LATE)
            ended.set()

        blocking = executor.run if wait == "run" else executor.gather
        error = time_out(lambda timeout: blocking(call(), timeout=timeout), started)
        left = not ended.is_set()

        gate.open()
        assert left
        line = inspect.getsourcelines(block)[1] + 1
        note = notes(error)
        assert THIS_FILE in note
        assert f"line {line}" in note or f":{line}" in note
        assert "block" in note
        assert executor.run(asyncio.sleep(0, "goes on")) == "goes on"

    @pytest.mark.parametrize("wait", ["run", "gather"])
    def test_a_call_behind_another_that_blocks_the_loop_never_starts(
        self, executor: palitra.AsyncLoopExecutor, gate: Gate, wait: str
    ) -> None:
        blocked = threading.Event()
        started: list[bool] = []

        async def call() -> None:
            blocked.set()
            block(gate, LATE)

        async def behind() -> None:
            started.append(True)

        blocking = executor.submit(call)
        blocked.wait(LIMIT)
        with pytest.raises(TimeoutError) as caught:
            (executor.run if wait == "run" else executor.gather)(behind(), timeout=0.01)
        left = not blocking.done()

        gate.open()
        assert left
        assert THIS_FILE in notes(caught.value)
        assert " in block" in notes(caught.value)
        blocking.result(LIMIT)
        executor.run(asyncio.sleep(0))
        assert not started

    def test_of_zero_leaves_a_coroutine_no_time(self, executor: palitra.AsyncLoopExecutor) -> None:
        with pytest.raises(TimeoutError):
            executor.run(asyncio.Event().wait(), timeout=0)

    def test_leave_no_task_behind_that_keeps_a_program(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        assert printed_by("""
            async def call():
                try:
                    started.set()
                    await asyncio.Event().wait()
                finally:
                    say("cleaned up")

            while not started.is_set():  # a busy machine takes its time
                try:
                    palitra.run(call(), timeout=0.1)
                except TimeoutError:
                    pass
            say("timed out")
        """) == ["cleaned up", "timed out"]

    def test_an_abandoned_coroutine_is_waited_for_at_exit(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        assert printed_by("""
            async def call():
                while True:
                    try:
                        await main_thread_ended()
                    except asyncio.CancelledError:
                        continue
                    break
                say("finished")

            while not started.is_set():  # a busy machine takes its time
                try:
                    palitra.run(call(), timeout=0.1)
                except TimeoutError as error:
                    noted = hasattr(error, "__notes__")
            say("timed out", noted)
        """) == ["timed out True", "finished"]

    @pytest.mark.parametrize("wait", ["run", "gather"])
    def test_tell_a_program_where_the_blocked_loop_stands(
        self, printed_by: Callable[..., list[str]], wait: str
    ) -> None:
        assert printed_by(
            f"wait, late = palitra.{wait}, {LATE}",
            """
            def block():
                started.set()
                gate.acquire(timeout=late)

            async def call():
                block()

            gate = threading.Lock()
            gate.acquire()
            while not started.is_set():  # a busy machine takes its time
                try:
                    wait(call(), timeout=0.1)
                except TimeoutError as error:
                    notes = error.__notes__ if started.is_set() else []
            gate.release()
            line = block.__code__.co_firstlineno + 2
            say([note.endswith(f" at {__file__}:{line} in block") for note in notes])
            use(palitra.get_executor())
            """,
        ) == ["[True]"]


class TestBlockedLoops:
    def test_outstanding_calls_finish_once_the_loop_is_back(
        self, executor: palitra.AsyncLoopExecutor
    ) -> None:
        async def call() -> None:
            time.sleep(0.3)  # noqa: ASYNC251  (to block the loop is the point)

        async def double(number: int) -> int:
            await asyncio.sleep(0)
            return 2 * number

        blocking = executor.submit(call)
        futures = [executor.submit(double, number) for number in range(100)]

        assert [future.result(LIMIT) for future in futures] == list(range(0, 200, 2))
        assert blocking.result() is None

    def test_plain_callables_run_meanwhile(
        self, executor: palitra.AsyncLoopExecutor, gate: Gate
    ) -> None:
        async def call() -> None:
            block(gate)

        blocking = executor.submit(call)

        assert executor.submit(str, 1).result(LIMIT) == "1"
        assert not blocking.done()
        gate.open()
        assert blocking.result(LIMIT) is None
