"""AsyncLoopExecutor as CPython's tests of thread pools see it, in two modes.

Those tests look at the threads of a pool. Each class here has something to stand in for them, and
`CoroutineExecutor` runs what plain callables do as coroutine functions.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Callable, Collection, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from lifetimes import ends
from palitra import AsyncLoopExecutor

# Longer than a thread takes to end, shorter than a test's own time limit.
PATIENCE = 5.0

# Bodies of CPython's suite that block on a lock or an event. A coroutine hands such
# a call to a thread; it stays in flight, and cancellable, all the while.
BLOCKING = {"acquire_lock", "future_func", "log_n_wait", "wait", "wait_and_raise"}

# Bodies that sleep for their first argument and then act.
SLEEPING = {"sleep_and_raise", "sleep_and_print"}


class ThreadOfPool:
    """What the suite asks of a pool's thread. Waiting for its end fails rather than hang."""

    def __init__(self, thread: threading.Thread) -> None:
        self._thread = thread
        self.name = thread.name

    def join(self) -> None:
        assert ends(self._thread, PATIENCE), f"{self.name} does not end"


class PlainExecutor(AsyncLoopExecutor):
    """Has its worker threads where ThreadPoolExecutor has them."""

    def __init__(
        self, max_workers: int | None = None, thread_name_prefix: str = "", **options: Any
    ) -> None:
        self._threads_before = set(threading.enumerate())
        self._prefix = thread_name_prefix or f"{AsyncLoopExecutor.__name__}-"
        self._futures: weakref.WeakSet[Future[Any]] = weakref.WeakSet()
        super().__init__(max_workers, thread_name_prefix, **options)

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        # The suite takes a thread for idle once its result is there. It is so a moment later.
        deadline = time.monotonic() + PATIENCE
        while (
            all(future.done() for future in self._futures)
            and len(self._service.workers._idle) < len(self._at_hand())
            and threading.current_thread() not in self._at_hand()
            and time.monotonic() < deadline
        ):
            time.sleep(0.001)
        future = super().submit(fn, *args, **kwargs)
        self._futures.add(future)
        return future

    def _at_hand(self) -> list[threading.Thread]:
        return [
            thread
            for thread in threading.enumerate()
            if thread not in self._threads_before
            and thread.name.startswith(self._prefix)
            and not thread.name.endswith("_loop")
        ]

    @property
    def _threads(self) -> Collection[ThreadOfPool]:
        return [ThreadOfPool(thread) for thread in self._at_hand()]


class Places:
    """How many coroutines have been in flight at once. Touched on the loop alone."""

    def __init__(self) -> None:
        self.taken = self.most = 0
        self.thread: threading.Thread | None = None

    def __enter__(self) -> None:
        self.thread = threading.current_thread()
        self.taken += 1
        self.most = max(self.most, self.taken)

    def __exit__(self, *_: object) -> None:
        self.taken -= 1


def as_coroutine_function(
    fn: Callable[..., Any], places: Places
) -> Callable[..., Coroutine[Any, Any, Any]]:
    """Return a coroutine function that does what *fn* does, without blocking the loop."""
    name = getattr(fn, "__name__", "")

    async def call(*args: Any, **kwargs: Any) -> Any:
        with places:
            if fn is time.sleep:
                return await asyncio.sleep(*args)
            if name in BLOCKING:
                return await asyncio.to_thread(fn, *args, **kwargs)
            if name in SLEEPING:
                seconds, *rest = args
                await asyncio.sleep(seconds)
                return fn(0, *rest, **kwargs)
            # One real suspension, or an eager task would end before submit returns.
            await asyncio.sleep(0)
            return fn(*args, **kwargs)

    return call


class CoroutineExecutor(AsyncLoopExecutor):
    """Takes plain callables, as code written for a thread pool does, and awaits them.

    A thread of a pool has one call at a time. Its counterpart is a place in flight, and one thread
    has all the places: so that thread is there once for each place that was ever taken.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self._places = Places()
        super().__init__(*args, **options)

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        if not callable(fn):
            return super().submit(fn, *args, **kwargs)
        return super().submit(as_coroutine_function(fn, self._places), *args, **kwargs)

    @property
    def _threads(self) -> Collection[ThreadOfPool]:
        # `run` takes no place, and comes to the loop after what was submitted before.
        with suppress(RuntimeError):  # shut down: nothing is about to start
            self.run(asyncio.sleep(0))
        thread = self._places.thread
        return [] if thread is None else [ThreadOfPool(thread)] * self._places.most
