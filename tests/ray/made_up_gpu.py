"""A GPU that is none, for the probe of `trainables.probe`."""

from __future__ import annotations

import fcntl
import time
from pathlib import Path

from torch import OutOfMemoryError, device

QUICK, SLOW = 2.0, 15.0
"""Seconds for a few steps, which the machine really takes besides: little of both, however busy it is."""


class MadeUpGpu:
    """A `trainables.probe.Counter` of 1000 bytes, on which a few steps take QUICK.

    peak: bytes of every trial; room: processes that find memory; alone: whether all become slow as soon as
    there is a second. The last two need a folder, through which the processes know each other.
    """

    def __init__(
        self, *, peak: int, folder: Path | None = None, room: int | None = None, alone: bool = False
    ) -> None:
        self.peak, self.folder, self.room, self.alone = peak, folder, room, alone
        self.place = 0

    @property
    def device(self) -> device:
        if self.room is not None and self.place > self.room:
            raise OutOfMemoryError("no room")
        return device("cpu")

    def restart(self) -> None:
        if self.folder is not None and not self.place:
            with (self.folder / "places").open("a") as handle:
                fcntl.flock(handle, fcntl.LOCK_EX)
                handle.write(".")
                self.place = handle.tell()

    def peak_bytes(self) -> int:
        return self.peak

    def outside_bytes(self) -> int:
        return 50

    def total_bytes(self) -> int:
        return 1000

    def name(self) -> str:
        return "made up"

    def busy(self) -> float | None:
        time.sleep(SLOW if self.alone and self._places() > 1 else QUICK)
        return 0.5

    def _places(self) -> int:
        return 0 if self.folder is None else (self.folder / "places").stat().st_size
