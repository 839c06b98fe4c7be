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
    archive are not enough: bits between the records decide what it reads. Atomic: a kill at any moment, and a
    full disk, leave the old file or the new one, whole. Raises OSError.
    """
    buffer = io.BytesIO()  # into a file torch would hide behind an error of its own that the disk is full
    torch.save(content, buffer)
    whole = buffer.getbuffer()
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(whole)
            file.write(_seal(whole, key))
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave the new name without its content
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)  # what it holds of a full disk
        raise


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
    return content[-_LENGTH:] == _seal(memoryview(content)[:-_LENGTH], key)


def _seal(content: memoryview, key: str) -> bytes:
    digest = hashlib.blake2b(content, digest_size=16, key=key.encode())
    return _MARK + digest.hexdigest().encode()
