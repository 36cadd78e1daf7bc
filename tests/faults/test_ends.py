"""Ends with a limit: shutdown(timeout=), exit_timeout, services that nobody waits for."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from concurrent.futures import BrokenExecutor, wait
from typing import TYPE_CHECKING, Any

import pytest

import palitra

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from interpreters import Child

SOON = 5.0

# -- shutdown(timeout=) -------------------------------------------------------------------------


class Gate:
    """What a coroutine or a thread waits at, until it is opened from outside."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._open = threading.Event()

    def open(self) -> None:
        self._open.set()

    async def pass_through(self) -> str:
        self.reached.set()
        while not self._open.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)
        return "passed"

    def block(self) -> str:
        self.reached.set()
        assert self._open.wait(SOON)
        return "passed"


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()


@pytest.fixture
def executor(loop_flavour: dict[str, Any]) -> palitra.AsyncLoopExecutor:
    return palitra.AsyncLoopExecutor(**loop_flavour)


def gil_is_enabled() -> bool:
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


def assert_names(executor: palitra.AsyncLoopExecutor, gate: Gate, *texts: str) -> None:
    """Shutdown names what is left, again and again, and ends once that has ended."""
    assert gate.reached.wait(SOON)
    for _ in range(2):
        with pytest.raises(palitra.CallTimeoutError) as caught:
            executor.shutdown(timeout=0.05)
        message = str(caught.value)
        assert message.startswith("shutdown() timed out after 0.05 s, still waiting for ")
        for text in texts:
            assert text in message
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(pow, 2, 3)
    gate.open()
    executor.shutdown(timeout=SOON)


def test_a_shutdown_names_the_call_that_is_left(
    executor: palitra.AsyncLoopExecutor, gate: Gate
) -> None:
    future = executor.submit(gate.pass_through)
    places = ["test_ends.py"] if gil_is_enabled() else []
    assert_names(executor, gate, "Gate.pass_through", *places)
    assert future.result(0) == "passed"


def test_a_shutdown_names_the_callable_that_is_left(
    executor: palitra.AsyncLoopExecutor, gate: Gate
) -> None:
    future = executor.submit(gate.block)
    assert_names(executor, gate, "Gate.block (submit, running for ", "test_ends.py")
    assert future.result(0) == "passed"


def test_a_shutdown_names_the_context_that_is_left(
    executor: palitra.AsyncLoopExecutor, gate: Gate
) -> None:
    @contextlib.asynccontextmanager
    async def pool() -> AsyncIterator[None]:
        yield
        await gate.pass_through()

    executor.enter_context(pool)
    executor.shutdown(wait=False)
    assert_names(executor, gate, "pool")


def test_a_shutdown_names_the_callback_that_is_left(
    executor: palitra.AsyncLoopExecutor, gate: Gate
) -> None:
    executor.push_async_callback(gate.pass_through)
    executor.shutdown(wait=False)
    assert_names(executor, gate, "Gate.pass_through")


def test_a_shutdown_names_the_thread_of_asyncio_that_is_left(
    executor: palitra.AsyncLoopExecutor, gate: Gate
) -> None:
    async def call() -> None:
        asyncio.get_running_loop().run_in_executor(None, gate.block)

    executor.run(call())
    assert gate.reached.wait(SOON)
    while not gate._open._cond._waiters:  # type: ignore[attr-defined]  # it does not wait yet
        time.sleep(0.001)
    assert_names(executor, gate, "_asyncio_", "threading.py")


def test_a_shutdown_names_stray_tasks_as_clean_up(
    executor: palitra.AsyncLoopExecutor, gate: Gate
) -> None:
    tasks = []

    async def call() -> None:
        tasks.append(asyncio.create_task(gate.pass_through()))

    executor.run(call())
    assert_names(executor, gate, "clean-up")


def test_a_shutdown_names_no_more_than_ten_calls(
    executor: palitra.AsyncLoopExecutor, gate: Gate
) -> None:
    for _ in range(12):
        executor.submit(gate.pass_through)
    assert_names(executor, gate, "2 more")


def test_a_shutdown_whose_limit_has_passed_ends_later_by_itself(
    executor: palitra.AsyncLoopExecutor, gate: Gate
) -> None:
    future = executor.submit(gate.pass_through)
    left = threading.Event()

    async def leave() -> None:
        left.set()

    executor.push_async_callback(leave)
    with pytest.raises(palitra.CallTimeoutError):
        executor.shutdown(timeout=0)
    assert not left.is_set()
    gate.open()
    assert left.wait(SOON)
    assert future.result(SOON) == "passed"


def test_a_shutdown_may_cancel_after_its_limit(executor: palitra.AsyncLoopExecutor) -> None:
    future = executor.submit(asyncio.sleep, 3600)
    with pytest.raises(palitra.CallTimeoutError, match="sleep"):
        executor.shutdown(timeout=0.05)
    executor.shutdown(cancel_futures=True, timeout=SOON)
    assert future.cancelled()


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("-inf")])
def test_no_limit_is_negative(timeout: float) -> None:
    executor = palitra.AsyncLoopExecutor()
    with pytest.raises(ValueError, match="timeout must be a number of seconds"):
        executor.shutdown(timeout=timeout)
    with pytest.raises(ValueError, match="exit_timeout must be a number of seconds"):
        palitra.AsyncLoopExecutor(exit_timeout=timeout)
    assert executor.submit(pow, 2, 3).result() == 8  # nothing has changed
    executor.shutdown(timeout=float("inf"))


def test_a_limit_needs_a_waiting() -> None:
    executor = palitra.AsyncLoopExecutor()
    with pytest.raises(ValueError, match=r"shutdown\(wait=False\) waits for nothing"):
        executor.shutdown(wait=False, timeout=1)
    assert executor.submit(pow, 2, 3).result() == 8
    executor.shutdown()


@pytest.mark.parametrize("timeout", ["soon", object()])
def test_a_limit_is_a_number(timeout: Any) -> None:
    executor = palitra.AsyncLoopExecutor()
    with pytest.raises((TypeError, ValueError)):
        executor.shutdown(timeout=timeout)
    executor.shutdown()


def test_the_default_executors_shutdown_has_a_limit_too(gate: Gate) -> None:
    palitra.get_executor().submit(gate.pass_through)
    assert gate.reached.wait(SOON)
    with pytest.raises(palitra.CallTimeoutError, match=r"Gate.pass_through"):
        palitra.shutdown(timeout=0.05)
    gate.open()
    palitra.shutdown(timeout=SOON)


def test_limits_pass_although_the_clock_is_frozen(
    monkeypatch: pytest.MonkeyPatch, gate: Gate, executor: palitra.AsyncLoopExecutor
) -> None:
    executor.submit(gate.block)
    assert gate.reached.wait(SOON)
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    with pytest.raises(palitra.CallTimeoutError):
        executor.shutdown(timeout=0.2)
    monkeypatch.undo()
    gate.open()
    executor.shutdown()


# -- services -----------------------------------------------------------------------------------


class Service:
    def __init__(self, log: list[str] | None = None) -> None:
        self.begun = threading.Event()
        self.log: list[str] = [] if log is None else log

    async def run(self) -> None:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            self.log.append("service")


def test_a_service_is_cancelled_after_the_calls_and_before_contexts(
    executor: palitra.AsyncLoopExecutor,
) -> None:
    service = Service()

    @contextlib.asynccontextmanager
    async def pool() -> AsyncIterator[None]:
        yield
        service.log.append("context")

    async def call() -> None:
        await asyncio.sleep(0.1)
        service.log.append("call")

    with executor:
        executor.enter_context(pool)
        future = executor.submit_service(service.run)
        assert service.begun.wait(SOON)
        executor.submit(call)
    assert service.log == ["call", "service", "context"]
    assert future.cancelled()


@pytest.mark.parametrize("way", ["shutdown", "aclose"])
def test_calls_that_are_cancelled_have_their_services_during_their_clean_up(
    executor: palitra.AsyncLoopExecutor, way: str
) -> None:
    log: list[str] = []
    letters: asyncio.Queue[asyncio.Event] = asyncio.Queue()
    waits = threading.Event()

    async def post_office() -> None:
        try:
            while True:
                (await letters.get()).set()
        finally:
            log.append("service")

    async def call() -> None:
        try:
            waits.set()
            await asyncio.Event().wait()
        finally:
            received = asyncio.Event()
            letters.put_nowait(received)
            await received.wait()
            log.append("call")

    executor.submit_service(post_office)
    future = executor.submit(call)
    assert waits.wait(SOON)
    if way == "shutdown":
        executor.shutdown(cancel_futures=True, timeout=SOON)
    else:
        asyncio.run(asyncio.wait_for(executor.aclose(cancel_futures=True), SOON))
    assert future.cancelled()
    assert log == ["call", "service"]


def test_a_coroutine_may_be_a_service(executor: palitra.AsyncLoopExecutor) -> None:
    service = Service()
    with executor:
        future = executor.submit_service(service.run())
        assert service.begun.wait(SOON)
    assert future.cancelled()


def test_a_service_does_not_count(loop_flavour: dict[str, Any]) -> None:
    services = [Service(), Service()]
    with palitra.AsyncLoopExecutor(max_workers=1, **loop_flavour) as executor:
        for service in services:
            executor.submit_service(service.run)
        for service in services:
            assert service.begun.wait(SOON)
        assert executor.submit(asyncio.sleep, 0, "one").result(SOON) == "one"
        futures = [executor.submit(asyncio.sleep, 0.01, n) for n in range(3)]
        assert [future.result(SOON) for future in futures] == [0, 1, 2]


def test_a_service_may_be_cancelled_and_may_end(executor: palitra.AsyncLoopExecutor) -> None:
    service = Service()
    with executor:
        future = executor.submit_service(service.run)
        assert service.begun.wait(SOON)
        assert future.cancel()
        assert wait([future], SOON).done
        assert future.cancelled()
        assert executor.submit_service(asyncio.sleep, 0, "end").result(SOON) == "end"


@pytest.mark.parametrize("frozen", [False, True])
def test_a_service_that_ignores_its_cancellation_has_a_second(
    start: Callable[..., Child], frozen: bool
) -> None:
    end = start(
        """
        async def serve():
            begun.set()
            while True:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    pass

        begun = threading.Event()
        executor = palitra.AsyncLoopExecutor()
        executor.submit_service(serve)
        begun.wait()
        now = time.monotonic
        """,
        "time.monotonic = lambda: 1000.0" if frozen else "",
        """
        began = now()
        executor.shutdown()
        say(0.9 < now() - began < 4)
        """,
    ).finish()
    assert end.stdout == "True\n"
    assert "left behind at the end: serve" in end.stderr
    assert len(end.stderr.splitlines()) == 1
    assert end.returncode == 0


def test_what_is_no_coroutine_is_no_service(executor: palitra.AsyncLoopExecutor) -> None:
    async def items() -> AsyncIterator[int]:
        yield 1

    with executor:
        wrongs: list[Any] = [pow, 1, None, items, items(), lambda: 1]
        for wrong in wrongs:
            with pytest.raises(TypeError, match=r"submit_service\(\) takes a coroutine function"):
                executor.submit_service(wrong)
        with pytest.raises(TypeError, match="a coroutine takes no arguments"):
            executor.submit_service(asyncio.sleep(0), 1)


def test_a_refused_service_is_closed(executor: palitra.AsyncLoopExecutor) -> None:
    executor.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit_service(asyncio.sleep(0))


class Reports:
    """What the loop's exception handler is told."""

    def __init__(self, executor: palitra.AsyncLoopExecutor) -> None:
        self.contexts: list[dict[str, Any]] = []
        self.told = threading.Event()
        executor.get_loop().set_exception_handler(self._tell)

    def _tell(self, _: object, context: dict[str, Any]) -> None:
        self.contexts.append(context)
        self.told.set()


async def fail(gate: Gate | None = None) -> None:
    if gate is not None:
        await gate.pass_through()
    raise ZeroDivisionError


def test_a_service_that_dies_unasked_is_reported(executor: palitra.AsyncLoopExecutor) -> None:
    with executor:
        reports = Reports(executor)
        future = executor.submit_service(fail)
        assert reports.told.wait(SOON)
        assert type(future.exception(SOON)) is ZeroDivisionError
    (context,) = reports.contexts
    assert context["message"] == "the service fail has failed"
    assert type(context["exception"]) is ZeroDivisionError


@pytest.mark.parametrize("how", ["result", "exception", "callback", "wait", "an earlier wait"])
def test_a_service_that_dies_asked_is_not_reported(
    executor: palitra.AsyncLoopExecutor, gate: Gate, how: str
) -> None:
    with executor:
        reports = Reports(executor)
        future = executor.submit_service(fail, gate)
        assert gate.reached.wait(SOON)
        threads = []
        if how == "callback":
            future.add_done_callback(lambda _: None)
        elif how == "an earlier wait":
            with pytest.raises(TimeoutError):
                future.result(0.01)
        else:

            def ask_for_result() -> None:
                with pytest.raises(ZeroDivisionError):
                    future.result()

            ways: dict[str, Callable[[], object]] = {
                "result": ask_for_result,
                "exception": future.exception,
                "wait": lambda: wait([future]),
            }
            ask = ways[how]
            thread = threading.Thread(target=ask)
            threads.append(thread)
            thread.start()
            while not {"_sleepers", "_waiters"} & future.__dict__.keys():
                time.sleep(0.001)
        gate.open()
        assert wait([future], SOON).done
        for thread in threads:
            thread.join()
        executor.run(asyncio.sleep(0))
    assert reports.contexts == []


def test_a_service_whose_clean_up_fails_is_reported(executor: palitra.AsyncLoopExecutor) -> None:
    begun = threading.Event()

    async def serve() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise ZeroDivisionError

    with executor:
        reports = Reports(executor)
        executor.submit_service(serve)
        assert begun.wait(SOON)
    assert [type(context["exception"]) for context in reports.contexts] == [ZeroDivisionError]


# -- set_executor -------------------------------------------------------------------------------


@pytest.fixture
def own_default() -> Iterator[None]:
    before = palitra.set_executor(None)
    yield
    after = palitra.set_executor(before)
    if after is not None:
        after.shutdown()


@pytest.mark.usefixtures("own_default")
class TestSetExecutor:
    @pytest.mark.parametrize("wrong", [1, "executor", palitra.AsyncLoopExecutor])
    def test_takes_executors_alone(self, wrong: Any) -> None:
        with pytest.raises(TypeError, match="takes an AsyncLoopExecutor or None"):
            palitra.set_executor(wrong)

    def test_takes_none_that_has_ended(self) -> None:
        executor = palitra.AsyncLoopExecutor()
        executor.shutdown()
        with pytest.raises(ValueError, match="takes an executor that takes calls"):
            palitra.set_executor(executor)

    def test_returns_the_one_that_was_there(self) -> None:
        default = palitra.get_executor()
        with palitra.AsyncLoopExecutor() as one, palitra.AsyncLoopExecutor() as other:
            assert palitra.set_executor(one) is default
            assert palitra.get_executor() is one
            assert palitra.set_executor(other) is one
            assert palitra.set_executor(None) is other
            assert palitra.set_executor(None) is None
        assert palitra.get_executor() not in (one, other, default)
        default.shutdown()

    def test_is_not_undone_by_the_end_of_the_executor(self) -> None:
        with palitra.AsyncLoopExecutor() as executor:
            palitra.set_executor(executor)
            assert palitra.run(asyncio.sleep(0, 1)) == 1
        for _ in range(2):
            with pytest.raises(RuntimeError, match="after shutdown"):
                palitra.run(asyncio.sleep(0))
            assert palitra.get_executor() is executor
        palitra.shutdown()  # it has ended
        palitra.set_executor(None)
        assert palitra.run(asyncio.sleep(0, 1)) == 1

    def test_hands_each_executor_back_once_to_many_threads(self) -> None:
        executors = [palitra.AsyncLoopExecutor() for _ in range(8)]
        barrier = threading.Barrier(8)
        returned: list[Any] = []

        def swap(executor: palitra.AsyncLoopExecutor) -> None:
            barrier.wait()
            returned.extend(palitra.set_executor(executor) for _ in range(200))

        threads = [threading.Thread(target=swap, args=(executor,)) for executor in executors]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        returned.append(palitra.set_executor(None))
        assert returned.count(None) == 1
        assert [returned.count(executor) for executor in executors] == [200] * 8

    def test_is_used_by_what_was_decorated_before(self) -> None:
        @palitra.sync
        async def loop() -> asyncio.AbstractEventLoop:
            return asyncio.get_running_loop()

        with palitra.AsyncLoopExecutor() as executor:
            palitra.set_executor(executor)
            assert loop() is executor.get_loop()


# -- the end of the process ---------------------------------------------------------------------

STUBBORN = """
async def stubborn():
    begun.set()
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass

future = executor.submit(stubborn)
"""

HEAD = """
begun = threading.Event()
executor = palitra.AsyncLoopExecutor(exit_timeout=EXIT_TIMEOUT)
"""


@pytest.fixture
def mode() -> tuple[str, ...]:
    """Nothing here depends on the development mode."""
    return ()


@pytest.mark.parametrize(
    ("leaving", "code", "shown"),
    [("", 0, []), ("1 / 0", 1, ["ZeroDivisionError: division by zero"])],
    ids=["end", "uncaught"],
)
def test_exit_timeout_keeps_the_exit_code(
    start: Callable[..., Child], leaving: str, code: int, shown: list[str]
) -> None:
    head = HEAD.replace("EXIT_TIMEOUT", "0.1")
    end = start(head, STUBBORN, "begun.wait()", leaving).finish()
    *lines, last = end.stderr.splitlines()
    assert last.startswith("left behind at exit: stubborn")
    assert lines[-1:] == shown
    assert end.returncode == code


def test_a_thread_that_goes_on_outlives_the_limit(start: Callable[..., Child]) -> None:
    child = start(
        HEAD.replace("EXIT_TIMEOUT", "0.2"),
        """
        async def work():
            await asyncio.sleep(0.01)
            return "done"

        def call():
            begun.wait()
            for _ in range(3):
                time.sleep(0.3)
                say(executor.run(work()))

        executor.run(work())
        threading.Thread(target=call).start()
        begun.set()
        """,
    )
    end = child.finish()
    assert (end.stdout, end.stderr) == ("done\n" * 3, "")


def test_an_exit_within_its_limit_says_nothing(printed_by: Callable[..., list[str]]) -> None:
    assert printed_by(
        HEAD.replace("EXIT_TIMEOUT", "10"),
        """
        async def work():
            await asyncio.sleep(0.1)
            say("done")

        executor.submit(work)
        executor.submit_service(asyncio.sleep, 3600)
        """,
    ) == ["done"]


def test_what_a_limit_cancels_has_a_second_for_its_clean_up(
    start: Callable[..., Child],
) -> None:
    child = start(
        HEAD.replace("EXIT_TIMEOUT", "0.1"),
        """
        async def leave():
            say("left")

        async def work():
            begun.set()
            try:
                await asyncio.sleep(3600)
            finally:
                await asyncio.sleep(0.2)
                say("cleaned")

        executor.push_async_callback(leave)
        executor.submit(work)
        begun.wait()
        """,
    )
    end = child.finish()
    assert end.stdout.splitlines() == ["cleaned", "left"]
    assert (end.stderr, end.returncode) == ("", 0)


def test_broken_executor_is_what_an_abandoned_future_holds() -> None:
    executor = palitra.AsyncLoopExecutor()
    gate = Gate()
    future = executor.submit(gate.pass_through)
    assert gate.reached.wait(SOON)
    names = executor._service.ending.abandon_at_exit()
    assert "Gate.pass_through" in names
    assert isinstance(future.exception(0), BrokenExecutor)
    gate.open()
    executor._service.ending.shut_down()
