"""Tornado: `run_on_executor` and `IOLoop.run_in_executor` in a real application."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest
from tornado.concurrent import run_on_executor
from tornado.httpclient import AsyncHTTPClient
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler

from palitra import AsyncLoopExecutor


class ThreadNames(RequestHandler):
    """Says where each of its methods ran."""

    def initialize(self, executor: AsyncLoopExecutor) -> None:
        self.executor = executor

    @run_on_executor
    async def on_the_loop(self, word: str) -> list[str]:
        return [word, threading.current_thread().name]

    @run_on_executor
    def in_a_thread(self, word: str) -> list[str]:
        return [word, threading.current_thread().name]

    async def get(self) -> None:
        plain = IOLoop.current().run_in_executor(self.executor, len, "abc")
        self.write(
            {
                "loop": await self.on_the_loop("a"),
                "thread": await self.in_a_thread("b"),
                "plain": await plain,
            }
        )


def test_a_tornado_application_runs_methods_on_the_executor() -> None:
    async def main() -> dict[str, object]:
        listener, port = bind_unused_port()
        server = HTTPServer(Application([("/", ThreadNames, {"executor": executor})]))
        server.add_socket(listener)
        answer = await AsyncHTTPClient().fetch(f"http://127.0.0.1:{port}/")
        server.stop()
        await server.close_all_connections()
        return json.loads(answer.body)

    with AsyncLoopExecutor(max_workers=1, thread_name_prefix="web") as executor:
        answer = asyncio.run(main())

    assert answer == {"loop": ["a", "web_loop"], "thread": ["b", "web_0"], "plain": 3}


def test_a_method_on_the_executor_hands_its_exception_to_tornado() -> None:
    class Component:
        def __init__(self, executor: AsyncLoopExecutor) -> None:
            self.executor = executor

        @run_on_executor
        async def fail(self) -> None:
            raise LookupError

    async def main() -> None:
        with pytest.raises(LookupError):
            await Component(executor).fail()

    with AsyncLoopExecutor() as executor:
        asyncio.run(main())
