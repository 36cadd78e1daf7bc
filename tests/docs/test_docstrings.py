"""Public docstrings: their examples run as doctests, and they say what a user needs to know."""

import doctest
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from types import FunctionType
from typing import Any

import pytest

import palitra
from palitra._bridges._functions import SyncFunction, SyncGeneratorFunction
from palitra._bridges._iterators import SyncGenerator, SyncIterator

MODULES = ["palitra", *(m.name for m in pkgutil.walk_packages(palitra.__path__, "palitra."))]
MADE = [SyncFunction, SyncGeneratorFunction, SyncIterator, SyncGenerator]
# Their parameters are nobody's business: palitra makes them, or they are records or errors.
NOT_CALLED = {cls.__name__ for cls in MADE} | {"CallInfo", "CallTimeoutError", "DeadlockError"}


def public() -> Iterator[tuple[str, Any]]:
    """Each public name, and the methods of each public class."""
    for thing in [*(getattr(palitra, name) for name in palitra.__all__), *MADE]:
        yield thing.__name__, thing
        if isinstance(thing, type):
            for name, method in vars(thing).items():
                function = getattr(method, "__func__", method)
                if isinstance(function, FunctionType) and (name[0] != "_" or name == "__next__"):
                    yield f"{thing.__name__}.{name}", function


PUBLIC = dict(public())
CALLED = {name: thing for name, thing in PUBLIC.items() if name not in NOT_CALLED}


def doc_of(thing: Any) -> str:
    return inspect.cleandoc(thing.__doc__ or "")


def parameters(thing: Any) -> Iterator[tuple[str, str]]:
    """Each parameter that the docstring describes, with the description."""
    args = re.search(r"^Args:\n((?:    .*\n|\n)+)", doc_of(thing) + "\n", flags=re.MULTILINE)
    for found in re.finditer(
        r"^    \*{0,2}(\w+): (.*(?:\n     .*)*)", args[1] if args else "", re.MULTILINE
    ):
        yield found[1], found[2]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_a_docstring_work(
    name: str, default_executor: palitra.AsyncLoopExecutor
) -> None:
    module = importlib.import_module(name)

    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)

    assert result.failed == 0


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_docstring_has_a_summary_a_word_on_threads_an_example_and_a_version(
    name: str,
) -> None:
    thing = PUBLIC[name]
    summary, _, rest = doc_of(thing).partition("\n\n")
    is_error = isinstance(thing, type) and issubclass(thing, BaseException)

    assert re.fullmatch(r"[A-Z`].*\.", summary)
    assert is_error or re.search(r"[Tt]hread-safe|[Aa]ny thread", rest)
    assert ">>> " in rest
    assert re.search(r"^\.\. versionadded:: 0\.[12]\.0$", rest, flags=re.MULTILINE)


@pytest.mark.parametrize("name", CALLED)
def test_a_public_docstring_describes_parameters_results_and_errors(name: str) -> None:
    thing = CALLED[name]
    doc = doc_of(thing)
    signature = inspect.signature(thing)
    described = dict(parameters(thing))

    assert [*described] == [one for one in signature.parameters if one not in {"self", "cls"}]
    assert [one for one in described if "timeout" in one and "econds" not in described[one]] == []
    if not isinstance(thing, type) and signature.return_annotation not in {"None", None}:
        assert "\nReturns:\n" in doc
    assert "\nRaises:\n" in doc or "raises nothing" in doc
