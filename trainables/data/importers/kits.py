"""KiTS kidney tumour CT (2019, 2021 and 2023 layouts): labelled axial slices."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from search_spaces import UserError
from trainables.data.importers import base
from trainables.data.nifti import Nifti, axial_planes, axial_spacing, canonical, read_labelled, read_volume
from trainables.data.parquet import Row
from trainables.data.preparation import for_metadata

logger = logging.getLogger(__name__)

CLASS_NAMES = ("background", "kidney", "tumour", "cyst")
CYST = 3
SIZE = (256, 256)
SEGMENTATIONS = ("segmentation.nii.gz", "aggregated_MAJ_seg.nii.gz")
"""2019 and 2023; 2021 (majority vote of the annotators)."""
FIRST_TEST_CASE_2019 = 210
"""The 2019 cases from here on are the challenge's test set, which the owners distribute without labels."""

Pair = tuple[Path, Path]


def read(source: Path | str, *, size: tuple[int, int] | None = None) -> base.ImportedDataset:
    """Labelled cases below `source`, its data/ or its dataset/, axial, resized to `size` or 256x256.

    The axial axis comes from the header (it is the first array axis in these files). Kept: slices with a
    class, and each tenth empty one (`base.kept_slices`). Intensities: -160 to 240 Hounsfield units. The
    class "cyst" exists where a label holds it: 2019 has none. Finding that out reads labels until the first
    cyst.
    Raises UserError for a source in another layout, for a case without CT or label and, while the rows are
    walked, for a broken or mismatched volume.
    """
    pairs = _pairs(base.existing_folder(source))
    has_cysts = any((read_volume(_nifti(label)).voxels_XYZ == CYST).any() for _, label in pairs.values())
    class_names = CLASS_NAMES if has_cysts else CLASS_NAMES[:CYST]
    height, width = size or SIZE
    low, high = base.CT_WINDOW_HU
    return base.ImportedDataset(
        name="kits",
        class_names=class_names,
        rows=(row for case in pairs for row in _rows(case, pairs[case], len(class_names), (height, width))),
        metadata={
            "source": "KiTS, Kidney Tumor Segmentation Challenge, abdominal CT",
            "licence": "CC BY-NC-SA 4.0 (data/LICENSE of the owners' repository); non-commercial",
            "citation": "Heller et al., Medical Image Analysis 67:101821, 2021, "
            "doi:10.1016/j.media.2020.101821",
            "image_scaling": f"window {low:g} to {high:g} HU",
            "orientation": "axial; rows anterior to posterior, columns patient right to left",
            "slices": "those with a class and each tenth empty one of a volume",
            "resize": f"{height}x{width}, image area average or linear, mask nearest",
            **for_metadata(intensities=f"window:{low:g}:{high:g}", size=(height, width)),
        },
    )


def _pairs(source: Path) -> dict[str, Pair]:
    """Case id -> (CT, label), sorted."""
    roots = (source, source / "data", source / "dataset")
    folders = next((found for root in roots if (found := sorted(root.glob("case_*/")))), [])
    if not folders:
        raise UserError(
            f"A KiTS source must hold folders case_00000, ..., and {source} has none; give the data folder."
        )
    pairs = {folder.name: pair for folder in folders if (pair := _pair(folder)) is not None}
    if not pairs:
        raise UserError(
            f"A KiTS source must hold labelled cases, and {source} has only unlabelled test cases."
        )
    return pairs


def _pair(folder: Path) -> Pair | None:
    image = folder / "imaging.nii.gz"
    label = next((folder / name for name in SEGMENTATIONS if (folder / name).is_file()), None)
    if label is None:
        if folder.name.removeprefix("case_") >= f"{FIRST_TEST_CASE_2019:05d}":
            logger.info("%s has no label (a 2019 test case): left out", folder)
            return None
        raise UserError(
            f"Each case must hold its label segmentation.nii.gz, and {folder} has none; fetch it again."
        )
    if not image.is_file():
        raise UserError(
            f"Each case must hold imaging.nii.gz, and {folder} has none; run the download script of the "
            "owners' repository."
        )
    return image, label


def _rows(case: str, pair: Pair, num_classes: int, size: tuple[int, int]) -> Iterator[Row]:
    image, label = pair
    volume = canonical(read_labelled(_nifti(image), _nifti(label), num_classes=num_classes))
    return base.plane_rows(
        case_id=case,
        image_ZHW=axial_planes(base.to_uint8(volume.image_XYZ, *base.CT_WINDOW_HU)),
        mask_ZHW=axial_planes(volume.mask_XYZ),
        spacing_mm=axial_spacing(volume.spacing_mm),
        size=size,
    )


def _nifti(path: Path) -> Nifti:
    return Nifti(name=str(path), content=path)
