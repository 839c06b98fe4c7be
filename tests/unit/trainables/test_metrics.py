"""Scores by hand: the numeric checks of the specification (section 1.6), empty sets, gaps and spacing."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from search_spaces import UserError
from trainables.metrics import (
    CaseScore,
    dice_per_volume,
    mean_dice,
    mean_hd95,
    mean_score,
    missed_rate,
    score_volumes,
)

UNKNOWN = (math.nan, math.nan, math.nan)


def _score(
    predictions_NHW: np.ndarray,
    masks_NHW: np.ndarray,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    **changes: Any,
) -> list[CaseScore]:
    """All images as one volume."""
    count = len(masks_NHW)
    settings = {
        "case_ids": ["case"] * count,
        "volume_ids": ["case/ED"] * count,
        "slice_index": np.arange(count),
        "spacing_mm": np.tile(np.float32(spacing), (count, 1)),
        "num_classes": 2,
    }
    return score_volumes(predictions_NHW.astype(np.uint8), masks_NHW.astype(np.uint8), **(settings | changes))


def _box(rows: slice, columns: slice, shape: tuple[int, int] = (20, 120)) -> np.ndarray:
    mask_HW = np.zeros(shape, np.uint8)
    mask_HW[rows, columns] = 1
    return mask_HW


# ---- the checks of section 1.6


def test_row_of_100_pixels_against_its_first_60() -> None:
    long, short = _box(slice(5, 6), slice(10, 110)), _box(slice(5, 6), slice(10, 70))
    for prediction_HW, truth_HW in ((long, short), (short, long)):
        (score,) = _score(prediction_HW[None], truth_HW[None])
        assert score.hd95 == pytest.approx(32.05)
        assert score.hd95_max == pytest.approx(35.05)
        assert score.dice == pytest.approx(0.75)
        assert score.iou == pytest.approx(0.6)


@pytest.mark.parametrize(("row", "column"), [(5, 10), (0, 0), (7, 107)])
def test_squares_shifted_by_three(row: int, column: int) -> None:
    """Inside the image, in its corner, and at the opposite border: overlap and distance do not care."""
    truth_HW = _box(slice(row, row + 10), slice(column, column + 10))
    prediction_HW = _box(slice(row + 3, row + 13), slice(column, column + 10))
    (score,) = _score(prediction_HW[None], truth_HW[None])
    assert score.dice == pytest.approx(0.7)
    assert score.iou == pytest.approx(7 / 13)
    assert score.hd95 == pytest.approx(3.0)
    assert score.hd95_max == pytest.approx(3.0)
    assert score.area_error == 0


def test_iou_agrees_with_its_plus_minus_one_form() -> None:
    truth, prediction = np.array([1, 1, -1, -1]), np.array([1, -1, 1, -1])
    by_form = (1 + truth + prediction + truth * prediction).sum() / (
        3 + truth + prediction - truth * prediction
    ).sum()
    (score,) = _score((prediction > 0).reshape(1, 2, 2), (truth > 0).reshape(1, 2, 2))
    assert by_form == pytest.approx(1 / 3)
    assert score.iou == pytest.approx(by_form)


def test_areas_and_sizes_by_hand() -> None:
    truth = np.stack([_box(slice(5, 10), slice(5, 10)), _box(slice(0, 0), slice(0, 0))])  # 5 x 5: size 6
    prediction = np.stack([_box(slice(5, 8), slice(5, 8)), _box(slice(5, 6), slice(5, 6))])  # sizes 4 and 2
    (score,) = _score(prediction, truth)
    assert score.area_error == pytest.approx((25 - 10) / (2 * 20 * 120))
    assert score.relative_area_error == pytest.approx(15 / 25)
    assert score.size_error == pytest.approx(((6 - 4) ** 2 + (0 - 2) ** 2) / 2)


# ---- spacing


def test_distances_are_in_mm_along_the_right_axis() -> None:
    truth_HW = _box(slice(2, 8), slice(10, 16))
    down, right = _box(slice(5, 11), slice(10, 16)), _box(slice(2, 8), slice(13, 19))
    spacing = (0.5, 2.0, 7.0)
    assert _score(down[None], truth_HW[None], spacing)[0].hd95 == pytest.approx(3 * 0.5)
    assert _score(right[None], truth_HW[None], spacing)[0].hd95 == pytest.approx(3 * 2.0)
    assert _score(right[None], truth_HW[None], spacing)[0].distance_unit == "mm"


def _on_slices(filled: set[int], count: int) -> np.ndarray:
    """A small square on some slices of a volume."""
    square_HW = _box(slice(2, 4), slice(3, 5), (6, 8))
    return np.stack([square_HW * (number in filled) for number in range(count)])


def test_slices_are_a_volume() -> None:
    (score,) = _score(_on_slices({0}, 3), _on_slices({2}, 3), (1.0, 1.0, 7.0))
    assert score.hd95 == pytest.approx(2 * 7.0)


def test_missing_slices_are_gaps_and_the_order_of_rows_does_not_matter() -> None:
    prediction, truth = _on_slices({0}, 3), _on_slices({2}, 3)
    (score,) = _score(prediction, truth, (1.0, 1.0, 7.0), slice_index=np.array([4, 5, 9]))
    assert score.hd95 == pytest.approx(5 * 7.0)
    rows = [2, 0, 1]
    (again,) = _score(prediction[rows], truth[rows], (1.0, 1.0, 7.0), slice_index=np.array([9, 4, 5]))
    assert again == score


def test_two_slices_at_one_position_are_a_bug() -> None:
    with pytest.raises(ValueError, match="volume case/ED have the same slice_index"):
        _score(_on_slices({0}, 2), _on_slices({0}, 2), slice_index=np.array([3, 3]))


@pytest.mark.parametrize(
    ("spacing", "unit", "step"), [((2.0, 2.0, math.nan), "mm", 2.0), (UNKNOWN, "px", 1.0)]
)
def test_without_slice_spacing_each_slice_is_measured_in_its_plane(
    spacing: tuple[float, float, float], unit: str, step: float
) -> None:
    square, shifted = _box(slice(2, 4), slice(3, 5), (6, 8)), _box(slice(2, 4), slice(4, 6), (6, 8))
    (score,) = _score(np.stack([shifted, square]), np.stack([square, square]), spacing)
    # Both directions: 4 zeros of the second slice, and (0, 0, 1, 1) steps of the first.
    assert score.hd95 == pytest.approx(step)
    assert score.distance_unit == unit
    # On a slice that only one of the sets reaches, the slice's diagonal: 5 and 7 steps.
    (score,) = _score(_on_slices({0, 1}, 2), _on_slices({0}, 2), spacing)
    forth, back = [0.0] * 4 + [math.hypot(5, 7) * step] * 4, [0.0] * 4
    assert score.hd95 == pytest.approx(np.percentile(forth + back, 95))
    assert score.hd95_max == pytest.approx(np.percentile(forth, 95))


def test_a_single_slice_is_two_dimensional_whatever_its_thickness() -> None:
    """As a flat volume every pixel would be surface, and the distances of the interior would dilute HD95."""
    truth_HW, prediction_HW = _box(slice(2, 12), slice(10, 20)), _box(slice(2, 12), slice(10, 21))
    thick = _score(prediction_HW[None], truth_HW[None], (1.0, 1.0, 5.0))
    unknown = _score(prediction_HW[None], truth_HW[None], (1.0, 1.0, math.nan))
    assert thick == unknown
    # 10 of the 38 surface pixels are one pixel off; among all 110 pixels they would be fewer.
    assert thick[0].hd95 == pytest.approx(1.0)


def test_without_distances_nothing_else_changes() -> None:
    truth, prediction = _on_slices({0, 1}, 3), _on_slices({1, 2}, 3)
    for other in (truth, np.zeros_like(truth)):
        (full,), (fast,) = _score(prediction, other), _score(prediction, other, distances=False)
        assert not math.isnan(full.hd95)
        assert math.isnan(fast.hd95)
        assert math.isnan(fast.hd95_max)
        restored = dataclasses.replace(fast, hd95=full.hd95, hd95_max=full.hd95_max)
        np.testing.assert_equal(dataclasses.asdict(restored), dataclasses.asdict(full))


# ---- empty sets

DIAGONAL = math.hypot(2 * 7.0, 5 * 1.0, 7 * 2.0)  # three slices of 6 x 8, spacing (1, 2, 7)


@pytest.mark.parametrize(
    ("compat", "case", "dice", "hd95"),
    [
        ("project", "both_empty", 1.0, math.nan),
        ("project", "missed", 0.0, DIAGONAL),
        ("project", "false_alarm", 0.0, DIAGONAL),
        ("wsl", "both_empty", 0.0, 0.0),
        ("wsl", "missed", 0.0, 0.0),
        ("wsl", "false_alarm", 0.0, math.nan),
        ("transunet", "both_empty", 0.0, 0.0),
        ("transunet", "missed", 0.0, 0.0),
        ("transunet", "false_alarm", 1.0, 0.0),
    ],
)
def test_empty_sets(compat: str, case: str, dice: float, hd95: float) -> None:
    empty, filled = _on_slices(set(), 3), _on_slices({0, 2}, 3)
    prediction, truth = {
        "both_empty": (empty, empty), "missed": (empty, filled), "false_alarm": (filled, empty),
    }[case]  # fmt: skip
    (score,) = _score(prediction, truth, (1.0, 2.0, 7.0), compat=compat)
    assert (score.dice, score.iou) == (dice, dice)
    assert score.hd95 == pytest.approx(hd95, nan_ok=True)
    assert score.hd95_max == pytest.approx(hd95, nan_ok=True)
    assert [name for name in ("both_empty", "missed", "false_alarm") if getattr(score, name)] == [case]
    assert math.isnan(score.relative_area_error) == (case != "missed")


def test_compat_changes_nothing_where_both_sets_exist() -> None:
    scores = [
        _score(_on_slices({0, 1}, 3), _on_slices({1}, 3), compat=c) for c in ("project", "wsl", "transunet")
    ]
    assert scores[0] == scores[1] == scores[2]
    assert 0 < scores[0][0].dice < 1


def test_the_diagonal_of_slices_without_depth_is_the_slices() -> None:
    (score,) = _score(_on_slices(set(), 3), _on_slices({1}, 3), UNKNOWN)
    assert score.hd95 == pytest.approx(math.hypot(5, 7))


def test_unknown_compat_is_refused() -> None:
    with pytest.raises(UserError, match=r"'transunets'.* Did you mean 'transunet'"):
        _score(_on_slices({0}, 1), _on_slices({0}, 1), compat="transunets")


# ---- several volumes and classes


def _two_volumes() -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    masks_NHW = np.zeros((4, 6, 8), np.uint8)
    masks_NHW[0, 1, 1:5] = 1  # volume b, slices 0 and 1
    masks_NHW[2, 2, 1:5] = 1
    masks_NHW[2, 4, 1:3] = 2
    masks_NHW[1, 1, 1:3] = 1  # volume a
    predictions_NHW = masks_NHW.copy()
    predictions_NHW[2] = 0  # b: half of class 1, all of class 2
    predictions_NHW[3, 5, 5] = 2  # a: one false pixel
    settings = {
        "case_ids": ["B", "A", "B", "A"],
        "volume_ids": ["b", "a", "b", "a"],
        "slice_index": np.array([0, 0, 1, 1]),
        "spacing_mm": np.ones((4, 3), np.float32),
        "num_classes": 3,
    }
    return predictions_NHW, masks_NHW, settings


def test_volumes_and_classes_are_scored_apart() -> None:
    predictions_NHW, masks_NHW, settings = _two_volumes()
    scores = score_volumes(predictions_NHW, masks_NHW, **settings)
    assert [(s.case_id, s.volume_id, s.class_id) for s in scores] == [
        ("A", "a", 1), ("A", "a", 2), ("B", "b", 1), ("B", "b", 2),
    ]  # fmt: skip
    assert [s.dice for s in scores] == pytest.approx([1.0, 0.0, 2 * 4 / 12, 0.0])
    assert [s.missed for s in scores] == [False, False, False, True]
    assert [s.false_alarm for s in scores] == [False, True, False, False]
    assert mean_dice(scores) == pytest.approx(((1 + 2 / 3) / 2 + 0) / 2)
    assert missed_rate(scores) == pytest.approx(1 / 3)  # class 2 of volume a has no truth
    by_volume = dice_per_volume(predictions_NHW, masks_NHW, settings["volume_ids"], 3)
    np.testing.assert_allclose(by_volume, [[1.0, 0.0], [2 / 3, 0.0]])


def test_means_take_classes_equally_and_count_the_undefined() -> None:
    template = _score(_on_slices({0}, 1), _on_slices({0}, 1))[0]

    def case(class_id: int, dice: float, hd95: float) -> CaseScore:
        return dataclasses.replace(template, class_id=class_id, dice=dice, hd95=hd95)

    scores = [case(1, 1.0, 2.0), case(1, 0.5, 4.0), case(1, 0.0, math.nan), case(2, 0.1, 10.0)]
    assert mean_dice(scores) == pytest.approx((0.5 + 0.1) / 2)
    assert mean_hd95(scores) == (pytest.approx((3.0 + 10.0) / 2), 1)
    assert mean_hd95([*scores, case(3, 1.0, math.nan)]) == (pytest.approx(6.5), 2)
    mean, undefined = mean_hd95([case(1, 1.0, math.nan)])
    assert math.isnan(mean)
    assert undefined == 1


@pytest.mark.parametrize("metric", ["dice", "iou", "hd95", "area_error", "size_error"])
def test_mean_score_is_over_volumes_then_over_classes(metric: str) -> None:
    template = _score(_on_slices({0}, 1), _on_slices({0}, 1))[0]

    def mean(*values: tuple[int, float]) -> float:
        scores = [dataclasses.replace(template, class_id=k, **{metric: value}) for k, value in values]
        return mean_score(scores, metric)

    assert mean((1, 1.0), (1, 0.5), (2, 0.1)) == pytest.approx((0.75 + 0.1) / 2)
    assert mean((1, 1.0), (1, math.nan), (2, 0.5)) == pytest.approx(0.75)
    assert mean((1, 0.25), (2, math.nan)) == 0.25
    assert math.isnan(mean((1, math.nan), (2, math.nan)))


def test_missed_rate_without_any_truth_is_undefined() -> None:
    assert math.isnan(missed_rate(_score(_on_slices(set(), 2), _on_slices(set(), 2))))


def test_scores_are_plain_python_values() -> None:
    (score,) = _score(_on_slices({0}, 2), _on_slices({1}, 2))
    kinds = {type(value) for value in dataclasses.astuple(score)}
    assert kinds == {str, int, float, bool}  # so that they can be written as JSON


def test_a_class_beyond_the_declared_ones_is_a_bug() -> None:
    with pytest.raises(ValueError, match="reshape"):
        _score(_on_slices({0}, 1) * 7, _on_slices({0}, 1))
