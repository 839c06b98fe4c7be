"""BUSI breast ultrasound (Dataset_BUSI_with_GT): one image a case, near duplicates in one group."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse.csgraph import connected_components

from search_spaces import UserError
from trainables.data.importers import base
from trainables.data.parquet import Row
from trainables.data.preparation import for_metadata

LABELS = ("benign", "malignant", "normal")
SIZE = (256, 256)
THUMBNAIL = (32, 32)
LEAST_CORRELATION = 0.92
"""Thumbnails that correlate more show one scan or its neighbour; at this value a few merges are false."""


@dataclass(frozen=True, kw_only=True)
class Scan:
    case_id: str
    image: Path
    masks: tuple[Path, ...]


def read(source: Path | str, *, size: tuple[int, int] | None = None) -> base.ImportedDataset:
    """All images below `source` or `source`/Dataset_BUSI_with_GT, grey, resized to `size` or 256x256.

    Every image is kept; "normal" ones have empty masks. Several masks of an image are united. A case is
    "benign_001", say; near duplicates (thumbnail correlation above 0.92, connected components) share a
    group, named after its first case, which a split by group keeps on one side. Intensities are the
    source's.
    Raises UserError for a source in another layout, for an image without mask or a mask without image, and
    while the rows are walked for a mask of another size or a file that is no image.
    """
    scans = _scans(base.existing_folder(source))
    height, width = size or SIZE
    return base.ImportedDataset(
        name="busi",
        class_names=("background", "lesion"),
        rows=_rows(scans, (height, width)),
        metadata={
            "source": "BUSI (Dataset_BUSI_with_GT), breast ultrasound",
            "licence": "unsettled: copies state CC0 1.0 or other terms; check the owner's before "
            "redistribution",
            "citation": "Al-Dhabyani et al., Data in Brief 28:104863, 2020, doi:10.1016/j.dib.2019.104863",
            "image_scaling": "8-bit source converted to grey (ITU-R 601-2 luma), no rescaling",
            "slices": "all; several masks of an image united",
            "resize": f"{height}x{width}, image area average or linear, mask nearest, aspect not kept",
            "duplicate_group": f"correlation of 32x32 thumbnails above {LEAST_CORRELATION}, connected "
            "components",
            **for_metadata(size=(height, width), colour=True),
        },
    )


def duplicate_groups(images: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Case id -> first case id of its group. `images`: uint8 [32,32] by case id, in the cases' order."""
    thumbnails_NV = np.stack([image.ravel().astype(np.float64) for image in images.values()])
    thumbnails_NV -= thumbnails_NV.mean(axis=1, keepdims=True)
    length_N = np.linalg.norm(thumbnails_NV, axis=1)
    thumbnails_NV /= np.where(length_N > 0, length_N, 1.0)[:, None]  # a constant image correlates with none
    _, component_N = connected_components(thumbnails_NV @ thumbnails_NV.T > LEAST_CORRELATION, directed=False)
    first: dict[int, str] = {}
    return {case: first.setdefault(int(c), case) for case, c in zip(images, component_N, strict=True)}


def _scans(source: Path) -> list[Scan]:
    root = source / "Dataset_BUSI_with_GT" if (source / "Dataset_BUSI_with_GT").is_dir() else source
    files = {
        path.relative_to(root).as_posix(): path for label in LABELS for path in root.glob(f"{label}/*.png")
    }
    masks: dict[str, list[Path]] = {}
    images = {}
    for name, path in sorted(files.items()):
        mask = re.fullmatch(r"(.+)_mask(_\d+)?\.png", name)
        if mask:
            masks.setdefault(mask[1], []).append(path)
        else:
            images[name.removesuffix(".png")] = path
    if not images:
        raise UserError(
            f"A BUSI source must hold benign/, malignant/ and normal/ with PNG images, and {source} has "
            "none; unpack the owners' archive and give the folder Dataset_BUSI_with_GT."
        )
    single = sorted(images.keys() ^ masks.keys())
    if single:
        raise UserError(
            f"Each image needs a mask NAME_mask.png, but in {root} these stand alone: {base.listed(single)}."
        )
    scans = [
        Scan(case_id=_case_id(name), image=path, masks=tuple(masks[name])) for name, path in images.items()
    ]
    return sorted(scans, key=lambda scan: scan.case_id)


def _case_id(name: str) -> str:
    """ "benign/benign (7)" -> "benign_007"."""
    number = re.fullmatch(r"(\w+)/\1 \((\d+)\)", name)
    if number is None:
        raise UserError(
            f"BUSI images must be named like 'benign (7).png', and {name}.png is not; rename or remove it."
        )
    return f"{number[1]}_{int(number[2]):03d}"


def _rows(scans: list[Scan], size: tuple[int, int]) -> Iterator[Row]:
    groups = duplicate_groups(
        {scan.case_id: base.resize_image(_grey(scan.image), THUMBNAIL) for scan in scans}
    )
    for scan in scans:
        image = _grey(scan.image)
        mask = np.zeros(image.shape, bool)
        for path in scan.masks:
            part = _grey(path)
            if part.shape != image.shape:
                raise UserError(
                    f"An image and its mask must have one shape, but {scan.image} has {image.shape} and "
                    f"{path.name} {part.shape}; fetch both again."
                )
            mask |= part > 127
        yield Row(
            case_id=scan.case_id,
            slice_index=0,
            image=base.resize_image(image, size),
            mask=base.resize_mask(mask.astype(np.uint8), size),
            group=groups[scan.case_id],
        )


def _grey(path: Path) -> np.ndarray:
    return base.opened_picture(path, lambda picture: np.asarray(picture.convert("L")))
