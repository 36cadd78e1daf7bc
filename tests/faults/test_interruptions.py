"""Ctrl-C, or a signal handler that makes calls, at each place where the interpreter lets one in.

The interpreter runs a signal handler in the main thread between two instructions, where it looks
for one: which places these are differs between Pythons. So these tests do not list them. Before
each instruction of palitra's, of asyncio's, and of the standard library's futures and locks, a
signal is noted as pending, and the interpreter runs the handler where it would have run it. The
handler counts, and acts once the count is the one that it was told.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

INTERRUPT = """
import _thread, concurrent.futures, contextlib, functools

# What is left of a call that was kept from being made.
warnings.filterwarnings("ignore", message="coroutine .* was never awaited")


def quiet_about_interruptions(ignored, show=sys.__unraisablehook__, quiet=KeyboardInterrupt):
    if ignored.exc_type is not quiet:
        show(ignored)


sys.unraisablehook = quiet_about_interruptions
TRACED = (
    *(os.path.dirname(module.__file__) for module in (palitra, asyncio, concurrent.futures)),
    threading.__file__,
    contextlib.__file__,
)


class Signal:
    # `-SIGNAL` notes a signal as pending, in C, by an instruction after which the interpreter does
    # not look for one. So a trace function that ends with it is not interrupted itself.
    __neg__ = staticmethod(functools.partial(_thread.interrupt_main, signal.SIGINT))


SIGNAL = Signal()


class Interruptions:
    # Runs work; calls `payload` at the place number `first`, and at the `times - 1` after it.

    def __init__(self, payload, first=sys.maxsize, times=1):
        self.payload = payload
        self.first = first
        self.left = times
        self.count = 0
        self.place = "no place"
        self.watching = False
        methods = Interruptions.call, Interruptions.step, Interruptions.handle, Interruptions.during
        # An interruption of the hook itself would be shown by the interpreter.
        self.own = {function.__code__ for function in (*methods, quiet_about_interruptions)}

    def call(self, frame, event, arg):
        if not self.watching or not frame.f_code.co_filename.startswith(TRACED):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        step = self.step
        -SIGNAL
        return step

    def step(self, frame, event, arg):
        if not self.watching:
            return None
        step = self.step
        -SIGNAL
        return step

    def handle(self, number, frame):
        if not self.watching or frame is None or frame.f_code in self.own:
            return
        self.count += 1
        if self.count <= self.first or not self.left:
            return
        self.left -= 1
        code = frame.f_code
        self.place = f"{os.path.basename(code.co_filename)}:{frame.f_lineno}, in {code.co_name}"
        self.watching = False
        try:
            self.payload()
        finally:
            self.watching = self.left > 0

    def during(self, work):
        previous = signal.signal(signal.SIGINT, self.handle)
        # Before 3.13 no frame has these events unless one that is there has asked for them.
        sys._getframe().f_trace_opcodes = True
        sys.settrace(self.call)
        try:
            self.watching = True
            work()
        except BaseException as error:
            # The standard library answers an interruption of its own waits with a RuntimeError.
            while error is not None and not isinstance(error, KeyboardInterrupt):
                error = error.__context__
            if error is None:
                raise
        finally:
            self.watching = False
            sys.settrace(None)
            signal.signal(signal.SIGINT, previous)
        return self


def interrupt_each(work, payload, times=1, prepare=lambda: None, check=lambda place: None):
    # Do the work again and again, interrupted at its first, second, ... place. How many places
    # there are depends on who is faster, this thread or the loop's: the most of three rounds.
    places = 0
    for _ in range(3):
        prepare()
        places = max(places, Interruptions(payload).during(work).count)
        check("no place")
    for first in range(places):
        prepare()
        check(Interruptions(payload, first, times).during(work).place)
    return places


def interrupt():
    raise KeyboardInterrupt
"""


pytestmark = pytest.mark.timeout(170)


@pytest.fixture
def limit() -> float:
    """Some of these programs do their work some hundred times, each instruction traced."""
    return 150.0


@pytest.fixture
def mode() -> tuple[str, ...]:
    """The development mode changes nothing here, and every instruction is slow as it is."""
    return ()


class TestTheInterruptions:
    """Each Python lets signals in at places of its own: the tests below stand on these."""

    @pytest.mark.parametrize(
        ("taking", "leaves_it_held"),
        [
            ("with lock: pass", sys.version_info >= (3, 14)),
            ("lock.acquire(); lock.release()", True),
        ],
    )
    def test_a_signal_comes_between_a_lock_and_the_block_from_3_14_on(
        self, printed_by: Callable[..., list[str]], taking: str, leaves_it_held: bool
    ) -> None:
        assert printed_by(
            INTERRUPT,
            f"""
            TRACED += ("<traced>",)
            held = set()
            names = {{}}
            code = compile("def work(lock):\\n    {taking}", "<traced>", "exec")
            exec(code, names)

            def prepare():
                global lock
                lock = threading.Lock()

            interrupt_each(
                lambda: names["work"](lock),
                interrupt,
                prepare=prepare,
                check=lambda place: held.add(lock.locked()),
            )
            say(True in held)
            """,
        ) == [str(leaves_it_held)]

    def test_a_signal_comes_inside_the_standard_librarys_wait_while_it_holds_the_locks(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        assert printed_by(
            INTERRUPT,
            """
            held = 0

            def prepare():
                global future
                future = concurrent.futures.Future()

            def look():
                global held
                if future._condition.acquire(False):
                    future._condition.release()
                else:
                    held += 1

            def check(place):
                looker = threading.Thread(target=look)
                looker.start()
                looker.join()

            interrupt_each(
                lambda: concurrent.futures.wait([future], timeout=0), interrupt, 1, prepare, check
            )
            say(held > 0)
            """,
        ) == ["True"]


# A signal handler that calls

PROGRAM = """
class WithoutReaders(asyncio.SelectorEventLoop):
    def add_reader(self, *_):
        raise NotImplementedError  # as Windows' proactor loop does


def with_a_new_one():
    with palitra.AsyncLoopExecutor() as new:
        futures.append(new.submit(double, 1))
        futures.append(new.submit(int, 2))


def renew():
    palitra.shutdown(wait=False)
    futures.append(palitra.get_executor().submit(double, 1))


@contextlib.asynccontextmanager
async def opened():
    await asyncio.sleep(0)
    yield 2


def use_a_context():
    with executor.sync_context(opened) as value:
        assert value == 2


executor = palitra.AsyncLoopExecutor(max_workers=2)
another = palitra.AsyncLoopExecutor(loop_factory=WithoutReaders)
futures = [executor.submit(double, 1)]
assert executor.submit(int, 2).result() == 2
"""

CALLS = {
    "run": "executor.run(double(1))",
    "run with a timeout": "executor.run(double(1), timeout=3600)",
    "gather": "executor.gather(double(1), futures[0])",
    "submit": "futures.append(executor.submit(double, 1))",
    "submit a callable": "futures.append(executor.submit(int, 2))",
    "result": "executor.submit(double, 1).result()",
    "result with a timeout": "executor.submit(int, 2).result(3600)",
    "done": "executor.submit(double, 1).done()",
    "cancel": "executor.submit(asyncio.sleep, 3600).cancel()",
    "map": "list(executor.map(double, range(2)))",
    "sync_iter": "list(executor.sync_iter(count(2)))",
    "sync_context": "use_a_context()",
    "enter_context": "executor.enter_context(opened)",
    "start and shutdown": "with_a_new_one()",
    "the default after its end": "renew()",
    "run where no socket can be watched": "another.run(double(1))",
    "submit where no socket can be watched": "futures.append(another.submit(double, 1))",
}
TWICE = [work for work in CALLS if work.startswith(("run", "submit"))]


@pytest.mark.parametrize(
    ("work", "times"),
    [(work, times) for work in CALLS for times in (1, 2) if times == 1 or work in TWICE],
)
def test_a_handler_may_call_wherever_it_comes(
    printed_by: Callable[..., list[str]], work: str, times: int
) -> None:
    [places] = printed_by(
        INTERRUPT,
        PROGRAM,
        f"""
        def handle():
            for each in executor, another:
                futures.append(each.submit(double, 1))
                assert each.run(double(1)) == 2

        places = interrupt_each(lambda: {CALLS[work]}, handle, {times})
        assert {{future.result() for future in futures}} == {{2}}
        say(places)
        """,
    )

    assert int(places) > 5


@pytest.mark.parametrize(
    "work",
    [
        "concurrent.futures.wait(several(), timeout=0)",
        "concurrent.futures.wait(several())",
        "list(concurrent.futures.as_completed(several()))",
    ],
    ids=["wait without time", "wait", "as_completed"],
)
def test_a_handler_may_hand_over_calls_inside_the_standard_librarys_waits(
    printed_by: Callable[..., list[str]], work: str
) -> None:
    """It may not wait for them there: the standard library holds locks that it needs itself."""
    [places] = printed_by(
        INTERRUPT,
        PROGRAM,
        f"""
        def several():
            made = [executor.submit(double, 1), executor.submit(int, 2)]
            futures.extend(made)
            return made

        def handle():
            futures.append(executor.submit(double, 1))
            futures.append(executor.submit(int, 2))

        places = interrupt_each(lambda: {work}, handle)
        assert {{future.result(10) for future in futures}} == {{2}}
        say(places)
        """,
    )

    assert int(places) > 5


# Ctrl-C

CTRL_C = """
@contextlib.asynccontextmanager
async def opened():
    await asyncio.sleep(0)
    try:
        yield 2
    finally:
        await asyncio.sleep(0)


def use_a_context():
    with executor.sync_context(opened) as value:
        assert value == 2


async def pass_gate(gate):
    await gate.wait()
    return 2


def prepare():
    global executor, loop, gate, futures, others
    executor = palitra.AsyncLoopExecutor(max_workers=3)
    loop = executor.get_loop()
    gate = asyncio.Event()
    assert executor.submit(int, 2).result() == 2
    futures = [executor.submit(pass_gate, gate)]
    others = []
    ended.clear()


def several():
    futures.extend([executor.submit(double, 1), executor.submit(int, 2)])
    return futures[1:]


def blocked():
    # Two more are all that have a place; the next waits for its turn.
    futures.extend(executor.submit(pass_gate, gate) for _ in range(2))
    futures.append(executor.submit(double, 1))
    return futures[-1]


def gate_opens():
    loop.call_soon_threadsafe(gate.set)


async def begin(begun):
    begun.append(True)
    return await pass_gate(gate)


def cancel_one_at_work():
    begun = []  # asked, no line of what can be interrupted runs, however late the loop comes to it
    future = executor.submit(begin, begun)
    futures.append(future)
    while not begun:
        time.sleep(0.0001)
    future.cancel()


def map_half_way():
    for result in executor.map(double, range(3), buffersize=1):
        break


def with_a_new_one():
    with palitra.AsyncLoopExecutor() as new:
        others.append(new)
        futures.append(new.submit(double, 1))
        futures.append(new.submit(int, 2))


def renew():
    palitra.shutdown(wait=False)
    futures.append(palitra.get_executor().submit(double, 1))


def settled(future):
    try:
        return future.result(PATIENCE)
    except concurrent.futures.CancelledError:
        return 2


def use_lightly(each):
    assert each.run(double(1)) == 2
    assert each.submit(int, 2).result(PATIENCE) == 2


def go_on():
    # All that must work whatever was interrupted; in a thread, which has no lock of the main one's.
    global doing
    doing = "further calls"
    if executor not in ended:
        use_lightly(executor)
    use_lightly(palitra.get_executor())
    doing = "the calls that were under way"
    with contextlib.suppress(RuntimeError):  # the loop has ended, and so have they
        loop.call_soon_threadsafe(gate.set)
    for future in futures:
        assert settled(future) == 2, future
    for each in (executor, *others):
        doing = "shutdown"
        each.shutdown()
        doing = "refusing calls after a shutdown"
        with contextlib.suppress(RuntimeError):
            each.submit(int, 2)
            raise SystemError("accepted")
    doing = "nothing"


def attempt():
    global doing
    try:
        go_on()
    except BaseException as error:
        doing += f" ({error!r})"


def check(place):
    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(PATIENCE + 2)
    if doing != "nothing":
        say("no end of", doing, "after an interruption at", place)
        os._exit(0)  # the exit would wait, too


PATIENCE = 5
ended = []
called = []
"""

INTERRUPTED = {
    "run": "executor.run(double(1))",
    "run with a timeout": "executor.run(double(1), timeout=3600)",
    "gather": "executor.gather(double(1), executor.submit(double, 1))",
    "submit": "futures.append(executor.submit(double, 1))",
    "submit a coroutine": "futures.append(executor.submit(double(1)))",
    "submit a callable": "futures.append(executor.submit(int, 2))",
    "result": "several()[0].result()",
    "result with a timeout": "several()[1].result(3600)",
    "exception": "several()[0].exception()",
    "polling": "[(each.done(), each.running(), each.cancelled()) for each in several()]",
    "cancel before the start": "blocked().cancel()",
    "cancel at work": "cancel_one_at_work()",
    "set_result before the start": "blocked().set_result(2)",
    "set_result at work": "futures[0].set_result(2)",
    "add_done_callback": "futures[0].add_done_callback(called.append)",
    "add_done_callback at the end": "several()[0].add_done_callback(lambda future: None)",
    "wait without time": "concurrent.futures.wait(several(), timeout=0)",
    "wait": "concurrent.futures.wait(several())",
    "wait for the first": (
        "concurrent.futures.wait(several(), return_when=concurrent.futures.FIRST_COMPLETED)"
    ),
    "as_completed": "list(concurrent.futures.as_completed(several()))",
    "wait in vain": "concurrent.futures.wait(futures, timeout=0)",
    "map": "list(executor.map(double, range(2)))",
    "map half-way": "map_half_way()",
    "sync_iter": "list(executor.sync_iter(count(2)))",
    "sync_context": "use_a_context()",
    "enter_context": "executor.enter_context(opened)",
    "push_async_callback": "executor.push_async_callback(double, 1)",
    "shutdown": "ended.append(executor); gate_opens(); executor.shutdown()",
    "shutdown without waiting": "ended.append(executor); executor.shutdown(wait=False)",
    "shutdown that cancels": "ended.append(executor); executor.shutdown(cancel_futures=True)",
    "start and shutdown": "with_a_new_one()",
    "the default after its end": "renew()",
}
AGAIN = ("run", "submit", "cancel before the start", "wait without time", "shutdown")


@pytest.mark.parametrize(
    ("work", "times"),
    [
        pytest.param(
            work,
            times,
            id=work if times == 1 else f"{work}, twice",
        )
        for work in INTERRUPTED
        for times in (1, 2)
        if times == 1 or work in AGAIN
    ],
)
def test_ctrl_c_loses_no_call_and_hangs_nothing_wherever_it_comes(
    printed_by: Callable[..., list[str]], work: str, times: int
) -> None:
    lines = printed_by(
        INTERRUPT,
        CTRL_C,
        f"""
        def work():
            {INTERRUPTED[work]}

        places = interrupt_each(work, interrupt, {times}, prepare, check)
        palitra.shutdown()
        say(places > 0)
        """,
    )

    assert lines == ["True"]


def test_ctrl_c_leaves_no_results_of_map_in_use(printed_by: Callable[..., list[str]]) -> None:
    [places] = printed_by(
        INTERRUPT,
        """
        executor = palitra.AsyncLoopExecutor()

        def prepare():
            global results
            results = executor.map(double, range(4), buffersize=1)

        def check(place):
            try:
                list(results)
            except ValueError as error:
                say(place, error)
                os._exit(0)

        places = interrupt_each(lambda: next(results), interrupt, 1, prepare, check)
        executor.shutdown()
        say(places)
        """,
    )

    assert int(places) > 5


# Signals at the end of a call


def test_a_handler_may_cancel_while_a_callback_is_added(
    printed_by: Callable[..., list[str]],
) -> None:
    [places] = printed_by(
        INTERRUPT,
        PROGRAM,
        """
        waiting = asyncio.Event()
        called = []

        def work():
            futures.append(executor.submit(waiting.wait))
            futures[-1].add_done_callback(called.append)
            futures[-1].cancel()

        del futures[:]
        places = interrupt_each(work, lambda: futures and futures[-1].cancel())
        executor.shutdown()
        assert set(called) == set(futures), len(called)
        say(places)
        """,
    )

    assert int(places) > 0


@pytest.mark.parametrize("work", ["submit", "submit a coroutine", "submit a callable"])
def test_ctrl_c_after_a_handler_has_cancelled_the_call_leaves_no_call_behind(
    printed_by: Callable[..., list[str]], work: str
) -> None:
    """Both leave something to the loop, which comes to look at neither before it has both."""
    lines = printed_by(
        INTERRUPT,
        CTRL_C,
        f"""
        async def hold():
            held.set()
            free.wait()

        def prepare():
            global executor, held, free, futures
            executor = palitra.AsyncLoopExecutor()
            held, free = threading.Event(), threading.Event()
            futures = [executor.submit(hold)]
            held.wait()

        def cancel_and_interrupt():
            executor.shutdown(wait=False, cancel_futures=True)
            raise KeyboardInterrupt

        def work():
            {INTERRUPTED[work]}

        def check(place):
            free.set()
            try:
                executor.shutdown(timeout=PATIENCE)
            except TimeoutError as error:
                say(place, error)
                os._exit(0)

        places = interrupt_each(work, cancel_and_interrupt, 1, prepare, check)
        say(places > 0)
        """,
    )

    assert lines == ["True"]


def test_ctrl_c_while_an_unstarted_call_is_cancelled_leaves_nobody_waiting(
    printed_by: Callable[..., list[str]],
) -> None:
    [places] = printed_by(
        INTERRUPT,
        CTRL_C,
        """
        prepare_gate = prepare
        go_on_further = go_on

        def wait_for(future):
            waits.set()
            with contextlib.suppress(concurrent.futures.CancelledError):
                future.result()

        def prepare():
            global unstarted, waiter, waits, called
            prepare_gate()
            called = []
            unstarted = blocked()
            unstarted.add_done_callback(called.append)
            waits = threading.Event()
            waiter = threading.Thread(target=wait_for, args=[unstarted], daemon=True)
            waiter.start()
            waits.wait()

        def go_on():
            global doing
            doing = "the thread that waits for it"
            if unstarted.cancelled():
                waiter.join()
            go_on_further()
            waiter.join()
            assert called == [unstarted], called

        say(interrupt_each(lambda: unstarted.cancel(), interrupt, 1, prepare, check))
        palitra.shutdown()
        """,
    )

    assert int(places) > 3


ENDED = """
TRACED = (os.path.dirname(palitra.__file__),)
# The application leaves tasks behind where it is interrupted, and asyncio says so.
logging.disable(logging.CRITICAL)


def ended(place):
    # Whoever asks for the end afterwards gets it; in a thread of its own, which may be left stuck.
    ends = threading.Thread(target=executor.shutdown, daemon=True)
    ends.start()
    ends.join(5)
    if ends.is_alive():
        say("does not end:", place)
"""


@pytest.mark.parametrize(
    "made", ["palitra.AsyncLoopExecutor()", "palitra.AsyncLoopExecutor.from_loop(loop)"]
)
def test_ctrl_c_in_a_shutdown_before_the_first_call_leaves_one_that_ends(
    printed_by: Callable[..., list[str]], made: str
) -> None:
    [places] = printed_by(
        INTERRUPT,
        ENDED,
        f"""
        loop = asyncio.new_event_loop()

        def prepare():
            global executor
            executor = {made}

        say(interrupt_each(lambda: executor.shutdown(), interrupt, 1, prepare, ended))
        loop.close()
        """,
    )

    assert int(places) > 3


# What an application does at its end on its loop, which runs in the main thread.
APPLICATIONS = {
    "it ends the executor": """
        def end():
            loop.run_until_complete(executor.aclose())
    """,
    "it cancels all tasks": """
        def end():
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            loop.close()
    """,
}


@pytest.mark.parametrize("end", APPLICATIONS.values(), ids=APPLICATIONS)
def test_ctrl_c_on_an_applications_loop_leaves_an_executor_that_ends(
    printed_by: Callable[..., list[str]], end: str
) -> None:
    [places] = printed_by(
        INTERRUPT,
        ENDED,
        end,
        """
        def prepare():
            global loop, executor
            loop = asyncio.new_event_loop()
            executor = palitra.AsyncLoopExecutor.from_loop(loop)
            loop.run_until_complete(asyncio.wrap_future(executor.submit(double, 1), loop=loop))

        def check(place):
            loop.close()
            ended(place)

        say(interrupt_each(lambda: end(), interrupt, 1, prepare, check))
        """,
    )

    assert int(places) > 3


def test_ctrl_c_on_an_applications_loop_loses_no_call(
    printed_by: Callable[..., list[str]],
) -> None:
    [places] = printed_by(
        INTERRUPT,
        ENDED,
        APPLICATIONS["it cancels all tasks"],
        """
        async def blocked():
            await asyncio.Event().wait()

        def prepare():
            global loop, executor, future
            loop = asyncio.new_event_loop()
            executor = palitra.AsyncLoopExecutor.from_loop(loop)
            future = executor.submit(blocked)
            loop.run_until_complete(asyncio.sleep(0.01))

        def check(place):
            loop.close()
            ended(place)
            try:
                say("a result:", place, future.result(5))
            except (concurrent.futures.BrokenExecutor, concurrent.futures.CancelledError):
                pass
            except TimeoutError:
                say("lost:", place)

        say(interrupt_each(lambda: end(), interrupt, 1, prepare, check))
        """,
    )

    assert int(places) > 3
