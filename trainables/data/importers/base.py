"""What importers share: their result, finding them by file name, and the steps from a plane to a row."""

from __future__ import annotations

import importlib
import pkgutil
import struct
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from search_spaces import UserError, nearest
from trainables.data import importers
from trainables.data.parquet import Row
from trainables.data.rules import require_regular

CT_WINDOW_HU = (-160.0, 240.0)
"""Abdominal soft tissue: level 40, width 400 Hounsfield units."""


_NO_PICTURE = (
    OSError,
    EOFError,
    ValueError,
    SyntaxError,
    TypeError,
    LookupError,
    ArithmeticError,
    struct.error,
    zlib.error,
)
"""What Pillow raises for a file that is cut, damaged or no picture."""


@dataclass(frozen=True, kw_only=True)
class ImportedDataset:
    """What `write_dataset` needs. `rows` may be walked once; it holds one volume in memory at a time."""

    name: str
    class_names: tuple[str, ...]
    """Index = class id, 0 = background."""
    rows: Iterator[Row]
    splits: Mapping[str, Any] | None = None
    """As `write_dataset` takes them; None lets it split by case and group."""
    metadata: Mapping[str, str] = field(default_factory=dict)


def names() -> list[str]:
    """All kinds of source that can be imported, alphabetically. Does not import them."""
    modules = (module.name for module in pkgutil.iter_modules(importers.__path__))
    return sorted(name.replace("_", "-") for name in modules if name != "base")


def load(kind: str) -> Callable[..., ImportedDataset]:
    """`read(source, *, size=None)` of the importer of that name. Raises UserError for an unknown kind."""
    known = names()
    if kind not in known:
        raise UserError(
            f"There is no importer {kind!r}.{nearest(kind, known)} Importers: {', '.join(known)}."
        )
    module = importlib.import_module(f"trainables.data.importers.{kind.replace('-', '_')}")
    read: Callable[..., ImportedDataset] = module.read
    return read


def listed(names: Iterable[str]) -> str:
    """The first five names, and how many more there are: short enough for one sentence."""
    every = list(names)
    more = f" and {len(every) - 5} more" if len(every) > 5 else ""
    return ", ".join(every[:5]) + more


def existing_folder(source: Path | str) -> Path:
    """`source` as a folder. Raises UserError when there is none."""
    folder = Path(source)
    if not folder.is_dir():
        raise UserError(f"The source must be an existing folder, and {source} is not; check the path.")
    return folder


def opened_picture(path: Path, read: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    """What `read` makes of a picture file. Raises UserError for a damaged one, or one of absurd size."""
    require_regular(path, "A picture")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                return read(picture)
    except MemoryError as error:  # Pillow makes room for what a damaged length says, whatever the file holds
        reason = "it asks for too much memory"
        raise UserError(f"{path} cannot be read as an image ({reason}); export it again.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, *_NO_PICTURE) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{path} cannot be read as an image ({reason}); export it again.") from error


def to_uint8(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """[low, high] -> [0, 255], clipped and rounded; all zero where high <= low (a constant image)."""
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    scaled = np.clip(values, low, high, dtype=np.float32)
    scaled -= np.float32(low)
    scaled *= np.float32(255.0 / (high - low))
    return np.rint(scaled, out=scaled).astype(np.uint8)


def scale_volume(values: np.ndarray, percentile: float) -> np.ndarray:
    """Min-max of a whole volume, with its `percentile` as the upper end: a few hot voxels set no scale."""
    return to_uint8(values, float(values.min()), float(np.percentile(values, percentile)))


def centre_crop(values_XYZ: np.ndarray, size_XY: tuple[int, int]) -> np.ndarray:
    """Cut or zero pad the first two axes around their centre; an odd voxel goes to the high end."""
    for axis, target in enumerate(size_XY):
        length = values_XYZ.shape[axis]
        if length >= target:
            start = (length - target) // 2
            values_XYZ = np.take(values_XYZ, range(start, start + target), axis=axis)
        else:
            before = (target - length) // 2
            padding = [(0, 0)] * values_XYZ.ndim
            padding[axis] = (before, target - length - before)
            values_XYZ = np.pad(values_XYZ, padding)
    return values_XYZ


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Grey image [H,W] to `size` (height, width): area average where both sides shrink, else linear."""
    shrinks = all(new <= old for new, old in zip(size, image.shape, strict=True))
    how = Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(image).resize(size[::-1], how))


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Class ids [H,W] to `size` (height, width): the nearest pixel's id."""
    return np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))


def nearest_pixels(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[H,W] to `size`, as the ACDC literature resizes: the corner pixels' centres stay in the corners."""
    return ndimage.zoom(plane, (size[0] / plane.shape[0], size[1] / plane.shape[1]), order=0)


def resized_spacing(
    spacing_mm: tuple[float, float, float], old: tuple[int, ...], new: tuple[int, ...]
) -> tuple[float, float, float]:
    """(row, column, between slices) in mm of the resized grid, which covers the same field of view."""
    row, column, between = spacing_mm
    return row * old[0] / new[0], column * old[1] / new[1], between


def kept_slices(mask_ZHW: np.ndarray, every: int = 10) -> list[int]:
    """Indices of the slices that hold a class, and of each tenth empty one (the 1st, the 11th, ...).

    Most slices of a CT hold no target: all of them would drown the others, none would leave a method
    without an example of absence.
    """
    present = mask_ZHW.any(axis=(1, 2))
    empty = np.flatnonzero(~present)[::every]
    return sorted([*np.flatnonzero(present).tolist(), *empty.tolist()])


def refuse_gaps(volume: str, numbers: Sequence[int]) -> None:
    """Raises UserError unless `numbers` are 0, 1, ... up to their largest: scores are of whole volumes."""
    missing = sorted(set(range(max(numbers))) - set(numbers))
    if missing:
        raise UserError(
            f"Slices must be numbered 0, 1, ... without gaps, but {volume} lacks "
            f"{listed(map(str, missing))}; fetch them, or remove the volume."
        )


def uniform(rows: Iterator[Row]) -> Iterator[Row]:
    """The rows as they come. Raises UserError at the first whose size differs from the first row's."""
    shape: tuple[int, ...] | None = None
    for row in rows:
        shape = shape or row.image.shape
        if row.image.shape != shape:
            raise UserError(
                f"All images must have one size, but {row.case_id} has "
                f"{row.image.shape[0]}x{row.image.shape[1]}, those before it {shape[0]}x{shape[1]}; resize "
                "them all with --size."
            )
        yield row


def plane_rows(
    *,
    case_id: str,
    image_ZHW: np.ndarray,
    mask_ZHW: np.ndarray,
    spacing_mm: tuple[float, float, float] | None,
    size: tuple[int, int] | None,
    kept: Sequence[int] | None = None,
) -> Iterator[Row]:
    """Rows of one volume (uint8): the slices `kept` (None: `kept_slices`), resized to `size`."""
    for index in kept_slices(mask_ZHW) if kept is None else kept:
        image, mask = (np.ascontiguousarray(planes[index]) for planes in (image_ZHW, mask_ZHW))
        if size is not None:
            image, mask = resize_image(image, size), resize_mask(mask, size)
        yield Row(
            case_id=case_id,
            slice_index=index,
            image=image,
            mask=mask,
            spacing_mm=spacing_mm and resized_spacing(spacing_mm, image_ZHW.shape[1:], image.shape),
        )
