"""The rows of the table: what is measured, on which systems, and what is to be reached.

A row has entries. Each entry is measured alone, in a process of its own, and gives one sample.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from . import http_workload
from .heaps import heaps
from .processes import resident_memory, unpin
from .systems import (
    FLOORS,
    ON_UVLOOP,
    SYSTEMS,
    Body,
    Calls,
    Floor,
    FloorEventfd,
    Gathers,
    Iterates,
    Maps,
    Outcome,
    Palitra,
    PalitraPrefetching,
    RunCoroutineThreadsafe,
    RunsPlain,
    Submits,
    System,
)
from .targets import AtMost, Flat, Ratio, Target

RCT = "run_coroutine_threadsafe"


@dataclass(frozen=True)
class Sample:
    """What one process measured, in the row's unit."""

    value: float
    # The same by the processor's clock, where the value is a time. What else a busy machine runs
    # stretches it less.
    cpu: float | None = None
    more: Mapping[str, float] = field(default_factory=dict)


Entry = Callable[[], Sample]


@dataclass(frozen=True)
class Row:
    """One row: its entries are compared with each other."""

    title: str
    unit: str
    entries: Mapping[str, Entry]
    baseline: str
    targets: tuple[Target, ...] = ()
    rounds: int = 15
    # Further figures of the samples, and their units; whether the chart shows them too.
    more: Mapping[str, str] = field(default_factory=dict)
    more_in_chart: bool = True


def rows(*, quick: bool = False, uvloop: bool = False) -> dict[str, Row]:
    """All rows by name. ``quick`` does a tenth of the work: enough to see that everything runs."""
    count = 1_000 if quick else 10_000
    known = SYSTEMS + (ON_UVLOOP if uvloop else ())

    def on(
        needs: type,
        measure: Callable[[Any], Sample],
        without: tuple[type[System], ...] = (),
    ) -> dict[str, Entry]:
        """An entry for each system that can do what the row needs."""
        return {
            system.name: partial(_with_system, system, measure)
            for system in known
            if issubclass(system, needs) and system not in without
        }

    return {
        "run": Row(
            title="One blocking call of a trivial coroutine",
            unit="µs",
            entries=on(Calls, partial(_run, calls=count // 20)),
            baseline=RCT,
            targets=(Ratio("palitra", RCT, 0.35), Ratio("palitra", "bare epoll and lock", 1.0)),
        ),
        "handoff": Row(
            title="One blocking call, timed one by one, and the ways of waiting below it",
            unit="µs in the mean",
            entries=_handoff_entries(known, calls=count // 2),
            baseline=RCT,
            targets=(
                Ratio("palitra", RCT, 0.35),
                Ratio("palitra, not pinned", f"{RCT}, not pinned", 0.40),
                Ratio("palitra: median call", f"{RCT}: median call", 0.35),
            ),
            more={
                "processor time": "µs",
                "median call": "µs",
                "lower heap": "µs",
                "upper heap": "µs",
                "in upper heap": "%",
            },
            more_in_chart=False,
        ),
        "submit": Row(
            title=f"{count:,} calls submitted, then all results",
            unit="µs per call",
            entries=on(Submits, partial(_submit, body=_trivial, calls=count)),
            baseline=RCT,
            targets=(Ratio("palitra", RCT, 0.24),),
        ),
        "suspend": Row(
            title=f"{count:,} calls that suspend once, then all results",
            unit="µs per call",
            entries=on(Submits, partial(_submit, body=_suspending, calls=count)),
            baseline=RCT,
            targets=(Ratio("palitra", RCT, 0.24),),
        ),
        "map": Row(
            title=f"map over {count:,} items",
            unit="µs per item",
            entries=on(Maps, partial(_map, items=count)),
            baseline=RCT,
            targets=(Ratio("palitra", RCT, 0.26),),
        ),
        "gather": Row(
            title=f"gather of {count:,}",
            unit="µs per call",
            entries=on(Gathers, partial(_gather, calls=count)),
            baseline="asyncio.gather in the loop",
            targets=(Ratio("palitra", "asyncio.gather in the loop", 0.36),),
        ),
        "threads": Row(
            title="8 threads, each making blocking calls",
            unit="µs per call",
            # The bare hand-off has one lock, for one caller.
            entries=on(
                Calls,
                partial(_threads, number=8, calls=count // 100),
                without=(Floor, FloorEventfd),
            ),
            baseline=RCT,
            targets=(Ratio("palitra", RCT, 0.42),),
        ),
        "callers": Row(
            title="1 to 8 threads, each making blocking calls, on all cores",
            unit="µs per call",
            entries={
                f"{system.name}, {number}": partial(
                    _with_system,
                    system,
                    partial(_threads, number=number, calls=count // 100),
                    pinned=False,
                )
                for system in (Palitra, RunCoroutineThreadsafe)
                for number in (1, 2, 4, 8)
            },
            baseline=f"{RCT}, 1",
        ),
        "plain": Row(
            title=f"{count:,} plain functions called in worker threads",
            unit="µs per call",
            entries=on(RunsPlain, partial(_plain, calls=count)),
            baseline="ThreadPoolExecutor",
            targets=(Ratio("palitra", "ThreadPoolExecutor", 1.0),),
        ),
        "memory": Row(
            title=f"Resident memory of {5 * count:,} suspended calls",
            unit="bytes per call",
            entries=on(Submits, partial(_memory, calls=5 * count)),
            baseline=RCT,
            targets=(Ratio("palitra", RCT, 0.45),),
            rounds=5,
        ),
        "scale": _scale_row((1_000, 10_000, 100_000) + (() if quick else (1_000_000,))),
        "import": Row(
            title="Import in a fresh interpreter",
            unit="ms",
            entries={name: partial(_import, modules) for name, modules in _IMPORTS.items()},
            baseline="asyncio, concurrent.futures.thread",
            targets=(Ratio("palitra", "asyncio, concurrent.futures.thread", 1.10),),
        ),
        "iterate": Row(
            title=f"An asynchronous iterator of {count:,} items, read from outside the loop",
            unit="µs per item",
            entries={
                "palitra, one run per item": partial(
                    _with_system, Palitra, partial(_run, calls=count // 20)
                ),
                PalitraPrefetching.name: partial(
                    _with_system, PalitraPrefetching, partial(_iterate, items=count)
                ),
                **on(Iterates, partial(_iterate, items=count)),
            },
            baseline="palitra, one run per item",
            targets=(
                Ratio("palitra", "palitra, one run per item", 1.30),
                Ratio(PalitraPrefetching.name, "palitra, one run per item", 1 / 3),
            ),
        ),
        "fairness": Row(
            title=f"Latest tick of a 10 ms timer during a burst of {10 * count:,} calls",
            unit="ms",
            entries=on(Submits, partial(_fairness, calls=10 * count)),
            baseline=RCT,
            targets=(AtMost("palitra", 30, "ms"),),
            rounds=5,
        ),
        "http": Row(
            title=f"{count // 5:,} HTTP requests to a server that takes 20 ms for each",
            unit="s",
            entries={
                name: partial(_http, client, count // 5)
                for name, client in http_workload.CLIENTS.items()
            },
            baseline=http_workload.BASELINE,
            rounds=5,
            more={"peak memory": "MiB", "threads": "threads"},
        ),
    }


async def _trivial(item: object = None) -> object:
    return item


async def _suspending(item: object = None) -> object:
    await asyncio.sleep(0)
    return item


def _handoff_entries(known: Iterable[type[System]], *, calls: int) -> dict[str, Entry]:
    """palitra, the standard library's wire and the bare hand-offs; on one core, and on all."""
    measure = partial(_one_by_one, calls=calls)
    systems = [s for s in known if issubclass(s, Palitra | RunCoroutineThreadsafe)] + list(FLOORS)
    return {
        f"{system.name}{'' if pinned else ', not pinned'}": partial(
            _with_system, system, measure, pinned=pinned
        )
        for pinned in (True, False)
        for system in systems
    }


def _with_system(
    system: type[System], measure: Callable[[Any], Sample], *, pinned: bool = True
) -> Sample:
    if not pinned:
        unpin()
    with system() as entered:
        return measure(entered)


def _per_call(work: Callable[[int], object], calls: int, *, at_least: float = 0.3) -> Sample:
    """Microseconds per call: the median of as many repetitions as fit, after a short warm-up."""
    work(min(calls, 500))
    by_clock: list[float] = []
    by_cpu: list[float] = []
    while sum(by_clock) < at_least:
        clock, cpu = time.perf_counter(), time.process_time()
        work(calls)
        by_clock.append(time.perf_counter() - clock)
        by_cpu.append(time.process_time() - cpu)
    scale = 1e6 / calls
    return Sample(statistics.median(by_clock) * scale, statistics.median(by_cpu) * scale)


def _exhaust(items: Iterable[object]) -> None:
    for _ in items:
        pass


def _run(system: Calls, *, calls: int) -> Sample:
    call = system.caller(_trivial)

    def work(count: int) -> None:
        for _ in range(count):
            call()

    return _per_call(work, calls)


def _one_by_one(system: Calls, *, calls: int) -> Sample:
    call = system.caller(_trivial)
    for _ in range(500):
        call()
    clock = time.perf_counter
    durations: list[float] = []
    began, cpu = clock(), time.process_time()
    for _ in range(calls):
        start = clock()
        call()
        durations.append(clock() - start)
    scale = 1e6 / calls
    mean, cpu = (clock() - began) * scale, (time.process_time() - cpu) * scale
    divided = heaps(durations)
    more = {
        "processor time": cpu,
        "median call": statistics.median(durations) * 1e6,
        "lower heap": divided.lower * 1e6,
        "upper heap": divided.upper * 1e6,
        "in upper heap": divided.share_of_upper * 100,
    }
    return Sample(mean, cpu, more)


def _submit(system: Submits, *, body: Body, calls: int) -> Sample:
    return _per_call(partial(_submit_and_wait, system.submitter(body)), calls)


def _plain(system: RunsPlain, *, calls: int) -> Sample:
    return _per_call(partial(_submit_and_wait, system.plain_submitter(int)), calls)


def _submit_and_wait(submit: Callable[[], Outcome], count: int) -> None:
    outcomes = [submit() for _ in range(count)]
    for outcome in outcomes:
        outcome.result()


def _map(system: Maps, *, items: int) -> Sample:
    map_ = system.mapper(_trivial)
    return _per_call(lambda count: _exhaust(map_(range(count))), items)


def _gather(system: Gathers, *, calls: int) -> Sample:
    return _per_call(system.gatherer(_trivial), calls)


def _threads(system: Calls, *, number: int, calls: int) -> Sample:
    """Eight times *calls*, shared by *number* threads."""
    call = system.caller(_trivial)

    def calling(start: threading.Barrier, count: int) -> None:
        start.wait()
        for _ in range(count):
            call()

    def work(count: int) -> None:
        start = threading.Barrier(number)
        threads = [
            threading.Thread(target=calling, args=(start, count // number)) for _ in range(number)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return _per_call(work, 8 * calls)


def _memory(system: Submits, *, calls: int) -> Sample:
    suspended = threading.Event()
    entered = 0

    async def until_opened(gate: asyncio.Event) -> None:
        nonlocal entered
        entered += 1
        if entered == calls:
            suspended.set()
        await gate.wait()

    async def make_gate() -> asyncio.Event:
        return asyncio.Event()

    async def open_gate(gate: asyncio.Event) -> None:
        gate.set()

    gate = system.submitter(make_gate)().result()
    submit = system.submitter(until_opened)
    before = resident_memory()
    outcomes = [submit(gate) for _ in range(calls)]
    suspended.wait()
    after = resident_memory()
    system.submitter(open_gate)(gate).result()
    for outcome in outcomes:
        outcome.result()
    return Sample((after - before) / calls)


def _scale_row(sizes: tuple[int, ...]) -> Row:
    def entries(system: type[System], sizes: tuple[int, ...]) -> dict[str, Entry]:
        return {
            f"{system.name}, {size:,}": partial(
                _with_system, system, partial(_submit, body=_trivial, calls=size)
            )
            for size in sizes
        }

    return Row(
        title=f"Cost of a call among {sizes[0]:,} to {sizes[-1]:,} submitted at once",
        unit="µs per call",
        # The other's million would take longer than all the rest of this row.
        entries={**entries(Palitra, sizes), **entries(RunCoroutineThreadsafe, sizes[:3])},
        baseline=f"palitra, {sizes[0]:,}",
        targets=(Flat(tuple(f"palitra, {size:,}" for size in sizes), 1.10),),
        rounds=5,
    )


_IMPORTS = {
    "asyncio, concurrent.futures.thread": "asyncio, concurrent.futures.thread",
    "palitra": "palitra",
    "anyio portal": "anyio.from_thread",
    "asgiref": "asgiref.sync",
    "asyncio-thread-runner": "asyncio_thread_runner",
    "unsync": "unsync",
    "fsspec": "fsspec.asyn",
    "synchronicity": "synchronicity",
}


def _import(modules: str) -> Sample:
    program = (
        "import time; clock, cpu = time.perf_counter(), time.process_time()\n"
        f"import {modules}\n"
        "print(time.perf_counter() - clock, time.process_time() - cpu)"
    )
    measured = [
        [float(word) * 1e3 for word in _output_of(program).split()]
        # The first run may have to write the byte code.
        for _ in range(6)
    ][1:]
    clock, cpu = (statistics.median(column) for column in zip(*measured, strict=True))
    return Sample(clock, cpu)


def _output_of(program: str) -> str:
    # An installed package has its byte code beside it, whatever this environment wants written.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", program]
    return subprocess.run(
        command, check=True, text=True, stdout=subprocess.PIPE, env=environment
    ).stdout


def _iterate(system: Iterates, *, items: int) -> Sample:
    def work(count: int) -> None:
        async def produce() -> AsyncIterator[int]:
            for item in range(count):
                yield item

        _exhaust(system.iterable(produce))

    return _per_call(work, items)


def _fairness(system: Submits, *, calls: int) -> Sample:
    interval = 0.01
    ticking = threading.Event()
    latest = 0.0
    burst_over = False

    async def tick() -> None:
        nonlocal latest
        loop = asyncio.get_running_loop()
        while not burst_over:
            due = loop.time() + interval
            await asyncio.sleep(interval)
            latest = max(latest, loop.time() - due)
            ticking.set()

    ticker = system.submitter(tick)()
    ticking.wait()
    _submit_and_wait(system.submitter(_trivial), calls)
    burst_over = True
    ticker.result()
    return Sample(latest * 1e3)


def _http(client: Callable[[str, int], Any], requests: int) -> Sample:
    cost = http_workload.measure(client, requests)
    return Sample(
        cost.seconds,
        cost.cpu_seconds,
        more={"peak memory": cost.peak_memory / 2**20, "threads": cost.threads},
    )
