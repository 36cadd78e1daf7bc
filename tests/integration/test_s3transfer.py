"""s3transfer: its `BoundedExecutor` and its transfer manager take the class."""

from __future__ import annotations

import asyncio
import io
import re
import threading
from concurrent.futures import wait
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.session import Session
from s3transfer.futures import BoundedExecutor, TransferCoordinator
from s3transfer.manager import TransferConfig, TransferManager
from s3transfer.tasks import Task
from s3transfer.utils import NoResourcesAvailable

from palitra import AsyncLoopExecutor

if TYPE_CHECKING:
    from collections.abc import Iterator

KIB = 1024


class ThreadName(Task):
    """A task of s3transfer's own kind: a plain callable."""

    def _main(self) -> str:
        return threading.current_thread().name


class Held:
    """What `BoundedExecutor` asks of a task, with a body that runs on the loop."""

    transfer_id = 1

    def __init__(self) -> None:
        self.release = asyncio.Event()

    async def __call__(self, context: object = None) -> str:
        await self.release.wait()
        return threading.current_thread().name


@pytest.fixture
def bounded() -> Iterator[BoundedExecutor]:
    bounded = BoundedExecutor(max_size=2, max_num_threads=4, executor_cls=AsyncLoopExecutor)
    yield bounded
    bounded.shutdown()


def test_the_bounded_executor_runs_the_tasks_of_s3transfer(bounded: BoundedExecutor) -> None:
    tasks = [ThreadName(TransferCoordinator(number)) for number in range(10)]

    names = [bounded.submit(task).result() for task in tasks]

    assert not any(name.endswith("_loop") for name in names)
    assert threading.current_thread().name not in names


def test_the_bound_counts_coroutines_in_flight(bounded: BoundedExecutor) -> None:
    tasks = [Held(), Held(), Held()]
    futures = [bounded.submit(task) for task in tasks[:2]]

    with pytest.raises(NoResourcesAvailable):
        bounded.submit(tasks[2], block=False)
    loop = bounded._executor.get_loop()
    loop.call_soon_threadsafe(tasks[0].release.set)
    assert futures[0].result().endswith("_loop")
    futures.append(bounded.submit(tasks[2]))  # waits until the first has given its place back

    for task in tasks[1:]:
        loop.call_soon_threadsafe(task.release.set)
    assert not wait([future._future for future in futures], 10).not_done


class ObjectStore(ThreadingHTTPServer):
    """As much of an object store as one upload and one download in parts need, over HTTP."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _ObjectHandler)
        self.objects: dict[str, bytes] = {}
        self.ranges: list[str] = []


class _ObjectHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ObjectStore

    def do_PUT(self) -> None:
        self.server.objects[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(200, b"")

    def do_HEAD(self) -> None:
        self._answer(200, self.server.objects[self.path])

    def do_GET(self) -> None:
        body = self.server.objects[self.path]
        asked = self.headers["Range"]
        self.server.ranges.append(asked)
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", asked)
        assert match
        first, last = int(match[1]), int(match[2] or len(body) - 1)
        self._answer(206, body[first : last + 1], f"bytes {first}-{last}/{len(body)}")

    def _answer(self, status: int, body: bytes, content_range: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"one"')
        self.send_header("Connection", "close")  # botocore keeps some open after its client's close
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def store() -> Iterator[ObjectStore]:
    with ObjectStore() as store:
        thread = threading.Thread(target=store.serve_forever, args=(0.05,))
        thread.start()
        yield store
        store.shutdown()
        thread.join()


def test_the_transfer_manager_uploads_and_downloads_over_the_executor(store: ObjectStore) -> None:
    client = Session().create_client(
        "s3",
        region_name="us-east-1",
        endpoint_url=f"http://127.0.0.1:{store.server_port}",
        config=Config(
            signature_version=UNSIGNED,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": "path"},
        ),
    )
    body = bytes(range(256)) * KIB
    config = TransferConfig(multipart_threshold=KIB * KIB, multipart_chunksize=64 * KIB)
    with TransferManager(client, config, executor_cls=AsyncLoopExecutor) as manager:
        manager.upload(io.BytesIO(body), "bucket", "key").result()
    assert store.objects == {"/bucket/key": body}

    parts = TransferConfig(multipart_threshold=64 * KIB, multipart_chunksize=64 * KIB)
    received = io.BytesIO()
    with TransferManager(client, parts, executor_cls=AsyncLoopExecutor) as manager:
        manager.download("bucket", "key", received).result()
    client.close()

    assert received.getvalue() == body
    assert len(store.ranges) == 4
