"""ACDC cardiac MR (MICCAI 2017): end-diastolic and end-systolic short-axis slices of each patient folder."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from search_spaces import UserError
from trainables.data.importers import base
from trainables.data.nifti import Nifti, read_labelled
from trainables.data.parquet import Row

CLASS_NAMES = ("background", "right ventricle", "myocardium", "left ventricle")
SIZE = (256, 256)
UPPER_PERCENTILE = 99.0
NUM_FOLDS = 5
SAME_IMAGES = {"patient076": "patient074"}
"""These two patients of the owners' training set are the same images, annotated twice."""


@dataclass(frozen=True, kw_only=True)
class Patient:
    """One folder: its pathology and its two annotated frames."""

    case_id: str
    pathology: str
    """`Group` of Info.cfg: NOR, DCM, HCM, MINF or RV."""
    volumes: Mapping[str, tuple[Path, Path]]
    """"frameYY" -> (image, label)."""

    @property
    def group(self) -> str:
        return SAME_IMAGES.get(self.case_id, self.case_id)


def read(source: Path | str, *, size: tuple[int, int] | None = None) -> base.ImportedDataset:
    """Both frames of each patient below `source`, `source`/training or `source`/database/training.

    Every slice is kept, those beyond apex and base too: the published protocols train and score on whole
    volumes. Slices are resized to `size` (height, width; 256x256 where None) by nearest neighbour, aspect
    not kept, and lie as stored (rows = y, columns = x): the short axis is oblique, so no anatomical order
    fits it. Intensities: minimum to 99th percentile of the volume. Five folds, each pathology spread evenly
    over them.
    Raises UserError for a source in another layout and, while the rows are walked, for a broken or
    mismatched volume.
    """
    patients = [_patient(folder) for folder in _patient_folders(base.existing_folder(source))]
    height, width = size or SIZE
    return base.ImportedDataset(
        name="acdc",
        class_names=CLASS_NAMES,
        rows=(row for patient in patients for row in _rows(patient, (height, width))),
        splits=stratified_folds(patients),
        metadata={
            "source": "ACDC (Automated Cardiac Diagnosis Challenge, MICCAI 2017), frames ED and ES",
            "licence": "CC BY-NC-SA 4.0 as third parties state it; check the organisers' page",
            "citation": "Bernard et al., IEEE TMI 37(11):2514-2525, 2018, doi:10.1109/TMI.2018.2837502",
            "image_scaling": f"per volume, minimum to percentile {UPPER_PERCENTILE:g}",
            "orientation": "rows = y, columns = x of the stored grid, not re-oriented",
            "slices": "all",
            "resize": f"{height}x{width}, nearest neighbour (order 0) for image and mask, aspect not kept",
        },
    )


def stratified_folds(patients: list[Patient]) -> Mapping[str, Mapping[str, Mapping[str, list[str]]]] | None:
    """Five folds of whole patients; of each pathology a fifth tests and a tenth selects.

    Patients with the same images stay together. None where a pathology has fewer patients than folds.
    """
    units: dict[str, set[str]] = defaultdict(set)
    for patient in patients:
        units[patient.pathology].add(patient.group)
    if min(map(len, units.values())) < NUM_FOLDS:
        return None
    rank = {unit: i for members in units.values() for i, unit in enumerate(sorted(members, key=_digest))}
    folds = {}
    for fold in range(NUM_FOLDS):
        parts: dict[str, list[str]] = {"train": [], "val": [], "test": []}
        for patient in patients:
            parts[_part(rank[patient.group], fold)].append(patient.case_id)
        folds[f"fold{fold}"] = parts
    return {"folds": folds}


def _part(rank: int, fold: int) -> str:
    if rank % NUM_FOLDS == fold:
        return "test"
    return "val" if rank % (2 * NUM_FOLDS) == (fold + 1) % NUM_FOLDS else "train"


def _digest(name: str) -> str:
    return hashlib.blake2b(name.encode(), digest_size=8).hexdigest()


def _patient_folders(source: Path) -> list[Path]:
    for root in (source, source / "training", source / "database" / "training"):
        found = sorted(path for path in root.glob("patient*") if path.is_dir())
        if found:
            return found
    raise UserError(
        "An ACDC source must hold folders patient001, patient002, ... (in it, in training/ or in "
        f"database/training/), and {source} has none; unpack the organisers' archive and give its folder."
    )


def _patient(folder: Path) -> Patient:
    info = _info(folder / "Info.cfg")
    volumes = {}
    for phase in ("ED", "ES"):
        frame = f"frame{int(info[phase]):02d}"
        image, label = (folder / f"{folder.name}_{frame}{end}.nii.gz" for end in ("", "_gt"))
        absent = [path.name for path in (image, label) if not path.is_file()]
        if absent:
            raise UserError(
                f"{folder.name} must hold image and label of its {phase} frame, but {base.listed(absent)} "
                f"is missing in {folder}; unpack it again or remove the folder."
            )
        volumes[frame] = image, label
    return Patient(case_id=folder.name, pathology=info["Group"], volumes=volumes)


def _info(path: Path) -> dict[str, str]:
    """The lines "key: value" of Info.cfg."""
    if not path.is_file():
        raise UserError(
            f"Each patient folder must hold Info.cfg, and {path} is missing; unpack the archive again."
        )
    lines = (line.partition(":") for line in path.read_text().splitlines())
    info = {key.strip(): value.strip() for key, _, value in lines}
    if not all(info.get(phase, "").isdigit() for phase in ("ED", "ES")) or "Group" not in info:
        raise UserError(
            f"Info.cfg must give ED and ES (frame numbers) and Group, and {path} does not; unpack it again."
        )
    return info


def _rows(patient: Patient, size: tuple[int, int]) -> Iterator[Row]:
    for frame, (image, label) in patient.volumes.items():
        volume = read_labelled(
            Nifti(name=str(image), content=image),
            Nifti(name=str(label), content=label),
            num_classes=len(CLASS_NAMES),
        )
        image_ZHW = base.scale_volume(volume.image_XYZ, UPPER_PERCENTILE).transpose(2, 1, 0)
        mask_ZHW = volume.mask_XYZ.transpose(2, 1, 0)
        x, y, z = volume.spacing_mm
        for index, (plane, mask) in enumerate(zip(image_ZHW, mask_ZHW, strict=True)):
            yield Row(
                case_id=patient.case_id,
                frame=frame,
                slice_index=index,
                image=_nearest(plane, size),
                mask=_nearest(mask, size),
                spacing_mm=base.resized_spacing((y, x, z), plane.shape, size),
                group=patient.group,
            )


def _nearest(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """As the ACDC literature resizes: the corner pixels' centres stay in the corners."""
    return ndimage.zoom(plane, (size[0] / plane.shape[0], size[1] / plane.shape[1]), order=0)
