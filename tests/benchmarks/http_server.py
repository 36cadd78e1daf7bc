"""The server of the HTTP workload: answers each request after a while, as a service would.

Run as a program it prints its port, and ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import sys

from aiohttp import web

from .http_workload import ANSWER, DELAY
from .processes import leave_to_parent


async def _answer(request: web.Request) -> web.Response:
    await asyncio.sleep(DELAY)
    return web.Response(body=ANSWER)


async def _serve() -> None:
    app = web.Application()
    app.router.add_get("/", _answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    leave_to_parent()
    asyncio.run(_serve())
