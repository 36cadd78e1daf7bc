"""The systems under comparison, each used as its own documentation says.

A system is a context manager. What it can do shows in which of the protocols it follows. Each
method hands out a function made ready for the measured loop, so that all systems pay the same for
being wrapped: one Python call.

Peers are imported when a system is entered, so that a process holds only what it measures.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

Body = Callable[..., Coroutine[Any, Any, Any]]
LoopFactory = Callable[[], asyncio.AbstractEventLoop]


class Outcome(Protocol):
    """What a submitted call gives back."""

    def result(self) -> Any: ...


@runtime_checkable
class Calls(Protocol):
    """Blocks for one coroutine's result."""

    def caller(self, body: Body) -> Callable[[], object]: ...


@runtime_checkable
class Submits(Protocol):
    """Starts a coroutine and hands back something with a result."""

    def submitter(self, body: Body) -> Callable[..., Outcome]: ...


@runtime_checkable
class Maps(Protocol):
    """Calls a coroutine function on each item, results in order."""

    def mapper(self, body: Body) -> Callable[[Iterable[Any]], Iterable[Any]]: ...


@runtime_checkable
class Gathers(Protocol):
    """Waits for many coroutines at once."""

    def gatherer(self, body: Body) -> Callable[[int], object]: ...


@runtime_checkable
class RunsPlain(Protocol):
    """Calls plain functions in worker threads."""

    def plain_submitter(self, function: Callable[[], Any]) -> Callable[[], Outcome]: ...


@runtime_checkable
class Iterates(Protocol):
    """Reads an asynchronous iterator from synchronous code."""

    def iterable(self, make: Callable[[], AsyncIterator[Any]]) -> Iterable[Any]: ...


class System:
    """One way from synchronous code to a coroutine; what it opened is closed with it."""

    name: ClassVar[str]

    def __enter__(self) -> Self:
        self._resources = ExitStack()
        self._open()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._resources.close()

    def _open(self) -> None:
        """Start what the system needs before the first call."""


class Palitra(System):
    """The library measured here."""

    name = "palitra"
    loop_factory: LoopFactory | None = None

    def _open(self) -> None:
        from palitra import AsyncLoopExecutor

        self._executor = AsyncLoopExecutor(loop_factory=self.loop_factory)
        self._resources.enter_context(self._executor)

    def caller(self, body: Body) -> Callable[[], object]:
        run = self._executor.run
        return lambda: run(body())

    def submitter(self, body: Body) -> Callable[..., Outcome]:
        submit = self._executor.submit
        return lambda *args: submit(body, *args)

    def mapper(self, body: Body) -> Callable[[Iterable[Any]], Iterable[Any]]:
        map_ = self._executor.map
        return lambda items: map_(body, items)

    def gatherer(self, body: Body) -> Callable[[int], object]:
        gather = self._executor.gather
        return lambda count: gather(*[body() for _ in range(count)])

    def plain_submitter(self, function: Callable[[], Any]) -> Callable[[], Outcome]:
        submit = self._executor.submit
        return lambda: submit(function)

    def iterable(self, make: Callable[[], AsyncIterator[Any]]) -> Iterable[Any]:
        items: Iterable[Any] = self._executor.sync_iter(make())
        return items


class PalitraPrefetching(Palitra):
    """``sync_iter`` that reads ahead."""

    name = "palitra, buffersize=100"

    def iterable(self, make: Callable[[], AsyncIterator[Any]]) -> Iterable[Any]:
        items: Iterable[Any] = self._executor.sync_iter(make(), buffersize=100)
        return items


class RunCoroutineThreadsafe(System):
    """The standard library's wire to a loop in another thread."""

    name = "run_coroutine_threadsafe"
    loop_factory: LoopFactory = staticmethod(asyncio.new_event_loop)

    def _open(self) -> None:
        self.loop = loop = self.loop_factory()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        self._resources.callback(loop.close)
        self._resources.callback(thread.join)
        self._resources.callback(loop.call_soon_threadsafe, loop.stop)

    def caller(self, body: Body) -> Callable[[], object]:
        loop = self.loop
        return lambda: asyncio.run_coroutine_threadsafe(body(), loop).result()

    def submitter(self, body: Body) -> Callable[..., Outcome]:
        loop = self.loop
        return lambda *args: asyncio.run_coroutine_threadsafe(body(*args), loop)

    def mapper(self, body: Body) -> Callable[[Iterable[Any]], Iterable[Any]]:
        return _map_by_submitting(self.submitter(body))

    def gatherer(self, body: Body) -> Callable[[int], object]:
        async def gather(count: int) -> list[Any]:
            return await asyncio.gather(*[body() for _ in range(count)])

        loop = self.loop
        return lambda count: asyncio.run_coroutine_threadsafe(gather(count), loop).result()

    def plain_submitter(self, function: Callable[[], Any]) -> Callable[[], Outcome]:
        loop = self.loop
        return lambda: asyncio.run_coroutine_threadsafe(asyncio.to_thread(function), loop)

    def iterable(self, make: Callable[[], AsyncIterator[Any]]) -> Iterable[Any]:
        async def step(items: AsyncIterator[Any]) -> Any:
            return await anext(items)

        items = make()
        while True:
            try:
                yield asyncio.run_coroutine_threadsafe(step(items), self.loop).result()
            except StopAsyncIteration:
                return


class AsyncioRun(System):
    """A loop made and thrown away for each call."""

    name = "asyncio.run"

    def caller(self, body: Body) -> Callable[[], object]:
        return lambda: asyncio.run(body())


class AsyncioGather(System):
    """``asyncio.gather`` where it is cheapest: inside the loop, with no crossing at all."""

    name = "asyncio.gather in the loop"

    def _open(self) -> None:
        self._runner = self._resources.enter_context(asyncio.Runner())

    def gatherer(self, body: Body) -> Callable[[int], object]:
        async def gather(count: int) -> list[Any]:
            return await asyncio.gather(*[body() for _ in range(count)])

        return lambda count: self._runner.run(gather(count))


class AnyioPortal(System):
    """AnyIO's blocking portal."""

    name = "anyio portal"

    def _open(self) -> None:
        from anyio.from_thread import start_blocking_portal

        self._portal = self._resources.enter_context(start_blocking_portal())

    def caller(self, body: Body) -> Callable[[], object]:
        call = self._portal.call
        return lambda: call(body)

    def submitter(self, body: Body) -> Callable[..., Outcome]:
        start_task_soon = self._portal.start_task_soon
        return lambda *args: start_task_soon(body, *args)

    def mapper(self, body: Body) -> Callable[[Iterable[Any]], Iterable[Any]]:
        return _map_by_submitting(self.submitter(body))

    def gatherer(self, body: Body) -> Callable[[int], object]:
        from anyio import create_task_group

        async def gather(count: int) -> None:
            async with create_task_group() as group:
                for _ in range(count):
                    group.start_soon(body)

        call = self._portal.call
        return lambda count: call(gather, count)

    def plain_submitter(self, function: Callable[[], Any]) -> Callable[[], Outcome]:
        from anyio.to_thread import run_sync

        start_task_soon = self._portal.start_task_soon
        return lambda: start_task_soon(run_sync, function)


class Asgiref(System):
    """asgiref's ``async_to_sync``, the bridge of Django."""

    name = "asgiref"

    def caller(self, body: Body) -> Callable[[], object]:
        from asgiref.sync import async_to_sync

        call: Callable[[], object] = async_to_sync(body)
        return call


class AsyncioThreadRunner(System):
    """asyncio-thread-runner's ``ThreadRunner``."""

    name = "asyncio-thread-runner"

    def _open(self) -> None:
        from asyncio_thread_runner import ThreadRunner

        self._runner = self._resources.enter_context(ThreadRunner())

    def caller(self, body: Body) -> Callable[[], object]:
        run = self._runner.run
        return lambda: run(body())

    def submitter(self, body: Body) -> Callable[..., Outcome]:
        run_as_future = self._runner.run_as_future
        return lambda *args: run_as_future(body(*args))

    def mapper(self, body: Body) -> Callable[[Iterable[Any]], Iterable[Any]]:
        return _map_by_submitting(self.submitter(body))

    def iterable(self, make: Callable[[], AsyncIterator[Any]]) -> Iterable[Any]:
        items: Iterable[Any] = self._runner.wrap_iter(make())
        return items


class Unsync(System):
    """unsync's decorator."""

    name = "unsync"

    def _open(self) -> None:
        from unsync import unsync

        self._unsync = unsync

    def caller(self, body: Body) -> Callable[[], object]:
        start = self._unsync(body)
        return lambda: start().result()

    def submitter(self, body: Body) -> Callable[..., Outcome]:
        start: Callable[..., Outcome] = self._unsync(body)
        return start

    def mapper(self, body: Body) -> Callable[[Iterable[Any]], Iterable[Any]]:
        return _map_by_submitting(self.submitter(body))

    def plain_submitter(self, function: Callable[[], Any]) -> Callable[[], Outcome]:
        start: Callable[[], Outcome] = self._unsync(function)
        return start


class Fsspec(System):
    """fsspec's ``sync``, the bridge of s3fs and gcsfs."""

    name = "fsspec"

    def caller(self, body: Body) -> Callable[[], object]:
        from fsspec.asyn import get_loop, sync

        loop = get_loop()
        return lambda: sync(loop, body)


class Synchronicity(System):
    """Modal's synchronicity."""

    name = "synchronicity"

    def _open(self) -> None:
        from synchronicity import Synchronizer

        self._synchronizer = Synchronizer()

    def caller(self, body: Body) -> Callable[[], object]:
        call: Callable[[], object] = self._synchronizer.wrap(body)
        return call

    def iterable(self, make: Callable[[], AsyncIterator[Any]]) -> Iterable[Any]:
        items: Iterable[Any] = self._synchronizer.wrap(make)()
        return items


class ThreadPool(System):
    """A thread pool that calls plain functions: the price of a thread, without any coroutine."""

    name = "ThreadPoolExecutor"

    def _open(self) -> None:
        self._executor = self._resources.enter_context(ThreadPoolExecutor())

    def plain_submitter(self, function: Callable[[], Any]) -> Callable[[], Outcome]:
        submit = self._executor.submit
        return lambda: submit(function)


class Floor(System):
    """The least below a loop of asyncio's: one thread woken out of epoll, one by a lock.

    The byte in a socket pair is how asyncio itself wakes its loop.
    """

    name = "bare epoll and lock"

    def _open(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._resources.callback(self._reader.close)
        self._resources.callback(self._writer.close)
        self._answered = threading.Lock()
        self._answered.acquire()
        thread = threading.Thread(target=self._serve)
        thread.start()
        self._resources.callback(thread.join)
        self._resources.callback(self._writer.shutdown, socket.SHUT_WR)

    def _serve(self) -> None:
        with select.epoll() as poll:
            poll.register(self._reader, select.EPOLLIN)
            while True:
                poll.poll()
                if not self._reader.recv(4096):
                    return
                self._answered.release()

    def caller(self, body: Body) -> Callable[[], object]:
        writer, answered = self._writer, self._answered

        def call() -> None:
            writer.send(b"\0")
            answered.acquire()

        return call


class FloorEventfd(System):
    """The same with Linux's cheaper wake-up, which uvloop uses and asyncio does not."""

    name = "bare epoll and lock, eventfd"

    def _open(self) -> None:
        self._wake = os.eventfd(0)
        self._resources.callback(os.close, self._wake)
        self._answered = threading.Lock()
        self._answered.acquire()
        self._closing = False
        thread = threading.Thread(target=self._serve)
        thread.start()
        self._resources.callback(thread.join)
        self._resources.callback(self._stop)

    def _stop(self) -> None:
        self._closing = True
        os.eventfd_write(self._wake, 1)

    def _serve(self) -> None:
        with select.epoll() as poll:
            poll.register(self._wake, select.EPOLLIN)
            while True:
                poll.poll()
                os.eventfd_read(self._wake)
                if self._closing:
                    return
                self._answer()

    def _answer(self) -> None:
        self._answered.release()

    def caller(self, body: Body) -> Callable[[], object]:
        wake, answered = self._wake, self._answered

        def call() -> None:
            os.eventfd_write(wake, 1)
            answered.acquire()

        return call


class FloorWrittenBack(FloorEventfd):
    """The same, but the caller reads an eventfd: writing it lets go of the interpreter's lock."""

    name = "bare epoll and eventfd"

    def _open(self) -> None:
        self._back = os.eventfd(0)
        self._resources.callback(os.close, self._back)
        super()._open()

    def _answer(self) -> None:
        os.eventfd_write(self._back, 1)

    def caller(self, body: Body) -> Callable[[], object]:
        wake, back = self._wake, self._back

        def call() -> None:
            os.eventfd_write(wake, 1)
            os.eventfd_read(back)

        return call


class FloorLooking(FloorEventfd):
    """The same, but the caller looks at the lock a few times before it sleeps on it."""

    looks: int

    def _give_way(self) -> Callable[[], object]:
        return os.sched_yield

    def caller(self, body: Body) -> Callable[[], object]:
        wake, answered = self._wake, self._answered
        looks, give_way = self.looks, self._give_way()

        def call() -> None:
            os.eventfd_write(wake, 1)
            for _ in range(looks):
                if answered.acquire(False):
                    return
                give_way()
            answered.acquire()

        return call


class FloorLooking20(FloorLooking):
    """20 looks, with ``sched_yield`` between."""

    name = "bare, 20 looks with sched_yield"
    looks = 20


class FloorLooking100(FloorLooking):
    """100 looks, with ``sched_yield`` between."""

    name = "bare, 100 looks with sched_yield"
    looks = 100


class FloorSleeping(FloorLooking):
    """5 looks, with ``time.sleep(0)`` between."""

    name = "bare, 5 looks with sleep(0)"
    looks = 5

    def _give_way(self) -> Callable[[], object]:
        return partial(time.sleep, 0)


def _uvloop() -> asyncio.AbstractEventLoop:
    import uvloop

    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


class PalitraUvloop(Palitra):
    """palitra over uvloop."""

    name = "palitra, uvloop"
    loop_factory = staticmethod(_uvloop)


class RunCoroutineThreadsafeUvloop(RunCoroutineThreadsafe):
    """``run_coroutine_threadsafe`` over uvloop."""

    name = "run_coroutine_threadsafe, uvloop"
    loop_factory = staticmethod(_uvloop)


def _map_by_submitting(
    submit: Callable[..., Outcome],
) -> Callable[[Iterable[Any]], Iterable[Any]]:
    """What a user of a system without ``map`` writes."""

    def map_(items: Iterable[Any]) -> Iterable[Any]:
        outcomes = [submit(item) for item in items]
        return (outcome.result() for outcome in outcomes)

    return map_


SYSTEMS: tuple[type[System], ...] = (
    Palitra,
    RunCoroutineThreadsafe,
    AsyncioRun,
    AsyncioGather,
    AnyioPortal,
    Asgiref,
    AsyncioThreadRunner,
    Unsync,
    Fsspec,
    Synchronicity,
    ThreadPool,
    Floor,
    FloorEventfd,
)
FLOORS: tuple[type[System], ...] = (
    Floor,
    FloorEventfd,
    FloorWrittenBack,
    FloorLooking20,
    FloorLooking100,
    FloorSleeping,
)
ON_UVLOOP: tuple[type[System], ...] = (PalitraUvloop, RunCoroutineThreadsafeUvloop)
