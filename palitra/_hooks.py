"""What a process does to its loop threads: fork, the end of the main thread, exit.

Importing this module does nothing. The first loop thread that starts calls `watch`, which registers
three hooks, once; they reach the loop threads through weak references, so that they keep
none alive.

    fork                  the child gets fresh, not yet started loop threads
    main thread ends      the calls in flight are finished while threads can still start
    atexit                no new call; every loop is closed and its thread joined

The middle hook is the one that `concurrent.futures.thread` uses. Hooks of that kind run last in,
first out; that module is imported here so that it registers first and its worker threads (those of
`asyncio.to_thread`) still work while ours waits.
"""

from __future__ import annotations

import asyncio.events
import atexit
import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable

# Imports the module, which registers its exit hook before ours, see above.
from concurrent.futures.thread import _threads_queues
from typing import Protocol, TypeVar

_T = TypeVar("_T")

LOGGER = logging.getLogger("palitra")
PATIENCE = 5.0  # seconds of waiting at exit before a log line says what for
_ATTEMPTS = 100  # at starting afresh in a forked child; each can be interrupted by a signal


class Watched(Protocol):
    """What the hooks need of a loop thread."""

    @property
    def ends_with_main_thread(self) -> bool: ...
    def after_fork_in_child(self) -> None: ...
    def wait_for_calls(self, timeout: float | None) -> bool: ...
    def begin_exit(self) -> None: ...
    def join(self, timeout: float | None) -> bool: ...
    def cancel_everything(self) -> None: ...
    def waited_for(self) -> str: ...


class Forked(Protocol):
    """What the fork hook needs of anything else that must start afresh in a child."""

    def after_fork_in_child(self) -> None: ...


class _Process:
    """This process's hooks and the objects that they look after."""

    def __init__(self) -> None:
        # By id. Not in WeakSets: one cannot be listed while another thread adds to it.
        self.loop_threads: weakref.WeakValueDictionary[int, Watched] = weakref.WeakValueDictionary()
        self.others: weakref.WeakValueDictionary[int, Forked] = weakref.WeakValueDictionary()
        self.fork_hook = False
        self.thread_hook = False
        self.atexit_hook = False
        self.exiting = False
        self.hurried = False  # by Ctrl-C, twice: nothing is waited for any more
        self.pid: int | None = None  # where the fork hook has run, or been registered


_process = _Process()


def watch(loop_thread: Watched) -> bool:
    """Look after *loop_thread*; False when the process is too far into its exit to start it.

    Thread-safe without a lock: registering a hook twice is harmless, because each hook does
    nothing the second time. So it is registered first, and said to be afterwards.
    """
    # First, so that an exit that comes meanwhile sees it, or is seen below.
    _process.loop_threads[id(loop_thread)] = loop_thread
    _register_fork_hook()
    if not _process.thread_hook:
        try:
            threading._register_atexit(_main_thread_ends)  # type: ignore[attr-defined]
        except AttributeError:
            pass  # no such hook here: atexit does it all
        except RuntimeError:  # the main thread has ended
            if threading.current_thread() is threading.main_thread():
                return False  # it runs atexit handlers, and takes no more of them
        _process.thread_hook = True
    if not _process.atexit_hook:
        if not _at_exit_is_registered():
            atexit.register(_at_exit)
        _process.atexit_hook = True
    return not _process.exiting


class _Sought:
    """Equal to no handler of atexit, it sees whether ours is among them."""

    found = False

    def __eq__(self, handler: object) -> bool:
        self.found |= handler is _at_exit
        return False

    __hash__ = None  # type: ignore[assignment]


def _at_exit_is_registered() -> bool:
    # A forked child may have inherited it, or not; and only in its old place do the handlers that
    # were registered later come before it.
    sought = _Sought()
    atexit.unregister(sought)  # type: ignore[arg-type]  # compares it with each
    return sought.found


def restart_after_fork(other: Forked) -> None:
    """Call ``other.after_fork_in_child()`` in each forked child, as long as *other* lives."""
    _process.others[id(other)] = other
    _register_fork_hook()


def _living(objects: weakref.WeakValueDictionary[int, _T]) -> list[_T]:
    return [living for ref in objects.valuerefs() if (living := ref()) is not None]


def _register_fork_hook() -> None:
    if not _process.fork_hook:
        if hasattr(os, "register_at_fork"):
            _process.pid = os.getpid()
            # Twice: Ctrl-C may come before the first line of the first.
            os.register_at_fork(after_in_child=_forked)
            os.register_at_fork(after_in_child=_forked)
        # Not before: another thread may fork meanwhile, and its child must register it too.
        _process.fork_hook = True


def _forked() -> None:
    """In a forked child: start afresh, whatever a signal handler raises meanwhile."""
    interruption = None
    for _ in range(_ATTEMPTS):
        try:
            if _process.pid != os.getpid():
                _start_afresh()
                _process.pid = os.getpid()
            break
        except BaseException as exc:
            interruption = exc
    if interruption is not None:
        raise interruption  # for the interpreter to print


def _start_afresh() -> None:
    # Another thread may have held it, inside asyncio.new_event_loop, and is not here.
    asyncio.events._lock = threading.Lock()  # type: ignore[attr-defined]
    # multiprocessing empties the atexit table of its children, so that the hook must be
    # registered again there; a fork from inside an exit does not make the child exit.
    _process.atexit_hook = False
    _process.exiting = _process.hurried = False
    for other in (*_living(_process.others), *_living(_process.loop_threads)):
        other.after_fork_in_child()


def _main_thread_ends() -> None:
    """Finish the calls in flight, not those that other threads still make afterwards."""
    loop_threads = _living(_process.loop_threads)
    _wait(loop_threads, [lt.wait_for_calls for lt in loop_threads])
    if not _atexit_is_skipped():
        _finish([lt for lt in loop_threads if lt.ends_with_main_thread])
    elif any(map(_goes_on, threading.enumerate())):
        # Not here: they may wait for what other hooks are about to do.
        threading.Thread(target=_at_exit_of_others, name="palitra_exit").start()
    else:
        _at_exit()


def _goes_on(thread: threading.Thread) -> bool:
    """Whether a process that ends waits for *thread*, which no hook ends."""
    own = threading.current_thread(), threading.main_thread()
    return not (thread.daemon or thread in own or thread in _threads_queues)


def _at_exit_of_others() -> None:
    """Do what is done at exit, once the other threads have ended."""
    while others := [*filter(_goes_on, threading.enumerate())]:
        others[0].join()
    _at_exit()


def _atexit_is_skipped() -> bool:
    """Whether this is a multiprocessing child that ends without atexit (forked, before 3.13)."""
    process = sys.modules.get("multiprocessing.process")
    return (
        sys.version_info < (3, 13)
        and process is not None
        and process.parent_process() is not None
        and "--multiprocessing-fork" not in sys.orig_argv  # a spawned child runs atexit
    )


def _at_exit() -> None:
    _process.exiting = True
    if sys.is_finalizing():
        return  # a subinterpreter that outlives the main one: its threads no longer run
    _finish(_living(_process.loop_threads))


def _finish(loop_threads: list[Watched]) -> None:
    def begin(_: object) -> bool:
        for loop_thread in loop_threads:
            loop_thread.begin_exit()
        return True

    _wait(loop_threads, [begin, *(lt.join for lt in loop_threads)])


def _wait(loop_threads: list[Watched], waits: list[Callable[[float | None], bool]]) -> None:
    """Wait, one after another; a log line after a while, and Ctrl-C cancels what is waited for.

    A second Ctrl-C ends this waiting and all that would follow. Neither is raised, nor what other
    signal handlers raise: an exception here would only be printed by the interpreter, which is
    ending anyway, and would keep the other hooks from running.
    """
    deadline = time.monotonic() + PATIENCE
    logged = interrupted = cancelled = False
    patience: float | None
    while waits:
        try:
            if interrupted and not cancelled:
                cancelled = True  # first: what interrupts this ends the waiting, see below
                for loop_thread in loop_threads:
                    loop_thread.cancel_everything()
            if _process.hurried:
                patience = 0.0
            else:
                patience = None if logged else max(0.0, deadline - time.monotonic())
            if waits[0](patience):
                del waits[0]
            elif _process.hurried:
                return
            elif not logged:
                logged = True
                names = ", ".join(filter(None, (lt.waited_for() for lt in loop_threads)))
                LOGGER.warning("waiting at exit for %s (Ctrl-C cancels)", names or "clean-up")
        except BaseException:
            if _process.hurried:
                return
            _process.hurried = interrupted
            interrupted = True
