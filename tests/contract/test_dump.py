"""`palitra.dump()`: what all executors do, for people."""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import palitra
from contract.gates import PATIENCE, Held, in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from interpreters import Python
    from palitra import AsyncLoopExecutor


@pytest.fixture
def held() -> Iterator[Held]:
    held = Held()
    yield held
    held.open_all()


def dumped() -> str:
    """What a dump says, without the places, which differ between Pythons."""
    file = io.StringIO()
    palitra.dump(file)
    return re.sub(r"\d+\.\d s", "N s", file.getvalue())


def section(executor: AsyncLoopExecutor, text: str) -> list[str]:
    """What it says of one executor."""
    name = executor._service.name_prefix
    [found] = [one for one in text.split("\n\n") if re.match(rf"{name}[,:]", one)]
    return found.splitlines()


def test_the_default_executor_comes_first(
    executor: AsyncLoopExecutor, default_executor: AsyncLoopExecutor
) -> None:
    executor.run(asyncio.sleep(0))
    default_executor.run(asyncio.sleep(0))
    while "  loop: in thread palitra_loop, idle" not in (text := dumped()):
        pass  # the loop may not have gone to sleep yet

    first, second, *_ = text.split("\n\n")

    assert re.match(r"palitra in process \d+: \d+ executors$", first)
    assert second.splitlines() == [
        "palitra, the default executor: running",
        "  loop: in thread palitra_loop, idle",
        "  no calls in flight",
    ]


def test_a_dump_makes_no_executor() -> None:
    palitra.set_executor(None)

    assert "the default" not in dumped()
    assert palitra.set_executor(None) is None


def test_each_call_is_shown_with_its_chain(executor: AsyncLoopExecutor, held: Held) -> None:
    async def waits() -> None:
        await held.coroutine()

    future = executor.submit(waits)
    held.started.wait()
    executor.run(asyncio.sleep(0))
    lines = section(executor, dumped())
    lines = lines[lines.index("  1 call in flight, oldest first:") :]
    held.release.open()
    future.result()

    assert lines[1] == f"    {waits.__qualname__} (submit, running for N s)"
    assert re.fullmatch(
        r"      \S*test_dump\.py:\d+ in .*waits: await held\.coroutine\(\)", lines[2]
    )
    assert re.fullmatch(r"      \S*gates\.py:\d+ in Held\.coroutine: await .*", lines[3])


def test_tasks_that_are_waited_for_are_shown_each(executor: AsyncLoopExecutor, held: Held) -> None:
    async def leaf() -> None:
        await held.release.passed()

    thread = in_thread(lambda: executor.gather(*(leaf() for _ in range(5))))
    leaf_waits = "leaf: await held.release.passed()"
    text = ""
    while not ("(gather, running" in text and text.count(leaf_waits) == 3):  # some start later
        assert thread.is_alive()
        text = dumped()
    lines = section(executor, text)
    held.release.open()
    thread.join()

    assert "    gather of 5 (gather, running for N s)" in lines
    assert "      task 1 of 5 that are waited for:" in lines
    assert "      task 3 of 5 that are waited for:" in lines
    assert "      and 2 tasks more" in lines
    assert sum(leaf_waits in line for line in lines) == 3


def test_a_busy_loop_is_shown_with_what_holds_it(executor: AsyncLoopExecutor, held: Held) -> None:
    async def rude() -> None:
        held.thread()

    future = executor.submit(rude)
    held.started.wait()
    lines = section(executor, dumped())
    held.release.open()
    future.result()

    assert re.fullmatch(rf"  loop: in thread \S+_loop, busy with {rude.__qualname__}", lines[1])
    assert re.fullmatch(r"    \S*test_dump\.py:\d+ in .*rude: held\.thread\(\)", lines[2])


def test_those_that_wait_are_shown_with_what_for(held: Held, quick_loop: dict[str, Any]) -> None:
    with palitra.AsyncLoopExecutor(max_workers=1, **quick_loop) as executor:
        executor.submit(held.thread)
        held.started.wait()
        executor.submit(held.coroutine)
        executor.submit(held.coroutine)
        executor.submit(held.thread)
        executor.run(asyncio.sleep(0))
        lines = section(executor, dumped())
        held.release.open()

    prefix = executor._service.name_prefix
    assert f"  worker threads: 1 of 1: {prefix}_0 runs Held.thread" in lines
    assert "    Held.coroutine (submit, waiting for N s): for one of 1 slots (max_workers)" in lines
    assert "    Held.thread (submit, waiting for N s): for a worker thread" in lines


def test_contexts_that_were_entered_are_named(executor: AsyncLoopExecutor) -> None:
    @contextlib.asynccontextmanager
    async def pool() -> AsyncIterator[int]:
        yield 1

    executor.enter_context(pool())

    assert any("contexts entered: " in line and "pool" in line for line in dumped().splitlines())


def test_threads_that_wait_are_named_with_what_for(executor: AsyncLoopExecutor, held: Held) -> None:
    def waiting_in_run() -> None:
        executor.run(held.coroutine())

    def waiting_in_result() -> None:
        future.result()

    future = executor.submit(held.thread)
    threads = [
        threading.Thread(target=target, name=target.__name__)
        for target in (waiting_in_run, waiting_in_result)
    ]
    for thread in threads:
        thread.start()
    while (text := dumped()).count(" waits for Held") < 2:
        assert all(thread.is_alive() for thread in threads)
    held.release.open()
    for thread in threads:
        thread.join()

    waiting = text.rpartition("Threads that wait:\n")[2]
    assert re.search(
        r"  waiting_in_run waits for Held\.coroutine \(run\) for N s, at \S*test_dump\.py:\d+ in ",
        waiting,
    )
    assert re.search(
        r"  waiting_in_result waits for Held\.thread \(submit\) for N s, at \S*test_dump\.py:\d+",
        waiting,
    )


def test_ten_thousand_calls_are_cut_with_a_count(held: Held, quick_loop: dict[str, Any]) -> None:
    async def waits() -> None:
        await held.release.passed()

    with palitra.AsyncLoopExecutor(**quick_loop) as executor:
        futures = [executor.submit(waits) for _ in range(10_000)]
        executor.run(asyncio.sleep(0))
        begin = time.thread_time()
        lines = section(executor, dumped())
        took = time.thread_time() - begin
        for future in futures:
            future.cancel()

    assert "  10000 calls in flight, oldest first:" in lines
    assert lines[-1] == f"    and 9980 more: 9980 of {waits.__qualname__}"
    assert len(lines) < 100
    assert took < 1


@pytest.mark.usefixtures("graveyard")
def test_after_the_death_of_a_loop_it_says_why() -> None:
    def refuses() -> None:
        raise ZeroDivisionError

    executor = palitra.AsyncLoopExecutor(initializer=refuses)
    with pytest.raises(Exception, match="ZeroDivisionError"):
        executor.run(asyncio.sleep(0))
    executor.shutdown()

    assert section(executor, dumped()) == [
        f"{executor._service.name_prefix}: broken",
        "  because of ZeroDivisionError",
    ]


def test_a_file_that_is_not_for_all_letters_gets_them_escaped(
    executor: AsyncLoopExecutor, held: Held
) -> None:
    async def größe() -> None:  # noqa: PLC2401  (any identifier may come)
        await held.release.passed()

    future = executor.submit(größe)
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    palitra.dump(file)
    held.release.open()
    future.result()

    assert not file.closed
    assert rb"gr\xf6\xdfe" in raw.getvalue()


def test_a_signal_handler_says_it_on_standard_error_while_the_loop_is_blocked(
    python: Python,
) -> None:
    child = python.start(
        """
        import signal, sys, threading
        import palitra

        over = threading.Event()

        async def rude():
            print("blocked", flush=True)
            over.wait(20)

        def tell(*_):
            palitra.dump()
            over.set()

        signal.signal(signal.SIGUSR1, tell)
        palitra.run(rude())
        """
    )
    child.expect("blocked")
    child.send_signal(signal.SIGUSR1)
    end = child.finish()

    assert end.returncode == 0
    assert "palitra, the default executor: running" in end.stderr
    assert "loop: in thread palitra_loop, busy with rude" in end.stderr
    assert re.search(r"MainThread waits for rude \(run\) for \d+\.\d s, at program_0", end.stderr)


def test_without_a_standard_error_nothing_is_written(
    executor: AsyncLoopExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor.run(asyncio.sleep(0))
    monkeypatch.setattr("sys.stderr", None)

    palitra.dump()


def test_what_cannot_say_its_class_is_shown_all_the_same(executor: AsyncLoopExecutor) -> None:
    """As a proxy that is bound to nothing any more."""
    held = Held()

    class Unbound:
        __class__ = property(lambda self: class_of(self))

        def __call__(self) -> int:
            held.started.open()
            held.release.wait()
            return 7

    def class_of(unbound: Unbound) -> type:
        if held.started.is_open:
            raise RuntimeError("unbound")
        return type(unbound)

    future = executor.submit(Unbound())
    held.started.wait()
    text = io.StringIO()
    palitra.dump(text)
    [call] = executor.calls()
    held.open_all()

    assert "Unbound" in call.name
    assert "Unbound" in text.getvalue()
    assert future.result(PATIENCE) == 7
