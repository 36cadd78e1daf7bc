"""FutureCall: a call that is a standard `concurrent.futures.Future`.

What a call is, and which permissions settle it, is said in `_calls`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import inspect
import logging
import operator
from _thread import LockType, get_ident
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import InvalidStateError
from types import GeneratorType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from . import _hooks
from ._calls import (
    _EMPTY,
    _FINAL,
    CANCELLED_AND_NOTIFIED,
    FINISHED,
    PENDING,
    RUNNING,
    Call,
)
from ._stacks import gil_is_enabled
from ._waiting import REAL_CLOCK, locked, release
from ._watchers import (
    FOR_WATCHERS,
    HELD,
    PATIENCE,
    FutureCondition,
    ListOnDemand,
    can_be_told,
    is_lost,
)
from ._words import user_traceback

if TYPE_CHECKING:
    from ._service import Service

_T = TypeVar("_T")

LOGGER = logging.getLogger("concurrent.futures")
_NO_AWAITABLES = frozenset((type(None), bool, int, float, str, bytes, list, tuple, dict, set))
_BRIEFLY = 0.05  # seconds
_HAS_GIL = gil_is_enabled()


class FutureCall(Call, concurrent.futures.Future[_T]):
    """A call that is a standard future: of a coroutine function, a callable or a coroutine.

    How others learn of its end: sleepers are threads in `result` and `exception`, watchers are the
    `wait`s and `as_completed`s that are under way, callbacks are what `add_done_callback` took.

    A sleeper or callback is added first, and then its thread looks at the state; the state changes
    first, and then the sleepers and callbacks are looked at. For watchers the lock sees to that:
    the state changes while `_lock` is held, if it can be had, and the watchers of that moment are
    those to be told. Few futures are ever watched, so the lock is made by the first who watches.
    That takes the permission `_lockless`; who has it instead changes the state without a lock,
    since nobody watches, nor will before the state is changed.

    The loop does not wait for the lock, it tries again, until whoever holds the lock is seen to
    have left the standard library's code without releasing it: Ctrl-C does that. Where nobody can
    see, a second has to do.

    What a thread leaves undone that Ctrl-C interrupts while it tells of the end, the loop does.
    """

    _result: Any = None
    watched = False
    _waiters = ListOnDemand()
    _sleepers: tuple[LockType, ...] | list[LockType] = ()
    _callbacks: tuple[Any, ...] | list[dict[str, Callable[[Any], object]]] = ()
    _lock: Any = None  # an RLock, once somebody watches
    _holder = 0  # the thread that has acquired the future's condition
    _being_told: object = None  # the watcher that is being told, or was when Ctrl-C came
    _untold: deque[Any] | tuple[Any, ...] = ()  # watchers to be told of the end
    # The state to come, if `_open` is taken and the state could not be changed at once.
    _decided = FINISHED
    # A call that is settled from outside leaves the register when its body is over, and everybody
    # has been told. Whoever writes one of `_over` and `_told` then looks at the other.
    _told = False
    # What a thread has left to the loop, which `start` then does instead of starting: `undone`, to
    # finish settling; and `withdrawn`, to cancel what the caller has never learnt of. Two threads
    # may come to leave one each, so these are two. Each has its item in the inbox.
    undone = False
    withdrawn = False
    _in_slot = False  # whether it counts among the calls in flight

    def __init__(
        self,
        service: Service,
        target: Callable[..., Any] | Coroutine[Any, Any, _T],
        args: tuple[Any, ...] | None,
        kwargs: dict[str, Any] | None,
    ) -> None:
        # Not Future.__init__(), which makes a `threading.Condition` and two lists.
        self._service = service
        self._target = target
        self._args = args
        self._kwargs = kwargs
        self._context = contextvars.copy_context()
        self._claim = self._open = self._lockless = True
        self.accepted = REAL_CLOCK[0]()

    @property
    def _condition(self) -> Any:  # type: ignore[override]  # nobody sets it
        if not _hooks.mark[0]:
            self._service.check_process()
        return FutureCondition(self)

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
        # From Python 3.14 on, asyncio asks for state and outcome at once.
        state = self._state
        if state not in _FINAL:
            return False, False, None, None
        return True, state != FINISHED, self._result, self._exception

    def wait_until_settled(self, timeout: float | None) -> bool:
        """Wait until the outcome is there; False after *timeout* seconds."""
        service = self._service
        if not _hooks.mark[0]:
            service.check_process()
        if service.host.on_loop():
            service.refuse_on_loop("waiting for a future")
        began = REAL_CLOCK[0]()  # noqa: F841  (a dump tells it)
        lock = locked()
        sleepers = self.__dict__.setdefault("_sleepers", [])
        sleepers.append(lock)
        try:
            return (
                self._state in _FINAL
                or service.calls.looks.wait_for(lock, timeout)
                or self._state in _FINAL
            )
        finally:
            try:
                sleepers.remove(lock)
            except ValueError:
                pass

    def add_done_callback(self, fn: Callable[[concurrent.futures.Future[_T]], object]) -> None:
        """Call *fn* with this future when it is done; at once if it is. Thread-safe."""
        if not _hooks.mark[0]:
            self._service.check_process()
        permission = {"fn": fn}
        self.__dict__.setdefault("_callbacks", []).append(permission)
        if self._state in _FINAL:
            _call_back(self, [permission])

    def _keep_error(self, exc: BaseException) -> str | None:
        state = super()._keep_error(exc)
        if self.kind == "service" and state == FINISHED and self._exception is exc:
            asked = self.watched or "_sleepers" in self.__dict__ or "_callbacks" in self.__dict__
            if not asked:
                loop = asyncio.get_running_loop()
                context = {"message": f"the service {self.name} has failed", "exception": exc}
                loop.call_soon(loop.call_exception_handler, context)  # which may raise
        return state

    # -- the end ------------------------------------------------------------------------------

    def _settle(self, state: str, patience: int = PATIENCE) -> None:
        # This runs in a thread that Ctrl-C cannot interrupt.
        self._over = True
        if state != FINISHED:
            self._exception = None
        if not self._change(state, patience):
            self._decided = state
            self._service.later(functools.partial(_settle_yet, self, state, patience - 1))
            return
        if self._sleepers or self._untold or self._callbacks:
            self._tell_and_leave()
            return
        self._told = True
        self._service.finished(self)
        if self._in_slot:
            self._leave_slot()

    def _change(self, state: str, patience: int) -> bool:
        """Change the state to *state*; False if another thread keeps it from changing."""
        held: Any = None
        try:
            del self._lockless
        except AttributeError:
            # None: it is just being made, or Ctrl-C came then, or when this was called before.
            lock = self._lock or HELD
            in_worker = self._worker == get_ident()
            # Those who look at many futures do so for a moment; a worker thread may wait for that.
            if lock.acquire(False) or (in_worker and lock.acquire(True, _BRIEFLY)):
                held = lock
            elif patience and not is_lost(self, patience):
                if in_worker:
                    self._worker = 0  # the loop settles the call
                return False
        if self.watched:
            self._untold = deque(self._waiters)
        self._state = state
        if held is not None:
            held.release()
        return True

    def _tell_and_leave(self) -> None:
        for lock in tuple(self._sleepers):
            release(lock)
        if self._untold:
            _tell_watchers(self)
        try:
            if self._callbacks:
                _call_back(self, self._callbacks)
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

    def _settle_here(self, state: str) -> None:
        """Settle in a thread that Ctrl-C may interrupt; the loop finishes what is left undone."""
        self._decided = state
        if self._change(state, 1):
            _tell_sleepers(self)
            _tell_watchers(self)
            if self._over:  # first: a callback may wait for the end of the service
                self._service.finished(self)
            _call_back(self, self._callbacks)
        self.undone = True
        self._service.inbox.items.append(self)
        self._service.inbox.ring()

    def _finish(self, *, at_once: bool) -> None:
        _finish(self, 0 if at_once else PATIENCE)

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
            self._service.inbox.post(functools.partial(self.cancel_on_loop, True))
            return True
        return self.cancelled()

    def cancel_once(self) -> None:
        if not (self._cancel_unstarted() or self._over or self._worker):
            self._service.inbox.post(self.cancel_on_loop)

    def _cancel_unstarted(self) -> bool:
        try:
            del self._claim
        except AttributeError:
            return False  # the call has started, or has been cancelled before
        self._over = True
        self._decided = CANCELLED_AND_NOTIFIED
        try:
            mine = self._take_open()
            self._release()
            if mine:
                self._settle_here(CANCELLED_AND_NOTIFIED)
            else:  # it is settled from outside just now, or was, as a call that has started
                self._end(None)
        except BaseException:  # Ctrl-C; nobody else can settle the call now, so the loop does
            self.undone = True
            self._service.inbox.items.append(self)
            self._service.inbox.ring()
            raise
        return mine

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
        # Nothing is called before the outcome is stored: Ctrl-C comes before all of this, or after.
        unstarted = mine = True
        try:
            del self._claim
        except AttributeError:
            unstarted = False
        else:
            self._over = True
        try:
            del self._open
        except AttributeError:
            mine = False
        else:
            self._result, self._exception = result, exception
        del result, exception
        try:
            if unstarted:
                self._release()
            if mine:
                self._settle_here(FINISHED)
            elif unstarted:  # as in `_cancel_unstarted`
                self._end(None)
        except BaseException:  # as there
            self.undone = True
            self._service.inbox.items.append(self)
            self._service.inbox.ring()
            raise
        if not mine:
            raise InvalidStateError(f"{self._state}: {self!r}")

    def abandon(self, error: BaseException) -> None:
        # The callbacks are the parent's to call.
        self._lock = None  # the parent's other threads may have held it
        self._take_claim()
        if self._state in _FINAL:
            return
        if not self._begun:
            self._release()
        self._take_open()
        self._target = self._task = self._args = self._kwargs = None
        self._context = _EMPTY
        self.__dict__.pop("_callbacks", None)
        self._untold = ()
        self._exception = error
        self._state = FINISHED
        _tell_sleepers(self)

    # -- on the loop --------------------------------------------------------------------------

    def start(self) -> None:
        """On the loop: begin, as soon as the limit of calls in flight allows."""
        if self.undone or self.withdrawn:
            _go_on(self)
            return
        slots = self._service.slots
        try:
            if slots is None:
                # As in `_start_in_slot`, for the many that no slot holds up.
                if _may_start(self):
                    self._start_task()
            elif self.kind == "service" or slots.enter(self._start_in_slot):
                self._start_in_slot()
        finally:
            del self  # see `_drive`

    def _start_in_slot(self) -> None:
        slots = None if self.kind == "service" else self._service.slots
        if _may_start(self):
            self._in_slot = slots is not None
            self._start_task()
        elif slots is not None:
            slots.leave(self._service.inbox)  # cancelled before it began
        del self  # see `_drive`

    def _leave(self) -> None:
        self._service.finished(self)
        if self._in_slot:
            self._leave_slot()

    def _leave_slot(self) -> None:
        if self._in_slot and self._service.slots is not None:
            self._in_slot = False
            self._service.slots.leave(self._service.inbox)

    # -- in a worker thread -------------------------------------------------------------------

    def run_in_worker(self) -> None:
        """In a worker thread: call, and hand an awaitable that comes back over to the loop."""
        self._worker = get_ident()
        if not self._take_claim():
            self._worker = 0
            return
        _begin_running(self)
        state = None
        try:
            result = self._context.run(self._target, *(self._args or ()), **(self._kwargs or {}))
            awaitable = type(result) not in _NO_AWAITABLES and self._context.run(
                _is_to_await, result
            )
        except BaseException as exc:
            if self._take_open():
                self._exception = user_traceback(exc)
                state = FINISHED
        else:
            if awaitable:
                self._target, self._args, self._kwargs = result, None, None
                del result
                self._returned = True
                self._worker = 0
                self._service.inbox.post(self.start)
                # Write first, look second: the service may be ending just now.
                if self._service.ending.ended:
                    # The service has ended without waiting for its calls.
                    self.fail(concurrent.futures.BrokenExecutor("the event loop has ended"))
                    self._release()
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


def _is_to_await(result: object) -> bool:
    """Whether *result* is an awaitable, and no proxy that only could stand for one.

    By the type, as `await` does: an object may run code, or raise, when its attributes are asked.
    """
    kind = type(result)
    if not issubclass(kind, Awaitable):
        return kind is GeneratorType and inspect.isawaitable(result)
    try:
        # The proxies of some libraries have every special method. Their class is what is behind.
        return issubclass(result.__class__, Awaitable)
    except Exception:
        return False  # a proxy with nothing behind it


def _go_on(call: FutureCall[Any]) -> None:
    """On the loop: do what another thread has left to the loop."""
    if call.undone:
        call.undone = False
        _finish(call)
    else:
        call.cancel_on_loop()
        call._service.ending.staff()


def _may_start(call: FutureCall[Any]) -> bool:
    """On the loop: whether to start the call now, or what its callable has returned."""
    try:
        del call._claim
    except AttributeError:
        if not call._returned or call._target is None:
            return False
        call._returned = False
        if call._service.ending.done:  # the loop is being closed, and has cancelled all it had
            call.fail(call._service.ending.failure())
        return call._target is not None
    _begin_running(call)
    return True


def _begin_running(call: FutureCall[Any]) -> None:
    """Note that the call runs, unless somebody settles it just now: that is final."""
    if _HAS_GIL:  # then nothing comes between the look and the write
        call._state = RUNNING if call._state == PENDING else call._state
    else:
        call.__dict__.setdefault("_state", RUNNING)  # PENDING is the class's


def _settle_yet(call: FutureCall[Any], state: str, patience: int) -> None:
    if not call.settled:  # the end of the loop has not done so meanwhile
        call._settle(state, patience)


def _finish(call: FutureCall[Any], patience: int = PATIENCE) -> None:
    """Finish settling with the outcome that is decided. On the loop, or at its end."""
    if call._over and call._target is not None:
        call._release()
    call._take_open()
    if call._state not in _FINAL and not call._change(call._decided, patience):
        call._service.later(functools.partial(_finish, call, patience - 1))
        return
    call._tell_and_leave()


def _tell_watchers(call: FutureCall[Any], patience: int = FOR_WATCHERS) -> None:
    while call._untold:
        watcher = call._untold[0]
        if patience and not can_be_told(watcher):
            call._service.later(functools.partial(_tell_watchers, call, patience - 1))
            return
        # Search the watcher's list only after an interruption: it is long if many are watched.
        interrupted = call._being_told is watcher
        call._being_told = watcher
        told = getattr(watcher, "finished_futures", ())
        if not patience:
            pass  # the thread that watched was interrupted, and will never release its lock
        elif interrupted and any(future is call for future in told):
            watcher.event.set()  # Ctrl-C came while this watcher was being told
        elif call._state != FINISHED:
            watcher.add_cancelled(call)
        elif call._exception is not None:
            watcher.add_exception(call)
        else:
            watcher.add_result(call)
        call._untold.popleft()  # type: ignore[union-attr]  # it is a deque
        call._being_told = None  # the watcher has a list of futures


def _tell_sleepers(call: FutureCall[Any]) -> None:
    for lock in tuple(call._sleepers):
        release(lock)


def _call_back(call: FutureCall[Any], permissions: Any) -> None:
    left = iter(permissions)
    for permission in left:
        try:
            # Take the permission and call back, in one call of a built-in function: see `_inbox`.
            next(map(operator.call, map(permission.pop, ("fn",), (_nothing,)), (call,)))
        except Exception:
            LOGGER.exception("exception calling callback for %r", call)
        except BaseException:
            _call_back(call, left)  # before an exit or an interruption goes on
            raise


def _nothing(_: object) -> None:
    """What is called in place of a callback that another thread has called."""
