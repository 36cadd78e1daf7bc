"""A done-callback ends the executor, and waits for that: the end does not wait for the callback."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize("settle", ["cancel()", "set_result(4)", "set_exception(ValueError())"])
@pytest.mark.parametrize("waiting", ["double, 2", "double(2)", "int, 4"])
def test_of_a_call_that_has_not_begun(
    printed_by: Callable[..., list[str]], waiting: str, settle: str
) -> None:
    assert printed_by(f"""
        import concurrent.futures

        async def pass_gate():
            at_gate.set()
            await opened.wait()
            return 1

        def pass_in_thread():
            gate.wait()

        at_gate, gate, opened = threading.Event(), threading.Event(), asyncio.Event()
        executor = palitra.AsyncLoopExecutor(max_workers=1)
        first = executor.submit(pass_gate)
        for _ in range(40):  # more than there are threads
            executor.submit(pass_in_thread)
        at_gate.wait()
        future = executor.submit({waiting})

        def end(future):
            gate.set()
            executor.get_loop().call_soon_threadsafe(opened.set)
            executor.shutdown(timeout=10)
            say("ended", future.done())

        future.add_done_callback(end)
        future.add_done_callback(lambda future: say("told"))
        future.{settle}
        say(first.result(), executor.calls())
    """) == ["ended True", "told", "1 []"]


def test_of_a_call_that_the_exit_leaves_behind(printed_by: Callable[..., list[str]]) -> None:
    assert (
        printed_by("""
        logging.getLogger("palitra").setLevel(logging.ERROR)

        async def ignores_cancellation():
            begun.release()
            while True:
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    pass

        def end(future):
            executor.shutdown()
            say("ended", type(future.exception()).__name__)

        begun = threading.Semaphore(0)
        executor = palitra.AsyncLoopExecutor(exit_timeout=0.1, stall_timeout=60)
        for _ in range(2):
            executor.submit(ignores_cancellation).add_done_callback(end)
            begun.acquire()
    """)
        == ["ended BrokenExecutor"] * 2
    )


def test_on_the_loops_thread_after_the_loop_is_refused(
    printed_by: Callable[..., list[str]],
) -> None:
    assert printed_by("""
        logging.getLogger("palitra").setLevel(logging.CRITICAL + 1)

        class Fails(asyncio.SelectorEventLoop):
            def _run_once(self):
                if fails.is_set() and not failed.is_set():
                    failed.set()
                    raise OSError
                super()._run_once()

        async def never():
            await asyncio.Event().wait()

        def returns_awaitable():
            at_gate.set()
            gate.wait()
            return never()

        def end(future):
            try:
                executor.shutdown()
            except palitra.DeadlockError:
                say("refused")

        def hold():
            held.set()
            gate.wait()

        async def hold_the_closing():
            await asyncio.to_thread(hold)

        fails, failed, gate, at_gate, held = (threading.Event() for _ in range(5))
        executor = palitra.AsyncLoopExecutor(loop_factory=Fails)
        executor.submit(hold_the_closing)
        held.wait()
        future = executor.submit(returns_awaitable)
        at_gate.wait()
        future.add_done_callback(end)
        fails.set()
        executor.get_loop().call_soon_threadsafe(int)
        failed.wait()
        gate.set()
        executor.shutdown()
        say(type(future.exception()).__name__)
    """) == ["refused", "BrokenExecutor"]


def test_of_a_service_that_was_cancelled_before_it_began_leaves_nothing_behind(
    printed_by: Callable[..., list[str]],
) -> None:
    assert printed_by("""
        async def hold():
            held.set()
            gate.wait()

        def end(future):
            executor.shutdown(wait=False)
            gate.set()
            executor._service.ending.over.wait(1.5)  # as long as services have for their clean-up

        held, gate = threading.Event(), threading.Event()
        executor = palitra.AsyncLoopExecutor()
        executor.submit(hold)
        held.wait()
        service = executor.submit_service(double, 1)
        service.add_done_callback(end)
        say(service.cancel())
        executor.shutdown()
    """) == ["True"]
