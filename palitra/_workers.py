"""WorkerThreads: threads for plain callables, so that they never block the loop.

Guarantees
    At most `max_threads` threads. A job that `submit` took is run by one of them, first come first
    served, unless the process ends first. `submit` does not wait; any thread may call it, a signal
    handler, or a finalizer.

Assumes
    `append` and `pop` of a deque or list and `put` and `get` of a SimpleQueue are atomic. Nothing
    here is guarded by a lock: a permission (to start a thread, to claim an idle one) is an item,
    and whoever popped it has it.
"""

from __future__ import annotations

import contextvars
import logging
import queue
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from palitra._waiting import Moment

LOGGER = logging.getLogger("palitra")


def make_thread(target: Callable[..., None], *args: object, name: str) -> threading.Thread:
    """A thread that the end of the main thread does not wait for; exit hooks see to that."""
    options: dict[str, Any] = {"target": target, "args": args, "name": name}
    if sys.version_info >= (3, 14):
        options["context"] = contextvars.Context()  # not a copy of whatever the starter had set
    try:
        return threading.Thread(daemon=True, **options)
    except RuntimeError:  # a subinterpreter that forbids daemon threads
        return threading.Thread(daemon=False, **options)


def run_initializer(initialize: Callable[[], None]) -> None:
    """Call it; log what it raises as the standard executors do, and raise it."""
    try:
        initialize()
    except BaseException:
        logging.getLogger("concurrent.futures").critical("Exception in initializer:", exc_info=True)
        raise


class WorkerThreads:
    """A pool of threads that grows on demand and ends when told to stop.

    A job is a callable without arguments that raises nothing.
    """

    def __init__(
        self,
        max_threads: int,
        name_prefix: str,
        initialize: Callable[[], None],
    ) -> None:
        self._name_prefix = name_prefix
        self._initialize = initialize
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        # One item for each thread that may still be started: its number.
        self._unstarted = deque(range(max_threads))
        # One item for each thread that waits for a job; a submit that pops it needs no new thread.
        self._idle: deque[None] = deque()
        self.threads: dict[threading.Thread, Moment] = {}  # and when each has stopped
        self._abandoned = False

    def submit(self, job: Callable[[], None], on_failure: Callable[[BaseException], None]) -> None:
        """Have *job* run by a worker thread; raises RuntimeError when none can be started.

        A thread whose initializer fails calls *on_failure* and runs nothing.
        """
        try:
            self._idle.pop()
        except IndexError:
            # A new thread gets its first job in person. So the queue holds a job only where an idle
            # thread was claimed for it, or where no further thread may be started.
            if self._unstarted and self._start_thread(job, on_failure):
                return
        self._jobs.put(job)

    def _start_thread(
        self, job: Callable[[], None], on_failure: Callable[[BaseException], None]
    ) -> bool:
        try:
            number = self._unstarted.popleft()
        except IndexError:
            return False
        # The number goes to the thread, or back if there is no thread: whoever pops it. The job is
        # popped too, because a thread keeps its arguments to its end.
        numbers = [number]
        name = f"{self._name_prefix}_{number}"
        stopped = Moment()
        thread = make_thread(self._live, stopped, numbers, [job], on_failure, name=name)
        self.threads[thread] = stopped
        try:
            thread.start()
        except BaseException as exc:
            if numbers:
                self._unstarted.appendleft(numbers.pop())
                del self.threads[thread]
            if isinstance(exc, RuntimeError) and self.threads:
                return False  # no more threads can be had: those that exist do the work
            raise
        return True

    def _live(self, stopped: Moment, *args: Any) -> None:
        try:
            self._work(*args)
        finally:
            stopped.happen()

    def _work(
        self,
        numbers: list[int],
        jobs: list[Callable[[], None]],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        try:
            numbers.pop()
        except IndexError:
            return  # start was interrupted, and took the number back
        try:
            run_initializer(self._initialize)
        except BaseException as exc:
            on_failure(exc)
            return
        job: Callable[[], None] | None = jobs.pop()
        while job is not None:
            try:
                job()
            except BaseException:
                LOGGER.critical("exception in a done-callback", exc_info=True)
            del job  # it would keep its call alive until the next one comes
            if self._abandoned:
                return
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                self._idle.append(None)
                job = self._jobs.get()
        self._jobs.put(None)  # for the next thread

    def stop(self) -> None:
        """Let each thread end once the jobs before this moment are taken."""
        self._unstarted.clear()
        self._jobs.put(None)

    def abandon(self) -> None:
        """In a forked child: only the thread that forked is here, and it ends."""
        self._abandoned = True
        for stopped in self.threads.values():
            stopped.happen()  # this thread may wait for it
