"""What palitra says: names, hints, places, and tracebacks without frames of its own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import inspect
import logging
import sys
from types import FrameType, TracebackType
from typing import Any, TypeVar, cast

_ExcT = TypeVar("_ExcT", bound=BaseException)

LOGGER = logging.getLogger("palitra")
_PACKAGE = __name__.rpartition(".")[0]
_TRACEBACK: Any = BaseException.__dict__["__traceback__"]
_ARGS: Any = BaseException.__dict__["args"]


def name_of(what: object) -> str:
    """The name of a callable, coroutine or context manager, for people."""
    # By the type itself: `isinstance` asks the object for its class, which may raise.
    while issubclass(type(what), functools.partial):
        what = what.func  # type: ignore[attr-defined]
    if type(what) is contextlib._AsyncGeneratorContextManager:
        what = what.gen
    try:
        name = getattr(what, "__qualname__", None)
    except Exception:  # raised by a property of a user's class
        name = None
    # Not a subclass of str, which may have methods that raise.
    return str.__str__(name) if isinstance(name, str) else object.__repr__(what)


def hint(obj: Any) -> str:
    """For an error message: what to write instead of *obj*, which the function does not take."""
    if inspect.isasyncgen(obj) or inspect.isasyncgenfunction(obj):
        return ": use sync_iter()"
    if isinstance(obj, concurrent.futures.Future):
        return ": use its result(), or gather()"
    if inspect.isawaitable(obj):
        return ": use gather(), or await it in a coroutine"
    if callable(obj):
        return ": call it, f() instead of f"
    return ""


def close_if_coroutine(obj: object) -> None:
    """Close a coroutine that nobody will await, so that Python does not warn about it.

    What its clean-up raises is logged: whoever closes it has a call to settle.
    """
    if asyncio.iscoroutine(obj):
        try:
            obj.close()
        except KeyboardInterrupt:
            raise
        except BaseException:
            LOGGER.exception("closing %s failed", name_of(obj))


def user_traceback(exc: _ExcT) -> _ExcT:
    """Return *exc* without the frames at the head of its traceback that are palitra's own.

    These frames tell users nothing, and would make a cycle: a frame holds the call, and the call
    holds the exception.
    """
    tb = traceback_of(exc)
    while tb is not None and _is_ours(tb.tb_frame):
        tb = tb.tb_next
    BaseException.with_traceback(exc, tb)
    return exc


def traceback_of(exc: BaseException) -> TracebackType | None:
    """The traceback of *exc*, even if its class has replaced the attribute by one that raises."""
    tb: TracebackType | None = _TRACEBACK.__get__(exc)
    return tb


def args_of(exc: BaseException) -> tuple[Any, ...]:
    """The arguments of *exc*, as `traceback_of` its traceback."""
    args: tuple[Any, ...] = _ARGS.__get__(exc)
    return args


def _is_ours(frame: FrameType) -> bool:
    package = frame.f_globals.get("__package__")
    return package == _PACKAGE or (isinstance(package, str) and package.startswith(f"{_PACKAGE}."))


def shown(error: BaseException) -> str:
    """The `repr` of *error*, whose own may raise."""
    try:
        return repr(error)
    except Exception:
        return f"a {type(error).__qualname__}"


def in_words(name: str, kind: str, state: str, age: float, place: object) -> str:
    """One call, for a text: what it is, and where it stands, if that is known."""
    where = "" if place is None else f", at {place}"
    return f"{name} ({kind}, {state} for {age:.1f} s){where}"


def place(frame: FrameType) -> str:
    """Where *frame* stands, for a text."""
    code = frame.f_code
    return f"at {code.co_filename}:{frame.f_lineno} in {code.co_qualname}"


def current_frames() -> dict[int, FrameType]:
    """Where each thread stands; empty where the interpreter cannot tell.

    The caller stands there, too. So a variable that keeps the dictionary makes a cycle, and what
    all threads hold stays until a collection: take the caller out, or delete the variable.
    """
    return cast("dict[int, FrameType]", getattr(sys, "_current_frames", dict)())  # no variable
