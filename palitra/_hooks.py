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
import math
import os
import sys
import threading
import weakref
from collections.abc import Callable, Collection
from typing import Any, Generic, Protocol, TypeVar

from ._waiting import Deadline, Moment, Permission

# Imported here and not by the first call: in a child that is forked while another thread imports
# something, an import of the same never returns.
try:
    import mmap
except ImportError:  # this system has no such pages
    mmap = None  # type: ignore[assignment]

_T = TypeVar("_T")

LOGGER = logging.getLogger("palitra")
PATIENCE = 5.0  # seconds of waiting at exit before a log line names what is waited for
_GRACE = 1.0  # seconds for the clean-up of what a limit has cancelled
_STEP = 0.05  # seconds to wait for one service before it is the next one's turn
_WIPE_ON_FORK = 18  # Linux's MADV_WIPEONFORK, which `mmap` does not name
_ATTEMPTS = 100  # to start afresh in a forked child; a signal can interrupt each of them


class Ends(Protocol):
    """What the hooks need of a service's end: see `_ending`."""

    contexts_left: Moment

    def wait_for_calls(self, seconds: float) -> bool: ...
    def leave_contexts(self, after: Collection[threading.Thread] = ()) -> None: ...
    def begin_exit(self) -> None: ...
    def cancel_everything(self) -> None: ...
    def cancel_services(self) -> None: ...
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
    """The one method that a mark needs of a sequence of numbers."""

    def __getitem__(self, index: int, /) -> int: ...


class _Living(Generic[_T]):
    """Objects in the order in which they came, as long as somebody else has them.

    What forgets an object that dies is a function of the interpreter's, unlike that of a
    `weakref.WeakValueDictionary`: Ctrl-C in the midst of that would be printed, and lost.
    """

    def __init__(self) -> None:
        self._references: dict[weakref.ref[_T], None] = {}

    def add(self, one: _T) -> None:
        """Add *one*; a second time does no harm. Thread-safe."""
        self._references[weakref.ref(one, self._references.pop)] = None

    def list(self) -> list[_T]:
        """Return those that are alive. Thread-safe."""
        found = [reference() for reference in self._references.copy()]
        return [one for one in found if one is not None]


class _Process:
    """This process's hooks and the objects that they look after."""

    def __init__(self) -> None:
        self.services: _Living[Watched] = _Living()
        self.callers: _Living[threading.Thread] = _Living()  # the threads that have made a call
        self.fork_hook = False
        self.thread_hook = False
        self.atexit_hook = False
        self.exiting = False
        self.interrupted = False  # by Ctrl-C, in one of the hooks that wait
        self.hurried = False  # and once more: nothing is waited for any more
        self.died = False  # whether an earlier Ctrl-C, which nobody has caught, ends the program
        self.deadline = math.inf  # the seconds of waiting after which all is left behind
        self.waited = 0.0  # seconds of waiting since the end of the main thread
        self.left: list[str] = []  # the names of what was left behind
        self.pid: int | None = None  # the process that first used palitra, or ran the fork hook


class _Known(threading.local):
    """Whether a thread has made a call, and is looked after."""

    caller = False


class _ProcessId:
    """Stands for a page of memory that is wiped in forked children, if the system has none."""

    def __init__(self) -> None:
        self._pid = os.getpid()

    def __getitem__(self, index: int) -> int:
        return os.getpid() == self._pid


def _make_mark() -> Mark:
    """Make a mark: its first item is true in this process, and false in a child of any fork.

    To ask for the number of the process instead is a system call, which would cost more than all
    else that a call of palitra's does.
    """
    if not hasattr(os, "fork"):
        return (1,)
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        page.madvise(_WIPE_ON_FORK)
    except (AttributeError, OSError, ValueError):
        return _ProcessId()
    page[0] = 1
    return page


_process = _Process()
# The hooks that the end of the main thread runs, last in first out; and how many of them there were
# when `outlast_no_pool` last looked. Empty, if this Python keeps them elsewhere.
thread_hooks: list[Any] = getattr(threading, "_threading_atexits", [])
ordered = 0
_ordering = Permission()  # to change the order
known = _Known()
mark: Mark = (0,)  # its first item is true in the process that has used palitra, see `_make_mark`


def know_this_thread() -> None:
    """Note that this thread makes calls: the exit serves it as long as it lives."""
    thread = threading.current_thread()
    _process.callers.add(thread)
    _mark_process()
    known.caller = True


def _mark_process() -> None:
    global mark  # noqa: PLW0603  (looked at where every attribute counts)
    if not mark[0]:
        if _process.pid is None:
            _process.pid = os.getpid()
        mark = _make_mark()


def check_process() -> None:
    """Start afresh if this process is the child of a fork that has run no hooks."""
    if not mark[0] and _process.pid is not None and _process.pid != os.getpid():
        _forget_waiting_threads()
        _forked()


def _forget_waiting_threads() -> None:
    """In a child whose fork ran no hooks: forget the parent's threads that waited in C.

    Since 3.13 a thread that waits in a queue, and since 3.14 in any lock, stands in a table of the
    interpreter's, by an entry on the thread's own stack. The child does not have the thread, and
    the child's next threads get the stack. They write over the entry, and a thread that reads the
    entry crashes. Python's own fork hook empties the table, and so does this function, unless
    another thread of the child may stand there already.
    """
    if sys.version_info < (3, 13):
        return
    try:
        if len(os.listdir("/proc/self/task")) == 1:  # noqa: PTH208  (no import of pathlib)
            # An import waits for another thread that has begun the same import, and that thread
            # may have been the parent's. A module that is half imported has no such attribute.
            if "ctypes" not in sys.modules:
                import ctypes  # noqa: F401, PLC0415  (almost no program comes here)
            sys.modules["ctypes"].pythonapi._PyParkingLot_AfterFork()
    except (AttributeError, ImportError, OSError):
        pass  # another interpreter, or another system


def watch(service: Watched) -> bool:
    """Look after *service*; False when the process is too far into its exit to start it.

    Thread-safe without a lock: to register a hook twice is harmless, since each hook does nothing
    the second time. So each hook is registered first, and then noted as registered.
    """
    # Write first, look second: either an exit that comes meanwhile finds the service, or the last
    # line finds the exit.
    _process.services.add(service)
    _register_fork_hook()
    if not _process.thread_hook:
        try:
            threading._register_atexit(_main_thread_ends)  # type: ignore[attr-defined]
        except AttributeError:
            pass  # this Python has no such hook: `atexit` does all of it
        except RuntimeError:  # the main thread has ended
            if threading.current_thread() is threading.main_thread():
                return False  # the main thread runs atexit handlers, and takes no new ones
        _process.thread_hook = True
    if not _process.atexit_hook:
        if not _at_exit_is_registered():
            atexit.register(_at_exit)
        _process.atexit_hook = True
    return not _process.exiting


def _inside(hook: Any) -> list[Any]:
    """What a hook of `threading` calls: the hook is a partial function or a lambda around that."""
    cells = getattr(hook, "__closure__", None) or ()
    return [getattr(hook, "func", None), *(cell.cell_contents for cell in cells)]


def _is_of_pools(hook: Any) -> bool:
    return any(
        str(getattr(inside, "__module__", "")).startswith("concurrent.futures.")
        for inside in _inside(hook)
    )


def in_order() -> bool:
    """Whether no hook was registered since `outlast_no_pool` put them in order."""
    return len(thread_hooks) == ordered


def outlast_no_pool() -> None:
    """Have our hook run before those that end the standard pools, however late those come.

    A call in flight at exit may use a pool whose module was imported after palitra's first use.
    """
    global ordered  # noqa: PLW0603  (looked at where every attribute counts)
    if not _ordering.take():
        return  # another thread is putting them in order
    try:
        hooks = thread_hooks
        ordered = len(hooks)
        ours = [index for index, hook in enumerate(hooks) if _main_thread_ends in _inside(hook)]
        for hook in hooks[ours[0] + 1 :] if ours else ():
            if _is_of_pools(hook):
                # Hooks run last in, first out. Insert the hook before it is deleted in its old
                # place: an exit that comes meanwhile must find it.
                hooks.insert(ours[0], hook)
                del hooks[len(hooks) - 1 - hooks[::-1].index(hook)]
    finally:
        _ordering.give()


def services() -> list[Watched]:
    """The services that have started and still exist, in the order of their start."""
    return _process.services.list()


class _Sought:
    """Compares unequal to each handler of atexit, and notes whether ours is among them."""

    found = False

    def __eq__(self, handler: object) -> bool:
        self.found |= handler is _at_exit
        return False

    __hash__ = None  # type: ignore[assignment]


def _at_exit_is_registered() -> bool:
    # A forked child may have inherited the handler, or not. If so, it must keep its old place: the
    # handlers that were registered later run before it.
    sought = _Sought()
    atexit.unregister(sought)  # type: ignore[arg-type]  # compares it with each
    return sought.found


def _register_fork_hook() -> None:
    if not _process.fork_hook:
        if hasattr(os, "register_at_fork"):
            _process.pid = os.getpid()
            # Register it twice: Ctrl-C may come before the first line of the first one runs.
            os.register_at_fork(after_in_child=_forked)
            os.register_at_fork(after_in_child=_forked)
        # Set this last: another thread may fork meanwhile, and its child must register the hook.
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
        raise interruption  # the interpreter prints it


def _start_afresh() -> None:
    # Another thread of the parent may have held this lock, inside asyncio.new_event_loop. That
    # thread does not exist here, so nobody would release the lock.
    asyncio.events._lock = threading.Lock()  # type: ignore[attr-defined]
    # multiprocessing empties the atexit table of its children, so that the hook must be
    # registered again there; a fork from inside an exit does not make the child exit.
    _process.atexit_hook = False
    _process.exiting = _process.interrupted = _process.hurried = False
    _process.waited = 0.0
    _process.died, _process.deadline = False, math.inf
    _process.left.clear()
    for service in _process.services.list():
        service.after_fork_in_child()


def _main_thread_ends() -> None:
    """Finish the calls in flight, except those that other threads make from now on."""
    check_process()
    _process.died = _dies_of_ctrl_c()
    services = _process.services.list()
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


def _dies_of_ctrl_c() -> bool:
    """Whether an exception that was shown last ends the program, and is that of Ctrl-C."""
    interactive = sys.flags.interactive or hasattr(sys, "ps1")
    return issubclass(type(getattr(sys, "last_value", None)), KeyboardInterrupt) and not interactive


def _start_thread(target: Callable[[], None]) -> bool:
    """Run *target* in a thread that the process waits for, and not in this hook.

    What *target* waits for may itself wait for what the hooks after this one do.
    """
    try:
        threading.Thread(target=target, name="palitra_exit").start()
    except RuntimeError:  # Python 3.12 starts no more threads here
        return False
    return True


def _callers() -> list[threading.Thread]:
    """The threads that have made calls, and that the process waits for, those of pools too."""
    callers = _process.callers.list()
    return [each for each in threading.enumerate() if _is_waited_for(each) and each in callers]


def _leave_contexts_later() -> None:
    while callers := _callers():
        callers[0].join()
    _leave_contexts()


def _leave_contexts() -> None:
    """Leave the contexts now, since a thread that has made no call may be waiting for that.

    Such as a connection's own thread, which ends when the connection is closed.
    """
    services = _process.services.list()
    endings = {service: service.ending for service in services}  # a forked child has others
    for ending in endings.values():
        ending.leave_contexts()
    _wait(services, lambda service, seconds: endings[service].contexts_left.wait(seconds))


def _is_waited_for(thread: threading.Thread) -> bool:
    """Whether a process that ends waits for *thread*."""
    return not (thread.daemon or thread in (threading.current_thread(), threading.main_thread()))


def _goes_on(thread: threading.Thread) -> bool:
    """Whether a process that ends waits for *thread*, which no hook ends."""
    return _is_waited_for(thread) and not _is_of_a_pool(thread)


def _is_stranger(thread: threading.Thread) -> bool:
    """Whether a process that ends waits for *thread*, which has never used palitra."""
    return _goes_on(thread) and thread not in _process.callers.list()


def _is_of_a_pool(thread: threading.Thread) -> bool:
    """Whether *thread* belongs to a standard pool, whose own hook ends it."""
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
    _finish(_process.services.list())
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
    waited for is left behind. If the program ends because of an earlier one, the first here has
    that effect too, a second later: two Ctrl-C end a program wherever it waits. None of these is
    raised, nor what other signal handlers raise: an exception here would only be printed by the
    interpreter, which is ending anyway, and would keep the other hooks from running.

    A service whose `exit_limit` has passed is cancelled, and left behind a second later.
    """
    pending = list(services)
    # Services that have reached their limit, and what has been cancelled since.
    limited: dict[Watched, str] = {}
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
                    _say_waiting(pending)
        except BaseException:
            if _process.interrupted:
                _process.hurried = True
                with contextlib.suppress(BaseException):
                    _leave_behind(pending, goes_on=not _process.exiting)
            _process.interrupted = interrupted = True
            if _process.died:
                _process.deadline = _process.waited + _GRACE


def _say_waiting(services: list[Watched]) -> None:
    names = ", ".join(filter(None, (service.ending.waited_for() for service in services)))
    with contextlib.suppress(Exception):  # raised by a handler of the log; it cancels nothing
        LOGGER.warning("waiting at exit for %s (Ctrl-C cancels)", names or "clean-up")


def _passes_limit(service: Watched, limited: dict[Watched, str]) -> bool:
    """Whether *service* is left behind: a second after it was cancelled, which is done here too.

    Its calls are cancelled first: they may need what `submit_service` runs beside them for their
    clean-up. That is cancelled when they are over, or half a second later if they are not.
    """
    limit = service.exit_limit
    if _process.waited >= _process.deadline:
        _leave_behind([service])
        return True
    if limit is None or _process.waited < limit:
        return False
    if _process.waited >= limit + _GRACE:
        _leave_behind([service])
        return True
    if service not in limited:
        limited[service] = "calls"
        service.ending.cancel_everything()
    elif limited[service] == "calls" and _process.waited >= limit + _GRACE / 2:
        limited[service] = "services"
        service.ending.cancel_services()
    return False


def _leave_behind(services: list[Watched], *, goes_on: bool = False) -> None:
    for service in services:
        _process.left += filter(None, [service.ending.abandon_at_exit(goes_on=goes_on)])
