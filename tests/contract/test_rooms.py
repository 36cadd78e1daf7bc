"""The shape of the code: imports go one way, and no file and no class grows past its limit.

The sources are read as text, as in test_stubs. An import for annotations alone may go any way,
under `if TYPE_CHECKING:`; all others go down the list in ORDER, so there is no cycle when the code
runs.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "palitra"

# Each module imports from those below it alone.
ORDER = [
    "palitra",
    "palitra._runner",
    "palitra._default",
    "palitra._executor",
    "palitra._bridges._functions",
    "palitra._bridges._iterators",
    "palitra._bridges._contexts",
    "palitra._bridges._owner",
    "palitra._bridges",
    "palitra._gather",
    "palitra._results",
    "palitra._stalls",
    "palitra._report",
    "palitra._records",
    "palitra._service",
    "palitra._ending",
    "palitra._hosts",
    "palitra._futures",
    "palitra._watchers",
    "palitra._calls",
    "palitra._stacks",
    "palitra._slots",
    "palitra._inbox",
    "palitra._workers",
    "palitra._hooks",
    "palitra._waiting",
    "palitra._words",
]
LINES_OF_CODE = 450
METHODS = 28
# Still to be split.
LONG_FILES: set[str] = set()
LARGE_CLASSES: set[str] = set()
SAY_NOTHING = {"common", "helper", "helpers", "manager", "managers", "misc", "util", "utils"}

BLANK = {
    tokenize.COMMENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
    tokenize.INDENT,
    tokenize.NEWLINE,
    tokenize.NL,
}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_for_annotations(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in {
        "TYPE_CHECKING",
        "typing.TYPE_CHECKING",
    }


def imported(name: str, tree: ast.AST) -> Iterator[str]:
    """What of palitra the code of the module *name* imports when it runs, inside functions too."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and is_for_annotations(node):
            for statement in node.orelse:
                yield from imported(name, ast.Module([statement], []))
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if of_palitra(alias.name))
        elif isinstance(node, ast.ImportFrom):
            module = whole_name(name, node)
            if of_palitra(module):
                for alias in node.names:
                    inner = f"{module}.{alias.name}"
                    yield inner if inner in ORDER else module
        else:
            yield from imported(name, node)


def whole_name(name: str, node: ast.ImportFrom) -> str:
    """What the module *name* imports from, without dots in front."""
    if not node.level:
        return node.module or ""
    is_package = any(one.startswith(f"{name}.") for one in ORDER)
    parents = name.split(".")
    parents = parents[: len(parents) - node.level + is_package]
    return ".".join([*parents, *filter(None, [node.module])])


def of_palitra(module: str) -> bool:
    return module.partition(".")[0] == "palitra"


def upward(name: str, text: str) -> list[str]:
    """Imports that do not go down the list."""
    return [
        f"{name} imports {module}"
        for module in imported(name, ast.parse(text))
        if module not in ORDER[ORDER.index(name) + 1 :]
    ]


def lines_of_code(text: str) -> int:
    """How many lines have code: no blank lines, comments and docstrings."""
    prose: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        match node:
            case (
                ast.Module(body=[first, *_])
                | ast.ClassDef(body=[first, *_])
                | ast.FunctionDef(body=[first, *_])
                | ast.AsyncFunctionDef(body=[first, *_])
            ):
                match first:
                    case ast.Expr(value=ast.Constant(value=str())):
                        prose |= lines(first.lineno, first.end_lineno)
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in BLANK:
            code |= lines(token.start[0], token.end[0])
    return len(code - prose)


def lines(first: int, last: int | None) -> set[int]:
    return set(range(first, (last or first) + 1))


def methods(text: str) -> dict[str, int]:
    """How many methods each class defines, properties included."""
    return {
        node.name: sum(isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) for one in node.body)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ClassDef)
    }


def but(exceptions: set[str], reason: str) -> list[object]:
    mark = pytest.mark.xfail(reason=reason)
    return [pytest.param(name, marks=[mark] if name in exceptions else []) for name in ORDER]


SOURCES = {name_of(path): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}


def test_each_module_has_its_place_in_the_order() -> None:
    assert sorted(SOURCES) == sorted(ORDER)


@pytest.mark.parametrize("name", ORDER)
def test_imports_go_one_way(name: str) -> None:
    assert upward(name, SOURCES[name]) == []


@pytest.mark.parametrize("name", but(LONG_FILES, "a file to be split"))
def test_no_file_is_too_long_to_read_in_one_sitting(name: str) -> None:
    assert lines_of_code(SOURCES[name]) <= LINES_OF_CODE


@pytest.mark.parametrize("name", but(LARGE_CLASSES, "a class to be split"))
def test_no_class_has_too_many_methods(name: str) -> None:
    assert {one: n for one, n in methods(SOURCES[name]).items() if n > METHODS} == {}


def test_no_module_has_a_name_that_says_nothing() -> None:
    words = {name: set(name.replace(".", "_").split("_")) for name in SOURCES}
    assert {name for name in words if words[name] & SAY_NOTHING} == set()


# -- what these tests find ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "module"),
    [
        pytest.param("import palitra._executor", "palitra._executor", id="a module"),
        pytest.param("from ._service import Service", "palitra._service", id="a name"),
        pytest.param("from palitra._service import Service", "palitra._service", id="by its name"),
        pytest.param("from . import _hooks, _calls", "palitra._calls", id="the second"),
        pytest.param("from ._bridges import _owner", "palitra._bridges._owner", id="a bridge"),
        pytest.param("from . import run", "palitra", id="a public name"),
        pytest.param(
            "def f() -> None:\n    from . import _gather", "palitra._gather",
            id="inside a function",
        ),
        pytest.param(
            "if TYPE_CHECKING:\n    pass\nelse:\n    from . import _gather",
            "palitra._gather", id="where types are not checked",
        ),
        pytest.param("from . import _inbox", "palitra._inbox", id="the module itself"),
    ],
)  # fmt: skip
def test_an_import_that_goes_up_is_found(text: str, module: str) -> None:
    assert upward("palitra._inbox", text) == [f"palitra._inbox imports {module}"]


@pytest.mark.parametrize(
    "text",
    [
        "if TYPE_CHECKING:\n    from palitra._service import Service",
        "from palitra import _hooks",
        "from palitra._words import name_of",
        "import palitrage",
    ],
)
def test_other_imports_are_taken(text: str) -> None:
    assert upward("palitra._inbox", text) == []


def test_lines_of_code_are_counted_without_prose() -> None:
    text = '''"""A docstring
    of two lines."""

# A comment.
class C:
    """Another."""

    x = """not
    a docstring"""  # and a comment

    def f(
        self,
    ) -> str:
        """One more."""
        return self.x


# The end.
'''
    assert lines_of_code(text) == 7
    assert methods(text) == {"C": 1}
