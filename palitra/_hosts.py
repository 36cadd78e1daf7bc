"""Hosts: whose loop it is. A thread of our own runs one, or it is the application's, and borrowed.

Guarantees
    * `start` returns when the loop takes calls, or raises. Any number of threads may call it.
    * What follows `finish` happens once, and `Ending.end_here` is the last of it: in a thread of
      palitra's, since Ctrl-C would leave half of it undone in the main thread, where a borrowed
      loop may run.
    * `end_unstarted` may be interrupted, and called again: all that follows it can be repeated.

Who runs the loop, or that nobody ever will, is decided by `dict.setdefault`: the first to say so
decides.

Assumes
    What `_waiting` assumes.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import os
import sys
import threading
from _thread import get_ident
from asyncio import _get_running_loop
from collections.abc import Callable, Collection, Coroutine
from types import CodeType, CoroutineType
from typing import TYPE_CHECKING, Any, Protocol

from . import _hooks
from ._calls import GRACE, Call, DeadlockError
from ._waiting import Deadline, Moment
from ._words import close_if_coroutine, user_traceback
from ._workers import (
    AsyncioThreads,
    join_ended,
    make_thread,
    refuse_patched_threads,
    run_initializer,
)

if TYPE_CHECKING:
    from ._ending import Ending
    from ._inbox import Inbox
    from ._service import Service

LOGGER = logging.getLogger("palitra")
_current = threading.local()  # `service`, on the thread of a loop of our own
_WATCH = 0.25  # seconds between looks at borrowed loops, which may end and tell nobody
_LOOK = 0.05  # the same, at one that does not run although its end is waited for


class Host(Protocol):
    """Whose loop it is, and in which thread it runs."""

    loop: asyncio.AbstractEventLoop | None
    is_borrowed: bool  # whether the loop goes on when the executor has ended
    asyncio_threads: AsyncioThreads | None  # the loop's default executor, where that is the host's

    @property
    def ends_with_main_thread(self) -> bool:
        """Whether the interpreter would wait for the loop's thread before it runs atexit."""

    def start(self, service: Service) -> None:
        """Have the loop take calls; raise if it cannot."""

    def on_loop(self) -> bool:
        """Whether the caller is on the loop's thread."""

    @property
    def ident(self) -> int | None:
        """The thread that runs the loop; None where none does."""

    @property
    def base(self) -> CodeType | None:
        """What runs the loop, where that is not written in Python."""

    def failure(self) -> BaseException | None:
        """Why the loop ends although nobody has ended the executor."""

    def check(self, ending: Ending, at_end: bool) -> None:
        """Notice that the loop has gone, where it cannot say so itself.

        *at_end*: a loop that somebody has stopped counts as gone, too.
        """

    def end_unstarted(self) -> bool:
        """See to it that there never will be a loop; False if there is one."""

    def finish(self, ending: Ending) -> None:
        """On the loop: the service has ended; the rest is the host's."""

    def join(self, deadline: Deadline) -> bool:
        """Wait for the threads of the host; False at the limit."""

    def thread_names(self) -> list[str]:
        """The threads that `join` would wait for, but for the loop's own."""

    def abandon(self) -> None:
        """In a forked child: the loop is the parent's."""

    def leave_behind(self) -> None:
        """Nothing waits for the threads of the host any more."""


class OwnLoop:
    """A loop in a thread of our own, from the first call to the end of the last."""

    is_borrowed = False

    def __init__(
        self,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None,
        debug: bool | None,
    ) -> None:
        self._loop_factory = loop_factory
        self._debug = debug
        self.loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ident: int | None = None  # the identifier of the loop's thread
        # Under one key: the thread that runs the loop; None: there never will be one.
        self._runner: dict[str, threading.Thread | None] = {}
        self._started = Moment()  # when there is a loop, or never will be
        self.asyncio_threads: AsyncioThreads | None = None
        self._left_behind = False

    def on_loop(self) -> bool:
        return self._ident == get_ident()

    @property
    def ident(self) -> int | None:
        return self._ident

    @property
    def base(self) -> CodeType | None:
        return OwnLoop._main.__code__

    def failure(self) -> BaseException | None:
        return None  # the loop's thread itself tells the ending of a failure

    def check(self, ending: Ending, at_end: bool) -> None:
        pass

    def start(self, service: Service) -> None:
        """Return when the loop runs, or when it is certain never to run."""
        while not self._started.passed:
            if self.on_loop():
                raise DeadlockError(
                    "a call from the initializer would wait for the start of its own thread"
                )
            if not self._runner:
                # Several callers can come here at once; a thread that came too late just ends.
                refuse_patched_threads()
                if not _hooks.watch(service):
                    raise RuntimeError("cannot schedule new futures after interpreter shutdown")
                make_thread(self._main, service, name=f"{service.name_prefix}_loop").start()
            self._started.wait()

    def end_unstarted(self) -> bool:
        return _is_never_run(self._runner, self._started)

    def _main(self, service: Service) -> None:
        """The life of the loop's thread, where it is the one that runs the loop."""
        if not _runs_here(self._runner, self._started):
            return
        self._thread = threading.current_thread()
        self._ident = get_ident()
        _current.service = service
        try:
            loop = (self._loop_factory or asyncio.new_event_loop)()
            if not isinstance(loop, asyncio.AbstractEventLoop):
                raise TypeError(  # noqa: TRY301  (breaks the executor, as any error here)
                    f"loop_factory must return an event loop, not {loop!r}"
                )
            self.loop = loop
            asyncio.set_event_loop(loop)
            if self._debug is not None:
                loop.set_debug(self._debug)
            self.asyncio_threads = AsyncioThreads(service.name_prefix)
            loop.set_default_executor(self.asyncio_threads)
            if service.initialize is not None:
                run_initializer(service.initialize)
            service.inbox.attend(loop)
            service.inbox.hang_bell()
            service.ready = True
            self._started.happen()
            service.inbox.post(service.ending.wind_down)  # in case of a shutdown meanwhile
            while not service.ending.done:
                try:
                    loop.run_forever()
                except (SystemExit, KeyboardInterrupt):
                    pass  # a task of the user's raised it, and holds it as its exception
                if self.loop is not loop:
                    return  # a copy of this thread, in a child that was forked on it
                # If user code has stopped the loop, run it again.
        except BaseException as exc:
            if self.loop is None and self.asyncio_threads is not None:
                return  # in such a child, too: `abandon` has taken the loop away
            service.ending.break_with(user_traceback(exc))
        self._close(service)
        del self, service  # the failure holds frames of the initializer, and they hold this one

    def finish(self, ending: Ending) -> None:
        asyncio.get_running_loop().stop()

    def _close(self, service: Service) -> None:
        ending = service.ending
        ending.done = True
        self._started.happen()
        # Before `fail_calls`, which takes the calls out of the register.
        left = [*ending.given_up, *service.calls.left]
        ending.fail_calls()
        loop = self.loop
        if loop is not None and not loop.is_closed():
            try:
                self._close_loop(loop, ending, left)
            except BaseException:
                LOGGER.exception("closing the event loop failed")
            asyncio.set_event_loop(None)
            try:
                loop.close()
            except BaseException:
                LOGGER.exception("closing the event loop failed")
        if self.asyncio_threads is not None:
            # Where the closing failed, nobody has told them to end, and the exit waits for them.
            self.asyncio_threads.shutdown(wait=False)
        self.loop = None
        ending.end_here()  # where callbacks may ask whether this is the loop's thread
        self._ident = None  # another thread may get the same identifier

    def _close_loop(
        self, loop: asyncio.AbstractEventLoop, ending: Ending, left: list[Call]
    ) -> None:
        """Do what `asyncio.run` does at its end.

        If calls were left behind, in *left*, their tasks and the tasks that they have made may
        ignore all cancellation. Then nothing is waited for longer than a second.
        """
        cancelled = {task for call in left for task in call.tasks()}.union(ending.cancelled)
        # Services have had their second; other calls may have been cancelled just now.
        late = {task for call in left if call.kind == "service" for task in call.tasks()}
        tasks = asyncio.all_tasks(loop)
        for task in tasks - cancelled:
            task.cancel()
        _complete(loop, all_done(loop, tasks - late, GRACE if left else None))
        ended = {task for task in tasks if task.done()}
        for task in tasks - ended:
            _silence(task)
        for task in ended:
            if not task.cancelled() and (error := task.exception()) is not None:
                message = "unhandled exception while the event loop was closed"
                context = {"message": message, "exception": error, "task": task}
                loop.call_exception_handler(context)
        if ended != tasks:
            _expect_running_generators(loop)
        # Ctrl-C or a limit at exit cancels the step that is under way; the others follow.
        with contextlib.suppress(asyncio.CancelledError):
            _complete(loop, loop.shutdown_asyncgens())
        if self.asyncio_threads is not None:
            with contextlib.suppress(asyncio.CancelledError):
                _complete(loop, self.asyncio_threads.aclose())
        if getattr(loop, "_default_executor", None) is not self.asyncio_threads:
            try:
                _complete(loop, loop.shutdown_default_executor())
            except RuntimeError as exc:
                # Late in an exit no thread can be started, not even the one that waits for the
                # threads of an executor of the user's own; by then they have ended.
                if "new thread" not in str(exc):
                    raise

    def join(self, deadline: Deadline) -> bool:
        if self._left_behind:
            return True
        if self.asyncio_threads is not None and not self.asyncio_threads.workers.join(deadline):
            return False
        if self._thread is not None:
            join_ended(self._thread)
        return True

    def thread_names(self) -> list[str]:
        if self.asyncio_threads is None or self._left_behind:
            return []
        return self.asyncio_threads.workers.names()

    def leave_behind(self) -> None:
        self._left_behind = True

    @property
    def ends_with_main_thread(self) -> bool:
        """Whether the interpreter would wait for the loop's thread before it runs atexit."""
        return self._thread is not None and not self._thread.daemon

    def abandon(self) -> None:
        if self.loop is not None and self.on_loop():
            # The child's copy of this thread leaves the loop after this turn. What is still to be
            # done in this turn may fail, since asyncio has no running loop there.
            self.loop.set_exception_handler(_say_nothing)
            self.loop.stop()
        self.loop = None
        self._started.happen()
        if self.asyncio_threads is not None:
            self.asyncio_threads.workers.abandon()


def _runs_here(runner: dict[str, threading.Thread | None], started: Moment) -> bool:
    """Whether this thread is the one to run the loop, or to watch it."""
    thread = threading.current_thread()
    decided = runner.setdefault("thread", thread)
    if decided is None:
        started.happen()  # Ctrl-C may have kept whoever decided so from saying that
    return decided is thread


def _is_never_run(runner: dict[str, threading.Thread | None], started: Moment) -> bool:
    """See to it that no thread runs the loop, or watches it; False if one does."""
    if runner.setdefault("thread", None) is not None:
        return False
    started.happen()
    return True


def _say_nothing(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """An exception handler that ignores all errors."""


def _complete(
    loop: asyncio.AbstractEventLoop, what: Coroutine[Any, Any, None] | asyncio.Future[None]
) -> None:
    """Run *loop* until *what* is done, although user code stops the loop, or exits, meanwhile.

    `run_until_complete` would raise there, and all that is left of the clean-up would be skipped.
    """
    # Whatever task factory there is.
    future: asyncio.Future[None]
    if asyncio.isfuture(what):
        future = what
    else:
        future = asyncio.Task(what, loop=loop)
        say_nothing_of(future)  # when the loop dies
    future.add_done_callback(lambda _: loop.stop())
    while not future.done():
        try:
            loop.run_forever()
        except (SystemExit, KeyboardInterrupt):
            pass  # a task of the user's own raised it, and has kept it
    future.result()


def all_done(
    loop: asyncio.AbstractEventLoop, tasks: Collection[asyncio.Task[Any]], timeout: float | None
) -> asyncio.Future[None]:
    """A future that is done when *tasks* are, or after *timeout* seconds.

    Not a task, which would complain where the loop dies meanwhile. And a thread keeps the limit,
    since the loop's clock may be frozen; late in an exit, where no thread starts, the loop does.
    """
    future = loop.create_future()
    pending = set(tasks)
    over = Moment()

    def done(task: asyncio.Task[Any] | None = None) -> None:
        if task is not None:
            pending.discard(task)
        if (task is None or not pending) and not future.done():
            future.set_result(None)
            over.happen()

    def keep_limit() -> None:
        if not over.wait(timeout):
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(done)

    for task in tasks:
        task.add_done_callback(done)
    if not tasks:
        done()
    elif timeout is not None:
        loop.call_later(timeout, done)
        with contextlib.suppress(RuntimeError):
            make_thread(keep_limit, name="palitra_limit").start()
    return future


def _silence(task: asyncio.Task[Any]) -> None:
    """Have the interpreter say nothing of *task*, which ignored its cancellation, and not run it.

    It is kept for good: to let go of it would run its clean-up, without the loop that this needs.
    """
    say_nothing_of(task)
    with contextlib.suppress(ImportError, AttributeError):
        import ctypes  # noqa: PLC0415  (almost no program comes here)

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(task))


def _expect_running_generators(loop: asyncio.AbstractEventLoop) -> None:
    """Report no async generator that cannot be closed, because a task left behind runs it."""
    report = loop.get_exception_handler()

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        generator = context.get("asyncgen")
        if generator is not None and getattr(generator, "ag_running", False):
            return
        if report is None:
            loop.default_exception_handler(context)
        else:
            report(loop, context)

    loop.set_exception_handler(handle)


def say_nothing_of(task: asyncio.Task[Any]) -> None:
    """Have asyncio say nothing when *task*, of which all is said, never ends."""
    with contextlib.suppress(AttributeError):
        task._log_destroy_pending = False  # type: ignore[attr-defined]


def _drop_unbegun(task: asyncio.Task[None] | None) -> None:
    """Let go of *task* if its first step never came: the loop that would have taken it has ended.

    What would be awaited in that step is closed too, or the interpreter would warn of it. Should
    the application run the loop again, the task ends with an error, and nobody is told.
    """
    coro = None if task is None else task.get_coro()
    if task is None or not isinstance(coro, CoroutineType):
        return  # the coroutine has ended, or it is one that a task factory has put around ours
    if inspect.getcoroutinestate(coro) == inspect.CORO_CREATED:
        for argument in inspect.getcoroutinelocals(coro).values():
            close_if_coroutine(argument)
        coro.close()
        say_nothing_of(task)
        task.add_done_callback(lambda task: task.cancelled() or task.exception())


class BorrowedLoop:
    """A loop that the application runs: palitra neither starts nor stops it.

    Three things tell of its end: a task of ours, the guard, is cancelled, as `asyncio.run` does it
    with all tasks; a thread of ours, the watcher, sees that the loop is closed; and, where the
    executor or the process is to end, that the loop has not run for a while. The watcher does all
    that is to be done at the end and does not need the loop: Ctrl-C does not reach that thread.
    """

    is_borrowed = True
    ends_with_main_thread = False
    asyncio_threads: AsyncioThreads | None = None

    def __init__(self, loop: asyncio.AbstractEventLoop, pid: int) -> None:
        self.loop = loop if pid == os.getpid() else None
        # Under one key: the watcher; None: nothing ever begins.
        self._watcher: dict[str, threading.Thread | None] = {}
        self._started = Moment()  # when calls are taken, or never will be
        self._finished = Moment()  # when only the watcher has something left to do
        self._inbox: Inbox | None = None
        self._loop_thread: int | None = None
        self._watcher_ident: int | None = None
        self._guard: asyncio.Task[None] | None = None
        self._released: asyncio.Future[None] | None = None
        self._stopped = 0.0  # for how many seconds the loop has been seen not to run
        self._at_end = False  # whether somebody has lately waited for the end
        self.base: CodeType | None = None

    def on_loop(self) -> bool:
        if self.loop is None:
            return False
        # The watcher may run the callbacks of futures.
        return _get_running_loop() is self.loop or self._watcher_ident == get_ident()

    @property
    def ident(self) -> int | None:
        loop = self.loop
        if loop is None or loop.is_closed() or not loop.is_running():
            return None
        ident: int | None = getattr(loop, "_thread_id", None)
        return self._loop_thread if ident is None else ident

    def failure(self) -> BaseException | None:
        guard = self._guard
        return None if guard is None or not guard.cancelling() else _lost()

    def check(self, ending: Ending, at_end: bool) -> None:
        if self.loop is not None and self.loop.is_closed():
            self._refuse(ending)
        elif at_end:
            self._at_end = True  # the watcher looks

    def _refuse(self, ending: Ending) -> None:
        """Refuse calls: the loop has gone. The rest is the watcher's, if there is one."""
        ending.break_with(_lost())
        self.end_unstarted()
        self._finished.happen()

    def start(self, service: Service) -> None:
        """Return when calls are taken, though the loop may not run yet."""
        if self.loop is None:
            raise RuntimeError(
                "this executor is over an event loop of the parent process: make one over a loop "
                "of this process, or an AsyncLoopExecutor() of its own"
            )
        if self.loop.is_closed():
            self._refuse(service.ending)
        while not self._started.passed:
            if not self._watcher:
                # As for a loop of our own: a thread that came too late just ends.
                refuse_patched_threads()
                if not _hooks.watch(service):
                    raise RuntimeError("cannot schedule new futures after interpreter shutdown")
                make_thread(self._main, service, name=f"{service.name_prefix}_watch").start()
            self._started.wait()

    def _main(self, service: Service) -> None:
        """The watcher's life: begin, watch a loop that may end silently, and end the service."""
        loop = self.loop
        if loop is None or not _runs_here(self._watcher, self._started):
            return
        self._watcher_ident = get_ident()
        self._inbox = service.inbox
        service.inbox.attend(loop)
        with contextlib.suppress(RuntimeError):  # closed just now, as is seen below
            # First: the guard is to be there before the first call begins, and with it somebody who
            # cancels what begins while the loop ends.
            loop.call_soon_threadsafe(self._settle_in, service)
        service.ready = True
        self._started.happen()
        while not self._finished.wait(_LOOK if self._stopped else _WATCH):
            if self.loop is not loop:
                return  # in a forked child
            if loop.is_closed() or self._does_not_run(loop, not service.usable):
                service.ending.break_with(_lost())
                break
        try:
            if not loop.is_running():
                self._let_go_of_tasks(service.ending)
        finally:
            service.ending.end_here()
        self._watcher_ident = None  # another thread may get the same

    def _let_go_of_tasks(self, ending: Ending) -> None:
        """Once the loop has ended: nobody runs the tasks that are left, and nobody is to wonder."""
        for task in (*ending.tasks, ending.clean_up, self._guard):
            _drop_unbegun(task)
        for task in ending.tasks:
            say_nothing_of(task)  # its call fails with an error that says why
        self._guard = None  # what never ends is pending as long as somebody holds it

    def _does_not_run(self, loop: asyncio.AbstractEventLoop, at_end: bool) -> bool:
        """Whether somebody wants the end, and *loop* has not run for a while.

        Between two runs is no end.
        """
        at_end = at_end or self._at_end
        self._at_end = False
        if not at_end or loop.is_running():
            self._stopped = 0.0
            return False
        self._stopped += _LOOK
        return self._stopped > _WATCH

    def _settle_in(self, service: Service) -> None:
        """On the loop: hang the bell, and have somebody there whom its end cancels."""
        self.base = _caller()  # at once: the call that comes next may hold the loop
        loop = self.loop
        if loop is None or self._finished.passed:
            return
        self._loop_thread = get_ident()
        self._released = loop.create_future()
        self._guard = asyncio.Task(
            self._keep_guard(service.ending, self._released), loop=loop, name="palitra"
        )
        say_nothing_of(self._guard)
        service.inbox.hang_bell()

    async def _keep_guard(self, ending: Ending, released: asyncio.Future[None]) -> None:
        self.base = _caller()  # where this executor was made on the loop
        try:
            await released
        except asyncio.CancelledError:
            if not self._finished.passed:
                # Who cancels all tasks waits for them: this is the time to leave the contexts.
                ending.done = True
                ending.break_with(_lost())
                try:
                    ending.fail_calls()
                    await self._cancel_late_tasks(ending)
                    await ending.contexts.leave_all()
                finally:
                    self.finish(ending)
            raise

    async def _cancel_late_tasks(self, ending: Ending) -> None:
        """Cancel what began when all tasks were already cancelled: nobody else would end these."""
        late = [task for task in ending.tasks if not (task.done() or task.cancelling())]
        for task in late:
            task.cancel()
        if late:
            await all_done(asyncio.get_running_loop(), late, GRACE)

    def end_unstarted(self) -> bool:
        return _is_never_run(self._watcher, self._started)

    def finish(self, ending: Ending) -> None:
        if self._released is not None and not self._released.done():
            self._released.set_result(None)
        if self._inbox is not None:
            self._inbox.close()  # here, because the application may close the loop at any moment
        self._finished.happen()

    def join(self, deadline: Deadline) -> bool:
        # The watcher has nothing left to do, and may be the one that asks.
        watcher = self._watcher.get("thread")
        if watcher is not None and watcher is not threading.current_thread():
            join_ended(watcher)
        return True

    def thread_names(self) -> list[str]:
        return []

    def leave_behind(self) -> None:
        self._finished.happen()

    def abandon(self) -> None:
        self.loop = None
        self._watcher.clear()
        self._started.happen()


def _caller() -> CodeType | None:
    """What has called the function that calls this."""
    frame = sys._getframe(1).f_back
    return None if frame is None else frame.f_code


def _lost() -> RuntimeError:
    return RuntimeError("the application has ended the event loop")


def current_service() -> Service | None:
    """The service on whose own loop the caller is."""
    service: Service | None = getattr(_current, "service", None)
    # In a child that was forked on a loop's thread, this is that thread no more.
    return service if service is not None and service.on_loop() else None
