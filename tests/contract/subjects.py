"""Awaitable things beside what `async def` makes, for the tests to hand over."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine, Generator
from typing import Any

from contract.gates import value_of


class Awaitable:
    """Awaitable, and no coroutine; gives its value and the thread it was awaited in."""

    def __init__(self, value: Any = None) -> None:
        self.value = value

    def __await__(self) -> Generator[Any, None, tuple[Any, int]]:
        yield from asyncio.sleep(0).__await__()
        return self.value, threading.get_ident()


class Request(Coroutine[Any, Any, Any]):
    """A coroutine that no `async def` made, as aiohttp's and aiosqlite's requests are."""

    def __init__(self, value: Any) -> None:
        self._coro = value_of(value)

    def send(self, value: Any) -> Any:
        return self._coro.send(value)

    def throw(self, *args: Any) -> Any:
        return self._coro.throw(*args)

    def close(self) -> None:
        self._coro.close()

    def __await__(self) -> Generator[Any, None, Any]:
        return self._coro.__await__()


async def counted() -> AsyncGenerator[int, None]:
    """An async generator function."""
    yield 1
