"""The process-wide executor, and the class of the first README over it."""

from __future__ import annotations

import asyncio
import inspect
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

import palitra
from contract.gates import PATIENCE, Gate, Held, fail_with, in_thread, value_of
from contract.subjects import Awaitable
from palitra import AsyncLoopExecutor, DeadlockError, EventLoopThreadRunner

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from interpreters import Python


@pytest.fixture(autouse=True)
def fresh_default() -> Iterator[None]:
    """Each test finds no default executor and leaves none."""
    palitra.shutdown()
    yield
    palitra.shutdown()


async def this_loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


def test_the_public_names_are_these() -> None:
    assert sorted(set(palitra.__all__) - {"__version__"}) == [
        "AsyncLoopExecutor",
        "CallInfo",
        "CallTimeoutError",
        "DeadlockError",
        "EventLoopThreadRunner",
        "cached_context",
        "dump",
        "enter_context",
        "gather",
        "get_executor",
        "get_loop",
        "is_runner_alive",
        "push_async_callback",
        "run",
        "set_executor",
        "shutdown",
        "shutdown_global_runner",
        "sync",
        "sync_context",
        "sync_iter",
    ]
    for name in palitra.__all__:
        assert getattr(palitra, name)


def test_all_functions_share_one_executor_and_one_loop() -> None:
    loop = palitra.get_loop()

    async def loops() -> AsyncIterator[Any]:
        yield asyncio.get_running_loop()

    @asynccontextmanager
    async def context() -> AsyncIterator[Any]:
        yield asyncio.get_running_loop()

    with palitra.sync_context(context()) as entered:
        assert entered is loop
    assert palitra.run(this_loop()) is loop
    assert palitra.gather(this_loop(), this_loop()) == [loop, loop]
    assert palitra.sync(this_loop)() is loop
    assert list(palitra.sync_iter(loops())) == [loop]
    assert palitra.enter_context(context()) is loop
    assert palitra.get_executor().submit(this_loop).result(PATIENCE) is loop
    assert palitra.get_executor() is palitra.get_executor()
    assert type(palitra.get_executor()) is AsyncLoopExecutor


def test_run_takes_a_timeout_and_a_context() -> None:
    import contextvars

    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")
    context = contextvars.copy_context()

    async def sets() -> None:
        variable.set(7)
        await asyncio.Event().wait()

    while variable not in context:  # on a busy machine, the time may be over before
        with pytest.raises(TimeoutError):
            palitra.run(sets(), timeout=0.01, context=context)
    assert context[variable] == 7


def test_gather_takes_return_exceptions_and_a_timeout() -> None:
    error = ValueError("v")

    assert palitra.gather(fail_with(error), return_exceptions=True) == [error]
    with pytest.raises(TimeoutError):
        palitra.gather(asyncio.Event().wait(), timeout=0.01)


def test_a_callback_pushed_on_the_default_is_called_at_its_end() -> None:
    called = Gate()

    async def callback(*args: int, key: int) -> None:
        assert (args, key) == ((1, 2), 3)
        called.open()

    assert palitra.push_async_callback(callback, 1, 2, key=3) is callback
    palitra.shutdown()

    assert called.is_open


def test_blocking_on_its_loop_is_a_deadlock() -> None:
    async def blocks() -> None:
        palitra.run(value_of(1))

    with pytest.raises(DeadlockError):
        palitra.run(blocks())


@pytest.mark.parametrize("switching", [1e-6], indirect=True)  # at nearly every step
def test_many_threads_first_use_makes_one_executor(switching: None) -> None:
    with ThreadPoolExecutor(8) as pool:
        for _ in range(100):
            together = threading.Barrier(8)

            def first_use(together: Any = together) -> Any:
                together.wait(PATIENCE)
                return palitra.get_executor(), palitra.run(this_loop())

            uses = [pool.submit(first_use) for _ in range(8)]
            assert len({use.result(PATIENCE) for use in uses}) == 1
            palitra.shutdown()


def test_the_next_use_after_shutdown_makes_a_new_executor() -> None:
    old, old_loop = palitra.get_executor(), palitra.get_loop()
    palitra.shutdown()

    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        old.submit(value_of, 1)
    assert old_loop.is_closed()
    assert palitra.run(value_of(7)) == 7
    assert palitra.get_executor() is not old
    assert palitra.get_loop() is not old_loop


def test_a_default_that_was_shut_down_directly_is_renewed_as_well() -> None:
    with palitra.get_executor() as old:
        old.run(value_of(1))

    assert palitra.run(value_of(7)) == 7
    assert palitra.get_executor() is not old


def test_shutdown_without_a_default_makes_none() -> None:
    before = set(threading.enumerate())
    for wanted in (True, False):
        palitra.shutdown(wait=wanted, cancel_futures=True)

    assert set(threading.enumerate()) == before


def test_asking_for_the_executor_starts_no_thread() -> None:
    before = set(threading.enumerate())
    palitra.get_executor()

    assert set(threading.enumerate()) == before


def test_shutdown_waits_and_cancels_as_the_executors_does() -> None:
    held = Held()
    future = palitra.get_executor().submit(held.coroutine)
    held.started.wait()

    palitra.shutdown(wait=False)
    assert not future.done()
    held.open_all()
    assert future.result(PATIENCE) is None

    held = Held()
    held.cleanup.open()
    future = palitra.get_executor().submit(held.coroutine)
    held.started.wait()
    palitra.shutdown(cancel_futures=True)
    assert future.cancelled()


def test_shutting_down_on_its_own_loop_is_a_deadlock_and_changes_nothing() -> None:
    executor = palitra.get_executor()

    async def shuts_down() -> None:
        palitra.shutdown()

    with pytest.raises(DeadlockError):
        palitra.run(shuts_down())

    assert palitra.get_executor() is executor
    assert palitra.run(value_of(7)) == 7


def test_a_new_default_serves_while_the_old_one_still_ends() -> None:
    held = Held()
    future = palitra.get_executor().submit(held.coroutine, 7)
    held.started.wait()
    palitra.shutdown(wait=False)

    assert palitra.run(value_of(8)) == 8
    held.open_all()
    assert future.result(PATIENCE) == 7


def test_shutdown_in_one_thread_never_hangs_those_that_use_it() -> None:
    stop = Gate()
    outcomes: list[Any] = []

    def uses() -> None:
        while not stop.is_open:
            try:
                outcomes.append(palitra.run(value_of(7), timeout=PATIENCE))
            except RuntimeError as error:
                outcomes.append(str(error))

    users = [in_thread(uses) for _ in range(4)]
    rounds = 0
    while rounds < 50 or 7 not in outcomes:  # on a busy machine the users come late
        rounds += 1
        palitra.shutdown()
    stop.open()
    for user in users:
        user.join(PATIENCE)

    assert not any(user.is_alive() for user in users)
    assert set(outcomes) <= {7, "cannot schedule new futures after shutdown"}


def test_import_has_no_side_effects(python: Python) -> None:
    child = python.run("""
        import atexit, os, signal, threading
        import asyncio, concurrent.futures.thread, contextlib, inspect, logging

        seen = []
        atexit.register = lambda *args, **kwargs: seen.append("atexit")
        os.register_at_fork = lambda **kwargs: seen.append("fork")
        threading._register_atexit = lambda *args, **kwargs: seen.append("threading")
        threads = threading.enumerate()
        signals = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

        import palitra

        palitra.AsyncLoopExecutor()
        assert not seen, seen
        assert threading.enumerate() == threads
        assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == signals
    """)

    assert (child.returncode, child.stdout, child.stderr) == (0, "", "")


# EventLoopThreadRunner


def test_the_runner_is_used_without_an_instance() -> None:
    async def pair() -> tuple[Any, Any]:
        return asyncio.get_running_loop(), 7

    assert EventLoopThreadRunner.run(pair()) == (palitra.get_loop(), 7)
    assert EventLoopThreadRunner.get_loop() is palitra.get_loop()
    assert EventLoopThreadRunner.gather(value_of(1), value_of(2)) == [1, 2]


def test_the_runners_run_takes_what_run_takes() -> None:
    run: Any = EventLoopThreadRunner.run

    with pytest.raises(TimeoutError):
        run(asyncio.Event().wait(), timeout=0.01)
    with pytest.raises(NotImplementedError):
        run(Awaitable(1))
    with pytest.raises(TypeError):
        run(7)


def test_the_runners_gather_is_an_awaitable_on_the_loop() -> None:
    async def gathers() -> Any:
        return await EventLoopThreadRunner.gather(value_of(1), Awaitable(2), value_of(3))

    first, second, third = EventLoopThreadRunner.run(gathers())

    assert (first, second[0], third) == (1, 2, 3)


def test_the_runners_gather_on_the_loop_takes_futures_too() -> None:
    async def gathers() -> Any:
        future = palitra.get_executor().submit(value_of, 1)
        return await EventLoopThreadRunner.gather(future, value_of(2))

    assert list(EventLoopThreadRunner.run(gathers())) == [1, 2]


def test_the_runners_gather_goes_on_while_a_shutdown_waits() -> None:
    held = Held()

    async def gathers() -> Any:
        await held.coroutine()
        return await EventLoopThreadRunner.gather(asyncio.ensure_future(value_of(1)), value_of(2))

    future = palitra.get_executor().submit(gathers)
    held.started.wait()
    palitra.shutdown(wait=False)
    held.release.open()

    assert list(future.result(PATIENCE)) == [1, 2]


def test_the_runners_gather_on_the_loop_fails_and_returns_exceptions() -> None:
    error = ValueError("v")

    async def fails() -> Any:
        return await EventLoopThreadRunner.gather(fail_with(error), value_of(1))

    async def returns() -> Any:
        return await EventLoopThreadRunner.gather(
            fail_with(error), value_of(1), return_exceptions=True
        )

    async def times_out() -> Any:
        return await EventLoopThreadRunner.gather(asyncio.Event().wait(), timeout=0.01)

    with pytest.raises(ValueError, match="v") as caught:
        EventLoopThreadRunner.run(fails())
    assert caught.value is error
    assert list(EventLoopThreadRunner.run(returns())) == [error, 1]
    with pytest.raises(TimeoutError):
        EventLoopThreadRunner.run(times_out())


def test_the_runners_gather_fails_and_returns_exceptions_outside() -> None:
    error = ValueError("v")

    with pytest.raises(ValueError, match="v"):
        EventLoopThreadRunner.gather(fail_with(error), value_of(1))
    assert EventLoopThreadRunner.gather(fail_with(error), value_of(1), return_exceptions=True) == [
        error,
        1,
    ]
    with pytest.raises(TimeoutError):
        EventLoopThreadRunner.gather(asyncio.Event().wait(), timeout=0.01)


def test_the_program_of_the_first_readme_runs(python: Python) -> None:
    """With a real server in place of the public one; the calls are the README's."""

    @asynccontextmanager
    async def serve() -> AsyncIterator[list[str]]:
        async def comment(request: web.Request) -> web.Response:
            return web.json_response({"id": int(request.match_info["number"])})

        app = web.Application()
        app.router.add_get("/comments/{number}", comment)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        yield [f"http://127.0.0.1:{port}/comments/{number}" for number in range(1, 11)]
        await runner.cleanup()

    with palitra.sync_context(serve()) as urls:
        end = python.run(
            """
            import sys

            import aiohttp

            urls = sys.argv[1:]

            async def fetch_url(session, url):
                async with session.get(url) as response:
                    return await response.json()

            from palitra import EventLoopThreadRunner
            async def fetch_all():
                async with aiohttp.ClientSession() as session:
                    return await EventLoopThreadRunner.gather(
                        *[fetch_url(session, url) for url in urls]
                    )
            comments = EventLoopThreadRunner.run(fetch_all())

            print(comments)
            """,
            *urls,
        )

    comments = [{"id": number} for number in range(1, 11)]
    assert (end.returncode, end.stdout, end.stderr) == (0, f"{comments}\n", "")


@pytest.mark.parametrize("of", [palitra, palitra.EventLoopThreadRunner])
@pytest.mark.parametrize("call", ["run", "gather"])
def test_coroutines_are_closed_where_there_can_be_no_executor(
    monkeypatch: pytest.MonkeyPatch, call: str, of: object
) -> None:
    monkeypatch.setenv("PALITRA_STALL_TIMEOUT", "soon")
    coros = [value_of(number) for number in range(1 if call == "run" else 2)]
    with pytest.raises(ValueError, match="PALITRA_STALL_TIMEOUT"):
        getattr(of, call)(*coros)

    assert all(inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED for coro in coros)
