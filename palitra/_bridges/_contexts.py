"""Synchronous faces of async context managers: in a `with` statement, or entered for good."""

from __future__ import annotations

import asyncio
import functools
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Generic, TypeVar

from palitra._bridges._owner import Face, Owner, Raised, Step, build, show_both, take
from palitra._loop import LoopThread
from palitra._words import close_if_coroutine, name_of, user_traceback

_T_co = TypeVar("_T_co", covariant=True)


class _ContextOwner(Owner, Generic[_T_co]):
    """Enters and leaves an async context manager."""

    # Whether nobody's `with` statement shows what becomes of the context.
    unattended = False

    def __init__(self, loop_thread: LoopThread, source: Any) -> None:
        super().__init__(loop_thread, f"the context {name_of(source)}")
        self._source = source
        self._context_manager: Any = None

    async def enter(self) -> _T_co:
        """As a step: enter."""
        source, self._source = self._source, None
        manager = await build(source, "__aenter__", "an async context manager")
        value: _T_co = await type(manager).__aenter__(manager)
        self._context_manager = manager
        return value

    async def exit(self, exc: BaseException | None) -> bool:
        """As a step: leave, with *exc* from the body; True if the context suppresses it."""
        self.over = True
        return await self._close(exc)

    async def _close(self, body: BaseException | None) -> bool:
        manager, self._context_manager = self._context_manager, None
        if manager is None:
            return False
        if body is None:
            await type(manager).__aexit__(manager, None, None, None)
            return False
        return bool(await type(manager).__aexit__(manager, type(body), body, body.__traceback__))

    async def _cancelled_idle(self, exc: asyncio.CancelledError) -> None:
        outcome: BaseException | None = None
        try:
            if not await self._close(exc):
                outcome = exc
        except BaseException as error:
            outcome = user_traceback(error)
        # A context whose task is cancelled by the end of the loop has not ended by itself.
        at_the_end = outcome is exc and not self.loop_thread.usable
        if outcome is not None and not self.unattended:
            self.ahead.append(Raised(outcome))
        self.over = True
        if self.unattended and not at_the_end:
            self._report(f"{self.name} has ended by itself, before its executor", outcome)
        del exc, outcome  # their tracebacks may hold this frame

    def refused(self) -> None:
        close_if_coroutine(self._source)

    def failed(self, exc: BaseException) -> None:
        if self._context_manager is None:
            self.over = True  # it could not be entered, or has been left

    def _too_late(self, step: Step[Any]) -> None:
        # The context has been left before its user left it: see `_SyncContext.__exit__`.
        step.result = False
        step.settle()


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
        if not owner.started:
            raise RuntimeError(f"{owner.name} has not been entered")
        try:
            if owner.loop_thread.on_loop():  # it cannot wait; a finalizer comes here, say
                owner.loop_thread.post(functools.partial(owner.drop, exc_val))
                return False
            leave = functools.partial(owner.exit, exc_val)
            suppressed = self._last_step(leave, "leaving a context") or False
            outcome = owner.take_unseen()
            if outcome is not None:
                show_both(outcome, exc_val)
            return suppressed
        finally:
            leave = outcome = None  # type: ignore[assignment]
            del exc_val  # a raised error holds this frame


def sync_context(
    executor: Executor, loop_thread: LoopThread, source: object
) -> AbstractContextManager[Any, Any]:
    """Make the synchronous face of an async context manager, or of a callable that returns one."""
    _check_context("sync_context()", source)
    return _SyncContext(executor, _ContextOwner(loop_thread, source))


def enter_context(loop_thread: LoopThread, source: object) -> Any:
    """Enter now, and leave at the end of the loop."""
    _check_context("enter_context()", source)
    owner: _ContextOwner[Any] = _ContextOwner(loop_thread, source)
    owner.unattended = True
    try:
        return take(Step(owner, owner.enter), loop_thread, "enter_context()")
    except BaseException:
        # Where Ctrl-C came when the context had just been entered, nobody knows of it.
        loop_thread.post(owner.drop)
        raise


def _check_context(what: str, source: object) -> None:
    if not hasattr(type(source), "__aenter__") and not callable(source):
        hint = ""
        if hasattr(type(source), "__enter__"):
            hint = ": it is a synchronous one, which needs no bridge"
        close_if_coroutine(source)
        raise TypeError(
            f"{what} takes an async context manager, or a callable that returns one, "
            f"not {source!r}{hint}"
        )
