"""Threads for plain callables, so that they never block the loop, and for asyncio's own jobs.

Guarantees
    At most `max_threads` threads. A job that `submit` took is run by one of them, first come first
    served, unless the process ends first. `submit` does not wait; any thread may call it, a signal
    handler, or a finalizer.

Assumes
    What `_waiting` assumes. Nothing here is guarded by a lock: to start a thread, and to count on
    an idle one, takes a permission, an item of a deque.
"""

from __future__ import annotations

import _thread
import asyncio
import concurrent.futures
import contextvars
import functools
import inspect
import logging
import os
import sys
import threading
from _thread import get_ident
from collections import deque
from collections.abc import Callable
from concurrent.futures.thread import ThreadPoolExecutor
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, ParamSpec, Protocol, TypeVar

from ._waiting import Deadline, Moment, Permission
from ._words import current_frames, place

try:
    # gevent replaces those of `queue` even where it leaves threads alone.
    from _queue import Empty, SimpleQueue
except ImportError:
    from queue import Empty, SimpleQueue

_P = ParamSpec("_P")
_T = TypeVar("_T")

LOGGER = logging.getLogger("palitra")


def refuse_patched_threads() -> None:
    """Raise RuntimeError if new threads would be greenlets, which run in the thread that waits."""
    patched = not isinstance(_thread.start_new_thread, BuiltinFunctionType)
    if patched:
        raise RuntimeError(
            "palitra needs real threads, and these are patched (by gevent's or eventlet's "
            "monkey patching): leave threads unpatched, with gevent.monkey.patch_all(thread=False) "
            "or eventlet.monkey_patch(thread=False)"
        )


class OwnThread(threading.Thread):
    """A thread of palitra's: the end of the main thread does not wait for it; exit hooks do.

    Whether a thread is a daemon is inherited from the thread that makes it. Threads that are made
    by users' calls must not inherit this from ours: Python is to wait for them, as for any other.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # Python's record of its threads runs code when one of them goes, such as at a collection in
        # the main thread. The interpreter loses a Ctrl-C that comes there.
        getattr(threading, "_dangling", set()).discard(self)

    @property
    def daemon(self) -> bool:
        asker = sys._getframe(1)
        caller = asker.f_globals.get("__name__"), asker.f_code.co_name
        return super().daemon and caller != ("threading", "__init__")

    @daemon.setter
    def daemon(self, daemonic: bool) -> None:
        threading.Thread.daemon.__set__(self, daemonic)  # type: ignore[attr-defined]

    def start(self) -> None:
        refuse_patched_threads()  # they may have been patched since palitra's first use
        if threading.main_thread().ident == get_ident():
            _start_out_of_reach(super().start)
        else:
            super().start()


def _start_out_of_reach(start: Callable[[], None]) -> None:
    """Start a thread from a thread that Ctrl-C does not reach.

    In the main thread, Ctrl-C may interrupt `Thread.start` where that has just released the lock of
    the thread's own event: it then releases the lock once more, while the new thread holds it, and
    the new thread dies. From 3.14 on, Ctrl-C may also come where `Thread.start` has just acquired
    the lock that every start of a thread needs: that lock would be held for ever.
    """
    errors: list[BaseException] = []
    started = Moment()

    def run() -> None:
        try:
            start()
        except BaseException as exc:
            errors.append(exc)
        if sys.version_info < (3, 13):
            # Whatever logs here, a finalizer for instance, has entered this thread for good.
            getattr(threading, "_active", {}).pop(get_ident(), None)
        started.happen()

    try:
        _thread.start_new_thread(run, ())
    except RuntimeError:  # a subinterpreter that forbids such threads; it hears no Ctrl-C either
        start()
        return
    started.wait()
    if errors:
        raise errors.pop()


def make_thread(target: Callable[..., None], *args: object, name: str) -> threading.Thread:
    """A thread that the end of the main thread does not wait for; exit hooks see to that."""
    options: dict[str, Any] = {"target": target, "args": args, "name": name}
    if sys.version_info >= (3, 14):
        options["context"] = contextvars.Context()  # empty, not a copy of the starter's
    try:
        return OwnThread(daemon=True, **options)
    except RuntimeError:  # a subinterpreter that forbids daemon threads
        return OwnThread(daemon=False, **options)


def join_ended(thread: threading.Thread) -> None:
    """Join a thread that has said that it ends, for a second at most.

    Before 3.13, a join that Ctrl-C has interrupted twice makes later joins wait for ever.
    """
    thread.join(1.0)


def default_number_of_threads() -> int:
    """As many as `concurrent.futures.ThreadPoolExecutor` has by default on this Python."""
    if sys.version_info >= (3, 13):
        return min(32, (os.process_cpu_count() or 1) + 4)
    return min(32, (os.cpu_count() or 1) + 4)


def run_initializer(initialize: Callable[[], object]) -> None:
    """Call *initialize*; log what it raises, as the standard executors do, and raise it again."""
    try:
        initialize()
    except BaseException:
        logging.getLogger("concurrent.futures").critical("Exception in initializer:", exc_info=True)
        raise


def is_plain(fn: object) -> bool:
    """Whether *fn* is known at once for a plain callable. `inspect` takes as long as the call."""
    if type(fn) is MethodType:
        fn = fn.__func__
    if type(fn) is FunctionType:
        # Not one that `inspect.markcoroutinefunction` has marked.
        return not (fn.__code__.co_flags & (CO_COROUTINE | CO_ASYNC_GENERATOR) or fn.__dict__)
    if type(fn) is type:
        return not inspect.iscoroutinefunction(fn)
    return type(fn) is BuiltinFunctionType


class Job(Protocol):
    """What a worker thread does."""

    def run_in_worker(self) -> object:
        """Do the job. Raises only what a done-callback raised."""


class WorkerThreads:
    """A pool of threads that grows on demand and ends when told to stop."""

    def __init__(
        self,
        max_threads: int,
        name_prefix: str,
        initialize: Callable[[], object] | None = None,
    ) -> None:
        self.max_threads = max_threads
        self._name_prefix = name_prefix
        self._initialize = initialize
        self.jobs: SimpleQueue[Job | None] = SimpleQueue()
        # The permissions to start a thread: each is the number of a thread.
        self._unstarted = deque(range(max_threads))
        # The permissions to count on a thread that waits for a job.
        self._idle: deque[None] = deque()
        self.threads: dict[threading.Thread, Moment] = {}  # each with the moment of its end
        self._abandoned = False
        self._left_behind = False

    def submit(self, job: Job, on_failure: Callable[[BaseException], None] | None = None) -> None:
        """Have *job* run by a worker thread; RuntimeError if no thread is there or can start.

        The job stays in the queue then, and the caller sees to it that the job does nothing. A
        thread whose initializer fails calls *on_failure* and ends.
        """
        self.jobs.put(job)
        self.grow(on_failure)

    def grow(self, on_failure: Callable[[BaseException], None] | None = None) -> None:
        """Have a thread for a job that is in the queue: `submit` may have been interrupted."""
        # Looked at first: in a burst both are empty, and an exception costs more than a look.
        if self._idle:
            try:
                self._idle.pop()
            except IndexError:
                pass
            else:
                return
        if self._unstarted:
            self.start_thread(on_failure)

    def start_thread(self, on_failure: Callable[[BaseException], None] | None = None) -> None:
        """Start a thread, if there may be one more."""
        try:
            number = self._unstarted.popleft()
        except IndexError:
            return
        # The new thread takes this permission, or this thread does if the new one cannot start.
        begin = Permission()
        stopped = Moment()
        name = f"{self._name_prefix}_{number}"
        thread = make_thread(self._live, stopped, begin, on_failure, name=name)
        self.threads[thread] = stopped
        try:
            thread.start()
        except BaseException as exc:
            if begin.take():
                self._unstarted.appendleft(number)
                del self.threads[thread]
            if issubclass(type(exc), RuntimeError) and self.threads:
                return  # no more threads can start: those that exist do the work
            raise

    def _live(
        self,
        stopped: Moment,
        begin: Permission,
        on_failure: Callable[[BaseException], None] | None,
    ) -> None:
        try:
            if begin.take():
                self._work(on_failure)
        finally:
            stopped.happen()

    def _work(self, on_failure: Callable[[BaseException], None] | None) -> None:
        if self._initialize is not None:
            try:
                run_initializer(self._initialize)
            except BaseException as exc:
                if on_failure is not None:
                    on_failure(exc)
                return
        while True:
            try:
                job = self.jobs.get_nowait()
            except Empty:
                self._idle.append(None)
                job = self.jobs.get()
            if job is None:
                self.jobs.put(None)  # for the next thread
                return
            try:
                job.run_in_worker()
            except BaseException:
                LOGGER.critical("exception in a done-callback", exc_info=True)
            del job  # or this frame would keep its call alive until the next job comes
            if self._abandoned:
                return

    def stop(self) -> None:
        """Let each thread end once the jobs before this moment are taken."""
        self._unstarted.clear()
        self.jobs.put(None)

    def join(self, deadline: Deadline) -> bool:
        """Wait for the end of all threads; False at the limit."""
        for thread, stopped in list(self.threads.items()):
            if self._left_behind:
                break
            # Thread.join alone is not enough: before 3.13, a thread seems to have ended if Ctrl-C
            # has ended a wait for it.
            if not deadline.wait(stopped.wait):
                return False
            join_ended(thread)
        return True

    def names(self) -> list[str]:
        """The threads that `join` waits for, and where they stand; none that is idle."""
        frames = {} if self._left_behind else current_frames()
        frames.pop(get_ident(), None)  # see `current_frames`
        return [
            f"thread {thread.name} {place(frames[thread.ident])}"
            for thread, stopped in list(self.threads.items())
            if not stopped.passed
            and thread.ident in frames
            and frames[thread.ident].f_code is not WorkerThreads._work.__code__  # idle
        ]

    def leave_behind(self) -> None:
        """Wait for no thread any more."""
        self._left_behind = True

    def abandon(self) -> None:
        """In a forked child: only the thread that forked is here, and it ends."""
        self._abandoned = True
        for stopped in list(self.threads.values()):
            stopped.happen()  # this thread may wait for it


class AsyncioThreads(ThreadPoolExecutor):
    """asyncio's default executor, for `asyncio.to_thread` and host names: it serves until the end.

    The standard one refuses all jobs once the main thread has ended. But contexts are still to be
    left then, and their clean-up may need a thread.
    """

    def __init__(self, name_prefix: str) -> None:
        # Do not call super().__init__(): asyncio checks for the class, and uses none of its parts.
        self._workers = WorkerThreads(default_number_of_threads(), f"{name_prefix}_asyncio")
        self._refuses = False
        if sys.version_info[:2] == (3, 12):
            # That version starts no thread once the main thread has ended.
            self._workers.start_thread()

    @property
    def workers(self) -> WorkerThreads:
        """The threads."""
        return self._workers

    def submit(
        self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> concurrent.futures.Future[_T]:
        if self._refuses:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future: concurrent.futures.Future[_T] = concurrent.futures.Future()
        try:
            self._workers.submit(_AsyncioJob(future, functools.partial(fn, *args, **kwargs)))
        except RuntimeError:  # no thread can start; the job stays in the queue
            future.cancel()
            raise
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._refuses = True
        if cancel_futures:
            while True:
                try:
                    job = self._workers.jobs.get_nowait()
                except Empty:
                    break
                if isinstance(job, _AsyncioJob):
                    job.future.cancel()
        self._workers.stop()
        if wait:
            self._workers.join(Deadline(None))

    async def aclose(self) -> None:
        """Refuse further jobs, and wait for those there are; on the loop, which goes on."""
        self.shutdown(wait=False)
        loop = asyncio.get_running_loop()
        for stopped in list(self._workers.threads.values()):
            await stopped.on(loop)


class _AsyncioJob:
    """A function for a thread of asyncio's, and the future of its result."""

    def __init__(self, future: concurrent.futures.Future[Any], fn: Callable[[], Any]) -> None:
        self.future = future
        self._fn = fn

    def run_in_worker(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            result = self._fn()
        except BaseException as exc:
            self.future.set_exception(exc)
            del self  # the traceback holds this frame
        else:
            self.future.set_result(result)
