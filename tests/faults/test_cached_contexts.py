"""`cached_context` in forked children, and under a storm of Ctrl-C."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

POOL = """
from contextlib import asynccontextmanager
from palitra._bridges._contexts import cached_context

gate = AsyncEvent()
gate.set()


@asynccontextmanager
async def make_pool():
    started.set()
    await gate.waited_for()
    yield os.getpid()
    say("left", "here" if main == os.getpid() else "in the child")


pool = cached_context(make_pool, palitra.get_executor)
main = os.getpid()
"""

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


@needs_fork
class TestFork:
    @pytest.mark.parametrize("before", [True, False])
    def test_each_process_enters_a_context_of_its_own(
        self, printed_by: Callable[..., list[str]], *, before: bool
    ) -> None:
        assert printed_by(
            POOL,
            f"""
            if {before}:
                assert pool() == main

            def child():
                assert pool() == pool() == os.getpid()

            assert fork(child) == 7
            assert pool() == main
            """,
        ) == ["left in the child", "left here"]

    def test_another_thread_may_be_in_the_first_call(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        assert printed_by(
            POOL,
            """
            gate.clear()
            first = threading.Thread(target=pool)
            first.start()
            started.wait()

            def child():
                gate.set()
                assert pool() == os.getpid()

            assert fork(child) == 7
            gate.set()
            first.join()
            assert pool() == main
            """,
        ) == ["left in the child", "left here"]

    def test_a_process_pool_has_one_in_each_worker(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        assert printed_by(
            POOL,
            """
            import multiprocessing
            from concurrent.futures import ProcessPoolExecutor

            assert pool() == main


            def work(_):
                return pool() == pool() == os.getpid()


            context = multiprocessing.get_context("fork")
            with ProcessPoolExecutor(1, mp_context=context) as workers:
                assert list(workers.map(work, range(4))) == [True] * 4
            """,
        ) == ["left in the child", "left here"]


def test_a_storm_of_ctrl_c_leaves_the_next_call_free(
    printed_by: Callable[..., list[str]],
) -> None:
    """An interruption anywhere in a first call is answered, and the next one enters."""
    lines = printed_by(
        POOL,
        """
        def storm():
            while not over.is_set():
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
                time.sleep(0.0007)


        class Stop(Exception):
            pass


        inside = False


        def on_signal(*_):
            global inside
            if inside:
                inside = False
                raise Stop


        over = threading.Event()
        signal.signal(signal.SIGINT, on_signal)
        sender = threading.Thread(target=storm)
        pools = [cached_context(make_pool, palitra.get_executor) for _ in range(200)]
        palitra.get_loop()
        sender.start()
        i = 0
        while i < len(pools):
            try:
                inside = True
                pools[i]()
                inside = False
                i += 1
            except Stop:
                pass
        over.set()
        sender.join()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        for one in pools:
            assert one() == main
        """,
    )
    assert len(lines) >= 200
    assert set(lines) == {"left here"}
