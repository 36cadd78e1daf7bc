"""Service: accepts calls, and ends. It knows no thread; its host says whose loop it is.

The five invariants of palitra, and where they are kept

    1. Nothing on the loop waits for a lock. Calls are handed over through `_inbox`, whose `put` and
       `_drain` take none; a future's lock, which foreign code may hold, is tried and never waited
       for (`FutureCall._change`).
    2. No lock of ours is taken with `with` in a thread that Ctrl-C can interrupt: there is no lock
       of ours to take, but for the waiter's own in `_waiting`, which nobody else waits for.
    3. Two threads agree by writing first and looking second, or by taking a permission (`_waiting`
       says how). The pairs: acceptance and end (below), `put` and `_drain` (`_inbox`), sleepers and
       callbacks and the state of a call (`_calls`).
    4. What an interruption leaves half done is finished on the loop: `withdraw` and
       `FutureCall.instead` (`_futures`), and `staff` here, for a job without a thread.
    5. The outcome is there before the state says so, the state before anybody is told, and each is
       told once (`Call._keep_error`, `FutureCall._change`, `_tell_and_leave`).

Guarantees
    * A call that `accept` took is settled, whatever happens: by its own end, by the failure of the
      loop, by a fork in the child, by an exit that leaves it behind. A call that `accept` refused
      never starts.
    * Calls start and callbacks given to `post` run on the loop, in the order of their arrival.
    * Methods that do not say "on the loop" may be called by any thread, by a signal handler, and by
      a finalizer in the middle of any other method.

Acceptance and end: write first, look second

    accept    adds the call to `calls`, then looks at `_end`
    the end   writes `_end`, then looks at `calls`
        Either `accept` sees the end and refuses, or the end sees the call and waits for it (or
        fails it, where the loop has died).

Ctrl-C can come at any call, and come again while the first is handled. It leaves no call of which
the loop knows nothing: from `calls` to the inbox there is nothing that it could interrupt.

The order of the end, each step on the loop: no further call -> the calls are waited for -> services
are cancelled, and have a second -> contexts are left, last in first out -> the host ends.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import enum
import functools
import logging
import sys
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

from palitra import _hooks
from palitra._calls import GRACE, Call, Calls, CallTimeoutError, DeadlockError, describe
from palitra._futures import FutureCall, Slots
from palitra._hosts import Host, all_done
from palitra._inbox import Callback, Inbox
from palitra._waiting import Deadline, Moment
from palitra._words import name_of
from palitra._workers import WorkerThreads

LOGGER = logging.getLogger("palitra")
_NAMED = 10  # calls that a text names
_PAUSE = 0.01  # seconds before trying again to change a future that another thread looks at


class State(enum.Enum):
    NEW = "not started"
    RUNNING = "running"
    SHUTDOWN = "shut down"
    EXITING = "ending with the interpreter"
    BROKEN = "broken"


class Watch(Protocol):
    """Tells when user code holds the loop for too long."""

    def begin(self) -> None:
        """Begin to watch; any number of times."""

    def held_for(self) -> float | None:
        """For how many seconds the loop has been held; None: it is not, or not known to be."""

    def join(self, deadline: Deadline) -> bool:
        """Wait for its end, which comes with that of the service; False at the limit."""


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
        # The state that refuses calls, once there is one: the first to come puts it here.
        self._end = end
        self.cause: BaseException | None = None  # of BROKEN
        self.calls = Calls()
        self.inbox = Inbox()
        self.contexts: dict[Callable[..., Awaitable[object]], None] = {}  # see `add_exit`
        self._leaving: Callable[..., Awaitable[object]] | None = None  # that which is being left
        self.body_error: BaseException | None = None  # of the `with` block that has ended
        self.slots = None if self._max_workers is None else Slots(self._max_workers)
        self.workers = WorkerThreads(self._max_threads, self.name_prefix, self.initialize)
        self.ready = False  # there is a loop, or was
        self.done = False  # the loop has nothing left to do but the host's clean-up
        self.ended = False  # and that is done
        self.over = Moment()  # the last thing that is said
        self.contexts_left = Moment()  # once all were left, though calls may follow
        self._ending: asyncio.Task[None] | None = None
        self.given_up: list[Call] = []  # at exit, while they went on
        # The tasks that are ours, where the others are the application's.
        self._tasks: weakref.WeakSet[asyncio.Task[None]] = weakref.WeakSet()
        self.host = self._make_host()
        self.watch = None if self._make_watch is None else self._make_watch(self)

    # -- state --------------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        """Whether a call would be accepted, as far as can be told from outside."""
        return not self._end

    @property
    def state(self) -> State:
        return self._end.get("state") or (State.RUNNING if self.ready else State.NEW)

    @property
    def broken(self) -> bool:
        return self._end.get("state") is State.BROKEN

    def refusal(self) -> Exception:
        """Why no call is accepted."""
        state = self.state
        if state is State.BROKEN:
            return self.failure()
        what = "interpreter shutdown" if state is State.EXITING else "shutdown"
        return RuntimeError(f"cannot schedule new futures after {what}")

    def failure(self) -> concurrent.futures.BrokenExecutor:
        """What the calls get that a failure has ended."""
        if self.cause is None:
            return concurrent.futures.BrokenExecutor("the event loop has ended")
        error = concurrent.futures.BrokenExecutor(f"the event loop failed: {self.cause!r}")
        error.__cause__ = self.cause
        return error

    @property
    def loop_ends(self) -> bool:
        """Whether the loop has nothing left to do but its clean-up, and cancels what there is."""
        return self.done or self.host.failure() is not None

    def host_failure(self) -> BaseException | None:
        """Why a call is cancelled that nobody has cancelled: its loop ends."""
        cause = self.host.failure()
        if cause is None:
            return None
        self.break_with(cause)
        return self.failure()

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
        self.host.check(self, at_end=False)

    def loop(self) -> asyncio.AbstractEventLoop:
        """The running loop, started if need be; raises where no call is accepted.

        But on the loop's own thread there is a loop until its end.
        """
        _hooks.check_process()
        if not self._end and not self.ready:
            self._start()
        loop = self.host.loop
        if loop is None or (self._end and not self.host.on_loop()):
            raise self.refusal()
        return loop

    def accept(self, call: Call) -> None:
        """Take over *call* and start it on the loop.

        Raises RuntimeError or BrokenExecutor where the call is refused. Ctrl-C can arrive anywhere
        in here; `holds` tells whether the call was taken then.
        """
        if not (self.ready and _hooks.mark[0] and _hooks.known.caller and _hooks.in_order()):
            self._begin()
        # Nothing that Ctrl-C could interrupt, from here to the inbox.
        self.calls.waited[call] = None
        if self._end:
            self.finished(call)  # the end may have waited for it, for a moment
            raise self.refusal()
        self.inbox.items.append(call)
        self.inbox.ring()

    def accept_for_worker(self, call: FutureCall[Any]) -> None:
        """Take over *call* and run it in a worker thread."""
        if not (self.ready and _hooks.mark[0] and _hooks.known.caller and _hooks.in_order()):
            self._begin()
        self.calls.waited[call] = None
        if self._end:
            self.finished(call)  # the end may have waited for it, for a moment
            raise self.refusal()
        self.workers.jobs.put(call)
        try:
            self.workers.grow(self.break_with)
        except RuntimeError:  # no thread can be had; the job finds its call withdrawn
            self.finished(call)
            raise

    def accept_service(self, call: FutureCall[Any]) -> None:
        """Take over *call*, which is cancelled when the other calls are over."""
        if not (self.ready and _hooks.mark[0] and _hooks.known.caller and _hooks.in_order()):
            self._begin()
        self.calls.services[call] = None
        if self._end:
            self.finished(call)  # the end may have waited for it, for a moment
            raise self.refusal()
        self.inbox.items.append(call)
        self.inbox.ring()

    def _begin(self) -> None:
        """Before a call: the first of its thread, or the first of all in this process."""
        _hooks.check_process()
        _hooks.know_this_thread()
        _hooks.outlast_no_pool()
        if not self._end and not self.ready:
            self._start()

    def _start(self) -> None:
        self.host.start(self)
        if self.watch is not None:
            self.watch.begin()

    def staff(self) -> None:
        """See to it that jobs have a thread: Ctrl-C may have come before there was one."""
        if not self.workers.jobs.empty():
            with contextlib.suppress(RuntimeError):
                self.workers.grow(self.break_with)

    def holds(self, call: Call) -> bool:
        """Whether *call* was accepted and the loop is still there to settle it."""
        return call in self.calls and not self.ended

    def finished(self, call: Call) -> None:
        """Let go of *call*: its body has ended, and everybody has been told."""
        calls = self.calls
        if calls.waited.pop(call, calls) is calls or calls.watched:
            calls.discard(call)
        if self._end and not calls.waited:
            self.post(self._wind_down)

    def leave_behind(self, call: Call) -> None:
        """Wait for *call* no more, at no shutdown and no exit."""
        self.calls.leave_behind(call)
        self.post(call.left_behind)
        if self._end and not self.calls.waited:
            self.post(self._wind_down)

    def post(self, callback: Callable[[], object]) -> None:
        """Run *callback*, which raises nothing, on the loop; lost where the loop has ended."""
        self.inbox.put(Callback(callback))

    def later(self, callback: Callable[[], object]) -> None:
        """Run *callback* on the loop in a while, or here, where there is no loop any more."""
        if self.done:
            time.sleep(_PAUSE)
            callback()
        else:
            self.post(functools.partial(self._call_later, callback))

    def _call_later(self, callback: Callable[[], object]) -> None:
        asyncio.get_running_loop().call_later(_PAUSE, callback)

    def create_task(
        self,
        coro: Coroutine[Any, Any, None],
        context: contextvars.Context | None,
        target: object,
    ) -> asyncio.Task[None]:
        """On the loop: start *coro* at once, where asyncio can and no task factory decides.

        So a coroutine that does not suspend costs no turn of the loop. A task that does not start
        at once can be cancelled before *coro* runs a line, and callers provide for that. In debug
        mode none does: asyncio tells there how long each step of a task took, and of which.
        """
        loop = asyncio.get_running_loop()
        name = getattr(target, "__qualname__", None)
        if type(name) is not str:
            name = name_of(target)
        task: asyncio.Task[None]
        if loop.get_task_factory() is not None:  # which may know nothing of names
            task = loop.create_task(coro, context=context)
            with contextlib.suppress(AttributeError):
                task.set_name(name)
        elif sys.version_info >= (3, 12) and not loop.get_debug():
            task = asyncio.Task(coro, loop=loop, context=context, name=name, eager_start=True)
        else:
            task = loop.create_task(coro, context=context, name=name)
        if self.host.is_borrowed:
            self._tasks.add(task)
        return task

    # -- ending -------------------------------------------------------------------------------

    def shut_down(self) -> None:
        """Accept no more calls; the service ends when those it has are finished."""
        self._end_with(State.SHUTDOWN)

    def begin_exit(self) -> None:
        """As `shut_down`, because the interpreter ends."""
        self._end_with(State.EXITING)

    def break_with(self, cause: BaseException) -> None:
        """Refuse all further calls because of *cause*, and fail those there are."""
        if self.cause is None:
            self.cause = cause
        if self._end.setdefault("state", State.BROKEN) is State.BROKEN:
            self.post(self.fail_calls)
            self.post(self._wind_down)

    def _end_with(self, state: State) -> None:
        self._end.setdefault("state", state)
        if self.host.end_unstarted():
            self.done = self.ended = True
            self.contexts_left.happen()
            self.over.happen()
        else:
            self.post(self._wind_down)

    def cancel_calls(self) -> None:
        """Cancel every call that can be cancelled, and is not yet."""
        # The last first: none shall start in the place of one that is cancelled before it.
        for call in reversed(self.calls.snapshot()):
            call.cancel_once()

    def cancel_everything(self) -> None:
        """Cancel what the end of the loop waits for: its calls, then the clean-up itself."""
        if self.calls.waited:
            self.cancel_calls()
        else:
            self.post(self._cancel_tasks)

    def _cancel_tasks(self) -> None:
        for task in list(self._tasks) if self.host.is_borrowed else asyncio.all_tasks():
            if task is not self._ending:  # it waits for their clean-up, and ends the loop
                task.cancel()

    def leave_contexts(self) -> None:
        """Have the contexts left that are entered now, though calls may follow."""
        if self.host.end_unstarted():
            self.contexts_left.happen()
            return
        self.post(self._leave_contexts_early)

    def _leave_contexts_early(self) -> None:
        if self._ending is None and not self.done:
            loop = asyncio.get_running_loop()
            self._ending = asyncio.Task(self.leave_all_contexts(), loop=loop)
            self._ending.add_done_callback(self._left_early)

    def _left_early(self, task: asyncio.Task[None]) -> None:
        self._ending = None
        if not task.cancelled() and task.exception() is None and not self.contexts:
            self.contexts_left.happen()
        else:
            self._leave_contexts_early()
        self._wind_down()

    def add_exit(self, leave: Callable[..., Awaitable[object]]) -> None:
        """On the loop: await *leave* before the loop ends, before those that were added earlier."""
        if self.done:
            raise self.refusal()
        self.contexts[leave] = None

    def _wind_down(self) -> None:
        """On the loop: once no call is left, leave the entered contexts and stop."""
        if self._end and self.calls.waited and not self.done:
            self.staff()
        if self._end and not (self.calls.waited or self.loop_ends or self._ending is not None):
            # Whatever task factory there is.
            loop = asyncio.get_running_loop()
            self._ending = asyncio.Task(self._end_on_loop(), loop=loop)
            self._ending.add_done_callback(self._wound_down)

    def _wound_down(self, task: asyncio.Task[None]) -> None:
        """On the loop: begin again where user code has ended the task, cancelling all there are."""
        self._ending = None
        if not self.loop_ends:
            if not task.cancelled():
                task.exception()  # which has gone to the loop as well
            self._wind_down()

    async def _end_on_loop(self) -> None:
        await self._end_services()
        await self.leave_all_contexts()
        self.done = True
        self.contexts_left.happen()
        self.host.finish(self)

    async def _end_services(self) -> None:
        services = list(self.calls.services)
        if not services:
            return
        for call in reversed(services):
            call.cancel_on_loop()
        tasks = [call.task for call in services if call.task is not None]
        if tasks:
            await all_done(asyncio.get_running_loop(), tasks, GRACE)
        left = list(self.calls.services)
        for call, description in zip(left, describe(left, self.host), strict=True):
            LOGGER.warning("left behind at the end: %s", description)
            self.calls.leave_behind(call)

    async def leave_all_contexts(self) -> None:
        loop = asyncio.get_running_loop()
        error = self.body_error
        while self.contexts:
            leave, _ = self.contexts.popitem()
            self._leaving = leave
            try:
                if await leave(error):
                    error = None
            except BaseException as exc:
                loop.call_exception_handler(
                    {"message": f"{name_of(leave)} failed at shutdown", "exception": exc}
                )
            finally:
                self._leaving = None
        self.body_error = error

    def fail_calls(self) -> None:
        """Settle what can only be settled so: the loop has failed or ended."""
        for call in self.calls.snapshot():
            self._fail(call, leave=False)

    def _fail(self, call: Call, *, leave: bool) -> None:
        try:
            call.fail(self.failure(), leave=leave)
        except BaseException:  # the other calls are to be settled, whatever this one's user wants
            LOGGER.critical("exception in a done-callback", exc_info=True)

    def end_here(self) -> None:
        """By the host, in the thread of the loop, which has ended: settle, and say so."""
        self.done = True
        self.workers.stop()
        self.ended = True
        self.fail_calls()
        self.inbox.close()
        self.contexts_left.happen()
        self.over.happen()

    # -- waiting for the end ------------------------------------------------------------------

    def join(self, timeout: float | None) -> None:
        """Wait for the end of everything; CallTimeoutError that says what is left after *timeout*.

        The exit of the process does not wait again for what a limit has passed for: it cancels.
        """
        deadline = Deadline(timeout)
        if not self.wait_for_end(deadline):
            self.exit_timeout = 0.0
            raise CallTimeoutError(
                f"shutdown() timed out after {timeout:g} s, still waiting for {self.waited_for()}"
            )

    def wait_for_end(self, deadline: Deadline) -> bool:
        """Wait for the end of the loop and of all threads; False at the limit."""

        def is_over(seconds: float) -> bool:
            self.host.check(self, at_end=True)
            return self.over.wait(seconds)

        return (
            deadline.wait(is_over)
            and self.host.join(deadline)
            and self.workers.join(deadline)
            and (self.watch is None or self.watch.join(deadline))
        )

    def wait_for_calls(self, seconds: float) -> bool:
        """Wait for the calls that were in flight when this was first called; False if too long."""
        self.host.check(self, at_end=True)
        self.inbox.ring()  # Ctrl-C may have kept somebody from it
        return self.over.passed or self.calls.wait_for_these(seconds)

    def waited_for(self) -> str:
        """What the end waits for, by name, for a text."""
        calls = list(self.calls.waited) or (list(self.calls.services) if self._end else [])
        names = describe(calls[:_NAMED], self.host)
        if len(calls) > _NAMED:
            names.append(f"{len(calls) - _NAMED} more")
        leaving = self._leaving
        if leaving is not None:
            names.append(name_of(leaving))
        if not names:
            names = [*self.workers.names(), *self.host.thread_names()]
        return ", ".join(names) or "clean-up"

    def abandon_at_exit(self) -> str:
        """End the waiting at exit: fail what is left, and say what that is; empty if nothing."""
        names = "" if self.over.passed else self.waited_for()
        self._end.setdefault("state", State.EXITING)
        self.given_up = self.calls.snapshot()
        for call in self.given_up:
            self._fail(call, leave=True)
        self.workers.leave_behind()
        self.host.leave_behind()
        self.over.happen()
        return names

    def is_own_thread(self) -> bool:
        """Whether the caller is on the loop's thread or one of the worker threads."""
        return self.host.on_loop() or threading.current_thread() in self.workers.threads

    @property
    def ends_with_main_thread(self) -> bool:
        """Whether the interpreter would wait for the loop's thread before it runs atexit."""
        return self.host.ends_with_main_thread

    # -- fork ---------------------------------------------------------------------------------

    def after_fork_in_child(self) -> None:
        """Start afresh: the parent's thread, its loop and its locks are not here.

        Called again where it is interrupted.
        """
        calls = self.calls.snapshot()
        self._orphans += calls
        loop = self.host.loop
        if loop is not None:
            # They stay untouched as long as this process lives: closing the loop, or ending its
            # tasks, would act on sockets that the parent goes on using.
            self._abandoned += (loop, asyncio.all_tasks(loop), calls, self.contexts)
        self.inbox.abandon()
        self.host.abandon()
        # This thread may wait for one of them, and have forked in a signal handler.
        self.contexts_left.happen()
        self.over.happen()
        self.calls.abandon()
        self.workers.abandon()
        end = self._end.get("state")
        self._reset({"state": end} if end is State.SHUTDOWN else {})
        while self._orphans:
            self._orphans[-1].abandon(
                concurrent.futures.BrokenExecutor(
                    "this call belongs to the parent process, where it goes on; make it again here"
                )
            )
            self._orphans.pop()
