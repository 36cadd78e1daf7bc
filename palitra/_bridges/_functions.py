"""Synchronous faces of async functions, accepted wherever a function is.

What `sync` makes is called a face here. A face is an object, and not a function, for one reason:
``obj.method.submit`` must know ``obj``, and Python's own bound methods hand the attributes of their
function on without binding them. In all else, other code takes a face for a function. The face
holds a plain function, made as by `functools.wraps`, and each attribute is read, set and deleted
there: name, annotations, ``__dict__``, ``__code__``, and ``__class__`` too, so that `isinstance`
and `inspect` take the face for a function. `_SyncMethod` does the same for a bound method.

Python goes by the real type when a face is called, bound, copied or pickled, so these methods are
defined here. A face has no state but its function, and the function none but its `_Body`. So
cloudpickle sends the function by value, and the receiver makes a face of it.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import typing
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import Future
from types import FrameType, FunctionType, MethodType
from typing import Any, Generic, NoReturn, ParamSpec, TypeVar

from .._words import close_if_coroutine, name_of

_P = ParamSpec("_P")
_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)

# The beginnings of attributes that mark a function as one that returns a coroutine: asyncio's and
# inspect's, whose names differ between Pythons, and Tornado's.
_COROUTINE_MARKS = ("_is_coroutine", "__tornado_coroutine__")

# The attributes that a face has itself, and those that a bound face has. All others are those of
# the function.
_OWN = frozenset({
    "_body", "_function", "_is_found_by_name",
    "__call__", "__class__", "__copy__", "__deepcopy__", "__dir__", "__eq__", "__get__",
    "__hash__", "__ne__", "__reduce__", "__reduce_ex__", "__repr__", "__str__",
})  # fmt: skip
_OWN_BOUND = frozenset({
    "__func__", "__self__", "__wrapped__",
    "__call__", "__class__", "__copy__", "__deepcopy__", "__dir__", "__eq__", "__get__",
    "__hash__", "__ne__", "__reduce__", "__reduce_ex__", "__repr__", "__str__",
})  # fmt: skip

_own = object.__getattribute__  # reads an attribute of the face itself


class _Body:
    """What a face runs: a function, and where."""

    __slots__ = ("fn", "get_executor", "is_async", "remake")

    def __init__(
        self,
        fn: Callable[..., Any],
        get_executor: Callable[[], Any],
        remake: Callable[[Callable[..., Any]], Any] | None,
    ) -> None:
        self.fn = fn
        self.get_executor = get_executor
        self.remake = remake
        self.is_async = _is_async(fn)

    def __reduce__(self) -> tuple[Any, ...]:
        self.check_picklable()
        return type(self), (self.fn, self.get_executor, self.remake)

    def check_picklable(self) -> None:
        if self.remake is None:
            raise TypeError(
                f"the synchronous {name_of(self.fn)} cannot be pickled, because its executor "
                "cannot: use palitra.sync, or decorate a function of a module"
            )


class _Call(_Body):
    """Calls, and awaits what is returned."""

    __slots__ = ()

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        executor = self.get_executor()
        coro = self.fn(*args, **kwargs) if self.is_async else _named_call(self.fn, args, kwargs)
        return executor.run(coro)

    def submit(self, /, *args: Any, **kwargs: Any) -> Future[Any]:
        executor = self.get_executor()
        future: Future[Any]
        if self.is_async:
            future = executor.submit(self.fn, *args, **kwargs)
        else:
            future = executor.submit(_named_call(self.fn, args, kwargs))
        return future


class _Iteration(_Body):
    """Calls, and iterates over what is returned."""

    __slots__ = ()

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self.get_executor().sync_iter(self.fn(*args, **kwargs))


def _function_over(body: _Call) -> Any:
    def function(*args: Any, **kwargs: Any) -> Any:
        return body(*args, **kwargs)

    return function


def _generator_function_over(body: _Iteration) -> Any:
    def function(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        return (yield from body(*args, **kwargs))

    return function


class _Doc:
    """The docstring of a class, and, on an instance, that of its function.

    `pydoc` asks the class for both.
    """

    def __init__(self, of_class: str | None) -> None:
        self._of_class = of_class

    def __get__(self, instance: Any, owner: object = None, /) -> str | None:
        doc: str | None = self._of_class if instance is None else instance.__doc__
        return doc


class _Synchronous(Generic[_P]):
    """A face of a function: what it shows of it, its binding to instances, its pickling."""

    __slots__ = ("__weakref__", "_function")

    def __init__(self, function: Callable[..., Any], /) -> None:
        object.__setattr__(self, "_function", function)

    @property
    def _body(self) -> Any:
        # Read only when it is needed: when cloudpickle makes a face, the closure is still empty.
        return _own(self, "_function").__closure__[0].cell_contents

    @property  # type: ignore[misc]
    def __class__(self) -> type[Any]:
        # cloudpickle must see the real class. Otherwise it would send a plain function, and put
        # that in the place of the face, even in the sender.
        asking = sys._getframe(1).f_back  # the frame that has called `__getattribute__`
        return type(self) if _is_cloudpickle(asking) else FunctionType

    def __getattribute__(self, name: str) -> Any:
        if name in _OWN:
            return _own(self, name)
        function = _own(self, "_function")
        if name == "submit" and name not in function.__dict__:
            return _own(self, name)
        return getattr(function, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._function, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._function, name)

    def __dir__(self) -> list[str]:
        return sorted({*dir(self._function), *({"submit"} & {*dir(type(self))})})

    def __get__(self, instance: object, owner: type[Any] | None = None, /) -> Any:
        fn = self._body.fn
        if not hasattr(type(fn), "__get__"):
            return self
        bound = fn.__get__(instance, owner)
        if bound is fn:
            return self
        if type(bound) is MethodType and bound.__func__ is fn:
            return _SyncMethod(self, bound.__self__)
        # *fn* is an object that binds in its own way, such as one that a decorator has made.
        face = sync(bound, self._body.get_executor, self._body.remake)
        if instance is not None:
            face.__self__ = instance
        return face

    def __repr__(self) -> str:
        return f"<synchronous function {self.__qualname__} at {id(self):#x}>"

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: dict[int, Any], /) -> Any:
        return self

    def __reduce__(self) -> str | tuple[Any, ...]:
        asking = sys._getframe().f_back
        cloudpickle = asking if _is_cloudpickle(asking) else None
        if self._is_found_by_name() and not _is_sent_by_value(self.__module__, cloudpickle):
            qualname: str = self.__qualname__
            return qualname
        if cloudpickle is not None:
            return type(self), (self._function,)
        # Only the original is found by its name: pickle that, and have it made synchronous again.
        body = self._body
        body.check_picklable()
        return body.remake, (body.fn,)

    def _is_found_by_name(self) -> bool:
        found: Any = sys.modules.get(self.__module__)
        for name in self.__qualname__.split("."):
            found = getattr(found, name, None)
        return found is self


class SyncFunction(_Synchronous[_P], Generic[_P, _T]):
    """A function that runs an async function on an executor's loop and waits for it.

    Made by `sync`. Such an object has the name, the docstring, the signature, the annotations and
    the attributes of the async function, which is its ``__wrapped__``. `isinstance` and `inspect`
    take it for a function, and, read from an instance, for a bound method.

    Any thread may call it.

    >>> import palitra
    >>> @palitra.sync
    ... async def double(x):
    ...     return 2 * x
    >>> double(21), double.__name__
    (42, 'double')

    .. versionadded:: 0.2.0
    """

    __slots__ = ()

    __wrapped__: Callable[_P, Awaitable[_T]]
    __name__: str
    __qualname__: str

    def __call__(self, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        result: _T = _own(self, "_body")(*args, **kwargs)
        return result

    def submit(self, /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Call the async function without waiting for it, and return the future.

        Args:
            *args: Positional arguments for the function.
            **kwargs: Keyword arguments for the function.

        Returns:
            A `concurrent.futures.Future`, as `AsyncLoopExecutor.submit` returns it.

        Raises:
            RuntimeError: The executor is shut down.
            concurrent.futures.BrokenExecutor: The loop has failed.

        Thread-safe; does not wait.

        >>> import palitra
        >>> @palitra.sync
        ... async def double(x):
        ...     return 2 * x
        >>> double.submit(21).result()
        42

        .. versionadded:: 0.2.0
        """
        future: Future[_T] = self._body.submit(*args, **kwargs)
        return future


class SyncGeneratorFunction(_Synchronous[_P], Generic[_P, _T_co]):
    """A function that returns a synchronous iterator over what an async generator function makes.

    Made by `sync`. Such an object has what a `SyncFunction` has, except ``submit``, and `inspect`
    takes it for a generator function.

    Any thread may call it; the iterator that a call returns is for one thread at a time.

    >>> import palitra
    >>> @palitra.sync
    ... async def count(n):
    ...     for i in range(n):
    ...         yield i
    >>> list(count(3))
    [0, 1, 2]

    .. versionadded:: 0.2.0
    """

    __slots__ = ()

    __wrapped__: Callable[_P, Any]
    __name__: str
    __qualname__: str

    def __call__(self, /, *args: _P.args, **kwargs: _P.kwargs) -> _T_co:
        iterator: _T_co = self._body(*args, **kwargs)
        return iterator


class _SyncMethod:
    """A face bound to an instance, or to a class: a method that has its function's ``submit``."""

    __slots__ = ("__func__", "__self__", "__weakref__")

    def __init__(self, func: Any, instance: object, /) -> None:
        object.__setattr__(self, "__func__", func)
        object.__setattr__(self, "__self__", instance)

    def __getattribute__(self, name: str) -> Any:
        if name in _OWN_BOUND:
            return _own(self, name)
        of_function = getattr(_own(self, "__func__"), name)
        return _own(self, name) if name == "submit" else of_function

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"'method' object has no attribute {name!r}")

    def __dir__(self) -> list[str]:
        return sorted({*dir(MethodType), *dir(self.__func__)})

    @property  # type: ignore[misc]
    def __class__(self) -> type[MethodType]:  # type: ignore[override]
        return MethodType

    @property
    def __wrapped__(self) -> MethodType:
        return MethodType(self.__func__.__wrapped__, self.__self__)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return _own(self, "__func__")(_own(self, "__self__"), *args, **kwargs)

    def submit(self, /, *args: Any, **kwargs: Any) -> Any:
        return self.__func__.submit(self.__self__, *args, **kwargs)

    def __get__(self, instance: object, owner: type[Any] | None = None, /) -> _SyncMethod:
        return self

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MethodType):
            return NotImplemented
        same: bool = self.__self__ is other.__self__ and self.__func__ == other.__func__
        return same

    def __hash__(self) -> int:
        return hash((id(self.__self__), self.__func__))

    def __repr__(self) -> str:
        return f"<synchronous method {self.__qualname__} of {self.__self__!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        func, instance = self.__func__, self.__self__
        if not func._is_found_by_name():
            # Under that name there is a class method, or something else that is made of *func*.
            name: str = func.__name__
            if getattr(instance, name, None) == self:
                return getattr, (instance, name)
        return _SyncMethod, (func, instance)


for _face in SyncFunction, SyncGeneratorFunction, _SyncMethod:
    _face.__doc__ = _Doc(_face.__doc__)  # type: ignore[assignment]


class _SyncClassMethod(classmethod):  # type: ignore[type-arg]
    """A class method that binds its function as a face does, ``submit`` included.

    Since Python 3.13, the interpreter's own class methods bind the call alone.
    """

    def __get__(self, instance: object, owner: type[Any] | None = None, /) -> Any:
        return self.__func__.__get__(type(instance) if owner is None else owner)

    def __reduce__(self) -> tuple[Any, ...]:
        return _SyncClassMethod, (self.__func__,)


def _is_cloudpickle(frame: FrameType | None) -> bool:
    """Whether *frame* is cloudpickle's, of which joblib, Ray and Spark have copies of their own."""
    module = None if frame is None else frame.f_globals.get("__name__")
    return str(module).rpartition(".")[2] in {"cloudpickle", "cloudpickle_fast"}


def _is_sent_by_value(module: str, cloudpickle: FrameType | None) -> bool:
    """Whether cloudpickle asks, and sends a module's functions by value though they have names."""
    if cloudpickle is None:
        return False
    registered = cloudpickle.f_globals.get("list_registry_pickle_by_value", set)()
    return any(f"{module}.".startswith(f"{name}.") for name in {"__main__", *registered})


# Since 3.14 annotations are evaluated when somebody asks for them, and the names may come later.
_ANNOTATIONS = ["__annotate__" if sys.version_info >= (3, 14) else "__annotations__"]


def _described(function: Any, fn: Any) -> Any:
    """Return *function* as by `functools.wraps`, but without the marks of coroutine functions."""
    attributes = {
        name: value
        for name, value in getattr(fn, "__dict__", {}).items()
        if not name.startswith(_COROUTINE_MARKS) and name != "submit"
    }
    function.__annotations__ = {}
    named = fn
    while isinstance(named, functools.partial):
        named = named.func
    if hasattr(named, "__name__"):
        functools.update_wrapper(function, named, updated=())
    else:
        functools.update_wrapper(function, type(named), updated=())
        functools.update_wrapper(function, type(named).__call__, _ANNOTATIONS, ())
        function.__doc__ = named.__doc__
    if named is not fn or not hasattr(named, "__globals__"):
        # `typing.get_type_hints` looks for the names in the annotations where *fn* has them.
        with contextlib.suppress(Exception):  # a text that is no type, or names that come later
            function.__annotations__ = typing.get_type_hints(function, include_extras=True)
    function.__dict__.update(attributes, __wrapped__=fn)
    return function


def _is_async(fn: Any) -> bool:
    """Whether calling *fn* makes a coroutine, and runs no code of the user's."""
    while isinstance(fn, functools.partial) or type(fn) is MethodType:
        fn = fn.func if isinstance(fn, functools.partial) else fn.__func__
    return type(fn) is FunctionType and bool(fn.__code__.co_flags & inspect.CO_COROUTINE)


async def _awaited(fn: Callable[..., Awaitable[_T]], args: Any, kwargs: Any) -> _T:
    result = fn(*args, **kwargs)
    if not inspect.isawaitable(result):
        raise TypeError(
            f"{name_of(fn)}() returned {result!r}, which cannot be awaited: sync() is for "
            "functions that return an awaitable"
        )
    return await result


def _named_call(fn: Callable[..., Awaitable[_T]], args: Any, kwargs: Any) -> Any:
    """A coroutine of *fn*'s name that calls *fn* on the loop and awaits what it returns."""
    coro: Any = _awaited(fn, args, kwargs)
    coro.__qualname__ = name_of(fn)
    coro.__name__ = coro.__qualname__.rpartition(".")[2]
    return coro


def sync(
    fn: Any,
    get_executor: Callable[[], Any],
    remake: Callable[[Callable[..., Any]], Any] | None = None,
) -> Any:
    """Make a synchronous function of an async one, over whatever *get_executor* returns."""
    if isinstance(fn, classmethod):
        return _SyncClassMethod(sync(fn.__func__, get_executor, remake))
    if isinstance(fn, staticmethod):
        return staticmethod(sync(fn.__func__, get_executor, remake))
    if type(fn) is MethodType:  # not `isinstance`, which takes `_SyncMethod` for a method too
        return _SyncMethod(sync(fn.__func__, get_executor, remake), fn.__self__)
    if not callable(fn):
        hint = ": pass the function itself" if inspect.isawaitable(fn) else ""
        close_if_coroutine(fn)
        raise TypeError(f"sync() takes an async function, not {fn!r}{hint}")
    called = fn
    while isinstance(called, functools.partial):
        called = called.func
    if inspect.isasyncgenfunction(called) or inspect.isasyncgenfunction(type(called).__call__):
        iterates = _generator_function_over(_Iteration(fn, get_executor, remake))
        return SyncGeneratorFunction(_described(iterates, fn))
    calls = _function_over(_Call(fn, get_executor, remake))
    return SyncFunction(_described(calls, fn))
