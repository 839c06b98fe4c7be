"""Named arrays of one grid out of .npz and HDF5 files: read whole, checked, never unpickled."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from search_spaces import UserError
from trainables.data.nifti import class_ids

_UNREADABLE = (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What numpy, zipfile and h5py raise for a file that is cut, damaged, pickled or of another kind."""


def read_arrays(path: Path, names: Sequence[str], *, num_axes: int) -> dict[str, np.ndarray]:
    """The arrays `names` of an .npz or, whatever else the ending, an HDF5 file.

    Raises UserError, naming the file, when it cannot be read, lacks one of them, or when they are not
    numbers of one shape with `num_axes` axes.
    """
    try:
        arrays = _npz(path, names) if path.suffix == ".npz" else _hdf5(path, names)
    except _UNREADABLE as error:
        kind = "NPZ" if path.suffix == ".npz" else "HDF5"
        reason = " ".join(str(error).split())
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
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in names if name in file.files}


def _hdf5(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    with h5py.File(path, "r") as file:
        found = {name: file.get(name) for name in names}
        return {name: np.asarray(item[()]) for name, item in found.items() if isinstance(item, h5py.Dataset)}
