"""Task 4 of the Medical Segmentation Decathlon as 48x32 slices; fetches the owners' archive when asked to."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from trainables.data.download import fetch
from trainables.data.importers import base, msd
from trainables.data.nifti import axial_planes, axial_spacing
from trainables.data.parquet import Row
from trainables.data.preparation import for_metadata

URL = "https://msd-for-monai.s3-us-west-2.amazonaws.com/Task04_Hippocampus.tar"
MD5 = "9d24dba78a72977dbd1d2e110310f31b"
LIMIT_BYTES = 100_000_000
"""The archive has about 28 MB."""
TIMEOUT_SECONDS = 30.0
CROP_XY = (32, 48)
"""Right-left by anterior-posterior, in voxels of 1 mm: 14 of 856 754 foreground voxels fall outside."""
LEAST_FOREGROUND = 0.01


def read(
    source: Path | str, *, size: tuple[int, int] | None = None, cache: Path | None = None
) -> base.ImportedDataset:
    """Axial slices of 48 (anterior to posterior) x 32 (patient right to left), or resized to `size`.

    `source` is the task's folder or .tar, the word "download", or the http(s) address of a copy of the
    archive; a download stays in `cache` and is not repeated. Kept: slices with at least 1 % foreground
    after cropping, the selection of the size-supervision papers.
    Raises UserError as `msd.read` and `fetch` do.
    """
    url = _url(str(source))
    task = msd.open_task(_fetched(url, cache or _default_cache()) if url else Path(source))
    return base.ImportedDataset(
        name="msd-hippocampus",
        class_names=task.class_names,
        rows=_rows(task, size),
        metadata={
            "source": "Medical Segmentation Decathlon, Task04_Hippocampus",
            **msd.LICENCE,
            "image_scaling": f"per volume before cropping, {msd.scaling(task)}",
            "orientation": "axial; rows anterior to posterior, columns patient right to left",
            "slices": "those with at least 1 % foreground after cropping",
            "resize": f"centre crop or zero pad to 48x32, then {size or 'none'}",
            **for_metadata(intensities=msd.intensities(task), crop=CROP_XY, size=size),
        },
    )


def _rows(task: msd.Task, size: tuple[int, int] | None) -> Iterator[Row]:
    for case, volume in msd.volumes(task):
        image_XYZ = base.centre_crop(msd.scaled(task, volume.image_XYZ), CROP_XY)
        mask_ZHW = axial_planes(base.centre_crop(volume.mask_XYZ, CROP_XY))
        foreground_Z = (mask_ZHW > 0).mean(axis=(1, 2))
        yield from base.plane_rows(
            case_id=case,
            image_ZHW=axial_planes(image_XYZ),
            mask_ZHW=mask_ZHW,
            spacing_mm=axial_spacing(volume.spacing_mm),
            size=size,
            kept=[index for index, share in enumerate(foreground_Z) if share >= LEAST_FOREGROUND],
        )


def _url(source: str) -> str | None:
    if source == "download":
        return URL
    address = re.fullmatch(r"(https?):/+(.+)", source)  # a Path has folded the two slashes into one
    return f"{address[1]}://{address[2]}" if address else None


def _fetched(url: str, cache: Path) -> Path:
    target = cache / "Task04_Hippocampus.tar"
    return fetch(url, target, md5=MD5, limit_bytes=LIMIT_BYTES, timeout=TIMEOUT_SECONDS)


def _default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "weak-supervision-study"
