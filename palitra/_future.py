"""LoopFuture: a standard future whose state and cancellation tell the truth about a call.

The state of the call is the state of the future (`concurrent.futures.Future` has all that are
needed), guarded by the future's own condition. It changes in `_begin` and `_change`, and in a
forked child in `abandon`:

    PENDING -> RUNNING                           by the loop or a worker thread, which then runs it
    PENDING -> CANCELLED_AND_NOTIFIED            by `cancel`, or by the loop for it
    RUNNING -> FINISHED, CANCELLED_AND_NOTIFIED  by whoever runs it
    PENDING, RUNNING -> FINISHED                 by `fail`, where the loop has died, or `abandon`

Whoever deletes the claim starts the call or cancels it, so exactly one of the two happens.
`_change` looks at the state and changes it while the condition is held, so a call is settled once.

A future makes as few objects as it can: in a burst of 100,000, the garbage collector stops the
loop, and everybody, for as long as it takes to look at all of them.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import inspect
import threading
from _thread import LockType
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED, PENDING, RUNNING
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from palitra._loop import LoopThread
from palitra._waiting import locked, wait_for
from palitra._words import close_if_coroutine, name_of, user_traceback

if TYPE_CHECKING:
    from typing_extensions import disjoint_base

    @disjoint_base
    class _Condition(threading.Condition):
        """The lock that `threading.RLock` makes, as far as typeshed hides it."""

        def _release_save(self) -> object: ...
        def _acquire_restore(self, state: object, /) -> None: ...
        def _is_owned(self) -> bool: ...

else:
    _Condition = type(threading.RLock())

_T = TypeVar("_T")

_EMPTY = contextvars.Context()


class _FutureCondition(_Condition):
    """What a future needs of a condition variable: the lock itself, and those who wait.

    A `threading.Condition` takes four times as long to make, and more memory than all the rest of
    the call. And this is the place where `result` and `exception` are about to wait: the one to say
    that they would do so for ever.
    """

    __slots__ = ("loop_thread", "over", "waiters")

    loop_thread: LoopThread
    waiters: tuple[LockType, ...]
    over: bool  # there is nothing to wait for any more

    def wait(self, timeout: float | None = None) -> bool:
        self.loop_thread.refuse_on_loop("waiting for a future")
        waiter = locked()
        self.waiters += (waiter,)
        saved = None
        try:
            if self.over:
                return True  # a signal handler came since the caller looked
            saved = self._release_save()
            return wait_for(waiter, timeout)
        finally:
            if saved is not None:
                self._acquire_restore(saved)
            elif not self._is_owned():  # Ctrl-C came between the release and the assignment
                self.acquire()
            self.waiters = tuple(other for other in self.waiters if other is not waiter)

    def notify_all(self) -> None:
        self.over = True
        for waiter in self.waiters:
            try:
                waiter.release()
            except RuntimeError:
                pass  # released before, by a call of this that Ctrl-C has interrupted


class _ListOnDemand:
    """A list that is an attribute of a future from the moment that somebody asks for it."""

    def __set_name__(self, owner: type[LoopFuture[Any]], name: str) -> None:
        self._name = name

    def __get__(self, future: LoopFuture[Any] | None, owner: type[LoopFuture[Any]]) -> Any:
        if future is None:
            return self
        # Whoever sees that it is watched finds both lists, and is not led here again. No list
        # replaces one that a signal handler has made meanwhile.
        for name in ("_waiters", "_done_callbacks"):
            future.__dict__.setdefault(name, [])
        future.watched = True
        return future.__dict__[self._name]


class LoopFuture(concurrent.futures.Future[_T]):
    """The future of one call: coroutine function, plain callable or coroutine object."""

    # Those who watch: the `wait`s and `as_completed`s that are under way, and the done-callbacks.
    _waiters = _ListOnDemand()
    _done_callbacks = _ListOnDemand()
    # What is left of `_waiters` to be told of the end, once that has begun.
    _untold: Iterator[Any] | None = None

    def __init__(
        self,
        loop_thread: LoopThread,
        target: Callable[..., Any] | Coroutine[Any, Any, _T],
        args: tuple[Any, ...] | None,
        kwargs: dict[str, Any] | None,
    ) -> None:
        self._loop_thread = loop_thread
        self._prepare()
        # What to call with `_args`, or what to await where they are None. None when settled.
        self._target: Any = target
        self._args = args
        self._kwargs = kwargs
        self._context = contextvars.copy_context()  # until the call ends
        self._task: asyncio.Task[None] | None = None
        self._claim = True  # the one permission to start the call, or to cancel it before
        self._begun = False  # whether `_drive` has
        self._in_slot = False  # whether it counts among the calls in flight
        # Whether a worker thread has it: then it cannot be cancelled, and is certain to settle.
        self._in_worker = False
        # What `start` is to do instead, where Ctrl-C has interrupted the hand-over or `cancel`.
        self.instead: Callable[[LoopFuture[Any]], object] | None = None

    def _prepare(self) -> None:
        # Not super().__init__(), which makes a `threading.Condition` and two lists.
        self._renew_condition()
        self._state = PENDING
        self._result = None
        self._exception = None
        self.watched = False

    def _renew_condition(self) -> None:
        condition = _FutureCondition()
        condition.loop_thread = self._loop_thread
        condition.waiters = ()
        condition.over = False
        self._condition: threading.Condition = condition

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a future cannot be pickled: it belongs to this process's event loop; pickle a "
            "function made by palitra.sync, and call it in the other process"
        )

    # -- state --------------------------------------------------------------------------------

    def _begin(self) -> bool:
        """Change from PENDING to RUNNING; False where the call was cancelled before.

        Whoever deletes the claim may change the state, and nobody waits for this change. So it does
        without the condition, which somebody may hold who in turn waits for the loop.
        """
        try:
            del self._claim
        except AttributeError:
            return False
        self._state = RUNNING
        return True

    def _change(self, state: str, *only_from: str) -> bool:
        """Holding the condition: change to the final *state*, and tell who waits.

        `_result` or `_exception` is set before. Once those who wait go on, no frame here may hold
        either, or it would outlive what they do with it.
        """
        if self._state not in only_from:
            return False
        self._state = state
        self._tell()
        return True

    def _tell(self) -> None:
        """Tell who waits of the end, or go on with it where Ctrl-C has interrupted it."""
        if self.watched:
            if self._untold is None:
                self._untold = iter(self._waiters)
            for waiter in self._untold:
                if self._state != FINISHED:
                    waiter.add_cancelled(self)
                elif self._exception is not None:
                    waiter.add_exception(self)
                else:
                    waiter.add_result(self)
        self._condition.notify_all()

    def _change_on_loop(self, state: str, *only_from: str) -> bool | None:
        """`_change` for the loop, which does not wait for the condition: None where it is held.

        Whoever holds it may himself be waiting for the loop, in a signal handler.
        """
        if not self._condition.acquire(False):
            return None
        try:
            return self._change(state, *only_from)
        finally:
            self._condition.release()

    def _settle(self, state: str, *only_from: str) -> bool:
        """`_change` to a final state and tell everybody; in any thread but the loop's."""
        with self._condition:
            changed = self._change(state, *only_from)
        if changed:
            self._announce()
        return changed

    def _announce(self) -> None:
        """Call those back who asked for it, or go on with it; and let go of the call."""
        try:
            if self.watched:
                self._done_callbacks = iter(self._done_callbacks)
                self._invoke_callbacks()  # type: ignore[attr-defined]  # typeshed leaves it out
        finally:
            self._loop_thread.finished(self)

    def add_done_callback(self, fn: Callable[[concurrent.futures.Future[_T]], object]) -> None:
        """Call *fn* with this future when it is done; at once if it is. Thread-safe."""
        self._done_callbacks  # noqa: B018  (makes the list before anybody looks at the state)
        super().add_done_callback(fn)

    def cancel(self) -> bool:
        """Cancel the call if it has not started, or request its cancellation on the loop.

        A coroutine in flight receives `asyncio.CancelledError` where it waits. It stays `running()`
        until it has finished its clean-up; then it is `cancelled()`, or has a result if it chose to
        return one. Thread-safe; never blocks.

        Returns:
            True if the call is cancelled or its cancellation requested; False if it is finished, or
            runs in a worker thread, where nothing can cancel it.
        """
        try:
            del self._claim
        except AttributeError:
            pass  # it has started, or been cancelled before
        else:
            try:
                self._settle(CANCELLED_AND_NOTIFIED, PENDING)
                self._release()
            except BaseException:  # Ctrl-C, and nobody else can start or cancel it now
                self.instead = LoopFuture._cancel_interrupted
                self._loop_thread.inbox.append(self)
                self._loop_thread.wake()
                raise
            return True
        if self._state in (PENDING, RUNNING) and not self._in_worker:
            self._loop_thread.post(self._cancel_on_loop)
            return True
        return self.cancelled()

    def fail(self, error: BaseException) -> bool:
        """Settle with *error*, unless settled, or in a worker thread, which settles it.

        Returns False where another thread holds the condition: try again.
        """
        unstarted = self._state == PENDING
        if unstarted:
            try:
                del self._claim
            except AttributeError:
                if self.instead is None:
                    return True  # somebody else is about to start or to cancel it
        elif self._in_worker or self._state != RUNNING:
            return True
        self._exception = error
        changed = self._change_on_loop(FINISHED, PENDING, RUNNING)
        if changed is None:
            self._exception = None  # a worker thread may be faster than the next try
            if unstarted:
                self._claim = True
            return False
        if changed:
            self._release()
            self._announce()
        return True

    def _release(self) -> None:
        """Drop what a call that will not run holds."""
        target, self._target = self._target, None
        if self._task is None and self._args is None:
            close_if_coroutine(target)
        self._args = self._kwargs = None
        self._context = _EMPTY

    def abandon(self, error: BaseException) -> None:
        """Settle with *error* in a forked child, where a held lock is never released.

        What is to be called back is the parent's. So is who waits, unless he forked in a signal
        handler.
        """
        if self._state == PENDING:
            self._release()
        if self._state in (PENDING, RUNNING):
            condition = self._condition
            self._prepare()
            for name in ("_claim", "_waiters", "_done_callbacks"):
                self.__dict__.pop(name, None)
            self._target = self._task = self._args = self._kwargs = None
            self._context = _EMPTY
            self._state, self._exception = FINISHED, error
            condition.notify_all()
        else:
            self._renew_condition()  # whoever settled it just before the fork may have held it

    def describe(self) -> str:
        """The name of what is called, as long as it is."""
        return "a call that ends" if self._target is None else name_of(self._target)

    # -- on the loop --------------------------------------------------------------------------

    def start(self) -> None:
        """On the loop: begin, as soon as the limit of calls in flight allows."""
        if self.instead is not None:
            instead, self.instead = self.instead, None
            instead(self)
            return
        slots = self._loop_thread.slots
        try:
            if slots is None or slots.enter(self._start_task):
                self._start_task()
        finally:
            del self  # see `_drive`

    def _start_task(self) -> None:
        self._in_slot = True
        if self._state != RUNNING and not self._begin():
            self._end()  # cancelled before it began
            return
        drive = self._drive()
        try:
            task = self._loop_thread.create_task(drive, self._context)
        except BaseException as exc:
            if self._begun:
                raise  # by a done-callback, after the end of the call
            drive.close()
            self._exception = user_traceback(exc)
            self._release()
            self._settle_on_loop(FINISHED)
        else:
            if self._target is not None:
                self._task = task
                if not self._begun:
                    task.add_done_callback(self._task_ended)
        finally:
            del self  # see `_drive`

    async def _drive(self) -> None:
        # A traceback holds the frames of the coroutine, and these, as `f_back`, this one and those
        # that called it. None of them may hold the future in the end: it holds the exception.
        self._begun = True
        state = FINISHED
        try:
            if self._args is not None:
                awaitable = self._target(*self._args, **(self._kwargs or {}))
                self._target, self._args, self._kwargs = awaitable, None, None
                del awaitable
            self._result = await self._target
        except asyncio.CancelledError:
            state = CANCELLED_AND_NOTIFIED
        except BaseException as exc:
            if self._state == RUNNING:
                self._exception = user_traceback(exc)
        self._target = self._task = None
        self._context = _EMPTY
        try:
            self._settle_on_loop(state)
        finally:
            del self

    def withdraw(self) -> None:
        """On the loop: cancel a call whose hand-over was interrupted, unless it has started."""
        try:
            del self._claim
        except AttributeError:
            return
        self._cancel_unstarted()

    def _cancel_unstarted(self) -> None:
        self._release()
        self._settle_on_loop(CANCELLED_AND_NOTIFIED)

    def _cancel_interrupted(self) -> None:
        """On the loop: do what is left of a `cancel` that Ctrl-C has interrupted."""
        if self._state == PENDING:
            self._cancel_unstarted()
        elif self._condition.acquire(False):
            try:
                self._tell()
            finally:
                self._condition.release()
            self._release()
            self._announce()
        else:
            self._loop_thread.post(self._cancel_interrupted)

    def _task_ended(self, _: object) -> None:
        """A task that was cancelled before its first step never came to settle its call."""
        if self._target is not None:
            self._task = None
            self._cancel_unstarted()

    def _cancel_on_loop(self) -> None:
        if self._task is not None:
            self._task.cancel()
        elif self._state == RUNNING and self._target is not None and not self._begun:
            # What a worker thread's callable has returned, still waiting for its turn.
            self._cancel_unstarted()

    def _settle_on_loop(self, state: str) -> None:
        changed = self._change_on_loop(state, PENDING, RUNNING)
        if changed is None:
            self._loop_thread.post(functools.partial(self._settle_on_loop, state))
            return
        try:
            if changed:
                self._announce()
        finally:
            self._end()

    def _end(self) -> None:
        self._loop_thread.finished(self)
        if self._in_slot and self._loop_thread.slots is not None:
            self._in_slot = False
            self._loop_thread.slots.leave(self._loop_thread)

    # -- in a worker thread -------------------------------------------------------------------

    def run_in_worker(self) -> None:
        """In a worker thread: call, and leave what is to be awaited to the loop."""
        self._in_worker = True
        if not self._begin():
            return
        try:
            self._result = self._context.run(
                self._target, *(self._args or ()), **(self._kwargs or {})
            )
            awaitable = inspect.isawaitable(self._result)  # asks the result, which may raise
        except BaseException as exc:
            self._exception = user_traceback(exc)
            awaitable = False
        self._args = self._kwargs = None
        if awaitable:
            self._target, self._result = self._result, None
            self._in_worker = False
            self._loop_thread.post(self.start)
            # In this order: it may end just now, because this call has ended.
            if not self._loop_thread.ended or self._state != RUNNING:
                return
            # It has ended in a way that did not wait for calls.
            self._exception = concurrent.futures.BrokenExecutor("the event loop has ended")
            self._release()
        self._target = None
        self._context = _EMPTY
        try:
            self._settle(FINISHED, RUNNING)
        finally:
            del self  # see `_drive`
