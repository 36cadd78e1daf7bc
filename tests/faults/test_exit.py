"""The end of a program loses no call, closes what was opened, and never hangs."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

import pytest

from interpreters import NO_THREADS_OR_FORKS_IN_EXIT
from lifetimes import FREE_THREADED

if TYPE_CHECKING:
    from collections.abc import Callable

    from interpreters import Child, Python

# The interpreter itself starts no thread while it runs the handlers of atexit.
NO_THREADS_IN_ATEXIT = sys.version_info[:2] == (3, 12)

EXECUTORS = {
    "default": "palitra.get_executor()",
    "explicit": "palitra.AsyncLoopExecutor()",
    "one at a time": "palitra.AsyncLoopExecutor(max_workers=1)",
}
each_executor = pytest.mark.parametrize("executor", EXECUTORS.values(), ids=EXECUTORS)


def test_only_3_12_starts_no_thread_during_exit(python: Python) -> None:
    ended = python.run("""
        import atexit
        import threading


        def start(stage):
            thread = threading.Thread(target=print, args=[stage])
            try:
                thread.start()
            except RuntimeError as error:
                print(error)
            else:
                thread.join()


        atexit.register(start, "atexit")
        threading._register_atexit(start, "exit")
    """)

    refusal = "can't create new thread at interpreter shutdown"
    assert ended.stdout.splitlines() == [
        refusal if NO_THREADS_OR_FORKS_IN_EXIT else "exit",
        refusal if NO_THREADS_IN_ATEXIT else "atexit",
    ]


def test_importing_palitra_starts_and_registers_nothing(
    printed_by: Callable[..., list[str]],
) -> None:
    assert printed_by("""
        import concurrent.futures.thread, importlib, weakref

        def hooks():
            return atexit._ncallbacks(), len(threading._threading_atexits), fork_hooks

        for name in [name for name in sys.modules if name.partition(".")[0] == "palitra"]:
            del sys.modules[name]
        fork_hooks = 0

        def count_fork_hooks(**hooks):
            global fork_hooks
            fork_hooks += 1

        os.register_at_fork = count_fork_hooks
        before = hooks()
        palitra = importlib.import_module("palitra")
        say(hooks() == before)
        executor = palitra.AsyncLoopExecutor()
        say(threading.active_count())
        executor.run(double(1))
        say(hooks() > before)
    """) == ["True", "1", "True"]


class TestCallsInFlight:
    @each_executor
    def test_coroutines_in_flight_finish(
        self, printed_by: Callable[..., list[str]], executor: str
    ) -> None:
        lines = printed_by(f"""
            async def first():
                await main_thread_ended()
                say("first")

            async def second():
                await asyncio.sleep(0.1)
                say("second")

            executor = {executor}
            executor.submit(first)
            executor.submit(second)
            started.wait()
        """)
        assert sorted(lines) == ["first", "second"]
        assert lines == ["first", "second"] or executor != EXECUTORS["one at a time"]

    def test_calls_that_wait_for_their_turn_run(self, printed_by: Callable[..., list[str]]) -> None:
        assert printed_by("""
            async def first():
                await main_thread_ended()
                say("first")

            async def later(number):
                await asyncio.sleep(0)
                say(number)

            executor = palitra.AsyncLoopExecutor(max_workers=1)
            executor.submit(first)
            started.wait()
            for number in range(100):
                executor.submit(later, number)
        """) == ["first", *map(str, range(100))]

    def test_plain_callables_run_and_waiting_ones_too(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        assert printed_by("""
            executor = palitra.AsyncLoopExecutor(max_workers=1)
            executor.submit(wait_for_main_thread_to_end)
            started.wait()
            for number in range(100):
                executor.submit(say, number)
        """) == [*map(str, range(100))]

    @each_executor
    def test_to_thread_works_in_them(
        self, printed_by: Callable[..., list[str]], executor: str
    ) -> None:
        assert printed_by(f"""
            async def call():
                await main_thread_ended()
                say(await asyncio.to_thread(str, "a thread"))

            executor = {executor}
            executor.submit(call)
            started.wait()
        """) == ["a thread"]

    def test_to_thread_works_in_them_on_a_thread_that_is_there(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        assert printed_by("""
            async def call():
                await asyncio.gather(asyncio.to_thread(str), asyncio.to_thread(str))
                await main_thread_ended()
                say(await asyncio.to_thread(str, "a thread that waited"))

            palitra.get_executor().submit(call)
            started.wait()
        """) == ["a thread that waited"]

    def test_they_may_make_further_calls(self, printed_by: Callable[..., list[str]]) -> None:
        assert printed_by("""
            async def further(number, after=None):
                if after is not None:
                    await asyncio.wrap_future(after)
                await asyncio.sleep(0.1)
                say(number)

            async def call():
                await main_thread_ended()
                say("first")
                one = executor.submit(further, 1)
                palitra.get_executor().submit(further, 2, one)

            executor = palitra.AsyncLoopExecutor(max_workers=1)
            executor.run(double(1))
            palitra.get_executor().submit(call)
            started.wait()
        """) == ["first", "1", "2"]

    def test_a_plain_callable_may_go_on_calling_run(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        assert printed_by("""
            def call():
                wait_for_main_thread_to_end()
                say(palitra.run(double(4)), executor.run(double(5)))

            executor = palitra.AsyncLoopExecutor()
            palitra.run(double(1))
            executor.submit(call)
            started.wait()
        """) == ["8 10"]

    def test_calls_behind_a_shutdown_that_does_not_wait_finish(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        assert printed_by("""
            async def call():
                await main_thread_ended()
                say("finished")

            palitra.get_executor().submit(call)
            started.wait()
            palitra.shutdown(wait=False)
        """) == ["finished"]

    def test_calls_of_a_dropped_executor_finish(self, printed_by: Callable[..., list[str]]) -> None:
        assert printed_by("""
            async def call():
                await main_thread_ended()
                say("finished")

            executor = palitra.AsyncLoopExecutor()
            executor.submit(call)
            del executor
            started.wait()
        """) == ["finished"]

    def test_a_blocked_loop_is_waited_for(self, printed_by: Callable[..., list[str]]) -> None:
        assert printed_by("""
            async def call():
                wait_for_main_thread_to_end()
                say("finished")

            palitra.get_executor().submit(call)
            started.wait()
        """) == ["finished"]

    def test_threads_of_other_pools_may_go_on_calling_run(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        assert printed_by("""
            from concurrent.futures import ThreadPoolExecutor

            def call(name):
                wait_for_main_thread_to_end()
                say(palitra.run(double(4)))

            earlier = ThreadPoolExecutor()
            earlier.submit(str).result()
            palitra.run(double(1))
            later = ThreadPoolExecutor()
            earlier.submit(call, "earlier")
            started.wait()
            started.clear()
            later.submit(call, "later")
            started.wait()
        """) == ["8", "8"]


class TestExitCode:
    @pytest.mark.parametrize(
        ("end", "exit_code", "last_line"),
        [
            ("pass", 0, None),
            ("sys.exit(3)", 3, None),
            ("sys.exit('message')", 1, "message"),
            ("raise ValueError('message')", 1, "ValueError: message"),
            ("raise KeyboardInterrupt", -signal.SIGINT, "KeyboardInterrupt"),
        ],
    )
    def test_is_that_of_the_main_thread(
        self, start: Callable[..., Child], end: str, exit_code: int, last_line: str | None
    ) -> None:
        ended = start(f"""
            async def call():
                await main_thread_ended()
                say("finished")

            palitra.run(double(1))
            palitra.get_executor().submit(call)
            started.wait()
            {end}
        """).finish()

        assert (ended.returncode, ended.stdout) == (exit_code, "finished\n")
        assert ended.stderr.splitlines()[-1:] == ([last_line] if last_line else [])
        assert "palitra" not in ended.stderr.replace("palitra.get", "")

    @pytest.mark.parametrize("daemon", [False, True])
    def test_is_untouched_by_another_threads_run(
        self, printed_by: Callable[..., list[str]], daemon: bool
    ) -> None:
        printed = printed_by(
            f"""
            async def call():
                await main_thread_ended()
                say("finished")

            threading.Thread(target=lambda: palitra.run(call()), daemon={daemon}).start()
            started.wait()
            sys.exit(3)
            """,
            exit_code=3,
        )

        assert printed == ["finished"]

    @pytest.mark.parametrize("error", ["SystemExit(3)", "ValueError()", "KeyboardInterrupt()"])
    def test_is_untouched_by_a_call_that_fails(
        self, printed_by: Callable[..., list[str]], error: str
    ) -> None:
        assert (
            printed_by(f"""
                async def call():
                    await main_thread_ended()
                    raise {error}

                palitra.get_executor().submit(call)
                started.wait()
            """)
            == []
        )


class TestOtherThreads:
    def test_a_thread_that_outlives_the_main_thread_is_served(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        assert printed_by("""
            def outlive():
                threading.main_thread().join()
                for number in range(100):
                    assert palitra.run(double(number)) == 2 * number
                    assert palitra.gather(double(number), double(1)) == [2 * number, 2]
                    assert palitra.get_executor().submit(double, number).result() == 2 * number
                    assert executor.submit(double, number).result() == 2 * number
                    assert executor.submit(str, number).result() == str(number)
                say("served")

            executor = palitra.AsyncLoopExecutor(max_workers=1)
            executor.submit(str).result()  # its worker thread exists
            palitra.run(double(1))
            threading.Thread(target=outlive).start()
        """) == ["served"]

    def test_several_threads_that_outlive_the_main_thread_are_served(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        assert (
            printed_by("""
            def outlive():
                for number in range(500):
                    assert palitra.run(double(number)) == 2 * number
                say("served")

            palitra.run(double(1))
            for _ in range(4):
                threading.Thread(target=outlive).start()
        """)
            == ["served"] * 4
        )

    def test_a_thread_that_outlives_the_main_thread_may_be_the_first_to_use_palitra(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        refusal = "can't create new thread at interpreter shutdown"
        assert printed_by("""
            def outlive():
                threading.main_thread().join()
                for run in palitra.run, palitra.AsyncLoopExecutor().run:
                    try:
                        say(run(double(4)))
                    except RuntimeError as error:
                        while error.__cause__:
                            error = error.__cause__
                        say(error)

            threading.Thread(target=outlive).start()
        """) == ([refusal] * 2 if NO_THREADS_OR_FORKS_IN_EXIT else ["8"] * 2)

    def test_contexts_that_such_a_thread_enters_are_left(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        assert printed_by("""
            from contextlib import asynccontextmanager

            @asynccontextmanager
            async def pool():
                say("entered")
                yield
                await asyncio.sleep(0)
                say("left")

            def outlive():
                threading.main_thread().join()
                palitra.enter_context(pool())
                say(palitra.run(double(4)))

            palitra.run(double(1))
            threading.Thread(target=outlive).start()
        """) == ["entered", "8", "left"]

    @pytest.mark.parametrize("way", ["run", "submit", "gather", "thread", "executor"])
    def test_daemon_threads_that_keep_calling_do_not_keep_the_process(
        self, printed_by: Callable[..., list[str]], way: str
    ) -> None:
        # A free-threaded 3.13 gives the lock of an object to a daemon thread that waits for it and
        # will never run again, and then waits for ever to take the modules apart. So there, the
        # threads stop once they are refused; the handler runs after palitra's.
        stop = "refusals.release(), threading.Event().wait()" if FREE_THREADED else "None"
        wait = "[refusals.acquire() for _ in range(4)]" if FREE_THREADED else "None"
        assert (
            printed_by(
                f"""
                def run():
                    palitra.run(double(1))

                def submit():
                    calls = [palitra.get_executor().submit(double, 1) for _ in range(100)]
                    calls[-1].result()

                def gather():
                    palitra.gather(double(1), double(2))

                def thread():
                    palitra.get_executor().submit(str).result()

                def executor():
                    with palitra.AsyncLoopExecutor() as executor:
                        executor.submit(double, 1).result()

                def keep_calling():
                    while True:
                        try:
                            {way}()
                        except RuntimeError as error:
                            refused = str(error)
                            assert "interpreter shutdown" in refused, refused
                            {stop}
                        started.set()

                refusals = threading.Semaphore(0)
                atexit.register(lambda: {wait})
                for _ in range(4):
                    threading.Thread(target=keep_calling, daemon=True).start()
                started.wait()
                sys.exit(3)
                """,
                exit_code=3,
            )
            == []
        )


class TestAtexitHandlers:
    @each_executor
    def test_registered_after_the_first_use_may_call(
        self, printed_by: Callable[..., list[str]], executor: str
    ) -> None:
        assert printed_by(f"""
            def handler():
                say(executor.run(double(1)))
                say(*executor.gather(double(2), double(3)))
                say(executor.submit(double, 4).result())

            executor = {executor}
            executor.run(double(1))
            atexit.register(handler)
        """) == ["2", "4 6", "8"]

    @each_executor
    def test_registered_before_the_first_use_is_refused(
        self, printed_by: Callable[..., list[str]], executor: str
    ) -> None:
        refusal = "RuntimeError cannot schedule new futures after interpreter shutdown"
        assert (
            printed_by(f"""
                def handler():
                    for call in (
                        lambda: executor.run(double(1)),
                        lambda: executor.gather(double(2), double(3)),
                        lambda: executor.submit(double, 4),
                        lambda: executor.submit(double(4)),
                        lambda: executor.submit(str),
                        lambda: executor.map(double, [5]),
                    ):
                        try:
                            say(call())
                        except RuntimeError as error:
                            say(type(error).__name__, error)

                atexit.register(handler)
                executor = {executor}
                executor.run(double(1))
            """)
            == [refusal] * 6
        )

    def test_calls_they_leave_behind_finish(self, printed_by: Callable[..., list[str]]) -> None:
        assert printed_by("""
            async def call():
                await asyncio.sleep(0.1)
                say("finished")

            palitra.run(double(1))
            atexit.register(palitra.get_executor().submit, call)
        """) == ["finished"]

    def test_may_shut_down(self, printed_by: Callable[..., list[str]]) -> None:
        assert printed_by("""
            def handler():
                executor.shutdown()
                palitra.shutdown()
                say("shut down")

            executor = palitra.AsyncLoopExecutor()
            atexit.register(handler)
            executor.run(double(1))
            palitra.run(double(1))
            atexit.register(handler)
        """) == ["shut down", "shut down"]

    def test_that_are_the_first_to_use_palitra_are_served_or_told_why_not(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        printed = printed_by("""
            def handler():
                try:
                    say(palitra.run(double(4)))
                except RuntimeError as error:
                    say("refused:", error)

            atexit.register(handler)
        """)

        assert len(printed) == 1
        assert printed == ["8"] or printed[0].startswith("refused: ")


class TestCleanup:
    @each_executor
    def test_contexts_are_left_last_in_first_out(
        self, printed_by: Callable[..., list[str]], executor: str
    ) -> None:
        assert printed_by(f"""
            from contextlib import asynccontextmanager

            @asynccontextmanager
            async def pool(name):
                say("enter", name)
                try:
                    yield name
                finally:
                    await asyncio.sleep(0)
                    say("leave", name)

            async def callback(name):
                await asyncio.sleep(0)
                say("call", name)

            async def call():
                await main_thread_ended()
                say("finished")

            executor = {executor}
            executor.enter_context(pool("a"))
            executor.push_async_callback(callback, "b")
            executor.enter_context(lambda: pool("c"))
            executor.push_async_callback(callback, name="d")
            executor.submit(call)
            started.wait()
        """) == [
            "enter a",
            "enter c",
            "finished",
            "call d",
            "leave c",
            "call b",
            "leave a",
        ]

    @each_executor
    def test_stray_tasks_are_cancelled_and_awaited_after_the_contexts(
        self, printed_by: Callable[..., list[str]], executor: str
    ) -> None:
        assert printed_by(f"""
            async def stray():
                started.set()
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    await asyncio.sleep(0.05)
                    say("cancelled")
                    raise
                finally:
                    await asyncio.sleep(0.05)
                    say("cleaned up")

            async def start():
                tasks.add(asyncio.create_task(stray()))

            async def callback():
                say("context left")

            tasks = set()
            executor = {executor}
            executor.push_async_callback(callback)
            executor.run(start())
            started.wait()
        """) == ["context left", "cancelled", "cleaned up"]

    @each_executor
    def test_async_generators_are_closed(
        self, printed_by: Callable[..., list[str]], executor: str
    ) -> None:
        assert printed_by(f"""
            async def generate():
                try:
                    yield "begun"
                    yield "not reached"
                finally:
                    await asyncio.sleep(0)
                    say("closed")

            async def begin():
                say(await anext(generator))

            generator = generate()
            executor = {executor}
            executor.run(begin())
        """) == ["begun", "closed"]

    def test_an_iterator_left_half_way_is_closed(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        assert printed_by("""
            async def generate():
                try:
                    yield "begun"
                    yield "not reached"
                finally:
                    await asyncio.sleep(0)
                    say("closed")

            iterator = palitra.sync_iter(generate())
            say(next(iterator))
        """) == ["begun", "closed"]

    def test_a_context_left_open_is_left(self, printed_by: Callable[..., list[str]]) -> None:
        assert printed_by("""
            from contextlib import asynccontextmanager

            @asynccontextmanager
            async def pool():
                try:
                    yield "entered"
                finally:
                    await asyncio.sleep(0)
                    say("left")

            context = palitra.sync_context(pool())
            say(context.__enter__())
        """) == ["entered", "left"]

    def test_cleanup_may_use_threads_that_are_there(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        assert printed_by("""
            executor = palitra.AsyncLoopExecutor(max_workers=1)

            def call():
                wait_for_main_thread_to_end()
                return "answer"

            async def callback():
                say(await asyncio.wrap_future(future))

            executor.push_async_callback(callback)
            future = executor.submit(call)
            started.wait()
        """) == ["answer"]

    def test_a_failing_context_is_reported_and_the_others_are_left(
        self, start: Callable[..., Child]
    ) -> None:
        ended = start("""
            async def leave(name):
                say(name)

            async def fail():
                raise ValueError("cannot leave")

            palitra.push_async_callback(leave, "first")
            palitra.push_async_callback(fail)
            palitra.push_async_callback(leave, "last")
        """).finish()

        assert (ended.returncode, ended.stdout) == (0, "last\nfirst\n")
        assert ended.stderr.splitlines()[-1] == "ValueError: cannot leave"

    def test_contexts_are_left_where_all_tasks_are_cancelled_meanwhile(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        assert printed_by("""
            def cancel_all():
                for task in asyncio.all_tasks():
                    task.cancel()

            async def stop():
                # The task that leaves the contexts is there and has not begun.
                executor.shutdown(wait=False)
                asyncio.get_running_loop().call_soon(cancel_all)

            async def callback():
                say("left")

            executor = palitra.AsyncLoopExecutor()
            executor.push_async_callback(callback)
            executor.run(stop())
            executor.shutdown()
            say("shut down")
        """) == ["left", "shut down"]

    def test_contexts_are_left_where_the_report_of_one_wants_to_exit(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        assert printed_by("""
            async def fails():
                raise ValueError

            async def callback():
                say("left")

            executor = palitra.AsyncLoopExecutor()
            executor.push_async_callback(callback)
            executor.push_async_callback(fails)
            executor.get_loop().set_exception_handler(lambda loop, context: sys.exit(1))
            executor.shutdown()
            say("shut down")
        """) == ["left", "shut down"]

    def test_the_loop_is_closed_and_its_thread_has_ended(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        assert printed_by("""
            def handler():
                say(loop.is_closed(), [thread.name for thread in threads if thread.is_alive()])

            atexit.register(handler)
            executor = palitra.AsyncLoopExecutor()
            executor.submit(str).result()
            palitra.get_executor().submit(str).result()
            loop = executor.get_loop()
            threads = [t for t in threading.enumerate() if t is not threading.main_thread()]
            assert len(threads) >= 3
        """) == ["True []"]


STAYS = """
    async def stays():
        await main_thread_ended()
        main = threading.main_thread().ident
        while sys._current_frames()[main].f_code.co_name != "wait_for":
            await asyncio.sleep(0.001)
        say("waited for")
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                say("cancelled")
                cancelled.set()

    cancelled = threading.Event()
"""


class TestLongWaits:
    @pytest.mark.parametrize("executor", ["palitra.get_executor()", "palitra.AsyncLoopExecutor()"])
    def test_one_line_names_the_calls_and_ctrl_c_ends_them_with_their_cleanup(
        self, start: Callable[..., Child], executor: str
    ) -> None:
        child = start(f"""
            async def endless_call():
                started.set()
                try:
                    await asyncio.Event().wait()
                finally:
                    await asyncio.sleep(0.05)
                    say("cleaned up")

            async def callback():
                say("context left")

            executor = {executor}
            executor.push_async_callback(callback)
            executor.submit(endless_call)
            started.wait()
            sys.exit(3)
        """)
        line = child.read_line("stderr")
        child.send_signal(signal.SIGINT)
        ended = child.finish()

        assert "endless_call" in line
        assert (ended.stderr, ended.stdout.splitlines(), ended.returncode) == (
            "",
            ["cleaned up", "context left"],
            3,
        )

    def test_the_line_comes_once_after_five_seconds(self, start: Callable[..., Child]) -> None:
        child = start("""
            logging.basicConfig(stream=sys.stdout, format="%(message)s")

            from palitra import _hooks

            async def exit_has_waited(seconds):
                while _hooks._process.waited < seconds:
                    await asyncio.sleep(0.01)

            async def call():
                await exit_has_waited(4.5)
                say("before")
                # Longer than twice the five seconds: there is no second line.
                await exit_has_waited(11.5)
                say("after")

            palitra.get_executor().submit(call)
        """)
        ended = child.finish()

        before, line, after = ended.stdout.splitlines()
        assert (before, after) == ("before", "after")
        assert "call" in line
        assert (ended.stderr, ended.returncode) == ("", 0)

    def test_a_second_ctrl_c_ends_all_waiting(self, start: Callable[..., Child]) -> None:
        child = start(
            STAYS,
            """
            executor = palitra.AsyncLoopExecutor()
            executor.submit(threading.Event().wait)
            executor.submit(stays)
            started.wait()
            """,
        )
        child.expect("waited for")
        child.send_signal(signal.SIGINT)
        child.expect("cancelled")
        child.send_signal(signal.SIGINT)
        ended = child.finish()

        (line,) = ended.stderr.splitlines()
        assert line.startswith("left behind at exit: Event.wait (submit, ")
        assert (ended.stdout, ended.returncode) == ("", 0)

    def test_a_second_ctrl_c_while_the_first_cancels_cancels_nothing_twice(
        self, start: Callable[..., Child]
    ) -> None:
        child = start(
            STAYS,
            """
            def interrupt(_):
                cancelled.wait()
                signal.raise_signal(signal.SIGINT)

            async def turns_of_the_loop():
                for _ in range(10):
                    await asyncio.sleep(0)

            executor = palitra.AsyncLoopExecutor(max_workers=1)
            executor.submit(threading.Event().wait)
            # Before the loop ends, which ends what is to be seen.
            atexit.register(lambda: executor.run(turns_of_the_loop()))
            # No thread is left for it, and it is the next to be cancelled after the last.
            executor.submit(str).add_done_callback(interrupt)
            executor.submit(stays)
            started.wait()
            """,
        )
        child.expect("waited for")
        child.send_signal(signal.SIGINT)
        child.expect("cancelled")
        ended = child.finish()

        (line,) = ended.stderr.splitlines()
        assert line.startswith("left behind at exit: Event.wait (submit, ")
        assert (ended.stdout, ended.returncode) == ("", 0)

    def test_ctrl_c_ends_a_cleanup_that_hangs_with_its_own_cleanup(
        self, start: Callable[..., Child]
    ) -> None:
        child = start("""
            from contextlib import asynccontextmanager

            @asynccontextmanager
            async def context():
                yield
                try:
                    say("leaving")
                    await asyncio.Event().wait()
                finally:
                    await asyncio.sleep(0.05)
                    say("left")

            async def callback():
                say("last")

            palitra.push_async_callback(callback)
            palitra.enter_context(context())
        """)
        child.expect("leaving")
        child.send_signal(signal.SIGINT)
        ended = child.finish()

        assert (ended.stderr, ended.stdout.splitlines(), ended.returncode) == (
            "",
            ["left", "last"],
            0,
        )

    def test_the_line_is_logged_under_palitras_name_for_calls_taken_late_too(
        self, start: Callable[..., Child]
    ) -> None:
        child = start("""
            logging.basicConfig(stream=sys.stdout, format="%(name)s %(levelname)s %(message)s")

            async def endless_call():
                await asyncio.Event().wait()

            palitra.run(double(1))
            atexit.register(palitra.get_executor().submit, endless_call)
        """)
        line = child.read_line()
        child.send_signal(signal.SIGINT)
        ended = child.finish()

        assert line.startswith("palitra WARNING ")
        assert "endless_call" in line
        assert (ended.stderr, ended.stdout, ended.returncode) == ("", "", 0)


IN_SUBINTERPRETER = """
import asyncio, os, sys, threading
import palitra


def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())


async def leave(name):
    await asyncio.sleep(0)
    say("left", name)


async def stray():
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0)
        say("stray task cleaned up")


async def call():
    tasks.add(asyncio.create_task(stray()))
    started.set()
    if sys.version_info >= (3, 12):
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        threading._register_atexit(loop.call_soon_threadsafe, ended.set)
        await ended.wait()
    await asyncio.sleep(0.05)
    say("finished")


tasks = set()
started = threading.Event()
try:
    say(palitra.run(asyncio.sleep(0, "run")))
except RuntimeError as error:
    say("refused:", error.__cause__ or error)
else:
    executor = palitra.AsyncLoopExecutor(max_workers=1)
    say(executor.submit(str, "thread").result())
    executor.push_async_callback(leave, "explicit")
    palitra.push_async_callback(leave, "default")
    executor.submit(call)
    started.wait()
    if sys.version_info < (3, 12):
        # No subinterpreter that has threads can be destroyed there.
        executor.shutdown()
        palitra.shutdown()
"""


# Not in the development mode: its allocator and threads in subinterpreters crash by themselves.
@pytest.mark.parametrize("kind", ["isolated", "legacy"])
def test_the_end_of_a_subinterpreter_finishes_calls_and_leaves_contexts(
    python: Python, kind: str
) -> None:
    ended = python.run(
        """
        import sys
        try:
            import _interpreters as interpreters
        except ImportError:
            import _xxsubinterpreters as interpreters

        kind, program = sys.argv[1:]
        if sys.version_info >= (3, 13):
            created = interpreters.create(kind)
        else:
            created = interpreters.create(isolated=kind == "isolated")
        try:
            failure = interpreters.run_string(created, program)
        finally:
            while True:
                try:
                    interpreters.destroy(created)
                    break
                except RuntimeError as error:  # 3.11: a joined thread is not quite gone yet
                    assert "more than one thread" in str(error)
        assert not failure, failure
        """,
        kind,
        IN_SUBINTERPRETER,
    )

    if kind == "legacy" or sys.version_info[:2] != (3, 12):
        # 3.12 crashes at the end of an isolated one that has as much as imported asyncio.
        assert (ended.stderr, ended.returncode) == ("", 0)
    printed = ended.stdout.splitlines()
    if kind == "isolated" and sys.version_info < (3, 12):
        assert printed == ["refused: thread is not supported for isolated subinterpreters"]
    else:
        assert printed[:3] == ["run", "thread", "finished"]
        assert sorted(printed[3:]) == ["left default", "left explicit", "stray task cleaned up"]


def test_a_handler_of_the_log_that_raises_cancels_nothing(
    printed_by: Callable[..., list[str]],
) -> None:
    assert printed_by("""
        from palitra import _hooks

        class Raises(logging.Handler):
            def emit(self, record):
                told.set()
                raise ValueError

        async def call():
            while not told.is_set():
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            say("done")

        told = threading.Event()
        _hooks.PATIENCE = 0.1
        logging.getLogger("palitra").addHandler(Raises())
        palitra.get_executor().submit(call)
    """) == ["done"]
