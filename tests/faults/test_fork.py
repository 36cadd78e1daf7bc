"""A forked child starts afresh, and its parent does not notice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from interpreters import NO_THREADS_OR_FORKS_IN_EXIT
from lifetimes import FREE_THREADED

if TYPE_CHECKING:
    from collections.abc import Callable

    from interpreters import Child

each_executor = pytest.mark.parametrize(
    "executor",
    ["palitra.get_executor()", "palitra.AsyncLoopExecutor(thread_name_prefix='explicit')"],
    ids=["default", "explicit"],
)
each_leave = pytest.mark.parametrize("leave", ["sys.exit", "os._exit"])


class TestFork:
    @each_leave
    @each_executor
    def test_parent_and_child_both_go_on(
        self, printed_by: Callable[..., list[str]], executor: str, leave: str
    ) -> None:
        assert printed_by(f"""
            def child():
                use(executor)
                say(executor.get_loop() is loop)
                palitra.run(double(1))
                palitra.AsyncLoopExecutor().run(double(1))

            executor = {executor}
            use(executor)
            loop = executor.get_loop()
            threads = set(threading.enumerate())
            say(fork(child, {leave}))
            use(executor)
            say(executor.get_loop() is loop, threads <= set(threading.enumerate()))
        """) == ["False", "7", "True True"]

    @each_executor
    def test_an_executor_not_used_before_works_in_both(
        self, printed_by: Callable[..., list[str]], executor: str
    ) -> None:
        assert printed_by(f"""
            executor = {executor}
            say(fork(lambda: use(executor)))
            use(executor)
        """) == ["7"]

    @each_leave
    @each_executor
    def test_a_child_may_leave_without_using_palitra(
        self, printed_by: Callable[..., list[str]], executor: str, leave: str
    ) -> None:
        assert printed_by(f"""
            executor = {executor}
            use(executor)
            say(fork(lambda: None, {leave}))
            use(executor)
        """) == ["7"]

    @each_executor
    def test_many_generations(self, printed_by: Callable[..., list[str]], executor: str) -> None:
        assert printed_by(f"""
            def generation(number):
                use(executor)
                if number:
                    assert fork(lambda: generation(number - 1)) == 7
                    use(executor)
                say(number)

            executor = {executor}
            generation(4)
        """) == ["0", "1", "2", "3", "4"]

    def test_an_executor_that_was_shut_down_stays_so(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        assert printed_by("""
            def child():
                executor.shutdown()
                try:
                    executor.submit(double, 1)
                except RuntimeError as error:
                    say(error)

            executor = palitra.AsyncLoopExecutor()
            executor.run(double(1))
            executor.shutdown()
            say(fork(child))
        """) == ["cannot schedule new futures after shutdown", "7"]

    def test_a_child_may_leave_the_parents_with_block(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        assert printed_by("""
            with palitra.AsyncLoopExecutor() as executor:
                assert executor.run(double(1)) == 2
                say(fork(lambda: None))
                say(fork(lambda: executor.run(double(1))))
                say(fork(lambda: executor.shutdown()))
                say(executor.run(double(2)))
        """) == ["7", "7", "7", "4"]

    def test_a_child_may_drop_the_parents_executor(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        assert printed_by("""
            import gc

            def child():
                global executor
                del executor
                gc.collect()

            executor = palitra.AsyncLoopExecutor()
            executor.submit(str).result()
            say(fork(child))
            gc.collect()
            say(executor.run(double(2)), executor.submit(str, 5).result())
        """) == ["7", "4 5"]

    def test_the_parents_loop_goes_on_watching_its_sockets(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        assert printed_by("""
            async def echo(reader, writer):
                while line := await reader.readline():
                    writer.write(line)
                writer.close()

            async def serve():
                global reader, writer, server
                server = await asyncio.start_server(echo, "127.0.0.1", 0)
                port = server.sockets[0].getsockname()[1]
                reader, writer = await asyncio.open_connection("127.0.0.1", port)

            async def ask(line):
                writer.write(line + b"\\n")
                return (await reader.readline()).decode().strip()

            async def stop():
                writer.close()
                await writer.wait_closed()
                server.close()
                await server.wait_closed()

            palitra.run(serve())
            say(palitra.run(ask(b"before")))
            # The streams are still open in the child, and asyncio fails to close them at a regular
            # end on free-threaded builds, without palitra too.
            say(fork(lambda: palitra.run(double(1)), os._exit))
            say(palitra.run(ask(b"after")))
            palitra.run(stop())
        """) == ["before", "7", "after"]

    def test_contexts_are_left_by_the_process_that_entered_them(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        assert printed_by("""
            from contextlib import asynccontextmanager

            @asynccontextmanager
            async def pool(name):
                owner = os.getpid()
                yield
                await asyncio.sleep(0)
                say(name, os.getpid() == owner)

            def child():
                executor.enter_context(pool("child"))
                executor.shutdown()

            def another_child():
                palitra.enter_context(pool("another child"))

            executor = palitra.AsyncLoopExecutor()
            executor.enter_context(pool("parent"))
            palitra.enter_context(pool("parent's default"))
            say(fork(child))
            say(fork(another_child))
            executor.shutdown()
        """) == [
            "child True",
            "7",
            "another child True",
            "7",
            "parent True",
            "parent's default True",
        ]

    def test_calls_in_flight_in_the_child_finish_before_it_ends(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        assert printed_by("""
            def child():
                executor.submit(call)
                started.wait()

            async def call():
                await main_thread_ended()
                say("finished")

            executor = palitra.AsyncLoopExecutor()
            executor.run(double(1))
            palitra.run(double(1))
            say(fork(child))
        """) == ["finished", "7"]

    def test_atexit_handlers_in_the_child_may_call(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        assert printed_by("""
            parent = os.getpid()

            def handler():
                if os.getpid() != parent:
                    say(palitra.run(double(2)))

            def child():
                palitra.run(double(1))
                atexit.register(handler)

            palitra.run(double(1))
            say(fork(child))
        """) == ["4", "7"]

    def test_atexit_handlers_of_the_parents_may_call_in_the_child_that_called(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        assert printed_by("""
            parent = os.getpid()

            def handler():
                if os.getpid() != parent:
                    say(palitra.run(double(2)))

            palitra.run(double(1))
            atexit.register(handler)
            say(fork(lambda: palitra.run(double(1))))
        """) == ["4", "7"]

    def test_ctrl_c_that_comes_with_it_leaves_a_child_that_can_call(
        self, start: Callable[..., Child]
    ) -> None:
        child = start("""
            import _thread

            # A hook before palitra's own: the interruption comes as that begins.
            os.register_at_fork(after_in_child=_thread.interrupt_main)
            executor = palitra.AsyncLoopExecutor()
            call = executor.submit(asyncio.sleep, 3600)
            use(executor)
            use(palitra.get_executor())

            def child():
                use(executor)
                use(palitra.get_executor())
                say(type(call.exception(1)).__name__)

            say(fork(child))
            call.cancel()
        """)
        ended = child.finish()

        assert (ended.stdout.splitlines(), ended.returncode) == (["BrokenExecutor", "7"], 0)
        # The interpreter's words: it prints what it cannot raise.
        assert ended.stderr.count("KeyboardInterrupt") == 1

    def test_in_a_signal_handler_lets_both_go_on_from_a_shutdown(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        assert printed_by("""
            def handler(number, frame):
                global pid
                pid = os.fork()
                release.set()

            async def call():
                loop = asyncio.get_running_loop()
                loop.call_later(0.05, os.kill, os.getpid(), signal.SIGUSR1)
                await release.waited_for()

            pid = None
            release = AsyncEvent()
            signal.signal(signal.SIGUSR1, handler)
            executor = palitra.AsyncLoopExecutor()
            executor.submit(str).result()
            executor.submit(call)
            executor.shutdown()
            if pid:
                say(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                say("parent")
            else:
                say("child")
        """) == ["child", "0", "parent"]

    @pytest.mark.parametrize(
        "end",
        [
            "shutdown",
            pytest.param(
                "exit",
                marks=pytest.mark.skipif(
                    NO_THREADS_OR_FORKS_IN_EXIT, reason="the interpreter refuses to fork"
                ),
            ),
        ],
    )
    def test_in_a_signal_handler_between_two_steps_of_a_wait_lets_both_go_on(
        self, printed_by: Callable[..., list[str]], end: str
    ) -> None:
        assert sorted(
            printed_by(f"""
            from contextlib import asynccontextmanager
            from palitra import _waiting

            def wait_for(lock, timeout):
                # A wait for the end goes on in steps. A signal comes after the first of them.
                global pid
                passed = wait(lock, timeout)
                if not passed and pid is None and shutting:
                    pid = os.fork()
                    release.set()
                return passed

            async def call():
                await release.waited_for()

            @asynccontextmanager
            async def context():
                yield
                await call()

            def say_which():
                if pid:
                    say(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                say("parent" if pid else "child")

            pid = None
            shutting = False
            release = AsyncEvent()
            wait, _waiting.wait_for = _waiting.wait_for, wait_for
            executor = palitra.AsyncLoopExecutor()
            if {end!r} == "shutdown":
                executor.submit(str).result()
                executor.submit(call)
                shutting = True
                executor.shutdown()
                say_which()
            else:
                # A thread that the exit waits for ends when the context has been left.
                executor.enter_context(context())
                atexit.register(say_which)
                threading.Thread(target=lambda: pid == 0 or release.wait()).start()
                shutting = True
        """)
        ) == ["0", "child", "parent"]


class TestTheParentsContexts:
    @pytest.mark.parametrize("leave", ["sys.exit", "os._exit"])
    def test_are_left_by_the_parent_alone(
        self, printed_by: Callable[..., list[str]], leave: str
    ) -> None:
        """A child that leaves the block leaves nothing, and its own exception goes on."""
        assert printed_by(f"""
            import contextlib

            @contextlib.asynccontextmanager
            async def context():
                yield
                say("left")

            def leave_block(context):
                with context as items:
                    if items is not None:
                        next(items)
                    pid = os.fork()
                    if not pid:
                        if {leave == "os._exit"}:
                            return os._exit
                        sys.exit(7)
                return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

            executor = palitra.AsyncLoopExecutor()
            for block in executor.sync_context(context()), executor.sync_iter(count(9)):
                code = leave_block(block)
                if code is os._exit:
                    use(executor)
                    os._exit(7)
                say(code)
            items = executor.sync_iter(count(9))
            next(items)
            say(fork(items.close, {leave}))
            say(next(items))
        """) == ["left", "7", "7", "7", "1"]


class TestTheParentsCalls:
    def test_fail_in_the_child_and_finish_in_the_parent(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        assert printed_by("""
            from concurrent.futures import BrokenExecutor, as_completed, wait

            release = AsyncEvent()
            running = threading.Event()

            async def coroutine():
                started.set()
                await release.waited_for()
                return "coroutine"

            async def waiting_coroutine():
                return "waiting coroutine"

            def plain():
                running.set()
                release.wait()
                return "callable"

            def waiting_plain():
                return "waiting callable"

            async def wrapped_for(call):
                return await asyncio.wrap_future(call)

            def child():
                for call in calls:
                    say(call.done(), call.running(), call.cancelled(), call.cancel())
                    assert type(call.exception()) is BrokenExecutor
                    try:
                        call.result()
                    except BrokenExecutor:
                        pass
                assert set(as_completed(calls)) == set(calls) == wait(calls).done
                assert not called_back
                heard = []
                for call in calls:
                    call.add_done_callback(heard.append)
                assert heard == calls
                for wrapped in map(wrapped_for, calls):
                    try:
                        asyncio.run(wrapped)
                    except BrokenExecutor:
                        pass
                assert executor.gather(*calls, return_exceptions=True) == [
                    call.exception() for call in calls
                ]
                say(finished.result())
                use(executor)

            executor = palitra.AsyncLoopExecutor(max_workers=1)
            finished = executor.submit(double, 4)
            finished.result()
            calls = [
                executor.submit(fn) for fn in (coroutine, waiting_coroutine, plain, waiting_plain)
            ]
            parent = os.getpid()
            for call in calls:
                call.add_done_callback(lambda _: called_back.append(os.getpid() == parent))
            called_back = []
            started.wait()
            running.wait()
            say(fork(child))
            say(*(call.done() for call in calls))
            release.set()
            executor.shutdown()
            say("called back", *called_back)
            for call in calls:
                say(call.result())
        """) == [
            *["True False False False"] * 4,
            "8",
            "7",
            "False False False False",
            "called back True True True True",
            "coroutine",
            "waiting coroutine",
            "callable",
            "waiting callable",
        ]

    @pytest.mark.parametrize("settled", [False, True])
    def test_end_in_the_child_where_somebody_holds_their_lock(
        self, printed_by: Callable[..., list[str]], settled: bool
    ) -> None:
        assert printed_by(f"""
            held, announced, release = [threading.Event() for _ in range(3)]
            watched = AsyncEvent()

            def hold():
                with future._condition:
                    held.set()
                    release.wait()

            def announce(future):
                # Among the calls until it has called back.
                announced.set()
                release.wait()

            def child():
                say(type(future.exception(1)).__name__, future.done())

            async def call():
                await watched.waited_for()

            executor = palitra.AsyncLoopExecutor()
            future = executor.submit(call)
            if {settled}:
                future.add_done_callback(announce)
                watched.set()
                announced.wait()
            threading.Thread(target=hold).start()
            held.wait()
            say(fork(child, os._exit))
            release.set()
            future.cancel()
        """) == ["NoneType True" if settled else "BrokenExecutor True", "7"]

    def test_a_cancelled_call_stays_cancelled(self, printed_by: Callable[..., list[str]]) -> None:
        assert printed_by("""
            executor = palitra.AsyncLoopExecutor(max_workers=1)
            first = executor.submit(asyncio.sleep, 3600)
            second = executor.submit(double, 1)
            second.cancel()
            say(fork(lambda: say(second.cancelled(), type(first.exception()).__name__)))
            first.cancel()
        """) == ["True BrokenExecutor", "7"]

    def test_a_run_in_progress_fails_in_the_child_that_its_own_thread_forks(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        # A signal handler runs in the middle of run(), forks, and both processes return to run().
        assert (
            printed_by("""
            from concurrent.futures import BrokenExecutor

            pids = []
            release = AsyncEvent()

            async def call():
                os.kill(os.getpid(), signal.SIGUSR1)
                await release.waited_for()
                return "answer"

            def handler(number, frame):
                pids.append(os.fork())
                release.set()

            signal.signal(signal.SIGUSR1, handler)
            palitra.run(double(1))
            for wait in (
                lambda: palitra.run(call()),
                lambda: palitra.gather(call()),
                lambda: palitra.get_executor().submit(call).result(),
                lambda: palitra.get_executor().run(call(), timeout=3600),
            ):
                release.clear()
                try:
                    answer = wait()
                except BrokenExecutor as error:
                    assert pids[-1] == 0
                    say("child", palitra.run(double(2)))
                    sys.exit(7)
                assert pids[-1] != 0
                assert os.waitstatus_to_exitcode(os.waitpid(pids[-1], 0)[1]) == 7
                say("parent", *(answer if isinstance(answer, list) else [answer]))
        """)
            == ["child 4", "parent answer"] * 4
        )


class TestOtherThreads:
    @pytest.mark.skipif(
        FREE_THREADED, reason="a child may find any object locked by a thread that it does not have"
    )
    @each_leave
    def test_may_be_inside_submit_and_run_and_shutdown(
        self, printed_by: Callable[..., list[str]], leave: str
    ) -> None:
        assert printed_by(f"""
            stop, going = threading.Event(), threading.Event()
            calling = threading.Semaphore(0)

            def repeat(call):
                while not stop.is_set():
                    going.wait()
                    calling.release()
                    call()

            def submit():
                futures = [executor.submit(double, number) for number in range(10)]
                assert [future.result() for future in futures] == list(range(0, 20, 2))
                assert executor.submit(str, 1).result() == "1"

            def run():
                assert palitra.run(double(1)) == 2
                assert executor.run(double(1)) == 2

            def shut_down():
                with palitra.AsyncLoopExecutor() as other:
                    assert other.submit(double, 1).result() == 2

            def child():
                use(executor)
                use(palitra.get_executor())
                with palitra.AsyncLoopExecutor() as other:
                    use(other)

            def fork_among_calls():
                going.set()
                for _ in range(10):
                    calling.acquire()
                return fork(child, {leave})

            # While the child works, the threads pause: they would leave it no processor.
            os.register_at_fork(after_in_parent=going.clear)
            executor = palitra.AsyncLoopExecutor()
            calls = [submit, submit, run, run, shut_down, shut_down]
            threads = [threading.Thread(target=repeat, args=[call], daemon=True) for call in calls]
            for thread in threads:
                thread.start()
            say({{fork_among_calls() for _ in range(20)}})
            stop.set()
            going.set()
            for thread in threads:
                thread.join()
            use(executor)
        """) == ["{7}"]

    def test_may_be_waiting_in_run_and_in_shutdown(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        assert printed_by("""
            from palitra import _waiting

            release = AsyncEvent()
            shutting = threading.Event()
            # A thread that shuts down looks around in steps. Here it is to sleep at the fork.
            step, _waiting._STEP = _waiting._STEP, 3600.0

            async def call():
                started.set()
                await release.waited_for()
                return "answer"

            def shut_down():
                shutting.set()
                closing.shutdown()
                say("shut down")

            def child():
                _waiting._STEP = step
                use(executor)
                closing.shutdown()
                if closed:
                    try:
                        closing.submit(double, 1)
                    except RuntimeError as error:
                        say(error)

            executor = palitra.AsyncLoopExecutor()
            running = threading.Thread(target=lambda: say(executor.run(call())))
            running.start()
            started.wait()
            started.clear()
            closing = palitra.AsyncLoopExecutor()
            call_of_closing = closing.submit(call)
            started.wait()
            closing_thread = threading.Thread(target=shut_down)
            closing_thread.start()
            # Until shutdown has begun, the executor takes calls.
            closed = False
            while not closed:
                try:
                    closing.submit(str)
                    time.sleep(0.01)  # on a busy machine, endless calls would keep it busy
                except RuntimeError:
                    closed = True
            say(fork(child))
            release.set()
            running.join()
            closing_thread.join()
            say(call_of_closing.result())
        """) in (
            [
                "cannot schedule new futures after shutdown",
                "7",
                *order,
                "answer",
            ]
            for order in (["answer", "shut down"], ["shut down", "answer"])
        )

    @pytest.mark.parametrize("stage", ["initializer", "loop_factory"])
    def test_may_be_starting_the_executor(
        self, printed_by: Callable[..., list[str]], stage: str
    ) -> None:
        assert printed_by(f"""
            parent = os.getpid()
            release = threading.Event()

            def initializer():
                if os.getpid() == parent:
                    started.set()
                    release.wait()

            def loop_factory():
                initializer()
                return asyncio.new_event_loop()

            executor = palitra.AsyncLoopExecutor({stage}={stage})
            thread = threading.Thread(target=lambda: say(executor.run(double(2))))
            thread.start()
            started.wait()
            say(fork(lambda: use(executor)))
            release.set()
            thread.join()
            use(executor)
        """) == ["7", "4"]

    def test_may_be_the_first_to_use_palitra(self, printed_by: Callable[..., list[str]]) -> None:
        assert printed_by("""
            def first():
                barrier.wait()
                assert palitra.run(double(2)) == 4
                assert executor.run(double(2)) == 4

            codes = set()
            for _ in range(20):
                palitra.shutdown()
                executor = palitra.AsyncLoopExecutor()
                barrier = threading.Barrier(4)
                threads = [threading.Thread(target=first) for _ in range(3)]
                for thread in threads:
                    thread.start()
                barrier.wait()
                codes.add(fork(lambda: (use(palitra.get_executor()), use(executor))))
                for thread in threads:
                    thread.join()
                executor.shutdown()
            say(codes)
        """) == ["{7}"]

    def test_may_import_what_palitra_needs(self, printed_by: Callable[..., list[str]]) -> None:
        # A child would wait for ever for the other thread to finish that. So no call imports.
        assert printed_by("""
            imported = set(sys.modules)
            use(palitra.get_executor())
            with palitra.AsyncLoopExecutor() as executor:
                use(executor)
            say(set(sys.modules) - imported)
        """) == ["set()"]

    def test_may_be_about_to_renew_the_default(self, printed_by: Callable[..., list[str]]) -> None:
        assert printed_by("""
            from palitra import _default

            held, release = threading.Event(), threading.Event()
            make = _default.AsyncLoopExecutor

            def hold(**options):
                _default.AsyncLoopExecutor = make
                held.set()
                release.wait()
                return make(**options)

            palitra.run(double(1))
            palitra.shutdown()
            _default.AsyncLoopExecutor = hold
            threading.Thread(target=palitra.get_executor).start()
            held.wait()
            say(fork(lambda: use(palitra.get_executor()), os._exit))
            release.set()
        """) == ["7"]

    @pytest.mark.parametrize("first", ["executor", "palitra.get_executor()"])
    def test_may_be_about_to_register_the_hook_for_forks(
        self, printed_by: Callable[..., list[str]], first: str
    ) -> None:
        assert printed_by(f"""
            def child():
                use(palitra.get_executor())
                use(executor)
                say(fork(lambda: (use(palitra.get_executor()), use(executor)), os._exit))

            def forking(**hooks):
                other = threading.Thread(target=lambda: say(fork(child, os._exit)))
                os.register_at_fork = register
                other.start()
                other.join()
                register(**hooks)

            register, os.register_at_fork = os.register_at_fork, forking
            executor = palitra.AsyncLoopExecutor()
            use({first})
            use(executor)
        """) == ["7", "7"]

    def test_may_be_making_asyncios_first_loop(self, printed_by: Callable[..., list[str]]) -> None:
        assert printed_by("""
            def forking():
                # asyncio calls this once in a process, and holds a lock meanwhile.
                setattr(events, name, policy)
                making.set()
                forked.wait()
                return policy()

            def make():
                making.wait()
                say(fork(lambda: use(palitra.get_executor()), os._exit))
                forked.set()

            making, forked = threading.Event(), threading.Event()
            if sys.version_info < (3, 14):
                events, name = asyncio, "DefaultEventLoopPolicy"
            else:
                events, name = asyncio.unix_events, "_DefaultEventLoopPolicy"
            policy = getattr(events, name)
            setattr(events, name, forking)
            threading.Thread(target=make).start()
            use(palitra.get_executor())
        """) == ["7"]


class TestOwnThreads:
    @each_executor
    def test_a_coroutine_may_fork(
        self, printed_by: Callable[..., list[str]], executor: str
    ) -> None:
        assert printed_by(f"""
            def child():
                use(executor)
                use(palitra.AsyncLoopExecutor())

            async def call():
                return fork(child, os._exit)

            executor = {executor}
            say(executor.run(call()))
            use(executor)
        """) == ["7"]

    def test_the_runner_waits_in_a_child_that_a_coroutine_has_forked(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        assert printed_by("""
            def child():
                say(palitra.EventLoopThreadRunner.gather(double(1), double(2)))

            async def call():
                return fork(child, os._exit)

            say(palitra.run(call()))
        """) == ["[2, 4]", "7"]

    @each_executor
    def test_a_worker_thread_may_fork(
        self, printed_by: Callable[..., list[str]], executor: str
    ) -> None:
        assert printed_by(f"""
            def child():
                use(executor)
                use(palitra.AsyncLoopExecutor())

            executor = {executor}
            say(executor.submit(fork, child, os._exit).result())
            use(executor)
        """) == ["7"]

    @pytest.mark.parametrize("leave", ["return", "sys.exit(7)", "raise ValueError"])
    @pytest.mark.parametrize("thread", ["async def", "def"], ids=["loop", "worker"])
    def test_a_child_that_goes_on_there_ends_with_its_thread(
        self, printed_by: Callable[..., list[str]], thread: str, leave: str
    ) -> None:
        # Its only thread is the copy of palitra's, which has nothing left to do.
        assert printed_by(f"""
            {thread} call():
                pid = os.fork()
                if not pid:
                    {leave}
                os.waitpid(pid, 0)
                return "the child has ended"

            executor = palitra.AsyncLoopExecutor()
            say(executor.submit(call).result())
            use(executor)
        """) == ["the child has ended"]

    def test_a_child_that_goes_on_there_runs_none_of_the_parents_calls(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        assert printed_by("""
            def block():
                started.set()
                submitted.wait()

            async def call(number):
                if number == 5:
                    pid = os.fork()
                    if not pid:
                        return
                    os.waitpid(pid, 0)
                say(number)

            submitted = threading.Event()
            executor = palitra.AsyncLoopExecutor()
            executor.get_loop().call_soon_threadsafe(block)
            started.wait()
            futures = [executor.submit(call, number) for number in range(10)]
            submitted.set()
            executor.shutdown()
        """) == [*map(str, range(10))]

    def test_an_initializer_may_fork(self, printed_by: Callable[..., list[str]]) -> None:
        assert printed_by("""
            def initializer():
                if os.getpid() == parent:
                    codes.append(fork(lambda: use(executor), os._exit))

            codes = []
            parent = os.getpid()
            executor = palitra.AsyncLoopExecutor(initializer=initializer)
            executor.run(double(1))
            say(codes)
        """) == ["[7]"]

    def test_a_done_callback_may_fork(self, printed_by: Callable[..., list[str]]) -> None:
        assert printed_by("""
            def callback(call):
                say(fork(lambda: use(executor), os._exit))
                called_back.set()

            called_back = threading.Event()
            executor = palitra.AsyncLoopExecutor()
            executor.submit(double, 1).add_done_callback(callback)
            called_back.wait()
        """) == ["7"]


MULTIPROCESSING = """
    import multiprocessing
    from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
    from contextlib import asynccontextmanager

    executor = palitra.AsyncLoopExecutor()

    @asynccontextmanager
    async def pool():
        yield
        await asyncio.sleep(0)
        say("left")

    @palitra.sync
    async def synced(number):
        return await double(number)

    def task(number):
        assert executor.run(double(number)) == 2 * number
        return palitra.run(double(number))

    def target():
        use(executor)
        use(palitra.get_executor())
        palitra.enter_context(pool())
        executor.submit(late)
        started.wait()

    async def late():
        started.set()
        await asyncio.sleep(0.1)
        say("finished")
"""
each_method = pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])


class TestMultiprocessing:
    @each_method
    def test_a_process_finishes_its_calls_and_leaves_its_contexts(
        self, printed_by: Callable[..., list[str]], method: str
    ) -> None:
        assert printed_by(
            MULTIPROCESSING,
            f"""
            if __name__ == "__main__":
                use(executor)
                use(palitra.get_executor())
                process = multiprocessing.get_context("{method}").Process(target=target)
                process.start()
                process.join()
                say(process.exitcode)
                use(executor)
            """,
        ) == ["finished", "left", "0"]

    @each_method
    def test_a_thread_that_outlives_the_main_thread_is_served(
        self, printed_by: Callable[..., list[str]], method: str
    ) -> None:
        assert printed_by(
            MULTIPROCESSING,
            f"""
            def outlive():
                use(executor)  # a thread that never has is not waited for with contexts entered
                wait_for_main_thread_to_end()
                say(executor.run(double(4)))

            def leave_behind():
                executor.enter_context(pool())
                use(executor)
                threading.Thread(target=outlive).start()
                started.wait()

            if __name__ == "__main__":
                use(executor)
                process = multiprocessing.get_context("{method}").Process(target=leave_behind)
                process.start()
                process.join()
                say(process.exitcode)
            """,
        ) == ["8", "left", "0"]

    @each_method
    def test_a_process_may_leave_by_sys_exit(
        self, printed_by: Callable[..., list[str]], method: str
    ) -> None:
        assert printed_by(
            MULTIPROCESSING,
            f"""
            def leave():
                use(executor)
                sys.exit(7)

            if __name__ == "__main__":
                use(executor)
                process = multiprocessing.get_context("{method}").Process(target=leave)
                process.start()
                process.join()
                say(process.exitcode)
            """,
        ) == ["7"]

    @each_method
    def test_a_pool_may_call(self, printed_by: Callable[..., list[str]], method: str) -> None:
        assert (
            printed_by(
                MULTIPROCESSING,
                f"""
            if __name__ == "__main__":
                assert task(1) == 2
                with multiprocessing.get_context("{method}").Pool(2) as pool:
                    say(*pool.map(task, range(4)))
                    say(*pool.map(synced, range(4)))
                    pool.close()
                    pool.join()
                assert task(1) == 2
            """,
            )
            == ["0 2 4 6"] * 2
        )

    @each_method
    def test_a_process_pool_executor_may_call(
        self, printed_by: Callable[..., list[str]], method: str
    ) -> None:
        assert (
            printed_by(
                MULTIPROCESSING,
                f"""
            if __name__ == "__main__":
                assert task(1) == 2
                context = multiprocessing.get_context("{method}")
                with ProcessPoolExecutor(2, mp_context=context) as pool:
                    say(*pool.map(task, range(4)))
                    say(*pool.map(synced, range(4)))
                assert task(1) == 2
            """,
            )
            == ["0 2 4 6"] * 2
        )

    def test_a_process_pools_workers_leave_their_contexts(
        self, printed_by: Callable[..., list[str]]
    ) -> None:
        assert printed_by(
            MULTIPROCESSING,
            """
            def enter():
                palitra.enter_context(pool())

            if __name__ == "__main__":
                palitra.run(double(1))
                context = multiprocessing.get_context("fork")
                with ProcessPoolExecutor(1, mp_context=context) as workers:
                    workers.submit(enter).result()
                say("parent")
            """,
        ) == ["left", "parent"]

    @pytest.mark.parametrize("thread", ["async def", "def"], ids=["loop", "worker"])
    def test_a_process_may_be_started_by_a_call(
        self, printed_by: Callable[..., list[str]], thread: str
    ) -> None:
        assert printed_by(
            MULTIPROCESSING,
            f"""
            {thread} call():
                process = multiprocessing.get_context("fork").Process(target=target)
                process.start()
                process.join()
                return process.exitcode

            say(executor.submit(call).result())
            use(executor)
            """,
        ) == ["finished", "left", "0"]
