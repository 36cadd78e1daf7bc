"""gather: many awaitables, awaited as one call. All code here runs on the loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import inspect
import sys
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable
from contextlib import suppress
from itertools import islice
from types import CoroutineType
from typing import Any, TypeAlias, cast

from ._service import Service
from ._stacks import tasks_of
from ._words import close_if_coroutine, hint, user_traceback

_BATCH = 100  # children started before the loop's other callbacks have their turn

_Awaitable: TypeAlias = Awaitable[Any] | concurrent.futures.Future[Any]


class Gathering:
    """The children of one `gather` and their results.

    Coroutines and other awaitables become tasks, which are cancelled when one fails. Futures that
    were handed in are somebody else's: they are watched, never cancelled.
    """

    def __init__(
        self,
        service: Service,
        awaitables: tuple[_Awaitable, ...],
        return_exceptions: bool,
    ) -> None:
        self._service = service
        self._order = [id(awaitable) for awaitable in awaitables]
        # Each awaitable once, even if it was given several times.
        self._awaitables = dict(zip(self._order, awaitables, strict=True))
        self._return_exceptions = return_exceptions
        self._begun = False
        self._over = False  # whether results of futures are not needed any more
        self._results: dict[int, Any] = {}  # one for each that has finished
        self._raised = False  # whether any of the results is an exception
        self._error: BaseException | None = None
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self._unwatch: list[Callable[[], object]] = []
        self._waiter: asyncio.Future[None] | None = None  # set while `run` waits
        try:
            for awaitable in self._awaitables.values():
                if type(awaitable) is not CoroutineType:
                    self._check(awaitable)
        except BaseException:
            self.close()
            raise

    def _check(self, awaitable: object) -> None:
        if isinstance(awaitable, concurrent.futures.Future):
            return
        if asyncio.isfuture(awaitable):
            if awaitable.get_loop() is not self._service.loop():
                raise ValueError(
                    f"{awaitable!r} belongs to another event loop: gather() takes a future of its "
                    "own loop, or a concurrent.futures.Future"
                )
        elif not inspect.isawaitable(awaitable):
            raise TypeError(
                f"gather() takes coroutines, other awaitables and futures, not {awaitable!r}"
                f"{hint(awaitable)}"
            )

    def close(self) -> None:
        """Close the coroutines if what `run` made was refused, and has not begun."""
        if not self._begun:
            _close(self._awaitables.values())

    def run(self) -> CoroutineType[Any, Any, list[Any]]:
        """Make the coroutine that awaits all and returns the results in order, or raises."""
        coro = cast("CoroutineType[Any, Any, list[Any]]", self._run())
        coro.__qualname__ = f"gather of {len(self._order)}"
        return coro

    async def _run(self) -> list[Any]:
        self._begun = True
        unstarted = iter(self._awaitables.items())
        try:
            for _ in range(0, len(self._awaitables) - _BATCH, _BATCH):
                self._start_batch(islice(unstarted, _BATCH))
                if self._error is not None:
                    break
                await _next_turn()
            else:
                self._start_batch(unstarted)
            while len(self._results) < len(self._awaitables) and self._error is None:
                await self._wait()
        except asyncio.CancelledError as exc:
            self._error = exc
        self._over = True
        for unwatch in self._unwatch:
            unwatch()
        if self._error is not None:
            _close(awaitable for _, awaitable in unstarted)
            await self._cancel_tasks()
        del unstarted
        # The frames of the children hold this object (see `Call._drive`), so this object must not
        # hold the results or the error: it would keep them alive.
        try:
            answered = _is_cancellation(self._error)
            complete = len(self._results) == len(self._awaitables) and not self._raised
            if self._error is not None and not (answered and complete):
                raise self._error
            return [self._results[key] for key in self._order]
        finally:
            self._forget()

    def _forget(self) -> None:
        self._awaitables.clear()
        self._results.clear()
        self._error = None

    def _start_batch(self, batch: Iterable[tuple[int, _Awaitable]]) -> None:
        """Start the children of *batch*, and no more once one has failed."""
        loop = self._service.eager_loop()
        if sys.version_info < (3, 12) or loop is None:
            for key, awaitable in batch:
                self._start(key, awaitable)
                if self._error is not None:
                    return
            return
        tasks = self.tasks
        child_of = cast("Callable[[int, _Awaitable], CoroutineType[Any, Any, None]]", self._await)
        for key, awaitable in batch:
            if type(awaitable) is CoroutineType:
                # As `_start_task`, which asks for each what is the same for a batch.
                child = child_of(key, awaitable)
                name = awaitable.__qualname__
                try:
                    task = asyncio.Task(child, loop=loop, name=name, eager_start=True)
                except BaseException as exc:
                    self._not_started(key, child, exc)
                if child.cr_frame is not None:
                    tasks[key] = task
            else:
                self._start(key, awaitable)
            if self._error is not None:
                return

    def _start(self, key: int, awaitable: _Awaitable) -> None:
        done = functools.partial(self._future_done, key)
        try:
            if isinstance(awaitable, concurrent.futures.Future):
                awaitable.add_done_callback(
                    lambda future: self._service.inbox.post(functools.partial(done, future))
                )
            elif asyncio.isfuture(awaitable):
                awaitable.add_done_callback(done)
                self._unwatch.append(functools.partial(awaitable.remove_done_callback, done))
            else:
                self._start_task(key, awaitable)
        except Exception as exc:  # raised by a future of the user's own class
            self._failed(key, exc)

    def _start_task(self, key: int, awaitable: Awaitable[Any]) -> None:
        child = cast("CoroutineType[Any, Any, None]", self._await(key, awaitable))
        try:
            task = self._service.create_task(child, None, awaitable)
        except BaseException as exc:  # raised by a task factory
            self._not_started(key, child, exc)
            return
        if child.cr_frame is not None:  # the child has not ended in its first step
            self.tasks[key] = task
            if child.cr_await is None:  # the child has not begun
                ended = functools.partial(self._task_ended, key, awaitable)
                task.add_done_callback(ended)

    def _not_started(self, key: int, child: Coroutine[Any, Any, None], exc: BaseException) -> None:
        child.close()
        close_if_coroutine(self._awaitables[key])
        self._failed(key, exc)

    async def _await(self, key: int, awaitable: Awaitable[Any]) -> None:
        try:
            self._results[key] = await awaitable
        except BaseException as exc:
            self._failed(key, exc)
        if self.tasks:  # otherwise the child ends in its first step, and nobody waits for it
            self._finished(key)

    def _task_ended(self, key: int, awaitable: Awaitable[Any], _: object) -> None:
        """Settle for a task that was cancelled before its first step, and never ran `_await`."""
        if key in self.tasks:
            close_if_coroutine(awaitable)
            self._failed(key, asyncio.CancelledError())
            self._finished(key)

    def _future_done(
        self, key: int, future: asyncio.Future[Any] | concurrent.futures.Future[Any]
    ) -> None:
        if not self._over:
            try:
                self._results[key] = future.result()
            except BaseException as exc:
                self._failed(key, exc)
            finally:
                del future  # a raised error holds this frame
            self._finished(key)

    def _failed(self, key: int, exc: BaseException) -> None:
        user_traceback(exc)
        if self._return_exceptions and not _is_cancellation(self._error):
            self._results[key] = exc
            self._raised = True
        elif self._error is None or (
            # The error of a clean-up says more than the cancellation that the clean-up was for.
            _is_cancellation(self._error) and not _is_cancellation(exc)
        ):
            self._error = exc

    def _finished(self, key: int) -> None:
        self.tasks.pop(key, None)
        waiter = self._waiter
        over = not self.tasks or self._error is not None
        if over and waiter is not None and not waiter.done():
            with suppress(RuntimeError):  # the loop is closed, and what was left of it is dropped
                waiter.set_result(None)

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    async def _cancel_tasks(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        while self.tasks:
            try:
                await self._wait()
            except asyncio.CancelledError:
                pass  # a shutdown cancels, too; the children are at their clean-up already


tasks_of[Gathering] = lambda gathering: gathering.tasks.values()


@types.coroutine
def _next_turn() -> Generator[None, None, None]:
    """Let the loop's other callbacks have their turn."""
    yield


def _is_cancellation(error: BaseException | None) -> bool:
    # By the type itself: `isinstance` asks the exception for its class, and may be lied to.
    return issubclass(type(error), asyncio.CancelledError)


def _close(awaitables: Iterable[object]) -> None:
    for awaitable in awaitables:
        close_if_coroutine(awaitable)
