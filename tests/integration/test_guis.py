"""Results for the thread of a GUI, as docs/howto/gui.md brings them there; without a display."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from interpreters import Python

TKINTER = """
import asyncio, queue, threading, tkinter
import palitra


async def fetch():
    await asyncio.sleep(0.05)
    return "fetched"


async def longer():
    await asyncio.sleep(0.2)
    return "waited"


root = tkinter.Tcl()  # all of tkinter but its windows
"""


def test_tkinter_shows_what_a_queue_brings_also_while_its_thread_is_in_run(python: Python) -> None:
    pytest.importorskip("tkinter")

    end = python.run(
        TKINTER
        + """
finished = queue.SimpleQueue()


def click():
    palitra.get_executor().submit(fetch).add_done_callback(finished.put)
    print(palitra.run(longer(), timeout=10))


def poll():
    if finished.empty():
        root.after(10, poll)
        return
    print(finished.get().result(), threading.current_thread() is threading.main_thread())
    root.tk.quit()


root.after(0, click)
poll()
root.tk.mainloop(-1)
"""
    )

    assert (end.stderr, end.returncode) == ("", 0)
    assert end.stdout.splitlines() == ["waited", "fetched True"]


def test_a_callback_that_waits_for_tkinters_thread_stops_the_loop_and_is_named(
    python: Python,
) -> None:
    # Why the page says not to: nothing of palitra's can help.
    pytest.importorskip("tkinter")

    end = python.run(
        TKINTER
        + """
def click():
    future = palitra.get_executor().submit(fetch)
    future.add_done_callback(lambda future: root.after(0, root.tk.quit))
    try:
        palitra.run(longer(), timeout=0.5)
    except TimeoutError as error:
        print("in click" in error.__notes__[0])


root.after(0, click)
root.tk.mainloop(-1)
"""
    )

    assert (end.stderr, end.returncode, end.stdout) == ("", 0, "True\n")


def test_a_signal_of_qt_brings_a_result_to_the_thread_of_its_receiver(python: Python) -> None:
    pytest.importorskip("PySide6.QtCore")

    end = python.run(
        """
import asyncio, threading
import palitra
from PySide6.QtCore import QCoreApplication, QObject, QTimer, Signal


async def fetch():
    await asyncio.sleep(0.05)
    return "fetched"


class Fetcher(QObject):
    fetched = Signal(object)

    def start(self):
        palitra.get_executor().submit(fetch).add_done_callback(self.fetched.emit)


class Window(QObject):
    def show_result(self, future):
        print(future.result(), threading.current_thread() is threading.main_thread())
        application.quit()


application = QCoreApplication([])
fetcher, window = Fetcher(), Window()
fetcher.fetched.connect(window.show_result)
QTimer.singleShot(0, fetcher.start)
application.exec()
""",
    )

    assert (end.stderr, end.returncode, end.stdout) == ("", 0, "fetched True\n")
