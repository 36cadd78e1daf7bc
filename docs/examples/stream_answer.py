"""A synchronous program that reads a model's answer token by token, and stops half-way.

``python stream_answer.py URL`` asks a server that sends one token a line, and ends within two
seconds of its last line, although one of its calls ignores that it is cancelled.
"""

import asyncio
import sys
from collections.abc import AsyncIterator

import aiohttp

import palitra

ENOUGH = 5

executor = palitra.AsyncLoopExecutor(exit_timeout=1)


async def answer(url: str) -> AsyncIterator[str]:
    """Yield the tokens as they come. Leaving this early closes the connection."""
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        async for line in response.content:
            yield line.decode().strip()


async def stubborn() -> None:
    """Swallow each cancellation, as some retry loops do."""
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            print("not now", flush=True)


def main(url: str) -> None:
    executor.submit(stubborn)
    with executor.sync_iter(answer(url)) as tokens:
        for number, token in enumerate(tokens, 1):
            print(token, flush=True)
            if number == ENOUGH:
                break
    print("enough", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
