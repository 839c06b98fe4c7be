"""How images became the 8-bit slices that a data set stores, and how their predictions find the way back.

An importer writes its `Preparation` into the metadata of its file, so that a network trained on that file can
be given the owner's own images again. Everything here works on one image at a time: a volume, or one slice.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np

from search_spaces import UserError
from trainables.data.dataset import LONGEST_SIDE, resize_ids
from trainables.data.importers import base
from trainables.data.nifti import axial_planes

METADATA_KEY = "preparation"
AXIAL, STORED = "axial", "stored"
ORIENTATIONS = (AXIAL, STORED)
AS_STORED = "stored"
GRAMMAR = "'stored', 'window:LOW:HIGH' or 'percentile:P'"
AREA, NEAREST = "area", "nearest"
LARGEST_8_BIT = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """Raises UserError for values that mean nothing.

    intensities: of volumes and 16-bit pictures: "window:LOW:HIGH" (in the file's units), "percentile:P" (each
    volume from its minimum to its P-th percentile), or "stored": whole numbers from 0 to 255 stay what they
    are, others are refused. An 8-bit picture always keeps its grey values.
    orientation: "axial" slices of the volume after turning it to the patient's axes, or slices along the
    "stored" third axis, whose rows are y and whose columns are x.
    crop: (x, y) voxels around the centre of the (turned) volume that are cut out, or padded with zeros.
    size: (height, width) that slices are resized to; None leaves them.
    resampling: "area" averages where slices shrink; "nearest" takes single pixels, corner on corner.
    colour: whether coloured pictures are taken, as their luma.
    """

    intensities: str = AS_STORED
    orientation: str = AXIAL
    crop: tuple[int, int] | None = None
    size: tuple[int, int] | None = None
    resampling: str = AREA
    colour: bool = False

    def __post_init__(self) -> None:
        parse_intensities(self.intensities)
        if self.orientation not in ORIENTATIONS:
            raise UserError(
                f"An orientation must be one of {', '.join(ORIENTATIONS)}, but got {self.orientation!r:.60}."
            )
        sizes = [size for size in (self.crop, self.size) if size is not None]
        if not all(isinstance(n, int) and 1 <= n <= LONGEST_SIDE for size in sizes for n in size):
            raise UserError(f"Sizes must be two numbers of 1 to {LONGEST_SIDE} pixels, but got {sizes}.")
        if self.resampling not in (AREA, NEAREST):
            raise UserError(f"A resampling must be {AREA} or {NEAREST}, but got {self.resampling!r:.60}.")

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_mapping(cls, raw: Any) -> Preparation:
        """Reads what `to_json` wrote. Raises UserError for anything else."""
        try:
            pairs = {name: None if raw[name] is None else tuple(raw[name]) for name in ("crop", "size")}
            if any(pair is not None and len(pair) != 2 for pair in pairs.values()):
                raise ValueError("a size has two numbers")
            return cls(**{**raw, **pairs})
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise UserError(
                f"A preparation must be whole, but {str(raw)[:120]!r} is not ({error}); import the "
                "data again."
            ) from error

    # --- volumes

    def planes(self, voxels_XYZ: np.ndarray, affine: np.ndarray, name: str) -> np.ndarray:
        """Slices uint8 [Z,H,W] of a volume as its data set would store them. Raises UserError, see above."""
        grey_XYZ = grey(voxels_XYZ, self.intensities, name)
        if self.orientation == AXIAL:
            grey_XYZ = nib.apply_orientation(grey_XYZ, nib.io_orientation(affine))
        return np.stack([self._sized(plane_HW) for plane_HW in self._in_planes(self._cropped(grey_XYZ))])

    def volume(self, ids_ZHW: np.ndarray, shape_XYZ: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
        """Class ids of `planes` on the grid that the volume came on, uint8; 0 outside the crop."""
        moves = nib.io_orientation(affine) if self.orientation == AXIAL else _AS_IT_IS
        turned = tuple(int(n) for n in _turned_shape(shape_XYZ, moves))
        ids_XYZ = self._back(ids_ZHW, turned)
        return np.asarray(
            nib.apply_orientation(ids_XYZ, nib.orientations.ornt_transform(_AS_IT_IS, moves)), np.uint8
        )

    # --- pictures

    def picture(self, values_HW: np.ndarray, name: str) -> np.ndarray:
        """A picture of one channel as its data set would store it, uint8 [H,W]. Raises UserError."""
        if values_HW.dtype != np.uint8:
            values_HW = grey(values_HW, self.intensities, name)
        plane_ZHW = self._in_planes(self._cropped(self._off_planes(values_HW[None])))
        return self._sized(plane_ZHW[0])

    def on_picture(self, ids_HW: np.ndarray, shape_HW: tuple[int, int]) -> np.ndarray:
        """Class ids of `picture` at the picture's own height and width."""
        height, width = shape_HW
        return self._in_planes(self._back(ids_HW[None], (width, height, 1)))[0]

    # --- the steps

    def _in_planes(self, values_XYZ: np.ndarray) -> np.ndarray:
        return axial_planes(values_XYZ) if self.orientation == AXIAL else values_XYZ.transpose(2, 1, 0)

    def _off_planes(self, values_ZHW: np.ndarray) -> np.ndarray:
        values_XYZ = values_ZHW.transpose(2, 1, 0)
        return values_XYZ[::-1, ::-1] if self.orientation == AXIAL else values_XYZ

    def _cropped(self, values_XYZ: np.ndarray) -> np.ndarray:
        return values_XYZ if self.crop is None else base.centre_crop(values_XYZ, self.crop)

    def _sized(self, plane_HW: np.ndarray) -> np.ndarray:
        if self.size is None or plane_HW.shape == self.size:
            return np.ascontiguousarray(plane_HW)
        resize = base.resize_image if self.resampling == AREA else base.nearest_pixels
        return np.ascontiguousarray(resize(np.ascontiguousarray(plane_HW), self.size))

    def _back(self, ids_ZHW: np.ndarray, shape_XYZ: tuple[int, ...]) -> np.ndarray:
        """On the turned volume's grid, before crop and resizing."""
        x, y = shape_XYZ[:2] if self.crop is None else self.crop
        resize = resize_ids if self.resampling == AREA else base.nearest_pixels
        grown = [
            plane_HW if plane_HW.shape == (y, x) else resize(np.ascontiguousarray(plane_HW), (y, x))
            for plane_HW in ids_ZHW
        ]
        ids_XYZ = self._off_planes(np.stack(grown))
        return ids_XYZ if self.crop is None else base.centre_crop(ids_XYZ, (shape_XYZ[0], shape_XYZ[1]))


_AS_IT_IS = np.array([[0, 1], [1, 1], [2, 1]])
"""The orientation that moves no axis."""


def _turned_shape(shape_XYZ: tuple[int, ...], moves: np.ndarray) -> np.ndarray:
    turned = np.zeros(3, int)
    turned[moves[:, 0].astype(int)] = shape_XYZ
    return turned


def parse_intensities(text: str) -> tuple[str, tuple[float, ...]]:
    """ "window:-160:240" as ("window", (-160, 240)). Raises UserError for what is not of the GRAMMAR."""
    kind, *words = str(text).split(":")
    try:
        numbers = tuple(float(word) for word in words)
    except ValueError:
        numbers = (math.nan,)
    good = {
        AS_STORED: not numbers,
        "window": len(numbers) == 2 and -math.inf < numbers[0] < numbers[1] < math.inf,
        "percentile": len(numbers) == 1 and 0 < numbers[0] <= 100,
    }
    if not good.get(kind, False):
        raise UserError(f"Intensities must be {GRAMMAR}, but got {text!r:.60}; percentile:99.9, for example.")
    return kind, numbers


def grey(values: np.ndarray, intensities: str, name: str) -> np.ndarray:
    """Intensities of one image as uint8, see `Preparation.intensities`. Raises UserError naming the file."""
    kind, numbers = parse_intensities(intensities)
    if kind == "window":
        return base.to_uint8(values, *numbers)
    if kind == "percentile":
        return base.scale_volume(values, numbers[0])
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > LARGEST_8_BIT or not (values == np.rint(values)).all():
        raise UserError(
            f"{name} holds intensities from {low:g} to {high:g}, and the model's data set does not say how "
            f"such were scaled to 0 .. 255; say it with --intensities ({GRAMMAR[len(AS_STORED) + 4 :]})."
        )
    return values.astype(np.uint8)


def recorded(metadata: Mapping[str, str]) -> Preparation | None:
    """What the importer of a data set wrote down; None where nobody did. Raises UserError for damage."""
    text = metadata.get(METADATA_KEY)
    if text is None:
        return None
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"The metadata {METADATA_KEY!r} must be JSON ({error}); import the data again."
        ) from error
    return Preparation.from_mapping(raw)


def for_metadata(**values: Any) -> dict[str, str]:
    """The entry that an importer adds to its metadata."""
    return {METADATA_KEY: Preparation(**values).to_json()}
