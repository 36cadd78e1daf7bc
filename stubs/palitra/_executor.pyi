import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
)
from concurrent.futures import Executor, Future
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from contextvars import Context
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TypeAlias, overload

from typing_extensions import ParamSpec, TypeVar, TypeVarTuple

from ._bridges._functions import SyncFunction, SyncGeneratorFunction
from ._bridges._iterators import SyncGenerator, SyncIterator
from ._records import CallInfo

_P = ParamSpec("_P")
_T = TypeVar("_T")
_T1 = TypeVar("_T1")
_T2 = TypeVar("_T2")
_T3 = TypeVar("_T3")
_T4 = TypeVar("_T4")
_T5 = TypeVar("_T5")
_T6 = TypeVar("_T6")
_T_co = TypeVar("_T_co", covariant=True)
_Ts = TypeVarTuple("_Ts")
_SendT = TypeVar("_SendT")
_ExitT = TypeVar("_ExitT", bound=bool | None)

_Gatherable: TypeAlias = Awaitable[_T] | Future[_T]

# Only a callable whose parameters are unknown, such as Callable[..., T], matches this.
class _AnyParameters(Protocol[_T_co]):
    def __call__(self, *args: object, **kwargs: object) -> _T_co: ...

class AsyncLoopExecutor(Executor):
    @overload
    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[[], object] | None = None,
        initargs: tuple[()] = (),
        *,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
        debug: bool | None = None,
        exit_timeout: float | None = None,
        stall_timeout: float | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        *,
        initializer: Callable[[*_Ts], object],
        initargs: tuple[*_Ts],
        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
        debug: bool | None = None,
        exit_timeout: float | None = None,
        stall_timeout: float | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        max_workers: int | None,
        thread_name_prefix: str,
        initializer: Callable[[*_Ts], object],
        initargs: tuple[*_Ts],
        *,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
        debug: bool | None = None,
        exit_timeout: float | None = None,
        stall_timeout: float | None = None,
    ) -> None: ...
    @overload
    @classmethod
    def from_loop(
        cls,
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[[], object] | None = None,
        initargs: tuple[()] = (),
        exit_timeout: float | None = None,
        stall_timeout: float | None = None,
    ) -> Self: ...
    @overload
    @classmethod
    def from_loop(
        cls,
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[[*_Ts], object],
        initargs: tuple[*_Ts],
        exit_timeout: float | None = None,
        stall_timeout: float | None = None,
    ) -> Self: ...
    def __del__(self) -> None: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool | None: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool | None: ...
    def calls(self) -> list[CallInfo]: ...
    @overload
    def submit(
        self, fn: Callable[_P, Awaitable[_T]], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> Future[_T]: ...
    @overload
    def submit(self, fn: Coroutine[Any, Any, _T], /) -> Future[_T]: ...
    @overload
    def submit(
        self, fn: Callable[_P, Awaitable[_T] | _T], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> Future[_T]: ...
    @overload
    def submit_service(
        self, fn: Callable[_P, Coroutine[Any, Any, _T]], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> Future[_T]: ...
    @overload
    def submit_service(self, fn: Coroutine[Any, Any, _T], /) -> Future[_T]: ...
    @overload
    def map(
        self,
        fn: Callable[[_T1], Awaitable[_T]],
        iterable1: Iterable[_T1],
        /,
        *,
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[_T]: ...
    @overload
    def map(
        self,
        fn: Callable[[_T1, _T2], Awaitable[_T]],
        iterable1: Iterable[_T1],
        iterable2: Iterable[_T2],
        /,
        *,
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[_T]: ...
    @overload
    def map(
        self,
        fn: Callable[[_T1, _T2, _T3], Awaitable[_T]],
        iterable1: Iterable[_T1],
        iterable2: Iterable[_T2],
        iterable3: Iterable[_T3],
        /,
        *,
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[_T]: ...
    @overload
    def map(
        self,
        fn: Callable[[_T1, _T2, _T3, _T4], Awaitable[_T]],
        iterable1: Iterable[_T1],
        iterable2: Iterable[_T2],
        iterable3: Iterable[_T3],
        iterable4: Iterable[_T4],
        /,
        *,
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[_T]: ...
    @overload
    def map(
        self,
        fn: Callable[[_T1, _T2, _T3, _T4, _T5], Awaitable[_T]],
        iterable1: Iterable[_T1],
        iterable2: Iterable[_T2],
        iterable3: Iterable[_T3],
        iterable4: Iterable[_T4],
        iterable5: Iterable[_T5],
        /,
        *,
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[_T]: ...
    @overload
    def map(
        self,
        fn: Callable[..., Awaitable[_T]],
        iterable1: Iterable[Any],
        iterable2: Iterable[Any],
        iterable3: Iterable[Any],
        iterable4: Iterable[Any],
        iterable5: Iterable[Any],
        iterable6: Iterable[Any],
        /,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[_T]: ...
    @overload
    def map(
        self,
        fn: _AnyParameters[Awaitable[_T]],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[_T]: ...
    @overload
    def map(
        self,
        fn: Callable[[_T1], Awaitable[_T] | _T],
        iterable1: Iterable[_T1],
        /,
        *,
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[_T]: ...
    @overload
    def map(
        self,
        fn: Callable[[_T1, _T2], Awaitable[_T] | _T],
        iterable1: Iterable[_T1],
        iterable2: Iterable[_T2],
        /,
        *,
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[_T]: ...
    @overload
    def map(
        self,
        fn: Callable[[_T1, _T2, _T3], Awaitable[_T] | _T],
        iterable1: Iterable[_T1],
        iterable2: Iterable[_T2],
        iterable3: Iterable[_T3],
        /,
        *,
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[_T]: ...
    @overload
    def map(
        self,
        fn: Callable[[_T1, _T2, _T3, _T4], Awaitable[_T] | _T],
        iterable1: Iterable[_T1],
        iterable2: Iterable[_T2],
        iterable3: Iterable[_T3],
        iterable4: Iterable[_T4],
        /,
        *,
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[_T]: ...
    @overload
    def map(
        self,
        fn: Callable[[_T1, _T2, _T3, _T4, _T5], Awaitable[_T] | _T],
        iterable1: Iterable[_T1],
        iterable2: Iterable[_T2],
        iterable3: Iterable[_T3],
        iterable4: Iterable[_T4],
        iterable5: Iterable[_T5],
        /,
        *,
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[_T]: ...
    @overload
    def map(
        self,
        fn: Callable[..., Awaitable[_T] | _T],
        iterable1: Iterable[Any],
        iterable2: Iterable[Any],
        iterable3: Iterable[Any],
        iterable4: Iterable[Any],
        iterable5: Iterable[Any],
        iterable6: Iterable[Any],
        /,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[_T]: ...
    @overload
    def map(
        self,
        fn: _AnyParameters[Awaitable[_T] | _T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[_T]: ...
    def shutdown(
        self, wait: bool = True, *, cancel_futures: bool = False, timeout: float | None = None
    ) -> None: ...
    async def aclose(self, *, cancel_futures: bool = False) -> None: ...
    def on_loop(self) -> bool: ...
    def run(
        self,
        coro: Coroutine[Any, Any, _T],
        *,
        timeout: float | None = None,
        context: Context | None = None,
    ) -> _T: ...
    # Typed as asyncio.gather is in typeshed, ignores included: a tuple, which has a type for each
    # item, though it is a list that comes back.
    @overload
    def gather(  # type: ignore[overload-overlap]
        self,
        coro_or_future1: _Gatherable[_T1],
        /,
        *,
        return_exceptions: Literal[False] = False,
        timeout: float | None = None,
    ) -> tuple[_T1]: ...
    @overload
    def gather(  # type: ignore[overload-overlap]
        self,
        coro_or_future1: _Gatherable[_T1],
        coro_or_future2: _Gatherable[_T2],
        /,
        *,
        return_exceptions: Literal[False] = False,
        timeout: float | None = None,
    ) -> tuple[_T1, _T2]: ...
    @overload
    def gather(  # type: ignore[overload-overlap]
        self,
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
        self,
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
        self,
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
        self,
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
        self,
        *coros_or_futures: _Gatherable[_T],
        return_exceptions: Literal[False] = False,
        timeout: float | None = None,
    ) -> list[_T]: ...
    @overload
    def gather(  # pyright: ignore[reportOverlappingOverload]
        self,
        coro_or_future1: _Gatherable[_T1],
        /,
        *,
        return_exceptions: bool,
        timeout: float | None = None,
    ) -> tuple[_T1 | BaseException]: ...
    @overload
    def gather(
        self,
        coro_or_future1: _Gatherable[_T1],
        coro_or_future2: _Gatherable[_T2],
        /,
        *,
        return_exceptions: bool,
        timeout: float | None = None,
    ) -> tuple[_T1 | BaseException, _T2 | BaseException]: ...
    @overload
    def gather(
        self,
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
        self,
        coro_or_future1: _Gatherable[_T1],
        coro_or_future2: _Gatherable[_T2],
        coro_or_future3: _Gatherable[_T3],
        coro_or_future4: _Gatherable[_T4],
        /,
        *,
        return_exceptions: bool,
        timeout: float | None = None,
    ) -> tuple[
        _T1 | BaseException, _T2 | BaseException, _T3 | BaseException, _T4 | BaseException
    ]: ...
    @overload
    def gather(
        self,
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
        self,
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
        self,
        *coros_or_futures: _Gatherable[_T],
        return_exceptions: bool,
        timeout: float | None = None,
    ) -> list[_T | BaseException]: ...
    def get_loop(self) -> asyncio.AbstractEventLoop: ...
    @overload
    def sync(self, fn: Callable[_P, Awaitable[_T]]) -> SyncFunction[_P, _T]: ...
    @overload
    def sync(
        self, fn: Callable[_P, AsyncGenerator[_T, _SendT]]
    ) -> SyncGeneratorFunction[_P, SyncGenerator[_T, _SendT]]: ...
    @overload
    def sync(
        self, fn: Callable[_P, AsyncIterable[_T]]
    ) -> SyncGeneratorFunction[_P, SyncIterator[_T]]: ...
    @overload
    def sync_iter(
        self,
        aiterable: AsyncGenerator[_T, _SendT],
        *,
        buffersize: None = None,
    ) -> SyncGenerator[_T, _SendT]: ...
    @overload
    def sync_iter(
        self,
        aiterable: AsyncIterable[_T] | Callable[[], AsyncIterable[_T]],
        *,
        buffersize: int | None = None,
    ) -> SyncIterator[_T]: ...
    def sync_context(
        self,
        acm: AbstractAsyncContextManager[_T, _ExitT]
        | Callable[[], AbstractAsyncContextManager[_T, _ExitT]],
    ) -> AbstractContextManager[_T, _ExitT]: ...
    def enter_context(
        self, acm: AbstractAsyncContextManager[_T] | Callable[[], AbstractAsyncContextManager[_T]]
    ) -> _T: ...
    def cached_context(
        self, factory: Callable[[], AbstractAsyncContextManager[_T]]
    ) -> Callable[[], _T]: ...
    def push_async_callback(
        self, fn: Callable[_P, Awaitable[_T]], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> Callable[_P, Awaitable[_T]]: ...
