"""ACDC cardiac MR (MICCAI 2017): end-diastolic and end-systolic short-axis slices of each patient folder."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from search_spaces import UserError
from trainables.data.importers import base
from trainables.data.nifti import Nifti, read_labelled
from trainables.data.parquet import Row
from trainables.data.preparation import NEAREST, STORED, for_metadata

CLASS_NAMES = ("background", "right ventricle", "myocardium", "left ventricle")
SIZE = (256, 256)
UPPER_PERCENTILE = 99.0
NUM_FOLDS = 5
BLOCK = 20
"""Patients that a fold of WSL4MIS tests."""
SAME_IMAGES = {"patient076": "patient074"}
"""These two patients of the owners' training set are the same images, annotated twice."""

Fold = dict[str, list[str]]


@dataclass(frozen=True, kw_only=True)
class Patient:
    """One folder: its pathology and its two annotated frames."""

    case_id: str
    pathology: str
    """`Group` of Info.cfg: NOR, DCM, HCM, MINF or RV."""
    volumes: Mapping[str, tuple[Path, Path]]
    """"frameYY" -> (image, label)."""


def read(source: Path | str, *, size: tuple[int, int] | None = None) -> base.ImportedDataset:
    """Both frames of each patient below `source`, `source`/training or `source`/database/training.

    Every slice is kept, those beyond apex and base too: the published protocols train and score on whole
    volumes. Slices are resized to `size` (height, width; 256x256 where None) by nearest neighbour, aspect
    not kept, and lie as stored (rows = y, columns = x): the short axis is oblique, so no anatomical order
    fits it. Intensities: minimum to 99th percentile of the volume. Folds: see `folds`.
    Raises UserError for a source in another layout and, while the rows are walked, for a broken or
    mismatched volume.
    """
    patients = [_patient(folder) for folder in _patient_folders(base.existing_folder(source))]
    height, width = size or SIZE
    return base.ImportedDataset(
        name="acdc",
        class_names=CLASS_NAMES,
        rows=(row for patient in patients for row in _rows(patient, (height, width))),
        splits=folds({patient.case_id: patient.pathology for patient in patients}),
        metadata={
            "source": "ACDC (Automated Cardiac Diagnosis Challenge, MICCAI 2017), frames ED and ES",
            "licence": "CC BY-NC-SA 4.0 as third parties state it; check the organisers' page",
            "citation": "Bernard et al., IEEE TMI 37(11):2514-2525, 2018, doi:10.1109/TMI.2018.2837502",
            "image_scaling": f"per volume, minimum to percentile {UPPER_PERCENTILE:g}",
            "orientation": "rows = y, columns = x of the stored grid, not re-oriented",
            "slices": "all",
            "resize": f"{height}x{width}, nearest neighbour (order 0) for image and mask, aspect not kept",
            **for_metadata(
                intensities=f"percentile:{UPPER_PERCENTILE:g}",
                orientation=STORED,
                size=(height, width),
                resampling=NEAREST,
            ),
        },
    )


def folds(pathology: Mapping[str, str]) -> dict[str, dict[str, Fold]] | None:
    """The split document of these patients (case id -> pathology); None where they allow no fold.

    "wsl4mis1" .. "wsl4mis5": test the patients 1-20, 21-40, ... and train on the rest of 1-100, without a
    validation list, as WSL4MIS does. These blocks are the pathologies: each tests a disease never trained on.
    A fold whose test patients, or whose training patients to hold some out of, are not there is left out.
    "stratified1" .. "stratified5": of each pathology a fifth tests and a tenth selects; left out where a
    pathology has fewer patients than folds. Patients with the same images stay together in all of them.
    """
    return {"folds": found} if (found := _wsl4mis_folds(pathology) | _stratified_folds(pathology)) else None


def group(case: str) -> str:
    """The patient whose images these are."""
    return SAME_IMAGES.get(case, case)


def block(case: str) -> int | None:
    """Which twenty of the patients 1 to 100 hold this one, from 0; None outside."""
    match = re.fullmatch(r"patient(\d{3})", case)
    number = int(match[1]) if match else 0
    return (number - 1) // BLOCK if 1 <= number <= BLOCK * NUM_FOLDS else None


def _wsl4mis_folds(cases: Iterable[str]) -> dict[str, Fold]:
    blocks = {case: place for case in sorted(cases) if (place := block(case)) is not None}
    found = {}
    for fold in range(NUM_FOLDS):
        test = [case for case, place in blocks.items() if place == fold]
        train = [case for case, place in blocks.items() if place != fold]
        if test and len({group(case) for case in train}) > 1:
            found[f"wsl4mis{fold + 1}"] = {"train": train, "test": test}
    return found


def _stratified_folds(pathology: Mapping[str, str]) -> dict[str, Fold]:
    patients: dict[str, list[str]] = defaultdict(list)
    for case in sorted(pathology):
        patients[pathology[case]].append(case)
    dealt = [_dealt(cases) for cases in patients.values()]
    if not all(all(hands) for hands in dealt):
        return {}
    found = {}
    for fold in range(NUM_FOLDS):
        test = {case for hands in dealt for unit in hands[fold] for case in unit}
        val = {case for hands in dealt for unit in hands[(fold + 1) % NUM_FOLDS][::2] for case in unit}
        parts = {"train": pathology.keys() - test - val, "val": val, "test": test}
        found[f"stratified{fold + 1}"] = {part: sorted(cases) for part, cases in parts.items()}
    return found


def _dealt(cases: list[str]) -> list[list[list[str]]]:
    """The patients of one pathology (sorted) in as many hands as folds; a hand holds units, never separated.

    They are dealt in turn, unless a hand has its share already: then to the smallest hand.
    """
    units: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        units[group(case)].append(case)
    hands: list[list[list[str]]] = [[] for _ in range(NUM_FOLDS)]
    for unit in sorted(units.values(), key=len, reverse=True):  # the large ones first, or they find no room
        sizes = [sum(map(len, hand)) for hand in hands]
        turn = cases.index(unit[0]) % NUM_FOLDS
        has_room = sizes[turn] + len(unit) <= len(cases) // NUM_FOLDS
        hands[turn if has_room else sizes.index(min(sizes))].append(unit)
    return hands


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
    lines = (line.partition(":") for line in path.read_text(errors="replace").splitlines())
    info = {key.strip(): value.strip() for key, _, value in lines}
    if (
        not all(re.fullmatch("[0-9]{1,4}", info.get(phase, "")) for phase in ("ED", "ES"))
        or "Group" not in info
    ):
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
                image=base.nearest_pixels(plane, size),
                mask=base.nearest_pixels(mask, size),
                spacing_mm=base.resized_spacing((y, x, z), plane.shape, size),
                group=group(patient.case_id),
            )
