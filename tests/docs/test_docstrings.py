"""The examples in the docstrings run as doctests, module by module."""

import doctest
import importlib
import pkgutil

import pytest

import palitra

MODULES = ["palitra", *(m.name for m in pkgutil.walk_packages(palitra.__path__, "palitra."))]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_a_docstring_work(
    name: str, default_executor: palitra.AsyncLoopExecutor
) -> None:
    module = importlib.import_module(name)

    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)

    assert result.failed == 0
