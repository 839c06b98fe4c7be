"""Overlap, boundary distance, area and size errors of predicted masks, per volume and foreground class."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy import ndimage

from search_spaces import UserError, nearest
from trainables.statistics import bounding_box, object_size

ClassIds: TypeAlias = Sequence[np.ndarray] | np.ndarray
"""Of each image [H,W]; the images of one volume, and those of several volumes, may differ in size."""

COMPAT = ("project", "wsl", "transunet")  # policies for empty sets, see `score_volumes`


@dataclass(frozen=True, slots=True)
class CaseScore:
    """One foreground class in one volume (an image that is its own volume counts as one)."""

    case_id: str
    volume_id: str
    class_id: int
    dice: float
    iou: float
    hd95: float
    """95th percentile of both directed lists of surface distances, pooled."""
    hd95_max: float
    """The larger of the two directed 95th percentiles."""
    distance_unit: str
    """Of hd95 and hd95_max: "mm", or "px" where the spacing is unknown."""
    area_error: float
    """|predicted - true| as fraction of the volume's pixels."""
    relative_area_error: float
    """|predicted - true| / true; NaN where the truth is empty."""
    size_error: float
    """Squared difference of `statistics.object_size`, averaged over the slices, in px^2."""
    missed: bool
    """The truth is not empty, the prediction is."""
    false_alarm: bool
    """The truth is empty, the prediction is not."""
    both_empty: bool


@dataclass(frozen=True, slots=True)
class _Volume:
    """The given slices S of one volume in ascending order, as class ids."""

    case_id: str
    volume_id: str
    predictions: list[np.ndarray]
    truths: list[np.ndarray]
    """Class ids [H,W] of each slice; slices that stand alone may differ in size."""
    counts_KK: np.ndarray
    """Pixels by (true class, predicted class)."""
    depth_S: np.ndarray
    """Position of each slice, from 0; a missing number is a slice that nobody scored."""
    sampling: tuple[float, float, float]
    """Distance between neighbours along (depth, row, column); depth is NaN where slices stand alone."""
    distance_unit: str

    @property
    def in_depth(self) -> bool:
        return not math.isnan(self.sampling[0])

    @property
    def diagonal(self) -> float:
        """Between the centres of opposite corner voxels: no surface distance can be larger."""
        height, width = np.max([truth_HW.shape for truth_HW in self.truths], axis=0)
        depth = int(self.depth_S[-1]) + 1
        steps = (depth - 1 if self.in_depth else 0, height - 1, width - 1)
        return math.hypot(*(n * step for n, step in zip(steps, self.sampling, strict=True) if n))


def score_volumes(
    predictions: ClassIds,
    masks: ClassIds,
    *,
    case_ids: Sequence[str],
    volume_ids: Sequence[str],
    slice_index: np.ndarray,
    spacing_mm: np.ndarray,
    num_classes: int,
    compat: str = "project",
    distances: bool = True,
) -> list[CaseScore]:
    """Scores of the classes 1 .. num_classes - 1 of each volume, in sorted order of (volume id, class).

    predictions and masks hold the class ids; spacing_mm [N,3] is (row, column, between slices), NaN where
    unknown. A volume's slices stand at their slice_index; a missing index is an empty slice between. Surfaces
    are a mask minus its erosion by the 1-connected neighbourhood, the image border included. A volume of one
    slice or of slices of several sizes, and any volume whose spacing is not fully known, is measured slice by
    slice in the plane: the
    distances of all slices are pooled, and in a slice that only one of the two sets reaches each of its
    surface pixels is a slice diagonal away. Pixels count as square ("px") where the in-plane spacing is
    unknown. `distances=False` leaves hd95 and hd95_max NaN: they take most of the time.

    Where both sets, or one of them, are empty (Dice, HD95), IoU following Dice:
      compat       both      only the truth     only the prediction
      project      1, NaN    0, diagonal        0, diagonal
      wsl          0, 0      0, 0               0, NaN (there, the evaluation ends with an error)
      transunet    0, 0      0, 0               1, 0
    "wsl" and "transunet" reproduce how WSL4MIS and TransUNet were scored; they flatter missed organs.

    Raises UserError for an unknown compat, ValueError where two slices of a volume have the same slice_index.
    """
    if compat not in COMPAT:
        raise UserError(
            f"metric_compat must be one of {', '.join(COMPAT)}, but got {compat!r}.{nearest(compat, COMPAT)}"
        )
    volumes = _volumes(predictions, masks, case_ids, volume_ids, slice_index, spacing_mm, num_classes)
    classes = range(1, num_classes)
    return [_score(volume, class_id, compat, distances) for volume in volumes for class_id in classes]


def _volumes(
    predictions: ClassIds,
    masks: ClassIds,
    case_ids: Sequence[str],
    volume_ids: Sequence[str],
    slice_index: np.ndarray,
    spacing_mm: np.ndarray,
    num_classes: int,
) -> Iterator[_Volume]:
    counts_NKK = _confusion(predictions, masks, num_classes)
    names_V, volume_N = np.unique(np.asarray(volume_ids), return_inverse=True)
    for number, volume_id in enumerate(names_V):
        found = np.flatnonzero(volume_N == number)
        rows = found[np.argsort(slice_index[found])].tolist()
        depth_S = slice_index[rows] - slice_index[rows[0]]
        if (np.diff(depth_S) == 0).any():
            raise ValueError(f"Two slices of volume {volume_id} have the same slice_index.")
        alone = len({masks[row].shape for row in rows}) > 1 or len(rows) == 1
        sampling, unit = _sampling(spacing_mm[rows[0]], alone)
        yield _Volume(
            case_id=str(case_ids[rows[0]]),
            volume_id=str(volume_id),
            predictions=[predictions[row] for row in rows],
            truths=[masks[row] for row in rows],
            counts_KK=counts_NKK[rows].sum(axis=0),
            depth_S=depth_S,
            sampling=sampling,
            distance_unit=unit,
        )


def _sampling(spacing_mm: np.ndarray, alone: bool) -> tuple[tuple[float, float, float], str]:
    """(depth, row, column) steps and their unit."""
    row, column, between = (float(step) for step in spacing_mm)
    if math.isnan(row) or math.isnan(column):
        return (math.nan, 1.0, 1.0), "px"
    return (math.nan if alone else between, row, column), "mm"


def _confusion(predictions: ClassIds, masks: ClassIds, num_classes: int) -> np.ndarray:
    """Pixels by (true class, predicted class) of each image, int64 [N,K,K]."""
    counts_NKK = np.zeros((len(masks), num_classes, num_classes), np.int64)
    for row, (prediction_HW, mask_HW) in enumerate(zip(predictions, masks, strict=True)):
        pair_V = mask_HW.ravel().astype(np.intp) * num_classes + prediction_HW.ravel()
        counts = np.bincount(pair_V, minlength=num_classes**2)
        counts_NKK[row] = counts.reshape(num_classes, num_classes)
    return counts_NKK


def _score(volume: _Volume, class_id: int, compat: str, distances: bool) -> CaseScore:
    true = int(volume.counts_KK[class_id].sum())
    predicted = int(volume.counts_KK[:, class_id].sum())
    shared = int(volume.counts_KK[class_id, class_id])
    if true and predicted:
        dice, iou = 2 * shared / (true + predicted), shared / (true + predicted - shared)
        hd95, hd95_max = _hd95(volume, class_id) if distances else (math.nan, math.nan)
    else:
        dice, distance = _empty(compat, bool(true), bool(predicted), volume.diagonal)
        iou, hd95 = dice, distance if distances else math.nan
        hd95_max = hd95
    size_errors = [
        (object_size(prediction_HW == class_id) - object_size(truth_HW == class_id)) ** 2
        for prediction_HW, truth_HW in zip(volume.predictions, volume.truths, strict=True)
    ]
    return CaseScore(
        case_id=volume.case_id,
        volume_id=volume.volume_id,
        class_id=class_id,
        dice=dice,
        iou=iou,
        hd95=hd95,
        hd95_max=hd95_max,
        distance_unit=volume.distance_unit,
        area_error=abs(predicted - true) / sum(truth_HW.size for truth_HW in volume.truths),
        relative_area_error=abs(predicted - true) / true if true else math.nan,
        size_error=float(np.mean(size_errors)),
        missed=true > 0 and predicted == 0,
        false_alarm=true == 0 and predicted > 0,
        both_empty=true == 0 and predicted == 0,
    )


def _empty(compat: str, true: bool, predicted: bool, diagonal: float) -> tuple[float, float]:
    """(Dice, HD95) where the truth or the prediction is empty."""
    if compat == "wsl":
        return 0.0, math.nan if predicted else 0.0
    if compat == "transunet":
        return float(predicted), 0.0
    return (0.0, diagonal) if true or predicted else (1.0, math.nan)


def _hd95(volume: _Volume, class_id: int) -> tuple[float, float]:
    """(pooled, max-directed) 95th percentile of two sets that are both not empty."""
    slices = [
        (prediction_HW == class_id, truth_HW == class_id)
        for prediction_HW, truth_HW in zip(volume.predictions, volume.truths, strict=True)
    ]
    if volume.in_depth:
        shape = (int(volume.depth_S[-1]) + 1, *volume.truths[0].shape)
        prediction, truth = np.zeros(shape, bool), np.zeros(shape, bool)
        for depth, (prediction_HW, truth_HW) in zip(volume.depth_S, slices, strict=True):
            prediction[depth], truth[depth] = prediction_HW, truth_HW
        pieces = [surface_distances(prediction, truth, volume.sampling, volume.diagonal)]
    else:
        pieces = [
            surface_distances(prediction_HW, truth_HW, volume.sampling[1:], volume.diagonal)
            for prediction_HW, truth_HW in slices
        ]
    forth, back = (np.concatenate(lists) for lists in zip(*pieces, strict=True))
    pooled = np.percentile(np.concatenate([forth, back]), 95)
    directed = max(np.percentile(forth, 95), np.percentile(back, 95))
    return float(pooled), float(directed)


def surface_distances(
    one: np.ndarray, other: np.ndarray, sampling: Sequence[float], when_empty: float
) -> tuple[np.ndarray, np.ndarray]:
    """Euclidean distance of each surface voxel of `one` to the surface of `other`, and the reverse.

    Boolean masks of the same shape, in two or three dimensions; `sampling` is the voxel's step along each.
    A voxel of a set whose counterpart is empty gets the distance `when_empty`.
    """
    # Neither surface leaves the joint box, so cropping to it changes no distance.
    box = bounding_box(one | other)
    surface, other_surface = _surface(one[box]), _surface(other[box])
    return (
        _distances(surface, other_surface, sampling, when_empty),
        _distances(other_surface, surface, sampling, when_empty),
    )


def _surface(mask: np.ndarray) -> np.ndarray:
    return mask & ~ndimage.binary_erosion(mask)


def _distances(
    start: np.ndarray, end: np.ndarray, sampling: Sequence[float], when_empty: float
) -> np.ndarray:
    if not end.any():
        return np.full(np.count_nonzero(start), when_empty)
    return ndimage.distance_transform_edt(~end, sampling=sampling)[start]


def dice_per_volume(
    predictions: ClassIds,
    masks: ClassIds,
    volume_ids: Sequence[str],
    num_classes: int,
) -> np.ndarray:
    """Dice of the foreground classes, float64 [volumes, K-1], volumes sorted by id; 1 where both are empty.

    The same numbers as `score_volumes` under "project", for validation during training.
    """
    names_V, volume_N = np.unique(np.asarray(volume_ids), return_inverse=True)
    counts_VKK = np.zeros((len(names_V), num_classes, num_classes), np.int64)
    np.add.at(counts_VKK, volume_N, _confusion(predictions, masks, num_classes))
    shared_VK = np.diagonal(counts_VKK, axis1=1, axis2=2)[:, 1:]
    total_VK = (counts_VKK.sum(axis=1) + counts_VKK.sum(axis=2))[:, 1:]
    return np.divide(2 * shared_VK, total_VK, out=np.ones(total_VK.shape), where=total_VK > 0)


METRICS = {"dice": True, "iou": True, "hd95": False, "area_error": False, "size_error": False}
"""What a study may select and judge by; True where greater is better."""


def _by_class(scores: Sequence[CaseScore], metric: str) -> dict[int, list[float]]:
    values: dict[int, list[float]] = {}
    for score in scores:
        values.setdefault(score.class_id, []).append(getattr(score, metric))
    return values


def mean_dice(scores: Sequence[CaseScore]) -> float:
    """Mean over volumes for each class, then mean over the classes."""
    return float(np.mean([np.mean(values) for values in _by_class(scores, "dice").values()]))


def is_better(value: float, than: float, metric: str) -> bool:
    """Whether a metric's value beats another; NaN beats nothing, and everything beats NaN."""
    if math.isnan(value) or math.isnan(than):
        return not math.isnan(value)
    return value > than if METRICS[metric] else value < than


def mean_score(scores: Sequence[CaseScore], metric: str) -> float:
    """Mean over volumes for each class, then over classes, without NaN; NaN where all are undefined."""
    per_class = [np.array(values) for values in _by_class(scores, metric).values()]
    means = [float(np.nanmean(values)) for values in per_class if not np.isnan(values).all()]
    return float(np.mean(means)) if means else math.nan


def mean_hd95(scores: Sequence[CaseScore]) -> tuple[float, int]:
    """`mean_score` of the pooled HD95, and the number of undefined ones, which belongs beside the mean."""
    return mean_score(scores, "hd95"), sum(math.isnan(score.hd95) for score in scores)


def missed_rate(scores: Sequence[CaseScore]) -> float:
    """Share of the (volume, class) pairs with a truth that were predicted empty; NaN without any truth."""
    with_truth = [score.missed for score in scores if not (score.both_empty or score.false_alarm)]
    return float(np.mean(with_truth)) if with_truth else math.nan
