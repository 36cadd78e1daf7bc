"""The task that owns a bridged object, and the synchronous face that has it take steps.

One owner task enters, drives and leaves each bridged object, so that whatever in it belongs to a
task (cancel scopes, task groups, `ContextVar.reset`) finds the same task each time. A step (one
item, the entry, the exit) is a blocking call whose work the owner task does.

Who closes what: from its first step on, an unfinished object stands among the service's
`contexts`. It is closed by its user, or when the last reference to its synchronous face goes, or by
`shutdown`, whichever comes first.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import inspect
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from concurrent.futures._base import FINISHED, RUNNING
from typing import Any, TypeVar

from palitra._calls import BlockingCall, Kind
from palitra._service import Service
from palitra._words import name_of, user_traceback

_T = TypeVar("_T")


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

    def start(self) -> None:
        if not self._take_claim():
            return
        self._state = RUNNING
        try:
            self._owner.take(self)
        except BaseException as exc:
            self.fail(exc)

    def succeed(self, result: _T) -> None:
        """On the loop: settle with *result*."""
        if self._take_open():
            self._result = result
            del result
            self._settle(FINISHED)

    def keep(self, error: BaseException) -> None:
        """On the loop: have `settle` settle with *error*."""
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

    def close(self) -> None:
        if self._take_claim():
            self._owner.refused()


class Owner:
    """The task that owns a bridged object, and the steps it is to take. All on the loop."""

    kind: Kind = "iterator"

    def __init__(self, service: Service, name: str) -> None:
        self.service = service
        self.name = name
        self.over = False  # nothing more can be done with the object
        self.context = contextvars.copy_context()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._steps: deque[Step[Any]] = deque()
        self._current: Step[Any] | None = None
        self._step_cancelled = False
        self._idle: asyncio.Future[None] | None = None  # while the task waits for a step
        # A cancel scope inside the object ended while the object was idle; the object is told
        # with its next step, as an `await` of its user's would have told it.
        self._cancelled_idle = False
        self._closing = False
        self._cut_short = False  # closed by a shutdown

    def take(self, step: Step[Any]) -> None:
        """Have the task do *step*."""
        if self.over:
            self._too_late(step)
        elif self._loop is None:
            self._loop = asyncio.get_running_loop()
            self.service.add_exit(self.leave)
            self._steps.append(step)
            work = self._work()
            try:
                self._task = self.service.create_task(work, self.context, self)
            except BaseException:
                work.close()
                self._steps.clear()  # `step` gets the error, not its place after the end
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

    def _wake(self) -> None:
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    @property
    def started(self) -> bool:
        """Whether there is anything to close."""
        return self._loop is not None

    async def _work(self) -> None:
        while self._steps or not self.over:
            if self._steps:
                step = self._steps.popleft()
                if step.settled:  # cancelled meanwhile
                    del step
                    continue
                self._current = step
                if self._cancelled_idle:
                    self._tell_of_cancellation(step)
                try:
                    result = await step.operation()
                except BaseException as exc:
                    step.keep(exc)
                    self.failed(exc)
                    step.settle()
                else:
                    step.succeed(result)
                    del result
                self._current = None
                if self._step_cancelled:
                    self._step_cancelled = False
                    _uncancel()
                del step  # it holds what its caller is to free
            elif self._closing:
                self.over = True
                try:
                    await self._close()
                except asyncio.CancelledError:
                    pass  # by the end of the loop
                except BaseException as exc:
                    asyncio.get_running_loop().call_exception_handler(
                        {
                            "message": f"closing {self.name} failed",
                            "exception": user_traceback(exc),
                        }
                    )
            else:
                await self._rest()
        self._finish()

    def _tell_of_cancellation(self, step: Step[Any]) -> None:
        """Before *step* is taken: the object was cancelled while it was idle."""

    async def _rest(self) -> None:
        """Wait for the next step."""
        self._idle = asyncio.get_running_loop().create_future()
        try:
            await self._idle
        except asyncio.CancelledError:
            self._cancelled_idle = True
            if self.service.done:
                self._closing = True  # the end of the loop cancels what is left
        finally:
            self._idle = None

    def _finish(self) -> None:
        self.over = True
        self.service.contexts.pop(self.leave, None)
        while self._steps:
            self._too_late(self._steps.popleft())

    def _too_late(self, step: Step[Any]) -> None:
        """Settle a step that came after the end."""
        step.fail(RuntimeError(f"{self.name} is closed"))

    def _ended(self, _: object) -> None:
        self._finish()  # a task that was cancelled before its first step has not

    def cancel(self, step: Step[Any]) -> None:
        """Cancel *step*, begun or not."""
        if step is self._current and self._task is not None:
            self._step_cancelled = True
            self._task.cancel()
        else:
            step.fail(asyncio.CancelledError())

    def refused(self) -> None:
        """A step will not be taken, and was not begun."""

    def failed(self, exc: BaseException) -> None:
        """A step has raised *exc*."""

    async def _close(self) -> None:
        """Close the object, nobody waiting."""
        raise NotImplementedError

    async def leave(self) -> None:
        """At shutdown: close the object and wait for that."""
        self._cut_short = not self.over
        self.drop()
        if self._task is not None:
            await asyncio.wait([self._task])

    def drop(self) -> None:
        """Close the object: nobody uses it any more."""
        if not self.over and self._loop is asyncio.get_running_loop():
            self._closing = True
            self._wake()


def _uncancel() -> None:
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()


class Face:
    """The synchronous side of a bridged object: for one thread at a time."""

    def __init__(self, executor: Executor, owner: Owner) -> None:
        self._executor = executor  # as long as this lives, the executor is not dropped
        self._owner = owner
        self._free = True  # the one permission to take a step

    def _step(self, operation: Callable[[], Awaitable[_T]], what: str) -> _T:
        return self._take(Step(self._owner, operation), what)

    def _last_step(self, operation: Callable[[], Awaitable[_T]], what: str) -> _T | None:
        """As `_step`; returns None where a shutdown does it, or has."""
        owner = self._owner
        if owner.over or not owner.service.usable:
            return None
        step = Step(owner, operation)
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
        if owner is not None and owner.started and not owner.over:
            owner.service.post(owner.drop)


async def build(source: Any, dunder: str, what: str) -> Any:
    """Return *source*, or what it makes, as something that has *dunder*."""
    # Looked up on the type: a class may have the method for its instances.
    if hasattr(type(source), dunder):
        return source
    made = source()
    if not hasattr(type(made), dunder) and inspect.isawaitable(made):
        made = await made
    if not hasattr(type(made), dunder):
        raise TypeError(f"{name_of(source)}() returned {made!r}, which is not {what}")
    return made
