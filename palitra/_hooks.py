"""What a process does to its services: fork, the end of the main thread, exit.

Importing this module does nothing. The first service that starts calls `watch`, which registers
three hooks, once; they reach the services through weak references, so that they keep none alive.

    fork                  the child gets fresh, not yet started services
    main thread ends      the calls in flight are finished while threads can still start
    atexit                no new call; every loop is closed and its thread joined

The middle hook is the one that `concurrent.futures` uses for its pools. Hooks of that kind run last
in, first out, and ours runs before theirs (see `outlast_no_pool`): so pools work as long as a call
does that uses one.

A fork that runs none of Python's hooks (uWSGI's, a C library's) is noticed where a call is handed
over or a wait begins: the number of the process is another one.
"""

from __future__ import annotations

import asyncio.events
import atexit
import contextlib
import logging
import os
import sys
import threading
import weakref
from collections.abc import Callable, Collection
from typing import Any, Protocol, TypeVar

from ._waiting import Deadline, Moment, Permission

_T = TypeVar("_T")

LOGGER = logging.getLogger("palitra")
PATIENCE = 5.0  # seconds of waiting at exit before a log line says what for
_GRACE = 1.0  # seconds for the clean-up of what a limit has cancelled
_STEP = 0.05  # seconds that each of those who are waited for is waited for in turn
_WIPE_ON_FORK = 18  # Linux's MADV_WIPEONFORK, which `mmap` does not name
_ATTEMPTS = 100  # at starting afresh in a forked child; each can be interrupted by a signal


class Ends(Protocol):
    """What the hooks need of a service's end: see `_ending`."""

    contexts_left: Moment

    def wait_for_calls(self, seconds: float) -> bool: ...
    def leave_contexts(self, after: Collection[threading.Thread] = ()) -> None: ...
    def begin_exit(self) -> None: ...
    def cancel_everything(self) -> None: ...
    def waited_for(self) -> str: ...
    def abandon_at_exit(self, *, goes_on: bool = False) -> str: ...


class Watched(Protocol):
    """What the hooks need of a service."""

    @property
    def exit_limit(self) -> float | None: ...
    @property
    def ending(self) -> Ends: ...
    @property
    def ends_with_main_thread(self) -> bool: ...
    def after_fork_in_child(self) -> None: ...
    def wait_for_end(self, deadline: Deadline) -> bool: ...


class Mark(Protocol):
    """A sequence of numbers, as far as it matters here."""

    def __getitem__(self, index: int, /) -> int: ...


class _Process:
    """This process's hooks and the objects that they look after."""

    def __init__(self) -> None:
        # By id. Not in WeakSets: one cannot be listed while another thread adds to it.
        self.services: weakref.WeakValueDictionary[int, Watched] = weakref.WeakValueDictionary()
        # The threads that have made a call.
        self.callers: weakref.WeakValueDictionary[int, threading.Thread]
        self.callers = weakref.WeakValueDictionary()
        self.fork_hook = False
        self.thread_hook = False
        self.atexit_hook = False
        self.exiting = False
        self.interrupted = False  # by Ctrl-C, in one of the hooks that wait
        self.hurried = False  # and once more: nothing is waited for any more
        self.waited = 0.0  # seconds, since the main thread has ended
        self.left: list[str] = []  # what was left behind
        self.pid: int | None = None  # where the fork hook has run, or palitra was first used


class _Known(threading.local):
    """Whether a thread has made a call, and is looked after."""

    caller = False


class _ProcessId:
    """As a page of memory that is wiped in forked children, where the system has none."""

    def __init__(self) -> None:
        self._pid = os.getpid()

    def __getitem__(self, index: int) -> int:
        return os.getpid() == self._pid


def _make_mark() -> Mark:
    """Something whose first item is true, but not in a child of a fork, whoever makes it.

    To ask for the number of the process is a system call, which costs more than all else here.
    """
    if not hasattr(os, "fork"):
        return (1,)
    try:
        import mmap  # noqa: PLC0415  (not at the import of palitra)

        page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        page.madvise(_WIPE_ON_FORK)
    except (AttributeError, ImportError, OSError, ValueError):
        return _ProcessId()
    page[0] = 1
    return page


_process = _Process()
# The hooks that the end of the main thread runs, last in first out, where they are such a list; and
# how many there were when `outlast_no_pool` last looked.
thread_hooks: list[Any] = getattr(threading, "_threading_atexits", [])
ordered = 0
_ordering = Permission()  # to change the order
known = _Known()
mark: Mark = (0,)  # its first item is true in the process that has used palitra, see `_make_mark`


def know_this_thread() -> None:
    """Note that this thread makes calls, and shall be served as long as it lives."""
    thread = threading.current_thread()
    _process.callers[id(thread)] = thread
    _mark_process()
    known.caller = True


def _mark_process() -> None:
    global mark  # noqa: PLW0603  (looked at where every attribute counts)
    if not mark[0]:
        if _process.pid is None:
            _process.pid = os.getpid()
        mark = _make_mark()


def check_process() -> None:
    """Start afresh where this is a child of a fork that has run no hooks."""
    if not mark[0] and _process.pid is not None and _process.pid != os.getpid():
        _forked()


def watch(service: Watched) -> bool:
    """Look after *service*; False when the process is too far into its exit to start it.

    Thread-safe without a lock: registering a hook twice is harmless, because each hook does
    nothing the second time. So it is registered first, and said to be afterwards.
    """
    # First, so that an exit that comes meanwhile sees it, or is seen below.
    _process.services[id(service)] = service
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


def _inside(hook: Any) -> list[Any]:
    """What a hook of `threading` calls: it is a partial function, or a lambda."""
    cells = getattr(hook, "__closure__", None) or ()
    return [getattr(hook, "func", None), *(cell.cell_contents for cell in cells)]


def _is_of_pools(hook: Any) -> bool:
    return any(
        str(getattr(inside, "__module__", "")).startswith("concurrent.futures.")
        for inside in _inside(hook)
    )


def in_order() -> bool:
    """Whether no hook was registered since they were put in order."""
    return len(thread_hooks) == ordered


def outlast_no_pool() -> None:
    """Have the hooks that end the standard pools run after ours, whenever they were registered.

    A call in flight at exit may use a pool whose module was imported after palitra's first use.
    """
    global ordered  # noqa: PLW0603  (looked at where every attribute counts)
    if not _ordering.take():
        return  # another thread does it
    try:
        hooks = thread_hooks
        ordered = len(hooks)
        ours = [index for index, hook in enumerate(hooks) if _main_thread_ends in _inside(hook)]
        for hook in hooks[ours[0] + 1 :] if ours else ():
            if _is_of_pools(hook):
                # They run last in, first out. In first: an exit that comes meanwhile must find it.
                hooks.insert(ours[0], hook)
                del hooks[len(hooks) - 1 - hooks[::-1].index(hook)]
    finally:
        _ordering.give()


def services() -> list[Watched]:
    """Those that have started, in this order, and that somebody still has."""
    return _living(_process.services)


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
                _mark_process()
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
    _process.exiting = _process.interrupted = _process.hurried = False
    _process.waited = 0.0
    _process.left.clear()
    for service in _living(_process.services):
        service.after_fork_in_child()


def _main_thread_ends() -> None:
    """Finish the calls in flight, not those that other threads still make afterwards."""
    check_process()
    services = _living(_process.services)
    _wait(services, lambda service, seconds: service.ending.wait_for_calls(seconds))
    if not _atexit_is_skipped():
        _finish([service for service in services if service.ends_with_main_thread])
        strangers = any(_is_stranger(thread) for thread in threading.enumerate())
        callers = _callers() if strangers else []
        if strangers and not callers:
            _leave_contexts()
        elif callers and not _start_thread(_leave_contexts_later):
            for service in services:
                service.ending.leave_contexts(after=callers)
    elif any(map(_goes_on, threading.enumerate())):
        _start_thread(_at_exit_of_others)
    else:
        _at_exit()


def _start_thread(target: Callable[[], None]) -> bool:
    """Have *target* done by a thread that the process waits for; not here, in a hook.

    Those threads that it waits for may wait for what other hooks are about to do.
    """
    try:
        threading.Thread(target=target, name="palitra_exit").start()
    except RuntimeError:  # 3.12 starts none any more
        return False
    return True


def _callers() -> list[threading.Thread]:
    """The threads that make calls, and that the process waits for."""
    threads = threading.enumerate()
    return [thread for thread in threads if _goes_on(thread) and not _is_stranger(thread)]


def _leave_contexts_later() -> None:
    while callers := _callers():
        callers[0].join()
    _leave_contexts()


def _leave_contexts() -> None:
    """Leave the contexts, for which a thread that has made no call may wait.

    That of a connection, say, which ends when the connection is closed.
    """
    services = _living(_process.services)
    for service in services:
        service.ending.leave_contexts()
    _wait(services, lambda service, seconds: service.ending.contexts_left.wait(seconds))


def _goes_on(thread: threading.Thread) -> bool:
    """Whether a process that ends waits for *thread*, which no hook ends."""
    own = threading.current_thread(), threading.main_thread()
    return not (thread.daemon or thread in own or _is_of_a_pool(thread))


def _is_stranger(thread: threading.Thread) -> bool:
    """Whether a process that ends waits for *thread*, which has never used palitra."""
    return _goes_on(thread) and thread not in _living(_process.callers)


def _is_of_a_pool(thread: threading.Thread) -> bool:
    """Whether it is a thread of a standard pool, which a hook of that pool's ends."""
    for module, table in (
        ("concurrent.futures.thread", "_threads_queues"),
        ("concurrent.futures.process", "_threads_wakeups"),
    ):
        if thread in getattr(sys.modules.get(module), table, ()):
            return True
    return False


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
    check_process()
    _process.exiting = True
    if sys.is_finalizing():
        return  # a subinterpreter that outlives the main one: its threads no longer run
    _finish(_living(_process.services))
    if _process.left:
        LOGGER.warning("left behind at exit: %s", ", ".join(_process.left))
        _process.left.clear()


def _finish(services: list[Watched]) -> None:
    def is_over(service: Watched, seconds: float) -> bool:
        service.ending.begin_exit()
        return service.wait_for_end(Deadline(seconds))

    _wait(services, is_over)


def _wait(services: list[Watched], is_over: Callable[[Watched, float], bool]) -> None:
    """Wait for each of *services*; a log line after a while, and Ctrl-C cancels what is left.

    A second Ctrl-C, here or in a later hook, ends this waiting and all that would follow; what is
    waited for is left behind. Neither is raised, nor what other signal handlers raise: an exception
    here would only be printed by the interpreter, which is ending anyway, and would keep the other
    hooks from running.

    A service whose `exit_limit` has passed is cancelled, and left behind a second later.
    """
    pending = list(services)
    limited: list[Watched] = []  # those that were cancelled at their limit
    logged = interrupted = cancelled = False
    began = _process.waited
    while pending and not _process.hurried:
        try:
            if interrupted and not cancelled:
                cancelled = True  # first: what interrupts this ends the waiting, see below
                for service in pending:
                    service.ending.cancel_everything()
            for service in list(pending):
                # First: what begins here has a moment, whatever others have used up.
                if is_over(service, _STEP) or _passes_limit(service, limited):
                    pending.remove(service)
                    continue
                _process.waited += _STEP
                if not logged and _process.waited - began >= PATIENCE:
                    logged = True
                    names = ", ".join(filter(None, (each.ending.waited_for() for each in pending)))
                    LOGGER.warning("waiting at exit for %s (Ctrl-C cancels)", names or "clean-up")
        except BaseException:
            if _process.interrupted:
                _process.hurried = True
                with contextlib.suppress(BaseException):
                    _leave_behind(pending, goes_on=not _process.exiting)
            _process.interrupted = interrupted = True


def _passes_limit(service: Watched, limited: list[Watched]) -> bool:
    """Whether *service* is left behind: a second after it was cancelled, which is done here too."""
    limit = service.exit_limit
    if limit is None or _process.waited < limit:
        return False
    if _process.waited >= limit + _GRACE:
        _leave_behind([service])
        return True
    if service not in limited:
        limited.append(service)
        service.ending.cancel_everything()
    return False


def _leave_behind(services: list[Watched], *, goes_on: bool = False) -> None:
    for service in services:
        _process.left += filter(None, [service.ending.abandon_at_exit(goes_on=goes_on)])
