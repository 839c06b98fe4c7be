"""What a running driver tells other processes beside the ledger: one small file in the study's folder.

The ledger knows which trials run, not how far they are, and nothing of the machine. The file is replaced
whole, without waiting for the disk: it says something only while its driver lives (`StudyFolder.is_running`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from study.eta import Running
from study.usage import Gpu, Usage

FILE = "live.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """A driver at one moment."""

    started: float
    """Unix time at which this run of the study began."""
    slots: int
    """Trials that fit at once."""
    running: tuple[Running, ...]
    usage: Usage
    """Of the machine that the driver runs on."""
    pretraining_iterations: int = 0
    """Optimiser steps of the shared trainings that are still missing."""
    dashboard: str = ""
    """Address of Ray's dashboard; "" without one."""


def write(folder: Path, live: Live) -> None:
    """Replaces the file; a disk that is full or gone is no reason to end a study."""
    temporary = folder / f".{FILE}.{os.getpid()}"
    with contextlib.suppress(OSError):
        temporary.write_text(json.dumps(dataclasses.asdict(live)))
        temporary.replace(folder / FILE)


def read(folder: Path) -> Live | None:
    """What the driver told last; None without a file, or with one of another version."""
    try:
        raw = json.loads((folder / FILE).read_text())
        usage = raw.pop("usage")
        return Live(
            **{name: value for name, value in raw.items() if name != "running"},
            running=tuple(Running(**one) for one in raw["running"]),
            usage=Usage(**{**usage, "gpus": tuple(Gpu(**one) for one in usage["gpus"])}),
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


@contextlib.contextmanager
def published(folder: Path) -> Iterator[None]:
    """Nothing of the file is left when the driver ends."""
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            (folder / FILE).unlink(missing_ok=True)
