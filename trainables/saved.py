"""Files of tensors that a bad disk or a wrong copy may have damaged: checked before they are believed."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path
from typing import Any

import torch


class DamagedError(Exception):
    """The file is not what `torch.save` wrote."""


def read(path: Path, device: torch.device | str) -> dict[str, Any]:
    """What `torch.save` wrote, without unpickling anything but tensors and plain values.

    The CRC-32 of every record is checked, which torch itself does not do: a flipped bit among the weights
    would go unseen. Nothing compressed is accepted, for torch compresses nothing, so no record is larger than
    its file. Raises DamagedError, and OSError where the file cannot be read at all.
    """
    content = path.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            wrong = [i.filename for i in file.infolist() if i.compress_type != zipfile.ZIP_STORED]
            wrong += [name for name in [file.testzip()] if name is not None]
        if wrong:
            raise zipfile.BadZipFile(f"record {wrong[0]} is not as it was written")
        loaded = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
        if not isinstance(loaded, dict):
            raise TypeError(f"it holds a {type(loaded).__name__}")
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # zipfile, zlib and torch raise a dozen kinds for bytes that are not theirs
        reason = " ".join(str(error).split())[:200]
        raise DamagedError(f"{path} is damaged ({type(error).__name__}: {reason})") from error
    return loaded


def digest_of(path: Path) -> str:
    """Of a whole file: tells one sound file from another."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
