"""CPython's own tests of executors, with AsyncLoopExecutor as the executor type.

Each test case runs twice: with its plain callables as they are, and with coroutine
functions in their place. Pythons that do not ship the suite skip this module; the
other modules of this folder cover the same ground.
"""

from __future__ import annotations

import importlib
import unittest
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import pytest

import palitra
from contract.coroutine_executor import CoroutineExecutor
from palitra import AsyncLoopExecutor

SUITE = "test.test_concurrent_futures"

pytest.importorskip(f"{SUITE}.executor", reason=f"this Python does not ship {SUITE}")


def part(name: str) -> ModuleType:
    return importlib.import_module(f"{SUITE}.{name}")


support: Any = importlib.import_module("test.support")
shutdown_part = part("test_shutdown")

# The suite's test cases for the thread pool: each mixin with what else it says of pools.
CASES: dict[str, type[unittest.TestCase]] = {
    "Executor": part("test_thread_pool").ThreadPoolExecutorTest,
    "Wait": part("test_wait").ThreadPoolWaitTests,
    "AsCompleted": part("test_as_completed").ThreadPoolAsCompletedTest,
    "Shutdown": shutdown_part.ThreadPoolShutdownTest,
    "Initializer": part("test_init").ThreadPoolInitializerTest,
    "FailingInitializer": part("test_init").ThreadPoolFailingInitializerTest,
}

MODES: dict[str, type[AsyncLoopExecutor]] = {
    "Plain": AsyncLoopExecutor,
    "Coroutine": CoroutineExecutor,
}

PRIVATE = "reads _threads, a private attribute of ThreadPoolExecutor"
BY_NAME = "builds futures.ThreadPoolExecutor by name and reads its private _threads"

# Every test that is left out, by mode and case, with the reason.
LEFT_OUT: dict[tuple[str, str], dict[str, str]] = {
    ("Plain", "Executor"): {
        "test_saturation": PRIVATE,
        "test_idle_thread_reuse": PRIVATE,
        "test_hang_global_shutdown_lock": "tests ThreadPoolExecutor's own global lock, by name",
    },
    ("Plain", "Shutdown"): {
        "test_threads_terminate": PRIVATE,
        "test_context_manager_shutdown": BY_NAME,
        "test_del_shutdown": BY_NAME,
        "test_shutdown_no_wait": BY_NAME,
        "test_thread_names_assigned": BY_NAME,
        "test_thread_names_default": BY_NAME,
    },
}
LEFT_OUT["Coroutine", "Executor"] = LEFT_OUT["Plain", "Executor"]
LEFT_OUT["Coroutine", "Shutdown"] = LEFT_OUT["Plain", "Shutdown"] | {
    "test_cancel_futures": "expects calls in flight to run on; coroutines are cancelled, by design",
}

TESTS = Path(__file__).parents[1]
ROOT = Path(palitra.__file__).parents[1]


class Child:
    """Runs the suite's child programs with another executor than they name."""

    def __init__(self, executor_type: type[AsyncLoopExecutor]) -> None:
        self.name = executor_type.__name__
        self.prelude = (
            "import sys\n"
            f"sys.path[:0] = [{str(ROOT)!r}, {str(TESTS)!r}]\n"
            "import concurrent.futures\n"
            f"from contract.coroutine_executor import {self.name}\n"
            f"concurrent.futures.{self.name} = {self.name}\n"
        )

    def __call__(self, *args: str) -> Any:
        *options, program = args
        # One program names ThreadPoolExecutor outright.
        program = program.replace("ThreadPoolExecutor", self.name)
        return unpatched(*options, self.prelude + program)


unpatched = shutdown_part.assert_python_ok


class Clean(unittest.TestCase):
    """Adds to each case: its children get our executor, and no thread is left over."""

    executor_type: type[AsyncLoopExecutor]

    def setUp(self) -> None:
        patcher = patch.object(shutdown_part, "assert_python_ok", Child(self.executor_type))
        patcher.start()
        self.addCleanup(patcher.stop)
        support.environment_altered = False
        super().setUp()

    def tearDown(self) -> None:
        super().tearDown()
        assert not support.environment_altered, "threads were left over"


for mode, executor_type in MODES.items():
    for case, base in CASES.items():
        left_out = LEFT_OUT.get((mode, case), {})
        body: dict[str, Any] = {"executor_type": executor_type, "__module__": __name__}
        body |= dict.fromkeys(left_out)
        name = f"{mode}{case}Test"
        globals()[name] = type(name, (Clean, base), body)


@pytest.mark.parametrize(("mode", "case"), LEFT_OUT)
def test_what_is_left_out_exists_in_the_suite(mode: str, case: str) -> None:
    """A renamed test would otherwise drop out of the table unseen."""
    names = set(unittest.TestLoader().getTestCaseNames(CASES[case]))

    assert set(LEFT_OUT[mode, case]) <= names
