"""Synapse multi-organ CT (BTCV), eight organs: TransUNet's prepared files, or the owners' NIfTI."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from search_spaces import UserError
from trainables.data.arrays import read_labelled_arrays
from trainables.data.importers import base
from trainables.data.nifti import Nifti, axial_planes, axial_spacing, canonical, read_labelled
from trainables.data.parquet import Row
from trainables.data.preparation import for_metadata

ORGANS = {
    "aorta": 8,
    "gallbladder": 4,
    "left kidney": 3,
    "right kidney": 2,
    "liver": 6,
    "pancreas": 11,
    "spleen": 1,
    "stomach": 7,
}
"""Id in the owners' labels by name, in the order of the classes 1..8."""
CLASS_NAMES = ("background", *ORGANS)
NUM_RAW_CLASSES = 14
WINDOW_HU = (-125.0, 275.0)
TRAIN = (5, 6, 7, 9, 10, 21, 23, 24, 26, 27, 28, 30, 31, 33, 34, 37, 39, 40)
TEST = (1, 2, 3, 4, 8, 22, 25, 29, 32, 35, 36, 38)
"""Case numbers of TransUNet's lists; it has no validation list."""

Size = tuple[int, int] | None


@dataclass(frozen=True, kw_only=True)
class _Layout:
    rows: Mapping[str, Callable[[Size], Iterator[Row]]]
    """By case: reads it, resizes it."""
    train: list[str]
    test: list[str]
    orientation: str
    axial: bool
    """Whether the owners' volumes are known to become these slices; how TransUNet turned its, nobody says."""


def read(source: Path | str, *, size: tuple[int, int] | None = None) -> base.ImportedDataset:
    """Every slice of each labelled case, at its own size (512x512) or resized to `size` (height, width).

    `source` holds train_npz/ and test_vol_h5/ (TransUNet's copy: intensities scaled, spacing unknown, arrays
    as they lie), or img/ and label/ with NIfTI (also below RawData/Training or Training): there intensities
    are -125 to 275 Hounsfield units, the slices axial, and labels other than the eight organs background.
    TransUNet's cases train and test; of the training cases some are held out for validation when the file is
    read (`trainables.data.splits`), for selecting on the test cases would make their score meaningless. Where
    fewer than two training cases or no test case are there, the split is made by case.
    Raises UserError for a source in another layout or with missing slices and, while the rows are walked, for
    a broken or mismatched file and for slices of several sizes where no `size` is given.
    """
    folder = base.existing_folder(source)
    layout = _prepared(folder) or _raw(folder)
    if layout is None:
        raise UserError(
            "A Synapse source must hold train_npz/ and test_vol_h5/ (TransUNet's copy), or "
            f"img/img0001.nii.gz and label/label0001.nii.gz, ..., and {source} has neither; give the folder "
            "that holds them."
        )
    low, high = WINDOW_HU
    return base.ImportedDataset(
        name="synapse",
        class_names=CLASS_NAMES,
        rows=base.uniform(row for case in sorted(layout.rows) for row in layout.rows[case](size)),
        splits=_split(layout),
        metadata={
            "source": "Synapse multi-atlas abdominal CT (BTCV, MICCAI 2015), the 30 labelled scans",
            "licence": "as agreed to when registering for syn3193805; check it before redistribution",
            "citation": "Landman et al., Multi-Atlas Labeling Beyond the Cranial Vault, 2015, "
            "doi:10.7303/syn3193805; cases and organs: Chen et al., TransUNet, arXiv:2102.04306",
            "image_scaling": f"window {low:g} to {high:g} HU",
            "orientation": layout.orientation,
            "slices": "all",
            "resize": f"{size[0]}x{size[1]}, image area average or linear, mask nearest" if size else "none",
            **(for_metadata(intensities=f"window:{low:g}:{high:g}", size=size) if layout.axial else {}),
        },
    )


def _split(layout: _Layout) -> Mapping[str, Any] | None:
    if len(layout.train) < 2 or not layout.test:  # of one case none can be held out
        return None
    return {"train": layout.train, "test": layout.test}


def _case_id(number: int) -> str:
    return f"case{number:04d}"


def _number(path: Path, pattern: str, example: str) -> re.Match[str]:
    match = re.fullmatch(pattern, path.name)
    if match is None:
        raise UserError(f"Files must be named like {example}, and {path} is not; rename or remove it.")
    return match


# --- TransUNet's copy


def _prepared(source: Path) -> _Layout | None:
    for root in (source, source / "Synapse"):
        train, test = _train_slices(root), _test_volumes(root)
        if train or test:
            break
    else:
        return None
    both = sorted(train.keys() & test.keys())
    if both:
        raise UserError(
            f"A case must train or test, but {base.listed(both)} of {root} lies in train_npz and "
            "in test_vol_h5; remove one of the two."
        )
    return _Layout(
        rows={case: partial(_slice_rows, case, slices) for case, slices in train.items()}
        | {case: partial(_volume_rows, case, path) for case, path in test.items()},
        train=sorted(train),
        test=sorted(test),
        orientation="rows and columns as stored in TransUNet's files, not re-oriented",
        axial=False,
    )


def _train_slices(root: Path) -> dict[str, dict[int, Path]]:
    """Case id -> slice number -> file, sorted."""
    cases: dict[str, dict[int, Path]] = defaultdict(dict)
    for path in sorted(root.glob("train_npz/*.npz")):
        match = _number(path, r"case(\d{4})_slice(\d{3})\.npz", "case0005_slice000.npz")
        cases[_case_id(int(match[1]))][int(match[2])] = path
    for case, slices in cases.items():
        base.refuse_gaps(f"{case} of {root / 'train_npz'}", list(slices))
    return dict(cases)


def _test_volumes(root: Path) -> dict[str, Path]:
    pattern, example = r"case(\d{4})\.npy\.h5", "case0001.npy.h5"
    paths = sorted(root.glob("test_vol_h5/*.h5"))
    return {_case_id(int(_number(path, pattern, example)[1])): path for path in paths}


def _slice_rows(case: str, slices: Mapping[int, Path], size: Size) -> Iterator[Row]:
    for number, path in slices.items():
        image_HW, mask_HW = read_labelled_arrays(path, num_axes=2, num_classes=len(CLASS_NAMES))
        for row in _all_rows(case, image_HW[None], mask_HW[None], None, size):
            yield replace(row, slice_index=number)


def _volume_rows(case: str, path: Path, size: Size) -> Iterator[Row]:
    image_ZHW, mask_ZHW = read_labelled_arrays(path, num_axes=3, num_classes=len(CLASS_NAMES))
    return _all_rows(case, image_ZHW, mask_ZHW, None, size)


def _all_rows(
    case: str,
    image_ZHW: np.ndarray,
    mask_ZHW: np.ndarray,
    spacing_mm: tuple[float, float, float] | None,
    size: Size,
) -> Iterator[Row]:
    return base.plane_rows(
        case_id=case,
        image_ZHW=image_ZHW,
        mask_ZHW=mask_ZHW,
        spacing_mm=spacing_mm,
        size=size,
        kept=range(len(image_ZHW)),
    )


# --- the owners' NIfTI


def _raw(source: Path) -> _Layout | None:
    for root in (source, source / "RawData" / "Training", source / "Training"):
        images, labels = (
            _by_case(root, folder, stem) for folder, stem in (("img", "img"), ("label", "label"))
        )
        if images or labels:
            break
    else:
        return None
    single = sorted(
        path.name for case in images.keys() ^ labels.keys() for path in [images.get(case) or labels[case]]
    )
    if single:
        raise UserError(
            f"Each scan of img/ needs its label in label/, but in {root} these stand alone: "
            f"{base.listed(single)}; fetch their partners or remove them."
        )
    return _Layout(
        rows={case: partial(_nifti_rows, case, images[case], labels[case]) for case in images},
        train=[case for case in map(_case_id, TRAIN) if case in images],
        test=[case for case in map(_case_id, TEST) if case in images],
        orientation="axial; rows anterior to posterior, columns patient right to left, inferior slice first",
        axial=True,
    )


def _by_case(root: Path, folder: str, stem: str) -> dict[str, Path]:
    paths = sorted(root.glob(f"{folder}/{stem}*.nii.gz"))
    pattern, example = rf"{stem}(\d{{4}})\.nii\.gz", f"{stem}0001.nii.gz"
    return {_case_id(int(_number(path, pattern, example)[1])): path for path in paths}


def _nifti_rows(case: str, image: Path, label: Path, size: Size) -> Iterator[Row]:
    files = (Nifti(name=str(path), content=path) for path in (image, label))
    volume = canonical(read_labelled(*files, num_classes=NUM_RAW_CLASSES))
    class_of_raw = np.zeros(NUM_RAW_CLASSES, np.uint8)
    class_of_raw[list(ORGANS.values())] = np.arange(1, len(CLASS_NAMES))
    return _all_rows(
        case,
        axial_planes(base.to_uint8(volume.image_XYZ, *WINDOW_HU)),
        axial_planes(class_of_raw[volume.mask_XYZ]),
        axial_spacing(volume.spacing_mm),
        size,
    )
