"""What tests wait on instead of sleeping: gates that both coroutines and threads pass."""

from __future__ import annotations

import asyncio
import signal
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from palitra._service import Service

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from palitra import AsyncLoopExecutor

# Longer than anything here takes, shorter than a test's own time limit.
PATIENCE = 10.0


class Gate:
    """Shut until `open`, from any thread; coroutines of any loop and threads wait at it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._opened = threading.Event()
        self._waiters: list[asyncio.Future[None]] = []

    def open(self, *_: Any) -> None:
        """Let everybody through; takes and ignores arguments, so it serves as a callback."""
        with self._lock:
            self._opened.set()
            waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            with suppress(RuntimeError):  # its loop may be closed by now
                waiter.get_loop().call_soon_threadsafe(_set, waiter)

    @property
    def is_open(self) -> bool:
        return self._opened.is_set()

    async def passed(self) -> None:
        """Wait in a coroutine."""
        with self._lock:
            if self._opened.is_set():
                return
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
        await waiter

    def wait(self) -> None:
        """Wait in a thread; fail when nobody opens."""
        assert self._opened.wait(PATIENCE), "nobody opened the gate"


def _set(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class Held:
    """Bodies of calls that say when they start and stay until released.

    `cleanup` is a second gate, at which a cancelled coroutine waits before it ends.
    """

    def __init__(self) -> None:
        self.started = Gate()
        self.release = Gate()
        self.cancelled = Gate()
        self.cleanup = Gate()
        self.ended = Gate()

    async def coroutine(self, value: Any = None) -> Any:
        self.started.open()
        try:
            await self.release.passed()
        except asyncio.CancelledError:
            self.cancelled.open()
            await self.cleanup.passed()
            raise
        finally:
            self.ended.open()
        return value

    def thread(self, value: Any = None) -> Any:
        self.started.open()
        self.release.wait()
        self.ended.open()
        return value

    def open_all(self) -> None:
        """For a test's end, so that nothing stays behind when an assertion fails."""
        self.release.open()
        self.cleanup.open()


async def value_of(value: Any) -> Any:
    """The plainest coroutine that suspends."""
    await asyncio.sleep(0)
    return value


async def fail_with(error: BaseException) -> Any:
    await asyncio.sleep(0)
    raise error


def in_thread(*steps: Callable[[], object]) -> threading.Thread:
    """Take the steps in a thread of their own.

    A daemon, so that a call that hangs cannot keep the run alive.
    """

    def take() -> None:
        for step in steps:
            step()

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    return thread


def interrupt() -> None:
    """Send SIGINT to the main thread, where the tests run."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def shut_down_before_the_hand_over(
    executor: AsyncLoopExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Have another thread's shutdown begin when a call has been made and not yet taken."""
    _before_the_hand_over(lambda: executor.shutdown(wait=False), monkeypatch)


def begin_exit_before_the_hand_over(
    executor: AsyncLoopExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `shut_down_before_the_hand_over`, where the interpreter's exit begins."""
    _before_the_hand_over(executor._service.ending.begin_exit, monkeypatch)


def _before_the_hand_over(act: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    accept = Service.accept

    def late_accept(*args: Any) -> None:
        monkeypatch.undo()
        act()
        accept(*args)

    monkeypatch.setattr(Service, "accept", late_accept)
