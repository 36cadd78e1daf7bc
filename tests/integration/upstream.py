"""The real server that the programs of these tests fetch from."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Upstream(ThreadingHTTPServer):
    """Answers a path with itself, `/together` when enough ask at once, `/release` when told to."""

    daemon_threads = False

    def __init__(self, parties: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.together = threading.Barrier(parties)
        self.released = threading.Event()


class Handler(BaseHTTPRequestHandler):
    server: Upstream

    def do_GET(self) -> None:
        if self.path == "/together":
            self.server.together.wait()
        elif self.path == "/release":
            self.server.released.wait()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.path.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def upstream(parties: int) -> Iterator[Upstream]:
    """Serve until the block is left; nothing that still waits in it survives."""
    with Upstream(parties) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.together.abort()
            server.released.set()
            server.shutdown()
            thread.join()
