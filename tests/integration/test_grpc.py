"""gRPC: a server over the executor, with handlers made by `sync`."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import TYPE_CHECKING

import grpc
import pytest

from palitra import AsyncLoopExecutor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

SERVICE = "palitra.Words"


async def upper(request: bytes, context: grpc.ServicerContext) -> bytes:
    await asyncio.sleep(0)
    return request.upper() + b" on " + threading.current_thread().name.encode()


async def letters(request: bytes, context: grpc.ServicerContext) -> AsyncIterator[bytes]:
    for letter in request:
        await asyncio.sleep(0)
        yield bytes([letter])


async def refuse(request: bytes, context: grpc.ServicerContext) -> bytes:
    context.abort(grpc.StatusCode.NOT_FOUND, "no such word")
    raise AssertionError


@contextmanager
def serving(pool: AsyncLoopExecutor) -> Iterator[grpc.Channel]:
    handlers = {
        "Upper": grpc.unary_unary_rpc_method_handler(pool.sync(upper)),
        "Letters": grpc.unary_stream_rpc_method_handler(pool.sync(letters)),
        "Refuse": grpc.unary_unary_rpc_method_handler(pool.sync(refuse)),
    }
    server = grpc.server(pool)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        server.stop(grace=None).wait()


@pytest.fixture
def channel() -> Iterator[grpc.Channel]:
    with (
        AsyncLoopExecutor(max_workers=4, thread_name_prefix="rpc") as pool,
        serving(pool) as channel,
    ):
        yield channel


def test_a_unary_handler_runs_on_the_loop(channel: grpc.Channel) -> None:
    assert channel.unary_unary(f"/{SERVICE}/Upper")(b"word", timeout=20) == b"WORD on rpc_loop"


def test_more_calls_than_worker_threads_are_all_answered(channel: grpc.Channel) -> None:
    call = channel.unary_unary(f"/{SERVICE}/Upper")

    with ThreadPoolExecutor(8) as clients:
        calls = [clients.submit(call, b"%d" % number, timeout=20) for number in range(50)]
        answers = {answer.result() for answer in as_completed(calls)}

    assert answers == {b"%d on rpc_loop" % number for number in range(50)}


def test_a_handler_of_an_async_generator_function_streams(channel: grpc.Channel) -> None:
    stream = channel.unary_stream(f"/{SERVICE}/Letters")(b"word", timeout=20)

    assert list(stream) == [b"w", b"o", b"r", b"d"]


def test_the_status_that_a_coroutine_sets_reaches_the_client(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(f"/{SERVICE}/Refuse")(b"word", timeout=20)

    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert refused.value.details() == "no such word"
