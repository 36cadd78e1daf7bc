"""Functions that process pools and Dask hand to their workers by name."""

from __future__ import annotations

import functools
import os

import aiohttp

import palitra


@functools.cache
def session(folder: str) -> aiohttp.ClientSession:
    """Return this process's session, opened on its loop at the first call, closed at its end.

    The end leaves a file in *folder*, named after the process.
    """
    # A limit of one: were it opened twice, the server would see a second connection.
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1))

    @palitra.push_async_callback
    async def close() -> None:
        await session.close()
        os.close(os.open(f"{folder}/{os.getpid()}", os.O_CREAT))

    return session


# A forked process opens a session of its own; what its parent had open is its parent's.
os.register_at_fork(after_in_child=session.cache_clear)


@palitra.sync
async def fetch_connection(url: str, folder: str) -> tuple[int, int]:
    """Return this process's id and the number of the connection that the server saw."""
    async with session(folder).get(url) as response:
        answer = await response.json()
    return os.getpid(), answer["connection"]
