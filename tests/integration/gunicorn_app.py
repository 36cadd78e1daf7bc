"""A Flask application that has used palitra by the time gunicorn forks its workers."""

import os
import threading
from typing import Any

from flask import Flask
from forked_app import fetch, note, pool

import palitra

# All of this happens in the arbiter, before the fork.
executor = palitra.AsyncLoopExecutor(thread_name_prefix="explicit")
preloaded = [palitra.run(fetch("/preload")), executor.submit(fetch, "/preload").result()]
arbiters_pool = palitra.enter_context(pool())
arbiters_loop = palitra.get_loop()
arbiters_call = palitra.get_executor().submit(fetch, "/release")
arbiters_call.add_done_callback(lambda call: note(f"arbiter's call: {call.result()}"))

app = Flask(__name__)
workers_pool: int | None = None
pool_lock = threading.Lock()


@app.get("/fetch/<path:path>")
def fetch_view(path: str) -> dict[str, Any]:
    global workers_pool  # noqa: PLW0603  (one per worker, as applications keep them)
    with pool_lock:
        if workers_pool is None:
            workers_pool = palitra.enter_context(pool())
    return {
        "pid": os.getpid(),
        "preloaded": preloaded,
        "pool": workers_pool,
        "default": palitra.run(fetch(f"/{path}")),
        "explicit": executor.submit(fetch, "/plain").result(),
        "thread": executor.submit(os.getpid).result(),
        "several": palitra.gather(fetch("/a"), fetch("/b")),
        "loop is the arbiter's": palitra.get_loop() is arbiters_loop,
        "arbiter's call": type(arbiters_call.exception()).__name__,
    }
