"""A fork that runs none of Python's fork hooks, as a C program makes one."""

from __future__ import annotations

import sys
import sysconfig
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
    pytest.mark.skipif(
        bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
        reason="objects have locks there, and nothing releases in the child what others held",
    ),
]

BARE_FORK = """
import ctypes, io, traceback
from concurrent.futures import BrokenExecutor
from palitra import _waiting

C = ctypes.PyDLL(None)  # which keeps the interpreter's lock during the call, as a C library would
# A thread that waits for a call wakes up every tenth of a second, perhaps at the very fork (see
# `come_to_rest`). So such a wait is to sleep until the call is done.
slices = _waiting._SLICE, _waiting._LONG_SLICE
_waiting._SLICE = _waiting._LONG_SLICE = 3600.0


def fork_without_hooks():
    # Fork so that none of Python's hooks prepares the child; as os.fork, its pid, and in it 0.
    # A thread that waits for the interpreter's lock at such a fork leaves the lock in a state that
    # only Python's own hooks mend. So the other threads are to wait for something else.
    come_to_rest()
    pid = C.fork()
    if not pid:
        signal.alarm(15)
        _waiting._SLICE, _waiting._LONG_SLICE = slices
    return pid


def bare_fork(function):
    # Run function in a child that none of Python's hooks has prepared; its exit code.
    pid = fork_without_hooks()
    if not pid:
        code = 1
        try:
            function()
            code = 7
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def broken(future):
    # How long is bounded: nothing settles the parent's calls here but palitra itself.
    try:
        return future.result(10)
    except BrokenExecutor:
        return "broken"
"""
each_executor = pytest.mark.parametrize(
    "executor",
    ["palitra.get_executor()", "palitra.AsyncLoopExecutor(max_workers=2)"],
    ids=["default", "explicit"],
)
FIRST_USES = {
    "run": "say(executor.run(double(1)))",
    "run with a timeout": "say(executor.run(double(1), timeout=10))",
    "gather": "say(*executor.gather(double(1)))",
    "submit": "say(executor.submit(double, 1).result(10))",
    "submit a callable": "say(executor.submit(int, 2).result(10))",
    "map": "say(*executor.map(double, [1]))",
    "sync_iter": "say(*(2 * number for number in executor.sync_iter(count(2)) if number))",
    "get_loop": (
        "say(asyncio.run_coroutine_threadsafe(double(1), executor.get_loop()).result(10))"
    ),
    "shutdown": "executor.shutdown(); say(2)",
    "shutdown without waiting": "executor.shutdown(wait=False); say(2)",
    "the module's run": "say(palitra.run(double(1)))",
    "a function of sync": "say(palitra.sync(double)(1))",
    "a new executor": "say(palitra.AsyncLoopExecutor().run(double(1)))",
}


@pytest.fixture
def mode() -> tuple[str, ...]:
    """Nothing here depends on the development mode."""
    return ("-W", "ignore:This process:DeprecationWarning")


@pytest.mark.parametrize("first", FIRST_USES.values(), ids=FIRST_USES)
@each_executor
def test_whatever_the_child_does_first_works(
    printed_by: Callable[..., list[str]], executor: str, first: str
) -> None:
    assert printed_by(
        BARE_FORK,
        f"""
        def child():
            {first}

        executor = {executor}
        use(executor)
        palitra.run(double(1))
        say(bare_fork(child))
        use(executor)
        say(executor.run(double(2)))
        """,
    ) == ["2", "7", "4"]


@each_executor
def test_all_works_in_both(printed_by: Callable[..., list[str]], executor: str) -> None:
    assert printed_by(
        BARE_FORK,
        f"""
        def child():
            use(executor)
            say(executor.get_loop() is loop)
            executor.shutdown()

        executor = {executor}
        use(executor)
        loop = executor.get_loop()
        say(bare_fork(child))
        use(executor)
        say(executor.get_loop() is loop)
        executor.shutdown()
        """,
    ) == ["False", "7", "True"]


@each_executor
def test_an_executor_not_used_before_works_in_both(
    printed_by: Callable[..., list[str]], executor: str
) -> None:
    assert printed_by(
        BARE_FORK,
        f"""
        executor = {executor}
        say(bare_fork(lambda: use(executor)))
        use(executor)
        """,
    ) == ["7"]


@each_executor
def test_a_fork_in_another_thread(printed_by: Callable[..., list[str]], executor: str) -> None:
    assert printed_by(
        BARE_FORK,
        f"""
        def work():
            say(bare_fork(lambda: (use(executor), say("child"))))
            use(executor)

        executor = {executor}
        use(executor)
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        use(executor)
        """,
    ) == ["child", "7"]


@each_executor
def test_a_fork_in_a_worker_thread(printed_by: Callable[..., list[str]], executor: str) -> None:
    assert printed_by(
        BARE_FORK,
        f"""
        executor = {executor}
        use(executor)
        say(executor.submit(bare_fork, lambda: (use(executor), say("child"))).result())
        use(executor)
        """,
    ) == ["child", "7"]


@each_executor
def test_a_fork_inside_a_coroutine(printed_by: Callable[..., list[str]], executor: str) -> None:
    """The child is inside a coroutine of a loop that goes on; it uses palitra from a new thread."""
    assert printed_by(
        BARE_FORK,
        f"""
        def in_a_thread(function):
            thread = threading.Thread(target=function)
            thread.start()
            thread.join()

        async def forks():
            await asyncio.sleep(0)
            return bare_fork(child)

        def child():
            # The thread that calls first is the child's only one: see "What is not promised".
            first = executor.submit(double, 8)
            in_a_thread(lambda: (say(first.result()), use(executor)))

        executor = {executor}
        use(executor)
        others = [executor.submit(double, number) for number in range(5)]
        say(executor.submit(forks).result())
        say(*(other.result() for other in others))
        use(executor)
        """,
    ) == ["16", "7", "0 2 4 6 8"]


@each_executor
def test_a_fork_while_another_thread_imports_ctypes(
    printed_by: Callable[..., list[str]], executor: str
) -> None:
    """The module is never finished in the child, where palitra would use it."""
    assert printed_by(
        BARE_FORK,
        f"""
        import importlib.machinery

        class Loader:
            def create_module(self, spec):
                pass

            def exec_module(self, module):
                held.set()
                release.wait()

        class Finder:
            def find_spec(name, path, target=None):
                if name == "ctypes":
                    return importlib.machinery.ModuleSpec(name, Loader())

        held, release = threading.Event(), threading.Event()
        del sys.modules["ctypes"]
        sys.meta_path.insert(0, Finder)
        threading.Thread(target=importlib.import_module, args=["ctypes"]).start()
        held.wait()
        executor = {executor}
        use(executor)
        say(bare_fork(lambda: use(executor)))
        release.set()
        """,
    ) == ["7"]


@each_executor
def test_the_parents_calls_fail_in_the_child(
    printed_by: Callable[..., list[str]], executor: str
) -> None:
    assert printed_by(
        BARE_FORK,
        f"""
        def child():
            executor.run(double(1))
            say(*map(broken, futures), all(future.done() for future in futures))
            say(done.result())

        async def pass_gate():
            await opened.wait()
            return "passed"

        executor = {executor}
        gate = threading.Event()
        opened = asyncio.Event()
        done = executor.submit(int, 2)
        assert done.result() == 2
        futures = [executor.submit(pass_gate) for _ in range(3)]
        futures.append(executor.submit(lambda: gate.wait() and "passed"))
        say(bare_fork(child))
        gate.set()
        executor.get_loop().call_soon_threadsafe(opened.set)
        say(*(future.result() for future in futures))
        """,
    ) == ["broken broken broken broken True", "2", "7", "passed passed passed passed"]


@pytest.mark.parametrize(
    "waits",
    [
        "broken(future)",
        "'broken' if isinstance(future.exception(10), BrokenExecutor) else 'not'",
        "future.cancel() and 'broken' or broken(future)",
        "'broken' if wait([future], 10).done else 'not'",
        "broken(next(as_completed([future], 10)))",
        "(future.add_done_callback(heard.append), heard and broken(future))[1]",
        "wrapped(future)",
        "'broken' if future.done() and not future.running() else 'not'",
        "'broken' if not executor.calls() else 'not'",
        "'broken' if 'Event.wait' not in dumped() else 'not'",
    ],
    ids=[
        "result",
        "exception",
        "cancel",
        "wait",
        "as_completed",
        "callback",
        "wrap_future",
        "done",
        "calls",
        "dump",
    ],
)
@each_executor
def test_a_wait_that_begins_in_the_child_ends(
    printed_by: Callable[..., list[str]], executor: str, waits: str
) -> None:
    """Waiting for the parent's call, or asking for it, is the first thing that the child does."""
    assert printed_by(
        BARE_FORK,
        f"""
        from concurrent.futures import as_completed, wait

        def wrapped(future):
            async def waits():
                return await asyncio.wait_for(asyncio.wrap_future(future), 10)

            try:
                return asyncio.run(waits())
            except BrokenExecutor:
                return "broken"

        def dumped():
            text = io.StringIO()
            palitra.dump(text)
            return text.getvalue()

        heard = []
        executor = {executor}
        waiting = asyncio.Event()
        future = executor.submit(waiting.wait)
        executor.run(double(1))
        say(bare_fork(lambda: say({waits})))
        executor.get_loop().call_soon_threadsafe(waiting.set)
        say(future.result())
        """,
    ) == ["broken", "7", "True"]


@each_executor
def test_children_of_children(printed_by: Callable[..., list[str]], executor: str) -> None:
    assert printed_by(
        BARE_FORK,
        f"""
        def generation(number):
            use(executor)
            if number:
                assert bare_fork(lambda: generation(number - 1)) == 7
                use(executor)
            say(number)

        executor = {executor}
        generation(3)
        """,
    ) == ["0", "1", "2", "3"]


@each_executor
def test_after_a_fork_that_ran_the_hooks_and_before_one(
    printed_by: Callable[..., list[str]], executor: str
) -> None:
    assert printed_by(
        BARE_FORK,
        f"""
        def child():
            use(executor)
            say(bare_fork(grandchild))
            use(executor)

        def grandchild():
            use(executor)
            say(fork(lambda: use(executor), os._exit))
            use(executor)

        executor = {executor}
        use(executor)
        say(fork(child, os._exit))
        use(executor)
        """,
    ) == ["7", "7", "7"]


@each_executor
def test_the_child_may_leave_by_the_interpreters_exit(
    printed_by: Callable[..., list[str]], executor: str
) -> None:
    assert printed_by(
        BARE_FORK,
        f"""
        async def late():
            await asyncio.sleep(0.05)
            say("late")

        executor = {executor}
        executor.run(double(1))
        if not (pid := fork_without_hooks()):
            executor.submit(late)
            sys.exit(3)
        say(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        say(executor.run(double(1)))
        """,
    ) == ["late", "3", "2"]


@each_executor
def test_a_child_that_never_uses_palitra_ends(
    printed_by: Callable[..., list[str]], executor: str
) -> None:
    # As a worker of a server does that no request has reached.
    assert printed_by(
        BARE_FORK,
        f"""
        executor = {executor}
        executor.run(double(1))
        executor.submit(len, ()).result()
        waiting = asyncio.Event()
        in_flight = executor.submit(waiting.wait)
        if not (pid := fork_without_hooks()):
            sys.exit(3)
        say(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        executor.get_loop().call_soon_threadsafe(waiting.set)
        say(executor.run(double(1)), in_flight.result())
        """,
    ) == ["3", "2 True"]


def test_contexts_are_left_by_the_process_that_entered_them(
    printed_by: Callable[..., list[str]],
) -> None:
    assert printed_by(
        BARE_FORK,
        """
        import contextlib

        @contextlib.asynccontextmanager
        async def opened(name):
            yield
            say(name, os.getpid() == parent)

        def child():
            palitra.enter_context(opened("the child's"))
            palitra.shutdown()

        parent = os.getpid()
        palitra.enter_context(opened("the parent's"))
        say(bare_fork(child))
        """,
    ) == ["the child's False", "7", "the parent's True"]


@pytest.mark.parametrize("call", ["submit", "run", "gather", "a callable"])
def test_a_child_that_a_call_forks_ends_with_its_thread(
    printed_by: Callable[..., list[str]], call: str
) -> None:
    """Though it makes no call, and waits for none."""
    assert printed_by(
        BARE_FORK,
        f"""
        async def fork_on_loop():
            return fork_without_hooks()

        executor = palitra.AsyncLoopExecutor()
        executor.submit(int).result()
        if "{call}" == "run":
            pid = executor.run(fork_on_loop())
        elif "{call}" == "gather":
            [pid] = executor.gather(fork_on_loop())
        else:
            job = fork_on_loop if "{call}" == "submit" else fork_without_hooks
            pid = executor.submit(job).result()
        say(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), executor.run(double(1)))
        """,
    ) == ["0 2"]
