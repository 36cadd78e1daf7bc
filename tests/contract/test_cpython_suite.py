"""CPython's own tests of executors, with AsyncLoopExecutor as the executor type.

Each test case runs twice: with its plain callables as they are, and with coroutine
functions in their place. Where a test names ThreadPoolExecutor, it gets the type under test;
where it looks at the threads of a pool, it finds what stands in for them. Pythons that do not
ship the suite skip this module; the other modules of this folder cover the same ground.

Of the suite's other modules, two are about pools of processes and one is about pools of
interpreters; test_future is about futures that no executor made.
"""

from __future__ import annotations

import concurrent.futures
import importlib
import unittest
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import pytest

import palitra
from contract.coroutine_executor import CoroutineExecutor, PlainExecutor
from palitra import AsyncLoopExecutor

SUITE = "test.test_concurrent_futures"

pytest.importorskip(f"{SUITE}.executor", reason=f"this Python does not ship {SUITE}")


def part(name: str) -> ModuleType:
    return importlib.import_module(f"{SUITE}.{name}")


support: Any = importlib.import_module("test.support")
shutdown_part = part("test_shutdown")
pool_part = part("test_thread_pool")

# The suite's test cases for the thread pool: each mixin with what else it says of pools.
CASES: dict[str, type[unittest.TestCase]] = {
    "Executor": pool_part.ThreadPoolExecutorTest,
    "Wait": part("test_wait").ThreadPoolWaitTests,
    "AsCompleted": part("test_as_completed").ThreadPoolAsCompletedTest,
    "Shutdown": shutdown_part.ThreadPoolShutdownTest,
    "Initializer": part("test_init").ThreadPoolInitializerTest,
    "FailingInitializer": part("test_init").ThreadPoolFailingInitializerTest,
}

MODES: dict[str, type[AsyncLoopExecutor]] = {
    "Plain": PlainExecutor,
    "Coroutine": CoroutineExecutor,
}

NAMES = "expects names of worker threads; coroutines have one thread, the loop's"

# Every test that is left out, by mode and case: why it cannot apply, and the test of the
# behaviour behind it.
LEFT_OUT: dict[tuple[str, str], dict[str, tuple[str, str]]] = {
    ("Coroutine", "Executor"): {
        "test_map_submits_without_iteration": (
            "drops the iterator at once; that cancels coroutines, by design",
            "test_map.test_calls_run_although_nobody_iterates",
        ),
    },
    ("Coroutine", "Shutdown"): {
        "test_thread_names_assigned": (
            NAMES,
            "test_lifecycle.test_the_loops_thread_starts_on_first_use",
        ),
        "test_thread_names_default": (
            NAMES,
            "test_lifecycle.test_threads_are_named_after_the_class_by_default",
        ),
        "test_cancel_futures": (
            "expects calls in flight to run on; coroutines are cancelled, by design",
            "test_lifecycle.test_cancel_futures_cancels_everything_unfinished_and_waits_for_cleanup",
        ),
    },
}

pytestmark = [
    # The suite forks while threads are there, of which CPython warns since 3.12.
    pytest.mark.filterwarnings(
        r"ignore:.*use of fork\(\) may lead to deadlocks:DeprecationWarning"
    ),
    # Some of these tests do much work: one forks fifty pools beside a thread that submits without
    # end, which takes a free-threaded build a minute where the machine is busy. CPython gives a
    # file of them twenty minutes.
    pytest.mark.timeout(240),
]

TESTS = Path(__file__).parents[1]
ROOT = Path(palitra.__file__).parents[1]


class Futures:
    """The module `concurrent.futures`, with another type under ThreadPoolExecutor's name."""

    def __init__(self, executor_type: type[AsyncLoopExecutor]) -> None:
        self.ThreadPoolExecutor = executor_type

    def __getattr__(self, name: str) -> Any:
        return getattr(concurrent.futures, name)


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
    """Adds to each case: it gets our executor by any name, and no thread is left over."""

    executor_type: type[AsyncLoopExecutor]

    def setUp(self) -> None:
        futures = Futures(self.executor_type)
        for module, name, replacement in (
            (shutdown_part, "assert_python_ok", Child(self.executor_type)),
            (shutdown_part, "futures", futures),
            (pool_part, "futures", futures),
        ):
            patcher = patch.object(module, name, replacement)
            patcher.start()
            self.addCleanup(patcher.stop)
        support.environment_altered = False
        super().setUp()

    def tearDown(self) -> None:
        super().tearDown()
        assert not support.environment_altered, "threads were left over"

    def assertRegex(self, text: Any, expected_regex: Any, msg: Any = None) -> None:  # noqa: N802
        # Threads are named after the class of their pool.
        if isinstance(expected_regex, str):
            expected_regex = expected_regex.replace("ThreadPool", "AsyncLoop")
        super().assertRegex(text, expected_regex, msg)  # noqa: PT009


for mode, executor_type in MODES.items():
    for case, base in CASES.items():
        left_out = LEFT_OUT.get((mode, case), {})
        body: dict[str, Any] = {"executor_type": executor_type, "__module__": __name__}
        body |= dict.fromkeys(left_out)
        name = f"{mode}{case}Test"
        globals()[name] = type(name, (Clean, base), body)
del base  # pytest would run it as well


def test_every_case_here_runs_on_our_executor() -> None:
    """Pytest also runs the suite's own cases, on a thread pool, if a name of this module is one."""
    cases = [
        value
        for value in globals().values()
        if isinstance(value, type) and issubclass(value, unittest.TestCase)
    ]

    assert len(cases) > len(MODES) * len(CASES)  # Clean is one as well
    assert [case for case in cases if not issubclass(case, Clean)] == []


@pytest.mark.parametrize(("mode", "case"), LEFT_OUT)
def test_what_is_left_out_exists_in_the_suite(mode: str, case: str) -> None:
    """A renamed test would otherwise drop out of the table unseen."""
    names = set(unittest.TestLoader().getTestCaseNames(CASES[case]))

    assert set(LEFT_OUT[mode, case]) <= names


def test_what_stands_in_for_a_test_that_is_left_out_exists() -> None:
    for table in LEFT_OUT.values():
        for _, instead in table.values():
            module, _, test = instead.partition(".")
            source = (TESTS / "contract" / f"{module}.py").read_text(encoding="utf-8")

            assert f"def {test}(" in source
