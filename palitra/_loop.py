"""LoopThread: one thread, one event loop, and the hand-off between it and everybody else.

Guarantees
    * A call that `accept` took is settled, whatever happens: by its own end, by the failure of the
      loop, by a fork in the child. A call that `accept` refused never starts.
    * Calls start and callbacks given to `post` run on the loop, in the order of their arrival.
    * Methods that do not say "on the loop" may be called by any thread, by a signal handler, and by
      a finalizer in the middle of any other method.

Assumes
    Setting and popping an item of a dict, `append` and `popleft` of a deque are atomic; and where
    two threads each write one variable and then read the other's, at least one sees what the other
    wrote. CPython runs signal handlers where a Python function begins, after a call, and before a
    jump backward, and nowhere else.

How the hand-off loses nothing: two pairs, each of which writes first and looks second

    accept    adds the call to `_calls`, then looks at `_state`
    the end   changes `_state`, then looks at `_calls`
        Either `accept` sees the end and refuses, or the end sees the call and waits for it (or
        fails it, where the loop has died).

    post      appends to `inbox`, then looks at `_awake`, and wakes the loop unless it is set
    _drain    clears `_awake`, then looks at `inbox`, and wakes itself unless it is empty
        Either the poster wakes the loop or the drain sees the item. Between the two, nobody else
        pays for waking a loop that is awake: one wake-up per burst.

Nothing here holds a lock while something else can happen, and who waits does so on a lock of his
own (see `_waiting`). So nobody waits for a lock that is held by the code he interrupted.

Ctrl-C can come at any call, and come again while the first is handled. It leaves no call of which
the loop knows nothing: from `_calls` to `inbox` there is nothing that it could interrupt, and what
it interrupts elsewhere is left to the loop, where it cannot come, by one `append` to `inbox`. The
wake-up that may then be missing is sent by the next `post`, or by whoever waits for the end.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import enum
import functools
import io
import logging
import os
import socket
import sys
import threading
import time
from _thread import get_ident
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Generic, Protocol, TypeVar

from palitra import _hooks
from palitra._waiting import Moment, locked, wait_for
from palitra._words import innermost_frame, name_of, place, user_traceback
from palitra._workers import WorkerThreads, make_thread, run_initializer

_T = TypeVar("_T")

LOGGER = logging.getLogger("palitra")

_BATCH = 100  # items of the inbox that a drain takes before the loop's callbacks have their turn
_GRACE = 1.0  # seconds that a timed-out call has for its clean-up
_NAMED = 10  # calls that a log line names
_PAUSE = 0.001  # seconds before trying again to settle a future that another thread looks at


class DeadlockError(RuntimeError):
    """This blocking call could never return.

    Raised by blocking calls (`run`, `gather`, `shutdown`, `Future.result`, the synchronous bridges)
    on the very thread that would have to do the work they wait for. Inside a coroutine, ``await``
    instead.

    >>> import palitra
    >>> async def outer():
    ...     return palitra.run(inner())
    >>> async def inner():
    ...     return 1
    >>> palitra.run(outer())  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    palitra.DeadlockError: run() would wait for its own thread ...

    .. versionadded:: 0.2.0
    """


class State(enum.Enum):
    NEW = "not started"
    RUNNING = "running"
    SHUTDOWN = "shut down"
    EXITING = "ending with the interpreter"
    BROKEN = "broken"


_current = threading.local()  # `loop_thread`, on a loop's thread
_USABLE = (State.NEW, State.RUNNING)


class Startable(Protocol):
    """What the inbox holds."""

    def start(self) -> object:
        """On the loop: begin. Raises only what a done-callback wants to end the loop with."""


class Call(Startable, Protocol):
    """What a loop thread knows of a call that it accepted."""

    def fail(self, error: BaseException) -> bool:
        """Settle with *error*, unless settled or certain to be; False if not possible just now."""

    def cancel(self) -> bool:
        """Cancel, or ask for it."""

    def abandon(self, error: BaseException) -> None:
        """Settle with *error* in a forked child, where a held lock is never released."""

    def describe(self) -> str:
        """A name for people."""


class LoopThread:
    """A thread that runs an event loop from the first call to the end of the last."""

    def __init__(
        self,
        name_prefix: str,
        max_workers: int | None,
        max_threads: int,
        initialize: Callable[[], None],
        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None,
        debug: bool | None,
    ) -> None:
        self._name_prefix = name_prefix
        self._max_workers = max_workers
        self._max_threads = max_threads
        self._initialize = initialize
        self._loop_factory = loop_factory
        self._debug = debug
        self._abandoned: list[object] = []
        self._orphans: list[Call] = []  # in a forked child: the parent's calls, to be settled
        self._reset(State.NEW)

    def _reset(self, state: State) -> None:
        self._state = state
        # The state after RUNNING, once there is one: the first to come puts it here.
        self._end: dict[str, State] = {} if state is State.NEW else {"state": state}
        self._cause: BaseException | None = None  # of BROKEN
        self._thread: threading.Thread | None = None
        self._ident: int | None = None  # the thread's
        self._loop: asyncio.AbstractEventLoop | None = None
        # The one permission to run the loop: the thread that popped it has it.
        self._claims = [True]
        self._started = Moment()  # when `_state` is no longer NEW
        self._stopped = Moment()  # the last thing that the thread says
        self._calls: dict[Call, None] = {}  # in the order of their acceptance
        self.inbox: deque[Startable] = deque()
        self._awake = False
        # Threads on their way to wake the loop: a signal handler that interrupts one of them, and
        # then waits, must not rely on it.
        self._waking: set[int] = set()
        self._wake_up: Callable[[], object] | None = None  # while there is a loop to wake
        self._hush: Callable[[], object] | None = None  # takes in what waking it has left
        self._doorbell: tuple[socket.socket | _Event, ...] = ()
        self._exit_watch: _ExitWatch | None = None
        self._done = False  # the loop has nothing left to do but its clean-up
        self._ended = False  # and that is done
        self._winding_down: asyncio.Task[None] | None = None
        # On the loop: see `add_exit`.
        self.exits: dict[Callable[[], Awaitable[object]], None] = {}
        self.slots = None if self._max_workers is None else Slots(self._max_workers)
        self.workers = WorkerThreads(self._max_threads, self._name_prefix, self._initialize)

    # -- state --------------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        """Whether a call would be accepted, as far as can be told from outside."""
        return self._state in _USABLE

    @property
    def state(self) -> State:
        return self._state

    @property
    def done(self) -> bool:
        """Whether the loop has nothing left to do but its clean-up."""
        return self._done

    @property
    def ended(self) -> bool:
        """Whether the loop is closed, and all that it can settle is settled."""
        return self._ended

    @property
    def broken(self) -> str | None:
        """Why calls are refused, where the loop has failed."""
        return str(self._refusal()) if self._state is State.BROKEN else None

    def _run(self) -> None:
        """Change from NEW to RUNNING, unless an end has come before, or comes meanwhile."""
        self._state = State.RUNNING
        if self._end:
            self._state = self._end["state"]

    def _end_with(self, state: State) -> None:
        """Change to *state*, unless another end has come before."""
        self._state = self._end.setdefault("state", state)

    def _refusal(self) -> Exception:
        if self._state is State.BROKEN:
            return self._failure()
        what = "interpreter shutdown" if self._state is State.EXITING else "shutdown"
        return RuntimeError(f"cannot schedule new futures after {what}")

    def _failure(self) -> concurrent.futures.BrokenExecutor:
        error = concurrent.futures.BrokenExecutor(f"the event loop failed: {self._cause!r}")
        error.__cause__ = self._cause
        return error

    def on_loop(self) -> bool:
        """Whether the caller is on the loop's thread."""
        return self._ident == get_ident()

    def refuse_on_loop(self, what: str) -> None:
        """Raise DeadlockError where *what* would wait for the thread that it is called on."""
        if self._ident == get_ident():
            raise DeadlockError(
                f"{what} would wait for its own thread, the event loop's: inside a coroutine, "
                "'await' the coroutine, or asyncio.wrap_future(future), instead"
            )

    # -- hand-off -----------------------------------------------------------------------------

    def accept(self, call: Call, job: Callable[[], None] | None = None) -> None:
        """Take over *call* and start it on the loop, or run *job* for it in a worker thread.

        Raises RuntimeError or BrokenExecutor where the call is refused. Ctrl-C can arrive anywhere
        in here; `holds` tells whether the call was taken then.
        """
        if self._state is State.NEW:
            self.start()
        self._calls[call] = None
        if self._state is not State.RUNNING:
            self.finished(call)
            raise self._refusal()
        if job is None:
            self.inbox.append(call)
            if not self._awake or (self._waking and get_ident() in self._waking):
                self.wake()
            return
        try:
            self.workers.submit(job, self._worker_failed)
        except RuntimeError:
            self.finished(call)
            raise

    def holds(self, call: Call) -> bool:
        """Whether *call* was accepted and the loop is still there to settle it."""
        return call in self._calls and not self._ended

    def finished(self, call: Call) -> None:
        """Let go of *call*: it is settled, and its callbacks have run."""
        self._calls.pop(call, None)
        if self._state is not State.RUNNING and not self._calls and self._wake_up is not None:
            self.post(self._wind_down)
        if self._exit_watch is not None:
            self._exit_watch.discard(call)

    def post(self, callback: Callable[[], object]) -> None:
        """Run *callback*, which raises nothing, on the loop; lost where the loop has ended."""
        self.inbox.append(_Callback(callback))
        if not self._awake or (self._waking and get_ident() in self._waking):
            self.wake()

    def wake(self) -> None:
        """Have the loop look into the inbox."""
        wake_up = self._wake_up
        if wake_up is None:
            if self._ended:
                self.inbox.clear()
            return  # the loop is not there yet, and will begin with a drain; or it is gone
        ident = get_ident()
        outermost = ident not in self._waking
        self._waking.add(ident)
        self._awake = True
        try:
            wake_up()
        except (OSError, RuntimeError, ValueError):
            self._awake = False  # somebody closed the loop, and its thread settles the calls
        except BaseException:
            # Ctrl-C, before or after it was sent. Others rely on it, and one too many does no harm.
            self._awake = False
            with contextlib.suppress(OSError, RuntimeError, ValueError):
                wake_up()
            raise
        finally:
            if outermost:
                self._waking.discard(ident)

    def _open_doorbell(self, loop: asyncio.AbstractEventLoop) -> None:
        """Prepare to be woken: through a descriptor of its own, where the loop can watch one.

        That is `call_soon_threadsafe` without its handle, its second read and its second callback:
        a tenth of the cost of a `run`. And an eventfd is the cheapest descriptor there is.
        """
        ring: Callable[[], object]
        if sys.platform == "linux" and hasattr(os, "eventfd"):
            event = _Event(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC), "r+")
            self._doorbell = (event,)
            ring = functools.partial(event.write, (1).to_bytes(8, sys.byteorder))
            self._hush = functools.partial(event.read, 8)
        else:
            reader, writer = self._doorbell = socket.socketpair()
            reader.setblocking(False)
            writer.setblocking(False)
            ring = functools.partial(writer.send, b"\0")
            self._hush = functools.partial(reader.recv, 64)
        try:
            loop.add_reader(self._doorbell[0].fileno(), self._answer)
        except NotImplementedError:  # Windows' proactor
            ring = functools.partial(loop.call_soon_threadsafe, self._drain)
        self._wake_up = ring
        loop.call_soon(self._drain)

    def _close_doorbell(self) -> None:
        self._wake_up = self._hush = None
        for end in self._doorbell:
            if not isinstance(end, _Event):
                end.close()
        self._doorbell = ()

    def _answer(self) -> None:
        """On the loop: somebody has rung."""
        if self._hush is None:
            return  # a callback just before this one has forked
        try:
            self._hush()
        except OSError:
            pass  # somebody else has read it
        self._drain()

    def _drain(self) -> None:
        """On the loop: run a batch of what is in the inbox."""
        inbox = self.inbox
        try:
            for _ in range(_BATCH):
                if not inbox:
                    break
                inbox.popleft().start()
        finally:
            self._awake = False
            if inbox:
                self.wake()

    def block(self, call: BlockingCall[Any], what: str, timeout: float | None) -> None:
        """Hand over *call* and wait until it is settled.

        Whatever interrupts the waiting cancels the call, waits for its clean-up and goes on to the
        caller; a second interruption leaves the call to the loop.
        """
        try:
            self.refuse_on_loop(what)
            self.accept(call)
            if wait_for(call.done, timeout):
                return
            call.cancel()
            in_time = wait_for(call.done, _GRACE)
        except BaseException:
            if self.holds(call):
                call.cancel()
                wait_for(call.done, None)
            call.close()
            raise
        error = TimeoutError(f"{what} timed out after {timeout:g} s")
        if not in_time:
            error.add_note(
                f"{call.describe()} has not ended {_GRACE:g} s after its cancellation"
                f"{call.where()}; the loop's thread stands {self._where()}"
            )
        try:
            raise error from call.take_cause()
        finally:
            del error, call  # the traceback holds this frame

    def _where(self) -> str:
        frame = sys._current_frames().get(self._ident or 0)
        return "nowhere: it has ended" if frame is None else place(frame)

    def create_task(
        self,
        coro: Coroutine[Any, Any, None],
        context: contextvars.Context | None,
    ) -> asyncio.Task[None]:
        """On the loop: start *coro* at once, where asyncio can and no task factory decides.

        So a coroutine that does not suspend costs no turn of the loop. A task that does not start
        at once can be cancelled before *coro* runs a line, and callers provide for that.
        """
        loop = asyncio.get_running_loop()
        if sys.version_info >= (3, 12) and loop.get_task_factory() is None:
            return asyncio.Task(coro, loop=loop, context=context, eager_start=True)
        return loop.create_task(coro, context=context)

    # -- start --------------------------------------------------------------------------------

    def start(self) -> asyncio.AbstractEventLoop:
        """Return the running loop, started if need be; raise where no call is accepted.

        But on the loop's own thread there is a loop until its end.
        """
        while self._state is State.NEW:
            self.refuse_on_loop("a call from the initializer")
            if self._claims:
                # Several callers can come here at once; a thread that gets no claim just ends.
                if not _hooks.watch(self):
                    raise RuntimeError("cannot schedule new futures after interpreter shutdown")
                make_thread(self._main, name=f"{self._name_prefix}_loop").start()
            self._started.wait()
        loop = self._loop
        if loop is None or not (self._state is State.RUNNING or self.on_loop()):
            raise self._refusal()
        return loop

    def _main(self) -> None:
        """The life of the loop's thread, from its claim to its end."""
        try:
            self._claims.pop()
        except IndexError:
            return
        self._thread = threading.current_thread()
        self._ident = get_ident()
        _current.loop_thread = self
        runner = asyncio.Runner(debug=self._debug, loop_factory=self._loop_factory)
        try:
            loop = runner.get_loop()
            self._loop = _checked(loop)
            run_initializer(self._initialize)
            self._open_doorbell(loop)
            self._run()
            self._started.happen()
            if self._state is not State.RUNNING:
                self.post(self._wind_down)  # it was shut down meanwhile
            while not self._done:
                try:
                    loop.run_forever()
                except (SystemExit, KeyboardInterrupt):
                    pass  # a task of the user's own raised it, and has kept it
                if self._loop is not loop:
                    return  # a copy of this thread, in a child that was forked on it
                # Where user code stopped the loop, it goes on.
        except BaseException as exc:
            self._break(user_traceback(exc))
        self._close(runner)
        del self  # the failure holds frames of the initializer, and they hold this one

    # -- end ----------------------------------------------------------------------------------

    def shut_down(self) -> None:
        """Accept no more calls; the loop ends when those it has are finished."""
        self._wind_down_with(State.SHUTDOWN)

    def begin_exit(self) -> None:
        """As `shut_down`, because the interpreter ends."""
        self._wind_down_with(State.EXITING)

    def _wind_down_with(self, state: State) -> None:
        self._end_with(state)
        try:
            self._claims.pop()
        except IndexError:
            if self._wake_up is not None:  # otherwise `_main` has yet to look at the state
                self.post(self._wind_down)
        else:  # there never will be a loop
            self._ended = True
            self._started.happen()
            self._stopped.happen()

    def cancel_calls(self) -> None:
        """Cancel every call that can be cancelled."""
        # The last first: none shall start in the place of one that is cancelled before it.
        for call in reversed(list(self._calls)):
            call.cancel()

    def cancel_everything(self) -> None:
        """Cancel what the end of the loop waits for: its calls, then the clean-up itself."""
        if self._calls:
            self.cancel_calls()
        else:
            self.post(self._cancel_tasks)

    def _cancel_tasks(self) -> None:
        for task in asyncio.all_tasks():
            if task is not self._winding_down:  # it waits for their clean-up, and ends the loop
                task.cancel()

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the end of the loop's thread and of the worker threads; False if in vain."""
        deadline = None if timeout is None else time.monotonic() + timeout
        # Not by Thread.join alone: before 3.13, a thread seems to have ended where Ctrl-C has ended
        # a wait for it.
        for stopped in (self._stopped, *self.workers.threads.values()):
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not stopped.wait(left):
                return False
        for thread in (self._thread, *self.workers.threads):
            if thread is not None:
                thread.join()
        return True

    def is_own_thread(self) -> bool:
        """Whether the caller is on the loop's thread or one of the worker threads."""
        return self.on_loop() or threading.current_thread() in self.workers.threads

    def wait_for_calls(self, timeout: float | None) -> bool:
        """Wait for the calls that were in flight when this was first called; False if too long."""
        if self._exit_watch is None:
            self._exit_watch = _ExitWatch(self._calls)
        for call in self._exit_watch.snapshot:
            if call not in self._calls:
                self._exit_watch.discard(call)  # it finished before the watch was set
        self.wake()  # Ctrl-C may have kept somebody from it
        return self._exit_watch.none_left.wait(timeout)

    def waited_for(self) -> str:
        """The calls in flight, by name, for a log line."""
        calls = list(self._calls)
        names = [call.describe() for call in calls[:_NAMED]]
        if len(calls) > _NAMED:
            names.append(f"{len(calls) - _NAMED} more")
        return ", ".join(names)

    @property
    def ends_with_main_thread(self) -> bool:
        """Whether the interpreter would wait for the loop's thread before it runs atexit."""
        return self._thread is not None and not self._thread.daemon

    def _wind_down(self) -> None:
        """On the loop: once no call is left, leave the entered contexts and stop."""
        over = self._calls or self._done or self._winding_down is not None
        if self._state not in _USABLE and not over:
            # Whatever task factory there is.
            loop = asyncio.get_running_loop()
            self._winding_down = asyncio.Task(self._leave_contexts(), loop=loop)
            self._winding_down.add_done_callback(self._wound_down)

    def _wound_down(self, task: asyncio.Task[None]) -> None:
        """On the loop: begin again where user code has ended the task, cancelling all there are."""
        self._winding_down = None
        if not self._done:
            if not task.cancelled():
                task.exception()  # which has gone to `run_forever` as well
            self._wind_down()

    def add_exit(self, leave: Callable[[], Awaitable[object]]) -> None:
        """On the loop: await *leave* before the loop ends, before those that were added earlier."""
        if self._done:
            raise self._refusal()
        self.exits[leave] = None

    async def _leave_contexts(self) -> None:
        loop = asyncio.get_running_loop()
        while self.exits:
            leave, _ = self.exits.popitem()
            try:
                await leave()
            except BaseException as exc:
                loop.call_exception_handler(
                    {"message": f"{name_of(leave)} failed at shutdown", "exception": exc}
                )
        self._done = True
        loop.stop()

    def _break(self, cause: BaseException) -> None:
        """Refuse all further calls because of *cause*."""
        self._cause = cause
        self._end_with(State.BROKEN)

    def _worker_failed(self, cause: BaseException) -> None:
        self._break(cause)
        self.post(self._fail_calls)
        self.post(self._wind_down)

    def _close(self, runner: asyncio.Runner) -> None:
        self._done = True
        self._started.happen()
        self._fail_calls()
        loop = self._loop
        if loop is not None and not loop.is_closed():
            try:
                runner.close()
            except BaseException as exc:
                # The loop is closed all the same. Late in an exit no thread can be started, not
                # even the one that waits for asyncio's worker threads; by then they have ended.
                if "new thread" not in str(exc):
                    LOGGER.exception("closing the event loop failed")
        self.workers.stop()
        self._ended = True
        self._fail_calls()
        self._close_doorbell()
        self.inbox.clear()
        self._loop = None
        self._ident = None  # another thread may get the same
        self._stopped.happen()

    def _fail_calls(self) -> None:
        calls = list(self._calls)
        while calls:
            calls = [call for call in calls if not self._fail(call)]
            if calls:
                time.sleep(_PAUSE)

    def _fail(self, call: Call) -> bool:
        try:
            return call.fail(self._failure())
        except BaseException:  # the other calls are to be settled, whatever this one's user wants
            LOGGER.critical("exception in a done-callback", exc_info=True)
            return True

    def after_fork_in_child(self) -> None:
        """Start afresh: the parent's thread, its loop and its locks are not here.

        Called again where it is interrupted.
        """
        calls = list(self._calls)
        self._orphans += calls
        if self._loop is not None:
            # They stay untouched as long as this process lives: closing the loop, or ending its
            # tasks, would act on sockets that the parent goes on using.
            self._abandoned += (self._loop, asyncio.all_tasks(self._loop), calls, self.exits)
            if self.on_loop():
                self._loop.stop()
            self.inbox.clear()
            for end in self._doorbell:
                end.close()
        # This thread may wait for one of them, and have forked in a signal handler.
        self._started.happen()
        self._stopped.happen()
        if self._exit_watch is not None:
            self._exit_watch.none_left.happen()
        self.workers.abandon()
        self._reset(State.SHUTDOWN if self._state is State.SHUTDOWN else State.NEW)
        while self._orphans:
            self._orphans[-1].abandon(
                concurrent.futures.BrokenExecutor(
                    "this call belongs to the parent process, where it goes on; make it again here"
                )
            )
            self._orphans.pop()


class _Event(io.FileIO):
    """An eventfd that is closed when its last user lets go of it.

    Not before: who is just about to ring would write into whatever else has got its number.
    """

    def __del__(self) -> None:
        self.close()


class _Callback:
    """A callback in the inbox."""

    __slots__ = ("start",)

    def __init__(self, callback: Callable[[], object]) -> None:
        self.start = callback


class Slots:
    """Lets at most so many coroutines be in flight, first come first served. On the loop only."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._waiting: deque[Callable[[], object]] = deque()

    def enter(self, start: Callable[[], object]) -> bool:
        """Take a slot; where none is free, return False and call *start* when one is.

        Whoever has got a slot calls `leave`.
        """
        if self._free:
            self._free -= 1
            return True
        self._waiting.append(start)
        return False

    def leave(self, loop_thread: LoopThread) -> None:
        """Pass the slot on."""
        if self._waiting:
            # Not called from here: a chain of calls that end at once would nest ever deeper.
            loop_thread.post(self._waiting.popleft())
        else:
            self._free += 1


class _ExitWatch:
    """The moment when all calls are finished that were in flight at another moment."""

    def __init__(self, calls: Iterable[Call]) -> None:
        self.snapshot = list(calls)
        self._left = set(self.snapshot)
        self.none_left = Moment()
        if not self._left:
            self.none_left.happen()

    def discard(self, call: Call) -> None:
        self._left.discard(call)
        if not self._left:
            self.none_left.happen()


class BlockingCall(Generic[_T]):
    """A call whose caller waits, on a bare lock: it needs no future."""

    def __init__(self, loop_thread: LoopThread) -> None:
        self._loop_thread = loop_thread
        self.done = locked()  # until the call is settled
        self.settled = False
        self.cancel_requested = False
        self.result: _T
        self.error: BaseException | None = None

    def start(self) -> None:
        """On the loop: begin, unless cancelled before."""
        raise NotImplementedError

    def cancel_on_loop(self) -> None:
        """On the loop: cancel, begun or not."""
        raise NotImplementedError

    def close(self) -> None:
        """Dispose of what a refused call leaves."""

    def describe(self) -> str:
        raise NotImplementedError

    def where(self) -> str:
        """Where the call stands, for a note."""
        return ""

    def settle(self) -> None:
        """On the loop: let the caller go on, once, with `error` or `result`, which is set.

        Once he does, no frame here may hold either, or it would outlive what he does with it.
        """
        if not self.settled:
            self.settled = True
            self._loop_thread.finished(self)
            self.done.release()

    def fail(self, error: BaseException) -> bool:
        if not self.settled:
            self.error = error
            self.settle()
            self.close()
        return True

    def cancel(self) -> bool:
        self.cancel_requested = True  # for a `start` that is still on its way
        self._loop_thread.post(self.cancel_on_loop)
        return True

    def abandon(self, error: BaseException) -> None:
        # Whoever waits does so in the parent, unless he forked in a signal handler.
        if not self.settled:
            self.settled = True
            self.error = error
            self.done.release()

    def take_cause(self) -> BaseException | None:
        """The error of the clean-up, if it is more than the cancellation itself."""
        error, self.error = self.error, None
        return None if isinstance(error, asyncio.CancelledError) else error


class RunCall(BlockingCall[_T]):
    """One coroutine, run as a task."""

    def __init__(
        self,
        loop_thread: LoopThread,
        coro: Coroutine[Any, Any, _T],
        context: contextvars.Context | None,
    ) -> None:
        super().__init__(loop_thread)
        self._coro = coro
        self._shares_context = context is not None
        self._context = contextvars.copy_context() if context is None else context
        self._begun = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self.settled or self.cancel_requested:
            self.fail(asyncio.CancelledError())
            return
        drive = self._drive()
        try:
            if self._shares_context:
                self._context.run(int)  # if it is in use now, no task shall find that out
            task = self._loop_thread.create_task(drive, self._context)
        except BaseException as exc:
            drive.close()
            self.fail(exc)
        else:
            if not self.settled:
                self._task = task
                if not self._begun:
                    task.add_done_callback(self._task_ended)
        finally:
            del self  # see `_drive`

    async def _drive(self) -> None:
        # A traceback holds the frames of the coroutine, and these, as `f_back`, this one and those
        # that called it. None of them may hold the call in the end: it holds the exception.
        self._begun = True
        try:
            self.result = await self._coro
        except BaseException as exc:
            if not self.settled:
                self.error = user_traceback(exc)
        self._task = None
        if self._shares_context:
            # The caller may enter the context as soon as he goes on: not before this task left it.
            self._loop_thread.post(self.settle)
        else:
            self.settle()
        del self

    def _task_ended(self, _: object) -> None:
        """A task that was cancelled before its first step never came to run `_drive`."""
        if not self._begun:
            self.fail(asyncio.CancelledError())

    def cancel_on_loop(self) -> None:
        if self._task is not None:
            self._task.cancel()
        elif not self._begun:
            self.fail(asyncio.CancelledError())

    def close(self) -> None:
        if not self._begun:
            self._coro.close()

    def describe(self) -> str:
        return name_of(self._coro)

    def where(self) -> str:
        frame = innermost_frame(self._coro)
        return "" if frame is None else f": it waits {place(frame)}"


def _checked(loop: asyncio.AbstractEventLoop) -> asyncio.AbstractEventLoop:
    if not isinstance(loop, asyncio.AbstractEventLoop):
        raise TypeError(f"loop_factory must return an event loop, not {loop!r}")
    return loop


def current_loop_thread() -> LoopThread | None:
    """The loop thread that the caller is on."""
    loop_thread: LoopThread | None = getattr(_current, "loop_thread", None)
    # In a child that was forked on a loop's thread, this is that thread no more.
    return loop_thread if loop_thread is not None and loop_thread.on_loop() else None
