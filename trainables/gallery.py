"""What a confirming trial leaves to be looked at: its best, median and worst test case, and what taught it.

Knows the choice of the cases and the file; `trainables.samples` fills it in. Loads no torch, because the
report reads these files too.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol, runtime_checkable

import numpy as np

GALLERY = "gallery.npz"
VERSION = 1
BEST, MEDIAN, WORST, TRAIN = "best", "median", "worst", "train"
_INDEX = "index"


class GalleryError(ValueError):
    """The file is not, or not whole, what `write` left."""


@runtime_checkable
class Scored(Protocol):
    """One class in one volume: a `metrics.CaseScore` of a trial, or a row of the ledger."""

    @property
    def case_id(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picture:
    """One image with what is known, told and predicted of it; class ids in uint8 arrays."""

    role: str
    """BEST, MEDIAN, WORST, or TRAIN for an image that the network learned from."""
    case_id: str
    image_id: str
    slice_index: int
    slices: int
    """Images of its volume."""
    judged: tuple[int, int]
    """Height and width at which truth and prediction were compared."""
    image_HW: np.ndarray
    """Grey values as the network saw them, perhaps smaller; the frame is the same as the masks'."""
    truth_HW: np.ndarray
    prediction_HW: np.ndarray
    labels_HW: np.ndarray | None
    """What was annotated, 255 elsewhere; None for a test image, which nobody annotates."""


_ARRAYS = ("image_HW", "truth_HW", "prediction_HW", "labels_HW")


def case_values(scores: Iterable[Scored], metric: str) -> dict[str, float]:
    """The metric of each case of one trial: the mean over its classes and volumes.

    Undefined scores are left out; a case that has no other is NaN.
    """
    cases: dict[str, list[float]] = {}
    for score in scores:
        defined = cases.setdefault(score.case_id, [])
        value = float(getattr(score, metric))
        if not math.isnan(value):
            defined.append(value)
    return {case: fmean(values) if values else math.nan for case, values in cases.items()}


def choose(values: Mapping[str, float], *, greater_is_better: bool) -> dict[str, str]:
    """Which cases are shown, by role, the best first; equals in the order of their names.

    Of an even number the better one of the middle is the median. Two cases have none, and a single one is
    the BEST. A case without a value cannot be placed and is not among them.
    """
    sign = -1.0 if greater_is_better else 1.0
    placed = sorted((sign * value, case) for case, value in values.items() if not math.isnan(value))
    last = len(placed) - 1
    places = {BEST: 0, MEDIAN: last // 2, WORST: last}
    shown = {0: (BEST,), 1: (BEST, WORST)}.get(last, tuple(places)) if placed else ()
    return {role: placed[places[role]][1] for role in shown}


def shown_slice(truths: Sequence[np.ndarray], predictions: Sequence[np.ndarray]) -> int:
    """Of a case's images the one with the most foreground: in the truth, or else in the prediction."""
    for masks in (truths, predictions):
        areas = [np.count_nonzero(mask_HW) for mask_HW in masks]
        if any(areas):
            return int(np.argmax(areas))
    return len(truths) // 2


def write(path: Path, pictures: Sequence[Picture]) -> None:
    """The same pictures give the same bytes. Atomic: a reader sees no half of a file, also after a kill."""
    arrays: dict[str, Any] = {}
    index = []
    for number, picture in enumerate(pictures):
        known = {name: getattr(picture, name) for name in _ARRAYS}
        arrays |= {f"{number} {name}": array for name, array in known.items() if array is not None}
        index.append(
            {f.name: getattr(picture, f.name) for f in dataclasses.fields(picture) if f.name not in known}
        )
    text = json.dumps({"version": VERSION, "pictures": index})
    arrays[_INDEX] = np.frombuffer(text.encode(), np.uint8)
    for unfinished in path.parent.glob(f"{path.name}.*"):
        unfinished.unlink(missing_ok=True)  # of a process that was killed while it wrote
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read(path: Path) -> list[Picture]:
    """What `write` left. Raises GalleryError for another or a damaged file, OSError where there is none."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            index = json.loads(stored[_INDEX].tobytes())
            if index["version"] != VERSION:
                raise ValueError(f"its version is {index['version']}, and {VERSION} is known")
            return [_picture(known, number, stored) for number, known in enumerate(index["pictures"])]
    except (
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise GalleryError(f"{path} cannot be read: {error}") from error


def _picture(known: Mapping[str, Any], number: int, stored: Mapping[str, np.ndarray]) -> Picture:
    arrays = {name: stored[f"{number} {name}"] for name in _ARRAYS if f"{number} {name}" in stored}
    if any(array.ndim != 2 or array.dtype != np.uint8 or array.size == 0 for array in arrays.values()):
        raise ValueError(f"picture {number} is no image")
    height, width = known["judged"]
    return Picture(**{"labels_HW": None, **known, **arrays, "judged": (int(height), int(width))})
