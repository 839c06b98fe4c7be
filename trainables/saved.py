"""Files of tensors with a seal: what a bad disk or a wrong copy has changed is seen before it is believed."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import torch

from trainables.store import Store

_MARK = b"\nsealed by blake2b "
_LENGTH = len(_MARK) + 32


class DamagedError(Exception):
    """The file is not, or not whole, what was written under this key."""


def write(store: Store, name: str, content: dict[str, Any], key: str) -> None:
    """What `torch.save` writes, and behind it a digest of that and of the trial's key.

    Torch reads such a file as any other, and sees no flipped bit among the weights. The checksums of its
    archive are not enough: bits between the records decide what it reads. Atomic, as `Store.write`.
    """
    file = io.BytesIO()
    torch.save(content, file)
    file.write(_seal(file.getbuffer(), key))
    store.write(name, file.getbuffer())


def read(store: Store, name: str, device: torch.device | str, key: str) -> dict[str, Any] | None:
    """What `write` wrote under this key, None where there is no file; nothing but tensors and plain values is
    ever unpickled.

    Raises DamagedError, StoreAwayError, and OSError where a local file cannot be read at all.
    """
    content = store.read(name)
    if content is None:
        return None
    if not _is_sealed(content, key):
        raise DamagedError(f"{store.shown(name)} is damaged, or is not of trial {key}")
    loaded: dict[str, Any] = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    return loaded


def network(file: str) -> dict[str, Any]:
    """What the training left in this file that its folder is named by. Raises FileNotFoundError too."""
    folder, name = Store.of(file)
    weights = read(folder, name, "cpu", folder.name)
    if weights is None:
        raise FileNotFoundError(f"There is no {folder.shown(name)}")
    return weights


def is_whole(store: Store, name: str, key: str) -> bool:
    """Whether `read` would return what was written. Raises StoreAwayError and OSError."""
    content = store.read(name)
    return content is not None and _is_sealed(content, key)


def _is_sealed(content: bytes, key: str) -> bool:
    return content[-_LENGTH:] == _seal(memoryview(content)[:-_LENGTH], key)


def _seal(content: memoryview, key: str) -> bytes:
    digest = hashlib.blake2b(content, digest_size=16, key=key.encode())
    return _MARK + digest.hexdigest().encode()
