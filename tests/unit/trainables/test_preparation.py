"""An owner's image becomes, for a prediction, the slices that the importer stored; masks go back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from search_spaces import UserError
from tests.unit.trainables import test_importers as sources
from trainables.data import preparation
from trainables.data.importers import base
from trainables.data.nifti import Nifti, read_volume
from trainables.data.preparation import Preparation
from trainables.image_files import PngFiles

SHAPE = (7, 6, 5)
AFFINES = {
    "RAS": np.diag([1.5, 1.0, 3.0, 1.0]),
    "LPS": np.diag([-1.5, -1.0, 3.0, 1.0]),
    "axial first": np.array([[0, 0, 2.0, 0], [0, 1, 0, 0], [-3, 0, 0, 0], [0, 0, 0, 1]], float),
}
PREPARATIONS = (
    Preparation(intensities="percentile:99.9"),
    Preparation(intensities="window:-160:240", orientation="stored"),
    Preparation(intensities="percentile:99", crop=(4, 8)),
    Preparation(intensities="percentile:99", crop=(4, 3), orientation="stored"),
)


def voxels(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 200, SHAPE).astype(np.float32)


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
@pytest.mark.parametrize("prepared", PREPARATIONS, ids=str)
def test_masks_find_the_way_back(prepared: Preparation, affine: np.ndarray) -> None:
    """Each voxel that is in a slice comes back to its place; the others are background."""
    marks = np.arange(1, 211, dtype=np.float32).reshape(SHAPE)  # every voxel tells itself apart
    exact = Preparation(orientation=prepared.orientation, crop=prepared.crop)
    back = exact.volume(exact.planes(marks, affine, "marks"), SHAPE, affine)
    kept = back != 0
    np.testing.assert_array_equal(back[kept], marks[kept])
    if prepared.crop is None:
        assert kept.all()
    else:
        assert 0 < kept.sum() < kept.size
    assert prepared.planes(voxels(), affine, "x").dtype == np.uint8


@pytest.mark.parametrize("resampling", ["area", "nearest"])
def test_masks_of_resized_slices_come_back_at_the_volumes_size(resampling: str) -> None:
    prepared = Preparation(size=(12, 14), resampling=resampling, orientation="stored")
    marks = np.zeros(SHAPE, np.float32)
    marks[2:5, 2:4, 1] = 200
    planes = prepared.planes(marks, np.eye(4), "marks")
    assert planes.shape == (5, 12, 14)
    back = prepared.volume((planes > 100).astype(np.uint8), SHAPE, np.eye(4))
    np.testing.assert_array_equal(back, marks > 0)


@pytest.mark.parametrize("orientation", preparation.ORIENTATIONS)
def test_a_picture_is_the_plane_of_a_volume(orientation: str) -> None:
    """Also where an odd crop must choose a side."""
    prepared = Preparation(orientation=orientation, crop=(4, 5))
    volume = np.random.default_rng(0).integers(256, size=(7, 8, 1)).astype(np.uint8)
    whole = Preparation(orientation=orientation)
    picture = whole.planes(volume, np.eye(4), "v")[0]
    cropped = prepared.picture(picture, "p")
    np.testing.assert_array_equal(cropped, prepared.planes(volume, np.eye(4), "v")[0])
    back = prepared.on_picture(cropped, (8, 7))
    assert (back == picture)[back != 0].all()
    assert back.shape == (8, 7)


def _imported(kind: str, source: Path, **options: object) -> tuple[Preparation, base.ImportedDataset]:
    data = base.load(kind)(source, **options)
    prepared = preparation.recorded(data.metadata)
    assert prepared is not None
    return prepared, data


def _planes(prepared: Preparation, path: Path) -> np.ndarray:
    volume = read_volume(Nifti(name=str(path), content=path))
    return prepared.planes(volume.voxels_XYZ, volume.affine, str(path))


@pytest.mark.parametrize("size", [None, (9, 5)])
@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_volumes_of_a_folder_are_prepared_as_they_were_imported(
    tmp_path: Path, affine: np.ndarray, size: tuple[int, int] | None
) -> None:
    for folder, values in (("images", voxels()), ("masks", (voxels() > 0).astype(np.float32))):
        (tmp_path / folder).mkdir()
        nib.save(nib.Nifti1Image(values, affine), tmp_path / folder / "a.nii.gz")
    prepared, data = _imported("folder", tmp_path, size=size)
    stored = np.stack([row.image for row in data.rows])
    np.testing.assert_array_equal(_planes(prepared, tmp_path / "images" / "a.nii.gz"), stored)


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "I;16"])
def test_pictures_of_a_folder_are_prepared_as_they_were_imported(tmp_path: Path, mode: str) -> None:
    rng = np.random.default_rng(0)
    grey = rng.integers(256, size=(10, 12)).astype(np.uint8)
    deep = mode == "I;16"
    picture = Image.fromarray(grey * np.uint16(200)) if deep else Image.fromarray(grey).convert(mode)
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    picture.save(tmp_path / "images" / "a.png")
    Image.fromarray((grey > 99).astype(np.uint8)).save(tmp_path / "masks" / "a.png")
    prepared, data = _imported("folder", tmp_path, size=(6, 7))
    plane, shape = PngFiles((tmp_path / "images" / "a.png",), prepared).plane(tmp_path / "images" / "a.png")
    (row,) = data.rows
    np.testing.assert_array_equal(plane, row.image)
    assert shape == (10, 12)


def acdc(root: Path) -> Path:
    sources.patient(root, "patient001")
    return root


def kits(root: Path) -> Path:
    sources.scan(root / "case_00000")
    return root


def ct(root: Path) -> Path:
    return sources.decathlon(root / "Task99", modality="CT")


def mr(root: Path) -> Path:
    return sources.decathlon(root / "Task99")


def hippocampus(root: Path) -> Path:
    return sources.hippocampus(root / "Task04")


OWNERS = [
    ("acdc", acdc, "patient001/patient001_frame01.nii.gz", {}),
    ("acdc", acdc, "patient001/patient001_frame01.nii.gz", {"size": (8, 6)}),
    ("kits", kits, "case_00000/imaging.nii.gz", {}),
    ("msd", ct, "imagesTr/h_001.nii.gz", {}),
    ("msd", mr, "imagesTr/h_001.nii.gz", {"size": (5, 4)}),
    ("msd-hippocampus", hippocampus, "imagesTr/h_001.nii.gz", {}),
    ("msd-hippocampus", hippocampus, "imagesTr/h_001.nii.gz", {"size": (24, 16)}),
]


@pytest.mark.parametrize(("kind", "build", "image", "options"), OWNERS)
def test_an_owners_volume_is_prepared_as_it_was_imported(
    tmp_path: Path, kind: str, build: Callable[[Path], Path], image: str, options: dict[str, Any]
) -> None:
    source = build(tmp_path)
    prepared, data = _imported(kind, source, **options)
    planes = _planes(prepared, source / image)
    rows = [row for row in data.rows if row.frame in (None, "frame01")]
    assert rows
    for row in rows:
        np.testing.assert_array_equal(planes[row.slice_index], row.image)


def test_an_owners_picture_is_prepared_as_it_was_imported(tmp_path: Path) -> None:
    prepared, data = _imported("busi", sources.ultrasound(tmp_path), size=(32, 48))
    path = tmp_path / "benign" / "benign (1).png"  # of three equal channels
    np.testing.assert_array_equal(PngFiles((path,), prepared).plane(path)[0], next(data.rows).image)


@pytest.mark.parametrize(
    "text", ["", "stored:1", "window", "window:1", "window:5:5", "window:a:b", "window:0:inf", "percentile:0",
             "percentile:101", "percentile:nan", "median"],
)  # fmt: skip
def test_other_intensities_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="Intensities must be"):
        Preparation(intensities=text)


@pytest.mark.parametrize("values", [[-1, 3], [0, 256], [0.5, 3]])
def test_without_a_rule_only_8_bit_values_are_taken(values: list[float]) -> None:
    volume = np.array(values, np.float32).reshape(2, 1, 1)
    with pytest.raises(UserError, match=r"ct.nii holds intensities from .* say it with --intensities"):
        Preparation().planes(volume, np.eye(4), "ct.nii")


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"crop": 3}', '{"crop": [1], "size": null}', '{"crop": null, "size": [0, 5]}',
             '{"crop": null, "size": null, "resampling": "cubic"}',
             '{"crop": null, "size": null, "more": 1}'],
)  # fmt: skip
def test_damaged_metadata_is_refused(text: str) -> None:
    with pytest.raises(UserError):
        preparation.recorded({preparation.METADATA_KEY: text})


def test_metadata_round_trip() -> None:
    for prepared in PREPARATIONS:
        assert preparation.recorded({preparation.METADATA_KEY: prepared.to_json()}) == prepared
    assert preparation.recorded({}) is None
