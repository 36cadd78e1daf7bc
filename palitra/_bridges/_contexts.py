"""Synchronous faces of async context managers: in a `with` statement, or entered for good."""

from __future__ import annotations

import asyncio
import functools
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Generic, TypeVar

from palitra._bridges._owner import Face, Owner, Step, build
from palitra._service import Service
from palitra._words import close_if_coroutine, name_of

_T_co = TypeVar("_T_co", covariant=True)


class _ContextOwner(Owner, Generic[_T_co]):
    """Enters and leaves an async context manager."""

    kind = "context"

    def __init__(self, service: Service, source: Any) -> None:
        super().__init__(service, f"the context {name_of(source)}")
        self._source = source
        self._context_manager: Any = None

    async def enter(self) -> _T_co:
        source, self._source = self._source, None
        manager = await build(source, "__aenter__", "an async context manager")
        value: _T_co = await type(manager).__aenter__(manager)
        self._context_manager = manager
        return value

    async def exit(self, exc: BaseException | None) -> bool:
        """Leave, with *exc* from the body; True if the context manager suppresses it."""
        self.over = True
        if exc is None and self._cancelled_idle:
            exc = asyncio.CancelledError()
        manager, self._context_manager = self._context_manager, None
        if manager is None:
            return False
        if exc is None:
            await type(manager).__aexit__(manager, None, None, None)
        elif await type(manager).__aexit__(manager, type(exc), exc, exc.__traceback__):
            return True
        elif self._cancelled_idle and isinstance(exc, asyncio.CancelledError):
            raise exc
        return False

    async def _close(self) -> None:
        await self.exit(None)

    def refused(self) -> None:
        close_if_coroutine(self._source)

    def failed(self, exc: BaseException) -> None:
        if self._context_manager is None:
            self.over = True  # it could not be entered, or has been left

    def _too_late(self, step: Step[Any]) -> None:
        # The shutdown has left the context before its user did.
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
        if not self._owner.started:
            raise RuntimeError(f"{self._owner.name} has not been entered")
        leave = functools.partial(self._owner.exit, exc_val)
        return self._last_step(leave, "leaving a context") or False


def sync_context(
    executor: Executor, service: Service, source: object
) -> AbstractContextManager[Any, Any]:
    """Make the synchronous face of an async context manager, or of a callable that returns one."""
    _check_context("sync_context()", source)
    return _SyncContext(executor, _ContextOwner(service, source))


def enter_context(service: Service, source: object) -> Any:
    """Enter now, and leave at the end of the loop."""
    _check_context("enter_context()", source)
    owner: _ContextOwner[Any] = _ContextOwner(service, source)
    return Step(owner, owner.enter).wait("enter_context()", None)


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
