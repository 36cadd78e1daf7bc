"""Every call runs in a copy of the context of whoever made it."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from contract.gates import PATIENCE, Held, in_thread, value_of
from palitra import AsyncLoopExecutor

pytestmark = pytest.mark.any_host

VARIABLE: contextvars.ContextVar[Any] = contextvars.ContextVar("VARIABLE", default="unset")


async def look() -> Any:
    await asyncio.sleep(0)
    return VARIABLE.get()


async def change() -> None:
    VARIABLE.set("changed by the call")
    await asyncio.sleep(0)


Caller = Callable[[AsyncLoopExecutor], Any]

LOOKERS: dict[str, Caller] = {
    "coroutine function": lambda e: e.submit(look).result(PATIENCE),
    "coroutine object": lambda e: e.submit(look()).result(PATIENCE),
    "plain callable": lambda e: e.submit(VARIABLE.get).result(PATIENCE),
    "returned awaitable": lambda e: e.submit(lambda: look()).result(PATIENCE),
    "map": lambda e: next(iter(e.map(lambda _: VARIABLE.get(), [1]))),
    "map of coroutines": lambda e: next(iter(e.map(lambda _: look(), [1], buffersize=1))),
    "run": lambda e: e.run(look()),
    "gather": lambda e: e.gather(look())[0],
    "gather of awaitables": lambda e: e.gather(Looks())[0],
    "sync": lambda e: e.sync(look)(),
    "sync_iter": lambda e: next(iter(e.sync_iter(looking))),
}

CHANGERS: dict[str, Caller] = {
    "coroutine function": lambda e: e.submit(change).result(PATIENCE),
    "coroutine object": lambda e: e.submit(change()).result(PATIENCE),
    "plain callable": lambda e: e.submit(VARIABLE.set, "changed").result(PATIENCE),
    "returned awaitable": lambda e: e.submit(lambda: change()).result(PATIENCE),
    "run": lambda e: e.run(change()),
    "gather": lambda e: e.gather(change(), change()),
    "sync": lambda e: e.sync(change)(),
}


class Looks:
    def __await__(self) -> Any:
        return look().__await__()


async def looking() -> Any:
    yield VARIABLE.get()


@pytest.fixture(autouse=True)
def fresh_variable() -> Any:
    token = VARIABLE.set("unset")
    yield
    VARIABLE.reset(token)


@pytest.mark.parametrize("looks", LOOKERS.values(), ids=LOOKERS)
def test_a_call_sees_the_callers_values(executor: AsyncLoopExecutor, looks: Caller) -> None:
    assert looks(executor) == "unset"
    token = VARIABLE.set("set by the caller")

    assert looks(executor) == "set by the caller"
    VARIABLE.reset(token)


@pytest.mark.parametrize("changes", CHANGERS.values(), ids=CHANGERS)
def test_a_call_changes_neither_the_callers_values_nor_the_next_calls(
    executor: AsyncLoopExecutor, changes: Caller
) -> None:
    changes(executor)

    assert VARIABLE.get() == "unset"
    for looks in LOOKERS.values():
        assert looks(executor) == "unset"


@pytest.mark.parametrize("looks", LOOKERS.values(), ids=LOOKERS)
def test_whoever_started_the_threads_left_nothing_there(
    loop_flavour: dict[str, Any], looks: Caller
) -> None:
    """The first user's values are not those of a second user, who has none."""
    with AsyncLoopExecutor(**loop_flavour) as executor:
        VARIABLE.set("set by the first user")
        assert looks(executor) == "set by the first user"
        seen: list[Any] = []
        thread = in_thread(lambda: contextvars.Context().run(lambda: seen.append(looks(executor))))
        thread.join(PATIENCE)

        assert seen == ["unset"]


def test_a_callback_on_the_loop_has_its_callers_context(executor: AsyncLoopExecutor) -> None:
    VARIABLE.set("set by the first user")
    executor.run(look())
    held, seen = Held(), list[Any]()

    def callback() -> None:
        seen.append(VARIABLE.get())
        held.started.open()

    contextvars.Context().run(executor.get_loop().call_soon_threadsafe, callback)
    held.started.wait()

    assert seen == ["unset"]


@pytest.mark.parametrize("fn", [look, VARIABLE.get, lambda: look()])
def test_the_context_is_that_of_the_submission_not_of_the_start(
    loop_flavour: dict[str, Any], fn: Callable[[], Awaitable[Any]]
) -> None:
    held = Held()
    with AsyncLoopExecutor(max_workers=1, **loop_flavour) as executor:
        executor.submit(held.coroutine)
        executor.submit(held.thread)
        VARIABLE.set("at the submission")
        future = executor.submit(fn)
        VARIABLE.set("afterwards")
        held.open_all()

        assert future.result(PATIENCE) == "at the submission"


def test_each_call_of_a_map_has_a_copy_of_its_own(executor: AsyncLoopExecutor) -> None:
    VARIABLE.set(())

    async def adds(number: int) -> Any:
        VARIABLE.set((*VARIABLE.get(), number))
        await asyncio.sleep(0)
        return VARIABLE.get()

    def adds_in_thread(number: int) -> Any:
        VARIABLE.set((*VARIABLE.get(), number))
        return VARIABLE.get()

    for fn in (adds, adds_in_thread):
        assert list(executor.map(fn, range(3))) == [(0,), (1,), (2,)]


def test_a_callable_and_the_awaitable_it_returns_share_one_copy(
    executor: AsyncLoopExecutor,
) -> None:
    def sets() -> Any:
        VARIABLE.set("set in the thread")
        return look()

    assert executor.submit(sets).result(PATIENCE) == "set in the thread"


def test_calls_of_one_worker_thread_do_not_see_each_other(loop_flavour: dict[str, Any]) -> None:
    with AsyncLoopExecutor(max_workers=1, **loop_flavour) as executor:
        executor.submit(VARIABLE.set, "changed").result(PATIENCE)

        assert executor.submit(VARIABLE.get).result(PATIENCE) == "unset"


def test_a_call_submitted_by_a_call_sees_that_calls_values(executor: AsyncLoopExecutor) -> None:
    async def outer() -> Any:
        VARIABLE.set("set by the outer call")
        return await asyncio.gather(
            asyncio.wrap_future(executor.submit(look)),
            asyncio.wrap_future(executor.submit(VARIABLE.get)),
        )

    assert list(executor.run(outer())) == ["set by the outer call"] * 2


# run(context=...)


def test_run_uses_a_given_context_itself(executor: AsyncLoopExecutor) -> None:
    context = contextvars.Context()
    context.run(VARIABLE.set, "set in the context")

    assert executor.run(look(), context=context) == "set in the context"
    executor.run(change(), context=context)

    assert context[VARIABLE] == "changed by the call"
    assert VARIABLE.get() == "unset"


def test_a_given_context_may_serve_one_run_after_another(executor: AsyncLoopExecutor) -> None:
    context = contextvars.Context()

    async def adds() -> int:
        VARIABLE.set(VARIABLE.get() + 1)
        await asyncio.sleep(0)
        return int(VARIABLE.get())

    context.run(VARIABLE.set, 0)

    assert [executor.run(adds(), context=context) for _ in range(3)] == [1, 2, 3]


def test_a_context_that_is_entered_already_can_be_given(executor: AsyncLoopExecutor) -> None:
    """The caller of a blocking run may well stand in that very context."""
    context = contextvars.copy_context()

    def runs() -> Any:
        VARIABLE.set("entered")
        return executor.run(look())

    assert context.run(runs) == "entered"


def test_what_is_reset_in_a_call_was_set_in_it(executor: AsyncLoopExecutor) -> None:
    async def sets_and_resets() -> Any:
        token = VARIABLE.set("inside")
        await asyncio.sleep(0)
        VARIABLE.reset(token)
        return VARIABLE.get()

    assert executor.run(sets_and_resets()) == "unset"
    assert executor.submit(sets_and_resets).result(PATIENCE) == "unset"
    assert executor.run(value_of(VARIABLE.get())) == "unset"
