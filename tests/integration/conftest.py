"""What the tests with real consumers share: a real HTTP server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from counting_server import CountingServer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def server() -> Iterator[CountingServer]:
    with CountingServer().running() as server:
        yield server
