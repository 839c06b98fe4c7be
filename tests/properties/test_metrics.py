"""HD95 against all pairs in float64, and what no score may depend on."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trainables.metrics import CaseScore, dice_per_volume, mean_dice, score_volumes

examples = settings(max_examples=40, deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)
densities = st.floats(0.02, 0.9)
spacings = st.tuples(*[st.floats(0.3, 8.0)] * 3)

FIELDS = ("dice", "iou", "hd95", "hd95_max", "area_error", "relative_area_error", "size_error")


def _pair(
    seed: int, density: float, shape: tuple[int, int, int] = (4, 6, 5)
) -> tuple[np.ndarray, np.ndarray]:
    """Two random binary volumes, neither empty."""
    generator = np.random.default_rng(seed)
    volumes = (generator.random((2, *shape)) < density).astype(np.uint8)
    for volume in volumes:
        volume.flat[generator.integers(volume.size)] = 1
    return volumes[0], volumes[1]


def _score(
    prediction: np.ndarray, truth: np.ndarray, spacing: tuple[float, float, float], **changes: Any
) -> CaseScore:
    count = len(truth)
    arguments = {
        "case_ids": ["case"] * count,
        "volume_ids": ["volume"] * count,
        "slice_index": np.arange(count),
        "spacing_mm": np.tile(spacing, (count, 1)),
        "num_classes": 2,
    }
    (score,) = score_volumes(prediction, truth, **(arguments | changes))
    return score


def _surface_points(mask: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Coordinates of the voxels with a face neighbour outside the mask or beyond the array."""
    framed = np.pad(mask.astype(bool), 1)
    inner = framed.copy()
    for axis in range(mask.ndim):
        inner &= np.roll(framed, 1, axis) & np.roll(framed, -1, axis)
    return (np.argwhere(framed & ~inner) - 1) * steps


def _all_pairs_hd95(one: np.ndarray, other: np.ndarray, steps: tuple[float, ...]) -> tuple[float, float]:
    points, others = (_surface_points(mask, np.array(steps, np.float64)) for mask in (one, other))
    distance = np.sqrt(((points[:, None] - others[None]) ** 2).sum(axis=-1))
    forth, back = distance.min(axis=1), distance.min(axis=0)
    pooled = np.percentile(np.concatenate([forth, back]), 95)
    return float(pooled), float(max(np.percentile(forth, 95), np.percentile(back, 95)))


@examples
@given(seed=seeds, density=densities, spacing=spacings)
def test_hd95_of_volumes_equals_all_pairs(
    seed: int, density: float, spacing: tuple[float, float, float]
) -> None:
    prediction, truth = _pair(seed, density)
    row, column, between = spacing
    score = _score(prediction, truth, spacing)
    expected = _all_pairs_hd95(prediction, truth, (between, row, column))
    assert (score.hd95, score.hd95_max) == pytest.approx(expected, rel=1e-12)


@examples
@given(seed=seeds, density=densities, spacing=spacings)
def test_hd95_of_one_slice_equals_all_pairs_in_the_plane(
    seed: int, density: float, spacing: tuple[float, float, float]
) -> None:
    prediction, truth = _pair(seed, density, (1, 8, 7))
    score = _score(prediction, truth, spacing)
    expected = _all_pairs_hd95(prediction[0], truth[0], spacing[:2])
    assert (score.hd95, score.hd95_max) == pytest.approx(expected, rel=1e-12)


@examples
@given(seed=seeds, density=densities, gap=st.integers(1, 4))
def test_a_gap_is_a_stack_of_empty_slices(seed: int, density: float, gap: int) -> None:
    prediction, truth = _pair(seed, density)
    spacing = (1.0, 0.7, 3.0)
    empty = np.zeros((gap, *truth.shape[1:]), np.uint8)
    filled = [np.concatenate([volume[:2], empty, volume[2:]]) for volume in (prediction, truth)]
    score = _score(prediction, truth, spacing, slice_index=np.array([0, 1, 2 + gap, 3 + gap]))
    stacked = _score(filled[0], filled[1], spacing)
    for name in ("dice", "iou", "hd95", "hd95_max"):
        assert getattr(score, name) == pytest.approx(getattr(stacked, name), rel=1e-12)


@examples
@given(seed=seeds, density=densities, spacing=spacings, shift=st.tuples(*[st.integers(0, 9)] * 3))
def test_translation_and_a_larger_frame_keep_overlap_and_distance(
    seed: int, density: float, spacing: tuple[float, float, float], shift: tuple[int, int, int]
) -> None:
    """Also the proof that cropping to the joint box changes no distance."""
    prediction, truth = _pair(seed, density)
    moved = np.zeros((2, 14, 16, 15), np.uint8)
    place = tuple(slice(start, start + length) for start, length in zip(shift, truth.shape, strict=True))
    moved[(slice(None), *place)] = prediction, truth
    score, again = _score(prediction, truth, spacing), _score(moved[0], moved[1], spacing)
    for name in ("dice", "iou", "hd95", "hd95_max"):
        assert getattr(again, name) == pytest.approx(getattr(score, name), rel=1e-12)


@examples
@given(seed=seeds, density=densities, spacing=spacings)
def test_prediction_and_truth_may_be_swapped(
    seed: int, density: float, spacing: tuple[float, float, float]
) -> None:
    prediction, truth = _pair(seed, density)
    one, other = _score(prediction, truth, spacing), _score(truth, prediction, spacing)
    for name in set(FIELDS) - {"relative_area_error"}:
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-12)


@examples
@given(seed=seeds, density=densities, spacing=spacings)
def test_a_perfect_prediction(seed: int, density: float, spacing: tuple[float, float, float]) -> None:
    truth, _ = _pair(seed, density)
    score = _score(truth, truth, spacing)
    assert [getattr(score, name) for name in FIELDS] == [1, 1, 0, 0, 0, 0, 0]


@examples
@given(seed=seeds, density=densities, spacing=spacings)
def test_dice_is_a_function_of_iou_and_distances_stay_below_the_diagonal(
    seed: int, density: float, spacing: tuple[float, float, float]
) -> None:
    prediction, truth = _pair(seed, density)
    score = _score(prediction, truth, spacing)
    missed = _score(np.zeros_like(truth), truth, spacing)
    assert score.dice == pytest.approx(2 * score.iou / (1 + score.iou), rel=1e-12)
    assert max(score.hd95, score.hd95_max) <= missed.hd95 * (1 + 1e-12)


@examples
@given(seed=seeds, density=densities, factor=st.floats(0.1, 10.0))
def test_distances_scale_with_the_spacing(seed: int, density: float, factor: float) -> None:
    prediction, truth = _pair(seed, density)
    assume((prediction != truth).any())
    one = _score(prediction, truth, (1.0, 2.0, 3.0))
    scaled = _score(prediction, truth, (factor, 2 * factor, 3 * factor))
    assert scaled.hd95 == pytest.approx(factor * one.hd95, rel=1e-9)
    assert scaled.dice == one.dice


@examples
@given(seed=seeds, classes=st.integers(2, 5), volumes=st.integers(1, 4))
def test_the_fast_dice_equals_the_scores(seed: int, classes: int, volumes: int) -> None:
    generator = np.random.default_rng(seed)
    # Some classes are absent from some volumes: low ids are likelier.
    predictions_NHW, masks_NHW = (
        np.minimum(generator.geometric(0.6, (8, 3, 3)) - 1, classes - 1).astype(np.uint8) for _ in range(2)
    )
    volume_ids = [f"volume{number}" for number in generator.integers(volumes, size=8)]
    scores = score_volumes(
        predictions_NHW,
        masks_NHW,
        case_ids=volume_ids,
        volume_ids=volume_ids,
        slice_index=np.arange(8),
        spacing_mm=np.full((8, 3), math.nan),
        num_classes=classes,
        distances=False,
    )
    fast_VK = dice_per_volume(predictions_NHW, masks_NHW, volume_ids, classes)
    np.testing.assert_allclose(fast_VK.ravel(), [score.dice for score in scores], rtol=1e-12)
    assert mean_dice(scores) == pytest.approx(fast_VK.mean(), rel=1e-12)
