"""Build the wheel and the source archive, check both, and use the archive alone.

``check_archive.py --keep FOLDER`` leaves both files in that folder. The wheel is built from the
archive. In the unpacked archive, without this checkout, a few tests run with that wheel, and the
documentation is built.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
# A few of each folder that needs no more than the extra "test".
TESTS = [
    "tests/contract/test_submit.py",
    "tests/contract/test_runner.py",
    "tests/contract/test_stubs.py",
    "tests/faults/test_broken_loops.py",
    "tests/integration/test_flask_app.py",
]


def run(*command: str | Path, cwd: Path, **environment: str) -> None:
    """Run a module of this interpreter's environment; show it, and stop where it fails."""
    print("$", *command, flush=True)
    # -P: the package's sources in *cwd* are not imported instead of the wheel.
    line = [sys.executable, "-P", "-m", *command]
    subprocess.run(line, cwd=cwd, env={**os.environ, **environment}, check=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--keep", type=Path, help="a folder for the wheel and the archive")
    keep = parser.parse_args().keep
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        dist = work / "dist"
        run("build", "--outdir", dist, ROOT, cwd=work)
        [archive], [wheel] = dist.glob("*.tar.gz"), dist.glob("*.whl")
        run("twine", "check", "--strict", archive, wheel, cwd=work)
        run("check_wheel_contents", wheel, cwd=work)

        with tarfile.open(archive) as file:
            file.extractall(work, filter="data")
        alone = work / archive.name.removesuffix(".tar.gz")
        installed = work / "installed"
        run("pip", "install", "--quiet", "--no-deps", "--target", installed, wheel, cwd=work)
        python_path = {"PYTHONPATH": str(installed)}
        run("pytest", "-q", *without_missing(alone), cwd=alone, **python_path)
        html = work / "html"
        run(
            "sphinx", "-q", "-n", "-W", "-b", "html", alone / "docs", html, cwd=alone, **python_path
        )
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            for path in (archive, wheel):
                shutil.copy(path, keep)
                print("kept", keep / path.name)


def without_missing(alone: Path) -> list[str]:
    """The tests to run; all of them must be in the archive."""
    missing = [test for test in TESTS if not (alone / test).exists()]
    if missing:
        sys.exit(f"not in the archive: {', '.join(missing)}")
    return TESTS


if __name__ == "__main__":
    main()
