"""Two Ctrl-C end any blocking call; what it leaves behind is nobody's concern; one cancels once."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from interpreters import Child

PROGRAM = """
import contextlib

leave = threading.Event()


def main_thread_waits():
    # A signal that comes as a thread goes to sleep in a lock of the standard library's is
    # heard when the thread wakes up, which is never here.
    main = threading.main_thread()
    state = f"/proc/self/task/{main.native_id}/stat"
    while (
        sys._current_frames()[main.ident].f_code.co_name not in ("wait", "wait_for")
        or os.path.exists(state) and open(state).read().rpartition(")")[2].split()[0] != "S"
    ):
        time.sleep(0.01)


async def ignores_cancellation(*_):
    say("begun")
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            say("asked")


async def items():
    yield await ignores_cancellation()


class Context:
    async def __aenter__(self):
        await ignores_cancellation()

    async def __aexit__(self, *_):
        pass


@contextlib.asynccontextmanager
async def opened():
    yield
    say("left")
"""
BLOCKING = {
    "run": "palitra.run(ignores_cancellation())",
    "run with a timeout": "palitra.run(ignores_cancellation(), timeout=3600)",
    "gather": "palitra.gather(ignores_cancellation(), double(1))",
    "next": "next(palitra.sync_iter(items))",
    "sync_context": "palitra.sync_context(Context).__enter__()",
    "enter_context": "palitra.enter_context(Context)",
    "sync": "palitra.sync(ignores_cancellation)()",
}
each_call = pytest.mark.parametrize("call", BLOCKING.values(), ids=BLOCKING)


def interrupt_twice(child: Child) -> None:
    child.expect("begun")
    child.send_signal(signal.SIGINT)
    child.expect("asked")
    child.send_signal(signal.SIGINT)


@pytest.fixture
def mode() -> tuple[str, ...]:
    """Nothing here depends on the development mode."""
    return ()


@each_call
def test_two_end_a_call_that_ignores_them_and_the_process(
    start: Callable[..., Child], call: str
) -> None:
    child = start(
        PROGRAM,
        f"""
        try:
            {call}
        except KeyboardInterrupt:
            say("interrupted")
        """,
    )
    interrupt_twice(child)
    ended = child.finish()

    assert (ended.stdout, ended.stderr, ended.returncode) == ("interrupted\n", "", 0)


def test_two_end_a_program_that_does_not_know_of_them(start: Callable[..., Child]) -> None:
    child = start(PROGRAM, "palitra.run(ignores_cancellation())")
    interrupt_twice(child)
    ended = child.finish()

    assert ended.stdout == ""
    assert ended.stderr.splitlines()[-1] == "KeyboardInterrupt"
    assert ended.returncode == -signal.SIGINT


def test_what_is_left_behind_keeps_nothing_else_from_being_done(
    start: Callable[..., Child],
) -> None:
    """Other calls are finished, contexts are left, and the executor goes on until its end."""
    child = start(
        PROGRAM,
        """
        async def last():
            await main_thread_ended()
            say("last")

        palitra.enter_context(opened)
        try:
            palitra.run(ignores_cancellation())
        except KeyboardInterrupt:
            say(palitra.run(double(2)))
        palitra.get_executor().submit(last)
        started.wait()
        """,
    )
    interrupt_twice(child)
    ended = child.finish()

    assert ended.stderr == ""
    assert ended.stdout.splitlines() == ["4", "last", "left"]


@pytest.mark.parametrize("how", ["", "cancel_futures=True"])
def test_no_shutdown_waits_for_it(start: Callable[..., Child], how: str) -> None:
    child = start(
        PROGRAM,
        f"""
        executor = palitra.AsyncLoopExecutor()
        executor.enter_context(opened)
        try:
            executor.run(ignores_cancellation())
        except KeyboardInterrupt:
            executor.shutdown({how})
            say("shut down")
        """,
    )
    interrupt_twice(child)
    ended = child.finish()

    assert ended.stderr == ""
    assert ended.stdout.splitlines() == ["left", "shut down"]


def test_one_ctrl_c_at_exit_does_not_cancel_again_who_is_cancelled(
    start: Callable[..., Child],
) -> None:
    child = start(
        PROGRAM,
        """
        async def cleans_up():
            seen = 0
            try:
                started_to_wait.set()
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                seen += 1
            try:
                await main_thread_ended()
                say("begun")
                await asyncio.sleep(0.7)
            except asyncio.CancelledError:
                seen += 1
            say(seen, asyncio.current_task().cancelling())

        started_to_wait = threading.Event()
        future = palitra.get_executor().submit(cleans_up)
        started_to_wait.wait()
        future.cancel()
        started.wait()
        """,
    )
    child.expect("begun")
    child.send_signal(signal.SIGINT)
    ended = child.finish()

    assert (ended.stdout, ended.stderr, ended.returncode) == ("1 1\n", "", 0)


def test_one_ctrl_c_at_exit_cancels_once(start: Callable[..., Child]) -> None:
    child = start(
        PROGRAM,
        """
        async def cleans_up():
            seen = 0
            try:
                await main_thread_ended()
                say("begun")
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                seen += 1
            try:
                await asyncio.sleep(0.5)
            except asyncio.CancelledError:
                seen += 1
            say(seen, asyncio.current_task().cancelling())

        palitra.get_executor().submit(cleans_up)
        started.wait()
        """,
    )
    child.expect("begun")
    child.send_signal(signal.SIGINT)
    ended = child.finish()

    assert (ended.stdout, ended.stderr, ended.returncode) == ("1 1\n", "", 0)


WAITS = {
    "result": "executor.submit(begins).result()",
    "exception": "executor.submit(begins).exception()",
    "result of a callable": "executor.submit(holds).result()",
    "map": "list(executor.map(begins, [1]))",
    "wait": "concurrent.futures.wait([executor.submit(begins)])",
    "shutdown": "executor.submit(begins); executor.shutdown()",
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_two_end_a_program_wherever_it_waits(start: Callable[..., Child], wait: str) -> None:
    """The first ends the wait and the program; the second, its exit, a second later."""
    child = start(
        PROGRAM,
        f"""
        import concurrent.futures
        from palitra import _hooks

        class Tells(logging.Handler):
            def emit(self, record):
                say(record.getMessage().partition(" for ")[0])

        def holds():
            main_thread_waits()
            say("begun")
            threading.Event().wait()

        async def begins(*_):
            main_thread_waits()
            await ignores_cancellation()

        _hooks.PATIENCE = 0.1  # before the exit says that it waits
        logging.getLogger("palitra").addHandler(Tells())
        executor = palitra.AsyncLoopExecutor()
        {wait}
        """,
    )
    child.expect("begun")
    child.send_signal(signal.SIGINT)
    while (line := child.read_line()) != "waiting at exit\n":
        assert line, child.finish().stderr  # `map` has cancelled its call by then
    child.send_signal(signal.SIGINT)
    ended = child.finish()

    assert "KeyboardInterrupt" in ended.stderr.splitlines()
    assert any(line.startswith("left behind at exit: ") for line in ended.stdout.splitlines())
    assert ended.returncode == -signal.SIGINT
