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
from pathlib import Path
from typing import Any

EVERYBODY = "everybody"
"""In the file of orders: all processes stop. Anything else in it is the name of a node."""

LOOK_EVERY = 0.5
"""Seconds between two looks into the file of orders, which may lie on another machine."""

NOTE = "preempted.json"
"""In the folder of a trial whose process left because it was asked to: {"iteration", "reason"}."""

Handler = Callable[[int, types.FrameType | None], object] | int | None


class StopRequests:
    """What one process was asked; `asked()` is cheap enough for every step."""

    def __init__(self, node: str = "") -> None:
        self.node = node
        """Name of the node on which this process runs."""
        self.orders: Path | None = None
        """The driver's file. It is read, not looked for: a network file system shows new content upon
        opening, but may say for half a minute that a new file is not there."""
        self.reason = ""
        self._before: Handler = None
        self._busy = False
        self._looked = -LOOK_EVERY

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
        if not self.reason and self.orders is not None and now - self._looked >= LOOK_EVERY:
            self._looked = now
            with contextlib.suppress(OSError):  # gone with its driver: nobody orders anything
                ordered = self.orders.read_text().split()
                if EVERYBODY in ordered:
                    self.reason = "its driver was asked to stop"
                elif self.node and self.node in ordered:
                    self.reason = "its node is about to go"
        return bool(self.reason)

    def _heard(self, number: int, frame: types.FrameType | None) -> None:
        self.reason = "its process was sent SIGTERM"
        if not self._busy:
            if callable(self._before):
                self._before(number, frame)
            raise SystemExit(1)


def leave_note(folder: Path, iteration: int, reason: str) -> None:
    """For the driver: that nothing was wrong with the trial, and from where it goes on."""
    (folder / NOTE).write_text(json.dumps({"iteration": iteration, "reason": reason}))


def read_note(folder: Path) -> dict[str, Any] | None:
    """None where no process left one, or not all of it."""
    with contextlib.suppress(OSError, ValueError):
        note: dict[str, Any] = json.loads((folder / NOTE).read_text())
        return note
    return None


def remove_note(folder: Path) -> None:
    """The trial goes on."""
    (folder / NOTE).unlink(missing_ok=True)
