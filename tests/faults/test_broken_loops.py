"""A loop that user code stops, kills or closes: what is outstanding settles all the same."""

from __future__ import annotations

import asyncio
import re
import threading
from concurrent.futures import BrokenExecutor, wait
from typing import TYPE_CHECKING, NoReturn

import pytest

import palitra
from lifetimes import FREE_THREADED

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from interpreters import Child

LIMIT = 10.0


class TestLoopsThatGoOn:
    @pytest.mark.parametrize("how", ["in a call", "from another thread", "in a callback"])
    def test_a_stopped_loop_goes_on(self, executor: palitra.AsyncLoopExecutor, how: str) -> None:
        let_go = asyncio.Event()
        stopped = threading.Event()

        async def outstanding() -> str:
            await let_go.wait()
            return "settled"

        async def stop() -> str:
            asyncio.get_running_loop().stop()
            await asyncio.sleep(0)
            return "stopped"

        loop = executor.get_loop()
        future = executor.submit(outstanding)
        if how == "in a call":
            assert executor.run(stop()) == "stopped"
        elif how == "from another thread":
            loop.call_soon_threadsafe(loop.stop)
        else:
            loop.call_soon_threadsafe(loop.call_later, 0, loop.stop)
            loop.call_soon_threadsafe(loop.call_later, 0.01, stopped.set)
            assert stopped.wait(LIMIT)

        assert executor.run(asyncio.sleep(0, "goes on")) == "goes on"
        executor.get_loop().call_soon_threadsafe(let_go.set)
        assert future.result(LIMIT) == "settled"

    def test_a_loop_cannot_be_closed_under_it(self, executor: palitra.AsyncLoopExecutor) -> None:
        async def close() -> None:
            asyncio.get_running_loop().close()

        with pytest.raises(RuntimeError, match="running"):
            executor.run(close())
        with pytest.raises(RuntimeError, match="running"):
            executor.get_loop().close()

        assert executor.run(asyncio.sleep(0, "goes on")) == "goes on"

    @pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
    @pytest.mark.parametrize("where", ["a task", "a callback"])
    def test_an_exit_in_something_of_the_users_own_is_survived(
        self,
        executor: palitra.AsyncLoopExecutor,
        error: type[BaseException],
        where: str,
    ) -> None:
        let_go = asyncio.Event()
        raised = threading.Event()

        async def outstanding() -> str:
            await let_go.wait()
            return "settled"

        def fail() -> NoReturn:
            raised.set()
            raise error

        async def fail_in_a_task() -> NoReturn:
            fail()

        async def start() -> None:
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _loop, _context: None)
            if where == "a task":
                task = loop.create_task(fail_in_a_task())
                task.add_done_callback(lambda task: task.exception())
            else:
                loop.call_soon(fail)

        future = executor.submit(outstanding)
        executor.run(start())

        assert raised.wait(LIMIT)
        assert executor.run(asyncio.sleep(0, "goes on")) == "goes on"
        executor.get_loop().call_soon_threadsafe(let_go.set)
        assert future.result(LIMIT) == "settled"


class TestTheEnd:
    """What user code does while the loop is closed does not cut that short."""

    @pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, None], ids=repr)
    @pytest.mark.parametrize("where", ["task", "generator"])
    def test_goes_on_where_a_clean_up_exits_or_stops_the_loop(
        self,
        executor: palitra.AsyncLoopExecutor,
        error: type[BaseException] | None,
        where: str,
    ) -> None:
        log: list[object] = []
        kept: list[object] = []

        async def clean_up(name: str) -> None:
            log.append(name)
            if name == where:
                if error is not None:
                    raise error
                asyncio.get_running_loop().stop()
                await asyncio.sleep(0)
            log.append(f"{name} closed")

        async def stray() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await clean_up("task")

        async def generator(name: str) -> AsyncIterator[None]:
            try:
                yield
            finally:
                await clean_up(name)

        async def start() -> None:
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _loop, context: log.append(context["exception"]))
            kept.append(loop.create_task(stray()))
            for name in ("generator", "other"):
                kept.append(generator(name))
                await anext(kept[-1])  # type: ignore[call-overload]

        executor.run(start())
        executor.shutdown()

        closed = {name for name in ("task", "generator", "other") if f"{name} closed" in log}
        assert closed == {"task", "generator", "other"} - ({where} if error else set())
        reported = [type(each) for each in log if isinstance(each, BaseException)]
        # Of generators, asyncio itself reports nothing but what is an Exception.
        assert reported == ([error] if error and where == "task" else [])


class Dying(asyncio.SelectorEventLoop):
    """A loop that fails once it is told to."""

    def die(self) -> None:
        self.call_soon_threadsafe(self._die)

    def _die(self) -> None:
        select = self._selector.select  # type: ignore[attr-defined]

        def fail(timeout: float | None) -> NoReturn:
            self._selector.select = select  # type: ignore[attr-defined]
            raise OSError("the selector is gone")

        self._selector.select = fail  # type: ignore[attr-defined]


class TestLoopsThatDie:
    def test_outstanding_calls_and_the_next_one_fail(self) -> None:
        executor = palitra.AsyncLoopExecutor(max_workers=1, loop_factory=Dying)
        loop = executor.get_loop()
        assert isinstance(loop, Dying)
        running = executor.submit(asyncio.Event().wait)
        waiting = executor.submit(asyncio.sleep, 0)

        loop.die()

        assert not wait([running, waiting], LIMIT).not_done
        for future in running, waiting:
            assert isinstance(future.exception(), BrokenExecutor)
        with pytest.raises(BrokenExecutor):
            executor.submit(asyncio.sleep, 0)
        with pytest.raises(BrokenExecutor):
            executor.run(asyncio.sleep(0))
        with pytest.raises(BrokenExecutor):
            executor.gather(asyncio.sleep(0))
        executor.shutdown()

    @pytest.mark.parametrize("way", ["run", "gather"])
    def test_a_blocking_call_fails(self, way: str) -> None:
        executor = palitra.AsyncLoopExecutor(loop_factory=Dying)

        async def call() -> None:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, Dying)
            loop.die()
            await asyncio.Event().wait()

        with pytest.raises(BrokenExecutor) as caught:
            if way == "run":
                executor.run(call())
            else:
                executor.gather(call())

        assert "the selector is gone" in str(caught.value.__cause__ or caught.value)
        executor.shutdown()

    def test_a_plain_callable_finishes(self) -> None:
        executor = palitra.AsyncLoopExecutor(loop_factory=Dying)
        loop = executor.get_loop()
        assert isinstance(loop, Dying)
        release = threading.Event()
        running = threading.Event()

        def call() -> str:
            running.set()
            release.wait(LIMIT)
            return "result"

        future = executor.submit(call)
        coroutine = executor.submit(asyncio.Event().wait)
        running.wait(LIMIT)
        loop.die()
        assert isinstance(coroutine.exception(LIMIT), BrokenExecutor)
        release.set()

        # It either had its result, or was told with the others.
        assert future.exception(LIMIT) is None or isinstance(future.exception(), BrokenExecutor)
        executor.shutdown()

    def test_a_program_ends_all_the_same(self, start: Callable[..., Child]) -> None:
        # Here not even the clean-up can run any more, and that is said on standard error.
        ended = start("""
            async def close_the_selector():
                asyncio.get_running_loop()._selector.close()
                await asyncio.Event().wait()

            for executor in palitra.get_executor(), palitra.AsyncLoopExecutor():
                other = executor.submit(asyncio.Event().wait)
                executor.run(asyncio.to_thread(int))  # a thread of asyncio's that has to end
                for call in (
                    lambda: executor.run(close_the_selector()),
                    lambda: other.result(),
                    lambda: executor.submit(double, 1),
                ):
                    try:
                        call()
                    except RuntimeError as error:
                        say(type(error).__name__)
        """).finish()

        assert ended.returncode == 0
        assert ended.stdout.splitlines() == ["BrokenExecutor"] * 6

    def test_the_threads_of_asyncio_end_with_the_loop(self, start: Callable[..., Child]) -> None:
        ended = start("""
            async def use_a_thread_and_close_the_selector():
                await asyncio.to_thread(str)
                asyncio.get_running_loop()._selector.close()

            for executor in palitra.get_executor(), palitra.AsyncLoopExecutor():
                executor.run(use_a_thread_and_close_the_selector())
                try:
                    executor.run(asyncio.sleep(0))
                except RuntimeError as error:
                    say(type(error).__name__)
                executor.shutdown()
            say(*[thread.name for thread in threading.enumerate()])
        """).finish()

        assert ended.returncode == 0
        assert ended.stdout.splitlines() == ["BrokenExecutor"] * 2 + ["MainThread"]

    def test_the_default_executor_can_be_replaced(self, start: Callable[..., Child]) -> None:
        ended = start("""
            async def close_the_selector():
                asyncio.get_running_loop()._selector.close()
                await asyncio.Event().wait()

            try:
                palitra.run(close_the_selector())
            except RuntimeError as error:
                say(type(error).__name__)
            palitra.shutdown()
            use(palitra.get_executor())
            say("replaced")
        """).finish()

        assert (ended.stdout.splitlines(), ended.returncode) == (["BrokenExecutor", "replaced"], 0)


def test_a_stopped_loop_does_not_keep_a_program(printed_by: Callable[..., list[str]]) -> None:
    assert printed_by("""
        async def stop_for_ever():
            loop = asyncio.get_running_loop()
            while True:
                loop.stop()
                await asyncio.sleep(0)

        async def call():
            asyncio.get_running_loop().stop()
            await main_thread_ended()
            asyncio.get_running_loop().stop()
            await asyncio.sleep(0)
            say("finished")

        async def stray():
            task.append(asyncio.create_task(stop_for_ever()))

        task = []
        palitra.run(stray())
        palitra.get_executor().submit(call)
        started.wait()
    """) == ["finished"]


OUTSTANDING = """
    async def outstanding():
        started.set()
        await let_go.wait()
        return "settled"

    let_go = asyncio.Event()
    executor = palitra.get_executor()
    loop = executor.get_loop()
    future = executor.submit(outstanding)
    started.wait()
"""
GOES_ON = """
    use(executor)
    loop.call_soon_threadsafe(let_go.set)
    say(future.result())
"""


class TestPrograms:
    """The same in child programs, with nothing on standard error but what asyncio has to say."""

    def test_an_exit_in_a_task_of_their_own(self, printed_by: Callable[..., list[str]]) -> None:
        leave = """
            async def leave():
                sys.exit("not the program")

            async def start():
                # That somebody looks at the exception keeps asyncio from saying that nobody did.
                asyncio.create_task(leave()).add_done_callback(lambda task: say(task.exception()))

            executor.run(start())
        """

        assert printed_by(OUTSTANDING, leave, GOES_ON) == ["not the program", "settled"]

    def test_stop_the_loop(self, printed_by: Callable[..., list[str]]) -> None:
        stop = """
            async def stop():
                asyncio.get_running_loop().stop()

            executor.run(stop())
            loop.call_soon_threadsafe(loop.stop)
        """

        assert printed_by(OUTSTANDING, stop, GOES_ON) == ["settled"]

    def test_try_to_close_the_loop(self, printed_by: Callable[..., list[str]]) -> None:
        close = """
            async def close():
                loop.close()

            for attempt in loop.close, lambda: executor.run(close()):
                try:
                    attempt()
                except RuntimeError as error:
                    say(error)
        """
        refusal = "Cannot close a running event loop"

        assert printed_by(OUTSTANDING, close, GOES_ON) == [refusal, refusal, "settled"]

    def test_close_the_loop(self, start: Callable[..., Child]) -> None:
        ended = start("""
            class Closing(asyncio.SelectorEventLoop):
                def run_forever(self):
                    super().run_forever()
                    self.close()  # as a thread may that has stopped it

            async def outstanding():
                started.set()
                await asyncio.Event().wait()

            executor = palitra.AsyncLoopExecutor(loop_factory=Closing)
            loop = executor.get_loop()
            future = executor.submit(outstanding)
            started.wait()
            loop.call_soon_threadsafe(loop.stop)
            for call in (
                lambda: future.result(),
                lambda: executor.run(double(1)),
                lambda: executor.gather(double(1), double(2)),
                lambda: executor.submit(double, 1),
            ):
                try:
                    call()
                except RuntimeError as error:
                    say(error)
            use(palitra.get_executor())
        """).finish()

        why = "the event loop failed: RuntimeError('Event loop is closed')"
        assert (ended.stdout.splitlines(), ended.returncode) == ([why] * 4, 0)
        # asyncio says this of each task that is left on a closed loop: nothing can end it any more.
        # A free-threaded interpreter may end without letting go of the task.
        assert (FREE_THREADED and not ended.stderr) or re.fullmatch(
            r"Task was destroyed but it is pending!\n"
            r"(source_traceback: .*\n(  .*\n)*)?"  # in the development mode
            r"task: <Task pending .*>\n",
            ended.stderr,
        ), ended.stderr

    def test_block_the_loop_for_seconds(self, printed_by: Callable[..., list[str]]) -> None:
        block = """
            async def block():
                blocked.set()
                time.sleep(2)
                return "blocked"

            blocked = threading.Event()
            blocking = executor.submit(block)
            blocked.wait()
            say(executor.run(double(1)), blocking.done(), blocking.result())
        """

        assert printed_by(OUTSTANDING, block, GOES_ON) == ["2 True blocked", "settled"]
