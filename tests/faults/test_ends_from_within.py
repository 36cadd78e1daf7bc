"""Code that the end waits for waits for the end: it is told, or served, and nothing hangs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

WAITS = """
def told(wait):
    try:
        wait()
    except palitra.DeadlockError as error:
        return "use" in str(error) or "leave it out" in str(error)
"""


@pytest.mark.parametrize(
    "wait",
    ["executor.shutdown", "lambda: asyncio.run(executor.aclose())"],
    ids=["shutdown", "aclose"],
)
@pytest.mark.parametrize("thread", ["worker", "asyncio's"])
def test_a_thread_of_the_executors_is_told(
    printed_by: Callable[..., list[str]], thread: str, wait: str
) -> None:
    assert printed_by(
        WAITS,
        f"""
        executor = palitra.AsyncLoopExecutor()
        wait = {wait}

        async def in_thread():
            return await asyncio.to_thread(told, wait)

        if "{thread}" == "worker":
            say(executor.submit(told, wait).result())
        else:
            say(executor.run(in_thread()))
        say(executor.run(double(1)))
        executor.shutdown()
        """,
    ) == ["True", "2"]


def test_an_old_runner_does_not_wait_for_its_own_thread(
    printed_by: Callable[..., list[str]],
) -> None:
    assert printed_by("""
        async def main():
            try:
                await asyncio.to_thread(palitra.shutdown_global_runner)
            except asyncio.CancelledError:
                pass  # which cancels what is in flight, this call too
            return "over"

        say(palitra.run(main()))
    """) == ["over"]


def test_the_clean_up_of_a_borrowed_executor_is_told(printed_by: Callable[..., list[str]]) -> None:
    assert printed_by("""
        class Application:
            async def __aenter__(self):
                return self

            async def __aexit__(self, *error):
                try:
                    await executor.aclose()
                except palitra.DeadlockError as error:
                    say("own end" in str(error))

        async def main():
            global executor
            executor = palitra.AsyncLoopExecutor.from_loop()
            await asyncio.to_thread(executor.enter_context, Application())
            await executor.aclose()

        asyncio.run(main())
    """) == ["True"]


@pytest.mark.parametrize("what", ["a context", "an iterator"])
def test_a_call_leaves_what_it_has_opened_although_a_shutdown_has_begun(
    printed_by: Callable[..., list[str]], what: str
) -> None:
    """The shutdown waits for the call, and so the call can wait for the clean-up."""
    assert printed_by(f"""
        import contextlib

        async def numbers():
            try:
                yield 1
            finally:
                await asyncio.sleep(0.01)
                say("cleaned up")
                raise OSError("not committed")

        def job():
            if "{what}" == "a context":
                opened = executor.sync_context(contextlib.asynccontextmanager(numbers))
            else:
                opened = executor.sync_iter(numbers)
            try:
                with opened:
                    if "{what}" == "an iterator":
                        next(opened)
                    begun.set()
                    while executor._service.usable:
                        time.sleep(0.001)
            except OSError as error:
                return str(error)

        begun = threading.Event()
        with palitra.AsyncLoopExecutor() as executor:
            future = executor.submit(job)
            begun.wait()
        say(future.result())
    """) == ["cleaned up", "not committed"]


@pytest.mark.parametrize("end", ["ctrl-c", "limit"])
def test_a_context_whose_turn_has_not_come_is_not_cancelled(
    printed_by: Callable[..., list[str]], end: str
) -> None:
    assert printed_by(f"""
        import contextlib

        logging.getLogger("palitra").setLevel(logging.ERROR)

        @contextlib.asynccontextmanager
        async def outer():
            try:
                yield
            except BaseException as error:
                say("outer was told", repr(error))
                raise
            say("outer is left")

        @contextlib.asynccontextmanager
        async def inner():
            try:
                yield
            finally:
                if "{end}" == "ctrl-c":
                    os.kill(os.getpid(), signal.SIGINT)
                try:
                    await asyncio.sleep(3600)
                finally:
                    say("inner is left")

        executor = palitra.AsyncLoopExecutor(exit_timeout=1.0 if "{end}" == "limit" else None)
        executor.enter_context(outer)
        executor.enter_context(inner)
    """) == ["inner is left", "outer is left"]


def test_a_pools_thread_that_calls_keeps_the_contexts_open_until_it_has_ended(
    printed_by: Callable[..., list[str]],
) -> None:
    assert printed_by("""
        import contextlib
        from concurrent.futures import ThreadPoolExecutor

        @contextlib.asynccontextmanager
        async def context():
            yield
            say("left")
            left.set()

        def job():
            palitra.run(double(1))
            begun.set()
            say("left early" if left.wait(1) else "open", palitra.run(double(1)))

        begun, left = threading.Event(), threading.Event()
        palitra.enter_context(context)
        threading.Thread(target=left.wait).start()  # has never used palitra
        ThreadPoolExecutor().submit(job)
        begun.wait()
    """) == ["open 2", "left"]


@pytest.mark.parametrize("leave", ["context.__exit__(None, None, None)", "numbers.close()"])
def test_a_clean_up_that_somebody_waits_for_is_not_cancelled_by_a_shutdown(
    printed_by: Callable[..., list[str]], leave: str
) -> None:
    assert printed_by(f"""
        import contextlib

        async def generate():
            try:
                yield 1
            finally:
                begun.set()
                while executor._service.usable:
                    await asyncio.sleep(0.001)
                await asyncio.sleep(0.05)
                say("cleaned up")

        def end():
            begun.wait()
            executor.shutdown(cancel_futures=True)

        begun = threading.Event()
        executor = palitra.AsyncLoopExecutor()
        context = executor.sync_context(contextlib.asynccontextmanager(generate))
        context.__enter__()
        numbers = executor.sync_iter(generate)
        if "{leave}".startswith("numbers"):
            next(numbers)
        thread = threading.Thread(target=end)
        thread.start()
        {leave}
        say("left")
        thread.join()
    """)[:2] == ["cleaned up", "left"]
