from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, Concatenate, Generic, Self, overload

from typing_extensions import ParamSpec, TypeVar

_P = ParamSpec("_P")
_RestP = ParamSpec("_RestP")
_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)
_InstanceT = TypeVar("_InstanceT")
_OwnerT = TypeVar("_OwnerT")
_ResultT = TypeVar("_ResultT")

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

# What AsyncLoopExecutor.sync is made of.
def sync(
    fn: Any,
    get_executor: Callable[[], Any],
    remake: Callable[[Callable[..., Any]], Any] | None = None,
) -> Any: ...
