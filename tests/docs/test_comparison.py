"""What the page of comparisons says of others, and of palitra beside them, is so."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import wait
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from asgiref.sync import async_to_sync, sync_to_async

from palitra import AsyncLoopExecutor

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="unset")


async def running_loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


async def value() -> str:
    return VARIABLE.get()


async def change() -> None:
    VARIABLE.set("changed")


def in_a_portal(function: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    with start_blocking_portal() as portal:
        return portal.call(function)


def in_palitra(function: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    with AsyncLoopExecutor() as executor:
        return executor.run(function())


def in_asyncio_run(function: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    coroutine = function()
    try:
        return asyncio.run(coroutine)
    finally:
        coroutine.close()  # where it was refused, nobody else does


def in_asgiref(function: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return async_to_sync(function)()


def test_asgiref_makes_a_loop_for_each_call_from_a_plain_thread() -> None:
    loops = [in_asgiref(running_loop) for _ in range(3)]

    assert len(set(loops)) == 3


def test_asgiref_uses_the_outer_loop_in_a_thread_that_it_started() -> None:
    async def outer() -> bool:
        call = sync_to_async(lambda: in_asgiref(running_loop), thread_sensitive=False)
        inner = await call()
        return inner is asyncio.get_running_loop()

    assert asyncio.run(outer())


@pytest.mark.parametrize("run", [in_palitra, in_a_portal, in_asyncio_run, in_asgiref])
def test_the_callers_context_variables_are_seen(run: Callable[..., Any]) -> None:
    VARIABLE.set("set")

    assert run(value) == "set"


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (in_palitra, "set"),
        (in_a_portal, "set"),
        (in_asyncio_run, "set"),
        (in_asgiref, "changed"),
    ],
)
def test_only_asgiref_brings_changed_context_variables_back(
    run: Callable[..., Any], expected: str
) -> None:
    VARIABLE.set("set")

    run(change)

    assert VARIABLE.get() == expected


@pytest.mark.parametrize(
    ("run", "works"),
    [(in_palitra, True), (in_a_portal, True), (in_asyncio_run, False), (in_asgiref, False)],
)
def test_where_a_loop_runs_already(run: Callable[..., Any], works: bool) -> None:
    async def outer() -> Any:
        return run(value)

    if works:
        assert asyncio.run(outer()) == VARIABLE.get()
    else:
        with pytest.raises(RuntimeError):
            asyncio.run(outer())


async def stubborn(started: threading.Event, release: asyncio.Event) -> None:
    """Answer a cancellation with a cleanup that lasts until it is let go."""
    started.set()
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.shield(release.wait())


async def new_event() -> asyncio.Event:
    return asyncio.Event()


def test_the_future_of_run_coroutine_threadsafe_is_cancelled_before_the_coroutine_has_ended() -> (
    None
):
    started = threading.Event()
    with AsyncLoopExecutor() as executor:
        loop, release = executor.get_loop(), executor.run(new_event())

        theirs = asyncio.run_coroutine_threadsafe(stubborn(started, release), loop)
        assert started.wait(5)
        assert theirs.cancel()
        assert theirs.cancelled()

        started.clear()
        ours = executor.submit(stubborn, started, release)
        assert started.wait(5)
        assert ours.cancel()
        assert not ours.cancelled()

        loop.call_soon_threadsafe(release.set)
        wait([ours])
        assert ours.cancelled()
