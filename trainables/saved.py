"""Files of tensors with a seal: what a bad disk or a wrong copy has changed is seen before it is believed."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import torch

_MARK = b"\nsealed by blake2b "
_LENGTH = len(_MARK) + 32


class DamagedError(Exception):
    """The file is not, or not whole, what was written under this key."""


def write(path: Path, content: dict[str, Any], key: str) -> None:
    """What `torch.save` writes, and behind it a digest of that and of the trial's key.

    Torch reads such a file as any other, and sees no flipped bit among the weights. The checksums of its
    archive are not enough: bits between the records decide what it reads. Atomic: a kill at any moment leaves
    the old file or the new one, whole.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    with temporary.open("w+b") as file:
        torch.save(content, file)
        file.write(_seal(file, key))
        file.flush()
        os.fsync(file.fileno())  # else a power cut may leave the new name without its content
    temporary.replace(path)


def read(path: Path, device: torch.device | str, key: str) -> dict[str, Any]:
    """What `write` wrote under this key; nothing but tensors and plain values is ever unpickled.

    Raises DamagedError, and OSError where the file cannot be read at all.
    """
    content = path.read_bytes()
    if not _is_sealed(content, key):
        raise DamagedError(f"{path} is damaged, or is not of trial {key}")
    loaded: dict[str, Any] = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    return loaded


def is_whole(path: Path, key: str) -> bool:
    """Whether `read` would take this file."""
    return _is_sealed(path.read_bytes(), key)


def _is_sealed(content: bytes, key: str) -> bool:
    return content[-_LENGTH:] == _seal(io.BytesIO(content[:-_LENGTH]), key)


def _seal(file: io.BufferedRandom | io.BytesIO, key: str) -> bytes:
    """Of all that is in the file, which is left at its end."""
    file.seek(0)
    digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16, key=key.encode()))
    return _MARK + digest.hexdigest().encode()
