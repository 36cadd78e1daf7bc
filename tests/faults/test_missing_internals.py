"""An interpreter without the private things that palitra leans on.

Each row of the table in docs/explanation/interpreter.md has a test here: without the thing, palitra
can be imported, and a program runs to its end with nothing on standard error.
"""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from interpreters import Python

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "explanation" / "interpreter.md").read_text(encoding="utf-8")

# `hide` takes something away from palitra alone: the standard library goes on using it.
HIDE = """
import importlib, sys, types


class Without(types.ModuleType):
    def __init__(self, module, names):
        self.__dict__.update(module=module, names=names)

    def __getattr__(self, name):
        if name in self.names:
            raise AttributeError(name)
        return getattr(self.module, name)


def hide(path, *names):
    module = importlib.import_module(path)
    assert all(hasattr(module, name) for name in names), "nothing to hide"
    without = Without(module, names)
    sys.modules[path] = without
    parent, _, child = path.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, without)


import asyncio, atexit, concurrent.futures, os, threading
import concurrent.futures.process, concurrent.futures.thread  # have exit hooks
"""

PROGRAM = """
import palitra


async def double(number):
    await asyncio.sleep(0)
    return 2 * number


async def count(stop):
    for number in range(stop):
        yield await double(number) // 2


def use(executor):
    assert executor.run(double(1)) == 2
    assert executor.gather(double(1), double(2)) == [2, 4]
    assert list(executor.map(double, range(3))) == [0, 2, 4]
    futures = [executor.submit(double, 3), executor.submit(abs, -6)]
    assert {future.result() for future in concurrent.futures.as_completed(futures)} == {6}
    called = threading.Event()
    executor.submit(asyncio.sleep, 0.01).add_done_callback(lambda future: called.set())
    assert called.wait(10)
    waiting = executor.submit(asyncio.sleep, 3600)
    assert waiting.cancel()
    assert concurrent.futures.wait([waiting]).done == {waiting} and waiting.cancelled()
    assert executor.submit(failing).exception().args == ("it",)
    assert list(executor.sync_iter(count(3))) == [0, 1, 2]


async def failing():
    raise ValueError("it")


async def late():
    await asyncio.sleep(0.2)
    print("finished", flush=True)


if __name__ == "__main__":
    with palitra.AsyncLoopExecutor() as executor:
        use(executor)
    use(palitra.get_executor())
    if hasattr(os, "fork"):
        pid = os.fork()
        if not pid:
            use(palitra.get_executor())
            palitra.shutdown()
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    palitra.get_executor().submit(late)
"""

OPTIONS = ("-W", "error", "-W", "ignore:This process:DeprecationWarning")

# What cannot be hidden from palitra alone: a loop and its tasks are without it.
WITHOUT_ATTRIBUTE = """
class Loop(asyncio.SelectorEventLoop):
    def __getattribute__(self, name):
        if name == "{name}" and sys._getframe(1).f_globals["__name__"].startswith("palitra"):
            raise AttributeError(name)
        return super().__getattribute__(name)


asyncio.new_event_loop = Loop
"""

# By what the table calls it.
HIDDEN = {
    "threading._register_atexit": 'hide("threading", "_register_atexit")',
    "threading._threading_atexits": 'hide("threading", "_threading_atexits")',
    "threading._dangling": 'hide("threading", "_dangling")',
    "threading._active": 'hide("threading", "_active")',
    "concurrent.futures.thread._threads_queues": (
        'hide("concurrent.futures.thread", "_threads_queues")'
    ),
    "concurrent.futures.process._threads_wakeups": (
        'hide("concurrent.futures.process", "_threads_wakeups")'
    ),
    "_queue": 'sys.modules["_queue"] = None',
    "asyncio.events._lock": 'hide("asyncio.events", "_lock")',
    "the names of states in concurrent.futures._base": (
        'hide("concurrent.futures._base", "PENDING", "RUNNING", "CANCELLED", '
        '"CANCELLED_AND_NOTIFIED", "FINISHED")'
    ),
    "concurrent.futures._base": (
        'concurrent.futures._base = sys.modules["concurrent.futures._base"] = '
        'types.ModuleType("concurrent.futures._base")'
    ),
    "the attributes of Future": "del concurrent.futures.Future.__init__",
    "finished_futures of the waiters of wait": """
class Waiter(concurrent.futures._base._FirstCompletedWaiter):
    def __getattribute__(self, name):
        if name == "finished_futures" and "palitra" in sys._getframe(1).f_globals["__name__"]:
            raise AttributeError(name)
        return super().__getattribute__(name)


concurrent.futures._base._FirstCompletedWaiter = Waiter
""",
    "loop._default_executor": WITHOUT_ATTRIBUTE.format(name="_default_executor"),
    "loop._thread_id": WITHOUT_ATTRIBUTE.format(name="_thread_id"),
    "task._log_destroy_pending": """
class Task(asyncio.Task):
    _log_destroy_pending = property()


asyncio.Task = Task
""",
    "_PyParkingLot_AfterFork": 'import ctypes; hide("ctypes", "pythonapi")',
    "the comparison in atexit.unregister": "atexit.unregister = lambda handler: None",
    "sys._current_frames": "del sys._current_frames",
}


@pytest.fixture
def printed_without(python: Python) -> Callable[..., list[str]]:
    """Run a program with something hidden, to an end that must be clean; the lines it printed."""

    def printed_without(hide: str, *program: str) -> list[str]:
        end = python.run("\n".join([HIDE, hide, *map(dedent, program)]), options=OPTIONS)
        assert (end.stderr, end.returncode) == ("", 0), end.stdout
        return end.stdout.splitlines()

    return printed_without


@pytest.mark.parametrize("hidden", HIDDEN)
def test_a_program_runs_to_its_end_without(
    printed_without: Callable[..., list[str]], hidden: str
) -> None:
    assert printed_without(HIDDEN[hidden], PROGRAM) == ["finished"]


def test_a_time_limit_is_kept_where_nobody_can_tell_what_holds_the_loop(
    printed_without: Callable[..., list[str]],
) -> None:
    assert printed_without(
        HIDDEN["sys._current_frames"],
        """
        import palitra


        async def blocks():
            released.wait()


        released = threading.Event()
        try:
            palitra.run(blocks(), timeout=0.05)
        except TimeoutError:
            print("timed out")
        finally:
            released.set()
        """,
    ) == ["timed out"]


@pytest.mark.parametrize("hidden", ["task._log_destroy_pending", "sys._current_frames"])
def test_a_task_is_left_behind_at_exit_without(
    printed_without: Callable[..., list[str]], hidden: str
) -> None:
    [line] = printed_without(
        HIDDEN[hidden],
        """
        import logging, palitra


        async def stubborn():
            started.set()
            while True:
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    pass


        logging.basicConfig(stream=sys.stdout, format="%(name)s: %(message)s")
        logging.getLogger("asyncio").disabled = True
        started = threading.Event()
        executor = palitra.AsyncLoopExecutor(exit_timeout=0)
        executor.submit(stubborn)
        started.wait(10)
        """,
    )
    assert line.startswith("palitra: left behind at exit: stubborn (submit, ")


def test_a_blocked_loop_of_the_applications_is_named_without_its_thread_id(
    printed_without: Callable[..., list[str]],
) -> None:
    assert printed_without(
        HIDDEN["loop._thread_id"],
        """
        import palitra


        async def blocks():
            begun.set()
            released.wait()


        def blocked(executor):
            executor.submit(blocks)
            begun.wait()
            try:
                executor.run(asyncio.sleep(0), timeout=0.05)
            except TimeoutError as error:
                print("in blocks" in error.__notes__[0].partition("the loop's thread is at ")[2])
            finally:
                released.set()


        async def main():
            async with palitra.AsyncLoopExecutor.from_loop() as executor:
                await asyncio.to_thread(blocked, executor)


        begun, released = threading.Event(), threading.Event()
        with asyncio.Runner(loop_factory=Loop) as runner:
            runner.run(main())
        """,
    ) == ["True"]


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_spawned_process_that_does_not_say_so_ends_well(
    printed_without: Callable[..., list[str]], method: str
) -> None:
    assert printed_without(
        "",
        PROGRAM.partition("if __name__")[0],
        f"""
        import contextlib, multiprocessing


        @contextlib.asynccontextmanager
        async def context():
            yield
            print("left", flush=True)


        def target():
            sys.orig_argv[:] = [arg for arg in sys.orig_argv if arg != "--multiprocessing-fork"]
            use(palitra.get_executor())
            palitra.enter_context(context())
            palitra.get_executor().submit(late)


        if __name__ == "__main__":
            process = multiprocessing.get_context("{method}").Process(target=target)
            process.start()
            process.join()
            print(process.exitcode)
        """,
    ) == ["finished", "left", "0"]


def test_each_row_of_the_table_has_a_test() -> None:
    rows = re.findall(r"^\| ([^|]+?) +\| [^|]+\| [^|]+\|$", PAGE, flags=re.MULTILINE)
    rows = [row.replace("`", "") for row in rows if not set(row) <= set("-:")]

    assert rows[1:] == [*HIDDEN, "the argument --multiprocessing-fork"]
