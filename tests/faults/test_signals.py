"""Ctrl-C and other signals, real ones, at any moment: clean-up first, and never a hang."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from interpreters import Child

# A call says when it has begun and the main thread waits, for it or for something else, and when
# its clean-up is over; the parent sends the signal.
CALL = """
release = None


async def main_thread_waits():
    main = threading.main_thread().ident
    while sys._current_frames()[main].f_code.co_name != "wait_for":
        await asyncio.sleep(0.001)


async def call(name="call"):
    global release
    release = asyncio.Event()
    try:
        await main_thread_waits()
        say("started")
        await release.wait()
        return "answer"
    finally:
        await asyncio.sleep(0.05)
        say("cleaned up")


async def stubborn():
    global release
    release = asyncio.Event()
    try:
        await main_thread_waits()
        say("started")
        await asyncio.Event().wait()
    finally:
        say("cleaning up")
        await release.wait()
        say("cleaned up")


def let_go(executor=None):
    (executor or palitra).get_loop().call_soon_threadsafe(lambda: release.set())


executor = palitra.AsyncLoopExecutor()
"""


class TestCtrlC:
    @pytest.mark.parametrize(
        "wait",
        [
            "palitra.run(call())",
            "palitra.run(call(), timeout=3600)",
            "executor.run(call())",
            "palitra.gather(call())",
            "palitra.gather(call(), return_exceptions=True)",
            "palitra.gather(call(), timeout=3600)",
            "palitra.sync(call)()",
            "palitra.EventLoopThreadRunner.run(call())",
        ],
    )
    def test_cancels_a_blocking_call_and_waits_for_its_cleanup(
        self, start: Callable[..., Child], wait: str
    ) -> None:
        child = start(
            CALL,
            f"""
            try:
                {wait}
            except KeyboardInterrupt:
                say("interrupted")
            use(executor)
            use(palitra.get_executor())
            """,
        )
        child.expect("started")
        child.send_signal(signal.SIGINT)
        ended = child.finish()

        assert (ended.stderr, ended.returncode) == ("", 0)
        assert ended.stdout.splitlines() == ["cleaned up", "interrupted"]

    def test_cancels_what_gather_started_and_not_what_it_was_given(
        self, start: Callable[..., Child]
    ) -> None:
        child = start(
            CALL,
            """
            async def given():
                await given_may_end.wait()
                return "given"

            given_may_end = asyncio.Event()
            future = palitra.get_executor().submit(given)
            try:
                palitra.gather(future, *[call() for _ in range(3)])
            except KeyboardInterrupt:
                say("interrupted", future.done())
            palitra.get_loop().call_soon_threadsafe(given_may_end.set)
            say(future.result())
            """,
        )
        for _ in range(3):
            child.expect("started")
        child.send_signal(signal.SIGINT)
        ended = child.finish()

        assert (ended.stderr, ended.returncode) == ("", 0)
        assert ended.stdout.splitlines() == [
            *["cleaned up"] * 3,
            "interrupted False",
            "given",
        ]

    def test_in_result_leaves_the_call_alone(self, start: Callable[..., Child]) -> None:
        child = start(
            CALL,
            """
            future = executor.submit(call)
            try:
                future.result()
            except KeyboardInterrupt:
                say("interrupted", future.running())
            let_go(executor)
            say(future.result())
            """,
        )
        child.expect("started")
        child.send_signal(signal.SIGINT)
        ended = child.finish()

        assert (ended.stderr, ended.returncode) == ("", 0)
        assert ended.stdout.splitlines() == ["interrupted True", "cleaned up", "answer"]

    @pytest.mark.parametrize(
        "shutdown", ["executor.shutdown()", "executor.__exit__(None, None, None)"]
    )
    def test_in_shutdown_ends_the_wait_and_not_the_calls(
        self, start: Callable[..., Child], shutdown: str
    ) -> None:
        child = start(
            CALL,
            f"""
            future = executor.submit(call)
            loop = executor.get_loop()
            try:
                {shutdown}
            except KeyboardInterrupt:
                say("interrupted", future.running())
            try:
                executor.submit(double, 1)
            except RuntimeError as error:
                say(error)
            loop.call_soon_threadsafe(lambda: release.set())
            executor.shutdown()
            say(future.result(), loop.is_closed())
            """,
        )
        child.expect("started")
        child.send_signal(signal.SIGINT)
        ended = child.finish()

        assert (ended.stderr, ended.returncode) == ("", 0)
        assert ended.stdout.splitlines() == [
            "interrupted True",
            "cannot schedule new futures after shutdown",
            "cleaned up",
            "answer True",
        ]

    @pytest.mark.parametrize("wait", ["palitra.run(stubborn())", "palitra.gather(stubborn())"])
    def test_a_second_one_abandons_the_cleanup(
        self, start: Callable[..., Child], wait: str
    ) -> None:
        child = start(
            CALL,
            f"""
            try:
                {wait}
            except KeyboardInterrupt:
                say("abandoned")
            use(palitra.get_executor())
            let_go()
            """,
        )
        child.expect("started")
        child.send_signal(signal.SIGINT)
        child.expect("cleaning up")
        child.send_signal(signal.SIGINT)
        ended = child.finish()

        assert (ended.stderr, ended.returncode) == ("", 0)
        assert ended.stdout.splitlines() == ["abandoned", "cleaned up"]

    def test_that_a_coroutine_answers_with_a_result_is_raised_all_the_same(
        self, start: Callable[..., Child]
    ) -> None:
        child = start("""
            async def call():
                try:
                    say("started")
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    return "answer"

            try:
                say(palitra.run(call()))
            except KeyboardInterrupt:
                say("interrupted")
        """)
        child.expect("started")
        child.send_signal(signal.SIGINT)
        ended = child.finish()

        assert (ended.stderr, ended.stdout, ended.returncode) == ("", "interrupted\n", 0)

    def test_unhandled_ends_the_program_after_the_cleanup(
        self, start: Callable[..., Child]
    ) -> None:
        child = start(CALL, "palitra.run(call())")
        child.expect("started")
        child.send_signal(signal.SIGINT)
        ended = child.finish()

        assert ended.stdout == "cleaned up\n"
        assert ended.stderr.startswith("Traceback ")
        assert ended.stderr.endswith("\nKeyboardInterrupt\n")
        assert ended.returncode == -signal.SIGINT

    def test_while_the_loop_is_blocked_waits_for_it(self, start: Callable[..., Child]) -> None:
        child = start("""
            async def call():
                # Ctrl-C is the main thread's; this holds the loop until it has been handled.
                say("started")
                handled.wait()
                await asyncio.Event().wait()

            def handler(number, frame):
                handled.set()
                raise KeyboardInterrupt

            handled = threading.Event()
            signal.signal(signal.SIGINT, handler)
            try:
                palitra.run(call())
            except KeyboardInterrupt:
                say("interrupted")
            use(palitra.get_executor())
        """)
        child.expect("started")
        child.send_signal(signal.SIGINT)
        ended = child.finish()

        assert (ended.stderr, ended.stdout, ended.returncode) == ("", "interrupted\n", 0)

    def test_while_the_executor_starts_lets_it_start(self, start: Callable[..., Child]) -> None:
        child = start("""
            def initializer():
                say("started")
                handled.wait()

            def handler(number, frame):
                handled.set()
                raise KeyboardInterrupt

            handled = threading.Event()
            signal.signal(signal.SIGINT, handler)
            executor = palitra.AsyncLoopExecutor(initializer=initializer)
            try:
                executor.run(double(1))
            except KeyboardInterrupt:
                say("interrupted")
            use(executor)
        """)
        child.expect("started")
        child.send_signal(signal.SIGINT)
        ended = child.finish()

        assert (ended.stderr, ended.returncode) == ("", 0)
        assert "interrupted" in ended.stdout.splitlines()

    def test_in_an_iterator_closes_it(self, start: Callable[..., Child]) -> None:
        child = start("""
            async def generate():
                try:
                    yield "first"
                    say("started")
                    await asyncio.Event().wait()
                finally:
                    await asyncio.sleep(0.05)
                    say("cleaned up")

            try:
                with palitra.sync_iter(generate()) as iterator:
                    for item in iterator:
                        pass
            except KeyboardInterrupt:
                say("interrupted")
        """)
        child.expect("started")
        child.send_signal(signal.SIGINT)
        ended = child.finish()

        assert (ended.stderr, ended.returncode) == ("", 0)
        assert ended.stdout.splitlines() == ["cleaned up", "interrupted"]

    @pytest.mark.parametrize("enter", ["sync_context(pool()).__enter__()", "enter_context(pool())"])
    def test_while_a_context_is_entered_cancels_that(
        self, start: Callable[..., Child], enter: str
    ) -> None:
        child = start(f"""
            from contextlib import asynccontextmanager

            @asynccontextmanager
            async def pool():
                try:
                    say("started")
                    await asyncio.Event().wait()
                    yield
                finally:
                    await asyncio.sleep(0.05)
                    say("cleaned up")

            try:
                palitra.{enter}
            except KeyboardInterrupt:
                say("interrupted")
        """)
        child.expect("started")
        child.send_signal(signal.SIGINT)
        ended = child.finish()

        assert (ended.stderr, ended.returncode) == ("", 0)
        assert ended.stdout.splitlines() == ["cleaned up", "interrupted"]

    def test_in_map_cancels_what_is_left(self, start: Callable[..., Child]) -> None:
        child = start("""
            async def call(number):
                try:
                    if number:
                        say("started")
                        await asyncio.Event().wait()
                    return number
                finally:
                    await asyncio.sleep(0)
                    say("cleaned up", number)

            executor = palitra.AsyncLoopExecutor()
            try:
                for number in executor.map(call, range(3)):
                    say("result", number)
            except KeyboardInterrupt:
                say("interrupted")
            executor.shutdown()
        """)
        lines = [child.read_line().strip() for _ in range(4)]
        child.send_signal(signal.SIGINT)
        ended = child.finish()

        assert sorted(lines) == ["cleaned up 0", "result 0", "started", "started"]
        assert (ended.stderr, ended.returncode) == ("", 0)
        assert sorted(ended.stdout.splitlines()) == [
            "cleaned up 1",
            "cleaned up 2",
            "interrupted",
        ]


HIDES_ITS_CLASS = """
class Classless(Exception):
    @property
    def __class__(self):
        raise ArithmeticError("classless")
"""


class TestHandlers:
    @pytest.mark.parametrize(
        "wait",
        ["palitra.run(call())", "palitra.run(call(), timeout=3600)", "palitra.gather(call())"],
    )
    @pytest.mark.parametrize(
        "error", ["ValueError", "SystemExit", "TimeoutError", "BaseException", "Classless"]
    )
    def test_that_raise_end_the_blocking_call_as_ctrl_c_does(
        self, start: Callable[..., Child], wait: str, error: str
    ) -> None:
        child = start(
            CALL,
            HIDES_ITS_CLASS,
            f"""
            class Raised({error}):
                pass

            def handler(number, frame):
                raise Raised

            signal.signal(signal.SIGUSR1, handler)
            try:
                {wait}
            except Raised:
                say("raised")
            use(palitra.get_executor())
            """,
        )
        child.expect("started")
        child.send_signal(signal.SIGUSR1)
        ended = child.finish()

        assert (ended.stderr, ended.returncode) == ("", 0)
        assert ended.stdout.splitlines() == ["cleaned up", "raised"]

    def test_are_refused_the_results_that_they_have_interrupted(
        self, start: Callable[..., Child]
    ) -> None:
        """As by the generator of a thread pool: none is given twice, and none is lost."""
        child = start(
            """
            def main_thread_reads():
                names = []
                frame = sys._current_frames()[threading.main_thread().ident]
                while frame is not None:
                    names.append(frame.f_code.co_name)
                    frame = frame.f_back
                return begun and "__next__" in names[1:]

            async def call(number):
                if number == 1:
                    while not main_thread_reads():
                        await asyncio.sleep(0.001)
                    say("started")
                    await gate.wait()
                return number

            def handler(number, frame):
                executor.get_loop().call_soon_threadsafe(gate.set)
                try:
                    say(next(results))
                except ValueError as error:
                    say(error)

            begun = False
            gate = asyncio.Event()
            executor = palitra.AsyncLoopExecutor()
            signal.signal(signal.SIGUSR1, handler)
            results = executor.map(call, range(1, 4))
            begun = True
            say(list(results))
            executor.shutdown()
            """,
        )
        child.expect("started")
        child.send_signal(signal.SIGUSR1)
        ended = child.finish()

        assert (ended.stderr, ended.returncode) == ("", 0)
        assert ended.stdout.splitlines() == ["generator already executing", "[1, 2, 3]"]

    def test_that_exit_end_the_program_after_the_cleanup(self, start: Callable[..., Child]) -> None:
        child = start(
            CALL,
            """
            signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(3))
            palitra.run(call())
            """,
        )
        child.expect("started")
        child.send_signal(signal.SIGTERM)
        ended = child.finish()

        assert (ended.stderr, ended.stdout, ended.returncode) == ("", "cleaned up\n", 3)

    @pytest.mark.parametrize(
        "wait",
        [
            "palitra.run(call())",
            "palitra.gather(call())",
            "palitra.get_executor().submit(call).result()",
            "palitra.get_executor().shutdown()",
        ],
    )
    def test_may_call_while_the_main_thread_waits(
        self, start: Callable[..., Child], wait: str
    ) -> None:
        child = start(
            CALL,
            f"""
            def handler(number, frame):
                use(executor)
                if "shutdown" not in {wait!r}:
                    use(palitra.get_executor())
                say("handled")
                loop.call_soon_threadsafe(lambda: release.set())

            executor.run(double(1))
            loop = palitra.get_loop()
            signal.signal(signal.SIGUSR1, handler)
            if "shutdown" in {wait!r}:
                palitra.get_executor().submit(call)
            {wait}
            """,
        )
        child.expect("started")
        child.send_signal(signal.SIGUSR1)
        ended = child.finish()

        assert (ended.stderr, ended.returncode) == ("", 0)
        assert ended.stdout.splitlines() == ["handled", "cleaned up"]

    def test_may_shut_down_while_the_main_thread_waits(self, start: Callable[..., Child]) -> None:
        child = start(
            CALL,
            """
            def handler(number, frame):
                say("handled")
                palitra.shutdown(wait=False, cancel_futures=True)

            signal.signal(signal.SIGUSR1, handler)
            future = palitra.get_executor().submit(call)
            try:
                future.result()
            except BaseException as error:
                say(type(error).__name__)
            """,
        )
        child.expect("started")
        child.send_signal(signal.SIGUSR1)
        ended = child.finish()

        assert (ended.stderr, ended.returncode) == ("", 0)
        assert ended.stdout.splitlines() == ["handled", "cleaned up", "CancelledError"]


# Signals from a timer, so many that they hit every line of palitra's sooner or later.
STORM = """
import random

# What is left of a call that Ctrl-C kept from being made.
warnings.filterwarnings("ignore", message="coroutine .* was never awaited")


def hide_ctrl_c(ignored):
    # In a finalizer, say.
    if ignored.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(ignored)


sys.unraisablehook = hide_ctrl_c


def storm(handler, work, signals=500):
    # Work until the handler has been called so many times.
    left = signals

    def rearm():
        # After the handler: it should interrupt the work, not itself.
        if left:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0001, 0.001))

    def count_and_handle(number, frame):
        nonlocal left
        if frame.f_code in (storm.__code__, rearm.__code__):
            return rearm()  # between the work
        while frame:
            if frame.f_code.co_filename == threading.__file__:
                # An exception in there can leave a lock held, and a call can find it held.
                return rearm()
            if frame.f_code is hide_ctrl_c.__code__:
                return rearm()  # not the work either
            frame = frame.f_back
        left -= 1
        try:
            handler()
        finally:
            rearm()

    signal.signal(signal.SIGALRM, count_and_handle)
    rearm()
    while True:
        try:
            while left:
                work()
            return
        except KeyboardInterrupt:
            pass
        except BaseException:
            left = 0
            raise


def interrupt():
    raise KeyboardInterrupt
"""


class TestStorms:
    def test_of_ctrl_c_lose_no_call_and_hang_nothing(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        assert printed_by(
            STORM,
            """
            def work():
                futures.append(executor.submit(double, 1))
                futures.append(executor.submit(str, 1))
                assert executor.run(double(1)) == 2
                assert executor.gather(double(1), double(2)) == [2, 4]
                assert list(executor.map(double, range(3))) == [0, 2, 4]
                assert list(executor.sync_iter(count(2))) == [0, 1]

            futures = []
            executor = palitra.AsyncLoopExecutor()
            storm(interrupt, work)
            assert {future.result() for future in futures} == {2, "1"}
            use(executor)
            executor.shutdown()
            say("no hang")
            """,
        ) == ["no hang"]

    def test_of_ctrl_c_hang_neither_a_start_nor_a_shutdown(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        assert printed_by(
            STORM,
            """
            def work():
                executor = palitra.AsyncLoopExecutor()
                futures.append(executor.submit(double, 1))
                futures.append(executor.submit(str, 1))
                executor.shutdown()

            futures = []
            storm(interrupt, work)
            work()  # the storm may have let no start come as far as both calls
            assert {future.result() for future in futures} == {2, "1"}
            say("no hang")
            """,
        ) == ["no hang"]

    def test_of_ctrl_c_spare_the_default_executor(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        assert printed_by(
            STORM,
            """
            def work():
                futures.append(palitra.get_executor().submit(double, 1))
                assert palitra.run(double(1)) == 2
                palitra.shutdown()

            futures = []
            storm(interrupt, work)
            assert {future.result() for future in futures} == {2}
            use(palitra.get_executor())
            say("no hang")
            """,
        ) == ["no hang"]

    def test_of_ctrl_c_hang_no_exit(self, start: Callable[..., Child]) -> None:
        child = start("""
            async def call():
                started.set()
                await asyncio.Event().wait()

            armed = True

            def arm():
                signal.setitimer(signal.ITIMER_REAL, 0.005)

            def handler(number, frame):
                if armed:
                    arm()
                    raise KeyboardInterrupt

            def disarm():
                global armed
                while armed:
                    try:
                        signal.setitimer(signal.ITIMER_REAL, 0)
                        armed = False
                    except KeyboardInterrupt:
                        pass

            signal.signal(signal.SIGALRM, handler)
            # After palitra's own; twice, because a signal that has come already may interrupt it
            # before its first line.
            atexit.register(disarm)
            atexit.register(disarm)
            palitra.get_executor().submit(call)
            palitra.AsyncLoopExecutor().submit(call)
            started.wait()
            threading._register_atexit(arm)
        """)

        # What else is interrupted there says so on standard error.
        assert child.finish().returncode == 0

    def test_of_handlers_that_call_hang_nothing(self, printed_by: Callable[..., list[str]]) -> None:
        assert printed_by(
            STORM,
            """
            def handle():
                inner.append(executor.submit(double, 2))
                assert executor.run(double(1)) == 2

            def work():
                futures.append(executor.submit(double, 1))
                futures.append(executor.submit(str, 1))
                assert executor.run(double(1)) == 2
                assert executor.gather(double(1), double(2)) == [2, 4]

            futures = []
            inner = []
            executor = palitra.AsyncLoopExecutor(max_workers=4)
            storm(handle, work)
            assert {future.result() for future in futures} == {2, "1"}
            assert [future.result() for future in inner] == [4] * 500
            say("no hang")
            """,
        ) == ["no hang"]

    def test_of_handlers_that_call_while_executors_come_and_go_hang_nothing(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        assert printed_by(
            STORM,
            """
            def handle():
                assert palitra.run(double(2)) == 4
                with palitra.AsyncLoopExecutor() as executor:
                    assert executor.submit(double, 1).result() == 2

            def work():
                with palitra.AsyncLoopExecutor() as executor:
                    assert executor.submit(double, 1).result() == 2
                assert palitra.run(double(2)) == 4

            storm(handle, work, signals=200)
            say("no hang")
            """,
        ) == ["no hang"]
