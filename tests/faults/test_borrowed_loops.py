"""An executor over the application's loop, which ends when the application wants."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import importlib.util
import inspect
import sys
import threading
import time
import warnings
import weakref
from concurrent.futures import BrokenExecutor, Future, as_completed, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import palitra
from palitra._inbox import Inbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

SOON = 5.0  # seconds; a busy machine, where one is meant
FLAVOURS = ["asyncio", "uvloop"] if importlib.util.find_spec("uvloop") else ["asyncio"]


@pytest.fixture(params=FLAVOURS)
def new_loop(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    if request.param == "uvloop":
        factory: Callable[[], asyncio.AbstractEventLoop]
        factory = importlib.import_module("uvloop").new_event_loop
        return factory
    return asyncio.new_event_loop


class Application:
    """A program in a thread: its main coroutine runs until it is told to end."""

    def __init__(self, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self._ready = threading.Event()
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, args=(new_loop,))
        self.thread.start()
        assert self._ready.wait(SOON)

    def _run(self, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        try:
            with asyncio.Runner(loop_factory=new_loop) as runner:
                runner.run(self._main())
        except BaseException as exc:
            self.error = exc

    async def _main(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        self._ready.set()
        await self._end.wait()

    def end(self) -> None:
        """End it as `asyncio.run` does: all tasks are cancelled, the loop is closed."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._end.set)
        self.thread.join(SOON)
        assert not self.thread.is_alive()


@pytest.fixture
def application(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> Iterator[Application]:
    application = Application(new_loop)
    yield application
    application.end()


class Hanging:
    """A call that waits for ever, and tells that it has begun and how it ended."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.ends: list[type[BaseException]] = []

    async def __call__(self) -> None:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        except BaseException as exc:
            self.ends.append(type(exc))
            raise


def hang(executor: palitra.AsyncLoopExecutor) -> Any:
    body = Hanging()
    future = executor.submit(body)
    assert body.begun.wait(SOON)
    return future


async def reached(gate: threading.Event) -> None:
    """Wait on the loop for what a thread sets."""
    while not gate.is_set():  # noqa: ASYNC110  (it belongs to no loop)
        await asyncio.sleep(0.01)


async def answer() -> int:
    await asyncio.sleep(0)
    return 42


def assert_refuses(executor: palitra.AsyncLoopExecutor) -> None:
    for call in (
        lambda: executor.submit(answer),
        lambda: executor.submit(pow, 2, 3),
        lambda: executor.run(answer()),
        lambda: executor.gather(answer()),
        executor.get_loop,
        lambda: executor.submit_service(answer),
    ):
        with pytest.raises(BrokenExecutor, match="the application has ended the event loop"):
            call()


def in_threads(number: int, function: Callable[[], object]) -> list[BaseException | None]:
    outcomes: list[BaseException | None] = []

    def run() -> None:
        try:
            function()
        except BaseException as exc:
            outcomes.append(exc)
        else:
            outcomes.append(None)

    threads = [threading.Thread(target=run) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON * 2)
        assert not thread.is_alive()
    return outcomes


# -- the loop ends first ------------------------------------------------------------------------


def test_calls_in_flight_fail_when_asyncio_run_ends(application: Application) -> None:
    executor = palitra.AsyncLoopExecutor.from_loop(application.loop)
    body = Hanging()
    futures = [executor.submit(body), *(hang(executor) for _ in range(3))]
    began = time.monotonic()
    threading.Timer(0.05, application.end).start()
    for future in as_completed(futures, SOON):
        with pytest.raises(BrokenExecutor, match="the application has ended the event loop"):
            future.result()
    assert time.monotonic() - began < 2
    application.end()
    assert body.ends == [asyncio.CancelledError]  # it had its clean-up
    assert_refuses(executor)
    executor.shutdown()


def executor_and_end(
    application: Application, borrowed: bool
) -> tuple[palitra.AsyncLoopExecutor, Callable[[], None]]:
    """An executor over a loop of its own or the application's, and what ends that loop."""
    if borrowed:
        return palitra.AsyncLoopExecutor.from_loop(application.loop), application.end
    own = palitra.AsyncLoopExecutor(loop_factory=type(application.loop))
    return own, lambda: own.shutdown(cancel_futures=True)


@pytest.mark.parametrize("borrowed", [False, True], ids=["own", "borrowed"])
def test_a_watcher_that_cannot_be_told_at_once_learns_of_the_end_nevertheless(
    application: Application, borrowed: bool
) -> None:
    executor, end = executor_and_end(application, borrowed)
    futures = [hang(executor) for _ in range(20)]
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.extend(as_completed(futures, SOON)))
    thread.start()
    while not futures[-1]._waiters:
        time.sleep(0.001)
    [watcher] = futures[-1]._waiters
    with watcher.lock:  # as whoever calls `as_completed` holds it for a moment
        ending = threading.Thread(target=end)
        ending.start()
        while not any(future.done() for future in futures):
            time.sleep(0.001)
    ending.join()
    thread.join()
    assert set(found) == set(futures)
    executor.shutdown()


class SlowToWatch(Future):  # type: ignore[type-arg]
    """A future, so that `wait` needs a while after it has looked at all states."""

    pause: Callable[[], object] = staticmethod(lambda: None)

    @property
    def _waiters(self) -> list[Any]:
        self.pause()
        return self._watchers

    @_waiters.setter
    def _waiters(self, watchers: list[Any]) -> None:
        self._watchers = watchers


@pytest.mark.parametrize("borrowed", [False, True], ids=["own", "borrowed"])
def test_a_future_does_not_change_at_the_end_while_somebody_looks_at_it(
    application: Application, borrowed: bool
) -> None:
    executor, end = executor_and_end(application, borrowed)
    futures = [hang(executor) for _ in range(20)]
    looks = threading.Event()

    def pause() -> None:
        until = time.monotonic() + (0 if looks.is_set() else 0.2)
        looks.set()
        while time.monotonic() < until and not futures[0].done():
            time.sleep(0.001)

    others = [SlowToWatch() for _ in range(8)]
    for other in others:
        other.set_result(None)
        other.pause = pause
    left: list[Any] = []
    thread = threading.Thread(target=lambda: left.append(wait([*futures, *others], SOON).not_done))
    thread.start()
    looks.wait()
    end()
    thread.join()
    assert left == [set()]
    executor.shutdown()


def test_run_gather_and_wait_fail_when_asyncio_run_ends(application: Application) -> None:
    executor = palitra.AsyncLoopExecutor.from_loop(application.loop)
    begun = threading.Semaphore(0)

    async def hang() -> None:
        begun.release()
        await asyncio.Event().wait()

    calls: list[Callable[[], object]] = [
        lambda: executor.run(hang()),
        lambda: executor.gather(hang()),
        lambda: executor.submit(hang).result(),
        lambda: list(executor.map(lambda _: hang(), [1])),
        lambda: executor.submit(lambda: hang()).result(),  # noqa: PLW0108  (a plain callable)
    ]
    outcomes: list[BaseException] = []

    def call(function: Callable[[], object]) -> None:
        try:
            function()
        except BaseException as exc:
            outcomes.append(exc)

    threads = [threading.Thread(target=call, args=(each,)) for each in calls]
    for thread in threads:
        thread.start()
    for _ in calls:
        assert begun.acquire(timeout=SOON)
    application.end()
    for thread in threads:
        thread.join(SOON)
    assert [type(outcome) for outcome in outcomes] == [BrokenExecutor] * len(calls)
    executor.shutdown()


def stop(loop: asyncio.AbstractEventLoop) -> None:
    loop.call_soon_threadsafe(loop.stop)


class Loop:
    """A bare loop in a thread, to be stopped and to be closed."""

    def __init__(self, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self.loop = new_loop()
        self._thread: threading.Thread | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        started = threading.Event()
        self.loop.call_soon_threadsafe(started.set)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert started.wait(SOON)

    def _run(self) -> None:
        try:
            self.loop.run_forever()
        except BaseException as exc:
            self.error = exc

    def stop(self) -> None:
        stop(self.loop)
        self.join()

    def join(self) -> None:
        if self._thread is not None:
            self._thread.join(SOON)
            assert not self._thread.is_alive()

    def finish(self) -> None:
        """Cancel what is left and close the loop, so that the test leaves nothing."""
        if not self.loop.is_closed():
            if self.loop.is_running():
                self.stop()
            # Not in there: since 3.14 a running loop knows the tasks of its own thread alone.
            self.loop.run_until_complete(self._cancel(asyncio.all_tasks(self.loop)))
            self.loop.close()

    async def _cancel(self, tasks: set[asyncio.Task[Any]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def graveyard() -> Iterator[None]:
    """For tests that close a loop with tasks in it: those go before anybody counts tasks."""
    yield
    gc.collect()


def close_with_tasks(bare: Loop) -> None:
    # Tasks that are destroyed while they are pending tell the handler.
    bare.loop.set_exception_handler(lambda loop, context: None)
    bare.loop.close()


@pytest.fixture
def bare(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> Iterator[Loop]:
    bare = Loop(new_loop)
    yield bare
    bare.finish()


def test_calls_wait_while_the_loop_is_stopped(bare: Loop) -> None:
    executor = palitra.AsyncLoopExecutor.from_loop(bare.loop)
    early = executor.submit(answer)  # the loop has not run yet
    assert not wait([early], timeout=0.6).done
    bare.run()
    assert early.result(SOON) == 42
    bare.stop()
    late = executor.submit(answer)
    assert not wait([late], timeout=0.6).done
    bare.run()
    assert late.result(SOON) == 42
    executor.shutdown()
    bare.stop()


def test_calls_fail_when_a_stopped_loop_is_closed(graveyard: None, bare: Loop) -> None:
    bare.run()
    executor = palitra.AsyncLoopExecutor.from_loop(bare.loop)
    futures = [hang(executor) for _ in range(3)]
    bare.stop()
    futures.append(executor.submit(answer))
    close_with_tasks(bare)
    done, pending = wait(futures, timeout=SOON)
    assert not pending
    assert {type(future.exception()) for future in done} == {BrokenExecutor}
    assert_refuses(executor)
    executor.shutdown()


@pytest.mark.parametrize("timeout", [None, SOON])
def test_a_shutdown_takes_a_stopped_loop_as_ended(bare: Loop, timeout: float | None) -> None:
    bare.run()
    executor = palitra.AsyncLoopExecutor.from_loop(bare.loop)
    future = hang(executor)
    bare.stop()
    began = time.monotonic()
    executor.shutdown(timeout=timeout)
    assert time.monotonic() - began < 2
    with pytest.raises(BrokenExecutor, match="the application has ended the event loop"):
        future.result(SOON)


def test_a_shutdown_between_two_runs_of_the_loop_waits_for_the_next(bare: Loop) -> None:
    bare.run()
    executor = palitra.AsyncLoopExecutor.from_loop(bare.loop)
    gate = asyncio.Event()
    begun = threading.Event()

    async def wait_for_gate() -> str:
        begun.set()
        await gate.wait()
        return "done"

    future = executor.submit(wait_for_gate)
    assert begun.wait(SOON)
    bare.stop()
    executor.shutdown(wait=False)
    with pytest.raises(palitra.CallTimeoutError, match="wait_for_gate"):
        executor.shutdown(timeout=0.05)
    bare.run()
    bare.loop.call_soon_threadsafe(gate.set)
    executor.shutdown()
    assert future.result() == "done"
    bare.stop()


def test_an_executor_that_was_never_used_ends_without_its_loop(bare: Loop) -> None:
    executor = palitra.AsyncLoopExecutor.from_loop(bare.loop)
    executor.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(answer)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_calls_outlive_an_exception_out_of_run_forever(
    bare: Loop, kind: type[BaseException]
) -> None:
    def fail() -> None:
        raise kind

    bare.run()
    executor = palitra.AsyncLoopExecutor.from_loop(bare.loop)
    gate = asyncio.Event()
    begun = threading.Event()

    async def wait_for_gate() -> str:
        begun.set()
        await gate.wait()
        return "done"

    future = executor.submit(wait_for_gate)
    assert begun.wait(SOON)
    bare.loop.call_soon_threadsafe(fail)
    bare.join()
    assert type(bare.error) is kind
    assert not future.done()
    bare.run()  # it has only stopped
    bare.loop.call_soon_threadsafe(gate.set)
    assert future.result(SOON) == "done"
    executor.shutdown()
    bare.stop()


def test_the_exception_of_a_call_that_ends_a_loop_reaches_its_caller_too(bare: Loop) -> None:
    async def leave() -> None:
        raise SystemExit(3)

    bare.run()
    executor = palitra.AsyncLoopExecutor.from_loop(bare.loop)
    with pytest.raises(SystemExit):
        executor.run(leave())
    assert executor.run(answer(), timeout=SOON) == 42  # the loop lives on
    executor.shutdown()
    bare.stop()


def test_a_closed_loop_is_not_handed_out(graveyard: None, bare: Loop) -> None:
    bare.run()
    executor = palitra.AsyncLoopExecutor.from_loop(bare.loop)
    assert executor.get_loop() is bare.loop
    bare.stop()
    bare.loop.close()

    with pytest.raises(BrokenExecutor):
        executor.get_loop()
    executor.shutdown()


def begin_shutdown(executor: palitra.AsyncLoopExecutor) -> None:
    executor.submit(pow, 2, 3)
    executor.shutdown(wait=False)


ACTIONS: dict[str, Callable[[palitra.AsyncLoopExecutor], object]] = {
    "nothing": lambda executor: executor.get_loop(),
    "coroutine": lambda executor: executor.submit(answer()),
    "function": lambda executor: executor.submit(answer),
    "service": lambda executor: executor.submit_service(answer),
    "shutdown": begin_shutdown,
}


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "stopped"])
@pytest.mark.parametrize("debug", [False, True], ids=["", "debug"])
@pytest.mark.parametrize("turns", range(1, 4))
@pytest.mark.parametrize("action", ACTIONS)
def test_what_a_loop_never_finished_leaves_no_warning(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
    action: str,
    turns: int,
    debug: bool,
    closed: bool,
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loop = new_loop()
        loop.set_debug(debug)
        executor = palitra.AsyncLoopExecutor.from_loop(loop)
        future = ACTIONS[action](executor)
        for _ in range(turns):
            turn(loop)
        if closed:
            loop.close()
        executor.shutdown()
        if isinstance(future, Future):
            assert future.exception(SOON) is not None or future.result() == 42
        if not closed:
            turn(loop)
            loop.close()
        del executor, future, loop
        gc.collect()

    assert [str(warning.message) for warning in caught] == []


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "stopped"])
def test_the_children_that_a_loop_never_finished_leave_no_warning(
    graveyard: None, new_loop: Callable[[], asyncio.AbstractEventLoop], closed: bool
) -> None:
    loop = new_loop()
    loop.set_debug(True)  # no task begins at once
    executor = palitra.AsyncLoopExecutor.from_loop(loop)
    outcome: list[BaseException | None] = []
    thread = threading.Thread(
        target=lambda: outcome.extend(in_threads(1, lambda: executor.gather(answer(), answer())))
    )
    thread.start()
    while not executor.calls():
        time.sleep(0.001)
    while not any("_await" in repr(task) for task in asyncio.all_tasks(loop)):
        turn(loop)
    if closed:
        loop.close()
    executor.shutdown()
    thread.join(SOON)
    if not closed:
        turn(loop)
        loop.close()

    assert [type(error) for error in outcome] == [BrokenExecutor]


def test_children_that_are_dropped_with_a_closed_loop_say_nothing(
    graveyard: None, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    loop = new_loop()
    loop.set_exception_handler(lambda loop, context: None)  # the children are not finished
    executor = palitra.AsyncLoopExecutor.from_loop(loop)
    children: list[asyncio.Task[Any]] = []

    async def hang() -> None:
        task = asyncio.current_task()
        assert task is not None
        children.append(task)
        await asyncio.Event().wait()

    thread = threading.Thread(target=lambda: in_threads(1, lambda: executor.gather(hang(), hang())))
    thread.start()
    while len(children) < 2:
        turn(loop)
    turn(loop)  # the call waits for both now
    loop.close()
    executor.shutdown()
    thread.join(SOON)
    for child in children:
        coro = child.get_coro()
        assert coro is not None
        coro.close()  # as the collector does it, which may come to the children first


def turn(loop: asyncio.AbstractEventLoop) -> None:
    """Have *loop* do what it is ready to do, and no more."""
    loop.call_soon(loop.stop)
    loop.run_forever()


def test_a_bell_stays_open_for_a_thread_that_is_about_to_ring(bare: Loop) -> None:
    bare.run()
    inbox = Inbox()
    inbox.attend(bare.loop)
    bare.loop.call_soon_threadsafe(inbox.hang_bell)
    asyncio.run_coroutine_threadsafe(answer(), bare.loop).result(SOON)
    ring = inbox._permission.pop("ring")  # as a thread does, and then the scheduler comes

    inbox.close()
    asyncio.run_coroutine_threadsafe(answer(), bare.loop).result(SOON)

    ring()
    bare.stop()


def test_a_job_that_its_thread_claims_too_late_is_settled_by_the_end(
    application: Application,
) -> None:
    executor = palitra.AsyncLoopExecutor.from_loop(application.loop)
    gate = threading.Event()
    for _ in range(100):
        executor.submit(gate.wait)  # holds all threads
    late = executor.submit(pow, 2, 3)
    # What the thread does first, and then the scheduler comes. The thread finds the claim taken.
    late._worker = threading.get_ident()  # type: ignore[attr-defined]

    application.end()
    assert isinstance(late.exception(SOON), BrokenExecutor)
    gate.set()
    executor.shutdown()


@pytest.mark.parametrize("attempt", range(5))
def test_every_call_of_many_threads_is_settled_when_the_loop_ends(
    graveyard: None, application: Application, attempt: int
) -> None:
    executor = palitra.AsyncLoopExecutor.from_loop(application.loop)
    futures: list[Any] = []
    running = threading.Semaphore(0)

    def call_until_refused() -> None:
        while True:
            futures.append(executor.submit(answer))
            futures.append(executor.submit(asyncio.sleep, 0.001))
            futures.append(executor.submit(pow, 2, 3))
            executor.run(answer())
            running.release()

    threading.Timer(0.05 * attempt, application.end).start()
    outcomes = in_threads(8, call_until_refused)
    assert {type(outcome) for outcome in outcomes} == {BrokenExecutor}
    done, pending = wait(futures, timeout=SOON)
    assert not pending
    assert {type(future.exception()) for future in done} <= {type(None), BrokenExecutor}
    executor.shutdown()


def test_calls_that_start_while_the_loop_ends_are_cancelled_too(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    begun: list[asyncio.Event] = []
    ends: list[type[BaseException]] = []

    async def hang_and_tell(gate: asyncio.Event) -> None:
        begun.append(gate)
        gate.set()
        try:
            await asyncio.Event().wait()
        except BaseException as exc:
            ends.append(type(exc))
            raise

    async def main() -> list[Any]:
        executor = palitra.AsyncLoopExecutor.from_loop()
        await asyncio.wrap_future(executor.submit(answer))  # from here on, one wake-up for many
        gate = asyncio.Event()
        # More than the loop starts in a few turns: some are started only when all tasks that there
        # are by then have been cancelled.
        futures = [executor.submit(hang_and_tell, gate) for _ in range(1000)]
        await gate.wait()
        return futures

    with asyncio.Runner(loop_factory=new_loop) as runner:
        futures = runner.run(main())
        before = len(begun)
    if sys.version_info >= (3, 12):  # a task that is cancelled before its first step never begins
        assert before < len(begun)
    assert ends == [asyncio.CancelledError] * len(begun)
    assert wait(futures, timeout=SOON).not_done == set()
    assert {type(future.exception()) for future in futures} == {BrokenExecutor}


def test_a_cancellation_of_the_users_stays_one_at_the_end_of_the_loop(
    application: Application,
) -> None:
    executor = palitra.AsyncLoopExecutor.from_loop(application.loop)
    future = hang(executor)
    assert future.cancel()
    assert wait([future], SOON).done
    assert future.cancelled()
    application.end()
    assert future.cancelled()


def test_the_thread_of_a_plain_callable_outlives_the_loop(application: Application) -> None:
    executor = palitra.AsyncLoopExecutor.from_loop(application.loop)
    executor.run(answer())  # from here on, the end of the loop is noticed at once
    go_on, begun = threading.Event(), threading.Event()

    def work() -> str:
        begun.set()
        assert go_on.wait(SOON)
        return "done"

    future = executor.submit(work)
    assert begun.wait(SOON)
    application.end()
    with pytest.raises(BrokenExecutor):
        executor.submit(answer)
    go_on.set()
    assert future.result(SOON) == "done"
    executor.shutdown()


def test_a_done_callback_may_use_the_executor_whose_loop_has_gone(
    graveyard: None, bare: Loop
) -> None:
    bare.run()
    executor = palitra.AsyncLoopExecutor.from_loop(bare.loop)
    seen: list[BaseException] = []
    told = threading.Event()

    def use(_: object) -> None:
        for call in (lambda: executor.submit(answer), executor.shutdown):
            try:
                call()
            except RuntimeError as exc:
                seen.append(exc)
        told.set()

    future = hang(executor)
    future.add_done_callback(use)
    bare.stop()
    close_with_tasks(bare)
    assert told.wait(SOON)
    assert [type(error) for error in seen] == [BrokenExecutor, palitra.DeadlockError]
    executor.shutdown()


# -- contexts -----------------------------------------------------------------------------------


def test_contexts_are_left_once_each_when_asyncio_run_ends(application: Application) -> None:
    executor = palitra.AsyncLoopExecutor.from_loop(application.loop)
    left: list[str] = []

    @contextlib.asynccontextmanager
    async def resource(name: str) -> AsyncIterator[str]:
        try:
            yield name
        finally:
            await asyncio.sleep(0)
            left.append(name)

    async def goodbye() -> None:
        await asyncio.sleep(0)
        left.append("callback")

    async def count() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            left.append("iterator")

    executor.enter_context(lambda: resource("a"))
    executor.push_async_callback(goodbye)
    cached = executor.cached_context(lambda: resource("b"))
    assert cached() == "b"
    numbers = executor.sync_iter(count())
    assert next(numbers) == 1
    application.end()
    assert sorted(left) == ["a", "b", "callback", "iterator"]
    executor.shutdown()
    assert len(left) == 4
    with pytest.raises(BrokenExecutor):
        cached()


def test_contexts_are_left_at_the_end_of_the_executor_and_the_loop_goes_on(
    application: Application,
) -> None:
    left: list[str] = []

    @contextlib.asynccontextmanager
    async def resource() -> AsyncIterator[str]:
        yield "value"
        left.append("resource")

    with palitra.AsyncLoopExecutor.from_loop(application.loop) as executor:
        assert executor.enter_context(resource) == "value"
    assert left == ["resource"]
    after = asyncio.run_coroutine_threadsafe(answer(), application.loop)
    assert after.result(SOON) == 42


def test_an_executor_that_ends_leaves_the_tasks_of_the_application_alone(
    application: Application,
) -> None:
    body = Hanging()
    theirs = asyncio.run_coroutine_threadsafe(body(), application.loop)
    assert body.begun.wait(SOON)
    executor = palitra.AsyncLoopExecutor.from_loop(application.loop)
    future = hang(executor)
    executor.shutdown(cancel_futures=True)
    executor._service.ending.cancel_everything()  # as the exit does after its limit
    assert future.cancelled()
    assert asyncio.run_coroutine_threadsafe(answer(), application.loop).result(SOON) == 42
    assert not theirs.done()
    theirs.cancel()


def test_cancelling_the_clean_up_spares_the_tasks_of_the_application(
    application: Application,
) -> None:
    body = Hanging()
    theirs = asyncio.run_coroutine_threadsafe(body(), application.loop)
    assert body.begun.wait(SOON)
    executor = palitra.AsyncLoopExecutor.from_loop(application.loop)
    leaving = Hanging()

    @contextlib.asynccontextmanager
    async def resource() -> AsyncIterator[None]:
        try:
            yield
        finally:
            await leaving()

    executor.enter_context(resource)
    executor.shutdown(wait=False)
    assert leaving.begun.wait(SOON)
    application.loop.call_soon_threadsafe(
        application.loop.set_exception_handler, lambda loop, context: None
    )
    executor._service.ending.cancel_everything()  # as the exit does after its limit
    executor.shutdown()
    assert leaving.ends == [asyncio.CancelledError]
    assert not theirs.done()
    theirs.cancel()


# -- on the loop's own thread -------------------------------------------------------------------


def on(application: Application, coro: Any) -> Any:
    return asyncio.run_coroutine_threadsafe(coro, application.loop).result(SOON)


def test_from_loop_without_a_loop_needs_a_running_one() -> None:
    with pytest.raises(RuntimeError, match="none is running here: call it in a coroutine"):
        palitra.AsyncLoopExecutor.from_loop()


def test_from_loop_refuses_what_is_no_open_loop(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    with pytest.raises(TypeError, match="takes an event loop, not 1"):
        palitra.AsyncLoopExecutor.from_loop(1)  # type: ignore[arg-type]
    loop = new_loop()
    loop.close()
    with pytest.raises(RuntimeError, match="takes a loop that is not closed"):
        palitra.AsyncLoopExecutor.from_loop(loop)


def test_blocking_calls_on_the_loops_thread_are_deadlocks(application: Application) -> None:
    executor = palitra.AsyncLoopExecutor.from_loop(application.loop)

    async def call() -> list[bool]:
        refused = []
        for blocking in (
            lambda: executor.run(answer()),
            lambda: executor.gather(answer()),
            lambda: executor.submit(answer).result(),
            lambda: next(executor.sync_iter(lambda: aiter_of(1))),
            executor.shutdown,
        ):
            try:
                blocking()
            except palitra.DeadlockError:
                refused.append(executor.on_loop())
        return refused

    async def aiter_of(number: int) -> AsyncIterator[int]:
        yield number

    assert on(application, call()) == [True] * 5
    assert not executor.on_loop()
    executor.shutdown()


def test_calls_from_both_sides_are_served_by_a_second_executor(application: Application) -> None:
    executor = palitra.AsyncLoopExecutor.from_loop(application.loop)
    with palitra.AsyncLoopExecutor() as other:

        def helper() -> int:
            return (other if executor.on_loop() else executor).run(answer())

        async def call() -> int:
            return helper()

        assert on(application, call()) == helper() == 42
        executor.shutdown()


def test_a_call_is_taken_on_the_loop_and_runs_there(application: Application) -> None:
    async def main() -> int:
        executor = palitra.AsyncLoopExecutor.from_loop()
        try:
            return await asyncio.wrap_future(executor.submit(answer))
        finally:
            await executor.aclose()

    assert on(application, main()) == 42


def test_async_with_ends_the_executor_and_shows_contexts_the_exception(
    application: Application,
) -> None:
    seen: list[BaseException | None] = []

    class Context:
        async def __aenter__(self) -> None:
            pass

        async def __aexit__(self, kind: object, error: BaseException | None, tb: object) -> bool:
            seen.append(error)
            return True

    async def main() -> None:
        async with palitra.AsyncLoopExecutor.from_loop() as executor:
            await asyncio.to_thread(executor.enter_context, Context())
            raise ZeroDivisionError

    on(application, main())
    assert [type(error) for error in seen] == [ZeroDivisionError]


@pytest.mark.parametrize("borrowed", [True, False])
def test_aclose_waits_for_calls_and_threads(application: Application, borrowed: bool) -> None:
    async def main() -> list[Any]:
        executor = (
            palitra.AsyncLoopExecutor.from_loop() if borrowed else palitra.AsyncLoopExecutor()
        )
        futures = [executor.submit(answer), executor.submit(time.sleep, 0.1)]
        await executor.aclose()
        await executor.aclose()
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.submit(answer)
        return [future.result(0) for future in futures]

    assert on(application, main()) == [42, None]


def test_aclose_works_on_another_loop(application: Application) -> None:
    async def main() -> int:
        executor = palitra.AsyncLoopExecutor.from_loop(application.loop)
        future = executor.submit(answer)
        async with executor:
            pass
        result: int = future.result(0)
        return result

    assert asyncio.run(main()) == 42


def test_aclose_ends_where_its_other_loop_is_closed_meanwhile(application: Application) -> None:
    async def main() -> None:
        executor = palitra.AsyncLoopExecutor.from_loop(application.loop)
        future = await asyncio.to_thread(hang, executor)
        closing = asyncio.create_task(executor.aclose())
        await asyncio.sleep(0)
        await asyncio.to_thread(application.end)
        await asyncio.wait_for(closing, SOON)
        with pytest.raises(BrokenExecutor):
            future.result(0)

    asyncio.run(main())


def test_aclose_that_is_cancelled_goes_on_behind(application: Application) -> None:
    executor = palitra.AsyncLoopExecutor.from_loop(application.loop)
    gate = threading.Event()

    async def wait_for_gate() -> str:
        await reached(gate)
        return "done"

    future = executor.submit(wait_for_gate)

    async def close_impatiently() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(executor.aclose(), 0.05)

    on(application, close_impatiently())
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(answer)
    assert not future.done()
    gate.set()
    executor.shutdown()
    assert future.result(0) == "done"


async def directly(coro: Any) -> None:
    await coro


async def in_a_child(coro: Any) -> None:
    await asyncio.create_task(coro)


async def in_gather(coro: Any) -> None:
    await asyncio.gather(asyncio.sleep(0), coro)


async def in_wait(coro: Any) -> None:
    (task,), _ = await asyncio.wait([asyncio.create_task(coro)])
    await task


async def in_wait_for(coro: Any) -> None:
    await asyncio.wait_for(coro, SOON)


async def in_a_group(coro: Any) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(coro)
    except BaseExceptionGroup as exc:
        raise exc.exceptions[0] from None


@pytest.mark.parametrize("way", [directly, in_a_child, in_gather, in_wait, in_wait_for, in_a_group])
@pytest.mark.parametrize("borrowed", [True, False])
def test_aclose_inside_a_call_of_its_own_is_a_deadlock(
    application: Application, way: Callable[[Any], Any], borrowed: bool
) -> None:
    executor = (
        palitra.AsyncLoopExecutor.from_loop(application.loop)
        if borrowed
        else palitra.AsyncLoopExecutor()
    )

    async def call() -> None:
        with pytest.raises(palitra.DeadlockError, match=r"aclose\(\) would wait for"):
            await way(executor.aclose())

    executor.submit(call).result(SOON)
    assert executor.run(answer()) == 42  # nothing has changed
    executor.shutdown()


def test_a_task_that_no_call_waits_for_may_close_the_executor(application: Application) -> None:
    executor = palitra.AsyncLoopExecutor.from_loop(application.loop)
    tasks = []

    async def call() -> None:
        tasks.append(asyncio.create_task(executor.aclose()))

    executor.run(call())
    executor.shutdown()
    on(application, asyncio.wait(tasks))


# -- several of them ----------------------------------------------------------------------------


def test_two_executors_share_a_loop(application: Application) -> None:
    one = palitra.AsyncLoopExecutor.from_loop(application.loop)
    other = palitra.AsyncLoopExecutor.from_loop(application.loop)
    assert one.run(answer()) == other.run(answer()) == 42
    future = hang(one)
    other.shutdown()
    assert not future.done()
    assert one.run(answer()) == 42
    application.end()
    with pytest.raises(BrokenExecutor):
        future.result(SOON)
    one.shutdown()


@palitra.sync
async def decorated() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


def test_the_modules_functions_use_the_applications_loop(application: Application) -> None:
    executor = palitra.AsyncLoopExecutor.from_loop(application.loop)
    before = palitra.set_executor(executor)
    try:
        assert palitra.get_executor() is executor
        assert palitra.get_loop() is application.loop
        assert decorated() is application.loop
        assert palitra.run(answer()) == 42
        application.end()
        with pytest.raises(BrokenExecutor):
            decorated()
        with pytest.raises(BrokenExecutor):
            palitra.run(answer())
        assert palitra.get_executor() is executor
    finally:
        assert palitra.set_executor(before) is executor
    assert decorated() is not application.loop
    palitra.shutdown()


def test_an_executor_whose_loop_is_closed_cannot_be_set(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    loop = new_loop()
    executor = palitra.AsyncLoopExecutor.from_loop(loop)
    loop.close()
    with pytest.raises(ValueError, match="takes an executor that takes calls"):
        palitra.set_executor(executor)


def test_a_dropped_executor_finishes_its_calls(application: Application) -> None:
    executor = palitra.AsyncLoopExecutor.from_loop(application.loop)
    gone = weakref.ref(executor)
    gate = threading.Event()

    async def wait_for_gate() -> str:
        await reached(gate)
        return "done"

    future = executor.submit(wait_for_gate)
    del executor
    gc.collect()
    assert gone() is None
    gate.set()
    assert future.result(SOON) == "done"
    for thread in threading.enumerate():
        if thread.name.endswith("_watch"):
            thread.join(SOON)
            assert not thread.is_alive()


def test_a_shutdown_says_where_a_blocked_loop_stands(application: Application) -> None:
    executor = palitra.AsyncLoopExecutor.from_loop(application.loop)
    begun, go_on = threading.Event(), threading.Event()

    async def block() -> None:
        begun.set()
        go_on.wait(SOON)

    future = executor.submit(block)
    assert begun.wait(SOON)
    with pytest.raises(palitra.CallTimeoutError) as caught:
        executor.run(answer(), timeout=0.1)
    assert "the loop's thread is at " in str(caught.value.__notes__)
    with pytest.raises(palitra.CallTimeoutError, match="block"):
        executor.shutdown(timeout=0.1)
    go_on.set()
    executor.shutdown(timeout=SOON)
    assert future.result(0) is None


def test_many_first_calls_at_once_have_one_watching_thread(application: Application) -> None:
    executor = palitra.AsyncLoopExecutor.from_loop(application.loop, thread_name_prefix="first")
    assert in_threads(8, lambda: executor.run(answer())) == [None] * 8
    threads = [thread for thread in threading.enumerate() if thread.name == "first_watch"]
    kept = executor._service.host._watcher["thread"]  # type: ignore[attr-defined]
    for thread in threads:
        if thread is not kept:  # a thread that came too late just ends
            thread.join(SOON)
    assert [thread for thread in threads if thread.is_alive()] == [kept]
    executor.shutdown()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts them in /proc")
def test_a_loops_descriptors_are_given_back(application: Application) -> None:
    def descriptors() -> int:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    with palitra.AsyncLoopExecutor.from_loop(application.loop) as executor:
        executor.run(answer())
    before = descriptors()
    for _ in range(5):
        with palitra.AsyncLoopExecutor.from_loop(application.loop) as executor:
            executor.run(answer())
    assert descriptors() <= before


def test_what_a_callable_has_returned_is_closed_with_the_loop() -> None:
    loop = asyncio.new_event_loop()
    executor = palitra.AsyncLoopExecutor.from_loop(loop)
    returned: list[Coroutine[Any, Any, None]] = []
    called = threading.Event()

    def call() -> Coroutine[Any, Any, None]:
        returned.append(asyncio.sleep(0))
        called.set()
        return returned[0]

    future = executor.submit(call)
    called.wait()
    loop.close()

    assert isinstance(future.exception(SOON), BrokenExecutor)
    executor.shutdown()
    assert inspect.getcoroutinestate(returned[0]) == inspect.CORO_CLOSED


def test_a_callback_that_is_pushed_first_of_all_is_called() -> None:
    called = []

    async def callback(argument: int) -> None:
        called.append(argument)

    async def main() -> None:
        async with palitra.AsyncLoopExecutor.from_loop() as executor:
            executor.push_async_callback(callback, 7)

    asyncio.run(main())
    assert called == [7]
