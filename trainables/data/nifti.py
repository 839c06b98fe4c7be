"""Labelled NIfTI volumes: reading and checking them, their orientation, their axial planes."""

from __future__ import annotations

import gzip
import io
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from search_spaces import UserError
from trainables.data.rules import require_regular

_UNREADABLE = (
    OSError, EOFError, zlib.error, ImageFileError, HeaderDataError, WrapStructError,
    ValueError, OverflowError, TypeError, LookupError, np.linalg.LinAlgError,
)  # fmt: skip
"""What nibabel and gzip raise for a file that is cut, or no NIfTI at all."""


LARGEST_VOLUME = 2**30
"""Voxels: four times the largest CT of the data sets that are read here."""


@dataclass(frozen=True, kw_only=True)
class Nifti:
    """A NIfTI file: where it lies, or its bytes (out of an archive, gzip-compressed or not)."""

    name: str
    content: Path | bytes


@dataclass(frozen=True, kw_only=True)
class Volume:
    """Voxels on the stored grid or, after `canonical`, on the one that runs right, anterior, superior."""

    voxels_XYZ: np.ndarray
    """float32, all finite."""
    spacing_mm: tuple[float, float, float]
    """Along the three array axes."""
    affine: np.ndarray
    """[4,4] from voxel indices to millimetres right, anterior and superior."""


@dataclass(frozen=True, kw_only=True)
class LabelledVolume:
    """An image (float32) and its mask of class ids (uint8) on one grid."""

    image_XYZ: np.ndarray
    mask_XYZ: np.ndarray
    spacing_mm: tuple[float, float, float]
    affine: np.ndarray


def read_volume(file: Nifti) -> Volume:
    """One NIfTI file; a plane becomes a volume of one slice, of several channels the first is read.

    Raises UserError, naming the file, when it cannot be read, has other than 2 to 4 axes or holds NaN or
    infinity.
    """
    try:
        image = _opened(file.content)
        if not 2 <= len(image.shape) <= 4:
            raise UserError(f"A volume must have 2 to 4 axes, but {file.name} has shape {image.shape}.")
        if not 0 < math.prod(image.shape[:3]) <= LARGEST_VOLUME:
            raise UserError(
                f"A volume must have 1 to {LARGEST_VOLUME} voxels, but {file.name} declares {image.shape}; "
                "fetch it again."
            )
        proxy = image.dataobj[..., 0] if len(image.shape) == 4 else image.dataobj
        voxels = np.asarray(proxy, dtype=np.float32)
    except UserError:
        raise
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{file.name} cannot be read as NIfTI ({reason}); fetch it again.") from error
    bad = voxels.size - int(np.isfinite(voxels).sum())
    if bad:
        raise UserError(
            f"All voxels must be finite, but {file.name} has {bad} NaN or infinite ones; repair or remove it."
        )
    zooms = (*(float(zoom) for zoom in image.header.get_zooms()[:3]), 1.0)
    affine = np.asarray(image.affine, dtype=np.float64)
    if not (all(0 < zoom < math.inf for zoom in zooms) and _has_axes(affine)):
        raise UserError(
            f"A header must tell three directions and their spacing, but that of {file.name} does not; "
            "repair it, or fetch the file again."
        )
    return Volume(
        voxels_XYZ=voxels.reshape((*voxels.shape, 1)[:3]),
        spacing_mm=(zooms[0], zooms[1], zooms[2]),
        affine=affine,
    )


def _has_axes(affine: np.ndarray) -> bool:
    return bool(np.isfinite(affine).all()) and None not in nib.aff2axcodes(affine)


def _opened(content: Path | bytes) -> nib.Nifti1Image:
    """Its header; of the voxels no more is read, or unpacked, than the header declares."""
    if isinstance(content, Path):
        require_regular(content, "A volume")
        return nib.load(content)
    file = io.BytesIO(content)
    return nib.Nifti1Image.from_stream(gzip.GzipFile(fileobj=file) if content[:2] == b"\x1f\x8b" else file)


def read_labelled(image: Nifti, label: Nifti, *, num_classes: int) -> LabelledVolume:
    """An image with its label on the stored grid.

    Raises UserError when one of the two cannot be read (`read_volume`), when shapes or orientations differ,
    or when the label holds anything but the ids 0 .. num_classes - 1.
    """
    picture, truth = read_volume(image), read_volume(label)
    shape, label_shape = picture.voxels_XYZ.shape, truth.voxels_XYZ.shape
    if shape != label_shape:
        raise UserError(
            f"An image and its label must have one shape, but {image.name} has {shape} and {label.name} "
            f"{label_shape}; fetch both again."
        )
    axes, label_axes = orientation(picture), orientation(truth)
    if axes != label_axes:
        raise UserError(
            f"An image and its label must be oriented alike, but {image.name} runs {axes} and {label.name} "
            f"{label_axes}; correct the header of one of them."
        )
    return LabelledVolume(
        image_XYZ=picture.voxels_XYZ,
        mask_XYZ=class_ids(truth.voxels_XYZ, num_classes, label.name),
        spacing_mm=picture.spacing_mm,
        affine=picture.affine,
    )


def orientation(volume: Volume) -> str:
    """Where the array axes run to: "RAS" = right, anterior, superior."""
    return "".join(nib.aff2axcodes(volume.affine))


def class_ids(values: np.ndarray, num_classes: int, name: str) -> np.ndarray:
    """`values` as uint8 class ids. Raises UserError for another number."""
    good = (values >= 0) & (values < num_classes) & (values == np.rint(values))
    if not good.all():
        found = ", ".join(f"{value:g}" for value in np.unique(values[~good])[:5])
        raise UserError(
            f"A label must hold the declared class ids 0 to {num_classes - 1}, but {name} also holds "
            f"{found}; declare these classes or repair the label."
        )
    return values.astype(np.uint8)


def canonical(volume: LabelledVolume) -> LabelledVolume:
    """Axes permuted and flipped to run to the patient's right, anterior and superior; no resampling.

    An oblique volume gets the nearest such order. The affine maps the new indices.
    """
    moves = nib.io_orientation(volume.affine)
    order = np.argsort(moves[:, 0])
    first, second, third = (volume.spacing_mm[axis] for axis in order)
    return LabelledVolume(
        image_XYZ=nib.apply_orientation(volume.image_XYZ, moves),
        mask_XYZ=nib.apply_orientation(volume.mask_XYZ, moves),
        spacing_mm=(first, second, third),
        affine=volume.affine @ nib.orientations.inv_ornt_aff(moves, volume.image_XYZ.shape),
    )


def axial_planes(values_XYZ: np.ndarray) -> np.ndarray:
    """[X,Y,Z] of a canonical volume -> [Z,H,W], a view: inferior slice first, rows anterior to posterior,
    columns from the patient's right to the left, as a radiologist looks at them."""
    return values_XYZ[::-1, ::-1].transpose(2, 1, 0)


def axial_spacing(spacing_mm: tuple[float, float, float]) -> tuple[float, float, float]:
    """(x, y, z) of a canonical volume -> (row, column, between slices)."""
    return spacing_mm[1], spacing_mm[0], spacing_mm[2]
