"""Where a study's runs and its search were last written, so that `ui` finds them without being told."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path

from study.masking import holds_secret, masked

FILE = "stores.json"


@dataclass(frozen=True, slots=True)
class Addresses:
    """Addresses; "" stands for the databases of the home, which may be moved, and a password for nothing."""

    tracking: str = ""
    optuna: str = ""


def remember(folder: Path, tracking: str | None, optuna: str | None) -> None:
    """Writes the addresses down, atomically; of one that holds a password what may be shown."""
    kept = Addresses(*(masked(one) if holds_secret(one) else one for one in (tracking or "", optuna or "")))
    temporary = folder / f".{FILE}.{os.getpid()}"
    temporary.write_text(json.dumps(dataclasses.asdict(kept)))
    temporary.replace(folder / FILE)


def remembered(folder: Path) -> Addresses:
    """The databases of the home for a study of an earlier version, and for a file that is damaged."""
    try:
        return Addresses(**json.loads((folder / FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return Addresses()
