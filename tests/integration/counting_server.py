"""A real HTTP server on loopback that tells each client which connection it came in on."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator


class CountingServer(ThreadingHTTPServer):
    """Counts the connections it accepted and the requests that came in on them.

    ``/`` answers with the connection's number, ``/lines/N`` streams N lines,
    ``/endless`` streams until the client goes, ``/held`` answers when ``release`` is set.
    """

    daemon_threads = True
    request_queue_size = 128  # the default of 5 turns a burst away, and clients try again after 1 s

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.connections = 0
        self.requests = 0
        self.held = threading.Semaphore(0)
        self.release = threading.Event()
        # Guards the counters and `_open`; notified when a connection is gone.
        self._changed = threading.Condition()
        self._open: dict[Any, int] = {}

    @contextmanager
    def running(self) -> Iterator[CountingServer]:
        thread = threading.Thread(target=self.serve_forever, args=(0.05,), name="counting-server")
        thread.start()
        try:
            yield self
        finally:
            self.release.set()
            self.shutdown()
            thread.join()
            self.server_close()

    def wait_until_all_closed(self, timeout: float = 10) -> bool:
        """Return whether every connection was closed, by either side, in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._open, timeout)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._changed:
            self.connections += 1
            self._open[request] = self.connections
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        super().shutdown_request(request)
        with self._changed:
            self._open.pop(request, None)
            self._changed.notify_all()

    def count_request(self, request: Any) -> int:
        with self._changed:
            self.requests += 1
            return self._open[request]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each answer takes 40 ms
    server: CountingServer

    def do_GET(self) -> None:
        number = self.server.count_request(self.request)
        match self.path.split("/")[1:]:
            case ["lines", count]:
                self._stream(f"line {n}\n" for n in range(int(count)))
            case ["endless"]:
                self._stream(iter(lambda: "again\n", None))
            case ["held"]:
                self.server.held.release()
                self.server.release.wait()
                self._answer({"connection": number})
            case _:
                self._answer({"connection": number, "path": self.path})

    def _answer(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, lines: Iterator[str]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for line in lines:
                self.wfile.write(f"{len(line):x}\r\n{line}\r\n".encode())
            self.wfile.write(b"0\r\n\r\n")
        except ConnectionError:
            self.close_connection = True

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:
            pass  # a client that goes in the middle of a request is what some tests are about

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the tests count instead."""
