"""Programs over a loop of their own that fork, exit, or are interrupted."""

from __future__ import annotations

import importlib.util
import os
import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from interpreters import Child

FLAVOURS = ["asyncio", "uvloop"] if importlib.util.find_spec("uvloop") else ["asyncio"]

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


@pytest.fixture(params=FLAVOURS)
def loop(request: pytest.FixtureRequest) -> str:
    """The program's first lines: `run(coro)` is `asyncio.run` on each kind of loop."""
    factory = "asyncio.new_event_loop"
    if request.param == "uvloop":
        factory = "__import__('uvloop').new_event_loop"
    return f"""
new_loop = {factory}


def run(coro):
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(coro)


def in_thread(function, *args):
    thread = threading.Thread(target=function, args=args)
    thread.start()
    return thread


begun = threading.Event()


async def hang():
    begun.set()
    await asyncio.Event().wait()


def outcome_of(function, *args):
    try:
        return function(*args)
    except BaseException as exc:
        return type(exc).__name__
"""


def test_a_thread_that_calls_learns_of_the_end_of_the_program(
    loop: str, printed_by: Callable[..., list[str]]
) -> None:
    assert printed_by(
        loop,
        """
        async def main():
            executor = palitra.AsyncLoopExecutor.from_loop()
            in_thread(lambda: say(outcome_of(executor.run, hang())))
            await asyncio.to_thread(begun.wait)

        run(main())
        """,
    ) == ["BrokenExecutor"]


def test_so_does_one_whose_call_comes_while_palitra_is_still_settling_in(
    loop: str, printed_by: Callable[..., list[str]]
) -> None:
    assert printed_by(
        loop,
        """
        async def main():
            loop = asyncio.get_running_loop()
            call_soon = loop.call_soon_threadsafe

            def slow(callback, *args, **options):
                if threading.current_thread().name.endswith("_watch"):
                    time.sleep(0.1)  # others have the time to make calls
                return call_soon(callback, *args, **options)

            loop.call_soon_threadsafe = slow
            executor = palitra.AsyncLoopExecutor.from_loop()
            in_thread(lambda: say(outcome_of(executor.run, hang())))
            await asyncio.to_thread(begun.wait)

        run(main())
        """,
    ) == ["BrokenExecutor"]


def test_ctrl_c_in_the_main_thread_ends_the_calls_of_others(
    loop: str, start: Callable[..., Child]
) -> None:
    child = start(
        loop,
        """
        async def main():
            executor = palitra.AsyncLoopExecutor.from_loop()
            in_thread(lambda: say(outcome_of(executor.run, hang())))
            await asyncio.to_thread(begun.wait)
            say("begun")
            await asyncio.Event().wait()

        try:
            run(main())
        except KeyboardInterrupt:
            say("interrupted")
        """,
    )
    child.expect("begun")
    child.send_signal(signal.SIGINT)
    end = child.finish()
    assert sorted(end.stdout.splitlines()) == ["BrokenExecutor", "interrupted"]
    assert (end.stderr, end.returncode) == ("", 0)


ENDS = {
    "shut down": "executor.shutdown()",
    "not shut down": "pass",
    "dropped": "del executor",
}


@pytest.mark.parametrize("end", ENDS)
def test_a_loop_that_nobody_closes_does_not_hold_up_the_exit(
    loop: str, end: str, printed_by: Callable[..., list[str]]
) -> None:
    assert printed_by(
        loop,
        f"""
        loop = new_loop()
        atexit.register(loop.close)  # last
        executor = palitra.AsyncLoopExecutor.from_loop(loop)
        future = executor.submit(hang)
        loop.run_until_complete(asyncio.sleep(0.05))
        assert begun.is_set()
        future.add_done_callback(lambda future: say(type(future.exception()).__name__))
        for task in asyncio.all_tasks(loop):
            task._log_destroy_pending = False
        {ENDS[end]}
        say("end")
        """,
    ) == (["BrokenExecutor", "end"] if end == "shut down" else ["end", "BrokenExecutor"])


@pytest.mark.parametrize("end", ENDS)
def test_the_exit_finishes_the_calls_on_a_loop_in_a_daemon_thread(
    loop: str, end: str, printed_by: Callable[..., list[str]]
) -> None:
    assert printed_by(
        loop,
        f"""
        loop = new_loop()
        threading.Thread(target=loop.run_forever, daemon=True).start()
        executor = palitra.AsyncLoopExecutor.from_loop(loop)

        async def leave():
            say("left")

        async def work():
            begun.set()
            while not ending.is_set():
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.2)
            say("done")

        ending = threading.Event()
        executor.push_async_callback(leave)
        future = executor.submit(work)
        begun.wait()
        warnings.simplefilter("ignore", ResourceWarning)
        if "{end}" == "shut down":
            ending.set()
        {ENDS[end]}
        say("end")
        ending.set()
        """,
    ) == (["done", "left", "end"] if end == "shut down" else ["end", "done", "left"])


@needs_fork
def test_a_forked_child_is_refused_and_the_parent_goes_on(
    loop: str, printed_by: Callable[..., list[str]]
) -> None:
    assert printed_by(
        loop,
        """
        def in_child():
            for function in (
                lambda: executor.submit(double, 1),
                lambda: executor.submit(pow, 2, 3),
                lambda: executor.submit_service(double, 1),
                lambda: executor.run(double(1)),
                executor.get_loop,
            ):
                try:
                    function()
                except RuntimeError as exc:
                    assert "over an event loop of the parent process" in str(exc), exc
                else:
                    say("no error")
            assert outcome_of(future.result) == "BrokenExecutor"
            assert not executor.on_loop()
            use(palitra.get_executor())
            executor.shutdown()
            palitra.shutdown()

        def work():
            begun.wait()
            say(fork(in_child, os._exit))
            say(executor.run(double(21)))

        async def main():
            global executor, future
            async with palitra.AsyncLoopExecutor.from_loop() as executor:
                future = executor.submit(hang)
                await asyncio.to_thread(work)
                future.cancel()

        run(main())
        """,
    ) == ["7", "42"]


@needs_fork
def test_a_fork_inside_a_coroutine_leaves_a_child_that_is_refused(
    loop: str, printed_by: Callable[..., list[str]]
) -> None:
    assert printed_by(
        loop,
        """
        def in_child():
            assert not executor.on_loop()
            try:
                executor.submit(double, 1)
            except RuntimeError as exc:
                assert "over an event loop of the parent process" in str(exc), exc
            else:
                say("no error")

        async def work():
            return fork(in_child, os._exit)

        async def main():
            global executor
            async with palitra.AsyncLoopExecutor.from_loop() as executor:
                say(await asyncio.wrap_future(executor.submit(work)))
                say(await asyncio.wrap_future(executor.submit(double, 21)))

        run(main())
        """,
    ) == ["7", "42"]


@needs_fork
def test_an_executor_that_was_set_is_refused_in_a_child_until_another_is_set(
    loop: str, printed_by: Callable[..., list[str]]
) -> None:
    assert printed_by(
        loop,
        """
        def in_child():
            say(outcome_of(palitra.run, double(1)))
            palitra.set_executor(None)
            say(palitra.run(double(1)))
            palitra.shutdown()

        def work():
            say(palitra.run(double(2)))
            say(fork(in_child, os._exit))

        async def main():
            async with palitra.AsyncLoopExecutor.from_loop() as executor:
                palitra.set_executor(executor)
                await asyncio.to_thread(work)

        warnings.simplefilter("ignore", RuntimeWarning)
        run(main())
        """,
    ) == ["4", "RuntimeError", "2", "7"]


def test_a_program_may_use_one_loop_after_another(
    loop: str, printed_by: Callable[..., list[str]]
) -> None:
    assert printed_by(
        loop,
        """
        async def main():
            executor = palitra.AsyncLoopExecutor.from_loop()
            palitra.set_executor(executor)
            return await asyncio.to_thread(lambda: palitra.run(double(21)))

        say(run(main()), run(main()))
        say(outcome_of(palitra.submit if hasattr(palitra, "submit") else palitra.get_loop))
        palitra.set_executor(None)
        say(palitra.run(double(1)))
        """,
    ) == ["42 42", "BrokenExecutor", "2"]


@pytest.mark.parametrize("end", ["asyncio.run", "stop and close"])
def test_a_call_with_a_context_learns_of_the_end(
    loop: str, printed_by: Callable[..., list[str]], end: str
) -> None:
    assert (
        printed_by(
            loop,
            f"""
        import contextvars

        async def main():
            global executor, thread
            executor = palitra.AsyncLoopExecutor.from_loop()
            context = contextvars.copy_context()
            call = lambda: say(outcome_of(lambda: executor.run(hang(), context=context)))
            thread = in_thread(call)
            while not begun.is_set():
                await asyncio.sleep(0.001)
            if "{end}" != "asyncio.run":
                asyncio.get_running_loop().stop()

        for _ in range(10):
            begun.clear()
            if "{end}" == "asyncio.run":
                run(main())
            else:
                own = new_loop()
                task = own.create_task(main())
                own.run_forever()
                own.close()
            thread.join()
            executor.shutdown()
        """,
        )
        == ["BrokenExecutor"] * 10
    )


def test_who_looks_at_a_future_for_long_does_not_keep_the_end_from_settling_it(
    loop: str, printed_by: Callable[..., list[str]]
) -> None:
    """Long enough for as many attempts as there are."""
    assert printed_by(
        loop,
        """
        import concurrent.futures

        logging.getLogger("palitra").setLevel(logging.CRITICAL + 1)
        own = new_loop()
        executor = palitra.AsyncLoopExecutor.from_loop(own)
        future = executor.submit(hang)
        own.call_soon(lambda: own.call_later(0.1, own.stop))
        other = concurrent.futures.Future()
        concurrent.futures._base.id = lambda each: each is other  # `wait` takes its lock last
        with other._condition:
            in_thread(concurrent.futures.wait, [future, other], 0)
            while not future._holder:
                time.sleep(0.001)
            own.run_forever()
            own.close()
            say(type(future.exception(20)).__name__)
        executor.shutdown()
        """,
    ) == ["BrokenExecutor"]


STEPS = {
    "next": "next(executor.sync_iter(endless))",
    "next of what is fetched ahead": "next(executor.sync_iter(endless, buffersize=2))",
    "sync_context": "executor.sync_context(Hangs()).__enter__()",
    "enter_context": "executor.enter_context(Hangs())",
    "cached_context": "executor.cached_context(Hangs)()",
    "next of an idle iterator": "idle()",
}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_a_step_fails_as_a_call_does(
    loop: str, printed_by: Callable[..., list[str]], step: str
) -> None:
    assert printed_by(
        loop,
        f"""
        class Hangs:
            async def __aenter__(self):
                await hang()

            async def __aexit__(self, *error):
                pass

        async def endless():
            while True:
                await hang()
                yield 1

        async def ready():
            yield 1
            yield 2

        def idle():
            numbers = executor.sync_iter(ready)
            next(numbers)
            begun.set()
            over.wait()
            next(numbers)

        async def main():
            global executor, thread
            executor = palitra.AsyncLoopExecutor.from_loop()
            thread = in_thread(lambda: say(outcome_of(lambda: {step})))
            while not begun.is_set():
                await asyncio.sleep(0.001)

        over = threading.Event()
        run(main())
        over.set()
        thread.join()
        """,
    ) == ["BrokenExecutor"]
