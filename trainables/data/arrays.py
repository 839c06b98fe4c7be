"""Named arrays of one grid out of .npz and HDF5 files: read whole, checked, never unpickled."""

from __future__ import annotations

import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from search_spaces import UserError
from trainables.data.nifti import class_ids
from trainables.data.rules import require_regular

LARGEST_ARRAY = 2**32
"""Bytes: ten times the largest volume of the data sets that are read here."""
_UNREADABLE = (
    OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error,
    TypeError, LookupError, OverflowError, SyntaxError, struct.error, NotImplementedError,
    tokenize.TokenError,
)  # fmt: skip
"""What numpy, zipfile and h5py raise for a file that is cut, damaged, pickled or of another kind."""


def read_arrays(path: Path, names: Sequence[str], *, num_axes: int) -> dict[str, np.ndarray]:
    """The arrays `names` of an .npz or, whatever else the ending, an HDF5 file.

    Raises UserError, naming the file, when it cannot be read, lacks one of them, or when they are not
    numbers of one shape with `num_axes` axes.
    """
    require_regular(path, "A file of arrays")
    try:
        arrays = _npz(path, names) if path.suffix == ".npz" else _hdf5(path, names)
    except _UNREADABLE as error:
        kind = "NPZ" if path.suffix == ".npz" else "HDF5"
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{path} cannot be read as {kind} ({reason}); fetch it again.") from error
    absent = [name for name in names if name not in arrays]
    if absent:
        raise UserError(
            f"The file must hold the arrays {', '.join(names)}, but {path} lacks {', '.join(absent)}; check "
            "that it belongs to this data set, or fetch it again."
        )
    shapes = [array.shape for array in arrays.values()]
    if len(shapes[0]) != num_axes or 0 in shapes[0] or len(set(shapes)) > 1:
        found = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise UserError(
            f"The arrays of a file must have one shape of {num_axes} axes, but {path} has {found}; fetch "
            "it again."
        )
    wrong = [f"{name} of {array.dtype}" for name, array in arrays.items() if array.dtype.kind not in "buif"]
    if wrong:
        raise UserError(f"Arrays must hold numbers, but {path} has {', '.join(wrong)}; fetch it again.")
    return arrays


def unit_to_uint8(values: np.ndarray, where: str) -> np.ndarray:
    """[0, 1] -> 0..255, rounded. Raises UserError for NaN and for values beyond, as Hounsfield units are."""
    low, high = float(values.min()), float(values.max())
    tolerance = 1e-5  # of a scaling in float32
    if not (low >= -tolerance and high <= 1 + tolerance):  # so that NaN is refused too
        raise UserError(
            f"Intensities must lie in [0, 1], but {where} runs from {low:g} to {high:g}; import the copy "
            "that was scaled."
        )
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)


def read_labelled_arrays(path: Path, *, num_axes: int, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Grey values ("image", in [0, 1]) and class ids ("label"), both uint8. Raises UserError as above."""
    arrays = read_arrays(path, ("image", "label"), num_axes=num_axes)
    return (
        unit_to_uint8(arrays["image"], f"the image of {path}"),
        class_ids(arrays["label"], num_classes, f"the label of {path}"),
    )


def _npz(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    if not zipfile.is_zipfile(path):
        raise zipfile.BadZipFile("it is no whole zip archive")
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.filename.removesuffix(".npy") in names:
                _refuse_absurd(member.filename, member.file_size)
                with archive.open(member) as file:
                    _refuse_absurd(member.filename, _declared_bytes(file))
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in names if name in file.files}


def _declared_bytes(file: Any) -> int:
    """Of the array whose .npy file this is: what numpy would make room for."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"its .npy format is {version}")
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, kind = header(file)
    return math.prod(shape) * kind.itemsize


def _hdf5(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    with h5py.File(path, "r") as file:
        return {name: _values(file, name) for name in names if isinstance(file.get(name), h5py.Dataset)}


def _values(file: h5py.File, name: str) -> np.ndarray:
    """One array whose values lie in the file itself. Raises ValueError for one that leads elsewhere."""
    item = file[name]
    elsewhere = (
        isinstance(file.get(name, getlink=True), h5py.ExternalLink) or item.external or item.is_virtual
    )
    if elsewhere:
        raise ValueError(f"{name} leads to other files")
    _refuse_absurd(name, math.prod(item.shape or (0,)) * item.dtype.itemsize)
    return np.asarray(item[()])


def _refuse_absurd(name: str, size: int) -> None:
    if size > LARGEST_ARRAY:
        raise ValueError(f"{name} declares {size} bytes, more than the {LARGEST_ARRAY} that are read")
