"""Where calls stand: chains of awaits, and frames of threads.

Guarantees
    * No code of the user's is called: no value is formatted, and no attribute of a user's class is
      read. What is not known is left out.
    * Nothing here raises because a call ends meanwhile.
    * No frame is kept, since a frame keeps what its locals hold. A `Place` holds only a code object
      and a number.

Assumes
    With the global interpreter lock, any thread may look at the coroutines and frames of another.
    Without it (free-threaded builds), coroutines that are suspended may be looked at on the thread
    of their loop (see `ask`), and frames of another thread while that thread stands still: so they
    are looked at twice (see `Threads`).
"""

from __future__ import annotations

import asyncio
import gc
import linecache
import os
import sys
import threading
import time
from _thread import get_ident
from collections.abc import Callable, Iterable, Iterator
from importlib.machinery import ModuleSpec
from operator import attrgetter
from types import (
    AsyncGeneratorType,
    CodeType,
    CoroutineType,
    FrameType,
    GeneratorType,
    GetSetDescriptorType,
    MemberDescriptorType,
)
from typing import Any, NamedTuple, Protocol, TypeVar

from ._waiting import locked, release, wait_for
from ._words import current_frames, name_of

_T = TypeVar("_T")

# `os.path`, not `pathlib`, whose import would take as long as a fifth of palitra's own.
_OURS = os.path.dirname(__file__) + os.sep  # noqa: PTH120
_ASYNCIO = os.path.dirname(asyncio.__file__) + os.sep  # noqa: PTH120
_STDLIB = os.path.dirname(os.path.dirname(asyncio.__file__)) + os.sep  # noqa: PTH120
_LINKS = 1000  # links of a chain that are followed
_BRANCHES = 3  # branches of a chain that are followed
_DEPTH = 4  # how deep branches of branches are followed
# The folders of the code whose local variables have known meanings.
_KNOWN = (_ASYNCIO, _OURS)
_ANYIO = os.path.join("anyio", "_backends", "_asyncio.py")  # noqa: PTH118
_TURN = asyncio.BaseEventLoop._run_once.__code__  # type: ignore[attr-defined]
_HANDLE = asyncio.Handle._run.__code__
_PATIENCE = 0.5  # seconds for a loop to begin its answer
_STILL = 0.002  # seconds between two looks at a thread
# Awaitables of the interpreter's own that have no attribute for what they wait for. The garbage
# collector can tell what they refer to.
_OPAQUE = {
    "FutureIter",  # of a future
    "anext_awaitable",  # of `anext` with a default
    "async_generator_asend",  # of a step of an async generator
    "async_generator_athrow",
    "coroutine_wrapper",  # of `coroutine.__await__()`
}
# How to get the tasks that an object of a class waits for. Other modules add their classes.
tasks_of: dict[type, Callable[[Any], Iterable[object]]] = {
    asyncio.TaskGroup: lambda group: group._tasks,
}
_FRAMED: dict[type, Callable[[Any], Any]] = {
    CoroutineType: attrgetter("cr_frame", "cr_await"),
    GeneratorType: attrgetter("gi_frame", "gi_yieldfrom"),
    AsyncGeneratorType: attrgetter("ag_frame", "ag_await"),
}


class Place(NamedTuple):
    """Where code stands."""

    code: CodeType
    line: int

    @property
    def is_in_stdlib(self) -> bool:
        """Whether the code is the standard library's."""
        file = self.code.co_filename
        return file.startswith((_STDLIB, "<frozen ")) and "-packages" not in file

    def __str__(self) -> str:
        return f"{self.code.co_filename}:{self.line} in {self.code.co_qualname}"


class Chain(NamedTuple):
    """A chain of awaits, outermost first, without palitra's own code.

    If the end of the chain waits for several tasks, `branches` has the chains of the first of them,
    and `tasks` says how many there are.
    """

    places: list[Place]
    branches: list[Chain]
    tasks: int

    @property
    def line(self) -> list[Place]:
        """The chain, with that of the first task appended if there are several."""
        return self.places + (self.branches[0].line if self.branches else [])

    @property
    def innermost(self) -> Place | None:
        """Where the user's code stands, as far in as there is any."""
        line = self.line
        for place in reversed(line):
            if not place.is_in_stdlib:
                return place
        return line[-1] if line else None


NOWHERE = Chain([], [], 0)


def gil_is_enabled() -> bool:
    """Whether one thread may look at what another one runs."""
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


def place_of(frame: FrameType) -> Place:
    """Where *frame* stands."""
    code = frame.f_code
    spec = frame.f_globals.get("__spec__")
    if type(spec) is ModuleSpec and spec.loader is not None:
        # Have `linecache` find the line later, even if the source is in an archive.
        linecache.lazycache(code.co_filename, frame.f_globals)
    return Place(code, frame.f_lineno or code.co_firstlineno)


# -- threads ----------------------------------------------------------------------------------


class Threads:
    """Where the threads of this process stand, at one moment."""

    def __init__(self) -> None:
        self._found: dict[int, FrameType] | None = None  # filled when first asked for
        self._threads: dict[int, threading.Thread] | None = None

    def _frames(self) -> dict[int, FrameType]:
        """Where all threads but the caller's stand, see `current_frames`."""
        if self._found is None:
            found = current_frames()
            found.pop(get_ident(), None)
            self._found = found if gil_is_enabled() else _those_that_stand_still(found)
        return self._found

    def __iter__(self) -> Iterator[int]:
        return iter([get_ident(), *self._frames()])

    def frames(self, ident: int | None) -> list[FrameType]:
        """The frames of a thread, outermost first; empty if it has ended or is not known."""
        # Not this method's own frame, which would hold itself, and so all the others.
        frame = sys._getframe(1) if ident == get_ident() else self._frames().get(ident or 0)
        frames: list[FrameType] = []
        while frame is not None:
            frames.append(frame)
            frame = frame.f_back
        frames.reverse()
        return frames

    def name(self, ident: int | None) -> str | None:
        """The name of a thread; None if it has ended."""
        thread = self._thread(ident)
        return None if thread is None else thread.name

    def native_id(self, ident: int | None) -> int | None:
        """The system's number of a thread; None if it has ended."""
        thread = self._thread(ident)
        return None if thread is None else thread.native_id

    def _thread(self, ident: int | None) -> threading.Thread | None:
        if self._threads is None:
            self._threads = {thread.ident or 0: thread for thread in threading.enumerate()}
        return self._threads.get(ident or 0)


def _those_that_stand_still(frames: dict[int, FrameType]) -> dict[int, FrameType]:
    before = {ident: (frame, frame.f_lasti) for ident, frame in frames.items()}
    time.sleep(_STILL)
    return {
        ident: frame
        for ident, frame in current_frames().items()
        if before.get(ident) == (frame, frame.f_lasti)
    }


def ask(loop: asyncio.AbstractEventLoop | None, look: Callable[[], _T]) -> _T | None:
    """Call *look* where the chains of *loop* may be followed, and return its result; None: nowhere.

    With the global interpreter lock, that is the caller's thread. Without it, that is the loop's
    thread, if the loop runs; the loop has half a second to begin with *look*.
    """
    if gil_is_enabled() or loop is None or not loop.is_running():
        return look()
    if asyncio._get_running_loop() is loop:
        return look()
    begun, ended = locked(), locked()
    answers: list[_T] = []

    def answer() -> None:
        release(begun)
        try:
            answers.append(look())
        finally:
            release(ended)

    try:
        loop.call_soon_threadsafe(answer)
    except RuntimeError:  # the loop was closed just now
        return look()
    if wait_for(begun, _PATIENCE):
        wait_for(ended, 10 * _PATIENCE)
    return answers[0] if answers else None


# -- a loop's thread ----------------------------------------------------------------------------


class Looped(Protocol):
    """What `where_it_stands` needs to know of a loop."""

    loop: asyncio.AbstractEventLoop | None

    @property
    def ident(self) -> int | None:
        """The thread that runs the loop; None if no thread does."""

    @property
    def base(self) -> CodeType | None:
        """The code that runs the loop, if the loop itself is not written in Python."""


def where_it_stands(host: Looped) -> str:
    """Where the thread of *host*'s loop stands, for a text."""
    if host.ident is None:
        return "gone"
    frames = Threads().frames(host.ident)
    callback = in_callback(frames, host.base)
    if not callback:
        return f"idle, at {place_of(frames[-1])}" if frames else "busy"
    return f"at {chain_of_frames(callback).innermost}"


def in_callback(frames: list[FrameType], base: CodeType | None) -> list[FrameType]:
    """Return those of a loop thread's *frames* that belong to the callback that the loop runs.

    Empty, if the loop runs no callback. asyncio runs each callback in a frame of `Handle._run`,
    which is the first that is returned. A loop that is not written in Python is run by *base*, and
    all frames after that of *base* are the callback's.
    """
    for number in range(len(frames) - 1, -1, -1):
        code = frames[number].f_code
        if code is _HANDLE:
            return frames[number:]
        if code is _TURN or code.co_name == "_run_once":  # nest_asyncio has its own `_run_once`
            return []
        if code is base:
            return frames[number + 1 :]
    return []


def is_of_library(code: CodeType) -> bool:
    """Whether *code* is palitra's or asyncio's."""
    return code.co_filename.startswith(_KNOWN)


def name_of_callback(frames: list[FrameType]) -> str:
    """What a loop runs in these frames, for a text."""
    for frame in frames:
        if not is_of_library(frame.f_code):
            return frame.f_code.co_qualname
    if frames and frames[0].f_code is _HANDLE:
        callback = getattr(variable(frames[0], "self"), "_callback", None)
        if callback is not None:
            return name_of(callback)
    return "a callback"


def variable(frame: FrameType, name: str) -> object:
    """A local variable of a frame of another thread."""
    found = frame.f_locals
    value = found.get(name)
    if sys.version_info < (3, 13):
        found.clear()  # before 3.13 this is a copy, which the frame would keep
    return value


def runs(awaitable: object, frames: list[FrameType]) -> bool:
    """Whether a chain that begins with *awaitable*, or a task that it waits for, is in *frames*."""
    running = set(map(id, frames))
    seen: dict[int, object] = {}
    todo: list[tuple[object, object]] = [(awaitable, None)]
    while todo and len(seen) < _LINKS:
        link, last = todo.pop()
        if link is None or id(link) in seen:
            continue
        seen[id(link)] = link
        frame, following = _link(link)
        if frame is not None and id(frame) in running:
            return True
        last = last if frame is None else link
        if following is not None:
            todo.append((following, last))
        elif issubclass(type(link), asyncio.Future):
            todo += [(task, last) for task in _tasks_waited_for(last, link)]
    return False


# -- chains of awaits ---------------------------------------------------------------------------


def chain_of(awaitable: object, running: list[FrameType], depth: int = 0) -> Chain:
    """The chain of awaits that begins with *awaitable*.

    *running* are the frames of its loop's thread: if the chain is running now, it goes on there. A
    task that is waited for belongs to the chain. If there are several, the chain branches.
    """
    places: list[Place] = []
    seen: dict[int, object] = {}
    last: object = None  # the last link that has a frame
    while awaitable is not None and id(awaitable) not in seen and len(seen) < _LINKS:
        seen[id(awaitable)] = awaitable
        frame, following = _link(awaitable)
        if frame is not None:
            last = awaitable
            if following is None and frame in running:
                places += map(place_of, running[running.index(frame) :])
                break
            places.append(place_of(frame))
        elif following is None and issubclass(type(awaitable), asyncio.Future):
            tasks = _tasks_waited_for(last, awaitable)
            if len(tasks) > 1:
                some = tasks[:_BRANCHES] if depth < _DEPTH else []
                branches = [chain_of(task, running, depth + 1) for task in some]
                return Chain(_users(places), branches, len(tasks))
            following = tasks[0] if tasks else None
        awaitable = following
    return Chain(_users(places), [], 0)


def _users(places: list[Place]) -> list[Place]:
    return [place for place in places if not place.code.co_filename.startswith(_OURS)]


def chain_of_frames(frames: list[FrameType]) -> Chain:
    """The frames of a thread, or some of them, as a chain."""
    if len(frames) > 1 and frames[0].f_code is _HANDLE:
        frames = frames[1:]  # the frame of `Handle._run`, with which all callbacks begin
    return Chain(_users([place_of(frame) for frame in frames]), [], 0)


def of_job(frames: list[FrameType]) -> list[FrameType]:
    """The frames of a worker thread that belong to its job; empty if it runs none."""
    for number, frame in enumerate(frames, 1):
        code = frame.f_code
        if code.co_name == "run_in_worker" and code.co_filename.startswith(_OURS):
            return frames[number:]
    return []


def _link(awaitable: Any) -> tuple[FrameType | None, object]:
    """The frame of *awaitable*, if it has one, and what it waits for, if that is known."""
    kind = type(awaitable)  # not `isinstance`, which would read `__class__` of a user's object
    frame_and_following = _FRAMED.get(kind)
    if frame_and_following is not None:
        found: tuple[FrameType | None, object] = frame_and_following(awaitable)
        return found
    if issubclass(kind, asyncio.Task):
        done = asyncio.Future.done(awaitable)
        return None, None if done else asyncio.Task.get_coro(awaitable)
    if issubclass(kind, asyncio.Future):
        return None, None
    if kind.__name__ in _OPAQUE and kind.__module__ in {"builtins", "_asyncio"}:
        for referent in gc.get_referents(awaitable):
            of = type(referent)
            if of in _FRAMED or issubclass(of, asyncio.Future) or of.__name__ in _OPAQUE:
                return None, referent
    # Some awaitables, such as Cython's coroutines, have no frame, but may tell what they wait for.
    return None, _attribute(kind, "cr_await", awaitable)


def _attribute(kind: type, name: str, instance: object) -> object:
    """The value of an attribute that is defined in C; None if the class has no such attribute."""
    for base in type.__dict__["__mro__"].__get__(kind):
        found = base.__dict__.get(name)
        if isinstance(found, GetSetDescriptorType | MemberDescriptorType):
            try:
                return found.__get__(instance, kind)
            except Exception:
                return None
    return None


def _tasks_waited_for(link: object, future: object) -> list[asyncio.Task[Any]]:
    """The tasks that *link* waits for, if *future* is what wakes *link* when they end.

    The future of `asyncio.gather` knows its tasks. The other functions of asyncio (`wait`, task
    groups) and anyio's task groups have the tasks in their local variables.
    """
    try:
        return _tasks_behind(link, future)
    except (AttributeError, TypeError):  # another version may keep the tasks elsewhere
        return []


def _tasks_behind(link: Any, future: Any) -> list[asyncio.Task[Any]]:
    if issubclass(type(future), asyncio.tasks._GatheringFuture):  # type: ignore[attr-defined]
        return _pending(future._children)
    if type(link) is not CoroutineType:
        return []
    file = link.cr_code.co_filename
    if not file.startswith(_KNOWN) and not file.endswith(_ANYIO):
        return []
    tasks: list[asyncio.Task[Any]] = []
    for local in gc.get_referents(link):
        group = tasks_of.get(type(local))
        if group is not None:
            tasks += _pending(group(local))
        elif type(local) in {set, frozenset, list, tuple}:
            tasks += _pending(local)
        elif issubclass(type(local), asyncio.Task):
            tasks += _pending([local])
        elif type(local).__name__ == "TaskGroup":  # anyio's
            tasks += _pending(local._tasks)
    return list(dict.fromkeys(tasks))


def _pending(futures: Any) -> list[asyncio.Task[Any]]:
    return [
        future
        for future in list(futures)
        if issubclass(type(future), asyncio.Task) and not asyncio.Future.done(future)
    ]
