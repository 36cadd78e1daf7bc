"""The task that owns a bridged object, and the synchronous face that has it take steps.

One owner task enters, drives and leaves each bridged object. So whatever in the object belongs to a
task (cancel scopes, task groups, `ContextVar.reset`) finds the same task each time. A step (one
item, the entry, the exit) is a blocking call whose work the owner task does.

Who closes the object: its user, or `shutdown`, or whoever drops the last reference to its
synchronous face, whichever comes first. From its first step until it is finished, the object stands
among the contexts that `shutdown` leaves.

A cancel scope or a task group inside the object cancels the owner task when the scope ends, also
while the task is idle, between two steps. The owner then throws the `CancelledError` that it got
into the object, at once and unchanged. At once, because anyio cancels again on every turn of the
loop until its scope has been left; unchanged, because a scope swallows only the cancellation that
it knows as its own. What the object does with the error, a value or another error, waits in `ahead`
for the next step.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import inspect
import os
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar, cast

from .._calls import FINISHED, RUNNING, BlockingCall, Kind
from .._service import Service
from .._words import name_of, traceback_of, user_traceback

_T = TypeVar("_T")
# What a class of users may have replaced, and may not take: read and written by Python's own class.
_CONTEXT: Any = BaseException.__dict__["__context__"]
_EXCEPTIONS: Any = BaseExceptionGroup.__dict__["exceptions"]
_MESSAGE: Any = BaseExceptionGroup.__dict__["message"]


class Step(BlockingCall[_T]):
    """One thing for an owner task to do while the caller waits."""

    def __init__(self, owner: Owner, operation: Callable[[], Awaitable[_T]]) -> None:
        super().__init__(owner.service, None, owner.context)
        self.kind = owner.kind
        self._owner = owner
        self.operation = operation

    @property
    def name(self) -> str:
        return self._owner.name

    @property
    def in_flight(self) -> bool:
        return not self.settled

    @property
    def task(self) -> asyncio.Task[None] | None:
        return self._owner._task if self._owner._current is self else None

    @property
    def stands_in(self) -> object:
        return self._owner.work if self._owner._current is self else None

    def start(self) -> None:
        if self._take_claim():
            self._state = RUNNING
            try:
                self._begin()
            except BaseException as exc:
                self.fail(exc)

    def _begin(self) -> None:
        self._owner.take(self)

    def succeed(self, result: _T) -> None:
        """On the loop: settle with *result*."""
        if self._take_open():
            self._result = result
            del result
            self._settle(FINISHED)

    def keep(self, error: BaseException) -> None:
        """On the loop: store what `settle` is to settle with."""
        if issubclass(type(error), asyncio.CancelledError) and not self.cancelling:
            error = self._service.ending.host_failure() or error
        self._exception = user_traceback(error)

    def settle(self) -> None:
        """On the loop: settle with what was kept."""
        if self._take_open():
            self._settle(FINISHED)

    def cancel_on_loop(self, again: bool = False) -> None:
        if self._take_unstarted():
            self._end_cancelled()
        elif not self.settled and not self.cancelling:
            self.cancelling = True
            self._owner.cancel(self)

    def tasks(self) -> list[asyncio.Task[Any]]:
        return self._owner.tasks()

    def left_behind(self) -> None:
        self._owner.left_behind()

    def close(self) -> None:
        if self._take_claim():
            self._owner.refused()


class Raised:
    """Marks an exception in `ahead`, where values wait as well."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        if issubclass(type(error), StopIteration):  # as in a coroutine: it would look like the end
            self.error = RuntimeError("async iterator raised StopIteration")
            self.error.__cause__ = error

    def take(self) -> BaseException:
        """Return the exception and forget it.

        The frames that the exception is raised through may hold this object.
        """
        error = self.error
        del self.error
        return error


class Owner:
    """The task that owns a bridged object, and the steps it is to take. All on the loop."""

    kind: Kind = "iterator"

    def __init__(self, service: Service, name: str) -> None:
        self.service = service
        self.name = name
        self.__qualname__ = name  # after which the task is named, see `Service.create_task`
        self.over = False  # nothing more can be done with the object
        # What the object gave before a step asked for it: values, and `Raised` at the end. Filled
        # before `over` is set. The face may take from it when `over` is set, and the loop before.
        self.ahead: deque[Any] = deque()
        self.context = contextvars.copy_context()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.pid = 0  # the process of that loop
        self._task: asyncio.Task[None] | None = None
        self.work: Coroutine[Any, Any, None] | None = None  # what the task runs
        # What the end calls to leave the object, as long as the object stands among the contexts.
        self._exit: Callable[..., Awaitable[bool]] | None = None
        self._begun = False  # whether the task has
        self._steps: deque[Step[Any]] = deque()
        self._current: Step[Any] | None = None
        # Whether `_interrupt` has cancelled what the task does now. That is done once, and taken
        # back when what was cancelled has ended.
        self._interrupted = False
        self._idle: asyncio.Future[None] | None = None  # while the task waits for a step
        self._closing = False
        self.body: BaseException | None = None  # the exception that a closing tells the object
        self._cut_short = False  # whether a shutdown closes the object
        # What comes of closing it then, for the shutdown: whether the object suppressed the
        # exception of the body, and the error that closing raised.
        self._suppressed = False
        self._close_error: BaseException | None = None

    def take(self, step: Step[Any]) -> None:
        """Have the task do *step*."""
        if self.over:
            self._too_late(step)
        elif self._loop is None:
            self.pid = os.getpid()
            self._loop = asyncio.get_running_loop()
            self._exit = self._make_exit()
            self.service.ending.add_exit(self._exit)
            self._steps.append(step)
            self.work = work = self._work()
            try:
                self._task = self.service.create_task(work, self.context, self)
            except BaseException:
                work.close()
                self._steps.clear()  # `step` fails with this error, and not because of the end
                self._finish()
                raise
            self._task.add_done_callback(self._ended)
        elif self._loop is not asyncio.get_running_loop():
            step.fail(
                concurrent.futures.BrokenExecutor(
                    f"{self.name} belongs to the parent process; open it again in this one"
                )
            )
        else:
            self._steps.append(step)
            self._wake()

    def _make_exit(self) -> Callable[..., Awaitable[bool]]:
        async def leave(exc: BaseException | None = None) -> bool:
            return await self.leave(exc)

        leave.__qualname__ = f"the closing of {self.name}"  # what a report of its failure names
        leave.tasks = self.tasks  # type: ignore[attr-defined]  # `Ending` spares them until then
        return leave

    def _wake(self) -> None:
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    @property
    def started(self) -> bool:
        """Whether there is anything to close."""
        return self._loop is not None

    async def _work(self) -> None:
        self._begun = True
        while not self.over:
            # The end of the loop cancels each task only once, so close the object now.
            if self._closing or self.service.ending.loop_ends:
                await self._close_unasked()
            elif self._steps:
                step = self._steps.popleft()
                if step.settled:  # cancelled meanwhile
                    del step
                    continue
                self._current = step
                operation = self._or_ahead(step.operation) if self.ahead else step.operation
                try:
                    result = await operation()
                except BaseException as exc:
                    step.keep(exc)
                    self.failed(exc)
                    step_failed = True
                else:
                    step_failed = False
                    step.succeed(result)
                    del result
                if step_failed:  # not in the `except` clause, where this frame holds the error
                    step.settle()
                self._current = None
                self._uninterrupt()
                del step, operation  # they hold objects that their caller may want to be freed
            else:
                try:
                    await self._rest()
                except asyncio.CancelledError as exc:
                    # In the `except` clause, as in `async with`: the object may look at
                    # `sys.exception()`.
                    await self._cancelled_idle(user_traceback(exc))
        self._finish()
        if self._closing and not self._cut_short:
            self._report_unseen()

    def _or_ahead(self, operation: Callable[[], Awaitable[_T]]) -> Callable[[], Awaitable[_T]]:
        """Return what a step does while something is in `ahead`."""
        return operation

    async def _rest(self) -> None:
        """Wait for the next step."""
        self._idle = asyncio.get_running_loop().create_future()
        try:
            await self._idle
        finally:
            self._idle = None

    async def _cancelled_idle(self, exc: asyncio.CancelledError) -> None:
        """Throw *exc* into the object, and keep what comes of it. Raises nothing."""
        raise NotImplementedError

    async def _close_unasked(self) -> None:
        body, self.body = self.body, None
        try:
            self._suppressed = await self._close(body)
        except asyncio.CancelledError:
            pass  # by the end of the loop
        except BaseException as exc:
            if exc is not body:
                self._closing_failed(user_traceback(exc))
        finally:
            self.over = True  # not earlier: a step that comes meanwhile waits for the end
            del body

    def _closing_failed(self, error: BaseException) -> None:
        if self._cut_short:
            self._close_error = error
        else:
            self._report(f"closing {self.name} failed", error)

    def _finish(self) -> None:
        self.over = True
        if self._exit is not None:
            self.service.ending.contexts.entered.pop(self._exit, None)
            self._exit = None
        while self._steps:
            self._too_late(self._steps.popleft())

    def _too_late(self, step: Step[Any]) -> None:
        """Settle a step that came after the end."""
        step.fail(RuntimeError(f"{self.name} is closed"))

    def _ended(self, _: object) -> None:
        if not self._begun:  # cancelled before the task's first step: nothing was opened
            self.refused()
            while self._steps:
                step = self._steps.popleft()
                step.keep(asyncio.CancelledError())
                step.settle()
        self._finish()

    def cancel(self, step: Step[Any]) -> None:
        """Cancel *step*, whether it has begun or not."""
        if step is self._current and self._task is not None:
            self._interrupt(None)
        else:
            step.fail(asyncio.CancelledError())

    def _interrupt(self, message: str | None) -> None:
        """Cancel what the task does, unless that has been cancelled before."""
        if self._task is not None and not self._interrupted:
            self._interrupted = True
            self._task.cancel(message)

    def _uninterrupt(self) -> None:
        """Take a cancellation by `_interrupt` back: what was cancelled has ended."""
        if self._interrupted:
            self._interrupted = False
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()

    def tasks(self) -> list[asyncio.Task[Any]]:
        """The owner task, if there is one."""
        return [] if self._task is None else [self._task]

    def left_behind(self) -> None:
        """A step ignores its cancellation: have the end not wait for the object either."""
        if self._exit is not None:
            self.service.ending.contexts.entered.pop(self._exit, None)
            self._exit = None

    def refused(self) -> None:
        """Called when the first step is refused: close what will not be used."""

    def failed(self, exc: BaseException) -> None:
        """Called when a step has raised *exc*."""

    async def _close(self, body: BaseException | None) -> bool:
        """Close the object, while no step waits for that; return True if it suppresses *body*."""
        raise NotImplementedError

    async def leave(self, exc: BaseException | None = None) -> bool:
        """At shutdown: close the object, with *exc* from the body of the executor's `with`.

        Returns True if the object suppresses *exc*; raises what the closing raises.
        """
        self._cut_short = not (self.over or self._closing)
        self.drop(exc)
        try:
            if self._task is not None:
                await asyncio.wait([self._task])
            if self._close_error is not None:
                raise self._close_error
            return self._suppressed and self._cut_short
        finally:
            self._close_error = None
            del exc

    def drop(self, exc: BaseException | None = None) -> None:
        """Have the object closed, with *exc*, since nobody uses it: end what it waits for, too."""
        if self._loop is None or self._loop is not asyncio._get_running_loop():
            return
        if self.over:
            if not self._cut_short:
                self._report_unseen()
            return
        if not self._closing:
            self._closing = True
            self.body = exc if self.body is None else self.body
        if self._current is not None:
            self._interrupt(self._closing_message)
        self._wake()

    @property
    def _closing_message(self) -> str:
        return f"{self.name} is being closed"

    def take_unseen(self) -> BaseException | None:
        """Empty `ahead`, and return an error in it that the user must not miss."""
        unseen = None
        with contextlib.suppress(IndexError):
            while True:
                last = self.ahead.popleft()
                unseen = last.error if type(last) is Raised else None
        return unseen

    def _report_unseen(self) -> None:
        error = self.take_unseen()
        if error is not None and not issubclass(type(error), asyncio.CancelledError):
            self._report(f"{self.name} failed while nobody used it", error)

    def _report(self, message: str, exc: BaseException | None) -> None:
        context: dict[str, Any] = {"message": message}
        if exc is not None:
            context["exception"] = exc
        asyncio.get_running_loop().call_exception_handler(context)


def show_both(outcome: BaseException | None, body: BaseException | None) -> None:
    """Raise what `async with` would raise, where the object ended by itself while its body ran on.

    If the body has raised nothing, raise *outcome*. If *outcome* is the group of a task group,
    raise that group with the exception of the body added. Otherwise return, so that the exception
    of the body goes on, with *outcome* as its earliest context.
    """
    joined: BaseExceptionGroup[BaseException] | None = None
    try:
        if outcome is None:
            return
        if body is None:
            raise outcome
        if issubclass(type(outcome), BaseExceptionGroup) and not issubclass(
            type(body), KeyboardInterrupt | SystemExit
        ):
            joined = _joined(cast("BaseExceptionGroup[BaseException]", outcome), body)
            BaseException.with_traceback(joined, traceback_of(outcome))
            raise joined from None
        _chain(body, outcome)
    finally:
        del outcome, body, joined  # a raised error holds this frame


def _joined(
    group: BaseExceptionGroup[BaseException], body: BaseException
) -> BaseExceptionGroup[BaseException]:
    """Return *group* with *body* added; a plain group if the class of *group* can make none."""
    errors = (*_EXCEPTIONS.__get__(group), body)
    # A class of users may make groups of an `Exception` alone, or fail, or leave errors out. None
    # of them may be lost: take what it makes only if they are all there.
    with contextlib.suppress(Exception):
        derived = group.derive(list(errors))
        if [*map(id, _EXCEPTIONS.__get__(derived))] == [*map(id, errors)]:
            return derived
    return BaseExceptionGroup(_MESSAGE.__get__(group), errors)


def _chain(error: BaseException, earlier: BaseException) -> None:
    """Put *earlier* at the end of the chain of contexts of *error*, unless the chains meet."""
    seen: set[int] = set()
    link: BaseException | None = earlier
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        link = _CONTEXT.__get__(link)
    while id(error) not in seen:
        seen.add(id(error))
        context = _CONTEXT.__get__(error)
        if context is None:
            _CONTEXT.__set__(error, earlier)
            return
        error = context


def holds_only(error: BaseException, kind: type[BaseException]) -> bool:
    """Whether *error* is a *kind*, or a group that holds nothing else, at any depth."""
    # A class of users may have methods that raise, `split` among them: ask Python's own class.
    left = [error]
    while left:
        one = left.pop()
        if not issubclass(type(one), kind):
            if not issubclass(type(one), BaseExceptionGroup):
                return False
            left.extend(_EXCEPTIONS.__get__(one))
    return True


def cancellation_requests() -> int:
    """How many cancellations of the current task have not been taken back."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


class Face:
    """The synchronous side of a bridged object: for one thread at a time."""

    # Whether the interpreter is finalizing. Then no thread of a loop runs any more, the exit has
    # closed the objects, and a finalizer that comes to a face may find the modules empty: it looks
    # up no name in a module before it has asked this, which a face can do without one.
    @staticmethod
    def _is_finalizing(asks: Callable[[], bool] = sys.is_finalizing) -> bool:
        return asks()

    def __init__(self, executor: Executor, owner: Owner) -> None:
        self._executor = executor  # so that the executor is not dropped before the face
        self._owner = owner
        self._free = True  # the one permission to take a step

    def _step(self, operation: Callable[[], Awaitable[_T]], what: str) -> _T:
        return self._take(Step(self._owner, operation), what)

    def _last_step(self, operation: Callable[[], Awaitable[_T]], what: str) -> _T | None:
        """As `_step`; return None where a shutdown closes the object, or has closed it.

        And in a forked child, where there is nothing to close: the object lives in the parent.
        A shutdown waits for its calls before it closes anything, and so for a step of theirs.
        """
        owner = self._owner
        in_call = owner.service.is_own_thread()
        if owner.over or owner.pid != os.getpid() or not (owner.service.usable or in_call):
            return None
        step = Step(owner, operation)
        step.is_of_call = in_call
        step.is_clean_up = True
        try:
            return self._take(step, what)
        except RuntimeError:
            if step.settled or owner.service.usable:
                raise
            return None  # another thread has just begun to shut down
        finally:
            del step, operation  # a raised error holds this frame

    def _take(self, step: Step[_T], what: str) -> _T:
        try:
            del self._free
        except AttributeError:
            raise RuntimeError(f"{self._owner.name} is in use by another thread") from None
        try:
            return step.wait(what, None)
        finally:
            self._free = True
            del step  # a raised error holds this frame

    def __del__(self) -> None:
        owner = self.__dict__.get("_owner")
        if owner is None or self._is_finalizing():
            return  # nothing is left that would close the object
        if owner.started and (owner.ahead or not owner.over):
            owner.service.inbox.post(owner.drop)


async def build(source: Any, dunder: str, what: str) -> Any:
    """Return *source*, or what it makes, as something that has *dunder*."""
    # Look on the type: where *source* is a class, its own attributes are those of its instances.
    if hasattr(type(source), dunder):
        return source
    made = source()
    if not hasattr(type(made), dunder) and inspect.isawaitable(made):
        made = await made
    if not hasattr(type(made), dunder):
        raise TypeError(f"{name_of(source)}() returned {made!r}, which is not {what}")
    return made
