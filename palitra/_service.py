"""Service: accepts calls for a loop, and keeps them. It knows no thread: its host does.

The five invariants of palitra, and where they are kept

    1. Nothing on the loop waits for a lock. Calls are handed over through `_inbox`, whose `put` and
       `_drain` take none; a future's lock, which foreign code may hold, is tried and never waited
       for (`FutureCall._change`). What `aclose` joins on a borrowed loop are threads that have said
       that they end.
    2. No lock of ours is taken with `with` in a thread that Ctrl-C can interrupt: there is no lock
       of ours to take, but for the waiter's own in `_waiting`, which nobody else waits for.
    3. Two threads agree by writing first and looking second, or by taking a permission (`_waiting`
       says how). The pairs: acceptance and end (below), `put` and `_drain` (`_inbox`), sleepers and
       callbacks and the state of a call (`_calls`), what is postponed and the end (`later`). The
       permissions: to start a call and to settle it (`_calls`), to ring (`_inbox`), to start a
       worker thread and to count on one (`_workers`), to run what was postponed (`Postponed`), and
       what `setdefault` gives to the first who comes: which end it is (`Ending.requested`), and
       which thread runs or watches the loop (`_hosts`).
    4. What an interruption leaves half done is finished on the loop: `FutureCall.undone` and
       `withdrawn` (`_futures`), and `Ending.staff`, for a job without a thread. Where no loop can
       do so, there are two more ways: the end of a borrowed loop is finished by its watcher, a
       thread that Ctrl-C does not reach (`BorrowedLoop`); and whoever ends a service that never
       started does all of it, although somebody else may have begun (`Ending.shut_down`).
    5. The outcome is there before the state says so, the state before anybody is told, and each is
       told once (`Call._keep_error`, `FutureCall._change`, `_tell_and_leave`).

Guarantees
    * A call that `accept` took is settled, whatever happens: by its own end, by the failure of the
      loop, by a fork in the child, by an exit that leaves it behind. A call that `accept` refused
      never starts.
    * Calls start and callbacks given to the inbox run on the loop, in the order of their arrival.
    * Methods that do not say "on the loop" may be called by any thread, by a signal handler, and by
      a finalizer in the middle of any other method.

Acceptance and end: write first, look second

    accept    adds the call to `calls`, then looks whether an end is requested
    the end   is requested (`_ending`), then looks at `calls`
        Either `accept` sees the end and refuses, or the end sees the call and waits for it (or
        fails it, where the loop has died).

Ctrl-C can come at any call, and come again while the first is handled. The interpreter looks for
signals after it has called something, and nothing is called in `accept` between the line that adds
to `calls` and the one that appends to the inbox. So there is no call in `calls` that the loop never
hears of.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import functools
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from . import _hooks
from ._calls import Call, Calls, CallTimeoutError, DeadlockError
from ._ending import PAUSE, Ending, State
from ._hosts import Host
from ._inbox import Inbox
from ._slots import Slots
from ._waiting import Deadline, clock
from ._words import name_of
from ._workers import Job, WorkerThreads


class Watch(Protocol):
    """Tells when user code holds the loop for too long."""

    def begin(self) -> None:
        """Begin to watch; further calls do nothing."""

    def held_for(self) -> float | None:
        """For how many seconds the loop has been held; None if it is not known to be held."""

    def join(self, deadline: Deadline) -> bool:
        """Wait for the end of the watch, which ends with the service; False at the limit."""


class Service:
    """What an executor does: accepts calls for a loop, keeps the register, and ends."""

    def __init__(
        self,
        name_prefix: str,
        max_workers: int | None,
        max_threads: int,
        initialize: Callable[[], object] | None,
        exit_timeout: float | None,
        make_host: Callable[[], Host],
        make_watch: Callable[[Service], Watch] | None = None,
    ) -> None:
        self.name_prefix = name_prefix
        self._max_workers = max_workers
        self._max_threads = max_threads
        self.initialize = initialize
        self.exit_timeout = exit_timeout
        self._make_host = make_host
        self._make_watch = make_watch
        self._abandoned: list[object] = []
        self._orphans: list[Call] = []  # in a forked child: the parent's calls, to be settled
        self._reset({})

    def _reset(self, end: dict[str, State]) -> None:
        self.calls = Calls()
        self.inbox = Inbox()
        self.slots = None if self._max_workers is None else Slots(self._max_workers)
        self.workers = WorkerThreads(self._max_threads, self.name_prefix, self.initialize)
        self.ready = False  # whether the loop has been started
        self.host = self._make_host()
        self.ending = Ending(end, self.calls, self.inbox, self.workers, self.host)
        self._end = end  # the ending's `requested`
        self.watch = None if self._make_watch is None else self._make_watch(self)

    # -- state --------------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        """Whether a call would be accepted, as far as can be told from outside."""
        return not self._end

    @property
    def state(self) -> State:
        """Whether the service is new, running or ending."""
        return self.ending.state or (State.RUNNING if self.ready else State.NEW)

    def on_loop(self) -> bool:
        """Whether the caller is on the loop's thread."""
        return self.host.on_loop()

    def refuse_on_loop(self, what: str) -> None:
        """Raise DeadlockError where *what* would wait for the thread that it is called on."""
        if self.host.on_loop():
            raise DeadlockError(
                f"{what} would wait for its own thread, the event loop's: inside a coroutine, "
                "'await' the coroutine, or asyncio.wrap_future(future), instead"
            )

    # -- accepting ----------------------------------------------------------------------------

    def check_process(self) -> None:
        """Start afresh in a child of a fork that has run none of Python's hooks."""
        _hooks.check_process()

    def notice_lost_loop(self) -> None:
        """Refuse further calls where the application's loop is closed."""
        self.host.check(self.ending, at_end=False)

    def loop(self) -> asyncio.AbstractEventLoop:
        """Return the running loop, and start it if need be; raise if no call is accepted.

        On the loop's own thread, return the loop as long as it runs, accepting calls or not.
        """
        _hooks.check_process()
        if not self._end and not self.ready:
            self._start()
        self.notice_lost_loop()
        loop = self.host.loop
        if loop is None or (self._end and not self.host.on_loop()):
            raise self.ending.refusal()
        return loop

    def accept(self, call: Call, job: Job | None = None) -> None:
        """Take over *call*, and start it on the loop, or, as *job*, in a worker thread.

        Raises RuntimeError or BrokenExecutor if the call is refused. Ctrl-C can interrupt this
        method at any line; `holds` then tells whether the call was accepted.
        """
        if not (self.ready and _hooks.mark[0] and _hooks.known.caller and _hooks.in_order()):
            self._begin()
        # No line from here to the inbox calls anything, so that Ctrl-C comes before or after them.
        calls = self.calls
        (calls.services if call.kind == "service" else calls.waited)[call] = None
        if self._end and (self.ending.done or not call.is_of_call):
            self.finished(call)  # so that the end does not wait for a call that is refused
            raise self.ending.refusal()
        if job is None:
            self.inbox.items.append(call)
            self.inbox.ring()
            return
        self.workers.jobs.put(job)
        try:
            self.workers.grow(self.ending.lose_threads)
        except RuntimeError:  # no thread can start; the job does nothing, should it be taken later
            self.finished(call)
            raise

    def _begin(self) -> None:
        """Prepare for the first call of a thread, or the first call in this process."""
        _hooks.check_process()
        _hooks.know_this_thread()
        _hooks.outlast_no_pool()
        if not self._end and not self.ready:
            self._start()

    def _start(self) -> None:
        self.host.start(self)
        if self.watch is not None:
            self.watch.begin()

    def holds(self, call: Call) -> bool:
        """Whether *call* was accepted and the loop is still there to settle it."""
        return call in self.calls and not self.ending.ended

    def finished(self, call: Call) -> None:
        """Let go of *call*: its body has ended, and everybody has been told."""
        if not _hooks.mark[0]:
            _hooks.check_process()  # the call may have forked; its thread is to end in the child
        calls = self.calls
        if calls.waited.pop(call, calls) is calls or calls.watched:
            calls.discard(call)
        if self._end and not calls.waited:
            self.inbox.post(self.ending.wind_down)

    def leave_behind(self, call: Call) -> None:
        """Wait for *call* no more, at no shutdown and no exit."""
        self.calls.leave_behind(call)
        self.calls.unheard[call] = clock()
        self.inbox.post(functools.partial(self.calls.heard, call))
        if self._end and not self.calls.waited:
            self.inbox.post(self.ending.wind_down)

    def later(self, callback: Callable[[], object], pause: float = PAUSE) -> None:
        """Run *callback* on the loop after a pause; in this thread, if the loop has ended."""
        # Write first, look second: the end runs what the loop has not run.
        postponed = self.ending.postponed
        postponed.add(callback)
        run = functools.partial(postponed.run, callback)
        self.inbox.post(functools.partial(_call_later, pause, run) if pause else run)
        if self.ending.ended:
            postponed.run_all()

    def eager_loop(self) -> asyncio.AbstractEventLoop | None:
        """On the loop: the loop, where `create_task` starts a task at once and notes nothing."""
        loop = asyncio.get_running_loop()
        decided = loop.get_task_factory() is not None or loop.get_debug()
        if sys.version_info < (3, 12) or decided or self.host.is_borrowed:
            return None
        return loop

    def create_task(
        self,
        coro: Coroutine[Any, Any, None],
        context: contextvars.Context | None,
        target: object,
    ) -> asyncio.Task[None]:
        """On the loop: start *coro* at once, where asyncio can and no task factory decides.

        A coroutine that does not suspend then costs no turn of the loop. A task that does not start
        at once can be cancelled before *coro* runs a line, and callers provide for that. In debug
        mode no task starts at once, so that asyncio can say which step of which task took long.
        """
        loop = asyncio.get_running_loop()
        try:
            name = getattr(target, "__qualname__", None)
        except Exception:  # of a property of the user's
            name = None
        if type(name) is not str:
            name = name_of(target)
        task: asyncio.Task[None]
        if loop.get_task_factory() is not None:  # a factory may not take a name
            task = loop.create_task(coro, context=context)
            with contextlib.suppress(AttributeError):
                task.set_name(name)
        elif sys.version_info >= (3, 12) and not loop.get_debug():
            task = asyncio.Task(coro, loop=loop, context=context, name=name, eager_start=True)
        else:
            task = loop.create_task(coro, context=context, name=name)
        if self.host.is_borrowed:
            self.ending.tasks.add(task)
        return task

    # -- waiting for the end ------------------------------------------------------------------

    def join(self, timeout: float | None) -> None:
        """Wait for the end of all; after *timeout*, raise CallTimeoutError that says what is left.

        Once the limit has passed, the exit of the process does not wait again: it cancels the rest.
        """
        # A child that a signal handler forks meanwhile has others, and there these are over.
        ending, watch = self.ending, self.watch

        def is_over(seconds: float) -> bool:
            return _wait(ending, watch, Deadline(seconds)) or self._waits_in_vain()

        if not Deadline(timeout).wait(is_over):
            self.exit_timeout = 0.0
            left = self.ending.waited_for()
            raise CallTimeoutError(
                f"shutdown() timed out after {timeout:g} s, still waiting for {left}"
            )

    def _waits_in_vain(self) -> bool:
        """Whether there is only a call that was left behind, and it holds the loop."""
        if self.calls.waited or self.ending.contexts.entered:
            return False
        return self.calls.hold(self.host.loop)

    def wait_for_end(self, deadline: Deadline) -> bool:
        """Wait for the end of the loop and of all threads; False at the limit."""
        return _wait(self.ending, self.watch, deadline)

    def is_own_thread(self) -> bool:
        """Whether the caller is on the loop's thread, or on one that the end waits for."""
        thread = threading.current_thread()
        pool = self.host.asyncio_threads
        of_asyncio = pool is not None and thread in pool.workers.threads
        return of_asyncio or thread in self.workers.threads or self.host.on_loop()

    @property
    def exit_limit(self) -> float | None:
        """For how many seconds an exit waits: none where a call left behind holds the loop."""
        return 0.0 if self.calls.hold(self.host.loop) else self.exit_timeout

    @property
    def ends_with_main_thread(self) -> bool:
        """Whether the interpreter would wait for the loop's thread before it runs atexit."""
        return self.host.ends_with_main_thread

    # -- fork ---------------------------------------------------------------------------------

    def after_fork_in_child(self) -> None:
        """Start afresh, since the parent's threads do not exist in the child.

        If a signal handler interrupts this method, it is called again.
        """
        calls = self.calls.snapshot()
        self._orphans += calls
        loop = self.host.loop
        if loop is not None:
            # Keep the loop and its tasks as long as this process lives: closing the loop, or ending
            # its tasks, would act on sockets that the parent goes on using.
            self._abandoned += (loop, asyncio.all_tasks(loop), calls, self.ending.contexts)
        self.inbox.abandon()
        self.host.abandon()
        # The thread that forked may wait for these moments: it may have forked in a signal handler.
        self.ending.contexts_left.happen()
        self.ending.over.happen()
        self.calls.abandon()
        self.workers.abandon()
        end = self.ending.state
        self._reset({"state": end} if end is State.SHUTDOWN else {})
        while self._orphans:
            self._orphans[-1].abandon(
                concurrent.futures.BrokenExecutor(
                    "this call belongs to the parent process, where it goes on; make it again here"
                )
            )
            self._orphans.pop()


def _call_later(pause: float, callback: Callable[[], object]) -> None:
    asyncio.get_running_loop().call_later(pause, callback)


def _wait(ending: Ending, watch: Watch | None, deadline: Deadline) -> bool:
    return ending.wait(deadline) and (watch is None or watch.join(deadline))
