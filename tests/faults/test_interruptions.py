"""A signal handler that runs at each instruction of palitra's in turn: deterministic storms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

# Python runs a signal handler in the main thread between two instructions: after a call has
# returned, at the start of a function, at the end of a loop's turn. A trace function stands in.
INTERRUPT = """
import dis, functools

# What is left of a call that was kept from being made.
warnings.filterwarnings("ignore", message="coroutine .* was never awaited")
sys.unraisablehook = lambda ignored: (
    ignored.exc_type is KeyboardInterrupt or sys.__unraisablehook__(ignored)
)
FOLDERS = os.path.dirname(palitra.__file__), os.path.dirname(asyncio.__file__)
CHECKS = ("CALL", "RESUME", "JUMP_BACKWARD", "SEND")


@functools.cache
def checks_of(code):
    # Where the interpreter looks for signals, once the instruction is done.
    return {i.offset for i in dis.get_instructions(code) if i.opname.startswith(CHECKS)}


@functools.cache
def blocks_of(code, offset):
    # What a handler raises is raised by the instruction just done; here, by the next one: both
    # must be in the same try blocks.
    return [each for each in dis._parse_exception_table(code) if each.start <= offset < each.end]


def interrupt_each(work, handler, times=1):
    # Do the work again and again, interrupted at its first, second, ... instruction; at the one
    # after that, too, if it is to be interrupted twice.
    positions = max(interrupt_at(work, handler, None, times) for _ in range(3))
    for first in range(positions):
        interrupt_at(work, handler, first, times)
    return positions


def interrupt_at(work, handler, first, times):
    position = -1
    left = times
    busy = False

    def trace(frame, event, arg):
        if busy or not frame.f_code.co_filename.startswith(FOLDERS):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        code = frame.f_code
        checks = checks_of(code)
        last = None

        def trace_frame(frame, event, arg):
            nonlocal position, left, last, busy
            if event == "opcode" and not busy:
                now = frame.f_lasti
                checked = last in checks and blocks_of(code, last) == blocks_of(code, now)
                last = now
                if checked and left:
                    position += 1
                    if first is not None and position >= first:
                        left -= 1
                        busy = True
                        try:
                            handler()
                        finally:
                            busy = False
            return trace_frame

        return trace_frame

    # Before 3.13 no frame has these events unless one that is there has asked for them.
    sys._getframe().f_trace_opcodes = True
    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(None)
    return position + 1


def interrupt():
    raise KeyboardInterrupt
"""

WORK = {
    "run": "executor.run(double(1))",
    "run with a timeout": "executor.run(double(1), timeout=3600)",
    "gather": "executor.gather(double(1), futures[0])",
    "submit": "futures.append(executor.submit(double, 1))",
    "submit a callable": "futures.append(executor.submit(int, 2))",
    "result": "executor.submit(double, 1).result()",
    "map": "list(executor.map(double, range(2)))",
    "sync_iter": "list(executor.sync_iter(count(2)))",
    "start and shutdown": "with_a_new_one()",
    "run where no socket can be watched": "another.run(double(1))",
    "submit where no socket can be watched": "futures.append(another.submit(double, 1))",
}
TWICE = [work for work in WORK if work.startswith(("run", "submit"))]
each_work = pytest.mark.parametrize("work", WORK.values(), ids=WORK)


@pytest.fixture
def mode() -> tuple[str, ...]:
    """The development mode changes nothing here, and every instruction is slow as it is."""
    return ()


PROGRAM = """
def with_a_new_one():
    with palitra.AsyncLoopExecutor() as new:
        futures.append(new.submit(double, 1))
        futures.append(new.submit(int, 2))


class WithoutReaders(asyncio.SelectorEventLoop):
    def add_reader(self, *_):
        raise NotImplementedError  # as Windows' proactor loop does


executor = palitra.AsyncLoopExecutor(max_workers=2)
another = palitra.AsyncLoopExecutor(loop_factory=WithoutReaders)
futures = [executor.submit(double, 1)]
assert executor.submit(int, 2).result() == 2
"""


@pytest.mark.parametrize(
    ("work", "times"),
    [(work, times) for work in WORK for times in (1, 2) if times == 1 or work in TWICE],
)
def test_a_handler_may_call_at_any_instruction(
    printed_by: Callable[..., list[str]], work: str, times: int
) -> None:
    [interruptions] = printed_by(
        INTERRUPT,
        PROGRAM,
        f"""
        def handle():
            for each in executor, another:
                futures.append(each.submit(double, 1))
                assert each.run(double(1)) == 2

        interruptions = interrupt_each(lambda: {WORK[work]}, handle, {times})
        assert {{future.result() for future in futures}} == {{2}}
        say(interruptions)
        """,
    )

    assert int(interruptions) > 5


@each_work
def test_ctrl_c_at_any_instruction_loses_no_call_and_hangs_nothing(
    printed_by: Callable[..., list[str]], work: str
) -> None:
    [interruptions] = printed_by(
        INTERRUPT,
        PROGRAM,
        f"""
        interruptions = interrupt_each(lambda: {work}, interrupt)
        assert {{future.result() for future in futures}} == {{2}}
        use(executor)
        executor.shutdown()
        say(interruptions)
        """,
    )

    assert int(interruptions) > 5


def test_a_handler_may_cancel_while_a_callback_is_added(
    printed_by: Callable[..., list[str]],
) -> None:
    [interruptions] = printed_by(
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
        interruptions = interrupt_each(work, lambda: futures[-1].cancel())
        executor.shutdown()
        assert set(called) == set(futures), len(called)
        say(interruptions)
        """,
    )

    assert int(interruptions) > 0


def test_ctrl_c_while_an_unstarted_call_is_cancelled_leaves_nobody_waiting(
    printed_by: Callable[..., list[str]],
) -> None:
    [interruptions] = printed_by(
        INTERRUPT,
        PROGRAM,
        """
        import concurrent.futures

        def wait_for(future):
            try:
                future.result(20)
            except concurrent.futures.CancelledError:
                pass

        def work():
            future = executor.submit(str, 1)
            futures.append(future)
            without_callback.add(future)
            future.add_done_callback(called.append)
            without_callback.discard(future)
            waiter = threading.Thread(target=wait_for, args=[future])
            waiter.start()
            waiters.append(waiter)
            while not future._sleepers:
                time.sleep(0.001)
            future.cancel()

        called = []
        without_callback = set()  # Ctrl-C came before
        waiters = []
        del futures[:]
        free = threading.Event()
        executor.submit(free.wait)
        executor.submit(free.wait)
        interruptions = interrupt_each(work, interrupt)
        for waiter in waiters:
            waiter.join(20)
            assert not waiter.is_alive()
        free.set()
        executor.shutdown()
        assert all(future.done() for future in futures)
        assert set(futures) - set(called) <= without_callback
        say(interruptions)
        """,
    )

    assert int(interruptions) > 5
