"""What a model predicts on: NIfTI volumes, PNG pictures and the project's Parquet, each answered in kind.

A file is checked whole before anything is predicted, and its answer is written to a new path. What a file's
images have to do with the slices that a network knows is `trainables.data.preparation`.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from search_spaces import UserError
from trainables.data import rules
from trainables.data.importers import base
from trainables.data.nifti import Nifti, Volume, read_volume
from trainables.data.preparation import Preparation
from trainables.legend import class_colour

MasksOf = Callable[[Sequence[np.ndarray]], Iterable[np.ndarray]]
"""Stored slices uint8 [H,W] -> class ids uint8 [H,W] of each."""

NIFTI, PNG, PARQUET = (".nii.gz", ".nii"), (".png",), (".parquet",)
COLUMN = "prediction"
"""Of a Parquet file: class ids, uint8 in C order, height x width."""
MODEL_KEY = "prediction_model"
PARQUET_ROWS = 128


def ending(path: Path) -> str | None:
    """Of the three formats; None for another file."""
    return next((end for end in (*NIFTI, *PNG, *PARQUET) if path.name.lower().endswith(end)), None)


@dataclass(frozen=True, slots=True)
class ImageFile(abc.ABC):
    """One file, or as many pictures, as are predicted at once."""

    paths: tuple[Path, ...]
    preparation: Preparation

    @property
    def path(self) -> Path:
        return self.paths[0]

    @abc.abstractmethod
    def check(self) -> int:
        """Reads everything; the number of slices. Raises UserError, naming the file."""

    @abc.abstractmethod
    def predict(self, masks_of: MasksOf, target: Callable[[Path], Path], model: str) -> None:
        """Writes the answer to `target` of each path. `model` says in a few words whose answer it is."""


class NiftiFile(ImageFile):
    """A volume; its mask has its shape, its affine and its header, but holds uint8 class ids."""

    def check(self) -> int:
        return len(self._planes(self._volume()))

    def predict(self, masks_of: MasksOf, target: Callable[[Path], Path], model: str) -> None:
        volume = self._volume()
        ids_ZHW = np.stack(list(masks_of(list(self._planes(volume)))))
        ids_XYZ = self.preparation.volume(ids_ZHW, volume.voxels_XYZ.shape, volume.affine)
        image = nib.load(self.path)
        header = image.header.copy()
        header.set_data_dtype(np.uint8)
        header["cal_min"] = header["cal_max"] = 0  # a window of intensities, which class ids are not
        answer = type(image)(np.ascontiguousarray(ids_XYZ.reshape(image.shape)), image.affine, header)
        nib.save(answer, target(self.path))

    def _volume(self) -> Volume:
        volume = read_volume(Nifti(name=str(self.path), content=self.path))
        shape = nib.load(self.path).shape
        if len(shape) == 4 and shape[3] != 1:
            raise UserError(
                f"The model takes images of 1 channel, but {self.path} has {shape[3]}; save the channel that "
                "it was trained on as a file of its own."
            )
        return volume

    def _planes(self, volume: Volume) -> np.ndarray:
        return self.preparation.planes(volume.voxels_XYZ, volume.affine, str(self.path))


class PngFiles(ImageFile):
    """Pictures; their masks are PNGs of class ids with a palette, of the same height and width."""

    def check(self) -> int:
        for path in self.paths:
            self.plane(path)
        return len(self.paths)

    def predict(self, masks_of: MasksOf, target: Callable[[Path], Path], model: str) -> None:
        pictures = [self.plane(path) for path in self.paths]
        masks = masks_of([plane_HW for plane_HW, _ in pictures])
        for path, (_, shape), ids_HW in zip(self.paths, pictures, masks, strict=True):
            answer = Image.fromarray(self.preparation.on_picture(ids_HW, shape))
            answer.putpalette([part for index in range(256) for part in _rgb(index)])
            answer.save(target(path), format="PNG")

    def plane(self, path: Path) -> tuple[np.ndarray, tuple[int, int]]:
        """Its one stored slice, and the picture's own height and width."""

        def values(picture: Image.Image) -> np.ndarray:
            if picture.mode.startswith("I"):
                return np.asarray(picture)
            grey = np.asarray(picture.convert("L"))
            if not self.preparation.colour:
                self._refuse_colour(path, picture, grey)
            return grey

        values_HW = base.opened_picture(path, values)
        height, width = values_HW.shape
        return self.preparation.picture(values_HW, str(path)), (height, width)

    def _refuse_colour(self, path: Path, picture: Image.Image, grey: np.ndarray) -> None:
        if picture.mode != "L" and not (np.asarray(picture.convert("RGB")) == grey[..., None]).all():
            raise UserError(
                f"The model takes images of 1 channel, but {path} is coloured; convert it to grey as its "
                "data set was."
            )


class ParquetFile(ImageFile):
    """Rows with `image`, `height` and `width`: all of them and their metadata, and a column with masks."""

    def check(self) -> int:
        with rules.readable(self.path), pq.ParquetFile(self.path) as file:
            self._check_columns(file.schema_arrow)
            return sum(len(self._images(batch)) for batch in _batches(file, list(_NEEDED)))

    def predict(self, masks_of: MasksOf, target: Callable[[Path], Path], model: str) -> None:
        with rules.readable(self.path), pq.ParquetFile(self.path) as file:
            schema = file.schema_arrow.append(pa.field(COLUMN, pa.binary(), nullable=False))
            schema = schema.with_metadata({**(file.schema_arrow.metadata or {}), MODEL_KEY: model})
            with pq.ParquetWriter(target(self.path), schema, compression="zstd") as writer:
                for batch in _batches(file, file.schema_arrow.names):
                    masks = [ids_HW.tobytes() for ids_HW in masks_of(self._images(batch))]
                    columns = [*batch.columns, pa.array(masks, pa.binary())]
                    writer.write_table(pa.Table.from_arrays(columns, schema=schema))

    def _check_columns(self, schema: pa.Schema) -> None:
        wrong = [
            f"{name} {'is missing' if name not in schema.names else f'is {schema.field(name).type}'}"
            for name, kind in _NEEDED.items()
            if name not in schema.names or schema.field(name).type != kind
        ]
        if wrong:
            raise UserError(
                f"{self.path} must hold the columns image (binary), height and width (int32), but "
                f"{', '.join(wrong)}; write it with `python -m study data import`."
            )
        if COLUMN in schema.names:
            raise UserError(
                f"{self.path} holds a column {COLUMN!r} already; give the file that it was predicted from."
            )

    def _images(self, batch: Any) -> list[np.ndarray]:
        images = []
        columns = zip(batch["image"], batch["height"].to_pylist(), batch["width"].to_pylist(), strict=True)
        for cell, height, width in columns:
            buffer = cell.as_buffer() if cell.is_valid else b""
            if not (height and width and 0 < height * width == len(buffer)):
                raise UserError(
                    f"{self.path}: an image must hold height x width bytes of 1 channel, but one of "
                    f"{height} x {width} holds {len(buffer)}; write uint8 in C order."
                )
            images.append(np.frombuffer(buffer, np.uint8).reshape(height, width))
        return images


def _batches(file: pq.ParquetFile, names: list[str]) -> Iterator[Any]:
    return file.iter_batches(batch_size=PARQUET_ROWS, columns=names)


_NEEDED = {"image": pa.binary(), "height": pa.int32(), "width": pa.int32()}


def _rgb(index: int) -> tuple[int, ...]:
    """Black background, and the colours that the project's pictures give the classes."""
    colour = "#000000" if index == 0 else class_colour(index)
    return tuple(int(colour[place : place + 2], 16) for place in (1, 3, 5))


def opened(paths: Sequence[Path], preparation: Preparation, pictures_at_once: int) -> list[ImageFile]:
    """The files as they are predicted: each volume and table alone, pictures together.

    A Parquet file holds slices as its data set stores them: there is nothing to prepare.
    """
    pictures = [path for path in paths if ending(path) in PNG]
    groups = [
        tuple(pictures[start : start + pictures_at_once])
        for start in range(0, len(pictures), pictures_at_once)
    ]
    return [
        *(NiftiFile((path,), preparation) for path in paths if ending(path) in NIFTI),
        *(PngFiles(group, preparation) for group in groups),
        *(ParquetFile((path,), preparation) for path in paths if ending(path) in PARQUET),
    ]


def told(preparation: Preparation, intensities: str | None, orientation: str | None) -> Preparation:
    """With what the user says about the files. Raises UserError for values that mean nothing."""
    return dataclasses.replace(
        preparation,
        intensities=preparation.intensities if intensities is None else intensities,
        orientation=preparation.orientation if orientation is None else orientation,
    )
