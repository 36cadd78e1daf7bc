"""What is in flight: the records of `calls`, and the text of `dump`, for people.

Nothing here runs unless somebody asks. A report shows what was true a moment ago: calls start and
end meanwhile, and none of them waits for the report.
"""

from __future__ import annotations

import functools
import inspect
import linecache
import os
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from types import BuiltinFunctionType, CoroutineType, FunctionType, MethodType
from typing import TYPE_CHECKING, TextIO

from . import _hooks
from ._calls import BlockingCall, Call, Kind, Progress, chains
from ._futures import FutureCall
from ._records import CallInfo
from ._service import Service
from ._stacks import (
    NOWHERE,
    Chain,
    Place,
    Threads,
    chain_of_frames,
    in_callback,
    name_of_callback,
    runs,
    variable,
)
from ._waiting import clock
from ._words import name_of

if TYPE_CHECKING:
    from types import FrameType

_SHOWN = 20  # calls, and waiting threads, of an executor that a dump shows one by one
_KINDS = 5  # names of the others that it counts one by one
_FRAMES = 40  # frames of a chain that are shown, half of them from each end


def calls(service: Service) -> list[CallInfo]:
    """Return a record of each call in flight, oldest first."""
    seen = in_flight(service)
    threads = Threads()
    return [
        CallInfo(
            one.name,
            one.kind,
            one.progress,
            one.age,
            threads.name(one.ident),
            traceback.StackSummary.from_list([_summary(place) for place in one.chain.line]),
        )
        for one in seen
    ]


def _summary(place: Place) -> traceback.FrameSummary:
    code = place.code
    # The line itself is read when somebody asks for it.
    return traceback.FrameSummary(code.co_filename, place.line, code.co_name, lookup_line=False)


@dataclass(slots=True)
class Seen:
    """A call as it was seen at one moment."""

    call: Call
    name: str
    kind: Kind
    progress: Progress
    age: float
    ident: int | None  # the thread's
    chain: Chain

    def __str__(self) -> str:
        return f"{self.name} ({self.kind}, {self.progress} for {in_seconds(self.age)})"


def in_flight(service: Service, shown: int | None = None) -> list[Seen]:
    """Return all calls in flight, oldest first, with the chains of the first *shown* of them."""
    now = clock()
    found = []
    for call in dict.fromkeys(service.calls.snapshot()):
        if call.in_flight:
            progress = call.progress
            ident = call._worker or (None if progress == "waiting" else service.host.ident)
            age = max(0.0, now - call.accepted)
            found.append(Seen(call, call.name, call.kind, progress, age, ident, NOWHERE))
    some = found[:shown]
    for one, chain in zip(some, chains([one.call for one in some], service.host), strict=True):
        one.chain = chain
    return found


# -- the text -----------------------------------------------------------------------------------


def dump(file: TextIO | None, first: Service | None) -> None:
    """Write what all executors of this process do, *first* before the others."""
    if file is None:
        file = sys.stderr
        if file is None:  # a process without any
            return
    text = "".join(f"{line}\n" for line in _all(first))
    try:
        file.write(text)
        file.flush()
    except UnicodeEncodeError:
        encoding = getattr(file, "encoding", None) or "ascii"
        file.write(text.encode(encoding, "backslashreplace").decode(encoding))
    except RuntimeError:
        # The caller is a signal handler that has interrupted a write to the same file.
        if file is not sys.stderr:
            raise
        os.write(2, text.encode(errors="backslashreplace"))


def _all(first: Service | None) -> Iterator[str]:
    _hooks.check_process()
    services = [one for one in _hooks.services() if isinstance(one, Service)]
    services.sort(key=lambda service: service is not first)
    executors = "1 executor" if len(services) == 1 else f"{len(services)} executors"
    yield f"palitra in process {os.getpid()}: {executors}"
    for service in services:
        yield ""
        yield from _about(service, is_default=service is first)
    threads = [*_waiting_threads()]
    if threads:
        yield ""
        yield "Threads that wait:"
        yield from _cut(threads, "threads")


def _about(service: Service, *, is_default: bool) -> Iterator[str]:
    seen = in_flight(service, _SHOWN)
    which = ", the default executor" if is_default else ""
    yield f"{service.name_prefix}{which}: {service.state.value}"
    if service.ending.cause is not None:
        yield f"  because of {type(service.ending.cause).__name__}"
    if service.ending.over.passed and not seen:
        return
    yield from _about_loop(service)
    yield from _about_workers(service, seen)
    contexts = [
        name_of(leave).removeprefix("the closing of ")
        for leave in list(service.ending.contexts.entered)
    ]
    if contexts:
        yield f"  contexts entered: {', '.join(_cut_names(contexts))}"
    if not seen:
        yield "  no calls in flight"
        return
    yield f"  {_count(len(seen), 'call')} in flight, oldest first:"
    for one in seen[:_SHOWN]:
        yield f"    {one}{_what_for(service, one)}"
        yield from about_chain(one.chain, "      ")
    others = seen[_SHOWN:]
    if others:
        names = Counter(one.name for one in others)
        most = [f"{number} of {name}" for name, number in names.most_common(_KINDS)]
        rest = len(others) - sum(number for _, number in names.most_common(_KINDS))
        yield f"    and {len(others)} more: {', '.join(most)}{f', {rest} others' if rest else ''}"


def _about_loop(service: Service) -> Iterator[str]:
    host = service.host
    ident = host.ident
    if ident is None:
        yield "  loop: does not run"
        return
    threads = Threads()
    thread = f"thread {threads.name(ident)}"
    frames = threads.frames(ident)
    if not frames:
        seen = holder(service, [])
        yield f"  loop: in {thread}, busy{'' if seen is None else f' with {seen.name}'}"
        return
    callback = in_callback(frames, host.base)
    if not callback:
        yield f"  loop: in {thread}, idle"
        return
    watch = service.watch
    held = None if watch is None else watch.held_for()
    since = "" if held is None else f", held for {in_seconds(held)}"
    seen = holder(service, callback)
    name = name_of_callback(callback) if seen is None else seen.name
    yield f"  loop: in {thread}, busy with {name}{since}"
    yield from about_chain(chain_of_frames(callback), "    ")


def holder(service: Service, callback: list[FrameType]) -> Seen | None:
    """Return the call that holds the loop, whose thread is in the frames *callback*.

    None, if no call is known to hold the loop.
    """
    seen = in_flight(service, 0)
    for one in seen:
        if callback and runs(one.call.stands_in, callback):
            return one
    for one in seen:  # if the frames are not known
        coro = one.call.stands_in
        if not callback and type(coro) is CoroutineType and coro.cr_running:
            return one
    return None


def _about_workers(service: Service, seen: list[Seen]) -> Iterator[str]:
    threads = [thread for thread in list(service.workers.threads) if thread.is_alive()]
    if not threads:
        return
    busy = {one.ident: one.name for one in seen if one.call._worker}
    runs = [f"{each.name} runs {busy[each.ident]}" for each in threads if each.ident in busy]
    idle = len(threads) - len(runs)
    if idle:
        runs.append(f"{idle} idle")
    limit = service.workers.max_threads
    yield f"  worker threads: {len(threads)} of {limit}: {', '.join(_cut_names(runs))}"


def _is_plain(fn: object) -> bool:
    """Whether this is a plain function, as far as its class tells."""
    while isinstance(fn, functools.partial | MethodType):
        fn = fn.func if isinstance(fn, functools.partial) else fn.__func__
    if type(fn) is FunctionType:
        return not fn.__code__.co_flags & (inspect.CO_COROUTINE | inspect.CO_ITERABLE_COROUTINE)
    return type(fn) in {type, BuiltinFunctionType}


def _what_for(service: Service, one: Seen) -> str:
    """What a call waits for."""
    if one.progress != "waiting":
        return ""
    if _is_plain(one.call._target):
        return ": for a worker thread"
    slots = service.slots
    if slots is not None and slots.full and one.kind == "submit":
        return f": for one of {slots.limit} slots (max_workers)"
    return ": for the loop"


def about_chain(chain: Chain, indent: str) -> Iterator[str]:
    """A chain for people, one place on each line."""
    places = chain.places
    if len(places) > _FRAMES:
        half = _FRAMES // 2
        yield from _about_places(places[:half], indent)
        yield f"{indent}... {len(places) - 2 * half} frames ..."
        places = places[-half:]
    yield from _about_places(places, indent)
    for number, branch in enumerate(chain.branches, 1):
        yield f"{indent}task {number} of {chain.tasks} that are waited for:"
        yield from about_chain(branch, f"{indent}  ")
    if chain.tasks > len(chain.branches):
        yield f"{indent}and {_count(chain.tasks - len(chain.branches), 'task')} more"


def _about_places(places: list[Place], indent: str) -> Iterator[str]:
    for place in places:
        line = linecache.getline(place.code.co_filename, place.line).strip()
        yield f"{indent}{_in_short(place)}{f': {line}' if line else ''}"


def _short(file: str) -> str:
    """Shorten a path: from the current directory, or from the folder that modules come from."""
    for folder in (_cwd(), *sorted(map(str, sys.path), key=len, reverse=True)):
        if folder and file.startswith(folder + os.sep):
            return file[len(folder) + 1 :]
    return file


def _cwd() -> str:
    try:
        return os.getcwd()  # noqa: PTH109  (see `_stacks`)
    except OSError:  # the directory was removed
        return ""


def _waiting_threads() -> Iterator[str]:
    threads = Threads()
    for ident in threads:
        frames = threads.frames(ident)
        for number, frame in enumerate(frames):
            what_for = _waits_for(frame) if frame.f_code in _WAITS else None
            if what_for is not None:
                place = chain_of_frames(frames[:number]).innermost
                yield f"  {threads.name(ident)} waits for {what_for}{_at(place)}"
                break


_WAITS = {
    BlockingCall.wait.__code__,
    FutureCall.wait_until_settled.__code__,
    Service.join.__code__,
}


def _waits_for(frame: FrameType) -> str | None:
    what, began = variable(frame, "self"), variable(frame, "began")
    if isinstance(what, Service):
        return f"the end of {what.name_prefix}"
    if not isinstance(what, Call):
        return None  # the wait is over
    waited = clock() - (began if isinstance(began, float) else what.accepted)
    return f"{what.name} ({what.kind}) for {in_seconds(waited)}"


def _at(place: Place | None) -> str:
    return "" if place is None else f", at {_in_short(place)}"


def _in_short(place: Place) -> str:
    return f"{_short(place.code.co_filename)}:{place.line} in {place.code.co_qualname}"


def _cut(lines: list[str], what: str) -> Iterator[str]:
    yield from lines[:_SHOWN]
    if len(lines) > _SHOWN:
        yield f"  and {len(lines) - _SHOWN} {what} more"


def _cut_names(names: list[str]) -> list[str]:
    return names if len(names) <= _SHOWN else [*names[:_SHOWN], f"{len(names) - _SHOWN} more"]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def in_seconds(seconds: float) -> str:
    """A length of time, for people."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
