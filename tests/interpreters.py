"""Child interpreters, for what a test cannot do to its own: exit, fork, signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from textwrap import dedent
from typing import TYPE_CHECKING, Literal, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

TIMEOUT = 40.0  # seconds; below the limit of a test, so that a child that hangs says where

# Once the main thread has ended, the interpreter itself neither starts a thread nor forks.
NO_THREADS_OR_FORKS_IN_EXIT = (3, 12) <= sys.version_info < (3, 12, 3)


class Hung(AssertionError):
    """A child did not end in time; the message holds where each of its threads stood."""


def _text(output: bytes) -> str:
    return output.decode().replace(os.linesep, "\n")


@dataclass
class Child:
    """A running child interpreter, with pipes; leaving the `with` block ends it."""

    process: subprocess.Popen[bytes]
    timeout: float
    killed: bool = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
        self.process.communicate()

    @property
    def pid(self) -> int:
        return self.process.pid

    def read_line(self, name: Literal["stdout", "stderr"] = "stdout") -> str:
        """Wait for the next line that the child prints; its pipe needs `flush=True` there."""
        pipe = self.process.stdout if name == "stdout" else self.process.stderr
        assert pipe is not None
        watchdog = threading.Timer(self.timeout, self.process.send_signal, [signal.SIGABRT])
        watchdog.start()
        line = _text(pipe.readline())
        watchdog.cancel()
        watchdog.join()
        return line

    def expect(self, line: str) -> None:
        """Wait for the child to print exactly this line next."""
        printed = self.read_line()
        if printed != f"{line}\n":
            finished = self.finish()
            message = f"expected {line!r}, got {printed!r}, then {finished}"
            raise AssertionError(message)

    def send_signal(self, number: int) -> None:
        """Send a signal to the child alone, not to its process group."""
        self.process.send_signal(number)

    def finish(self, text: str | None = None) -> subprocess.CompletedProcess[str]:
        """Write `text` to the child's input, close it, and wait for the child to end."""
        try:
            stdout, stderr = self._communicate(self.timeout, text)
        except subprocess.TimeoutExpired:
            stdout, stderr = self.abort()
            message = f"no end within {self.timeout} s\n{stdout}\n{stderr}"
            raise Hung(message) from None
        finally:
            self.kill()
        return subprocess.CompletedProcess(
            self.process.args, self.process.returncode, stdout, stderr
        )

    def abort(self) -> tuple[str, str]:
        """End the child, then all it started, and let each say where its threads stand."""
        # faulthandler, which is on in the child and in its forks, writes a traceback of each
        # thread. The child first, or all their lines would mix; a fork that is still there then
        # holds the other end of the pipes.
        self.process.send_signal(signal.SIGABRT)
        with suppress(subprocess.TimeoutExpired):
            return self._communicate(2)
        if sys.platform != "win32":
            os.killpg(self.process.pid, signal.SIGABRT)
            with suppress(subprocess.TimeoutExpired):
                return self._communicate(2)
        self.kill()
        return self._communicate()

    def _communicate(
        self, timeout: float | None = None, text: str | None = None
    ) -> tuple[str, str]:
        data = None if text is None else text.encode()
        stdout, stderr = self.process.communicate(data, timeout)
        return _text(stdout), _text(stderr)

    def kill(self) -> None:
        """End the child and all it started: its process group."""
        if self.killed:
            return  # the number of the group may be somebody else's by now
        self.killed = True
        if sys.platform == "win32":
            self.process.kill()
            return
        with suppress(ProcessLookupError, PermissionError):  # nobody is left
            os.killpg(self.process.pid, signal.SIGKILL)


@dataclass
class Python:
    """Runs programs in child interpreters like this one, from files in a folder of the test's.

    `options` are the interpreter's own, such as `("-X", "dev")`.
    """

    folder: Path
    options: Sequence[str] = ("-W", "default::ResourceWarning")
    started: list[Child] = field(default_factory=list)

    def start(
        self,
        code: str,
        *args: str,
        options: Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = TIMEOUT,
    ) -> Child:
        """Start `code` as a program and return at once.

        `env` is added to this process's environment. `timeout` is for the wait in `finish`.
        """
        # A file rather than -c: tracebacks show its lines, multiprocessing can import it.
        program = self.folder / f"program_{len(self.started)}.py"
        program.write_text(dedent(code), encoding="utf-8")
        process = subprocess.Popen(
            [
                sys.executable,
                "-X",
                "faulthandler",
                *(self.options if options is None else options),
                str(program),
                *args,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,  # `communicate` does not see what `readline` would have read ahead
            cwd=self.folder,
            env={**os.environ, **(env or {})},
            start_new_session=True,  # a group of its own, to be killed as one
        )
        child = Child(process, timeout)
        self.started.append(child)
        return child

    def run(
        self,
        code: str,
        *args: str,
        options: Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = TIMEOUT,
    ) -> subprocess.CompletedProcess[str]:
        """Run `code` as a program to its end; `returncode`, `stdout` and `stderr` tell how."""
        return self.start(code, *args, options=options, env=env, timeout=timeout).finish()
