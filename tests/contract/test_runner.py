"""What palitra 0.1.0 had goes on working, and differs where the page "Coming from 0.1" says so."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest

import palitra
from contract.gates import PATIENCE, Held, fail_with, in_thread, value_of
from contract.subjects import Awaitable
from lifetimes import on_demand
from palitra import DeadlockError, EventLoopThreadRunner

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interpreters import Python

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture(autouse=True)
def fresh_default() -> Iterator[None]:
    """Each test finds no default executor and leaves none."""
    palitra.shutdown()
    yield
    palitra.shutdown()


@pytest.fixture
def runner() -> Iterator[EventLoopThreadRunner]:
    with EventLoopThreadRunner() as runner:
        yield runner


# What is as it was


def test_the_default_is_alive_from_its_first_use_to_its_end() -> None:
    assert not palitra.is_runner_alive()
    assert palitra.run(value_of(1)) == 1
    assert palitra.is_runner_alive()

    palitra.shutdown_global_runner()

    assert not palitra.is_runner_alive()
    assert palitra.gather(value_of(1), value_of(2)) == [1, 2]
    assert palitra.is_runner_alive()


def test_asking_whether_the_default_is_alive_starts_nothing() -> None:
    before = threading.active_count()

    assert not palitra.is_runner_alive()
    assert threading.active_count() == before


def test_shutting_down_what_is_not_there_does_no_harm() -> None:
    palitra.shutdown_global_runner()
    palitra.run(value_of(1))
    palitra.shutdown_global_runner()
    palitra.shutdown_global_runner()


def test_an_instance_has_a_loop_of_its_own(runner: EventLoopThreadRunner) -> None:
    async def running_loop() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    loop = runner.get_loop()

    assert loop.is_running()
    assert runner.run(running_loop()) is loop
    assert runner.gather(running_loop(), running_loop()) == [loop, loop]
    with EventLoopThreadRunner() as other:
        assert other.get_loop() is not loop
    assert palitra.get_loop() is not loop
    assert EventLoopThreadRunner.get_loop() is palitra.get_loop()


def test_the_thread_of_an_instance_starts_with_the_instance() -> None:
    names = {thread.name for thread in threading.enumerate()}
    with EventLoopThreadRunner():
        [started] = on_demand({thread.name for thread in threading.enumerate()} - names)

    assert started.startswith("LoopThread")


def test_a_with_block_closes_the_loop_and_ends_the_thread() -> None:
    before = threading.active_count()
    with EventLoopThreadRunner() as runner:
        loop = runner.get_loop()

    assert loop.is_closed()
    assert runner.get_loop() is loop
    assert threading.active_count() == before
    with pytest.raises(RuntimeError):
        runner.run(value_of(1))


def test_closing_again_does_no_harm() -> None:
    runner = EventLoopThreadRunner()
    runner.close()
    runner.close()

    with pytest.raises(RuntimeError):
        runner.gather(value_of(1))


def test_an_instance_may_be_closed_on_its_own_loop() -> None:
    runner = EventLoopThreadRunner()

    async def close() -> str:
        runner.close()
        return "closed"

    loop = runner.get_loop()
    future = asyncio.run_coroutine_threadsafe(close(), loop)

    assert future.result(PATIENCE) == "closed"
    runner.close()
    assert loop.is_closed()


def test_debug_sets_the_loops_debug_mode(runner: EventLoopThreadRunner) -> None:
    loop = runner.get_loop()
    before = loop.get_debug()

    assert runner.run(value_of(1), debug=not before) == 1
    assert loop.get_debug() is not before
    assert runner.run(value_of(1), debug=None) == 1
    assert loop.get_debug() is not before
    assert runner.run(value_of(1), debug=before) == 1
    assert loop.get_debug() is before
    assert EventLoopThreadRunner.run(value_of(1), debug=before, loop_factory=None) == 1


def test_a_loop_factory_is_refused(runner: EventLoopThreadRunner) -> None:
    for run in (runner.run, EventLoopThreadRunner.run):
        with pytest.raises(NotImplementedError, match=r"AsyncLoopExecutor\(loop_factory="):
            run(value_of(1), loop_factory=asyncio.new_event_loop)


def test_a_refused_debug_call_leaves_no_warning(runner: EventLoopThreadRunner) -> None:
    runner.close()

    with pytest.raises(RuntimeError):
        runner.run(value_of(1), debug=True)


def test_a_call_of_an_instance_takes_a_time_limit(runner: EventLoopThreadRunner) -> None:
    held = Held()
    held.cleanup.open()

    while not held.started.is_open:  # on a busy machine, the time may be over before
        with pytest.raises(asyncio.TimeoutError):
            runner.run(held.coroutine(), timeout=0.2)
    assert held.ended.is_open
    with pytest.raises(TimeoutError):
        runner.gather(held.coroutine(), value_of(1), timeout=0.2)


def test_an_instance_runs_any_awaitable(runner: EventLoopThreadRunner) -> None:
    run: Any = runner.run

    assert run(Awaitable(5))[0] == 5
    assert run(Awaitable(5), timeout=PATIENCE)[0] == 5
    with pytest.raises(TypeError, match="not 7"):
        run(7)


def test_gather_of_an_instance_returns_exceptions(runner: EventLoopThreadRunner) -> None:
    error = ValueError("v")

    assert runner.gather(fail_with(error), value_of(1), return_exceptions=True) == [error, 1]
    assert runner.gather() == []


def test_a_subclass_overrides_and_extends_the_methods() -> None:
    class Logged(EventLoopThreadRunner):
        def run(self, coro: Any, **options: Any) -> Any:
            return "logged", super().run(coro, **options), super().get_loop()

    with Logged() as logged:
        assert logged.run(value_of(1), timeout=PATIENCE) == ("logged", 1, logged.get_loop())
        assert logged.gather(value_of(1)) == [1]


def test_instances_of_many_threads_work_at_once() -> None:
    results: list[object] = []

    def use() -> None:
        with EventLoopThreadRunner() as runner:
            results.append(runner.gather(value_of(1), value_of(2)))

    threads = [in_thread(use) for _ in range(8)]
    for thread in threads:
        thread.join(PATIENCE)

    assert results == [[1, 2]] * 8


# What is different on purpose


def test_the_siblings_of_a_coroutine_that_fails_are_cancelled(
    runner: EventLoopThreadRunner,
) -> None:
    held = Held()
    held.cleanup.open()

    async def fail() -> None:
        await held.started.passed()
        raise ValueError("v")

    with pytest.raises(ValueError, match="v"):
        runner.gather(held.coroutine(), fail())
    assert held.cancelled.is_open
    assert held.ended.is_open


def test_waiting_on_the_own_loop_is_a_deadlock_error(runner: EventLoopThreadRunner) -> None:
    async def run() -> Any:
        return runner.run(value_of(1))

    async def gather() -> Any:
        return runner.gather(value_of(1))

    for blocks in (run, gather):
        with pytest.raises(DeadlockError, match="await"):
            runner.run(blocks())
    assert issubclass(DeadlockError, RuntimeError)


def test_a_time_limit_says_in_its_text_what_has_passed(runner: EventLoopThreadRunner) -> None:
    with pytest.raises(TimeoutError, match=r"timed out after 0\.01 s"):
        runner.run(asyncio.Event().wait(), timeout=0.01)


def test_a_closed_runner_says_that_it_is_shut_down(runner: EventLoopThreadRunner) -> None:
    runner.close()

    with pytest.raises(RuntimeError, match="after shutdown"):
        runner.run(value_of(1))


def test_a_cancelled_coroutine_raises_asyncios_error(runner: EventLoopThreadRunner) -> None:
    with pytest.raises(asyncio.CancelledError):
        runner.run(fail_with(asyncio.CancelledError()))


def test_a_coroutine_that_raises_system_exit_leaves_the_loop_running(
    runner: EventLoopThreadRunner,
) -> None:
    for error in (SystemExit(3), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught:
            runner.run(fail_with(error))
        assert caught.value is error
    assert runner.run(value_of(1)) == 1


def test_the_time_limit_ends_a_call_that_does_not_heed_it(runner: EventLoopThreadRunner) -> None:
    held = Held()  # its clean-up waits until it is let go

    while not held.started.is_open:  # on a busy machine, the time may be over before
        with pytest.raises(TimeoutError):
            runner.run(held.coroutine(), timeout=0.2)
    assert held.cancelled.is_open
    assert not held.ended.is_open
    held.open_all()


def test_closing_cancels_what_other_threads_wait_for() -> None:
    for make, close in (
        (EventLoopThreadRunner, EventLoopThreadRunner.close),
        (lambda: EventLoopThreadRunner, lambda _: palitra.shutdown_global_runner()),
    ):
        runner: Any = make()
        held = Held()
        seen: list[str] = []
        held.cleanup.open()

        def wait(runner: Any = runner, held: Held = held, seen: list[str] = seen) -> None:
            try:
                runner.run(held.coroutine())
            except asyncio.CancelledError:
                seen.append("cancelled")

        thread = in_thread(wait)
        held.started.wait()
        close(runner)
        thread.join(PATIENCE)

        assert seen == ["cancelled"]
        assert held.ended.is_open


def test_a_runner_that_is_dropped_ends_its_thread() -> None:
    before = threading.active_count()
    runner = EventLoopThreadRunner()
    loop = runner.get_loop()
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("LoopThread")]
    assert on_demand(thread.name for thread in threads) == ["LoopThread_loop"]
    del runner
    gc.collect()
    for thread in threads:
        thread.join(PATIENCE)

    assert loop.is_closed()
    assert threading.active_count() == before


def test_the_functions_take_coroutines_alone() -> None:
    runs: list[Any] = [palitra.run, EventLoopThreadRunner.run]

    for run in runs:
        with pytest.raises(NotImplementedError):
            run(Awaitable(1))


def test_the_module_function_run_takes_no_debug_and_no_loop_factory() -> None:
    run: Any = palitra.run
    coro = value_of(1)

    for option in ({"debug": True}, {"loop_factory": None}):
        with pytest.raises(TypeError, match="unexpected keyword"):
            run(coro, **option)
    coro.close()


def test_gather_takes_futures_of_executors(runner: EventLoopThreadRunner) -> None:
    future: concurrent.futures.Future[int] = concurrent.futures.Future()
    future.set_result(1)

    assert runner.gather(future, value_of(2)) == [1, 2]


def test_a_refused_coroutine_leaves_no_warning(runner: EventLoopThreadRunner) -> None:
    async def run_on_the_loop() -> None:
        runner.run(value_of(1))

    with pytest.raises(DeadlockError):
        runner.run(run_on_the_loop())
    runner.close()
    with pytest.raises(RuntimeError):
        runner.run(value_of(1))
    gc.collect()  # "never awaited" would fail the test


@needs_fork
@pytest.mark.parametrize("runner", ["EventLoopThreadRunner()", "EventLoopThreadRunner"])
def test_a_forked_child_starts_afresh(python: Python, runner: str) -> None:
    end = python.run(
        f"""
        import asyncio
        import os
        import warnings

        from palitra import EventLoopThreadRunner

        warnings.filterwarnings("ignore", "This process", DeprecationWarning)

        async def double(number):
            await asyncio.sleep(0)
            return 2 * number

        runner = {runner}
        assert runner.run(double(1)) == 2
        loop = runner.get_loop()
        child = os.fork()
        if child:
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            print("in the parent", runner.run(double(2)), status, flush=True)
        else:
            print("in the child", runner.run(double(2)), runner.get_loop() is loop, flush=True)
        """,
    )

    assert (end.returncode, end.stderr) == (0, "")
    assert end.stdout == "in the child 4 False\nin the parent 4 0\n"


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_ctrl_c_cancels_what_it_interrupts(python: Python) -> None:
    with python.start(
        """
        import asyncio

        from palitra import EventLoopThreadRunner

        async def call():
            try:
                print("started", flush=True)
                await asyncio.Event().wait()
            finally:
                print("cleaned up", flush=True)

        runner = EventLoopThreadRunner()
        try:
            runner.run(call())
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        """,
    ) as child:
        child.expect("started")
        child.send_signal(signal.SIGINT)
        end = child.finish()

    assert (end.returncode, end.stderr) == (0, "")
    assert end.stdout.splitlines()[-2:] == ["cleaned up", "interrupted"]


def test_the_exit_cancels_tasks_and_says_nothing(python: Python) -> None:
    end = python.run(
        """
        import asyncio

        from palitra import EventLoopThreadRunner

        async def background():
            try:
                await asyncio.Event().wait()
            finally:
                print("cleaned up\\n", end="")

        async def start():
            kept.append(asyncio.create_task(background()))
            await asyncio.sleep(0)

        kept = []
        runner = EventLoopThreadRunner()
        runner.run(start())
        EventLoopThreadRunner.run(start())
        """,
    )

    assert (end.returncode, end.stdout, end.stderr) == (0, "cleaned up\n" * 2, "")
