"""Call: what was accepted, from its acceptance until it is settled; and Calls, the register.

A call is in one of the states that `concurrent.futures` has, and `_state` says in which:

    PENDING -> RUNNING                           by the loop or a worker thread, which then runs it
    PENDING -> CANCELLED_AND_NOTIFIED            cancelled before its start
    RUNNING -> FINISHED, CANCELLED_AND_NOTIFIED  by its own end, or where its loop has failed
    PENDING -> FINISHED                          where its loop has failed before its start

Two permissions, which are attributes that are deleted, see to it that this happens once:

    _claim  to start the call, or to settle it without a start
    _open   to settle it: to say what its outcome is

Whoever takes `_open` stores the outcome, then changes the state, then tells those who wait: they
find the outcome there. A call that is settled may still run: somebody has called `set_result` on
its future, or the process ends and has left it behind. It leaves the register when its body ends.

Three kinds of call: RunCall, whose caller waits on a bare lock; FutureCall, which is a standard
future; and Step, a step of a bridged object (see `_bridges`). In a burst of 100,000 the garbage
collector stops the loop, and everybody, for as long as it takes to look at all objects of all
calls, so a call makes as few objects as it can.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import inspect
import logging
import time
from _thread import LockType, get_ident
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import InvalidStateError
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED, PENDING, RUNNING
from contextlib import suppress
from threading import RLock
from types import BuiltinFunctionType, CodeType, FrameType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any, Generic, Literal, NoReturn, TypeVar

from palitra._inbox import Callback
from palitra._stacks import Chain, Threads, chain_of, chain_of_frames
from palitra._waiting import Moment, locked, release, wait_for
from palitra._words import close_if_coroutine, name_of, user_traceback

if TYPE_CHECKING:
    from palitra._service import Service

_T = TypeVar("_T")
Kind = Literal["submit", "service", "run", "gather", "iterator", "context"]
Progress = Literal["waiting", "running", "cancelling"]

LOGGER = logging.getLogger("concurrent.futures")
GRACE = 1.0  # seconds that a cancelled call has for its clean-up, where somebody waits for that
_FINAL = frozenset((CANCELLED_AND_NOTIFIED, FINISHED))
_EMPTY = contextvars.Context()
_BRIEFLY = 0.05  # seconds
_PATIENCE = 100  # attempts at a future's lock that another thread holds, `Service.later` between

_REAL_CLOCK = (time.monotonic,)  # where no tool that freezes the clocks of modules finds it


def clock() -> float:
    """Seconds, as `time.monotonic` counts them."""
    return _REAL_CLOCK[0]()


class DeadlockError(RuntimeError):
    """This blocking call could never return.

    Raised by blocking calls (`run`, `gather`, `shutdown`, `Future.result`, the synchronous bridges)
    on the very thread that would have to do the work they wait for. Inside a coroutine, ``await``
    instead; `AsyncLoopExecutor.on_loop` tells beforehand.

    >>> import palitra
    >>> async def outer():
    ...     return palitra.run(inner())
    >>> async def inner():
    ...     return 1
    >>> palitra.run(outer())  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    palitra.DeadlockError: run() would wait for its own thread ...

    .. versionadded:: 0.2.0
    """


class CallTimeoutError(TimeoutError):
    """A time limit of palitra's own has passed: that of `run`, `gather` or `shutdown`.

    A `TimeoutError` that the coroutine raised arrives as it is, and is none of these. Where the
    clean-up of the cancelled coroutine failed, this error is raised from that failure.

    >>> import asyncio, palitra
    >>> palitra.run(asyncio.sleep(60), timeout=0.01)
    Traceback (most recent call last):
    palitra._calls.CallTimeoutError: sleep() timed out after 0.01 s

    .. versionadded:: 0.2.0
    """


class Call:
    """One call: where it stands, and how its coroutine is driven."""

    kind: Kind = "submit"

    _result: Any
    _exception: BaseException | None
    _task: asyncio.Task[None] | None = None
    _begun = False  # whether `_drive` has
    # The thread that runs a plain callable: it cannot be cancelled, and is certain to settle.
    _worker = 0
    cancelling = False  # whether a cancellation of palitra's has reached the coroutine
    _over = False  # whether its body has ended, or will never run

    def __init__(
        self,
        service: Service,
        target: Callable[..., Any] | Coroutine[Any, Any, Any] | None,
        args: tuple[Any, ...] | None,
        kwargs: dict[str, Any] | None,
        context: contextvars.Context,
    ) -> None:
        self._service = service
        # What to call with `_args`, or what to await where they are None. None when it has ended.
        self._target: Any = target
        self._args = args
        self._kwargs = kwargs
        self._context = context  # until the call ends
        self._state = PENDING
        self._claim = True
        self._open = True
        self.accepted = _REAL_CLOCK[0]()

    # -- what it is ---------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The name of what is called, as long as it is."""
        return "a call that ends" if self._target is None else name_of(self._target)

    @property
    def in_flight(self) -> bool:
        """Whether there is anything left of it that runs or will run."""
        return self._target is not None

    @property
    def worker(self) -> int:
        """The thread that runs a plain callable; 0 where none does."""
        return self._worker

    @property
    def is_plain(self) -> bool:
        """Whether this is a plain function that has not run yet, as far as its class tells."""
        fn = self._target
        while isinstance(fn, functools.partial | MethodType):
            fn = fn.func if isinstance(fn, functools.partial) else fn.__func__
        if type(fn) is FunctionType:
            return not fn.__code__.co_flags & (inspect.CO_COROUTINE | inspect.CO_ITERABLE_COROUTINE)
        return type(fn) in {type, BuiltinFunctionType}

    @property
    def progress(self) -> Progress:
        """How far it is."""
        if self._state == PENDING or not (self._worker or self.stands_in is not None):
            return "waiting"
        return "cancelling" if self.cancelling else "running"

    @property
    def stands_in(self) -> object:
        """What the loop runs for the call; None where that is nothing."""
        return self._target if self._begun else None

    def chain(self, threads: Threads, of_loop: list[FrameType]) -> Chain:
        """Where it stands. Called where `_stacks.ask` calls; *of_loop*: the frames of its loop."""
        if self._worker:
            return chain_of_frames(_after(_RUN_IN_WORKER, threads.frames(self._worker)))
        return chain_of(self.stands_in, of_loop)

    def tasks(self) -> list[asyncio.Task[Any]]:
        """The tasks that are cancelled with the call."""
        return [] if self._task is None else [self._task]

    @property
    def task(self) -> asyncio.Task[None] | None:
        """The task that runs the coroutine, while it does."""
        return self._task

    @property
    def settled(self) -> bool:
        """Whether the outcome is there."""
        return self._state in _FINAL

    # -- permissions --------------------------------------------------------------------------

    def _take_claim(self) -> bool:
        try:
            del self._claim
        except AttributeError:
            return False
        return True

    def _take_open(self) -> bool:
        try:
            del self._open
        except AttributeError:
            return False
        return True

    # -- on the loop --------------------------------------------------------------------------

    def start(self) -> None:
        """On the loop: begin, unless the call was cancelled before."""
        if self._take_claim():
            self._start_task()
        del self  # see `_drive`

    def _start_task(self) -> None:
        self._state = RUNNING
        drive = self._drive()
        failed = False
        try:
            task = self._service.create_task(drive, self._context, self._target)
        except BaseException as exc:
            if self._begun:
                raise  # by a done-callback, after the end of the call
            drive.close()
            self._release()
            state = self._keep_error(exc)
            failed = True
        try:
            if failed:
                self._end(state)
            elif self._target is not None:
                self._task = task
                if not self._begun:
                    task.add_done_callback(self._task_ended)
        finally:
            del self  # see `_drive`

    async def _drive(self) -> None:
        # A traceback holds the frames of the coroutine, and these, as `f_back`, this one and those
        # that called it. None of them may hold the call in the end: it holds the exception.
        self._begun = True
        state = None
        try:
            if self._args is not None:
                awaitable = self._target(*self._args, **(self._kwargs or {}))
                self._target, self._args, self._kwargs = awaitable, None, None
                del awaitable
            result = await self._target
        except BaseException as exc:
            state = self._keep_error(exc)
        else:
            if self._take_open():
                self._result = result
                state = FINISHED
            del result
        self._target = self._task = None
        self._context = _EMPTY
        try:
            self._end(state)
        finally:
            del self

    def _keep_error(self, exc: BaseException) -> str | None:
        """Store what the body has raised; the state that it leads to, None if settled before."""
        state = FINISHED
        if isinstance(exc, asyncio.CancelledError):
            failure = None if self.cancelling else self._service.host_failure()
            if failure is None:
                state = CANCELLED_AND_NOTIFIED
            else:
                exc = failure
        if not self._take_open():
            return None
        self._exception = user_traceback(exc)
        return state

    def _end(self, state: str | None) -> None:
        """The body has ended, and its outcome is stored; None: settled by somebody else."""
        if state is None:
            self._leave()
        else:
            self._settle(state)

    def _end_cancelled(self) -> None:
        """The body will not run."""
        self.cancelling = True
        self._release()
        self._end(self._keep_error(asyncio.CancelledError()))

    def _task_ended(self, _: object) -> None:
        """A task that was cancelled before its first step never came to run `_drive`."""
        if not self._begun:
            self._task = None
            self._release()
            self._end(self._keep_error(asyncio.CancelledError()))

    def cancel_on_loop(self, again: bool = False) -> None:
        """On the loop: cancel, started or not; a second time only *again*."""
        if self._take_unstarted():
            self._end_cancelled()
        elif self._task is not None:
            if again or not self.cancelling:
                self.cancelling = True
                self._task.cancel()
        elif self._state == RUNNING and not self._worker and not self._begun:
            # What a worker thread's callable has returned, still waiting for its turn.
            if self._target is not None:
                self._end_cancelled()

    def _take_unstarted(self) -> bool:
        """On the loop: take the claim."""
        return self._take_claim()

    def withdraw(self) -> None:
        """On the loop: end a call whose caller has never learnt that it was accepted."""
        self.cancel_on_loop()

    # -- by anybody ---------------------------------------------------------------------------

    def cancel_once(self) -> None:
        """Have the loop cancel the call, unless it is cancelled already."""
        self._service.post(self.cancel_on_loop)

    def fail(self, error: BaseException, *, leave: bool = False) -> None:
        """Settle with *error*, unless settled or certain to be, and let go of the call.

        The thread of a plain callable is certain to settle it, unless the process ends before: then
        *leave* settles that call too.
        """
        started = not self._take_claim()
        if self._worker and not leave:
            return
        if not started:
            self._release()
        if self._take_open():
            self._exception = error
            self._settle(FINISHED)
        elif not self.settled:
            self._over = True
            self._finish()
        self._end(None)

    def left_behind(self) -> None:
        """On the loop: nothing waits for the call any more."""

    def abandon(self, error: BaseException) -> None:
        """In a forked child: settle with *error*, whatever other threads were just doing.

        Whoever waits does so in the parent, unless the fork came in a signal handler.
        """
        raise NotImplementedError

    # -- the end ------------------------------------------------------------------------------

    def _settle(self, state: str) -> None:
        """Say *state*, with the outcome stored before, and tell everybody; then `_leave`.

        Once those who wait go on, no frame here may hold the outcome, or it would outlive what they
        do with it.
        """
        raise NotImplementedError

    def _finish(self) -> None:
        """Settle at once, where the outcome is stored and the rest of `_settle` is to come."""
        raise NotImplementedError

    def _leave(self) -> None:
        """Let go of the call: its body has ended, and everybody has been told."""
        self._service.finished(self)

    def _release(self) -> None:
        """Drop what a call that will not run holds."""
        target, self._target = self._target, None
        if not self._begun and self._args is None:
            close_if_coroutine(target)
        self._args = self._kwargs = None
        self._context = _EMPTY


class BlockingCall(Call, Generic[_T]):
    """A call whose caller waits, on a bare lock: it needs no future."""

    kind: Kind = "run"

    def __init__(
        self,
        service: Service,
        target: Coroutine[Any, Any, _T] | None,
        context: contextvars.Context,
    ) -> None:
        super().__init__(service, target, None, None, context)
        self._exception = None
        self._done = locked()  # until the call is settled

    def wait(self, what: str, timeout: float | None) -> _T:
        """Hand over the call, wait until it is settled, and return or raise the outcome.

        Whatever interrupts the waiting cancels the call, waits for its clean-up and goes on to the
        caller. A second interruption leaves the call behind.
        """
        service = self._service
        passed = None  # the text of the error, once the limit has passed
        try:
            service.refuse_on_loop(what)
            if timeout is not None:
                name = self.name
            service.accept(self)
            if not wait_for(self._done, timeout):
                passed = f"{name} timed out after {timeout:g} s"
                self.cancel_once()
                if not wait_for(self._done, GRACE):
                    raise self._late(passed)
        except BaseException as exc:
            if service.holds(self):
                self._interrupted(exc)
            else:
                self.close()
            raise
        try:
            error = self._exception
            if error is not None:
                self._exception = None
                if passed is not None and self.cancelling:
                    cause = None if isinstance(error, asyncio.CancelledError) else error
                    raise CallTimeoutError(passed) from cause
                raise error
            result: _T = self._result
            del self._result
            return result
        finally:
            # A raised error holds this frame.
            error = cause = None
            del self

    def cancel_once(self) -> None:
        if self._take_claim():  # at once: the loop may be blocked, and would start it then
            self._service.post(self._end_cancelled)
        else:
            self._service.post(self.cancel_on_loop)

    def _take_unstarted(self) -> bool:
        # `cancel_once` may have been interrupted once it had the claim.
        return self._take_claim() or self._state == PENDING

    def _late(self, text: str) -> CallTimeoutError:
        error = CallTimeoutError(text)
        [description] = self._service.describe([self])
        error.add_note(
            f"{GRACE:g} s after its cancellation there is still {description}; the loop's thread "
            f"is {self._service.where()}"
        )
        return error

    def _interrupted(self, exc: BaseException) -> None:
        """Cancel, and wait for the clean-up; for a second where it was not Ctrl-C."""
        if isinstance(exc, CallTimeoutError):
            return
        try:
            self.cancel_once()
            wait_for(self._done, None if isinstance(exc, KeyboardInterrupt) else GRACE)
        except BaseException:
            self._service.leave_behind(self)
            raise

    def close(self) -> None:
        """Dispose of what a refused call leaves."""
        if self._take_claim():
            self._release()

    def _settle(self, state: str) -> None:
        self._state = state
        self._service.finished(self)
        self._done.release()

    def _finish(self) -> None:
        BlockingCall._settle(self, FINISHED)

    def abandon(self, error: BaseException) -> None:
        self._take_claim()
        if self._take_open() or self._state not in _FINAL:
            self._exception = error
            self._state = FINISHED
            release(self._done)


class RunCall(BlockingCall[_T]):
    """One coroutine, run as a task; with *children*, the `gather` of these tasks."""

    def __init__(
        self,
        service: Service,
        coro: Coroutine[Any, Any, _T],
        context: contextvars.Context | None,
        children: Mapping[int, asyncio.Task[None]] | None = None,
    ) -> None:
        super().__init__(service, coro, contextvars.copy_context() if context is None else context)
        self._shares_context = context is not None
        self._children = children
        if children is not None:
            self.kind = "gather"

    def tasks(self) -> list[asyncio.Task[Any]]:
        return [*super().tasks(), *(self._children or {}).values()]

    def _start_task(self) -> None:
        if self._shares_context:
            try:
                self._context.run(int)  # if it is in use now, no task shall find that out
            except RuntimeError as exc:
                self._release()
                self._end(self._keep_error(exc))
                return
        super()._start_task()

    def _settle(self, state: str) -> None:
        if self._shares_context and self._begun:
            # The caller may enter the context on going on: not before the task has left it.
            self._service.post(functools.partial(super()._settle, state))
        else:
            super()._settle(state)


class _FutureCondition:
    """What the standard library asks of a future's condition; it is made when it is asked for.

    Entering it takes nothing: the methods of FutureCall agree with the loop in other ways. Only
    `acquire` and `release`, with which `concurrent.futures.wait` and `as_completed` keep futures
    from changing while they look at many, are real; and they do not wait for ever for a lock that
    Ctrl-C has kept somebody from releasing.
    """

    __slots__ = ("_call",)

    def __init__(self, call: FutureCall[Any]) -> None:
        self._call = call

    def __enter__(self) -> bool:
        return True

    def __exit__(self, *exc: object) -> None:
        pass

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Keep the future from changing; at once where it does not change any more."""
        lock: Any = self._call._lock
        if not blocking or timeout >= 0:
            acquired: bool = lock.acquire(blocking, timeout)
            return acquired
        for _ in range(_PATIENCE):
            if lock.acquire(True, 0.01) or self._call.settled:
                break
        return True

    def release(self) -> None:
        """Let the future change."""
        with suppress(RuntimeError):  # another thread's, see `acquire`
            self._call._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the call is settled."""
        return self._call.wait_until_settled(timeout)

    def notify_all(self) -> None:
        """Nobody waits here."""


class _ListOnDemand:
    """The future's list of watchers: there is one from the moment that somebody asks for it.

    Those are `concurrent.futures.wait` and `as_completed`, who hold the future's lock then.
    """

    def __get__(self, future: FutureCall[Any] | None, owner: type[FutureCall[Any]]) -> Any:
        if future is None:
            return self
        watchers = future.__dict__.setdefault("_waiters", [])
        future.watched = True
        return watchers


class FutureCall(Call, concurrent.futures.Future[_T]):
    """A call that is a standard future: of a coroutine function, a callable or a coroutine.

    How others learn of its end: sleepers are threads in `result` and `exception`, watchers are the
    `wait`s and `as_completed`s that are under way, callbacks are what `add_done_callback` took.

    A sleeper or callback is added first, and then its thread looks at the state; the state changes
    first, and then the sleepers and callbacks are looked at. For watchers the lock sees to that:
    the state changes while `_lock` is held, if it can be had, and the watchers of that moment are
    those to be told. The loop does not wait for the lock, it tries again; after a second whoever
    holds it was interrupted and will not release it.

    What a thread leaves undone that Ctrl-C interrupts while it tells of the end, the loop does.
    """

    watched = False
    _waiters = _ListOnDemand()
    _sleepers: tuple[LockType, ...] | list[LockType] = ()
    _callbacks: tuple[Any, ...] | list[list[Callable[[Any], object]]] = ()
    _untold: deque[Any] | tuple[Any, ...] = ()  # watchers to be told of the end
    # What the state is to be, where `_open` is taken and the state could not be changed at once.
    _decided = FINISHED
    # A call that is settled from outside leaves the register when its body is over, and everybody
    # has been told. Whoever writes one of `_over` and `_told` then looks at the other.
    _told = False
    _in_slot = False  # whether it counts among the calls in flight

    def __init__(
        self,
        service: Service,
        target: Callable[..., Any] | Coroutine[Any, Any, _T],
        args: tuple[Any, ...] | None,
        kwargs: dict[str, Any] | None,
    ) -> None:
        # Not Future.__init__(), which makes a `threading.Condition` and two lists.
        super().__init__(service, target, args, kwargs, contextvars.copy_context())
        self._result = self._exception = None
        self._lock = RLock()

    @property
    def _condition(self) -> Any:
        return _FutureCondition(self)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a future cannot be pickled: it belongs to this process's event loop; pickle a "
            "function made by palitra.sync, and call it in the other process"
        )

    # -- for those who wait -------------------------------------------------------------------

    def result(self, timeout: float | None = None) -> _T:
        """Wait for the call, and return its result or raise its exception; thread-safe.

        Raises:
            TimeoutError: *timeout* seconds have passed; the call goes on.
            concurrent.futures.CancelledError: The call was cancelled.
            DeadlockError: The caller is on the loop's own thread, and the call has not ended.
        """
        try:
            if self._state not in _FINAL and not self.wait_until_settled(timeout):
                raise TimeoutError
            if self._state != FINISHED:
                raise concurrent.futures.CancelledError
            if self._exception is not None:
                raise self._exception
            result: _T = self._result
            return result
        finally:
            del self  # a raised exception holds this frame

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the call, and return its exception, None if it has none; raises as `result`."""
        if self._state not in _FINAL and not self.wait_until_settled(timeout):
            raise TimeoutError
        if self._state != FINISHED:
            raise concurrent.futures.CancelledError
        return self._exception

    def _get_snapshot(self) -> tuple[bool, bool, Any, BaseException | None]:
        # Python 3.14 has asyncio ask for all at once.
        state = self._state
        if state not in _FINAL:
            return False, False, None, None
        return True, state != FINISHED, self._result, self._exception

    def wait_until_settled(self, timeout: float | None) -> bool:
        """Wait until the outcome is there; False after *timeout* seconds."""
        self._service.check_process()
        self._service.refuse_on_loop("waiting for a future")
        lock = locked()
        began = clock()  # noqa: F841  (a dump tells it)
        sleepers = self.__dict__.setdefault("_sleepers", [])
        sleepers.append(lock)
        try:
            return self._state in _FINAL or wait_for(lock, timeout) or self._state in _FINAL
        finally:
            with suppress(ValueError):
                sleepers.remove(lock)

    def add_done_callback(self, fn: Callable[[concurrent.futures.Future[_T]], object]) -> None:
        """Call *fn* with this future when it is done; at once if it is. Thread-safe."""
        permission = [fn]
        self.__dict__.setdefault("_callbacks", []).append(permission)
        if self._state in _FINAL:
            self._call_back([permission])

    # -- the end ------------------------------------------------------------------------------

    def _settle(self, state: str, patience: int = _PATIENCE) -> None:
        # In a thread that Ctrl-C cannot interrupt.
        self._over = True
        if state != FINISHED:
            self._exception = None
        if not self._change(state, patience):
            self._decided = state
            self._service.later(functools.partial(self._settle, state, patience - 1))
            return
        self._tell_and_leave()

    def _change(self, state: str, patience: int) -> bool:
        """Change the state to *state*; False where another thread keeps it from changing."""
        lock = self._lock
        # Those who look at many futures do so for a moment, and a worker thread may wait for that.
        held = lock.acquire(False) or (self._worker != 0 and lock.acquire(True, _BRIEFLY))
        if not held and patience:
            self._worker = 0
            return False
        if self.watched:
            self._untold = deque(self._waiters)
        self._state = state
        if held:
            lock.release()
        return True

    def _tell_and_leave(self) -> None:
        if self._sleepers:
            self._tell_sleepers()
        if self._untold:
            self._tell_watchers()
        try:
            if self._callbacks:
                self._call_back(self._callbacks)
        finally:
            self._told = True
            if self._over:
                self._leave()

    def _end(self, state: str | None) -> None:
        if state is not None:
            self._settle(state)
            return
        self._over = True
        if self._told:
            self._leave()

    def _tell_sleepers(self) -> None:
        for lock in tuple(self._sleepers):
            release(lock)

    def _tell_watchers(self) -> None:
        while self._untold:
            watcher = self._untold[0]
            if any(future is self for future in watcher.finished_futures):
                watcher.event.set()  # Ctrl-C came while this was being told
            elif self._state != FINISHED:
                watcher.add_cancelled(self)
            elif self._exception is not None:
                watcher.add_exception(self)
            else:
                watcher.add_result(self)
            self._untold.popleft()  # type: ignore[union-attr]  # it is a deque

    def _call_back(self, permissions: Any) -> None:
        for permission in permissions:
            try:
                fn = permission.pop()
            except IndexError:
                continue  # called by another thread
            try:
                fn(self)
            except Exception:
                LOGGER.exception("exception calling callback for %r", self)

    def _settle_here(self, state: str) -> None:
        """Settle in a thread that Ctrl-C may interrupt; the loop finishes it in any case."""
        self._decided = state
        try:
            if self._change(state, 1):
                self._tell_sleepers()
                self._tell_watchers()
                self._call_back(self._callbacks)
        finally:
            # One call, see `_inbox`: a second interruption finds it done.
            self._service.inbox.items.append(_finishing(self))
            self._service.inbox.ring()

    def _finish(self, patience: int = 0) -> None:
        """Do what is left to do for an outcome that is decided; on the loop, or at its end."""
        if self._over and self._target is not None:
            self._release()
        self._take_open()
        if self._state not in _FINAL and not self._change(self._decided, patience):
            self._service.later(functools.partial(self._finish, patience - 1))
            return
        self._tell_and_leave()

    # -- by anybody ---------------------------------------------------------------------------

    def cancel(self) -> bool:
        """Cancel the call if it has not started, or request its cancellation on the loop.

        A coroutine in flight receives `asyncio.CancelledError` where it waits. It stays `running()`
        until it has finished its clean-up; then it is `cancelled()`, or has a result if it chose to
        return one. Thread-safe; never blocks.

        Returns:
            True if the call is cancelled or its cancellation requested; False if it is finished, or
            runs in a worker thread, where nothing can cancel it.
        """
        if self._cancel_unstarted():
            return True
        if self._state not in _FINAL and not self._worker:
            self._service.post(functools.partial(self.cancel_on_loop, True))
            return True
        return self.cancelled()

    def cancel_once(self) -> None:
        if not self._cancel_unstarted() and self._state not in _FINAL and not self._worker:
            self._service.post(self.cancel_on_loop)

    def _cancel_unstarted(self) -> bool:
        try:
            del self._claim
        except AttributeError:
            return False  # it has started, or been cancelled before
        self._over = True
        self._decided = CANCELLED_AND_NOTIFIED
        try:
            if not self._take_open():
                return False
            self._release()
        except BaseException:  # Ctrl-C, and nobody else can settle it now: the loop does
            self._service.inbox.items.append(_finishing(self))
            self._service.inbox.ring()
            raise
        self._settle_here(CANCELLED_AND_NOTIFIED)
        return True

    def set_running_or_notify_cancel(self) -> bool:
        """False where the call was cancelled; nothing changes. For code that expects the method."""
        return not self.cancelled()

    def set_result(self, result: _T) -> None:
        """Settle the future from outside; its call, if it has started, runs on to no effect."""
        self._settle_from_outside(result, None)

    def set_exception(self, exception: BaseException | None) -> None:
        """Settle the future from outside with an exception; as `set_result`."""
        self._settle_from_outside(None, exception)

    def _settle_from_outside(self, result: Any, exception: BaseException | None) -> None:
        unstarted = self._take_claim()
        if not self._take_open():
            raise InvalidStateError(f"{self._state}: {self!r}")
        if unstarted:
            self._over = True
            self._release()
        self._result, self._exception = result, exception
        self._settle_here(FINISHED)
        del result, exception

    def abandon(self, error: BaseException) -> None:
        # What is to be called back is the parent's.
        self._lock = RLock()  # the parent's other threads may have held it
        self._take_claim()
        if self._state in _FINAL:
            return
        if not self._begun:
            self._release()
        self._take_open()
        self._target = self._task = self._args = self._kwargs = None
        self._context = _EMPTY
        self._callbacks = self._untold = ()
        self._exception = error
        self._state = FINISHED
        self._tell_sleepers()

    # -- on the loop --------------------------------------------------------------------------

    def start(self) -> None:
        """On the loop: begin, as soon as the limit of calls in flight allows."""
        slots = self._service.slots
        try:
            if slots is None or self.kind == "service" or slots.enter(self._start_in_slot):
                self._start_in_slot()
        finally:
            del self  # see `_drive`

    def _start_in_slot(self) -> None:
        self._in_slot = True
        if (self._state == RUNNING and self._target is not None) or self._take_claim():
            self._start_task()
        else:
            self._leave_slot()  # cancelled before it began
        del self  # see `_drive`

    def _leave(self) -> None:
        self._service.finished(self)
        if self._in_slot:
            self._leave_slot()

    def _leave_slot(self) -> None:
        if self._in_slot and self._service.slots is not None and self.kind != "service":
            self._service.slots.leave(self._service)
        self._in_slot = False

    # -- in a worker thread -------------------------------------------------------------------

    def run_in_worker(self) -> None:
        """In a worker thread: call, and leave what is to be awaited to the loop."""
        self._worker = get_ident()
        if not self._take_claim():
            self._worker = 0
            return
        self._state = RUNNING
        state = None
        try:
            result = self._context.run(self._target, *(self._args or ()), **(self._kwargs or {}))
            awaitable = inspect.isawaitable(result)  # asks the result, which may raise
        except BaseException as exc:
            if self._take_open():
                self._exception = user_traceback(exc)
                state = FINISHED
        else:
            if awaitable:
                self._target, self._args, self._kwargs = result, None, None
                del result
                self._worker = 0
                self._service.post(self.start)
                # In this order: it may end just now, because this call has ended.
                if self._service.ended and not self.settled:
                    # It has ended in a way that did not wait for calls.
                    self.fail(concurrent.futures.BrokenExecutor("the event loop has ended"))
                return
            if self._take_open():
                self._result = result
                state = FINISHED
            del result
        self._target = self._args = self._kwargs = None
        self._context = _EMPTY
        try:
            self._end(state)
        finally:
            del self  # see `_drive`


_RUN_IN_WORKER = FutureCall.run_in_worker.__code__


def _after(code: CodeType, frames: list[FrameType]) -> list[FrameType]:
    """The *frames* that one of *code* has called; none where there is none of that."""
    for number, frame in enumerate(frames, 1):
        if frame.f_code is code:
            return frames[number:]
    return []


def _finishing(call: FutureCall[Any]) -> Callback:
    return Callback(functools.partial(call._finish, _PATIENCE))


class Calls:
    """The register: what was accepted and has not ended, in the order of acceptance."""

    def __init__(self) -> None:
        self.waited: dict[Call, None] = {}  # those whose end a shutdown waits for
        self.services: dict[Call, None] = {}  # those that it cancels instead
        self.left: dict[Call, None] = {}  # those that nobody waits for any more
        self._watch: _Watch | None = None

    def __contains__(self, call: Call) -> bool:
        return call in self.waited or call in self.services or call in self.left

    def snapshot(self) -> list[Call]:
        """All of them."""
        calls = [*list(self.waited), *list(self.services), *list(self.left)]
        calls.sort(key=lambda call: call.accepted)
        return calls

    def discard(self, call: Call) -> None:
        """Let go of *call*, wherever it stands."""
        if self.waited.pop(call, self) is self:
            self.services.pop(call, None)
            self.left.pop(call, None)
        if self._watch is not None:
            self._watch.discard(call)

    def leave_behind(self, call: Call) -> None:
        """Wait for *call* no more."""
        self.left[call] = None  # first: it must not be in neither
        if self.waited.pop(call, self) is self and self.services.pop(call, self) is self:
            del self.left[call]
        if self._watch is not None:
            self._watch.discard(call)

    def abandon(self) -> None:
        """In a forked child: nobody waits here for the parent's calls."""
        if self._watch is not None:
            self._watch.none_left.happen()

    def wait_for_these(self, timeout: float | None) -> bool:
        """Wait for the calls that were in flight when this was first called; False if too long."""
        watch = self._watch
        if watch is None:
            watch = self._watch = _Watch(list(self.waited))
        for call in watch.calls:
            if call not in self.waited:
                watch.discard(call)  # it ended before the watch was set
        return watch.none_left.wait(timeout)


class _Watch:
    """The moment when all calls have ended that were in flight at another moment."""

    def __init__(self, calls: list[Call]) -> None:
        self.calls = calls
        self._left = dict.fromkeys(calls)
        self.none_left = Moment()
        if not calls:
            self.none_left.happen()

    def discard(self, call: Call) -> None:
        self._left.pop(call, None)
        if not self._left:
            self.none_left.happen()
