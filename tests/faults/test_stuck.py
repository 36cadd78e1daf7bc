"""Whatever is stuck when a program ends: it ends in time, with its exit code, and names that."""

from __future__ import annotations

import importlib.util
import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from interpreters import Child

FLAVOURS = {"asyncio": "asyncio.new_event_loop"}
if importlib.util.find_spec("uvloop"):
    FLAVOURS["uvloop"] = "__import__('uvloop').new_event_loop"

# One executor for each thing that can be stuck: the limits are on one clock.
PROGRAM = """
import contextlib

warnings.simplefilter("ignore", ResourceWarning)
begun = threading.Semaphore(0)
exiting = threading.Event()


async def ignores():
    begun.release()
    while True:
        try:
            while not exiting.is_set():
                await asyncio.sleep(0.01)
            say("exiting")
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if exiting.is_set():
                say("asked")


async def serves():
    begun.release()
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()


def works():
    begun.release()
    threading.Event().wait()


async def blocks():
    works()


async def uses_a_thread():
    await asyncio.to_thread(works)


@contextlib.asynccontextmanager
async def pool():
    begun.release()
    yield
    await serves()


def over_a_loop_of_its_own(limit):
    return palitra.AsyncLoopExecutor(exit_timeout=limit, loop_factory=new_loop)


def over_a_loop_of_the_programs(limit):
    made = []

    async def main():
        made.append(palitra.AsyncLoopExecutor.from_loop(exit_timeout=limit))
        begun.release()
        await asyncio.Event().wait()

    def run():
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(main())

    threading.Thread(target=run, daemon=True).start()
    begun.acquire()
    return made[0]


def wait_for_result():
    try:
        future.result()
    except BaseException as exc:
        say(type(exc).__name__)


def get_stuck(make, limit):
    global executors, future
    executors = [make(limit) for _ in STUCK]
    future = executors[0].submit(ignores)
    executors[1].submit(blocks)
    executors[2].submit(works)
    executors[3].enter_context(pool)
    executors[4].submit_service(serves)
    if len(STUCK) > 5:
        executors[5].submit(uses_a_thread)
    for _ in STUCK:
        begun.acquire()
    # The exit waits for this thread, which goes on once its call is settled.
    threading.Thread(target=wait_for_result).start()
"""

HOSTS = {
    "a loop of its own": [
        "ignores (submit, ",
        "blocks (submit, running for ",
        "works (submit, running for ",
        "the closing of the context pool",
        "serves (service, ",
        "_asyncio_0 at ",
    ],
    # Threads of asyncio's are the program's own here, and the standard library waits for them.
    "a loop of the program's": [
        "ignores (submit, ",
        "blocks (submit, running for ",
        "works (submit, running for ",
        "the closing of the context pool",
        "serves (service, ",
    ],
}


@pytest.fixture
def mode() -> tuple[str, ...]:
    """Nothing here depends on the development mode."""
    return ()


@pytest.fixture(params=FLAVOURS)
def loop(request: pytest.FixtureRequest) -> str:
    return f"new_loop = {FLAVOURS[request.param]}"


@pytest.fixture(params=HOSTS)
def stuck(request: pytest.FixtureRequest) -> list[str]:
    """What is stuck, as it is named."""
    return HOSTS[request.param]


@pytest.fixture
def begin(start: Callable[..., Child], loop: str, stuck: list[str]) -> Callable[..., Child]:
    """Start a program in which all of that is stuck, with this `exit_timeout`."""
    own = "_asyncio_0 at " in stuck
    make = "over_a_loop_of_its_own" if own else "over_a_loop_of_the_programs"

    def begin(limit: float | None, *pieces: str) -> Child:
        names = f"STUCK = {stuck!r}"
        return start(loop, names, PROGRAM, f"get_stuck({make}, {limit})", *pieces)

    return begin


def assert_left_behind(child: Child, stuck: list[str]) -> None:
    """It ends in time with its exit code, and all it says is the names of what was stuck."""
    child.timeout = 8.0
    end = child.finish()
    assert end.returncode == 3, end
    starts = sorted(line.partition(": ")[0] for line in end.stderr.splitlines())
    assert starts in (
        ["left behind at exit"],
        ["left behind at exit", "left behind at the end"],  # a service
    ), end.stderr
    for name in stuck:
        assert end.stderr.count(name) == 1, name + "\n" + end.stderr
    assert "clean-up" not in end.stderr
    assert "BrokenExecutor" in end.stdout.splitlines()


def test_exit_timeout_bounds_the_exit(begin: Callable[..., Child], stuck: list[str]) -> None:
    assert_left_behind(begin(0.1, "sys.exit(3)"), stuck)


def test_a_passed_limit_of_shutdown_bounds_the_exit(
    begin: Callable[..., Child], stuck: list[str]
) -> None:
    child = begin(
        None,
        """
        for executor in executors:
            try:
                executor.shutdown(timeout=0.1)
            except palitra.CallTimeoutError as exc:
                say(exc)
        sys.exit(3)
        """,
    )
    for name in stuck[:-1] if len(stuck) > 5 else stuck:
        assert name in child.read_line()
    if len(stuck) > 5:
        assert "uses_a_thread (submit, " in child.read_line()
    assert_left_behind(child, stuck)


def test_two_ctrl_c_end_the_exit(begin: Callable[..., Child], stuck: list[str]) -> None:
    child = begin(
        None,
        """
        import traceback

        def watch():
            names = []
            while names[:1] != ["wait_for"] or "_wait" not in names:
                frame = sys._current_frames()[threading.main_thread().ident]
                names = [frame.f_code.co_name for frame, _ in traceback.walk_stack(frame)]
                time.sleep(0.01)
            exiting.set()

        threading.Thread(target=watch, daemon=True).start()
        sys.exit(3)
        """,
    )
    child.expect("exiting")
    child.send_signal(signal.SIGINT)
    child.expect("asked")
    child.send_signal(signal.SIGINT)
    # It has waited for nothing but calls yet, and one may just end: that which waits for a thread.
    assert_left_behind(child, stuck[:3])


def test_sys_exit_in_a_handler_of_sigterm_ends_in_time(
    begin: Callable[..., Child], stuck: list[str]
) -> None:
    child = begin(
        0.1,
        """
        def leave(*_):
            sys.exit(3)

        signal.signal(signal.SIGTERM, leave)
        say("begun")
        future.result()
        """,
    )
    child.expect("begun")
    child.send_signal(signal.SIGTERM)
    assert_left_behind(child, stuck)


@pytest.mark.parametrize(
    "call",
    ["executor.run(blocks())", "with executor: executor.run(blocks())"],
    ids=["alone", "in the executor's with block"],
)
def test_two_ctrl_c_end_a_program_whose_call_blocks_the_loop(
    start: Callable[..., Child], loop: str, call: str
) -> None:
    child = start(
        loop,
        f"""
        import traceback

        async def blocks():
            await asyncio.sleep(0)
            threading.Thread(target=watch, daemon=True).start()
            say("begun")
            threading.Event().wait()

        def watch():
            names = []
            while names[:2] != ["wait_for", "_interrupted"]:
                frame = sys._current_frames()[threading.main_thread().ident]
                names = [frame.f_code.co_name for frame, _ in traceback.walk_stack(frame)]
                time.sleep(0.01)
            say("waits for the clean-up")

        executor = palitra.AsyncLoopExecutor(loop_factory=new_loop)
        {call}
        """,
    )
    child.expect("begun")
    child.send_signal(signal.SIGINT)
    child.expect("waits for the clean-up")
    child.send_signal(signal.SIGINT)
    end = child.finish()
    assert end.returncode == -signal.SIGINT
    assert end.stderr.splitlines()[-2] == "KeyboardInterrupt"
    assert end.stderr.splitlines()[-1].startswith("left behind at exit: blocks (run, running for ")


def test_a_context_is_left_although_what_is_stuck_elsewhere_has_used_up_the_limit(
    start: Callable[..., Child], loop: str
) -> None:
    end = start(
        loop,
        PROGRAM,
        """
        @contextlib.asynccontextmanager
        async def opened():
            yield
            await asyncio.sleep(0)
            say("left")

        executors = [over_a_loop_of_its_own(0.1) for _ in range(2)]
        executors[0].submit(blocks)
        executors[1].enter_context(opened)
        begun.acquire()
        # The moment that the other executor is given, on a machine where its thread must wait.
        atexit.register(setattr, palitra._hooks, "_STEP", 5.0)
        """,
    ).finish()
    assert end.stdout == "left\n"
    (line,) = end.stderr.splitlines()
    assert line.startswith("left behind at exit: blocks (submit, ")


def test_an_async_generator_whose_closing_a_limit_cancels_is_no_failure(
    printed_by: Callable[..., list[str]], loop: str
) -> None:
    assert printed_by(
        loop,
        """
        async def numbers():
            try:
                yield 1
            finally:
                try:
                    await asyncio.Event().wait()
                finally:
                    say("closed")

        async def begin():
            return await anext(generator)

        generator = numbers()
        executor = palitra.AsyncLoopExecutor(exit_timeout=1.0, loop_factory=new_loop)
        say(executor.run(begin()))
        """,
    ) == ["1", "closed"]
