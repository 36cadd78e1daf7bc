"""A future's lock is in other hands, for a while or for ever: nobody else waits or spins."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

PROGRAM = """
import concurrent.futures, contextlib

PATIENCE = 5


def ends(doing, function, *args):
    # What function returns, if it does; in a thread, which nobody waits for in the end.
    results = []
    thread = threading.Thread(target=lambda: results.append(function(*args)), daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if not results:
        say("no end of", doing)
        os._exit(0)
    return results[0]


def is_quiet():
    # Whether the process uses little of the processor while nothing is to be done.
    begun = time.perf_counter(), time.process_time()
    time.sleep(1.5)
    wall, used = time.perf_counter() - begun[0], time.process_time() - begun[1]
    return used < 0.4 * wall


class EnteredByAnother:
    # Another thread is in a `with` statement of each lock, until `let_go`.

    def __init__(self, *futures):
        self.futures = futures
        self.taken = threading.Event()
        self.let_go = threading.Event()
        threading.Thread(target=self.hold, daemon=True).start()
        self.taken.wait()

    def hold(self):
        with contextlib.ExitStack() as stack:
            for future in self.futures:
                stack.enter_context(future._condition)
            self.taken.set()
            self.let_go.wait()


class HeldByAnother(EnteredByAnother):
    # Another thread holds the locks, as `wait` and `as_completed` do, until `let_go`.

    def hold(self):
        for future in self.futures:
            future._condition.acquire()
        self.taken.set()
        self.let_go.wait()
        for future in self.futures:
            future._condition.release()


class LeftByAnother(EnteredByAnother):
    # A thread that has ended has left them held: `wait` and `as_completed` that were interrupted.

    def hold(self):
        for future in self.futures:
            future._condition.acquire()
        self.taken.set()


class LeftByWait(EnteredByAnother):
    # As `LeftByAnother`, by the standard library's own code.

    def hold(self):
        acquired = concurrent.futures._base._AcquireFutures(self.futures)
        acquired.__enter__()
        self.taken.set()


class LeftUnmade(EnteredByAnother):
    # A thread was interrupted while it made the locks: `wait` was the first to need them.

    def hold(self):
        for future in self.futures:
            del future._lockless
        self.taken.set()


async def pass_gate():
    await gate.wait()
    return "own"


def plain():
    thread_gate.wait()
    return "own"


def open_gates():
    thread_gate.set()
    loop.call_soon_threadsafe(gate.set)


executor = palitra.AsyncLoopExecutor(max_workers=2)
loop = executor.get_loop()
gate = asyncio.Event()
thread_gate = threading.Event()
assert executor.submit(int, 2).result() == 2
"""
HOLDERS = ["EnteredByAnother", "HeldByAnother", "LeftByAnother", "LeftByWait", "LeftUnmade"]
each_holder = pytest.mark.parametrize("holder", HOLDERS)
each_kind = pytest.mark.parametrize("kind", ["pass_gate", "plain"])
OTHER_CALLS = """
def other_calls():
    assert executor.run(double(1)) == 2
    assert executor.run(double(1), timeout=PATIENCE) == 2
    assert executor.gather(double(1), executor.submit(int, 2)) == [2, 2]
    assert executor.submit(double, 1).result(PATIENCE) == 2
    assert executor.submit(int, 2).result(PATIENCE) == 2
    assert list(executor.map(double, range(3))) == [0, 2, 4]
    assert list(executor.sync_iter(count(2))) == [0, 1]
    return True
"""


@pytest.fixture
def mode() -> tuple[str, ...]:
    """Nothing here depends on the development mode."""
    return ()


@each_holder
@each_kind
def test_a_call_that_ends_meanwhile_stops_nobody(
    printed_by: Callable[..., list[str]], holder: str, kind: str
) -> None:
    """Both worker threads, or both places on the loop, are the calls'."""
    assert (
        printed_by(
            PROGRAM,
            OTHER_CALLS,
            f"""
        holder = {holder}(executor.submit({kind}), executor.submit({kind}))
        open_gates()
        say(ends("other calls", other_calls))
        say(is_quiet())
        say(ends("other calls, later", other_calls))
        holder.let_go.set()
        say(ends("the shutdown", lambda: executor.shutdown() is None))
        """,
        )
        == ["True"] * 4
    )


@each_kind
def test_the_call_is_settled_once_the_lock_is_let_go(
    printed_by: Callable[..., list[str]], kind: str
) -> None:
    assert printed_by(
        PROGRAM,
        f"""
        called = []
        future = executor.submit({kind})
        future.add_done_callback(called.append)
        holder = HeldByAnother(future)
        open_gates()
        assert executor.run(double(1)) == 2
        holder.let_go.set()
        say(ends("the call", future.result))
        executor.shutdown()
        say(called == [future], future.done(), future.result())
        """,
    ) == ["own", "True True own"]


@each_kind
@each_holder
def test_the_call_is_settled_although_the_lock_is_never_let_go(
    printed_by: Callable[..., list[str]], holder: str, kind: str
) -> None:
    """Who asks by `exception` or `result` learns of it, and so do callbacks."""
    assert printed_by(
        PROGRAM,
        f"""
        called = threading.Event()
        future = executor.submit({kind})
        future.add_done_callback(lambda future: called.set())
        holder = {holder}(future)
        open_gates()
        say(called.wait(PATIENCE))
        say(ends("done", future.done), ends("result", future.result))
        say(ends("exception", future.exception), ends("cancelled", future.cancelled))
        say(ends("the shutdown", lambda: executor.shutdown() is None))
        """,
    ) == ["True", "True own", "None False", "True"]


@each_holder
@pytest.mark.parametrize("state", ["unstarted", "running", "plain"])
def test_cancel_on_the_loop_waits_for_no_lock(
    printed_by: Callable[..., list[str]], holder: str, state: str
) -> None:
    kind, expected = {
        "unstarted": ("pass_gate", "True"),
        "running": ("pass_gate", "True"),
        "plain": ("plain", "False"),
    }[state]
    assert printed_by(
        PROGRAM,
        f"""
        async def cancel():
            return future.cancel()

        if "{state}" == "unstarted":
            first = [executor.submit(pass_gate), executor.submit(pass_gate)]
        future = executor.submit({kind})
        while "{state}" != "unstarted" and not future.running():
            time.sleep(0.001)
        holder = {holder}(future)
        say(ends("cancel on the loop", lambda: executor.run(cancel())))
        say(ends("a call", lambda: executor.run(double(1))))
        holder.let_go.set()
        open_gates()
        say(ends("the shutdown", lambda: executor.shutdown() is None))
        """,
    ) == [expected, "2", "True"]


@each_holder
@pytest.mark.parametrize("how", ["cancel_futures=True", "cancel_futures=False"])
def test_shutdown_ends(printed_by: Callable[..., list[str]], holder: str, how: str) -> None:
    assert printed_by(
        PROGRAM,
        f"""
        kinds = pass_gate, pass_gate, plain, plain, int
        futures = [*map(executor.submit, kinds), executor.submit(double, 1)]
        holder = {holder}(*futures)
        if "{how}".endswith("False"):
            open_gates()
        else:
            thread_gate.set()
        say(ends("the shutdown", lambda: executor.shutdown({how}) is None))
        """,
    ) == ["True"]


@each_holder
@each_kind
def test_the_exit_ends(printed_by: Callable[..., list[str]], holder: str, kind: str) -> None:
    """And finishes what else there is."""
    assert printed_by(
        PROGRAM,
        f"""
        async def last():
            await main_thread_ended()
            say("last")

        future = executor.submit({kind})
        holder = {holder}(future)
        other = palitra.AsyncLoopExecutor()
        other.submit(last)
        started.wait()
        open_gates()
        """,
    ) == ["last"]


@pytest.mark.parametrize(
    "wait",
    [
        "concurrent.futures.wait(futures, timeout=0)",
        "concurrent.futures.wait(futures)",
        "list(concurrent.futures.as_completed(futures, timeout=0))",
        "list(concurrent.futures.as_completed(futures))",
    ],
)
def test_a_wait_of_the_standard_librarys_that_ctrl_c_ended_stops_nobody(
    printed_by: Callable[..., list[str]], wait: str
) -> None:
    """The interruption comes when the locks of half of the futures are taken."""
    assert printed_by(
        PROGRAM,
        OTHER_CALLS,
        f"""
        def trace(frame, event, arg):
            if frame.f_code is enter and event == "call":
                return trace_enter
            if frame.f_code.co_name in ("wait", "as_completed"):
                return trace
            return None

        def trace_enter(frame, event, arg):
            global lines
            if event == "line":
                lines += 1
                if lines == 8:
                    raise KeyboardInterrupt
            return trace_enter

        enter = concurrent.futures._base._AcquireFutures.__enter__.__code__
        lines = 0
        futures = [executor.submit(pass_gate) for _ in range(2)]
        futures += [executor.submit(pass_gate) for _ in range(8)]
        sys.settrace(trace)
        try:
            {wait}
        except KeyboardInterrupt:
            say("interrupted")
        finally:
            sys.settrace(None)
        open_gates()
        say(ends("other calls", other_calls))
        say(*{{ends("a call", future.result) for future in futures}})
        say(is_quiet())
        say(ends("the shutdown", lambda: executor.shutdown() is None))
        """,
    ) == ["interrupted", "True", "own", "True", "True"]


def test_a_condition_of_the_users_is_what_it_was(printed_by: Callable[..., list[str]]) -> None:
    """What `concurrent.futures.wait` relies on: a lock that another thread waits for."""
    assert printed_by(
        PROGRAM,
        """
        future = executor.submit(pass_gate)
        holder = HeldByAnother(future)
        say(future._condition.acquire(False), future._condition.acquire(timeout=0.01))
        waiter = threading.Thread(target=concurrent.futures.wait, args=[[future]], daemon=True)
        waiter.start()
        waiter.join(0.05)
        say(waiter.is_alive())
        holder.let_go.set()
        open_gates()
        waiter.join(PATIENCE)
        say(waiter.is_alive(), future.done())
        executor.shutdown()
        """,
    ) == ["False False", "True", "False True"]
