"""Other code settles a future of palitra's: that call's outcome is spoiled, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lifetimes import FREE_THREADED

if TYPE_CHECKING:
    from collections.abc import Callable

PROGRAM = """
import concurrent.futures, contextlib

# `set_running_or_notify_cancel` logs that it was called at the wrong moment.
logging.getLogger("concurrent.futures").setLevel(logging.CRITICAL + 1)
PATIENCE = 5
gate = threading.Event()
entered = threading.Event()
called = []


async def pass_gate():
    while not gate.is_set():
        await asyncio.sleep(0.001)


async def coroutine():
    entered.set()
    await pass_gate()
    return "own"


def plain():
    entered.set()
    gate.wait()
    return "own"


def returns_awaitable():
    entered.set()
    gate.wait()
    return coroutine()


async def fails():
    entered.set()
    await pass_gate()
    raise LookupError("own")


async def ignores_cancellation():
    entered.set()
    while not gate.is_set():
        with contextlib.suppress(asyncio.CancelledError):
            await pass_gate()
    return "own"


def outcome(future):
    try:
        return future.result(PATIENCE)
    except BaseException as error:
        return repr(error)


ACTIONS = {
    "set_result": lambda future: future.set_result("mine"),
    "set_exception": lambda future: future.set_exception(ValueError("mine")),
    "set_running_or_notify_cancel": lambda future: future.set_running_or_notify_cancel(),
}


def act(name, future):
    with contextlib.suppress(RuntimeError, concurrent.futures.InvalidStateError):
        ACTIONS[name](future)


def submit(fn):
    future = executor.submit(fn)
    future.add_done_callback(called.append)
    return future


def say_all(future):
    first = outcome(future)
    assert executor.run(double(1)) == 2
    assert executor.submit(int, 2).result(PATIENCE) == 2
    say(first, outcome(future) == first, len(called), future.done(), future.running())


executor = palitra.AsyncLoopExecutor(max_workers=1)
"""
OUTCOMES = {
    "set_result": "mine",
    "set_exception": "ValueError('mine')",
    "set_running_or_notify_cancel": "own",
}
ENDS = {"shutdown": "executor.shutdown()", "exit": ""}
each_action = pytest.mark.parametrize("action", OUTCOMES)
each_kind = pytest.mark.parametrize("kind", ["coroutine", "plain", "returns_awaitable"])
each_end = pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)


@pytest.fixture
def mode() -> tuple[str, ...]:
    """Nothing here depends on the development mode."""
    return ()


@each_end
@each_action
@each_kind
def test_while_the_call_runs(
    printed_by: Callable[..., list[str]], kind: str, action: str, end: str
) -> None:
    assert printed_by(
        PROGRAM,
        f"""
        future = submit({kind})
        entered.wait()
        act("{action}", future)
        gate.set()
        say_all(future)
        {end}
        say(outcome(future), len(called))
        """,
    ) == [f"{OUTCOMES[action]} True 1 True False", f"{OUTCOMES[action]} 1"]


@each_end
@each_action
@each_kind
def test_before_the_call_starts(
    printed_by: Callable[..., list[str]], kind: str, action: str, end: str
) -> None:
    """Whether it then runs is open; that it is settled, and all the others, is not."""
    said, last = printed_by(
        PROGRAM,
        f"""
        first = executor.submit({kind})
        entered.wait()
        future = submit({kind})
        act("{action}", future)
        further = executor.submit({kind})
        gate.set()
        assert (outcome(first), outcome(further)) == ("own", "own")
        say_all(future)
        {end}
        say(outcome(future), len(called))
        """,
    )

    result = last.removesuffix(" 1")
    assert result == OUTCOMES[action] or action == "set_running_or_notify_cancel"
    assert said == f"{result} True 1 True False"


@each_action
@each_kind
def test_by_the_call_itself(printed_by: Callable[..., list[str]], kind: str, action: str) -> None:
    prefix, result = {
        "coroutine": ("async ", "await double('own')"),
        "plain": ("", "2 * 'own'"),
        "returns_awaitable": ("", "double('own')"),
    }[kind]
    outcome = OUTCOMES[action].replace("own", "ownown")
    assert printed_by(
        PROGRAM,
        f"""
        import queue

        futures = queue.SimpleQueue()
        {prefix}def call():
            act("{action}", futures.get())
            return {result}

        first = executor.submit({kind})
        future = submit(call)
        futures.put(future)
        gate.set()
        say_all(future)
        executor.shutdown()
        say(outcome(future), len(called))
        """,
    ) == [f"{outcome} True 1 True False", f"{outcome} 1"]


@pytest.mark.parametrize("kind", ["fails", "ignores_cancellation"])
def test_a_call_that_fails_or_refuses_to_end_changes_nothing_afterwards(
    printed_by: Callable[..., list[str]], kind: str
) -> None:
    assert printed_by(
        PROGRAM,
        f"""
        future = submit({kind})
        entered.wait()
        act("set_result", future)
        say(future.cancel(), outcome(future))
        gate.set()
        executor.shutdown(cancel_futures=True)
        say(future.cancel(), future.cancelled(), outcome(future), len(called))
        """,
    ) == ["False mine", "False False mine 1"]


def test_while_a_cancelled_call_cleans_up(printed_by: Callable[..., list[str]]) -> None:
    assert printed_by(
        PROGRAM,
        """
        async def cleans_up():
            entered.set()
            try:
                await asyncio.Event().wait()
            finally:
                at_cleanup.set()
                await pass_gate()

        at_cleanup = threading.Event()
        future = submit(cleans_up)
        entered.wait()
        future.cancel()
        at_cleanup.wait()
        act("set_result", future)
        say(outcome(future))
        gate.set()
        executor.shutdown()
        say(outcome(future), future.cancelled(), len(called))
        """,
    ) == ["mine", "mine False 1"]


def test_after_the_end_it_is_refused_as_by_any_future(
    printed_by: Callable[..., list[str]],
) -> None:
    assert printed_by(
        PROGRAM,
        """
        gate.set()
        for fn in coroutine, plain:
            future = submit(fn)
            assert outcome(future) == "own"
            for late in (
                lambda: future.set_result("mine"),
                lambda: future.set_exception(ValueError("mine")),
            ):
                try:
                    late()
                except concurrent.futures.InvalidStateError:
                    say(outcome(future))
        executor.shutdown()
        say(len(called))
        """,
    ) == [*["own"] * 4, "2"]


@each_kind
def test_everybody_who_waits_for_it_goes_on(
    printed_by: Callable[..., list[str]], kind: str
) -> None:
    assert printed_by(
        PROGRAM,
        f"""
        async def elsewhere():
            return await asyncio.wrap_future(future)

        waits = {{
            "result": lambda: future.result(),
            "exception": lambda: str(future.exception()),
            "wait": lambda: len(concurrent.futures.wait([future]).done),
            "as_completed": lambda: len(list(concurrent.futures.as_completed([future]))),
            "gather": lambda: executor.gather(future),
            "wrap_future": lambda: asyncio.run(elsewhere()),
        }}
        results = {{}}

        def wait(name):
            ready.release()
            results[name] = waits[name]()

        ready = threading.Semaphore(0)
        future = submit({kind})
        entered.wait()
        threads = [threading.Thread(target=wait, args=[name], daemon=True) for name in waits]
        for thread in threads:
            thread.start()
            ready.acquire()
        act("set_result", future)
        for thread in threads:
            thread.join(PATIENCE)
        gate.set()
        executor.shutdown()
        for name in waits:
            say(name, results.get(name))
        """,
    ) == [
        "result mine",
        "exception None",
        "wait 1",
        "as_completed 1",
        "gather ['mine']",
        "wrap_future mine",
    ]


def test_a_call_that_was_settled_from_outside_counts_until_it_ends(
    printed_by: Callable[..., list[str]],
) -> None:
    """Shutdown waits for the coroutine, not only for its future."""
    assert printed_by(
        PROGRAM,
        """
        async def call():
            await coroutine()
            say("the call ended")

        future = submit(call)
        entered.wait()
        act("set_result", future)
        threading.Timer(0.1, gate.set).start()
        executor.shutdown()
        say("shut down")
        """,
    ) == ["the call ended", "shut down"]


@pytest.mark.parametrize(
    ("kind", "thread"),
    [
        ("coroutine", "_loop"),
        ("plain", "_0"),
        ("returns_awaitable", "_0"),
        ("returns_awaitable", "_loop"),
    ],
)
def test_at_each_step_of_the_thread_that_runs_the_call(
    printed_by: Callable[..., list[str]], kind: str, thread: str
) -> None:
    """With the interpreter's lock, nothing comes between instructions that call nothing."""
    assert printed_by(
        PROGRAM,
        f"""
        import queue

        def trace(frame, event, arg):
            global steps
            if not frame.f_code.co_filename.startswith(os.path.dirname(palitra.__file__)):
                return None
            frame.f_trace_opcodes = {FREE_THREADED}
            if steps > 0:
                steps -= 1
                if not steps:
                    act("set_result", futures.get())
            return trace

        def trace_one():
            if threading.current_thread().name.endswith("{thread}"):
                sys.settrace(trace)

        futures = queue.SimpleQueue()
        gate.set()
        executor = palitra.AsyncLoopExecutor(max_workers=1, initializer=trace_one)
        steps = taken = 0
        while not steps:  # until the call is over before so many steps are taken
            assert executor.run(double(1)) == 2
            assert executor.submit(int, 2).result() == 2
            taken += 1
            steps = taken
            future = executor.submit({kind})
            futures.put(future)
            said = outcome(future)
            assert said in ("own", "mine"), (said, taken)
            assert future.done() and not future.running(), taken
            assert executor.run(double(1)) == 2  # the slot is free, or will be
            assert outcome(future) == said, taken
        # The last future is still in the queue, for a step that the thread takes from now on.
        executor.shutdown(timeout=PATIENCE)
        say(taken > 20)
        """,
    ) == ["True"]


SETTLE = {
    "cancel": "future.cancel()",
    "set_result": 'future.set_result("mine")',
    "set_exception": 'future.set_exception(ValueError("mine"))',
}


@pytest.mark.parametrize("second", SETTLE)
@pytest.mark.parametrize("first", SETTLE)
def test_by_two_threads_at_once_before_the_call_starts(
    printed_by: Callable[..., list[str]], first: str, second: str
) -> None:
    """At each step of the one, the other does all of its own."""
    assert printed_by(
        PROGRAM,
        f"""
        def settle(name, future):
            with contextlib.suppress(concurrent.futures.InvalidStateError):
                if name == "cancel":
                    future.cancel()
                else:
                    act(name, future)

        def trace(frame, event, arg):
            global steps
            if not frame.f_code.co_filename.startswith(os.path.dirname(palitra.__file__)):
                return None
            if steps > 0:
                steps -= 1
                if not steps:
                    other = threading.Thread(target=settle, args=("{second}", future))
                    other.start()
                    other.join()
                    # The loop has its turn, too.
                    assert executor.submit_service(double, 1).result(PATIENCE) == 2
            return trace

        steps = taken = 0
        while not steps:
            gate.clear()
            entered.clear()
            holder = executor.submit(coroutine)
            entered.wait()
            future = executor.submit(double, 1)
            told = []
            future.add_done_callback(told.append)
            taken += 1
            steps = taken
            sys.settrace(trace)
            settle("{first}", future)
            sys.settrace(None)
            said = outcome(future)
            assert said in ("mine", "ValueError('mine')", "CancelledError()"), (said, taken)
            gate.set()
            assert outcome(holder) == "own"
            assert executor.run(double(1)) == 2
            assert (outcome(future), told) == (said, [future]), taken
            assert future not in executor._service.calls, taken
        executor.shutdown(timeout=PATIENCE)
        say(taken > 5)
        """,
    ) == ["True"]


def test_while_somebody_looks_at_a_callable_that_runs(
    printed_by: Callable[..., list[str]],
) -> None:
    """The thread that settles it is not the one that runs it, which nothing can cancel."""
    assert printed_by(
        PROGRAM,
        """
        future = submit(returns_awaitable)
        entered.wait()
        other = concurrent.futures.Future()
        concurrent.futures._base.id = lambda each: each is other  # `wait` takes its lock last
        with other._condition:
            looks = threading.Thread(target=concurrent.futures.wait, args=([future, other], 0))
            looks.start()
            while not future._holder:
                time.sleep(0.001)
            act("set_result", future)
            say(future.cancel())
            executor.submit_service(double, 1).result(PATIENCE)
            say(future in executor._service.calls)
        looks.join()
        gate.set()
        executor.shutdown(timeout=PATIENCE)
        say(outcome(future), len(called))
        """,
    ) == ["False", "True", "mine 1"]


@pytest.mark.parametrize("kind", ["coroutine", "returns_awaitable"])
def test_a_shutdown_that_cancels_cancels_what_still_runs(
    printed_by: Callable[..., list[str]], kind: str
) -> None:
    assert printed_by(
        PROGRAM,
        f"""
        future = submit({kind})
        entered.wait()
        act("set_result", future)
        if "{kind}" == "returns_awaitable":
            async def pass_gate():
                await asyncio.Event().wait()

            entered.clear()
            gate.set()
            entered.wait()
        executor.shutdown(cancel_futures=True, timeout=PATIENCE)
        say(outcome(future), len(called))
        """,
    ) == ["mine 1"]


def test_what_a_callable_returns_after_the_end_of_a_borrowed_loop_is_closed(
    printed_by: Callable[..., list[str]],
) -> None:
    assert printed_by(
        PROGRAM,
        """
        executor.shutdown()
        loop = asyncio.new_event_loop()
        executor = palitra.AsyncLoopExecutor.from_loop(loop)
        future = submit(returns_awaitable)
        entered.wait()
        loop.call_soon(loop.stop)
        loop.run_forever()
        act("set_result", future)
        loop.close()
        executor._service.ending.over.wait()
        gate.set()
        executor.shutdown()
        say(outcome(future), len(called), executor.calls())
        """,
    ) == ["mine 1 []"]
