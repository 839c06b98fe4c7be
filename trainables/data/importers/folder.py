"""A plain folder of image and mask pairs, PNG or NIfTI: images/ and masks/, or x.png beside x_mask.png."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from search_spaces import UserError
from trainables.data.importers import base
from trainables.data.nifti import (
    Nifti,
    axial_planes,
    axial_spacing,
    canonical,
    read_labelled,
    read_volume,
)
from trainables.data.parquet import Row
from trainables.data.preparation import for_metadata

ENDINGS = (".png", ".nii.gz", ".nii")
BINARY = 255
"""A mask of 0 and 255 shows one class; 255 is no class id, it means "unlabelled" in this project."""
UPPER_PERCENTILE = 99.9

Pairs = dict[str, tuple[Path, Path]]
Planes = tuple[np.ndarray, np.ndarray, tuple[float, float, float] | None]


def read(source: Path | str, *, size: tuple[int, int] | None = None) -> base.ImportedDataset:
    """All pairs below `source`, at their own size, which must be one, or resized to `size` (height, width).

    `source` holds images/ and masks/ with files of the same stem, or x.png beside x_mask.png (.nii, .nii.gz
    likewise). A case is a file's stem; a stem that reads CASE_slice012 is slice 12 of CASE. Masks hold
    class ids, or 0 and 255 in all files for one class. 8-bit images keep their grey values, 16-bit and
    NIfTI images are scaled, minimum to 99.9th percentile, per file. A volume is cut in axial slices, and
    all are kept: the owner of the folder chose them.
    Raises UserError for unmatched files (all in one sentence), no pair, undeclared mask values and, while
    the rows are walked, for mismatched shapes, NaN and images of several sizes where no `size` is given.
    """
    pairs = _pairs(base.existing_folder(source))
    values = sorted(set().union(*(_mask_values(mask) for _, mask in pairs.values())))
    divisor, num_classes = _coding(Path(source), values)
    return base.ImportedDataset(
        name=Path(source).resolve().name,
        class_names=("background", *(f"class {k}" for k in range(1, num_classes))),
        rows=base.uniform(row for stem in pairs for row in _rows(stem, *pairs[stem], divisor, size)),
        metadata={
            "source": "a folder of image and mask pairs",
            "licence": "not stated",
            "image_scaling": f"8 bit as stored; others per file, minimum to {UPPER_PERCENTILE} percentile",
            "slices": "all",
            "resize": f"{size[0]}x{size[1]}, image area average or linear, mask nearest" if size else "none",
            **for_metadata(intensities=f"percentile:{UPPER_PERCENTILE}", size=size, colour=True),
        },
    )


def _pairs(source: Path) -> Pairs:
    """Stem -> (image, mask), sorted. Raises UserError naming what has no partner of its own format."""
    if (source / "images").is_dir() and (source / "masks").is_dir():
        images, masks = (_by_stem(sorted((source / folder).iterdir())) for folder in ("images", "masks"))
    else:
        every = _by_stem(sorted(source.iterdir()))
        masks = {
            (stem.removesuffix("_mask"), end): p for (stem, end), p in every.items() if stem.endswith("_mask")
        }
        images = {key: path for key, path in every.items() if not key[0].endswith("_mask")}
    single = sorted(
        path.name for key in images.keys() ^ masks.keys() for path in [images.get(key) or masks[key]]
    )
    if single:
        raise UserError(
            f"Each image needs a mask of the same stem and format, but in {source} these stand alone: "
            f"{base.listed(single)}; add their partners or remove them."
        )
    if not images:
        raise UserError(
            "A folder must hold images/ and masks/, or x.png beside x_mask.png (PNG or NIfTI), and "
            f"{source} holds no pair."
        )
    pairs = {stem: (images[stem, end], masks[stem, end]) for stem, end in sorted(images)}
    if len(pairs) < len(images):
        twice = sorted(stem for stem in pairs if sum(key[0] == stem for key in images) > 1)
        raise UserError(
            f"A stem must name one image, but in {source} several formats share: {base.listed(twice)}."
        )
    return pairs


def _by_stem(paths: list[Path]) -> dict[tuple[str, str], Path]:
    """(stem, ending) -> path; files with other endings are no images and stay out."""
    found = {}
    for path in paths:
        end = next((end for end in ENDINGS if path.name.lower().endswith(end)), None)
        if end is not None and not path.name.startswith("."):
            found[path.name[: -len(end)], end] = path
    return found


def _mask_values(path: Path) -> set[float]:
    values = _png(path) if _is_png(path) else read_volume(_nifti(path)).voxels_XYZ
    if _is_png(path) and values.ndim != 2:
        raise UserError(f"A PNG mask must hold one channel of class ids, and {path} is coloured; convert it.")
    return {float(value) for value in np.unique(values)}


def _coding(source: Path, values: list[float]) -> tuple[int, int]:
    """What mask values are divided by to give class ids, and the number of classes."""
    if not any(values):
        raise UserError(
            f"A mask must show a class somewhere, but all masks of {source} are empty; check their export."
        )
    if values[-1] == BINARY and set(values) <= {0.0, float(BINARY)}:
        return BINARY, 2
    if values[-1] >= BINARY or values[0] < 0 or any(value % 1 for value in values):
        raise UserError(
            f"Masks must hold class ids from 0 to 254, or only 0 and 255, but those of {source} hold "
            f"{base.listed(f'{value:g}' for value in reversed(values))}; recode them."
        )
    return 1, int(values[-1]) + 1


def _rows(stem: str, image: Path, mask: Path, divisor: int, size: tuple[int, int] | None) -> Iterator[Row]:
    sliced = re.fullmatch(r"(.+)_slice(\d+)", stem)
    case, first = (sliced[1], int(sliced[2])) if sliced else (stem, 0)
    planes = _png_planes(image, mask) if _is_png(image) else _nifti_planes(image, mask)
    image_ZHW, mask_ZHW, spacing_mm = planes
    rows = base.plane_rows(
        case_id=case,
        image_ZHW=image_ZHW,
        mask_ZHW=mask_ZHW // np.uint8(divisor),
        spacing_mm=spacing_mm,
        size=size,
        kept=range(len(image_ZHW)),
    )
    return (replace(row, slice_index=first + row.slice_index) for row in rows)


def _nifti_planes(image: Path, mask: Path) -> Planes:
    volume = canonical(read_labelled(_nifti(image), _nifti(mask), num_classes=BINARY + 1))
    image_ZHW = axial_planes(base.scale_volume(volume.image_XYZ, UPPER_PERCENTILE))
    return image_ZHW, axial_planes(volume.mask_XYZ), axial_spacing(volume.spacing_mm)


def _png_planes(image: Path, mask: Path) -> Planes:
    grey_HW, ids_HW = _grey(image), _png(mask).astype(np.uint8)
    if grey_HW.shape != ids_HW.shape:
        raise UserError(
            f"An image and its mask must have one shape, but {image} has {grey_HW.shape} and {mask.name} "
            f"{ids_HW.shape}; export both again."
        )
    return grey_HW[None], ids_HW[None], None


def _grey(path: Path) -> np.ndarray:
    """uint8 [H,W]: colour becomes luma, 16 bit is scaled."""
    values = _png(path, image=True)
    return values if values.dtype == np.uint8 else base.scale_volume(values, UPPER_PERCENTILE)


def _png(path: Path, *, image: bool = False) -> np.ndarray:
    """Stored values: palette indices of a mask are its ids, but an `image` of 8-bit channels becomes grey."""

    def values(picture: Image.Image) -> np.ndarray:
        deep = picture.mode.startswith("I")
        return np.asarray(picture.convert("L") if image and not deep else picture)

    return base.opened_picture(path, values)


def _is_png(path: Path) -> bool:
    return path.suffix.lower() == ".png"


def _nifti(path: Path) -> Nifti:
    return Nifti(name=str(path), content=path)
