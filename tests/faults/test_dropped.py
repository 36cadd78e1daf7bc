"""Executors that are dropped without a shutdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class TestDroppedExecutors:
    def test_end_their_threads(self, printed_by: Callable[..., list[str]]) -> None:
        # Without the garbage collector: no reference cycle keeps one alive.
        assert printed_by("""
            import gc, weakref

            gc.disable()
            before = set(threading.enumerate())
            executor = palitra.AsyncLoopExecutor(max_workers=2)
            use(executor)
            dropped = weakref.ref(executor)
            loop = executor.get_loop()
            threads = set(threading.enumerate()) - before
            del executor
            for thread in threads:
                assert ends(thread, 10)
            say(len(threads) >= 2, dropped(), loop.is_closed())
        """) == ["True None True"]

    def test_finish_their_calls_and_leave_their_contexts(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        assert printed_by("""
            import gc

            gc.disable()

            async def call():
                await release.wait()
                say("finished")

            async def callback():
                await asyncio.sleep(0)
                say("context left")

            async def stray():
                try:
                    await asyncio.Event().wait()
                finally:
                    say("stray task cancelled")

            async def start():
                tasks.append(asyncio.create_task(stray()))
                await asyncio.sleep(0)

            tasks = []
            release = asyncio.Event()
            before = set(threading.enumerate())
            executor = palitra.AsyncLoopExecutor()
            loop = executor.get_loop()
            executor.push_async_callback(callback)
            executor.run(start())
            future = executor.submit(call)
            threads = set(threading.enumerate()) - before
            del executor
            loop.call_soon_threadsafe(release.set)
            for thread in threads:
                assert ends(thread, 10)
            say(future.result(), loop.is_closed())
        """) == ["finished", "context left", "stray task cancelled", "None True"]

    def test_may_be_dropped_by_their_own_threads(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        assert printed_by("""
            import gc

            gc.disable()

            async def coroutine(executor):
                started.wait()
                return "coroutine"

            def callable(executor):
                started.wait()
                return "callable"

            for call in coroutine, callable:
                started.clear()
                before = set(threading.enumerate())
                executor = palitra.AsyncLoopExecutor()
                future = executor.submit(call, executor)
                executor.get_loop()
                threads = set(threading.enumerate()) - before
                del executor  # the call holds the last reference
                started.set()
                say(future.result())
                for thread in threads:
                    assert ends(thread, 10)
        """) == ["coroutine", "callable"]

    def test_are_finished_by_the_garbage_collector_when_in_a_cycle(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        assert printed_by("""
            import gc

            before = set(threading.enumerate())
            executor = palitra.AsyncLoopExecutor()
            executor.run(double(1))
            executor.submit(str).result()
            threads = set(threading.enumerate()) - before
            cycle = [executor]
            cycle.append(cycle)
            del executor, cycle
            gc.collect()
            for thread in threads:
                thread.join()
            say("ended")
        """) == ["ended"]

    def test_many_leave_nothing_behind(self, printed_by: Callable[..., list[str]]) -> None:
        assert printed_by("""
            def descriptors():
                return len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0

            def drop():
                before = set(threading.enumerate())
                executor = palitra.AsyncLoopExecutor()
                executor.run(double(1))
                executor.submit(str).result()
                threads = set(threading.enumerate()) - before
                del executor
                for thread in threads:
                    assert ends(thread, 10)

            drop()
            before = descriptors(), threading.active_count()
            for _ in range(100):
                drop()
            say((descriptors(), threading.active_count()) == before)
        """) == ["True"]

    def test_by_another_executors_thread_are_finished(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        assert printed_by("""
            async def use_and_drop():
                executor = palitra.AsyncLoopExecutor()
                future = executor.submit(double, 2)
                threads = [t for t in threading.enumerate() if t not in before]
                return await asyncio.wrap_future(future), threads

            palitra.run(double(1))
            before = set(threading.enumerate())
            answer, threads = palitra.run(use_and_drop())
            for thread in threads:
                assert ends(thread, 10)
            say(answer)
        """) == ["4"]


def test_a_finalizer_that_logs_as_a_thread_is_started_leaves_no_thread_behind(
    printed_by: Callable[..., list[str]],
) -> None:
    """To log asks for the current thread, and `threading` makes one up where it knows none."""
    assert printed_by("""
        def start(thread, start=threading.Thread.start):
            seen.add(threading.current_thread().name)
            start(thread)

        seen = set()
        threading.Thread.start = start
        with palitra.AsyncLoopExecutor() as executor:
            say(executor.run(double(1)), executor.submit(int, 2).result())
        # What starts a thread out of reach may be about to end.
        until = time.monotonic() + 10
        while threading.active_count() > 1 and time.monotonic() < until:
            time.sleep(0.001)
        say(bool(seen), *(thread.name for thread in threading.enumerate()))
    """) == ["2 2", "True MainThread"]
