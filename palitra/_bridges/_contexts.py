"""Synchronous faces of async context managers: in a `with` statement, or entered for good."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Generic, TypeVar, cast

from .._calls import DeadlockError, Kind
from .._service import Service
from .._words import close_if_coroutine, name_of, traceback_of, user_traceback
from ._owner import Face, Owner, Raised, Step, build, holds_only, show_both

_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)


class _ContextOwner(Owner, Generic[_T_co]):
    """Enters and leaves an async context manager."""

    kind: Kind = "context"

    # Whether there is no `with` statement that would show what becomes of the context.
    unattended = False
    # Whether the block of the `with` statement has ended. The face writes `body` first and this
    # second, and the loop looks at this first: so the loop never takes a block that has failed for
    # one that has succeeded.
    block_over = False

    def __init__(self, service: Service, source: Any) -> None:
        super().__init__(service, f"the context {name_of(source)}")
        self._source = source
        self._context_manager: Any = None

    async def enter(self) -> _T_co:
        """As a step: enter the context."""
        source, self._source = self._source, None
        manager = await build(source, "__aenter__", "an async context manager")
        value: _T_co = await type(manager).__aenter__(manager)
        self._context_manager = manager
        return value

    async def exit(self, exc: BaseException | None) -> bool:
        """As a step: leave the context, with *exc* from the body; True if it suppresses *exc*."""
        self.over = True
        return await self._close(exc)

    async def _close(self, body: BaseException | None) -> bool:
        manager, self._context_manager = self._context_manager, None
        if manager is None:
            return False
        try:
            if body is None:
                await type(manager).__aexit__(manager, None, None, None)
                return False
            return bool(
                await type(manager).__aexit__(manager, type(body), body, traceback_of(body))
            )
        finally:
            del body  # its traceback may hold this frame

    async def _close_unasked(self) -> None:
        # A block that nobody can finish has not succeeded, and what it did must not be kept. So the
        # context sees what the `yield` of a generator sees that is dropped. But a shutdown leaves
        # the context as the end of the block would.
        shut_down = self._cut_short and not self.service.ending.contexts.orphaned
        if not (shut_down or self.unattended or self.block_over) and self.body is None:
            self.body = GeneratorExit()
        await super()._close_unasked()

    def _closing_failed(self, error: BaseException) -> None:
        # A task group wraps the GeneratorExit that it gets: that is no failure.
        if not holds_only(error, GeneratorExit):
            super()._closing_failed(error)

    def _finish(self) -> None:
        super()._finish()
        self.body = None  # the block may have ended while the context was being closed

    async def _cancelled_idle(self, exc: asyncio.CancelledError) -> None:
        outcome: BaseException | None = None
        try:
            if not await self._close(exc):
                outcome = exc
        except BaseException as error:
            outcome = user_traceback(error)
        # If the end of the loop has cancelled the task, the context has not ended by itself.
        at_the_end = outcome is exc and (self.service.ending.loop_ends or not self.service.usable)
        if outcome is not None and not self.unattended and not at_the_end:
            self.ahead.append(Raised(outcome))
        self.over = True
        if self.unattended and not at_the_end:
            self._report(f"{self.name} has ended by itself, before its executor", outcome)
        del exc, outcome  # their tracebacks may hold this frame

    def refused(self) -> None:
        close_if_coroutine(self._source)

    def failed(self, exc: BaseException) -> None:
        if self._context_manager is None:
            self.over = True  # entering has failed, or the context has been left

    def _too_late(self, step: Step[Any]) -> None:
        # The context has been left already, by itself or by a shutdown: `_SyncContext.__exit__`
        # shows what came of that.
        step.succeed(False)


class _SyncContext(Face, AbstractContextManager[_T_co, bool]):
    """A synchronous context manager over an async one; usable once."""

    _owner: _ContextOwner[_T_co]
    _used = False

    def __enter__(self) -> _T_co:
        if self._used:
            raise RuntimeError(f"{self._owner.name} has been entered before: make another")
        self._used = True
        return self._step(self._owner.enter, "entering a context")

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool:
        owner = self._owner
        if self._is_finalizing():
            return False  # the exit has left the context
        if not owner.started:
            raise RuntimeError(f"{owner.name} has not been entered")
        # For a closing that has begun, by a shutdown or a finalizer, and leaves the context itself.
        if exc_val is not None and not owner.over:
            owner.body = exc_val
        owner.block_over = True
        if owner.service.on_loop():  # which cannot wait; a finalizer may come here
            owner.service.inbox.post(owner.drop)
            return False
        suppressed = self._last_step(functools.partial(owner.exit, exc_val), "leaving a context")
        if owner.over:
            owner.body = None
        show_both(owner.take_unseen(), exc_val)
        return suppressed or False


def sync_context(
    executor: Executor, service: Service, source: object
) -> AbstractContextManager[Any, Any]:
    """Make the synchronous face of an async context manager, or of a callable that returns one."""
    _check_context("sync_context()", source)
    return _SyncContext(executor, _ContextOwner(service, source))


def enter_context(service: Service, source: object) -> Any:
    """Enter the context now, and have the end of the executor leave it."""
    _check_context("enter_context()", source)
    owner: _ContextOwner[Any] = _ContextOwner(service, source)
    owner.unattended = True
    try:
        return Step(owner, owner.enter).wait("enter_context()", None)
    except BaseException:
        # If Ctrl-C came when the context had just been entered, nobody has its value: leave it.
        service.inbox.post(owner.drop)
        raise


def cached_context(factory: Any, get_executor: Callable[[], Any]) -> Callable[[], Any]:
    """Make a function that enters a context at its first call in each life of an executor."""
    if hasattr(type(factory), "__aenter__"):  # such a context may be callable, as a decorator
        raise TypeError(
            "cached_context() takes a function that makes an async context manager, not "
            f"{factory!r}: each process and each life of the executor enters one of its own"
        )
    if not callable(factory):
        close_if_coroutine(factory)
        raise TypeError(
            "cached_context() takes a function that makes an async context manager, not "
            f"{factory!r}"
        )
    cache: _Cache[Any] = _Cache(factory, get_executor)

    def cached() -> Any:
        return cache.get()

    names = ("__module__", "__name__", "__qualname__", "__doc__")
    functools.update_wrapper(cached, factory, assigned=names, updated=())
    del cached.__wrapped__  # type: ignore[attr-defined]  # or its annotations would be shown
    return cached


class _Cache(Generic[_T]):
    """The contexts that a `cached_context` has entered, one for each life of the executor.

    Only the loop changes `lives`. So the first calls of several threads meet on the loop, and
    Ctrl-C finds nothing half done. Any thread may read `lives`: an owner has its value before
    `entered` is true.
    """

    def __init__(self, factory: Any, get_executor: Callable[[], Any]) -> None:
        self._factory = factory
        self._get_executor = get_executor
        self.lives: dict[asyncio.AbstractEventLoop | None, _CachedOwner[_T]] = {}

    def get(self) -> _T:
        """Return the value of this life, entering the context if need be."""
        # If the caller is on a loop, look there first: when the executor is about to end,
        # `get_executor` may return another one.
        owner = self._entered(asyncio._get_running_loop())
        if owner is not None:
            return owner.value
        service, loop = _life_of(self._get_executor())
        owner = self._entered(loop)
        if owner is not None:
            return owner.value
        owner = _CachedOwner(service, self._factory, self)
        what = f"the first call of {name_of(self._factory)}(), which enters a context,"
        if service.on_loop():
            raise DeadlockError(
                f"{what} would wait for its own thread, the event loop's: make the first call "
                "elsewhere, before the coroutine is run; after that, it can be called here"
            )
        return _FirstCall(owner).wait(what, None)

    def _entered(self, loop: asyncio.AbstractEventLoop | None) -> _CachedOwner[_T] | None:
        owner = self.lives.get(loop)
        # A child that was forked on the loop's thread, or without Python's hooks, still has the
        # parent's loop here, but not the parent's context.
        if owner is not None and owner.entered and owner.process == os.getpid():
            return owner
        return None


def _life_of(executor: Any) -> tuple[Service, asyncio.AbstractEventLoop | None]:
    """The service of *executor*, and the loop of its present life; None before its first call."""
    service: Service = executor._service
    return service, service.host.loop


class _CachedOwner(_ContextOwner[_T]):
    """Owns the context that a `cached_context` has entered in one life of the executor."""

    unattended = True

    def __init__(self, service: Service, factory: Any, cache: _Cache[_T]) -> None:
        super().__init__(service, factory)
        self._cache = cache
        self.process = os.getpid()
        self.waiting: list[_FirstCall[_T]] = []  # calls that wait for the first one
        self.entered = False
        self.value: _T

    def serve(self, call: _FirstCall[_T]) -> bool:
        """On the loop: answer *call*, now or later; False if it is the first, and must enter."""
        first = self._cache.lives.setdefault(asyncio.get_running_loop(), self)
        if first is self:
            return False
        if first.entered:
            call.succeed(first.value)
        else:
            first.waiting.append(call)
        return True

    def first_call_ended(self, value: _T | None, error: BaseException | None) -> None:
        """On the loop: pass the outcome of the first call on to those that wait for it."""
        if error is None:
            self.value = cast("_T", value)
            self.entered = True
        else:
            self._forget()  # the next call tries again
            self.drop()
        waiting, self.waiting = self.waiting, []
        for other in waiting:
            if error is None:
                other.succeed(self.value)
            else:
                other.keep(error)
                other.settle()

    def _forget(self) -> None:
        if self._cache.lives.get(self._loop) is self:
            del self._cache.lives[self._loop]

    def _finish(self) -> None:
        super()._finish()
        self._forget()  # after a context has ended by itself, the next call enters a new one


class _FirstCall(Step[_T]):
    """A call of a `cached_context` that has found no value: it enters, or waits for the first."""

    _owner: _CachedOwner[_T]

    def __init__(self, owner: _CachedOwner[_T]) -> None:
        super().__init__(owner, owner.enter)
        self._first = False

    def _begin(self) -> None:
        if not self._owner.serve(self):
            self._first = True
            super()._begin()

    def _settle(self, state: str) -> None:
        if self._first:
            self._first = False
            value = None if self._exception is not None else self._result
            self._owner.first_call_ended(value, self._exception)
            del value
        super()._settle(state)


def _check_context(what: str, source: object) -> None:
    taken = hasattr(type(source), "__aenter__") or callable(source)
    if not taken:
        hint = ""
        if hasattr(type(source), "__enter__"):
            hint = ": it is a synchronous one, which needs no bridge"
        close_if_coroutine(source)
        raise TypeError(
            f"{what} takes an async context manager, or a callable that returns one, "
            f"not {source!r}{hint}"
        )
