"""What the applications that are forked have in common: calls upstream, a pool, a journal."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

UPSTREAM_PORT = int(os.environ["UPSTREAM_PORT"])
JOURNAL = Path(os.environ["JOURNAL"])


def note(line: str) -> None:
    with JOURNAL.open("a") as journal:
        journal.write(f"{os.getpid()} {line}\n")


async def fetch(path: str) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", UPSTREAM_PORT)
    try:
        writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        answer = await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()
    return answer.partition(b"\r\n\r\n")[2].decode()


@asynccontextmanager
async def pool() -> AsyncIterator[int]:
    note("pool opened")
    yield os.getpid()
    await asyncio.sleep(0)
    note("pool closed")
