"""What must hold of weak labels and statistics for any masks, seeds and budgets."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.annotations import (
    PLACEMENTS,
    STATISTICS,
    UNLABELLED,
    Annotation,
    WeakLabels,
    annotate,
)
from trainables.statistics import object_size, summary_statistics

CLASSES = 3
examples = settings(max_examples=40, deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)
placements = st.sampled_from(PLACEMENTS)
kinds = st.sampled_from(("points", "fg_points"))


def _masks(seed: int, count: int = 4) -> np.ndarray:
    """Random class maps; the first rows hold every class, so that a budget up to 5 is never refused."""
    masks_NHW = np.random.default_rng(seed).integers(0, CLASSES, (count, 9, 7), dtype=np.uint8)
    masks_NHW[1:, 4:] = 0  # in the other images some classes are rare
    masks_NHW[0, :3] = np.arange(CLASSES, dtype=np.uint8)[:, None]
    return masks_NHW


def _annotate(annotation: Annotation, masks_NHW: np.ndarray, rows: list[int], seed: int) -> WeakLabels:
    return annotate(
        annotation,
        images_NHW=(masks_NHW * 40)[rows],
        masks_NHW=masks_NHW[rows],
        scribbles_NHW=None,
        image_ids=[f"image{row}" for row in rows],
        volume_ids=[f"volume{row // 2}" for row in rows],
        spacing_mm=np.ones((len(rows), 3)),
        num_classes=CLASSES,
        seed=seed,
    )


@examples
@given(seed=seeds, placement=placements, kind=kinds, budgets=st.tuples(st.integers(0, 5), st.integers(0, 5)))
def test_a_larger_budget_contains_a_smaller_one(
    seed: int, placement: str, kind: str, budgets: tuple[int, int]
) -> None:
    masks_NHW = _masks(seed)
    fewer, more = (
        _annotate(
            Annotation(pixels=kind, pixel_budget=budget, placement=placement), masks_NHW, [0, 1, 2, 3], seed
        ).labels_NHW
        for budget in sorted(budgets)
    )
    labelled = fewer != UNLABELLED
    np.testing.assert_array_equal(more[labelled], fewer[labelled])


@examples
@given(seed=seeds, placement=placements, kind=kinds, budget=st.integers(1, 5))
def test_points_are_true_and_as_many_as_asked(seed: int, placement: str, kind: str, budget: int) -> None:
    masks_NHW = _masks(seed)
    annotation = Annotation(pixels=kind, pixel_budget=budget, placement=placement)
    labels_NHW = _annotate(annotation, masks_NHW, [0, 1, 2, 3], seed).labels_NHW
    labelled = labels_NHW != UNLABELLED
    np.testing.assert_array_equal(labels_NHW[labelled], masks_NHW[labelled])
    for labels_HW, mask_HW in zip(labels_NHW, masks_NHW, strict=True):
        for class_id in range(CLASSES):
            asked = 0 if kind == "fg_points" and class_id == 0 else budget
            assert (labels_HW == class_id).sum() == min(asked, (mask_HW == class_id).sum())


@examples
@given(seed=seeds, placement=placements, rows=st.permutations([0, 1, 2, 3]), dropped=st.integers(0, 3))
def test_other_images_and_their_order_do_not_matter(
    seed: int, placement: str, rows: list[int], dropped: int
) -> None:
    masks_NHW = _masks(seed)
    annotation = Annotation(
        pixels="points", pixel_budget=3, placement=placement, statistics=("area", "size"),
        statistic_error=0.4, several_objects="thickest",
    )  # fmt: skip
    in_order = _annotate(annotation, masks_NHW, [0, 1, 2, 3], seed)
    kept = [row for row in rows if row == 0 or row != dropped]
    shuffled = _annotate(annotation, masks_NHW, kept, seed)
    np.testing.assert_array_equal(shuffled.labels_NHW, in_order.labels_NHW[kept])
    for name, values_NK in in_order.statistics.items():
        np.testing.assert_array_equal(shuffled.statistics[name], values_NK[kept])


@examples
@given(seed=seeds, placement=placements, budget=st.integers(1, 5))
def test_foreground_points_are_the_points_without_background(seed: int, placement: str, budget: int) -> None:
    masks_NHW = _masks(seed)
    both, foreground = (
        _annotate(
            Annotation(pixels=kind, pixel_budget=budget, placement=placement), masks_NHW, [0, 1, 2, 3], seed
        ).labels_NHW
        for kind in ("points", "fg_points")
    )
    np.testing.assert_array_equal(foreground, np.where(both == 0, UNLABELLED, both))


@examples
@given(seed=seeds)
def test_center_never_prefers_a_shallower_pixel(seed: int) -> None:
    """Depth by brute force: smallest distance to any pixel of another class or beyond the border."""
    masks_NHW = _masks(seed, count=2)
    annotation = Annotation(pixels="points", pixel_budget=2, placement="center")
    labels_NHW = _annotate(annotation, masks_NHW, [0, 1], seed).labels_NHW
    for labels_HW, mask_HW in zip(labels_NHW, masks_NHW, strict=True):
        framed = np.pad(mask_HW.astype(int), 1, constant_values=-1)
        for class_id in np.unique(mask_HW):
            inside, outside = np.argwhere(framed == class_id), np.argwhere(framed != class_id)
            depth = np.sqrt(((inside[:, None] - outside[None]) ** 2).sum(-1)).min(axis=1)
            chosen = (labels_HW == class_id)[mask_HW == class_id]
            if chosen.all():
                continue
            assert depth[chosen].min() >= depth[~chosen].max()


@examples
@given(seed=seeds, density=st.floats(0.3, 0.99))
def test_object_size_equals_all_pairs(seed: int, density: float) -> None:
    mask_HW = np.random.default_rng(seed).random((8, 6)) < density
    inside, outside = np.argwhere(mask_HW), np.argwhere(~mask_HW)
    if len(inside) and len(outside):
        expected = 2 * np.abs(inside[:, None] - outside[None]).max(-1).min(axis=1).max()
        assert object_size(mask_HW) == expected


@examples
@given(seed=seeds)
def test_statistics_equal_slow_float64_sums(seed: int) -> None:
    generator = np.random.default_rng(seed)
    masks_NHW = generator.integers(0, CLASSES, (3, 5, 4), dtype=np.uint8)
    images_NHW = generator.integers(0, 256, (3, 5, 4), dtype=np.uint8)
    volume_ids = ["a", "b", "a"]
    fast = summary_statistics(
        STATISTICS,
        images_NHW=images_NHW,
        masks_NHW=masks_NHW,
        volume_ids=volume_ids,
        spacing_mm=np.full((3, 3), 0.5),
        num_classes=CLASSES,
    )
    for row, class_id in np.ndindex(3, CLASSES):
        member_HW = (masks_NHW[row] == class_id).astype(np.float64)
        steps = np.abs(np.diff(member_HW, axis=0)).sum() + np.abs(np.diff(member_HW, axis=1)).sum()
        slices = [other for other in range(3) if volume_ids[other] == volume_ids[row]]
        expected = {
            "area": member_HW.mean(),
            "perimeter": steps / 20,
            "presence": member_HW.max(),
            "volume_area": np.mean([(masks_NHW[other] == class_id).mean() for other in slices]),
        }
        if member_HW.any():
            expected["mean_intensity"] = images_NHW[row][member_HW > 0].astype(np.float64).mean() / 255
            expected["centroid"] = (np.argwhere(member_HW).mean(axis=0) + 0.5) / (5, 4)
        for name, value in expected.items():
            np.testing.assert_allclose(fast[name][row, class_id], value, rtol=1e-6, atol=1e-7, err_msg=name)


@examples
@given(seed=seeds)
def test_areas_add_up_to_the_image(seed: int) -> None:
    statistics = _annotate(Annotation(statistics=("area", "volume_area")), _masks(seed), [0, 1, 2, 3], seed)
    for values_NK in statistics.statistics.values():
        np.testing.assert_allclose(values_NK.sum(axis=1), 1.0, rtol=1e-6)
