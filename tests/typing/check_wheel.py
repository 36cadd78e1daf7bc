"""Check what users' type checkers see: the palitra that is installed, not the checkout.

Run in an environment that has palitra's wheel and the extra "types"; `tox run -e types` makes one.
The type tests beside this file are copied to a directory outside the checkout, since checkers
prefer what lies around them over what is installed. They are never executed.

A line that must be refused ends in `# type: ignore[code]` for mypy and `# pyright: ignore[rule]`;
both report an ignore that is not needed. pyrefly and ty are run with all ignores off, and must
report just these lines.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
STUBS = HERE.parents[1] / "stubs" / "palitra"
PYTHONS = ("3.11", "3.12", "3.13", "3.14", "3.15")

PYRIGHT = {
    "include": ["."],
    "typeCheckingMode": "strict",
    "pythonVersion": PYTHONS[0],
    # mypy's ignores mean nothing to pyright, which has its own, with its own rules.
    "enableTypeIgnoreComments": False,
    "reportUnnecessaryTypeIgnoreComment": "error",
}
# The stubs have typeshed's ignores for typeshed's overlapping overloads of gather: one for both.
PYRIGHT_FOR_STUBS = {
    "include": ["**/*.pyi"],
    "typeCheckingMode": "strict",
    "pythonVersion": PYTHONS[0],
}
# Private modules have no stubs, so stubtest compares them with themselves.
STUBTEST_ALLOWS = [
    r"palitra\._calls\.(Kind|Progress)",  # to mypy, a Literal of several strings is a Union
]


class Failed(Exception):
    """A check failed, for the reason given."""


def run(name: str, *arguments: str, cwd: Path, fails: bool = False) -> str:
    """Run a tool of this environment, and return what it printed."""
    scripts = sysconfig.get_path("scripts")
    tool = shutil.which(name, path=scripts)
    if tool is None:
        raise Failed(f"{name} is not installed")
    environment = {key: value for key, value in os.environ.items() if "PYTHONPATH" not in key}
    environment |= {
        "PATH": os.pathsep.join([scripts, environment.get("PATH", "")]),
        # pyright --verifytypes finds packages in the activated environment alone.
        "VIRTUAL_ENV": sys.prefix,
    }
    ended = subprocess.run(
        [tool, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    if ended.returncode and not fails:
        raise Failed(ended.stdout + ended.stderr)
    return ended.stdout


def check_contents(package: Path) -> str:
    """The wheel has each stub beside its module, and nothing but the package."""
    distribution = importlib.metadata.distribution("palitra")
    files = {str(path) for path in distribution.files or ()}
    stubs = {f"palitra/{stub.relative_to(STUBS).as_posix()}" for stub in STUBS.rglob("*.pyi")}
    wanted = stubs | {"palitra/py.typed"}
    if missing := wanted - files:
        raise Failed(f"not in the installed package (is it an editable install?): {missing}")
    if others := {name for name in files if not re.match(r"palitra(-.*\.dist-info)?/", name)}:
        raise Failed(f"not palitra's to install: {others}")
    return f"{len(files)} files in {package}"


def check_package(package: Path, outside: Path) -> str:
    """The stubs hold for themselves, and so do the modules that have none."""
    shutil.copytree(package, outside / "package" / "palitra")
    run("mypy", "--strict", "-p", "palitra", cwd=outside / "package")
    stubs = outside / "stubs"
    shutil.copytree(package, stubs / "palitra")
    (stubs / "pyrightconfig.json").write_text(json.dumps(PYRIGHT_FOR_STUBS))
    run("pyright", cwd=stubs)
    return "mypy --strict, pyright strict"


def check_with_mypy(tests: Path) -> str:
    for version in PYTHONS:
        run("mypy", "--strict", "--python-version", version, ".", cwd=tests)
    return ", ".join(PYTHONS)


def check_with_pyright(tests: Path) -> str:
    (tests / "pyrightconfig.json").write_text(json.dumps(PYRIGHT))
    try:
        return run("pyright", cwd=tests).strip()
    finally:
        (tests / "pyrightconfig.json").unlink()  # pyrefly would read it


def check_with_pyrefly(tests: Path) -> str:
    printed = run(
        "pyrefly", "check", "--preset", "default", "--enabled-ignores", "pyrefly",
        "--output-format", "min-text",
        "--python-version", PYTHONS[0], "--python-interpreter-path", sys.executable,
        *sorted(path.name for path in tests.glob("*.py")),
        cwd=tests, fails=True,
    )  # fmt: skip
    return compare_refused(tests, printed)


def check_with_ty(tests: Path) -> str:
    printed = run(
        "ty", "check", "--config", "analysis.respect-type-ignore-comments=false",
        "--output-format", "concise", "--python-version", PYTHONS[0], "--python", sys.prefix,
        cwd=tests, fails=True,
    )  # fmt: skip
    return compare_refused(tests, printed)


def compare_refused(tests: Path, printed: str) -> str:
    """The lines that a checker reports are those that must be refused."""
    reported = set(re.findall(r"(\w+\.py:\d+):", printed))
    refused = set(refused_lines(tests))
    if reported != refused:
        wrong = [line for line in printed.splitlines() if line_of(line) not in refused]
        accepted = sorted(refused - reported)
        raise Failed("\n".join([*wrong, f"accepted, and should not be: {accepted}"]))
    return f"refused {len(reported)} lines, as it should"


def line_of(diagnostic: str) -> str:
    found = re.search(r"\w+\.py:\d+", diagnostic)
    return found[0] if found else ""


def refused_lines(tests: Path) -> list[str]:
    return [
        f"{path.name}:{number}"
        for path in sorted(tests.glob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if "# type: ignore" in line
    ]


def check_completeness(outside: Path) -> str:
    printed = run("pyright", "--verifytypes", "palitra", cwd=outside)
    score = re.search(r"Type completeness score: (.*)", printed)
    if score is None or score[1] != "100%":
        raise Failed(printed)
    return score[0]


def check_runtime(outside: Path) -> str:
    allowed = outside / "allowed.txt"
    allowed.write_text("\n".join(STUBTEST_ALLOWS), encoding="utf-8")
    return run("stubtest", "palitra", "--allowlist", str(allowed), cwd=outside).strip()


def count(tests: Path) -> str:
    texts = [path.read_text(encoding="utf-8") for path in tests.glob("*.py")]
    asserted = sum(text.count("assert_type(") for text in texts)
    return f"{asserted} assert_type, {len(refused_lines(tests))} refused lines"


def main() -> int:
    with tempfile.TemporaryDirectory() as directory:
        outside = Path(directory)
        tests = outside / "tests"
        shutil.copytree(HERE, tests, ignore=shutil.ignore_patterns(Path(__file__).name, "__*"))
        package = Path(sysconfig.get_path("purelib")) / "palitra"
        checks: dict[str, Callable[[], str]] = {
            "type tests": lambda: count(tests),
            "contents": lambda: check_contents(package),
            "the package itself": lambda: check_package(package, outside),
            "mypy --strict": lambda: check_with_mypy(tests),
            "pyright strict": lambda: check_with_pyright(tests),
            "pyrefly": lambda: check_with_pyrefly(tests),
            "ty": lambda: check_with_ty(tests),
            "pyright --verifytypes": lambda: check_completeness(outside),
            "stubtest": lambda: check_runtime(outside),
        }
        failures = 0
        for name, check in checks.items():
            start = time.monotonic()
            try:
                outcome = f"ok    {check()}"
            except Failed as failure:
                outcome = f"FAILED\n{failure}"
                failures += 1
            print(f"{time.monotonic() - start:5.1f} s  {name}: {outcome}", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
