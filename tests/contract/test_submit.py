"""What `submit` takes, and where it runs."""

from __future__ import annotations

import asyncio
import functools
import inspect
import re
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from concurrent.futures import Executor, Future, wait
from typing import Any

import flask
import pytest
from werkzeug.local import LocalProxy

from contract.gates import Gate, Held, fail_with, value_of
from contract.subjects import Awaitable, Request, counted
from lifetimes import on_demand
from palitra import AsyncLoopExecutor, DeadlockError

pytestmark = pytest.mark.any_host


async def where() -> int:
    """The thread that runs the coroutine."""
    await asyncio.sleep(0)
    return threading.get_ident()


async def capture(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs


def capture_in_thread(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs


class Methods:
    async def method(self) -> int:
        return threading.get_ident()

    @classmethod
    async def of_class(cls) -> int:
        return threading.get_ident()

    @staticmethod
    async def static() -> int:
        return threading.get_ident()

    partial = functools.partialmethod(method)


class CallableObject:
    async def __call__(self) -> int:
        return threading.get_ident()


class Secretive:
    """A proxy without an object behind it."""

    def __getattribute__(self, name: str) -> Any:
        if name == "__class__":  # that is asked by pytest
            return object.__getattribute__(self, name)
        raise LookupError(name)

    def __call__(self) -> int:
        return threading.get_ident()


class SecretiveAsync(Secretive):
    async def __call__(self) -> int:  # type: ignore[override]
        return threading.get_ident()


class Unspeakable(str):
    __slots__ = ()

    def __str__(self) -> str:
        raise LookupError("no text")


class Renamed(CallableObject):
    def __init__(self) -> None:
        self.__qualname__ = Unspeakable("renamed")


class Generates:
    async def method(self) -> AsyncGenerator[int, None]:
        yield 1


@pytest.fixture
def loop_thread(executor: AsyncLoopExecutor) -> int:
    return executor.run(where())


# Coroutine functions


COROUTINE_FUNCTIONS = {
    "async def": where,
    "partial": functools.partial(where),
    "partial of partial": functools.partial(functools.partial(where)),
    "bound method": Methods().method,
    "bound partial method": Methods().partial,
    "class method": Methods.of_class,
    "static method": Methods.static,
    "object with async __call__": CallableObject(),
    "partial of object": functools.partial(CallableObject()),
    "object whose attributes raise": SecretiveAsync(),
    "object of a strange name": Renamed(),
}


@pytest.mark.parametrize("fn", COROUTINE_FUNCTIONS.values(), ids=COROUTINE_FUNCTIONS)
def test_a_coroutine_function_runs_on_the_loop(
    executor: AsyncLoopExecutor, loop_thread: int, fn: Any
) -> None:
    assert executor.submit(fn).result() == loop_thread


@pytest.mark.parametrize("fn", COROUTINE_FUNCTIONS.values(), ids=COROUTINE_FUNCTIONS)
def test_a_coroutine_function_starts_no_worker_thread(fn: Any) -> None:
    with AsyncLoopExecutor(thread_name_prefix="nobody") as executor:
        executor.submit(fn).result()

        names = [name for name in thread_names() if name.startswith("nobody")]
        assert on_demand(names) == ["nobody_loop"]


def thread_names() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="inspect.markcoroutinefunction is 3.12's")
def test_a_marked_coroutine_function_is_called_on_the_loop(
    executor: AsyncLoopExecutor, loop_thread: int
) -> None:
    called_in = []

    def marked() -> Coroutine[Any, Any, int]:
        called_in.append(threading.get_ident())
        return where()

    mark: Any = inspect.markcoroutinefunction  # type: ignore[attr-defined,unused-ignore]

    class Marked:
        def method(self) -> Coroutine[Any, Any, int]:
            return marked()

        mark(method)

    assert executor.submit(Marked().method).result() == loop_thread
    assert executor.submit(mark(marked)).result() == loop_thread
    assert called_in == [loop_thread] * 2


def test_a_method_of_a_callable_object_is_called_with_its_arguments(
    executor: AsyncLoopExecutor,
) -> None:
    class Adds:
        def __init__(self, base: int) -> None:
            self.base = base

        async def __call__(self, value: int) -> int:
            return self.base + value

    assert executor.submit(Adds(1), 2).result() == 3


@pytest.mark.parametrize("fn", [capture, capture_in_thread])
def test_arguments_arrive_whatever_their_names(executor: AsyncLoopExecutor, fn: Any) -> None:
    future = executor.submit(fn, 1, 2, self=3, fn=4, args=5, kwargs=6, timeout=7)

    assert future.result() == ((1, 2), {"self": 3, "fn": 4, "args": 5, "kwargs": 6, "timeout": 7})


@pytest.mark.parametrize("fn", [capture, capture_in_thread])
def test_fn_is_positional_only(executor: AsyncLoopExecutor, fn: Any) -> None:
    submit: Any = executor.submit

    with pytest.raises(TypeError):
        submit(fn=fn)
    with pytest.raises(TypeError):
        submit()


def test_wrong_arguments_are_the_calls_error_not_submits(executor: AsyncLoopExecutor) -> None:
    submit: Any = executor.submit

    for future in (submit(where, 1), submit(len)):
        with pytest.raises(TypeError):
            future.result()


def test_submit_returns_a_future_of_the_standard_library(executor: AsyncLoopExecutor) -> None:
    assert isinstance(executor, Executor)
    assert isinstance(executor.submit(where), Future)
    assert isinstance(executor.submit(where()), Future)
    assert isinstance(executor.submit(len, ()), Future)


# Coroutine objects


def test_a_coroutine_object_is_awaited_on_the_loop(
    executor: AsyncLoopExecutor, loop_thread: int
) -> None:
    assert executor.submit(where()).result() == loop_thread


def test_a_coroutine_that_no_async_def_made_is_a_coroutine(executor: AsyncLoopExecutor) -> None:
    assert executor.submit(Request(7)).result() == 7


def test_a_coroutine_object_takes_no_arguments(executor: AsyncLoopExecutor) -> None:
    coro = where()
    submit: Any = executor.submit

    with pytest.raises(TypeError):
        submit(coro, 1)

    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED


def test_a_coroutine_that_was_awaited_before_fails_in_its_future(
    executor: AsyncLoopExecutor,
) -> None:
    coro = value_of(1)
    executor.submit(coro).result()

    with pytest.raises(RuntimeError, match="already awaited"):
        executor.submit(coro).result()


# Any other callable


@pytest.mark.parametrize(
    ("fn", "args", "expected"),
    [(pow, (2, 8), 256), (int, ("7",), 7), (lambda: 7, (), 7), ("a".join, (["b", "c"],), "bac")],
)
def test_any_other_callable_gives_its_result(
    executor: AsyncLoopExecutor, fn: Any, args: Any, expected: Any
) -> None:
    assert executor.submit(fn, *args).result() == expected


def test_a_callable_whose_attributes_raise_gives_its_result(
    executor: AsyncLoopExecutor, loop_thread: int
) -> None:
    assert executor.submit(Secretive()).result() != loop_thread
    assert executor.submit(functools.partial(Secretive())).result() != loop_thread


def test_a_plain_callable_runs_in_a_worker_thread(loop_flavour: dict[str, Any]) -> None:
    with AsyncLoopExecutor(thread_name_prefix="work", **loop_flavour) as executor:
        name = executor.submit(lambda: threading.current_thread().name).result()

    assert name == "work_0"


def test_a_plain_callable_never_blocks_the_loop(executor: AsyncLoopExecutor) -> None:
    held = Held()
    future = executor.submit(held.thread, 7)
    held.started.wait()

    assert executor.run(value_of(1), timeout=10) == 1
    assert future.running()
    held.release.open()
    assert future.result() == 7


def test_a_plain_callable_may_block_on_the_loop(executor: AsyncLoopExecutor) -> None:
    assert executor.submit(lambda: executor.run(value_of(7))).result() == 7
    assert executor.submit(lambda: executor.submit(value_of, 7).result()).result() == 7


def test_there_is_no_running_loop_in_a_worker_thread(executor: AsyncLoopExecutor) -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        executor.submit(asyncio.get_running_loop).result()


@pytest.mark.parametrize("awaitable", [Awaitable, Request, value_of])
def test_an_awaitable_that_a_plain_callable_returns_is_awaited(
    executor: AsyncLoopExecutor, awaitable: Any
) -> None:
    result = executor.submit(lambda: awaitable(7)).result()

    assert result in {7, (7, executor.run(where()))}


class Asked(Exception):
    """Something has asked an object that is not to be asked."""


class Unbound:
    """A proxy with nothing behind it, which therefore has no class either."""

    @property  # type: ignore[misc]  # as `unittest.mock` and werkzeug do
    def __class__(self) -> Any:
        raise Asked


class UnboundAwaitable(Unbound):
    def __await__(self) -> Any:
        raise Asked


class Lazy:
    """A proxy that fetches what it stands for when it is asked for anything."""

    fetched = 0

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        type(self).fetched += 1
        return int


@pytest.mark.parametrize("proxy", [Unbound, UnboundAwaitable])
def test_a_result_that_cannot_be_asked_is_returned(
    executor: AsyncLoopExecutor, proxy: type
) -> None:
    assert type(executor.submit(proxy).result()) is proxy


def test_a_result_is_not_asked_what_it_stands_for(executor: AsyncLoopExecutor) -> None:
    assert type(executor.submit(Lazy).result()) is Lazy
    assert Lazy.fetched == 0


def test_a_proxy_with_all_special_methods_is_awaited_if_what_it_stands_for_can_be(
    executor: AsyncLoopExecutor,
) -> None:
    app = flask.Flask("proxies")
    with app.app_context():
        flask.g.user = "ada"
        assert executor.submit(lambda: flask.g).result().user == "ada"
        assert executor.submit(lambda: flask.current_app).result().name == "proxies"
    assert executor.submit(lambda: LocalProxy(lambda: Awaitable(7))).result()[0] == 7


def test_the_returned_awaitable_runs_on_the_loop_and_the_callable_beside_it(
    executor: AsyncLoopExecutor, loop_thread: int
) -> None:
    called_in = []

    def call() -> Coroutine[Any, Any, int]:
        called_in.append(threading.get_ident())
        return where()

    assert executor.submit(call).result() == loop_thread
    assert called_in != [loop_thread]


def test_an_asyncio_future_of_the_loop_is_awaited(executor: AsyncLoopExecutor) -> None:
    loop = executor.get_loop()
    inner: asyncio.Future[int] = loop.create_future()
    future = executor.submit(lambda: inner)
    loop.call_soon_threadsafe(inner.set_result, 7)

    assert future.result() == 7


def test_a_class_of_awaitables_is_a_plain_callable(
    executor: AsyncLoopExecutor, loop_thread: int
) -> None:
    assert executor.submit(Awaitable, 7).result() == (7, loop_thread)


def test_an_error_in_the_returned_awaitable_is_the_calls_error(
    executor: AsyncLoopExecutor,
) -> None:
    error = ValueError("from the awaitable")

    assert executor.submit(lambda: fail_with(error)).exception() is error


def test_a_wrapper_that_only_looks_async_still_gives_the_result(
    executor: AsyncLoopExecutor,
) -> None:
    @functools.wraps(where)
    def wrapper() -> Coroutine[Any, Any, int]:
        return where()

    assert executor.submit(wrapper).result() == executor.run(where())


@pytest.mark.parametrize("kind", [StopIteration, SystemExit, ValueError])
def test_an_error_of_a_plain_callable_is_delivered_as_it_is(
    executor: AsyncLoopExecutor, kind: type[BaseException]
) -> None:
    error = kind("of a plain callable")

    def fail() -> None:
        raise error

    assert executor.submit(fail).exception() is error
    assert executor.submit(len, "after").result() == 5


# What is refused


def generator_objects() -> Iterator[tuple[str, Any]]:
    yield "async generator function", counted
    yield "async generator method", Generates().method
    yield "partial of async generator function", functools.partial(counted)


@pytest.mark.parametrize(("name", "fn"), list(generator_objects()))
def test_an_async_generator_function_is_refused_with_a_pointer(
    executor: AsyncLoopExecutor, name: str, fn: Any
) -> None:
    with pytest.raises(TypeError, match="sync_iter"):
        executor.submit(fn)


def test_an_async_generator_object_is_refused_with_a_pointer(executor: AsyncLoopExecutor) -> None:
    submit: Any = executor.submit

    with pytest.raises(TypeError, match="sync_iter"):
        submit(counted())


@pytest.mark.parametrize("thing", [None, 7, "text", [], object(), Awaitable(1)], ids=repr)
def test_anything_else_is_refused_by_name(executor: AsyncLoopExecutor, thing: Any) -> None:
    with pytest.raises(TypeError, match=re.escape(repr(thing))):
        executor.submit(thing)


def test_an_asyncio_future_is_refused(executor: AsyncLoopExecutor) -> None:
    inner: Any = executor.get_loop().create_future()

    with pytest.raises(TypeError, match="Future"):
        executor.submit(inner)


def test_a_refused_coroutine_is_closed_after_shutdown(executor: AsyncLoopExecutor) -> None:
    executor.shutdown()
    coro = where()

    with pytest.raises(RuntimeError, match=r"^cannot schedule new futures after shutdown$"):
        executor.submit(coro)

    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED


def test_a_refused_coroutine_of_run_is_closed(executor: AsyncLoopExecutor) -> None:
    executor.shutdown()
    coro = where()

    with pytest.raises(RuntimeError, match=r"^cannot schedule new futures after shutdown$"):
        executor.run(coro)

    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED


def test_a_coroutine_refused_on_the_loops_own_thread_is_closed(
    executor: AsyncLoopExecutor,
) -> None:
    async def block() -> str:
        coro = where()
        with pytest.raises(DeadlockError):
            executor.run(coro)
        return inspect.getcoroutinestate(coro)

    assert executor.run(block()) == inspect.CORO_CLOSED


def test_a_coroutine_refused_by_a_broken_executor_is_closed() -> None:
    def broken() -> asyncio.AbstractEventLoop:
        raise OSError("no loop today")

    executor = AsyncLoopExecutor(loop_factory=broken)
    for call in (executor.submit, executor.run, executor.gather):
        coro = where()
        with pytest.raises(RuntimeError):
            call(coro)

        assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED


def test_a_coroutine_cancelled_before_its_start_is_closed(loop_flavour: dict[str, Any]) -> None:
    held = Held()
    coro = where()
    with AsyncLoopExecutor(max_workers=1, **loop_flavour) as executor:
        executor.submit(held.coroutine)
        held.started.wait()
        future = executor.submit(coro)

        assert future.cancel()
        held.open_all()

    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED


# The coroutine function is called where it is awaited


def test_submit_itself_calls_nothing(executor: AsyncLoopExecutor) -> None:
    """The call belongs to the loop: a slow or failing one is not the submitter's."""
    blocked = Gate()
    entered = Gate()

    def hold() -> None:
        entered.open()
        blocked.wait()

    executor.get_loop().call_soon_threadsafe(hold)
    entered.wait()
    called = Gate()

    class Calls:
        async def __call__(self) -> int:
            called.open()
            return 7

    future = executor.submit(Calls())

    assert not called.is_open
    assert not future.done()
    blocked.open()
    assert future.result() == 7


def test_submit_works_on_the_loops_own_thread(executor: AsyncLoopExecutor) -> None:
    async def nested() -> tuple[int, int]:
        return (
            await asyncio.wrap_future(executor.submit(value_of, 1)),
            await asyncio.wrap_future(executor.submit(len, "ab")),
        )

    assert executor.run(nested()) == (1, 2)


def test_calls_start_in_the_order_of_submission_while_somebody_waits_for_them(
    executor: AsyncLoopExecutor,
) -> None:
    # Whoever waits for many futures holds all their locks at once for a moment.
    blocked, go = Gate(), Gate()
    started: list[int] = []

    async def block() -> None:
        blocked.open()
        go.wait()

    async def start(number: int) -> None:
        started.append(number)

    executor.submit(block)
    blocked.wait()
    futures = [executor.submit(start, number) for number in range(1_000)]
    go.open()
    wait(futures)

    assert started == list(range(1_000))


# What cannot be closed, and tasks that are none


class Stubborn(Coroutine[Any, Any, int]):
    """A coroutine that cannot be closed."""

    def __await__(self) -> Any:
        return asyncio.sleep(0).__await__()

    def send(self, value: Any) -> Any:
        raise StopIteration(1)

    def throw(self, *error: Any) -> Any:
        raise error[0]

    def close(self) -> None:
        raise ValueError("never")


@pytest.mark.parametrize("by", ["future", "shutdown"])
@pytest.mark.parametrize("made_in", ["caller", "thread"])
def test_what_a_clean_up_raises_keeps_no_call_from_being_settled(
    caplog: pytest.LogCaptureFixture, made_in: str, by: str
) -> None:
    made, held = Gate(), Held()

    def make() -> Stubborn:
        made.open()
        return Stubborn()

    with AsyncLoopExecutor(max_workers=1) as executor:
        first = executor.submit(held.coroutine, 1)
        held.started.wait()  # and has the only slot
        future = executor.submit(Stubborn() if made_in == "caller" else make)
        if made_in == "thread":
            made.wait()
            while executor.calls()[-1].state != "waiting":  # for its turn, with what it returned
                time.sleep(0.001)
        if by == "shutdown":
            executor.shutdown(wait=False, cancel_futures=True)
        else:
            future.cancel()
        assert wait([future], 10).done  # before there is a slot
        held.open_all()

    assert future.cancelled()
    assert first.done()
    [record] = caplog.records
    assert record.getMessage().startswith("closing ")


def test_what_the_clean_up_raises_of_a_run_that_never_began_keeps_nobody_waiting() -> None:
    holds, gate = Gate(), Gate()

    async def hold() -> None:
        holds.open()
        gate.wait()

    with AsyncLoopExecutor() as executor:
        executor.submit(hold)
        holds.wait()
        with pytest.raises(TimeoutError):
            executor.run(Stubborn(), timeout=0.01)
        gate.open()


MAKES_A_TASK: dict[str, Callable[[AsyncLoopExecutor], object]] = {
    "submit": lambda executor: executor.submit(value_of, 1).result(10),
    "run": lambda executor: executor.run(value_of(1), timeout=10),
    "submit_service": lambda executor: executor.submit_service(value_of, 1).result(10),
}


@pytest.mark.parametrize("call", MAKES_A_TASK.values(), ids=MAKES_A_TASK)
def test_a_task_factory_that_makes_no_task_fails_the_call(
    call: Callable[[AsyncLoopExecutor], object],
) -> None:
    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
        coro.close()

    with AsyncLoopExecutor() as executor:
        loop = executor.get_loop()
        loop.set_task_factory(factory)
        with pytest.raises((AttributeError, TypeError)):
            call(executor)
        loop.set_task_factory(None)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, ValueError])
def test_a_service_that_fails_is_settled_whatever_the_exception_handler_raises(
    error: type[BaseException],
) -> None:
    begun, failed = Gate(), Gate()

    async def fails() -> None:
        await begun.passed()
        raise LookupError

    def handler(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if "service" in context["message"]:
            failed.open()
            raise error

    with AsyncLoopExecutor() as executor:
        executor.get_loop().set_exception_handler(handler)
        future = executor.submit_service(fails)
        begun.open()
        failed.wait()
        assert isinstance(future.exception(10), LookupError)
        executor.get_loop().set_exception_handler(None)
