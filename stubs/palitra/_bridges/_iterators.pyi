from collections.abc import Generator, Iterator
from concurrent.futures import Executor
from types import TracebackType
from typing import Any, Self, overload

from typing_extensions import TypeVar

from .._service import Service

_T_co = TypeVar("_T_co", covariant=True)
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

# What AsyncLoopExecutor.sync_iter is made of.
def sync_iter(
    executor: Executor, service: Service, source: object, buffersize: int | None
) -> SyncIterator[Any]: ...
