"""The stubs say what the sources say: what `mypy.stubtest` cannot see is compared here, as syntax.

`stubtest` compares the stubs with the running package, where types are gone. Here both are read as
text, so a wrong return type, a wrong parameter type, an `async` too many or a base class too few
is found as well. The names in WALLS have overloads in the stub alone; their types are the business
of tests/typing.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "palitra"
STUBS = ROOT / "stubs" / "palitra"

WALLS = {
    "_bridges._functions.SyncFunction.__get__",
    "_bridges._iterators.SyncGenerator.throw",
    "_bridges._functions.SyncGeneratorFunction.__get__",
    "_default.gather",
    "_default.sync",
    "_default.sync_iter",
    "_executor.AsyncLoopExecutor.__init__",
    "_executor.AsyncLoopExecutor.from_loop",
    "_executor.AsyncLoopExecutor.gather",
    "_executor.AsyncLoopExecutor.map",
    "_executor.AsyncLoopExecutor.submit",
    "_executor.AsyncLoopExecutor.submit_service",
    "_executor.AsyncLoopExecutor.sync",
    "_executor.AsyncLoopExecutor.sync_iter",
}

# Base classes from other modules that users need not know.
INTERNAL = {"Face"}

Function = ast.FunctionDef | ast.AsyncFunctionDef
# Decorators that change what a caller sees.
TELLING = {"abstractmethod", "classmethod", "final", "property", "setter", "staticmethod"}


class Spelling(ast.NodeTransformer):
    """One spelling for one type: `concurrent.futures.Future` is `Future`, `"Future"` too."""

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        return ast.Name(node.attr)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if isinstance(node.value, str):
            return Spelling().generic_visit(ast.parse(node.value, mode="eval"))
        return node


def spelled(annotation: ast.expr | None) -> str:
    return "nothing" if annotation is None else ast.unparse(Spelling().visit(annotation))


def public(name: str) -> bool:
    return not name.startswith("_") or (name.startswith("__") and name.endswith("__"))


def decorators(function: Function) -> set[str]:
    return {spelled(decorator) for decorator in function.decorator_list} & TELLING


def parameters(function: Function) -> Iterator[tuple[str, str, str, str]]:
    """Each parameter's name, kind, annotation and default."""
    given = function.args
    positional = given.posonlyargs + given.args
    required = len(positional) - len(given.defaults)
    for index, parameter in enumerate(positional):
        kind = "positional-only" if index < len(given.posonlyargs) else "positional"
        default = given.defaults[index - required] if index >= required else None
        yield describe(parameter, kind, default)
    if given.vararg is not None:
        yield describe(given.vararg, "*", None)
    for parameter, keyword_default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        yield describe(parameter, "keyword", keyword_default)
    if given.kwarg is not None:
        yield describe(given.kwarg, "**", None)


def public_parameters(function: Function) -> Iterator[tuple[str, str, str, str]]:
    """Those that a caller may give: not what a method keeps for itself as a private default."""
    for name, kind, annotation, default in parameters(function):
        if not (name.startswith("_") and default != "no default"):
            yield name, kind, annotation, default


def describe(parameter: ast.arg, kind: str, default: ast.expr | None) -> tuple[str, str, str, str]:
    value = "no default" if default is None else ast.unparse(default)
    return parameter.arg, kind, spelled(parameter.annotation), value


class Definitions:
    """What a module or a class body defines, by name."""

    def __init__(self, body: list[ast.stmt]) -> None:
        self.functions: dict[str, list[Function]] = {}
        self.classes: dict[str, ast.ClassDef] = {}
        self.private_classes: dict[str, ast.ClassDef] = {}
        self.variables: dict[str, str] = {}
        self.imports: set[tuple[str, str, str | None]] = set()
        self.all: list[str] = []
        for statement in body:
            self._add(statement)

    def _add(self, statement: ast.stmt) -> None:
        match statement:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) if public(name):
                self.functions.setdefault(name, []).append(statement)
            case ast.ClassDef(name=name):
                (self.classes if public(name) else self.private_classes)[name] = statement
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation) if public(name):
                self.variables[name] = spelled(annotation)
            case ast.Assign(targets=[ast.Name(id="__all__")], value=value):
                self.all = ast.literal_eval(value)
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call(func=function) as made):
                if spelled(function) in {"TypeVar", "ParamSpec", "TypeVarTuple"}:
                    # Not the first argument: it is the name, not a type.
                    rest = [*made.args[1:], *(keyword.value for keyword in made.keywords)]
                    self.variables[name] = ", ".join(map(spelled, rest))
            case ast.ImportFrom(module=module, names=names, level=level):
                source = "." * level + (module or "")
                self.imports |= {(source, alias.name, alias.asname) for alias in names}

    def names(self) -> set[str]:
        return self.functions.keys() | self.classes.keys()

    def without_private_bases(self, node: ast.ClassDef) -> tuple[list[str], list[ast.stmt]]:
        """The class's bases and body, with private base classes of its module taken as its own."""
        bases: list[str] = []
        body: list[ast.stmt] = []
        for base in node.bases:
            inherited = self.private_classes.get(spelled(base).partition("[")[0])
            if spelled(base) in INTERNAL:
                continue
            if inherited is None:
                bases.append(spelled(base))
            else:
                their_bases, their_body = self.without_private_bases(inherited)
                # Generic is what the class says of its own parameters.
                bases += [one for one in their_bases if not one.startswith("Generic[")]
                body += their_body
        return bases, [*body, *node.body]


def differences(where: str, source: Definitions, stub: Definitions) -> Iterator[str]:
    """Each way in which a stub's definitions differ from the source's, in words."""
    for name in sorted(stub.names() - source.names()):
        yield f"{where}.{name} is in the stub alone"
    for name in sorted(source.names() - stub.names()):
        if not name.startswith("__"):
            yield f"{where}.{name} is not in the stub"
    for name in both(source.variables, stub.variables):
        if source.variables[name] != stub.variables[name]:
            yield f"{where}.{name} is of another type in the stub"
    for name in both(source.functions, stub.functions):
        *_, implementation = source.functions[name]
        yield from function_differences(f"{where}.{name}", implementation, stub.functions[name])
    for name in both(source.classes, stub.classes):
        ours, theirs = source.classes[name], stub.classes[name]
        bases, body = source.without_private_bases(ours)
        if bases != [*map(spelled, theirs.bases)]:
            yield f"{where}.{name} has other bases in the stub"
        yield from differences(f"{where}.{name}", Definitions(body), Definitions(theirs.body))


def both(source: Mapping[str, object], stub: Mapping[str, object]) -> list[str]:
    return sorted(source.keys() & stub.keys())


def as_checkers_see(function: Function) -> Function:
    """A `_Shared` method as a static one: without its first parameter, be it class or instance."""
    if "_Shared" in map(spelled, function.decorator_list):
        function.decorator_list = [ast.Name("staticmethod")]
        del function.args.args[0]
    return function


def function_differences(where: str, source: Function, stubs: list[Function]) -> Iterator[str]:
    source = as_checkers_see(source)
    for stub in stubs:
        if type(stub) is not type(source):
            yield f"{where} is async in one place, and not in the other"
        if decorators(stub) != decorators(source):
            yield f"{where} has other decorators in the stub"
    if where in WALLS:
        for stub in stubs:
            yield from wall_differences(where, source, stub)
        return
    [stub] = stubs
    if [*public_parameters(source)] != [*parameters(stub)]:
        yield f"{where} has other parameters in the stub"
    if spelled(source.returns) != spelled(stub.returns):
        yield f"{where} returns something else in the stub"


def wall_differences(where: str, source: Function, stub: Function) -> Iterator[str]:
    """An overload may narrow types and leave parameters out, but not rename or add any."""
    known = {name: (kind, default) for name, kind, _, default in parameters(source)}
    takes_more = source.args.vararg is not None
    for name, kind, _, default in parameters(stub):
        if name not in known:
            if not (takes_more and kind == "positional-only"):
                yield f"{where} has no parameter {name}"
        elif default not in {"no default", known[name][1]}:
            yield f"{where} has another default for {name} in the stub"


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def module_differences(name: str, source: str, stub: str) -> list[str]:
    ours, theirs = (Definitions(ast.parse(text).body) for text in (source, stub))
    return [*differences(name, ours, theirs)]


def text_of(module: str, suffix: str) -> str:
    folder = SOURCES if suffix == ".py" else STUBS
    return read((folder / module.replace(".", "/")).with_suffix(suffix))


MODULES = sorted(
    ".".join(path.relative_to(STUBS).with_suffix("").parts) for path in STUBS.rglob("*.pyi")
)


@pytest.mark.parametrize("name", MODULES)
def test_a_stub_says_what_its_source_says(name: str) -> None:
    source, stub = text_of(name, ".py"), text_of(name, ".pyi")
    assert module_differences(name, source, stub) == []


def test_the_stub_exports_what_the_package_exports() -> None:
    source = Definitions(ast.parse(read(SOURCES / "__init__.py")).body)
    stub = Definitions(ast.parse(read(STUBS / "__init__.pyi")).body)
    assert stub.all == source.all != []
    from_palitra = {entry for entry in source.imports if entry[0].startswith(".")}
    assert stub.imports == from_palitra


def test_only_the_walls_have_overloads() -> None:
    overloaded = set()
    for module in MODULES:
        for node in ast.walk(ast.parse(text_of(module, ".pyi"))):
            if isinstance(node, ast.Module | ast.ClassDef):
                where = f"{module}.{node.name}" if isinstance(node, ast.ClassDef) else module
                functions = Definitions(node.body).functions.items()
                overloaded |= {f"{where}.{name}" for name, found in functions if len(found) > 1}
    assert overloaded == WALLS


@pytest.mark.parametrize(
    ("module", "old", "new", "found"),
    [
        pytest.param(
            "_runner", "coro: Coroutine", "awaitable: Coroutine",
            "_runner.EventLoopThreadRunner.run has other parameters in the stub",
            id="a renamed parameter",
        ),
        pytest.param(
            "_executor", "chunksize: int = 1", "chunksize: int = 2",
            "_executor.AsyncLoopExecutor.map has another default for chunksize in the stub",
            id="a changed default",
        ),
        pytest.param(
            "_default", "get_loop() -> asyncio.AbstractEventLoop", "get_loop() -> object",
            "_default.get_loop returns something else in the stub",
            id="a wrong return type",
        ),
        pytest.param(
            "_default", "wait: bool = True", "wait: int = True",
            "_default.shutdown has other parameters in the stub",
            id="a wrong parameter type",
        ),
        pytest.param(
            "_executor", "def shutdown(", "async def shutdown(",
            "_executor.AsyncLoopExecutor.shutdown is async in one place, and not in the other",
            id="async where it is not",
        ),
        pytest.param(
            "_default", "def get_executor() -> AsyncLoopExecutor: ...\n", "",
            "_default.get_executor is not in the stub",
            id="a missing function",
        ),
        pytest.param(
            "_executor", "class AsyncLoopExecutor(Executor):", "class AsyncLoopExecutor:",
            "_executor.AsyncLoopExecutor has other bases in the stub",
            id="a dropped base class",
        ),
        pytest.param(
            "_executor", 'TypeVar("_ExitT", bound=bool | None)', 'TypeVar("_ExitT")',
            "_executor._ExitT is of another type in the stub",
            id="a dropped bound",
        ),
    ],
)  # fmt: skip
def test_the_comparison_finds(module: str, old: str, new: str, found: str) -> None:
    stub = text_of(module, ".pyi")
    assert old in stub
    assert found in module_differences(module, text_of(module, ".py"), stub.replace(old, new))
