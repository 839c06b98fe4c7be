"""Any task of the Medical Segmentation Decathlon, folder or the owners' .tar: labelled axial slices."""

from __future__ import annotations

import json
import struct
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from search_spaces import UserError
from trainables.data.importers import base
from trainables.data.nifti import (
    LabelledVolume,
    Nifti,
    axial_planes,
    axial_spacing,
    canonical,
    read_labelled,
)
from trainables.data.parquet import Row
from trainables.data.preparation import for_metadata
from trainables.data.rules import UNLABELLED, require_regular

LICENCE = {
    "licence": "CC BY-SA 4.0 (medicaldecathlon.com, all tasks)",
    "citation": "Antonelli et al., The Medical Segmentation Decathlon, Nature Communications 13:4128, 2022",
}
UPPER_PERCENTILE = 99.9
"""Of a volume without physical units: maxima of MR volumes are single hot voxels."""

LARGEST_MEMBER = 2**32
"""Bytes: the owners' largest volume has a tenth of it."""
_UNREADABLE = (tarfile.TarError, OSError, EOFError, ValueError, OverflowError, struct.error)
"""What tarfile raises for an archive that is cut or damaged."""

_Handle = Path | tarfile.TarInfo


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task's declaration and the pairs of files that it holds; nothing is unpacked."""

    source: Path
    name: str
    class_names: tuple[str, ...]
    is_ct: bool
    pairs: Mapping[str, tuple[_Handle, _Handle]]
    """Case id -> (image, label)."""


def read(source: Path | str, *, size: tuple[int, int] | None = None) -> base.ImportedDataset:
    """All labelled volumes of a task, axial, at their own in-plane size or resized to `size` (height, width).

    Kept: slices with a class, and each tenth empty one (`base.kept_slices`). Of several channels the first
    is taken. Intensities: CT (as dataset.json says) by a fixed window, others min to 99.9th percentile, per
    volume.
    Raises UserError for a source in another layout and, while the rows are walked, for a broken or
    mismatched volume and for volumes of several sizes where no `size` is given.
    """
    task = open_task(Path(source))
    return base.ImportedDataset(
        name=f"msd-{task.name.lower()}",
        class_names=task.class_names,
        rows=base.uniform(_rows(task, size)),
        metadata={
            "source": f"Medical Segmentation Decathlon, {task.name}",
            **LICENCE,
            "image_scaling": f"per volume, {scaling(task)}",
            "orientation": "axial; rows anterior to posterior, columns patient right to left",
            "slices": "those with a class and each tenth empty one of a volume",
            "resize": f"{size[0]}x{size[1]}, image area average or linear, mask nearest" if size else "none",
            **for_metadata(intensities=intensities(task), size=size),
        },
    )


def open_task(source: Path) -> Task:
    """Reads dataset.json and pairs imagesTr with labelsTr. Raises UserError for another layout."""
    files = _files(source)
    declared = _declaration(source, files["dataset.json"])
    images, labels = (_stems(files, folder) for folder in ("imagesTr", "labelsTr"))
    if not images:
        raise UserError(
            f"A Decathlon task must hold imagesTr/*.nii.gz, and {source} holds none; unpack it again."
        )
    single = [
        *(f"imagesTr/{n}" for n in images.keys() - labels),
        *(f"labelsTr/{n}" for n in labels.keys() - images),
    ]
    if single:
        raise UserError(
            f"Each image of imagesTr needs its label in labelsTr, but in {source} these stand alone: "
            f"{base.listed(sorted(single))}; fetch the task again."
        )
    return Task(
        source=source,
        name=str(declared.get("name", source.stem)),
        class_names=_class_names(source, declared),
        is_ct=str(declared.get("modality", {}).get("0", "")).upper() == "CT",
        pairs={case: (images[case], labels[case]) for case in sorted(images)},
    )


def volumes(task: Task) -> Iterator[tuple[str, LabelledVolume]]:
    """Case id and canonical volume (image still in its own units), one at a time, sorted by case id."""
    for case, pair in task.pairs.items():
        image, label = (_nifti(task.source, handle) for handle in pair)
        yield case, canonical(read_labelled(image, label, num_classes=len(task.class_names)))


def scaled(task: Task, image_XYZ: np.ndarray) -> np.ndarray:
    """Intensities of one volume as uint8: see `read`."""
    if task.is_ct:
        return base.to_uint8(image_XYZ, *base.CT_WINDOW_HU)
    return base.scale_volume(image_XYZ, UPPER_PERCENTILE)


def scaling(task: Task) -> str:
    """What `scaled` does, in words for the metadata."""
    low, high = base.CT_WINDOW_HU
    return f"window {low:g} to {high:g} HU" if task.is_ct else f"minimum to {UPPER_PERCENTILE} percentile"


def intensities(task: Task) -> str:
    """The same as a `Preparation` has it."""
    low, high = base.CT_WINDOW_HU
    return f"window:{low:g}:{high:g}" if task.is_ct else f"percentile:{UPPER_PERCENTILE}"


def _rows(task: Task, size: tuple[int, int] | None) -> Iterator[Row]:
    for case, volume in volumes(task):
        yield from base.plane_rows(
            case_id=case,
            image_ZHW=axial_planes(scaled(task, volume.image_XYZ)),
            mask_ZHW=axial_planes(volume.mask_XYZ),
            spacing_mm=axial_spacing(volume.spacing_mm),
            size=size,
        )


def _files(source: Path) -> dict[str, _Handle]:
    """Path below the task's own folder -> file. That folder is the one that holds dataset.json."""
    if source.is_dir():
        found = [*source.glob("dataset.json"), *source.glob("*/dataset.json")]
        root = Path(_only_one(source, [str(path.parent) for path in found]))
        paths = [root / "dataset.json", *root.glob("imagesTr/*"), *root.glob("labelsTr/*")]
        return {path.relative_to(root).as_posix(): path for path in paths}
    members = {Path(member.name).as_posix(): member for member in _members(source) if member.isreg()}
    declared = [name for name in members if Path(name).name == "dataset.json"]
    prefix = _only_one(source, [name.removesuffix("dataset.json") for name in declared])
    return {name.removeprefix(prefix): member for name, member in members.items() if name.startswith(prefix)}


def _only_one(source: Path, roots: list[str]) -> str:
    if len(roots) == 1:
        return roots[0]
    if not roots:
        raise UserError(
            f"A Decathlon task must hold dataset.json, and {source} has none; give the task's own folder "
            "or .tar."
        )
    raise UserError(
        f"One task is imported at a time, but {source} holds {base.listed(sorted(roots))}; give one of them."
    )


def _members(source: Path) -> list[tarfile.TarInfo]:
    if not source.is_file():
        raise UserError(
            f"The source must be a task's folder or .tar, and {source} does not exist; check the path."
        )
    try:
        with tarfile.open(source, "r:") as archive:
            return archive.getmembers()
    except _UNREADABLE as error:
        raise UserError(
            f"The source must be a folder or a whole, uncompressed .tar, and {source} is not ({error}); "
            "fetch it again, or unpack it and give the folder."
        ) from error


def _stems(files: Mapping[str, _Handle], folder: str) -> dict[str, _Handle]:
    """File name without .nii.gz -> file; without the "._" twins that macOS wrote into the archives."""
    paths = {Path(name): handle for name, handle in files.items()}
    return {
        path.name.removesuffix(".nii.gz"): handle
        for path, handle in paths.items()
        if path.parent.as_posix() == folder
        and path.name.endswith(".nii.gz")
        and not path.name.startswith("._")
    }


def _declaration(source: Path, handle: _Handle) -> dict[str, Any]:
    content = _bytes(source, handle)
    try:
        declared = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"dataset.json must be JSON, and that of {source} is not ({error}); fetch it again."
        ) from error
    for name, needed in (("labels", True), ("modality", False)):
        if not isinstance(declared, dict) or not isinstance(declared.get(name, None if needed else {}), dict):
            raise UserError(
                f'dataset.json must declare "{name}", and that of {source} does not; fetch it again.'
            )
    found: dict[str, Any] = declared
    return found


def _class_names(source: Path, declared: Mapping[str, Any]) -> tuple[str, ...]:
    labels = declared["labels"]
    if set(labels) != {str(index) for index in range(len(labels))} or not 2 <= len(labels) <= UNLABELLED:
        raise UserError(
            f"dataset.json must declare the labels 0, 1, ... without gaps, 2 to {UNLABELLED} of them, and "
            f"{source} has {base.listed(sorted(labels))}."
        )
    return tuple(str(labels[str(index)]) for index in range(len(labels)))


def _bytes(source: Path, handle: _Handle) -> bytes:
    """The content of a file, or of a member of the archive: nothing is ever unpacked onto the disk."""
    if isinstance(handle, Path):
        require_regular(handle, "What is imported")
        return handle.read_bytes()
    if handle.sparse is not None or handle.size > LARGEST_MEMBER:
        raise UserError(
            f"{handle.name!r:.200} of {source} declares {handle.size} bytes, more than any volume has, or is "
            "sparse; fetch the archive again."
        )
    try:
        with tarfile.open(
            source, "r:"
        ) as archive:  # opening reads one header; extractfile seeks to the member
            member = archive.extractfile(handle)
            assert member is not None  # only regular files are listed
            return member.read()
    except _UNREADABLE as error:
        raise UserError(f"{source} cannot be read to its end ({error}); fetch it again.") from error


def _nifti(source: Path, handle: _Handle) -> Nifti:
    if isinstance(handle, Path):
        return Nifti(name=str(handle), content=handle)
    return Nifti(name=f"{source}:{handle.name}", content=_bytes(source, handle))
