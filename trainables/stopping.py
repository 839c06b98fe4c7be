"""Whether this process was asked to stop: by SIGTERM, or by its driver through a file of orders.

Python runs a signal's handler on the main thread between two operations, and Ray's workers train there.
Ray's own handler (2.60) ends the process at once, wherever it is. While a trial trains, ours only remembers
the signal, so that the trial can write down where it is; between two reports Ray's does what it always did.
"""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

from trainables.store import Store, StoreAwayError

EVERYBODY = "everybody"
"""In the file of orders: all processes stop. Anything else in it is the name of a node."""

LOOK_EVERY = 0.5
"""Seconds between two looks into the file of orders, which may lie on another machine."""

ASK_EVERY = 3.0
"""The same where each look is a question to a service."""

NOTE = "preempted.json"
"""In the folder of a trial whose process left because it was asked to: {"iteration", "reason"}."""

Handler = Callable[[int, types.FrameType | None], object] | int | None


class StopRequests:
    """What one process was asked; `asked()` is cheap enough for every step."""

    def __init__(self, node: str = "") -> None:
        self.node = node
        """Name of the node on which this process runs."""
        self.orders: tuple[Store, str] | None = None
        """The driver's file. It is read, not looked for: a network file system shows new content upon
        opening, but may say for half a minute that a new file is not there."""
        self.reason = ""
        self._before: Handler = None
        self._busy = False
        self._looked = -ASK_EVERY

    def listen(self) -> None:
        """Takes SIGTERM over, for as long as the process lives. On another than the main thread: nothing."""
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._heard)

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Within it SIGTERM only makes `asked()` true."""
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    def asked(self) -> bool:
        """Whether the training should stop now."""
        now = time.monotonic()
        if not self.reason and self.orders is not None:
            store, name = self.orders
            if now - self._looked >= (LOOK_EVERY if store.is_local else ASK_EVERY):
                self._look(store, name)
                self._looked = now
        return bool(self.reason)

    def _look(self, store: Store, name: str) -> None:
        with contextlib.suppress(OSError, StoreAwayError):  # gone with its driver: nobody orders anything
            ordered = (store.hasty().read(name) or b"").decode(errors="replace").split()
            if EVERYBODY in ordered:
                self.reason = "its driver was asked to stop"
            elif self.node and self.node in ordered:
                self.reason = "its node is about to go"

    def _heard(self, number: int, frame: types.FrameType | None) -> None:
        self.reason = "its process was sent SIGTERM"
        if not self._busy:
            if callable(self._before):
                self._before(number, frame)
            raise SystemExit(1)


def leave_note(folder: Store, iteration: int, reason: str) -> None:
    """For the driver: that nothing was wrong with the trial, and from where it goes on."""
    folder.write(NOTE, json.dumps({"iteration": iteration, "reason": reason}).encode())


def read_note(folder: Store) -> dict[str, Any] | None:
    """None where no process left one, or not all of it. Raises StoreAwayError."""
    content = None
    with contextlib.suppress(OSError):
        content = folder.read(NOTE)
    with contextlib.suppress(ValueError):
        note: dict[str, Any] | None = json.loads(content or b"null")
        return note
    return None


def remove_note(folder: Store) -> None:
    """The trial goes on. Raises StoreAwayError."""
    folder.delete(NOTE)
