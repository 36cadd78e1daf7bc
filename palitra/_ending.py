"""Ending: how a service ends, and what ends with it.

The order of the end, each step on the loop: no further call -> the calls are waited for -> services
are cancelled, and have a second -> contexts are left, last in first out -> the host ends.

Who begins the end, and who goes on with it

    Whoever ends a service puts the state that refuses calls into `requested`, with `setdefault`:
    the first to come decides which state that is. Then `wind_down` is posted, which goes on if
    nothing is left that the end waits for, and does nothing otherwise. Whoever takes the last call
    out of the register posts `wind_down` too, after it has looked at `requested`. So one of the two
    goes on, and it does no harm if both do: `clean_up` is the end that is under way.

    A loop that never started has nobody to go on: whoever ends the service then does so in its own
    thread, once the host has agreed that the loop never starts.

What can hold up the end

    A call or a context that ignores cancellation. Every wait for the end has a limit, or is a
    user's own wish: `shutdown` without a limit. `abandon_at_exit` settles what is left.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import enum
import functools
import logging
import threading
import time
import weakref
from _thread import get_ident
from collections.abc import Awaitable, Callable, Collection
from typing import Any

from ._calls import GRACE, Call, Calls, describe
from ._hosts import Host, all_done, say_nothing_of
from ._inbox import Inbox
from ._waiting import Deadline, Moment
from ._words import name_of, shown
from ._workers import WorkerThreads

LOGGER = logging.getLogger("palitra")
_NAMED = 10  # calls that a text names
_LOOK = 0.05  # seconds between looks at threads that nobody can join
PAUSE = 0.01  # seconds before trying again to change a future that another thread looks at


class State(enum.Enum):
    NEW = "not started"
    RUNNING = "running"
    SHUTDOWN = "shut down"
    EXITING = "ending with the interpreter"
    BROKEN = "broken"


class Contexts:
    """The contexts to leave at the end, last in first out. Used on the loop only."""

    def __init__(self) -> None:
        self.entered: dict[Callable[..., Awaitable[object]], None] = {}
        self.leaving: Callable[..., Awaitable[object]] | None = None  # is being left now
        # The exception that the body of the executor's `with` statement has raised, and is to be
        # told; and the one that the contexts have suppressed.
        self._body_error: BaseException | None = None
        self._suppressed: BaseException | None = None
        # Whether no `with` block can be finished any more that has not ended: the interpreter
        # exits, or the executor was dropped. Set before the contexts are left.
        self.orphaned = False

    def tell(self, error: BaseException | None) -> None:
        """Tell the contexts of *error*, which ends the executor's `with` statement.

        Of two threads that end one executor so, one is heard. The exception of the other goes on
        all the same, since only the one that was told can be suppressed.
        """
        if self._body_error is None:
            self._body_error = error

    def have_suppressed(self, error: BaseException | None) -> bool:
        """After the end: whether the contexts have suppressed *error*. Forget it."""
        self._body_error = None
        if error is None or self._suppressed is not error:
            return False
        self._suppressed = None
        return True

    async def leave_all(self) -> None:
        """Leave each context. If leaving one raises, report that, and go on with the others.

        If that comes of an exception of the body, the others see what has become of it, as in an
        `AsyncExitStack`. Otherwise they have nothing to do with it.
        """
        loop = asyncio.get_running_loop()
        error = told = self._body_error
        while self.entered:
            leave, _ = self.entered.popitem()
            self.leaving = leave
            try:
                if await leave(error):
                    error = None
            except BaseException as exc:
                if error is not None and not issubclass(type(exc), asyncio.CancelledError):
                    error = exc
                loop.call_exception_handler(
                    {"message": f"{name_of(leave)} failed at shutdown", "exception": exc}
                )
            finally:
                self.leaving = None
        if error is None and told is not None:
            self._suppressed = told
        self._body_error = error


class Postponed:
    """What the loop is to run after a pause, see `Service.later`; or the end, if the loop did not.

    Who takes a callback out runs it, so that each is run once.
    """

    def __init__(self) -> None:
        self._callbacks: dict[Callable[[], object], None] = {}
        self._running: dict[int, None] = {}  # the threads that are in `run_all`

    def add(self, callback: Callable[[], object]) -> None:
        self._callbacks[callback] = None

    def run(self, callback: Callable[[], object]) -> None:
        if self._callbacks.pop(callback, self) is None:
            callback()

    def run_all(self) -> None:
        """After the end of the loop: run all, and what they postpone in their turn."""
        me = get_ident()
        if me in self._running:
            return  # a callback has postponed something: the caller of that callback goes on
        self._running[me] = None
        try:
            while self._callbacks:
                for callback in list(self._callbacks):
                    try:
                        self.run(callback)
                    except BaseException:  # as in `Ending.fail_calls`
                        LOGGER.critical("exception in a done-callback", exc_info=True)
                if self._callbacks:
                    time.sleep(PAUSE)
        finally:
            del self._running[me]


def _cancel_newest_first(calls: Collection[Call]) -> None:
    for call in reversed(list(calls)):
        call.cancel_on_loop()


async def _end_services(calls: Calls, host: Host) -> None:
    """Cancel the services, and give them a second; leave those behind that need longer."""
    services = list(calls.services)
    if not services:
        return
    _cancel_newest_first(services)
    tasks = [call.task for call in services if call.task is not None]
    if tasks:
        await all_done(asyncio.get_running_loop(), tasks, GRACE)
    left = list(calls.services)
    for call, description in zip(left, describe(left, host), strict=True):
        LOGGER.warning("left behind at the end: %s", description)
        calls.leave_behind(call)
        for task in call.tasks():
            say_nothing_of(task)


async def _end_strays(tasks: list[asyncio.Task[Any]]) -> None:
    """End *tasks*, which user code has started beside its calls, and its async generators.

    They may hold what contexts hold, such as a connection with a thread. They have a second.
    """
    loop = asyncio.get_running_loop()
    for task in tasks:
        task.cancel()
    await all_done(loop, tasks, GRACE)
    for generator in list(getattr(loop, "_asyncgens", ())):
        try:
            await generator.aclose()
        except Exception as exc:
            message = f"closing {name_of(generator)} failed at exit"
            loop.call_exception_handler({"message": message, "exception": exc})


class Ending:
    """The end of a service: who wants it, what it waits for, and who waits for it."""

    def __init__(
        self,
        requested: dict[str, State],
        calls: Calls,
        inbox: Inbox,
        workers: WorkerThreads,
        host: Host,
    ) -> None:
        # Empty, until somebody ends the service. Then the state that refuses calls, under one key.
        self.requested = requested
        self._calls = calls
        self._inbox = inbox
        self._workers = workers
        self._host = host
        self.cause: BaseException | None = None  # why the state is BROKEN
        self.contexts = Contexts()
        # In this order: the loop has nothing left to do but the host's clean-up; that is done, and
        # no call is settled any more but by those who find it unsettled; everybody may know.
        self.done = False
        self.ended = False
        self.over = Moment()
        # When the contexts of the exit were left, for which threads may wait. Calls may follow.
        self.contexts_left = Moment()
        self._said = ""  # what was left behind at exit, as it was named
        self.postponed = Postponed()
        self.given_up: list[Call] = []  # calls that still ran when the exit stopped waiting
        # The tasks of calls on a borrowed loop, whose other tasks are the application's.
        self.tasks: weakref.WeakSet[asyncio.Task[None]] = weakref.WeakSet()
        # Tasks of user code that were cancelled because of the end, which is done once.
        self.cancelled: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        self.clean_up: asyncio.Task[None] | None = None  # leaves the contexts, or ends the loop

    # -- why ----------------------------------------------------------------------------------

    @property
    def state(self) -> State | None:
        """The state that the end has brought about; None if no end is requested."""
        return self.requested.get("state")

    def refusal(self) -> Exception:
        """Why no call is accepted."""
        if self.state is State.BROKEN:
            return self.failure()
        what = "interpreter shutdown" if self.state is State.EXITING else "shutdown"
        return RuntimeError(f"cannot schedule new futures after {what}")

    def failure(self) -> concurrent.futures.BrokenExecutor:
        """The error for calls that a failure of the loop has ended."""
        if self.cause is None:
            return concurrent.futures.BrokenExecutor("the event loop has ended")
        error = concurrent.futures.BrokenExecutor(f"the event loop failed: {shown(self.cause)}")
        error.__cause__ = self.cause
        return error

    @property
    def loop_ends(self) -> bool:
        """Whether only the clean-up of the loop is left, which cancels all tasks."""
        return self.done or self._host.failure() is not None

    def host_failure(self) -> BaseException | None:
        """The error for a call that the end of its loop has cancelled; None if the loop goes on."""
        cause = self._host.failure()
        if cause is not None:
            self.break_with(cause)
        return None if self.cause is None else self.failure()

    # -- beginning the end, in any thread -----------------------------------------------------

    def begin_exit(self) -> None:
        """As `shut_down`, because the interpreter ends."""
        self.shut_down(State.EXITING)

    def shut_down(self, state: State = State.SHUTDOWN) -> None:
        """Accept no more calls; end the service when its calls are finished."""
        self.requested.setdefault("state", state)
        if self._host.end_unstarted():
            # Ctrl-C may come here: whoever ends the service again does all of this again.
            self.done = self.ended = True
            self._inbox.close()
            self.contexts_left.happen()
            self.over.happen()
        else:
            self._inbox.post(self.wind_down)

    def break_with(self, cause: BaseException) -> None:
        """Refuse all further calls because of *cause*, and fail those there are."""
        if self.cause is None:
            self.cause = cause
        if self.requested.setdefault("state", State.BROKEN) is State.BROKEN:
            self._inbox.post(self.fail_calls)
            self._inbox.post(self.wind_down)

    def lose_threads(self, cause: BaseException) -> None:
        """As `break_with`, where the initializer of a worker thread has failed.

        Fail the calls also if the service was ending, and waits for jobs that no thread will do.
        """
        self.break_with(cause)
        self._inbox.post(self.fail_calls)
        self._inbox.post(self.wind_down)

    def cancel_calls(self, *, clean_up: bool = False) -> None:
        """Cancel every call that can be cancelled, and has not been yet; *clean_up*: really every.

        Without *clean_up*, not what leaves a context or closes an iterator. And no service: calls
        may need services for their clean-up, so the end cancels services after the calls.
        """
        # Cancel newest first, so that a freed slot starts no call that is about to be cancelled.
        for call in reversed(self._calls.snapshot()):
            if call.kind != "service" and (clean_up or not call.is_clean_up):
                call.cancel_once()

    def cancel_services(self) -> None:
        """Cancel the services, though calls are left that may need them: time is running out."""
        self._inbox.post(functools.partial(_cancel_newest_first, self._calls.services))

    def cancel_everything(self) -> None:
        """Cancel what the end of the loop waits for, once: its calls, or else the clean-up."""
        if self._calls.waited:
            self.cancel_calls(clean_up=True)
        else:
            self._inbox.post(self._cancel_tasks)

    def _cancel_tasks(self) -> None:
        if self.clean_up is None and not self.done:
            return  # there is no clean-up yet, and contexts are not to end before they are left
        # The clean-up waits for what the tasks do then, and ends the loop. Contexts that are left
        # later, in their turn, are in use until then.
        spared = {self.clean_up}
        for leave in self.contexts.entered:
            spared.update(getattr(leave, "tasks", list)())
        for task in list(self.tasks) if self._host.is_borrowed else asyncio.all_tasks():
            # What has been cancelled is at its clean-up, such as a service that the end cancels.
            if task not in spared and not getattr(task, "cancelling", int)():
                self.cancelled.add(task)
                task.cancel()

    # -- going on, on the loop ----------------------------------------------------------------

    def add_exit(self, leave: Callable[..., Awaitable[object]]) -> None:
        """On the loop: await *leave* before the loop ends, before those that were added earlier."""
        if self.done:
            raise self.refusal()
        self.contexts.entered[leave] = None

    def wind_down(self) -> None:
        """On the loop: once no call is left, leave the entered contexts and stop."""
        waiting = self._calls.waited
        if self.requested and waiting and not self.done:
            self.staff()  # a call without a thread would be waited for in vain
        if self.requested and not (waiting or self.loop_ends or self.clean_up is not None):
            # Not `loop.create_task`: a user's task factory must not get this task.
            self.clean_up = asyncio.Task(self._finish(), loop=asyncio.get_running_loop())
            self.clean_up.add_done_callback(self._finished)

    def staff(self) -> None:
        """Start a thread for jobs that have none: Ctrl-C may have kept `accept` from doing so."""
        if not self._workers.jobs.empty():
            with contextlib.suppress(RuntimeError):
                self._workers.grow(self.lose_threads)

    async def _finish(self) -> None:
        await _end_services(self._calls, self._host)
        if self.state is State.EXITING:
            self.contexts.orphaned = True
        await self.contexts.leave_all()
        self.done = True
        self.contexts_left.happen()
        self._host.finish(self)

    def _finished(self, task: asyncio.Task[None]) -> None:
        """On the loop: begin again if user code has ended the task by cancelling all tasks."""
        self.clean_up = None
        if self.done:
            self._host.finish(self)  # again: Ctrl-C may have come before
        elif not self.loop_ends:
            if not task.cancelled():
                task.exception()  # mark it as retrieved; the loop has reported it already
            self.wind_down()

    def leave_contexts(self, after: Collection[threading.Thread] = ()) -> None:
        """In any thread: have the contexts left that are entered now, though calls may follow.

        But not before all threads of *after* have ended: the loop looks, where no thread is to be
        had that could join them.
        """
        if self._host.end_unstarted():
            self.contexts_left.happen()
            return
        self._inbox.post(functools.partial(self._leave_contexts_early, after))

    def _leave_contexts_early(self, after: Collection[threading.Thread] = ()) -> None:
        async def leave() -> None:
            # First: services may use the contexts, in their clean-up too.
            await _end_services(self._calls, self._host)
            self.contexts.orphaned = True
            await self.contexts.leave_all()
            if not self._host.is_borrowed:
                spared = {task for call in self._calls.snapshot() for task in call.tasks()}
                strays = asyncio.all_tasks() - spared - {asyncio.current_task()}
                self.cancelled.update(strays)
                await _end_strays(list(strays))

        if any(thread.is_alive() for thread in after):
            asyncio.get_running_loop().call_later(_LOOK, self._leave_contexts_early, after)
        elif self.clean_up is None and not self.done:
            self.clean_up = asyncio.Task(leave(), loop=asyncio.get_running_loop())
            self.clean_up.add_done_callback(self._left_early)

    def _left_early(self, task: asyncio.Task[None]) -> None:
        self.clean_up = None
        if not task.cancelled() and task.exception() is None and not self.contexts.entered:
            self.contexts_left.happen()
        else:
            self._leave_contexts_early()
        self.wind_down()

    def fail_calls(self, calls: list[Call] | None = None, *, leave: bool = False) -> None:
        """Fail the calls that are left, since the loop has failed or ended; *leave*: see `fail`."""
        for call in self._calls.snapshot() if calls is None else calls:
            try:
                call.fail(self.failure(), leave=leave)
            except BaseException:  # raised by a done-callback; settle the other calls nevertheless
                LOGGER.critical("exception in a done-callback", exc_info=True)

    def end_here(self) -> None:
        """By the host, once the loop does nothing more for the service: settle, and say so.

        In a thread that Ctrl-C does not reach.
        """
        self.done = True
        self._workers.stop()
        self.ended = True
        self.fail_calls()
        self.postponed.run_all()
        self._inbox.close()
        self.contexts_left.happen()
        self.over.happen()

    # -- waiting for the end, in any thread but the loop's ------------------------------------

    def wait(self, deadline: Deadline) -> bool:
        """Wait for the end of the loop and of all threads; False at the limit."""

        def is_over(seconds: float) -> bool:
            self._host.check(self, at_end=True)
            return self.over.wait(seconds)

        return deadline.wait(is_over) and self._host.join(deadline) and self._workers.join(deadline)

    def wait_for_calls(self, seconds: float) -> bool:
        """Wait for the calls that were in flight when this was first called; False if too long."""
        self._host.check(self, at_end=True)
        self._inbox.ring()  # Ctrl-C may have kept a caller from ringing
        return self.over.passed or self._calls.wait_for_these(seconds)

    def waited_for(self, otherwise: str = "clean-up") -> str:
        """What the end waits for, by name, for a text; *otherwise* where there are no names."""
        calls = list(self._calls.waited)
        if not calls and self.requested:
            calls = list(self._calls.services)
        names = describe(calls[:_NAMED], self._host)
        if len(calls) > _NAMED:
            names.append(f"{len(calls) - _NAMED} more")
        if self._calls.hold(self._host.loop):
            names += describe(list(self._calls.unheard), self._host)
        leaving = self.contexts.leaving
        if leaving is not None:
            names.append(name_of(leaving))
        if not names:
            names = [*self._workers.names(), *self._host.thread_names()]
        if not names:
            names = [name_of(leave) for leave in list(self.contexts.entered)[:_NAMED]]
        return ", ".join(names) or otherwise

    def abandon_at_exit(self, *, goes_on: bool = False) -> str:
        """End the waiting at exit: fail what is left, and say what that is; empty if nothing.

        *goes_on*: handlers that come later in the exit may still call.
        """
        if not goes_on:
            self.requested.setdefault("state", State.EXITING)
        names = self.waited_for("" if goes_on or self.over.passed else "clean-up")
        if names == self._said:
            names = ""  # an earlier hook has left the same behind
        self._said = names or self._said
        self.given_up = self._calls.snapshot()
        with contextlib.suppress(RuntimeError):  # one more began just now
            for task in list(self.tasks):
                say_nothing_of(task)
        # Done-callbacks run in this thread, and may shut the service down. So nothing is left that
        # they would wait for in vain when the first of them is called.
        for call in self.given_up:
            self._calls.discard(call)
        self._workers.leave_behind()
        self._host.leave_behind()
        if not goes_on:
            self.over.happen()
        self.fail_calls(self.given_up, leave=True)
        return names
