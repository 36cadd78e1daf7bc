"""The end of a program in order: contexts with threads, clean-ups that use threads, late calls."""

from __future__ import annotations

import sys
from textwrap import dedent, indent
from typing import TYPE_CHECKING

import pytest

from interpreters import NO_THREADS_OR_FORKS_IN_EXIT

if TYPE_CHECKING:
    from collections.abc import Callable

    from interpreters import Python

CONNECTION = """
import contextlib, queue


class Connection:
    # All its work is done by one thread that nobody said is a daemon, until it is closed.

    def __init__(self):
        self.jobs = queue.SimpleQueue()
        self.thread = threading.Thread(target=self.work)
        self.thread.start()

    def work(self):
        while (job := self.jobs.get()) is not None:
            fn, loop, future = job
            loop.call_soon_threadsafe(future.set_result, fn())

    async def do(self, fn):
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self.jobs.put((fn, loop, future))
        return await future

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        say(await self.do(lambda: "last words"))
        await self.close()

    async def close(self):
        self.jobs.put(None)
        say("closed")


@contextlib.asynccontextmanager
async def connect():
    async with Connection() as connection:
        yield connection
"""

# How a connection comes to belong to an executor.
OPENED = {
    "made on the main thread": "connection = {executor}.enter_context(Connection())",
    "made on the loop": "connection = {executor}.enter_context(Connection)",
    "by a generator": "connection = {executor}.enter_context(connect)",
    "made by a coroutine": """
        async def make():
            return Connection()
        connection = {executor}.run(make())
        {executor}.enter_context(connection)
    """,
    "closed by a callback": """
        connection = Connection()
        {executor}.push_async_callback(connection.__aexit__, None, None, None)
    """,
    "left open by sync_context": """
        left_open = {executor}.sync_context(connect())
        connection = left_open.__enter__()
    """,
}
EXECUTORS = {"default": "palitra", "explicit": "executor"}
each_executor = pytest.mark.parametrize("executor", EXECUTORS.values(), ids=EXECUTORS)


@pytest.fixture
def mode() -> tuple[str, ...]:
    """The development mode differs in what it reports, which is nothing here."""
    return ("-X", "dev", "-W", "ignore:This process:DeprecationWarning")


class TestContextsWithThreads:
    @each_executor
    @pytest.mark.parametrize("how", OPENED)
    def test_are_left_although_their_thread_is_no_daemon(
        self, printed_by: Callable[..., list[str]], how: str, executor: str
    ) -> None:
        opened = OPENED[how].format(executor=executor)
        assert printed_by(
            "executor = palitra.AsyncLoopExecutor()",
            CONNECTION,
            opened,
            f"say({executor}.run(connection.do(lambda: 6 * 7)))",
        ) == ["42", "last words", "closed"]

    def test_are_left_last_in_first_out(self, printed_by: Callable[..., list[str]]) -> None:
        assert printed_by(
            CONNECTION,
            """
            @contextlib.asynccontextmanager
            async def user(connection):
                yield
                say(await connection.do(lambda: "before"))

            connection = palitra.enter_context(Connection)
            palitra.enter_context(user(connection))
            """,
        ) == ["before", "last words", "closed"]

    def test_calls_in_flight_still_use_them(self, printed_by: Callable[..., list[str]]) -> None:
        assert printed_by(
            CONNECTION,
            """
            async def call():
                await main_thread_ended()
                say(await connection.do(lambda: "in flight"))

            connection = palitra.enter_context(Connection)
            palitra.get_executor().submit(call)
            started.wait()
            """,
        ) == ["in flight", "last words", "closed"]

    def test_services_use_them_in_their_clean_up(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        assert printed_by(
            CONNECTION,
            """
            begun = threading.Event()

            async def service():
                try:
                    begun.set()
                    await asyncio.Event().wait()
                finally:
                    say(await connection.do(lambda: "service"))

            connection = palitra.enter_context(Connection)
            palitra.get_executor().submit_service(service)
            begun.wait()
            """,
        ) == ["service", "last words", "closed"]

    def test_two_executors_have_one_each(self, printed_by: Callable[..., list[str]]) -> None:
        lines = printed_by(
            CONNECTION,
            """
            executor = palitra.AsyncLoopExecutor()
            connections = executor.enter_context(Connection), palitra.enter_context(Connection())
            """,
        )
        assert sorted(lines) == ["closed", "closed", "last words", "last words"]

    def test_a_thread_that_uses_palitra_is_served_beside_them(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        """It has used palitra before the end, so contexts wait for it."""
        lines = printed_by(
            CONNECTION,
            """
            def work():
                for number in range(5):
                    assert palitra.run(double(number)) == 2 * number
                    used.set()
                    time.sleep(0.05)
                say(palitra.run(connection.do(lambda: "served")))

            used = threading.Event()
            connection = palitra.enter_context(Connection)
            threading.Thread(target=work).start()
            used.wait()
            """,
        )
        assert lines == ["served", "last words", "closed"]


# Clean-ups that need threads, which some interpreters no longer start by then

NEEDS = {
    "to_thread": "say(await asyncio.to_thread(str, 'signed off'))",
    "getaddrinfo": """
        await asyncio.get_running_loop().getaddrinfo('localhost', 80)
        say('signed off')
    """,
    "run_in_executor": """
        loop = asyncio.get_running_loop()
        say(await loop.run_in_executor(None, str, 'signed off'))
    """,
    "several at once": """
        await asyncio.gather(*(asyncio.to_thread(time.sleep, 0.01) for _ in range(5)))
        say('signed off')
    """,
}
PLACES = {
    "a context": """
        @contextlib.asynccontextmanager
        async def client():
            yield
            await sign_off()

        palitra_or_executor.enter_context(client)
    """,
    "a callback": "palitra_or_executor.push_async_callback(sign_off)",
    "a context that is left open": """
        @contextlib.asynccontextmanager
        async def client():
            try:
                yield
            finally:
                await sign_off()

        left_open = palitra_or_executor.sync_context(client())
        left_open.__enter__()
    """,
    "a stray task": """
        async def stray():
            try:
                await asyncio.Event().wait()
            finally:
                await sign_off()

        async def begin():
            global task
            task = asyncio.create_task(stray())
            await asyncio.sleep(0)

        palitra_or_executor.run(begin())
    """,
    "an async generator": """
        async def numbers():
            try:
                yield 1
            finally:
                await sign_off()

        async def begin():
            global iterator
            iterator = numbers()
            await anext(iterator)

        palitra_or_executor.run(begin())
    """,
}


class TestCleanUpsThatUseThreads:
    @pytest.mark.parametrize("need", NEEDS)
    @pytest.mark.parametrize("place", PLACES)
    @each_executor
    def test_are_carried_out(
        self, printed_by: Callable[..., list[str]], place: str, need: str, executor: str
    ) -> None:
        """On each Python, although nobody has used a thread before."""
        assert printed_by(self.program(place, need, executor)) == ["signed off"]

    @pytest.mark.parametrize("place", PLACES)
    @each_executor
    def test_are_carried_out_where_threads_have_been_used(
        self, printed_by: Callable[..., list[str]], place: str, executor: str
    ) -> None:
        assert printed_by(
            self.program(place, "to_thread", executor),
            "assert palitra_or_executor.run(asyncio.to_thread(int)) == 0",
        ) == ["signed off"]

    @pytest.mark.parametrize("need", NEEDS)
    def test_of_two_executors_are_carried_out(
        self, printed_by: Callable[..., list[str]], need: str
    ) -> None:
        assert (
            printed_by(
                self.program("a callback", need, "palitra"),
                "executor.push_async_callback(sign_off)",
            )
            == ["signed off"] * 2
        )

    @pytest.mark.parametrize("place", PLACES)
    def test_are_carried_out_by_an_explicit_shutdown(
        self, printed_by: Callable[..., list[str]], place: str
    ) -> None:
        assert printed_by(
            self.program(place, "to_thread", "executor"), "executor.shutdown(); say('shut down')"
        ) == ["signed off", "shut down"]

    def test_are_carried_out_beside_a_thread_that_is_no_daemon(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        assert printed_by(
            self.program("a context", "to_thread", "palitra"),
            """
            threading.Thread(target=time.sleep, args=[0.3]).start()
            """,
        ) == ["signed off"]

    @staticmethod
    def program(place: str, need: str, executor: str) -> str:
        return "\n".join(
            [
                "import contextlib",
                "executor = palitra.AsyncLoopExecutor()",
                f"palitra_or_executor = {executor}",
                "async def sign_off():",
                indent(dedent(NEEDS[need]), "    "),
                dedent(PLACES[place]),
            ]
        )


# Threads that calls start

BEGINNERS = {
    "a callable": "executor.submit(begin).result()",
    "a coroutine": "executor.run(begin_on_the_loop())",
    "an awaitable of a callable": "executor.submit(begin_on_the_loop.__call__).result()",
    "to_thread": "executor.run(asyncio.to_thread(begin))",
    "a callback of a coroutine": """
        executor.submit(double, 1).add_done_callback(lambda future: begin())
        executor.run(double(1))
    """,
    "a callback of a callable": """
        gate = threading.Event()
        future = executor.submit(gate.wait)
        future.add_done_callback(lambda future: begin())
        gate.set()
        assert begun.wait(10)
    """,
    "an initializer": """
        palitra.AsyncLoopExecutor(initializer=begin).run(double(1))
    """,
    "a context": """
        class Context:
            async def __aenter__(self):
                begin()

            async def __aexit__(self, *_): pass

        executor.enter_context(Context)
    """,
    "an iterator": """
        async def items():
            begin()
            yield 1

        assert list(executor.sync_iter(items)) == [1]
    """,
    "a loop factory": """
        def make():
            begin()
            return asyncio.new_event_loop()

        palitra.AsyncLoopExecutor(loop_factory=make).run(double(1))
    """,
}


class TestThreadsThatCallsStart:
    @pytest.mark.parametrize("how", BEGINNERS)
    def test_are_no_daemons_and_are_waited_for(
        self, printed_by: Callable[..., list[str]], how: str
    ) -> None:
        assert printed_by(
            """
            def write():
                threading.main_thread().join()
                time.sleep(0.2)
                say("written")

            begun = threading.Event()

            def begin():
                if not begun.is_set():
                    thread = threading.Thread(target=write)
                    say(thread.daemon)
                    thread.start()
                    begun.set()

            async def begin_on_the_loop():
                begin()

            executor = palitra.AsyncLoopExecutor()
            """,
            BEGINNERS[how],
        ) == ["False", "written"]

    def test_a_daemon_stays_one(self, printed_by: Callable[..., list[str]]) -> None:
        assert printed_by("""
            def begin():
                thread = threading.Thread(target=threading.Event().wait, daemon=True)
                thread.start()
                return thread.daemon

            say(palitra.get_executor().submit(begin).result())
        """) == ["True"]

    def test_palitras_own_say_that_they_are_daemons(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        """So that nobody who joins all other threads waits for them."""
        assert printed_by("""
            palitra.get_executor().submit(int).result()
            palitra.run(double(1))
            own = set(threading.enumerate()) - {threading.main_thread()}
            say(len(own) > 1, {thread.daemon for thread in own})
        """) == ["True {True}"]


# Other modules' own ends


class TestOtherModules:
    @pytest.mark.parametrize("imported", ["before", "after"])
    def test_a_process_pool_takes_work_from_a_call_in_flight(
        self, printed_by: Callable[..., list[str]], imported: str
    ) -> None:
        first = "import concurrent.futures.process" if imported == "before" else ""
        assert printed_by(f"""
            {first}

            async def call():
                await main_thread_ended()
                loop = asyncio.get_running_loop()
                say(await loop.run_in_executor(pool, abs, -3))

            if __name__ == "__main__":
                palitra.run(double(1))
                import concurrent.futures.process, multiprocessing
                context = multiprocessing.get_context("spawn")
                pool = concurrent.futures.ProcessPoolExecutor(1, mp_context=context)
                assert pool.submit(abs, -1).result() == 1
                palitra.get_executor().submit(call)
                started.wait()
        """) == ["3"]

    @pytest.mark.parametrize("imported", ["before", "after"])
    def test_a_thread_pool_takes_work_from_a_call_in_flight(
        self, printed_by: Callable[..., list[str]], imported: str
    ) -> None:
        assert printed_by(f"""
            if "{imported}" == "before":
                import concurrent.futures.thread
            palitra.run(double(1))
            from concurrent.futures import ThreadPoolExecutor

            async def call():
                await main_thread_ended()
                loop = asyncio.get_running_loop()
                say(await loop.run_in_executor(pool, str, "a pool's thread"))

            pool = ThreadPoolExecutor(1)
            assert pool.submit(int).result() == 0
            palitra.get_executor().submit(call)
            started.wait()
        """) == ["a pool's thread"]

    @pytest.mark.parametrize("imported", ["before", "after"])
    def test_the_order_of_imports_does_not_matter_to_a_clean_up(
        self, python: Python, imported: str
    ) -> None:
        first = "import concurrent.futures.thread, concurrent.futures.process"
        ended = python.run(
            f"""
            {first if imported == "before" else "pass"}
            import asyncio
            import palitra

            async def sign_off():
                print(await asyncio.to_thread(str, "signed off"))

            async def late():
                await asyncio.sleep(0.1)
                print(await asyncio.to_thread(str, "in flight"))

            palitra.push_async_callback(sign_off)
            {first}
            palitra.get_executor().submit(late)
            """
        )

        assert (ended.stderr, ended.stdout.splitlines()) == ("", ["in flight", "signed off"])

    @pytest.mark.skipif(sys.version_info < (3, 15), reason="imports are lazy from 3.15 on")
    @pytest.mark.parametrize("how", ["process", "thread", "context"])
    def test_lazy_imports_change_nothing(self, python: Python, how: str) -> None:
        work = {
            "process": "await loop.run_in_executor(pool, abs, -3)",
            "thread": "await asyncio.to_thread(abs, -3)",
            "context": "3",
        }[how]
        ended = python.run(
            f"""
            import asyncio
            import concurrent.futures
            import multiprocessing
            import threading
            import palitra

            async def sign_off():
                print(await asyncio.to_thread(str, "signed off"))

            async def call():
                loop = asyncio.get_running_loop()
                await asyncio.sleep(0.2)
                print({work})

            if __name__ == "__main__":
                palitra.push_async_callback(sign_off)
                pool = None
                if "{how}" == "process":
                    spawn = multiprocessing.get_context("spawn")
                    pool = concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn)
                    pool.submit(abs, -1).result()
                palitra.get_executor().submit(call)
            """,
            options=("-X", "lazy_imports=all"),
        )

        assert (ended.stderr, ended.stdout.splitlines()) == ("", ["3", "signed off"])


# atexit handlers, and threads that go on


class TestLateCalls:
    @each_executor
    def test_handlers_registered_after_the_first_use_call_with_contexts_entered(
        self, printed_by: Callable[..., list[str]], executor: str
    ) -> None:
        assert printed_by(f"""
            import contextlib

            @contextlib.asynccontextmanager
            async def opened():
                state.append("open")
                try:
                    yield
                finally:
                    state.append("left")
                    say("left")

            async def look():
                await asyncio.sleep(0)
                return state[-1]

            def late():
                say({executor}.run(look()))
                say(get().submit(look).result())
                say(get().submit(str, "a worker's thread").result())

            state = []
            executor = palitra.AsyncLoopExecutor()
            get = palitra.get_executor if "{executor}" == "palitra" else lambda: executor
            {executor}.enter_context(opened)
            get().submit(int).result()
            atexit.register(late)
        """) == ["open", "open", "a worker's thread", "left"]

    def test_handlers_registered_after_the_first_use_may_enter_contexts(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        assert printed_by("""
            import contextlib

            @contextlib.asynccontextmanager
            async def opened():
                say("entered")
                yield
                say("left")

            palitra.run(double(1))
            atexit.register(lambda: palitra.enter_context(opened))
        """) == ["entered", "left"]

    @each_executor
    def test_threads_that_have_used_palitra_are_served_as_long_as_they_live(
        self, printed_by: Callable[..., list[str]], executor: str
    ) -> None:
        assert printed_by(f"""
            import contextlib

            @contextlib.asynccontextmanager
            async def opened():
                try:
                    yield
                finally:
                    say("left")

            def work():
                assert {executor}.run(double(1)) == 2
                used.set()
                threading.main_thread().join()
                for number in range(20):
                    assert {executor}.run(double(number)) == 2 * number
                    time.sleep(0.01)
                say({executor}.run(double(4)))

            used = threading.Event()
            executor = palitra.AsyncLoopExecutor()
            {executor}.enter_context(opened)
            threading.Thread(target=work).start()
            used.wait()
        """) == ["8", "left"]

    @pytest.mark.parametrize("waits_for", ["context", "callback"])
    def test_a_thread_that_has_never_used_palitra_may_wait_for_a_context_to_be_left(
        self, printed_by: Callable[..., list[str]], waits_for: str
    ) -> None:
        entered = {
            "context": "palitra.enter_context(opened)",
            "callback": "palitra.push_async_callback(close)",
        }[waits_for]
        assert printed_by(f"""
            import contextlib

            async def close():
                closed.set()

            @contextlib.asynccontextmanager
            async def opened():
                try:
                    yield
                finally:
                    await close()

            closed = threading.Event()
            {entered}
            threading.Thread(target=lambda: (closed.wait(), say("told"))).start()
        """) == ["told"]

    @pytest.mark.skipif(
        NO_THREADS_OR_FORKS_IN_EXIT, reason="the interpreter refuses to start the thread"
    )
    def test_a_thread_that_a_used_thread_starts_ends_before_contexts_are_left(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        """Whichever comes first, all three lines are there, and nothing hangs."""
        lines = printed_by("""
            async def close():
                say("left")

            def child():
                time.sleep(0.1)
                say("child")

            def work():
                palitra.run(double(1))
                used.set()
                threading.main_thread().join()
                threading.Thread(target=child).start()
                say(palitra.run(double(2)))

            used = threading.Event()
            palitra.push_async_callback(close)
            threading.Thread(target=work).start()
            used.wait()
        """)
        assert sorted(lines) == ["4", "child", "left"]
        assert lines.index("4") < lines.index("left")


HELD = {
    "a task": """
        async def hold():
            async with Connection():
                opened.set()
                await asyncio.Event().wait()

        async def main():
            global held
            held = asyncio.create_task(hold())
            await opened.wait()
    """,
    "an async generator": """
        async def connections():
            async with Connection() as connection:
                yield connection

        async def main():
            global held
            held = connections()
            await anext(held)
    """,
}


@pytest.mark.parametrize("main", HELD.values(), ids=HELD)
def test_a_connection_that_a_stray_holds_is_closed(
    printed_by: Callable[..., list[str]], main: str
) -> None:
    assert printed_by(CONNECTION, "opened = asyncio.Event()", main, "palitra.run(main())") == [
        "last words",
        "closed",
    ]


def test_a_stray_that_is_ended_before_the_loop_is_not_cancelled_a_second_time(
    printed_by: Callable[..., list[str]],
) -> None:
    assert printed_by("""
        async def stray():
            try:
                await asyncio.sleep(60)
            finally:
                try:
                    await asyncio.sleep(1.5)  # longer than the second that strays have
                    say("saved")
                except asyncio.CancelledError:
                    say("cancelled again")

        async def begin():
            palitra.task = asyncio.create_task(stray())
            await asyncio.sleep(0)

        palitra.run(begin())
        threading.Thread(target=time.sleep, args=(0.1,)).start()  # which has never used palitra
    """) == ["saved"]


TRANSACTION = """
import contextlib


@contextlib.asynccontextmanager
async def transaction():
    try:
        yield
    except BaseException as error:
        say("rolled back:", type(error).__name__)
        raise
    else:
        say("committed")


def rows():
    with palitra.sync_context(transaction):
        yield 1
"""
# What decides when the exit leaves the contexts.
EXITS = {
    "at the end": "",
    # It has made no call, so it may be waiting for just that.
    "beside a thread": "threading.Thread(target=left.wait).start()",
}


@pytest.mark.parametrize("exits", EXITS.values(), ids=EXITS)
class TestBlocksThatNobodyFinishes:
    def test_are_left_with_generator_exit(
        self, printed_by: Callable[..., list[str]], exits: str
    ) -> None:
        """The program has failed half way, and what it has done is not to be kept."""
        assert printed_by(
            TRANSACTION,
            """
            left = threading.Event()

            @contextlib.asynccontextmanager
            async def tells():
                try:
                    yield
                finally:
                    left.set()

            outer = palitra.sync_context(tells)
            outer.__enter__()
            """,
            exits,
            """
            generator = rows()
            next(generator)
            sys.exit(3)
            """,
            exit_code=3,
        ) == ["rolled back: GeneratorExit"]

    def test_a_task_group_in_one_ends_its_children_and_reports_nothing(
        self, printed_by: Callable[..., list[str]], exits: str
    ) -> None:
        assert printed_by(
            """
            import contextlib

            left = threading.Event()

            async def child():
                try:
                    await asyncio.Event().wait()
                finally:
                    say("ended")
                    left.set()

            @contextlib.asynccontextmanager
            async def group():
                async with asyncio.TaskGroup() as group:
                    group.create_task(child())
                    yield

            block = palitra.sync_context(group)
            block.__enter__()
            palitra.run(asyncio.sleep(0))
            """,
            exits,
        ) == ["ended"]

    def test_what_was_entered_for_good_is_left_as_before(
        self, printed_by: Callable[..., list[str]], exits: str
    ) -> None:
        assert printed_by(
            TRANSACTION,
            """
            left = threading.Event()
            palitra.push_async_callback(asyncio.to_thread, left.set)
            """,
            exits,
            """
            palitra.enter_context(transaction)
            palitra.cached_context(transaction)()
            """,
        ) == ["committed", "committed"]


def test_a_block_that_an_exit_handler_ends_has_succeeded(
    printed_by: Callable[..., list[str]],
) -> None:
    assert printed_by(
        TRANSACTION,
        """
        stack = contextlib.ExitStack()
        stack.enter_context(palitra.sync_context(transaction))
        atexit.register(stack.close)
        """,
    ) == ["committed"]


def test_a_shutdown_leaves_a_block_as_its_end_would(printed_by: Callable[..., list[str]]) -> None:
    assert printed_by(
        TRANSACTION,
        """
        generator = rows()
        next(generator)
        palitra.shutdown()
        """,
    ) == ["committed"]


HOLDERS = {
    "sync_context": """
        def items():
            with palitra.sync_context(context) as source:
                yield source
    """,
    "sync_iter": """
        def items():
            with palitra.sync_iter(numbers) as source:
                yield from source
    """,
    "sync_iter with a buffer": """
        def items():
            with palitra.sync_iter(numbers, buffersize=2) as source:
                yield from source
    """,
    "closing": """
        def items():
            with contextlib.closing(palitra.sync_iter(numbers)) as source:
                for number in source:
                    yield number
    """,
}


@pytest.mark.parametrize("holder", HOLDERS.values(), ids=HOLDERS)
def test_a_generator_that_the_interpreter_finalizes_last_has_nothing_left_to_close(
    printed_by: Callable[..., list[str]], holder: str
) -> None:
    """Free-threaded builds may finalize it when palitra's modules are already empty."""
    assert printed_by(
        """
        import contextlib

        async def numbers():
            try:
                while True:
                    yield 1
            finally:
                say("closed")

        context = contextlib.asynccontextmanager(numbers)
        """,
        holder,
        """
        generator = items()
        say(next(generator))
        """,
    ) == ["1", "closed"]
