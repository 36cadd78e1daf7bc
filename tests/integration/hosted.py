"""What the tests of hosts let a host run: a call in flight, and a context to leave, both noted."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

import palitra

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def note(word: str) -> None:
    with open(os.environ["JOURNAL"], "a", encoding="utf-8") as journal:  # noqa: PTH123
        journal.write(f"{word}\n")


@palitra.cached_context
@contextlib.asynccontextmanager
async def pool() -> AsyncIterator[str]:
    note("entered")
    try:
        yield "a pool"
    finally:
        note("left")


async def later(used: asyncio.Event | None = None) -> None:
    if used is not None:
        await used.wait()
    await asyncio.sleep(float(os.environ.get("LATER", "0.2")))
    note("finished")


def use() -> None:
    pool()
    used = asyncio.Event()
    palitra.get_executor().submit(later, used)
    note("used")
    palitra.get_loop().call_soon_threadsafe(used.set)
