import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Coroutine
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from contextvars import Context
from typing import Any, Literal, TextIO, TypeAlias, overload

from typing_extensions import ParamSpec, TypeVar

from ._bridges._functions import SyncFunction, SyncGeneratorFunction
from ._bridges._iterators import SyncGenerator, SyncIterator
from ._executor import AsyncLoopExecutor

_P = ParamSpec("_P")
_T = TypeVar("_T")
_T1 = TypeVar("_T1")
_T2 = TypeVar("_T2")
_T3 = TypeVar("_T3")
_T4 = TypeVar("_T4")
_T5 = TypeVar("_T5")
_T6 = TypeVar("_T6")
_SendT = TypeVar("_SendT")
_ExitT = TypeVar("_ExitT", bound=bool | None)

_Gatherable: TypeAlias = Awaitable[_T] | Future[_T]

def dump(file: TextIO | None = None) -> None: ...
def get_executor() -> AsyncLoopExecutor: ...
def set_executor(executor: AsyncLoopExecutor | None) -> AsyncLoopExecutor | None: ...
def shutdown(
    wait: bool = True, *, cancel_futures: bool = False, timeout: float | None = None
) -> None: ...
def run(
    coro: Coroutine[Any, Any, _T],
    *,
    timeout: float | None = None,
    context: Context | None = None,
) -> _T: ...

# Typed as asyncio.gather is in typeshed, ignores included: a tuple, which has a type for each
# item, though it is a list that comes back.
@overload
def gather(  # type: ignore[overload-overlap]
    coro_or_future1: _Gatherable[_T1],
    /,
    *,
    return_exceptions: Literal[False] = False,
    timeout: float | None = None,
) -> tuple[_T1]: ...
@overload
def gather(  # type: ignore[overload-overlap]
    coro_or_future1: _Gatherable[_T1],
    coro_or_future2: _Gatherable[_T2],
    /,
    *,
    return_exceptions: Literal[False] = False,
    timeout: float | None = None,
) -> tuple[_T1, _T2]: ...
@overload
def gather(  # type: ignore[overload-overlap]
    coro_or_future1: _Gatherable[_T1],
    coro_or_future2: _Gatherable[_T2],
    coro_or_future3: _Gatherable[_T3],
    /,
    *,
    return_exceptions: Literal[False] = False,
    timeout: float | None = None,
) -> tuple[_T1, _T2, _T3]: ...
@overload
def gather(  # type: ignore[overload-overlap]
    coro_or_future1: _Gatherable[_T1],
    coro_or_future2: _Gatherable[_T2],
    coro_or_future3: _Gatherable[_T3],
    coro_or_future4: _Gatherable[_T4],
    /,
    *,
    return_exceptions: Literal[False] = False,
    timeout: float | None = None,
) -> tuple[_T1, _T2, _T3, _T4]: ...
@overload
def gather(  # type: ignore[overload-overlap]
    coro_or_future1: _Gatherable[_T1],
    coro_or_future2: _Gatherable[_T2],
    coro_or_future3: _Gatherable[_T3],
    coro_or_future4: _Gatherable[_T4],
    coro_or_future5: _Gatherable[_T5],
    /,
    *,
    return_exceptions: Literal[False] = False,
    timeout: float | None = None,
) -> tuple[_T1, _T2, _T3, _T4, _T5]: ...
@overload
def gather(  # type: ignore[overload-overlap]
    coro_or_future1: _Gatherable[_T1],
    coro_or_future2: _Gatherable[_T2],
    coro_or_future3: _Gatherable[_T3],
    coro_or_future4: _Gatherable[_T4],
    coro_or_future5: _Gatherable[_T5],
    coro_or_future6: _Gatherable[_T6],
    /,
    *,
    return_exceptions: Literal[False] = False,
    timeout: float | None = None,
) -> tuple[_T1, _T2, _T3, _T4, _T5, _T6]: ...
@overload
def gather(  # type: ignore[overload-overlap]
    *coros_or_futures: _Gatherable[_T],
    return_exceptions: Literal[False] = False,
    timeout: float | None = None,
) -> list[_T]: ...
@overload
def gather(  # pyright: ignore[reportOverlappingOverload]
    coro_or_future1: _Gatherable[_T1],
    /,
    *,
    return_exceptions: bool,
    timeout: float | None = None,
) -> tuple[_T1 | BaseException]: ...
@overload
def gather(
    coro_or_future1: _Gatherable[_T1],
    coro_or_future2: _Gatherable[_T2],
    /,
    *,
    return_exceptions: bool,
    timeout: float | None = None,
) -> tuple[_T1 | BaseException, _T2 | BaseException]: ...
@overload
def gather(
    coro_or_future1: _Gatherable[_T1],
    coro_or_future2: _Gatherable[_T2],
    coro_or_future3: _Gatherable[_T3],
    /,
    *,
    return_exceptions: bool,
    timeout: float | None = None,
) -> tuple[_T1 | BaseException, _T2 | BaseException, _T3 | BaseException]: ...
@overload
def gather(
    coro_or_future1: _Gatherable[_T1],
    coro_or_future2: _Gatherable[_T2],
    coro_or_future3: _Gatherable[_T3],
    coro_or_future4: _Gatherable[_T4],
    /,
    *,
    return_exceptions: bool,
    timeout: float | None = None,
) -> tuple[_T1 | BaseException, _T2 | BaseException, _T3 | BaseException, _T4 | BaseException]: ...
@overload
def gather(
    coro_or_future1: _Gatherable[_T1],
    coro_or_future2: _Gatherable[_T2],
    coro_or_future3: _Gatherable[_T3],
    coro_or_future4: _Gatherable[_T4],
    coro_or_future5: _Gatherable[_T5],
    /,
    *,
    return_exceptions: bool,
    timeout: float | None = None,
) -> tuple[
    _T1 | BaseException,
    _T2 | BaseException,
    _T3 | BaseException,
    _T4 | BaseException,
    _T5 | BaseException,
]: ...
@overload
def gather(
    coro_or_future1: _Gatherable[_T1],
    coro_or_future2: _Gatherable[_T2],
    coro_or_future3: _Gatherable[_T3],
    coro_or_future4: _Gatherable[_T4],
    coro_or_future5: _Gatherable[_T5],
    coro_or_future6: _Gatherable[_T6],
    /,
    *,
    return_exceptions: bool,
    timeout: float | None = None,
) -> tuple[
    _T1 | BaseException,
    _T2 | BaseException,
    _T3 | BaseException,
    _T4 | BaseException,
    _T5 | BaseException,
    _T6 | BaseException,
]: ...
@overload
def gather(
    *coros_or_futures: _Gatherable[_T],
    return_exceptions: bool,
    timeout: float | None = None,
) -> list[_T | BaseException]: ...
def get_loop() -> asyncio.AbstractEventLoop: ...
@overload
def sync(fn: Callable[_P, Awaitable[_T]]) -> SyncFunction[_P, _T]: ...
@overload
def sync(
    fn: Callable[_P, AsyncGenerator[_T, _SendT]],
) -> SyncGeneratorFunction[_P, SyncGenerator[_T, _SendT]]: ...
@overload
def sync(
    fn: Callable[_P, AsyncIterable[_T]],
) -> SyncGeneratorFunction[_P, SyncIterator[_T]]: ...
@overload
def sync_iter(
    aiterable: AsyncGenerator[_T, _SendT],
    *,
    buffersize: None = None,
) -> SyncGenerator[_T, _SendT]: ...
@overload
def sync_iter(
    aiterable: AsyncIterable[_T] | Callable[[], AsyncIterable[_T]],
    *,
    buffersize: int | None = None,
) -> SyncIterator[_T]: ...
def sync_context(
    acm: AbstractAsyncContextManager[_T, _ExitT]
    | Callable[[], AbstractAsyncContextManager[_T, _ExitT]],
) -> AbstractContextManager[_T, _ExitT]: ...
def enter_context(
    acm: AbstractAsyncContextManager[_T] | Callable[[], AbstractAsyncContextManager[_T]],
) -> _T: ...
def cached_context(factory: Callable[[], AbstractAsyncContextManager[_T]]) -> Callable[[], _T]: ...
def push_async_callback(
    fn: Callable[_P, Awaitable[_T]], /, *args: _P.args, **kwargs: _P.kwargs
) -> Callable[_P, Awaitable[_T]]: ...
