"""How a checkpoint or a network gets onto the disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch


def write(target: Path, content: dict[str, Any]) -> None:
    """Atomic: a kill at any moment leaves the old file or the new one, whole."""
    temporary = target.with_name(f"{target.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())  # else a power cut may leave the new name without its content
    temporary.replace(target)
