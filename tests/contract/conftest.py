"""What several of these modules ask for."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


QUICK_LOOPS = ["asyncio", "uvloop"] if importlib.util.find_spec("uvloop") else ["asyncio"]


@pytest.fixture(params=QUICK_LOOPS)
def quick_loop(request: pytest.FixtureRequest) -> dict[str, Any]:
    """As `loop_flavour`, without the debug mode, which makes bursts of calls slow."""
    if request.param == "uvloop":
        return {"loop_factory": importlib.import_module("uvloop").new_event_loop}
    return {}


@pytest.fixture
def switching(request: pytest.FixtureRequest) -> Iterator[None]:
    """Threads change places much more often than usual: after 10 µs, or what a test asks for."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(getattr(request, "param", 1e-5))
    yield
    sys.setswitchinterval(interval)


@pytest.fixture
def graveyard(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """For tests that kill loops: what is left of them goes before anybody counts tasks.

    To be asked for before the fixtures whose values such tasks may hold.
    """
    yield
    caplog.get_records("call").clear()  # tracebacks of the failed closing hold the tasks
    gc.collect()
