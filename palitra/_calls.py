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
future (see `_futures`); and Step, a step of a bridged object (see `_bridges`). In a burst of
100,000 the garbage collector stops the loop, and everybody, for as long as it takes to look at all
objects of all calls, so a call makes as few objects as it can.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
from collections.abc import Coroutine, Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from ._stacks import (
    NOWHERE,
    Chain,
    Looped,
    Threads,
    ask,
    chain_of,
    chain_of_frames,
    of_job,
    where_it_stands,
)
from ._waiting import REAL_CLOCK, Looks, Moment, clock, locked, release, wait_for
from ._words import close_if_coroutine, in_words, name_of, user_traceback

if TYPE_CHECKING:
    from ._service import Service

_T = TypeVar("_T")
Kind = Literal["submit", "service", "run", "gather", "iterator", "context"]
Progress = Literal["waiting", "running", "cancelling"]

# The states. `concurrent.futures.wait` compares them with these words, which are not documented.
_words: Any = getattr(concurrent.futures, "_base", None)
PENDING: str = getattr(_words, "PENDING", "PENDING")
RUNNING: str = getattr(_words, "RUNNING", "RUNNING")
CANCELLED_AND_NOTIFIED: str = getattr(_words, "CANCELLED_AND_NOTIFIED", "CANCELLED_AND_NOTIFIED")
FINISHED: str = getattr(_words, "FINISHED", "FINISHED")

_NAMED = 10  # calls that a text names
GRACE = 1.0  # seconds that a cancelled call has for its clean-up, where somebody waits for that
_FINAL = frozenset((CANCELLED_AND_NOTIFIED, FINISHED))
_EMPTY = contextvars.Context()


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
    palitra._calls.CallTimeoutError: sleep timed out after 0.01 s

    .. versionadded:: 0.2.0
    """


class Call:
    """One call: where it stands, and how its coroutine is driven."""

    kind: Kind = "submit"

    # Defaults of the class, so that `__init__` sets few attributes: there are very many calls.
    _service: Service
    # What to call with `_args`, or to await if `_args` is None. None when the call has ended.
    _target: Any
    _args: tuple[Any, ...] | None = None
    _kwargs: dict[str, Any] | None = None
    _context: contextvars.Context  # until the call ends
    _state = PENDING
    _claim: bool
    _open: bool
    _result: Any
    _exception: BaseException | None = None
    accepted: float
    _task: asyncio.Task[None] | None = None
    _begun = False  # whether `_drive` has begun
    # The thread that runs a plain callable, or 0. Such a call cannot be cancelled, and that thread
    # is certain to settle it.
    _worker = 0
    _returned = False  # whether `_target` is what that thread's callable has returned
    cancelling = False  # whether a cancellation of palitra's has reached the coroutine
    _over = False  # whether its body has ended, or will never run
    is_of_call = False  # whether another call makes it, for which a shutdown waits
    is_clean_up = False  # whether it leaves what an earlier one has opened

    # -- what it is ---------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The name of what is called, until the call has ended."""
        return "a call that ends" if self._target is None else name_of(self._target)

    @property
    def in_flight(self) -> bool:
        """Whether its body runs or will run."""
        return self._target is not None

    @property
    def progress(self) -> Progress:
        """How far the call has come."""
        if self._state == PENDING or not (self._worker or self.stands_in is not None):
            return "waiting"
        return "cancelling" if self.cancelling else "running"

    @property
    def stands_in(self) -> object:
        """What the loop runs for the call; None where that is nothing."""
        return self._target if self._begun else None

    def chain(self, threads: Threads, of_loop: list[FrameType]) -> Chain:
        """Where the call stands; *of_loop*: the frames of its loop's thread. See `_stacks.ask`."""
        if self._worker:
            return chain_of_frames(of_job(threads.frames(self._worker)))
        return chain_of(self.stands_in, of_loop)

    def tasks(self) -> list[asyncio.Task[Any]]:
        """The tasks that are cancelled with the call."""
        return [] if self._task is None else [self._task]

    @property
    def task(self) -> asyncio.Task[None] | None:
        """The task that runs the coroutine, as long as the coroutine runs."""
        return self._task

    @property
    def takes_first_step(self) -> bool:
        """On the loop: whether the caller is in the step in which the coroutine starts."""
        return self._begun and self._task is None and self._target is not None

    @property
    def settled(self) -> bool:
        """Whether the call has its outcome."""
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
        try:
            del self._claim
        except AttributeError:
            return
        self._state = RUNNING
        self._start_task()
        del self  # see `_drive`

    def _start_task(self) -> None:
        drive = self._drive()
        try:
            task = self._service.create_task(drive, self._context, self._target)
            if not self._begun:
                task.add_done_callback(self._task_ended)  # raises where a factory gives no task
        except BaseException as exc:
            if self._begun:
                raise  # a done-callback raised it, after the end of the call
            drive.close()
            self._release()
            state = self._keep_error(exc)
        else:
            if self._target is not None:
                self._task = task
            del self  # see `_drive`
            return
        self._end(state)

    async def _drive(self) -> None:
        # The call holds the exception. A traceback holds the coroutine's frames, and, through their
        # `f_back`, this frame and those that called it. So at the end none of these frames may hold
        # the call, or there would be a cycle: hence `del self`, here and elsewhere.
        self._begun = True
        state = None
        try:
            if self._args is not None:
                if self._kwargs is None:
                    awaitable = self._target(*self._args)
                else:
                    awaitable = self._target(*self._args, **self._kwargs)
                self._target, self._args, self._kwargs = awaitable, None, None
                del awaitable
            result = await self._target
        except BaseException as exc:
            state = self._keep_error(exc)
        else:
            try:
                del self._open
            except AttributeError:
                pass
            else:
                self._result = result
                state = FINISHED
            del result
        self._target = self._task = None
        self._context = _EMPTY
        try:
            if state is None:
                self._end(state)
            else:
                self._settle(state)
        finally:
            del self

    def _keep_error(self, exc: BaseException) -> str | None:
        """Store what the body has raised; return the state for that, None if settled before."""
        state = FINISHED
        # By the type itself: `isinstance` asks the exception for its class, which may raise.
        if issubclass(type(exc), asyncio.CancelledError):
            failure = None if self.cancelling else self._service.ending.host_failure()
            if failure is None:
                state = CANCELLED_AND_NOTIFIED
            else:
                exc = failure
        if not self._take_open():
            return None
        self._exception = user_traceback(exc)
        return state

    def _end(self, state: str | None) -> None:
        """The body has ended: settle with *state*; None if others have settled the call."""
        if state is None:
            self._leave()
        else:
            self._settle(state)

    def _end_cancelled(self) -> None:
        """Settle as cancelled a call whose body will not run."""
        self.cancelling = True
        self._release()
        self._end(self._keep_error(asyncio.CancelledError()))

    def _task_ended(self, _: object) -> None:
        """Settle a call whose task was cancelled before its first step, and never ran `_drive`."""
        if not self._begun:
            self._release()
            self._end(self._keep_error(asyncio.CancelledError()))

    def cancel_on_loop(self, again: bool = False) -> None:
        """On the loop: cancel the call, started or not; a second time only if *again*."""
        if self._take_unstarted():
            self._end_cancelled()
        elif self._task is not None:
            if again or not self.cancelling:
                self.cancelling = True
                self._task.cancel()
        elif (self._returned or self._state == RUNNING) and not (
            self._worker or self._begun or self._target is None
        ):
            # An awaitable that a worker thread's callable has returned still waits for its turn.
            self._end_cancelled()

    def _take_unstarted(self) -> bool:
        """On the loop: take the claim."""
        return self._take_claim()

    # -- by anybody ---------------------------------------------------------------------------

    def cancel_once(self) -> None:
        """Have the loop cancel the call, unless it is cancelled already."""
        self._service.inbox.post(self.cancel_on_loop)

    def fail(self, error: BaseException, *, leave: bool = False) -> None:
        """Settle with *error*, unless settled or certain to be, and let go of the call.

        The thread of a plain callable is certain to settle it, unless the process ends before: then
        *leave* settles that call too.
        """
        claimed = self._take_claim()
        # A thread that came too late for the claim has set `_worker`, too, and will do nothing.
        if self._worker and not (leave or claimed):
            return
        never_begins = self._task is None or self._service.ending.ended
        if claimed or (never_begins and not (self._worker or self._begun)):
            self._release()  # what a worker thread's callable has returned is to be closed, too
        if self._take_open():
            self._exception = error
            self._settle(FINISHED)
        elif not self.settled:
            if self._exception is None and "_result" not in self.__dict__:
                self._exception = error  # Ctrl-C came when `_open` was taken and nothing stored
            self._over = True
            self._finish(at_once=leave)
        self._end(None)

    def left_behind(self) -> None:
        """On the loop: nothing waits for the call any more."""

    def abandon(self, error: BaseException) -> None:
        """In a forked child: settle with *error*, whatever other threads were just doing.

        Nobody waits for the call in the child, unless the fork came in a signal handler.
        """
        raise NotImplementedError

    # -- the end ------------------------------------------------------------------------------

    def _settle(self, state: str) -> None:
        """Set *state*, and tell those who wait; then `_leave`. The outcome is stored already.

        When those who wait go on, no frame here may hold the outcome: it would live longer than
        they need it.
        """
        raise NotImplementedError

    def _finish(self, *, at_once: bool) -> None:
        """Do the rest of `_settle`: the outcome is stored, and nobody has been told."""
        raise NotImplementedError

    def _leave(self) -> None:
        """Let go of the call: its body has ended, and everybody has been told."""
        self._service.finished(self)

    def _release(self) -> None:
        """Drop what a call that will not run holds."""
        target, self._target = self._target, None
        if not self._begun and self._args is None:
            close_if_coroutine(target)
        self._task = self._args = self._kwargs = None
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
        self._service = service
        self._target = target
        self._context = context
        self._claim = self._open = True
        self._done = locked()  # until the call is settled
        self.accepted = REAL_CLOCK[0]()

    def wait(self, what: str, timeout: float | None) -> _T:
        """Hand over the call, wait until it is settled, and return or raise the outcome.

        If an exception interrupts the wait, cancel the call, wait for its clean-up, and raise that
        exception. A second interruption leaves the call behind.
        """
        service = self._service
        passed = None  # the text of the error, once the limit has passed
        try:
            if service.host.on_loop():
                service.refuse_on_loop(what)
            if timeout is not None:
                name = self.name
            service.accept(self)
            if not service.calls.looks.wait_for(self._done, timeout):
                passed = f"{name} timed out after {timeout:g} s{self.unfinished()}"
                self.cancel_once()
                if not wait_for(self._done, GRACE):
                    raise self._late(passed)  # noqa: TRY301  (handled below, as all else)
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
                    cause = None if issubclass(type(error), asyncio.CancelledError) else error
                    raise CallTimeoutError(passed) from cause
                raise error
            result: _T = self._result
            del self._result
            return result
        finally:
            # A raised error holds this frame.
            error = cause = None
            del self

    def unfinished(self) -> str:
        """Which parts of the call are unfinished, for an error message; only `gather` has parts."""
        return ""

    def cancel_once(self) -> None:
        if self._take_claim():  # or a loop that is blocked now would start the call later
            self._service.inbox.post(self._end_cancelled)
        else:
            self._service.inbox.post(self.cancel_on_loop)

    def _take_unstarted(self) -> bool:
        # `cancel_once` may have been interrupted after it had taken the claim.
        return self._take_claim() or self._state == PENDING

    def _late(self, text: str) -> CallTimeoutError:
        error = CallTimeoutError(text)
        host = self._service.host
        standing = where_it_stands(host)  # before `describe`, which may set the loop in motion
        [description] = describe([self], host)
        error.add_note(
            f"{GRACE:g} s after its cancellation there is still {description}; the loop's thread "
            f"is {standing}"
        )
        return error

    def _interrupted(self, exc: BaseException) -> None:
        """Cancel, and wait for the clean-up: without limit after Ctrl-C, otherwise for a second."""
        # By the type itself, see `_keep_error`; otherwise, the call would not be cancelled.
        if issubclass(type(exc), CallTimeoutError):
            return
        try:
            self.cancel_once()
            wait_for(self._done, None if issubclass(type(exc), KeyboardInterrupt) else GRACE)
        except BaseException:
            self._service.leave_behind(self)
            raise

    def close(self) -> None:
        """Close the coroutine of a call that was refused."""
        if self._take_claim():
            self._release()

    def _settle(self, state: str) -> None:
        self._state = state
        self._service.finished(self)
        try:
            self._done.release()
        except RuntimeError:
            pass  # an exit that does not wait has settled it at the same time

    def _finish(self, *, at_once: bool) -> None:
        BlockingCall._settle(self, FINISHED)

    def abandon(self, error: BaseException) -> None:
        self._take_claim()
        if self._take_open() or self._state not in _FINAL:
            self._exception = error
            self._state = FINISHED
            release(self._done)


class RunCall(BlockingCall[_T]):
    """One coroutine, run as a task; with *children*, the `gather` of these tasks."""

    _shares_context = False
    _children: Mapping[int, asyncio.Task[None]] | None = None

    def __init__(
        self,
        service: Service,
        coro: Coroutine[Any, Any, _T],
        context: contextvars.Context | None,
        children: Mapping[int, asyncio.Task[None]] | None = None,
    ) -> None:
        # As BlockingCall.__init__, without a call of it.
        self._service = service
        self._target = coro
        self._context = contextvars.copy_context() if context is None else context
        self._claim = self._open = True
        self._done = locked()
        self.accepted = REAL_CLOCK[0]()
        if context is not None:
            self._shares_context = True
        if children is not None:
            self._children = children
            self.kind = "gather"

    def unfinished(self) -> str:
        names = [task.get_name() for task in list((self._children or {}).values())]
        if len(names) > _NAMED:
            names[_NAMED:] = [f"{len(names) - _NAMED} more"]
        return f": {', '.join(names)}" if names else ""

    def tasks(self) -> list[asyncio.Task[Any]]:
        return [*super().tasks(), *(self._children or {}).values()]

    def _start_task(self) -> None:
        if self._shares_context:
            try:
                self._context.run(int)  # raises if the context is in use, before a task is made
            except RuntimeError as exc:
                self._release()
                self._end(self._keep_error(exc))
                return
        super()._start_task()

    def _settle(self, state: str) -> None:
        if self._shares_context and self._begun and self._service.on_loop():
            # As soon as the caller goes on, it may enter the context: let the task leave it first.
            self._service.later(functools.partial(super()._settle, state), 0)
        else:
            self._state = state
            self._service.finished(self)
            try:
                self._done.release()
            except RuntimeError:
                pass  # as there


class Calls:
    """The register: what was accepted and has not ended, in the order of acceptance."""

    def __init__(self) -> None:
        self.waited: dict[Call, None] = {}  # those whose end a shutdown waits for
        self.services: dict[Call, None] = {}  # those that it cancels instead
        self.left: dict[Call, None] = {}  # those that nobody waits for any more
        # Those of them that the loop has had no time to hear of, and since when.
        self.unheard: dict[Call, float] = {}
        self.watched: _Watch | None = None
        self.looks = Looks()  # how its callers wait

    def __contains__(self, call: Call) -> bool:
        return call in self.waited or call in self.services or call in self.left

    def snapshot(self) -> list[Call]:
        """All calls in the register."""
        calls = [*list(self.waited), *list(self.services), *list(self.left)]
        calls.sort(key=lambda call: call.accepted)
        return calls

    def discard(self, call: Call) -> None:
        """Let go of *call*, wherever it stands."""
        if self.waited.pop(call, self) is self:
            self.services.pop(call, None)
            self.left.pop(call, None)
        if self.watched is not None:
            self.watched.discard(call)

    def heard(self, call: Call) -> None:
        """On the loop, which goes on, though *call* was left behind."""
        self.unheard.pop(call, None)
        call.left_behind()

    def hold(self, loop: asyncio.AbstractEventLoop | None) -> bool:
        """Whether one that was left behind holds *loop*, and has done so since."""
        if loop is None:
            return False
        now = clock()
        return any(
            call.takes_first_step or asyncio.current_task(loop) in call.tasks()
            for call, since in list(self.unheard.items())
            if now - since >= GRACE
        )

    def leave_behind(self, call: Call) -> None:
        """Wait for *call* no more."""
        self.left[call] = None  # add first, then remove: the call must never be in no register
        if self.waited.pop(call, self) is self and self.services.pop(call, self) is self:
            del self.left[call]
        if self.watched is not None:
            self.watched.discard(call)

    def abandon(self) -> None:
        """In a forked child: nobody waits here for the parent's calls."""
        if self.watched is not None:
            self.watched.none_left.happen()

    def wait_for_these(self, timeout: float | None) -> bool:
        """Wait for the calls that were in flight when this was first called; False if too long."""
        watch = self.watched
        if watch is None:
            watch = self.watched = _Watch(list(self.waited))
        for call in watch.calls:
            if call not in self.waited:
                watch.discard(call)  # the call ended before the watch was set
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


def chains(calls: list[Call], host: Looped) -> list[Chain]:
    """Where each of *calls* stands; all of them are on the loop of *host*."""
    if not calls:
        return []

    def look() -> list[Chain]:
        threads = Threads()
        of_loop = threads.frames(host.ident)
        return [call.chain(threads, of_loop) for call in calls]

    seen = ask(host.loop, look)
    if seen is not None:
        return seen
    # The loop has no time to answer. While its thread stands still, nothing changes.
    still = Threads().frames(host.ident)
    return look() if still else [NOWHERE] * len(calls)


def describe(calls: list[Call], host: Looped) -> list[str]:
    """Each of *calls*, for a text."""
    # Read first what may be gone in a moment.
    known = [(call.name, call.kind, call.progress, clock() - call.accepted) for call in calls]
    where = [chain.innermost for chain in chains(calls, host)]
    return [in_words(*call, place) for call, place in zip(known, where, strict=True)]
