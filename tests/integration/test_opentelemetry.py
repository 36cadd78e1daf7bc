"""OpenTelemetry: the current span follows each call onto the loop and into worker threads."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from opentelemetry import baggage, trace
from opentelemetry.context import attach, detach
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from palitra import AsyncLoopExecutor


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracer(spans: InMemorySpanExporter) -> trace.Tracer:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    return provider.get_tracer("tests")


def family(spans: InMemorySpanExporter) -> dict[str, str]:
    """Return the name of each finished span's parent."""
    finished = spans.get_finished_spans()
    names = {span.context.span_id: span.name for span in finished}
    return {span.name: names[span.parent.span_id] for span in finished if span.parent}


def test_the_span_of_the_caller_is_the_parent_in_coroutines_and_threads(
    executor: AsyncLoopExecutor, tracer: trace.Tracer, spans: InMemorySpanExporter
) -> None:
    async def on_the_loop(name: str) -> None:
        with tracer.start_as_current_span(name):
            await asyncio.sleep(0)
            with tracer.start_as_current_span(f"{name} inner"):
                await asyncio.to_thread(in_a_thread, f"{name} to_thread")

    def in_a_thread(name: str) -> None:
        with tracer.start_as_current_span(name):
            pass

    with tracer.start_as_current_span("request"):
        futures = [
            executor.submit(on_the_loop, "submitted"),
            executor.submit(in_a_thread, "thread"),
        ]
        executor.run(on_the_loop("run"))
        executor.gather(on_the_loop("gathered"))
        list(executor.map(on_the_loop, ["mapped"]))
        executor.sync(on_the_loop)("sync")
        for future in futures:
            future.result()

    on_the_loop_names = ["submitted", "run", "gathered", "mapped", "sync"]
    assert family(spans) == {
        "thread": "request",
        **dict.fromkeys(on_the_loop_names, "request"),
        **{f"{name} inner": name for name in on_the_loop_names},
        **{f"{name} to_thread": f"{name} inner" for name in on_the_loop_names},
    }


def test_calls_under_different_spans_do_not_mix(
    executor: AsyncLoopExecutor, tracer: trace.Tracer, spans: InMemorySpanExporter
) -> None:
    async def child(name: str) -> None:
        with tracer.start_as_current_span(name):
            await asyncio.sleep(0)

    futures = []
    for number in range(20):
        with tracer.start_as_current_span(f"request {number}"):
            futures.append(executor.submit(child, f"child {number}"))
    for future in futures:
        future.result()

    assert family(spans) == {f"child {number}": f"request {number}" for number in range(20)}


def test_a_span_held_open_across_the_items_of_a_generator_closes_cleanly(
    executor: AsyncLoopExecutor,
    tracer: trace.Tracer,
    spans: InMemorySpanExporter,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def items() -> AsyncIterator[int]:
        with tracer.start_as_current_span("generator"):
            for number in range(3):
                with tracer.start_as_current_span(f"item {number}"):
                    yield number

    with tracer.start_as_current_span("request"):
        assert list(executor.sync_iter(items())) == [0, 1, 2]

    assert family(spans) == {
        "generator": "request",
        **{f"item {number}": "generator" for number in range(3)},
    }
    # OpenTelemetry logs a failure to detach in another context than it attached in.
    assert caplog.messages == []


def test_baggage_is_seen_inside_and_does_not_leak_out(executor: AsyncLoopExecutor) -> None:
    async def read_and_write() -> object:
        seen = baggage.get_baggage("user")
        attach(baggage.set_baggage("user", "changed inside"))
        return seen

    token = attach(baggage.set_baggage("user", "caller"))
    try:
        assert executor.run(read_and_write()) == "caller"
        assert baggage.get_baggage("user") == "caller"
    finally:
        detach(token)
