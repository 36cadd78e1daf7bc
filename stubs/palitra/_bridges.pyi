from collections.abc import Awaitable, Callable, Generator, Iterator
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Concatenate, Generic, Self, overload

from typing_extensions import ParamSpec, TypeVar

from palitra._loop import LoopThread

_P = ParamSpec("_P")
_RestP = ParamSpec("_RestP")
_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)
_InstanceT = TypeVar("_InstanceT")
_OwnerT = TypeVar("_OwnerT")
_ResultT = TypeVar("_ResultT")
_SendT_contra = TypeVar("_SendT_contra", contravariant=True)

class SyncIterator(Iterator[_T_co]):
    def __next__(self) -> _T_co: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None: ...

class SyncGenerator(SyncIterator[_T_co], Generator[_T_co, _SendT_contra, None]):
    def send(self, value: _SendT_contra, /) -> _T_co: ...
    @overload
    def throw(
        self,
        typ: type[BaseException],
        val: BaseException | object = None,
        tb: TracebackType | None = None,
        /,
    ) -> _T_co: ...
    @overload
    def throw(
        self, typ: BaseException, val: None = None, tb: TracebackType | None = None, /
    ) -> _T_co: ...

class SyncFunction(Generic[_P, _T]):
    __name__: str
    __qualname__: str
    __wrapped__: Callable[_P, Awaitable[_T]]
    def __call__(self, /, *args: _P.args, **kwargs: _P.kwargs) -> _T: ...
    def submit(self, /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]: ...
    @overload
    def __get__(
        self: Callable[Concatenate[_OwnerT, _RestP], _ResultT], instance: object, owner: _OwnerT, /
    ) -> SyncFunction[_RestP, _ResultT]: ...
    @overload
    def __get__(self, instance: None, owner: type[Any], /) -> Self: ...
    @overload
    def __get__(
        self: Callable[Concatenate[_InstanceT, _RestP], _ResultT],
        instance: _InstanceT,
        owner: type[Any] | None = None,
        /,
    ) -> SyncFunction[_RestP, _ResultT]: ...
    @overload
    def __get__(self, instance: object, owner: type[Any] | None = None, /) -> Self: ...

class SyncGeneratorFunction(Generic[_P, _T_co]):
    __name__: str
    __qualname__: str
    __wrapped__: Callable[_P, Any]
    def __call__(self, /, *args: _P.args, **kwargs: _P.kwargs) -> _T_co: ...
    @overload
    def __get__(
        self: Callable[Concatenate[_OwnerT, _RestP], _ResultT], instance: object, owner: _OwnerT, /
    ) -> SyncGeneratorFunction[_RestP, _ResultT]: ...
    @overload
    def __get__(self, instance: None, owner: type[Any], /) -> Self: ...
    @overload
    def __get__(
        self: Callable[Concatenate[_InstanceT, _RestP], _ResultT],
        instance: _InstanceT,
        owner: type[Any] | None = None,
        /,
    ) -> SyncGeneratorFunction[_RestP, _ResultT]: ...
    @overload
    def __get__(self, instance: object, owner: type[Any] | None = None, /) -> Self: ...

# What AsyncLoopExecutor's methods of these names are made of.
def sync_iter(
    executor: Executor, loop_thread: LoopThread, source: object, buffersize: int | None
) -> SyncIterator[Any]: ...
def sync_context(
    executor: Executor, loop_thread: LoopThread, source: object
) -> AbstractContextManager[Any, Any]: ...
def enter_context(loop_thread: LoopThread, source: object) -> Any: ...
def sync(
    fn: Any,
    get_executor: Callable[[], Any],
    remake: Callable[[Callable[..., Any]], Any] | None = None,
) -> Any: ...
