"""The stall watch: one line when user code holds the loop, one more when it goes on."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import importlib.util
import logging
import re
import signal
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import pytest

import palitra
from palitra._stacks import Threads, gil_is_enabled, in_callback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from interpreters import Python

LIMIT = 0.2
PATIENCE = 10.0


class Log(logging.Handler):
    """What the logger `palitra` says, and a wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []
        self._came = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        assert record.levelno == logging.WARNING
        with self._came:
            self.messages.append(record.getMessage())
            self._came.notify_all()

    def wait_for(self, number: int) -> list[str]:
        with self._came:
            assert self._came.wait_for(lambda: len(self.messages) >= number, PATIENCE)
        return self.messages


@pytest.fixture
def log() -> Iterator[Log]:
    log = Log()
    logging.getLogger("palitra").addHandler(log)
    yield log
    logging.getLogger("palitra").removeHandler(log)


LOOPS = ["asyncio", "uvloop"] if importlib.util.find_spec("uvloop") else ["asyncio"]


@pytest.fixture(params=LOOPS)
def loop_options(request: pytest.FixtureRequest) -> dict[str, Any]:
    if request.param == "uvloop":
        return {"loop_factory": importlib.import_module("uvloop").new_event_loop}
    return {}


@pytest.fixture
def watched(loop_options: dict[str, Any]) -> Iterator[palitra.AsyncLoopExecutor]:
    """An executor with a watch, over each kind of loop in turn."""
    with palitra.AsyncLoopExecutor(stall_timeout=LIMIT, **loop_options) as executor:
        yield executor


def hold(log: Log, messages: int = 1) -> None:
    """Hold the loop until the watch has said so."""
    log.wait_for(messages)


def work(seconds: float) -> None:
    time.sleep(seconds)


class TestAStallIsReported:
    def test_with_the_call_the_time_and_the_place_and_its_end(
        self, watched: palitra.AsyncLoopExecutor, log: Log
    ) -> None:
        async def outer() -> None:
            await inner()

        async def inner() -> None:
            plain()

        def plain() -> None:
            hold(log)

        watched.run(outer())
        stalled, goes_on = log.wait_for(2)

        first, *stack = stalled.splitlines()
        name = re.escape(outer.__qualname__)
        assert re.match(
            rf"\S+: the event loop has been held for \d\.\d s by {name} \(run, running for ", first
        )
        assert re.search(r", at \S+test_stalls.py:\d+ in ", first)
        for line, function in zip(stack, ("outer", "inner", "plain"), strict=False):
            assert re.search(rf"test_stalls\.py:\d+ in .*{function}: ", line)
        assert re.match(
            rf"\S+: the event loop goes on; it was held for \d\.\d s by {name}$", goes_on
        )

    def test_once_for_each(self, watched: palitra.AsyncLoopExecutor, log: Log) -> None:
        async def rude(messages: int) -> None:
            hold(log, messages)
            work(2 * LIMIT)  # another report would come by now

        watched.run(rude(1))
        log.wait_for(2)
        watched.run(rude(3))
        messages = log.wait_for(4)

        assert ["has been held" in message for message in messages] == [True, False, True, False]

    def test_of_python_code_that_computes(
        self, watched: palitra.AsyncLoopExecutor, log: Log
    ) -> None:
        async def computes() -> None:
            while not log.messages:
                pass

        watched.run(computes())

        assert "computes" in log.wait_for(2)[0]

    def test_in_a_task_of_a_call(self, watched: palitra.AsyncLoopExecutor, log: Log) -> None:
        async def child() -> None:
            hold(log)

        async def parent() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(child())

        watched.run(parent())
        first = log.wait_for(2)[0].splitlines()[0]

        assert "parent (run, running" in first
        assert re.search(r"at \S+test_stalls.py:\d+ in Log.wait_for$", first)

    def test_in_a_step_of_a_bridge(self, watched: palitra.AsyncLoopExecutor, log: Log) -> None:
        async def items() -> Any:
            hold(log)
            yield 1

        assert list(watched.sync_iter(items())) == [1]
        assert "items (iterator, running" in log.wait_for(2)[0]

    def test_in_a_finalizer(self, watched: palitra.AsyncLoopExecutor, log: Log) -> None:
        class Rude:
            def __del__(self) -> None:
                hold(log)

        async def drops() -> None:
            Rude()

        watched.run(drops())
        stalled = log.wait_for(2)[0]

        assert "drops (run, running" in stalled
        assert "in TestAStallIsReported.test_in_a_finalizer.<locals>.Rude.__del__" in stalled

    def test_of_a_callback_that_is_no_call(
        self, watched: palitra.AsyncLoopExecutor, log: Log
    ) -> None:
        def rude() -> None:
            hold(log)

        watched.get_loop().call_soon_threadsafe(rude)

        assert re.search(r"held for \d\.\d s by \S+rude, at ", log.wait_for(2)[0])

    @pytest.mark.skipif(
        not gil_is_enabled() or sys.platform != "linux", reason="C code lets others run"
    )
    def test_of_c_code_that_keeps_the_interpreter_lock(
        self, watched: palitra.AsyncLoopExecutor, log: Log
    ) -> None:
        async def searches() -> None:
            length, taken = 18, 0.0
            while taken < 3 * LIMIT:
                began = time.monotonic()
                re.match(r"(a+)+$", "a" * length + "b")
                taken = time.monotonic() - began
                length += 1
            # The thread of the watch has its turn now.
            while not log.messages and time.monotonic() < began + PATIENCE:
                pass

        watched.run(searches())

        assert "searches" in log.wait_for(2)[0]

    def test_over_the_applications_loop(self, log: Log, loop_options: dict[str, Any]) -> None:
        async def rude() -> None:
            hold(log)

        async def main() -> None:
            async with palitra.AsyncLoopExecutor.from_loop(stall_timeout=LIMIT) as executor:
                await asyncio.to_thread(executor.run, rude())
                hold(log, 3)  # no call's
                await asyncio.sleep(2 * LIMIT)

        with asyncio.Runner(**loop_options) as runner:
            runner.run(main())
        messages = log.wait_for(4)

        assert "rude (run, running" in messages[0]
        assert "main, at " in messages[2]


class TestNothingIsReported:
    @pytest.fixture(autouse=True)
    def collector(self) -> Iterator[None]:
        """Idle, since what it collects in the loop's thread is code in C that stalls the loop."""
        gc.collect()
        gc.disable()
        yield
        gc.enable()

    def test_of_a_loop_that_is_idle_and_it_is_not_woken(
        self, watched: palitra.AsyncLoopExecutor, log: Log
    ) -> None:
        loop = watched.get_loop()
        watched.run(asyncio.sleep(0))
        host = watched._service.host
        while in_callback(Threads().frames(host.ident), host.base):  # it does not sleep yet
            time.sleep(0.001)
        wake, woken = loop.call_soon_threadsafe, []

        def noted(*args: Any, **options: Any) -> Any:
            woken.append(args)
            return wake(*args, **options)

        with contextlib.suppress(AttributeError):  # of a loop that takes no other
            loop.call_soon_threadsafe = noted  # type: ignore[method-assign,assignment]
        time.sleep(4 * LIMIT)
        idle = [*woken]

        assert idle == []
        assert log.messages == []

    def test_of_a_loop_that_is_busy_with_many_things(
        self, watched: palitra.AsyncLoopExecutor, log: Log
    ) -> None:
        async def brief() -> None:
            work(0.002)

        async def often() -> None:
            until = time.monotonic() + 3 * LIMIT
            while time.monotonic() < until:
                work(0.002)
                await asyncio.sleep(0)

        futures = [watched.submit(brief) for _ in range(300)]
        watched.run(often())
        for future in futures:
            future.result()

        assert log.messages == []

    def test_of_many_callbacks_in_one_turn(
        self, quick_asyncio: palitra.AsyncLoopExecutor, log: Log
    ) -> None:
        done = threading.Event()

        def brief() -> None:
            work(0.002)

        def many() -> None:
            for _ in range(300):
                loop.call_soon(brief)
            loop.call_soon(done.set)

        loop = quick_asyncio.get_loop()
        loop.call_soon_threadsafe(many)
        assert done.wait(PATIENCE)

        assert log.messages == []

    @pytest.fixture
    def quick_asyncio(self) -> Iterator[palitra.AsyncLoopExecutor]:
        with palitra.AsyncLoopExecutor(stall_timeout=LIMIT) as executor:
            yield executor

    def test_of_a_worker_thread(self, watched: palitra.AsyncLoopExecutor, log: Log) -> None:
        watched.submit(time.sleep, 3 * LIMIT).result()

        assert log.messages == []

    @pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
    def test_of_a_process_that_was_stopped(self, python: Python) -> None:
        child = python.start(
            """
            import asyncio, os, sys, threading, time
            import palitra

            async def rude():
                print("held", flush=True)
                sys.stdin.readline()

            with palitra.AsyncLoopExecutor(stall_timeout=1.0) as executor:
                executor.run(rude())
            """
        )
        child.expect("held")
        child.send_signal(signal.SIGSTOP)
        time.sleep(1.5)
        child.send_signal(signal.SIGCONT)
        end = child.finish("\n")

        assert (end.returncode, end.stderr) == (0, "")

    def test_of_one_that_stands_at_a_debuggers_prompt(
        self, watched: palitra.AsyncLoopExecutor, log: Log
    ) -> None:
        async def is_debugged() -> None:
            exec("wait()", {"__name__": "pdb", "wait": lambda: time.sleep(3 * LIMIT)})

        watched.run(is_debugged())

        assert log.messages == []


class TestTheWatch:
    def test_is_off_by_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("PALITRA_STALL_TIMEOUT", raising=False)
        for limit in (None, 0, float("inf")):
            with palitra.AsyncLoopExecutor(stall_timeout=limit) as executor:
                executor.run(asyncio.sleep(0))
                names = [thread.name for thread in threading.enumerate()]
                assert not any(name.endswith("_stalls") for name in names)

    def test_is_on_where_the_environment_says_so_when_the_executor_is_made(
        self, monkeypatch: pytest.MonkeyPatch, log: Log
    ) -> None:
        async def rude() -> None:
            hold(log)

        monkeypatch.setenv("PALITRA_STALL_TIMEOUT", str(LIMIT))
        with palitra.AsyncLoopExecutor() as executor:
            monkeypatch.delenv("PALITRA_STALL_TIMEOUT")
            executor.run(rude())
            assert "rude" in log.wait_for(2)[0]

    @pytest.mark.parametrize("text", ["soon", "-1", "nan"])
    def test_names_the_variable_that_is_wrong(
        self, monkeypatch: pytest.MonkeyPatch, text: str
    ) -> None:
        monkeypatch.setenv("PALITRA_STALL_TIMEOUT", text)
        with pytest.raises(ValueError, match=f"PALITRA_STALL_TIMEOUT must be .*'{text}'"):
            palitra.AsyncLoopExecutor()

    @pytest.mark.parametrize("limit", [-1, float("nan")])
    def test_refuses_what_is_no_limit(self, limit: float) -> None:
        with pytest.raises(ValueError, match="stall_timeout must be"):
            palitra.AsyncLoopExecutor(stall_timeout=limit)

    def test_does_not_start_a_thread_before_the_first_call(self) -> None:
        before = threading.enumerate()
        with palitra.AsyncLoopExecutor(stall_timeout=LIMIT):
            assert threading.enumerate() == before

    def test_keeps_no_executor_and_no_value(self, loop_options: dict[str, Any], log: Log) -> None:
        class Value:
            pass

        async def rude(value: Value) -> None:
            hold(log)

        executor = palitra.AsyncLoopExecutor(stall_timeout=LIMIT, **loop_options)
        value = Value()
        gone = weakref.ref(value), weakref.ref(executor)
        executor.run(rude(value))
        log.wait_for(2)
        del value, executor
        gc.collect()

        assert [ref() for ref in gone] == [None, None]

    def test_begins_anew_in_a_forked_child(self, printed_by: Callable[..., list[str]]) -> None:
        lines = printed_by("""
            class Said(logging.Handler):
                def emit(self, record):
                    said.set()

            async def rude():
                assert said.wait(10)

            def in_child():
                said.clear()
                executor.run(rude())
                say("child")
                executor.shutdown()

            said = threading.Event()
            log = logging.getLogger("palitra")
            log.addHandler(Said())
            log.propagate = False
            executor = palitra.AsyncLoopExecutor(stall_timeout=1)
            executor.run(rude())
            say(fork(in_child))
        """)

        assert lines == ["child", "7"]

    def test_lets_the_process_end(self, printed_by: Callable[..., list[str]]) -> None:
        assert printed_by("""
            executor = palitra.AsyncLoopExecutor(stall_timeout=60)
            executor.run(double(1))
            atexit.register(lambda: say(executor.run(double(2))))
        """) == ["4"]


def test_a_handler_of_the_log_that_raises_does_not_end_the_watch(
    printed_by: Callable[..., list[str]],
) -> None:
    """What the handler raises is shown, as what any thread raises."""
    assert printed_by("""
        class Raises(logging.Handler):
            def emit(self, record):
                told.release()
                raise ValueError

        async def hold():
            told.acquire()

        told = threading.Semaphore(0)
        threading.excepthook = lambda shown: say(shown.exc_type.__name__)
        logging.getLogger("palitra").addHandler(Raises())
        with palitra.AsyncLoopExecutor(stall_timeout=0.05) as executor:
            executor.run(hold())
            while told.acquire(blocking=False):
                pass
            executor.run(hold())
    """)[:1] == ["ValueError"]
