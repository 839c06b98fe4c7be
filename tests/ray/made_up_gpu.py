"""A GPU that is none, for the probe of `trainables.probe`."""

from __future__ import annotations

import fcntl
import time
from pathlib import Path

from torch import OutOfMemoryError, device


class MadeUpGpu:
    """A `trainables.probe.Counter` of 1000 bytes, on which a few steps take a fifth of a second.

    peak: bytes of every trial; room: processes that find memory; alone: whether it serves one process at a
    time. The last two need a folder, through which the processes know each other.
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
        if self.alone and self.folder is not None:
            with (self.folder / "turn").open("a") as handle:
                fcntl.flock(handle, fcntl.LOCK_EX)
                time.sleep(0.2)
        else:
            time.sleep(0.2)
        return 0.5
