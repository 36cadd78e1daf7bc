"""Synchronous faces of async functions."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from types import MethodType
from typing import Any, Generic, ParamSpec, TypeVar, cast

from palitra._words import close_if_coroutine, name_of

_P = ParamSpec("_P")
_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)


class _Synchronous(Generic[_P]):
    """A synchronous face of a function: its names, its binding to instances, its pickling."""

    __wrapped__: Callable[_P, Any]
    __name__: str
    __qualname__: str

    def __init__(
        self,
        fn: Callable[_P, Any],
        get_executor: Callable[[], Any],
        remake: Callable[[Callable[..., Any]], Any] | None,
    ) -> None:
        # Not the attributes of *fn*: one of them may say that it is a coroutine function.
        functools.update_wrapper(cast(Callable[..., Any], self), fn, updated=())
        self._get_executor = get_executor
        self._remake = remake

    def __get__(self, instance: object, owner: type[Any] | None = None, /) -> Any:
        wrapped: Any = self.__wrapped__
        if not hasattr(type(wrapped), "__get__"):
            return self
        bound = wrapped.__get__(instance, owner)
        if bound is wrapped:
            return self
        return type(self)(bound, self._get_executor, self._remake)

    def __repr__(self) -> str:
        return f"<synchronous {name_of(self.__wrapped__)} at {id(self):#x}>"

    def __reduce__(self) -> str | tuple[Any, ...]:
        # A method is found on its object, a decorated function under its own name; otherwise the
        # function is, and is made synchronous again.
        if isinstance(self.__wrapped__, MethodType):
            return getattr, (self.__wrapped__.__self__, self.__wrapped__.__name__)
        qualname: str = getattr(self, "__qualname__", "")
        found: Any = sys.modules.get(self.__module__)
        for name in qualname.split("."):
            found = getattr(found, name, None)
        if found is self:
            return qualname
        if self._remake is None:
            raise TypeError(
                f"{self!r} cannot be pickled, because its executor cannot: use palitra.sync, or "
                "decorate a function of a module"
            )
        return self._remake, (self.__wrapped__,)


class SyncFunction(_Synchronous[_P], Generic[_P, _T]):
    """A function that runs an async function on an executor's loop and waits for it.

    Made by `sync`. It has the name, the docstring and the signature of the async function.

    .. versionadded:: 0.2.0
    """

    __wrapped__: Callable[_P, Awaitable[_T]]

    def __call__(self, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        result: _T = self._get_executor().run(_call(self.__wrapped__, args, kwargs))
        return result

    def submit(self, /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Call without waiting, and return the `concurrent.futures.Future`."""
        future: Future[_T] = self._get_executor().submit(_call(self.__wrapped__, args, kwargs))
        return future


class SyncGeneratorFunction(_Synchronous[_P], Generic[_P, _T_co]):
    """A function that returns a synchronous iterator over what an async generator function makes.

    Made by `sync`. It has the name, the docstring and the signature of the async function.

    .. versionadded:: 0.2.0
    """

    def __call__(self, /, *args: _P.args, **kwargs: _P.kwargs) -> _T_co:
        iterator: _T_co = self._get_executor().sync_iter(self.__wrapped__(*args, **kwargs))
        return iterator


async def _call(
    fn: Callable[..., Awaitable[_T]], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> _T:
    result = fn(*args, **kwargs)
    if not inspect.isawaitable(result):
        raise TypeError(
            f"{name_of(fn)}() returned {result!r}, which cannot be awaited: sync() is for "
            "functions that return an awaitable"
        )
    return await result


def sync(
    fn: Any,
    get_executor: Callable[[], Any],
    remake: Callable[[Callable[..., Any]], Any] | None = None,
) -> Any:
    """Make a synchronous function of an async one, over whatever *get_executor* returns."""
    called = fn.__func__ if isinstance(fn, classmethod | staticmethod) else fn
    if not callable(called):
        hint = ": pass the function itself" if inspect.isawaitable(fn) else ""
        close_if_coroutine(fn)
        raise TypeError(f"sync() takes an async function, not {fn!r}{hint}")
    while isinstance(called, functools.partial):
        called = called.func
    if inspect.isasyncgenfunction(called) or inspect.isasyncgenfunction(type(called).__call__):
        return SyncGeneratorFunction(fn, get_executor, remake)
    return SyncFunction(fn, get_executor, remake)
