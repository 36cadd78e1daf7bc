"""Results: what `map` returns, an iterator over the results of its calls."""

from __future__ import annotations

import itertools
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import Any

from ._waiting import clock


class Results(Generator[Any, None, None]):
    """The results of the calls of one `map`, in order.

    The executor is kept only as long as there are inputs to submit.
    """

    _runs_unread = False

    def __init__(
        self,
        calls: Iterator[Future[Any]],
        buffersize: int | None,
        deadline: float | None,
        *,
        runs_unread: bool,
    ) -> None:
        self._calls: Iterator[Future[Any]] | None = calls
        self._deadline = deadline
        # Whether the calls run although the iterator is dropped before anybody has read from it, as
        # those of a thread pool do.
        self._runs_unread = runs_unread
        self._futures: deque[Future[Any]] = deque()
        # The one permission to read. Its taking and its return are no calls: Ctrl-C or a signal
        # handler could come after a call, and leave a permission taken for ever.
        self._free = True
        try:
            self._futures.extend(itertools.islice(calls, buffersize))
            if buffersize is None or len(self._futures) < buffersize:
                self._calls = None  # the inputs are read to their end; do not ask them again
        except BaseException:
            self.close()
            raise

    def __next__(self) -> Any:
        try:
            del self._free
        except AttributeError:  # another thread reads, or this thread, further out
            raise ValueError("generator already executing") from None
        try:
            self._runs_unread = False
            if not self._futures:
                raise StopIteration
            try:
                self._read_on()
                deadline = self._deadline
                # The future stays in `_futures` until its result is here: `close` then cancels it
                # if Ctrl-C interrupts the wait. No local variable holds the future, since a raised
                # error holds this frame.
                result = self._futures[0].result(None if deadline is None else deadline - clock())
            except StopIteration as exc:  # which would look like the end
                self.close()
                raise RuntimeError("a call of map() raised StopIteration") from exc
            except BaseException:
                self.close()
                raise
            if self._futures:  # otherwise another thread has just closed the iterator
                self._futures.popleft()
            return result
        finally:
            self._free = True

    def _read_on(self) -> None:
        if self._calls is not None:
            future = next(self._calls, None)
            if future is None:
                self._calls = None
            else:
                self._futures.append(future)

    def send(self, value: None, /) -> Any:
        """Return the next result: what the standard executors return is a generator."""
        return next(self)

    def throw(self, typ: Any, val: Any = None, tb: TracebackType | None = None, /) -> Any:
        """Cancel the calls that are left, and raise, as a generator does."""
        self.close()
        return super().throw(typ, val, tb)

    def close(self) -> None:
        """Cancel the calls that are left, started or not."""
        self._calls = None
        futures = self.__dict__.get("_futures", ())  # Ctrl-C may have come before it was set
        while futures:
            futures[0].cancel()
            futures.popleft()

    def __del__(self, _is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if not _is_finalizing() and not self._runs_unread:
            self.close()
