"""Weak labels and summary statistics: hand values, refusals, and the size table of the specification."""

from __future__ import annotations

import dataclasses
import itertools
import json
from typing import Any

import numpy as np
import pytest

from search_spaces import UserError
from trainables.annotations import (
    EXTENTS,
    STATISTICS,
    UNLABELLED,
    Annotation,
    WeakLabels,
    annotate,
    cost_seconds,
)
from trainables.method import IGNORE
from trainables.statistics import bounding_box, object_size, pixel_counts, summary_statistics

MASK_HW = np.array(
    [
        [0, 0, 0, 0, 0],
        [0, 1, 1, 0, 0],
        [0, 1, 1, 0, 0],
        [0, 0, 0, 0, 0],
    ],
    np.uint8,
)
IMAGE_HW = np.full((4, 5), 51, np.uint8)
IMAGE_HW[1, 1:3] = 102
IMAGE_HW[2, 1:3] = 204


def _annotate(annotation: Annotation, masks_NHW: np.ndarray, **changes: Any) -> WeakLabels:
    count = len(masks_NHW)
    settings = {
        "images_NHW": np.zeros_like(masks_NHW),
        "scribbles_NHW": None,
        "image_ids": [f"case/{row}" for row in range(count)],
        "volume_ids": ["case"] * count,
        "spacing_mm": np.ones((count, 3)),
        "num_classes": 2,
        "seed": 0,
    }
    return annotate(annotation, masks_NHW=masks_NHW, **(settings | changes))


def _statistic(name: str, **changes: Any) -> np.ndarray:
    settings = {
        "images_NHW": IMAGE_HW[None],
        "masks_NHW": MASK_HW[None],
        "volume_ids": ["v"],
        "spacing_mm": np.full((1, 3), 0.5),
        "num_classes": 3,
    }
    return summary_statistics([name], **(settings | changes))[name]


@pytest.mark.parametrize(
    ("name", "by_hand"),
    [
        ("area", [16 / 20, 4 / 20, 0]),
        ("volume_area", [16 / 20, 4 / 20, 0]),
        ("mean_intensity", [0.2, (0.4 + 0.8) / 2, np.nan]),
        ("perimeter", [8 / 20, 8 / 20, 0]),
        ("presence", [1, 1, 0]),
        ("size", [4, 2, 0]),  # the last column lies two columns away from the square
        # Class 0 is the 4 x 5 grid (centre 2, 2.5) without the square (centre 2, 2), in pixels.
        ("centroid", [[0.5, (20 * 2.5 - 4 * 2.0) / 16 / 5], [0.5, 0.4], [np.nan, np.nan]]),
    ],
)
def test_statistics_by_hand(name: str, by_hand: list[Any]) -> None:
    values = _statistic(name)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values[0], by_hand, rtol=1e-6)  # float32


def test_every_statistic_has_a_shape_of_images_by_classes() -> None:
    assert set(STATISTICS) == {
        "area", "volume_area", "mean_intensity", "perimeter", "centroid", "presence", "size",
        "size_mm", "size_closed", "components", "width",
    }  # fmt: skip
    for name in STATISTICS:
        assert _statistic(name).shape == ((1, 3, 2) if name == "centroid" else (1, 3))


def test_perimeter_counts_no_pair_across_the_image_border() -> None:
    masks_NHW = np.ones((1, 4, 5), np.uint8)
    assert (_statistic("perimeter", masks_NHW=masks_NHW) == 0).all()


def test_a_boundary_between_two_classes_belongs_to_both() -> None:
    masks_NHW = np.array([[[0, 1, 2]]], np.uint8)
    perimeter_NK = _statistic("perimeter", masks_NHW=masks_NHW, images_NHW=masks_NHW)
    np.testing.assert_allclose(perimeter_NK, [[1 / 3, 2 / 3, 1 / 3]], rtol=1e-6)


def test_volume_area_is_the_mean_over_the_volumes_slices() -> None:
    masks_NHW = np.zeros((3, 2, 2), np.uint8)
    masks_NHW[0] = 1
    masks_NHW[1, 0] = 1
    area_NK = _statistic(
        "volume_area", masks_NHW=masks_NHW, images_NHW=masks_NHW, volume_ids=["b", "a", "b"], num_classes=2
    )
    np.testing.assert_allclose(area_NK[:, 1], [0.5, 0.5, 0.5])
    masks_NHW[1] = 1
    area_NK = _statistic(
        "volume_area", masks_NHW=masks_NHW, images_NHW=masks_NHW, volume_ids=["b", "a", "b"], num_classes=2
    )
    np.testing.assert_allclose(area_NK[:, 1], [0.5, 1.0, 0.5])


def test_a_class_beyond_the_declared_ones_is_a_bug() -> None:
    with pytest.raises(ValueError, match="broadcast"):
        pixel_counts(np.full((1, 2, 2), 7, np.uint8), 2)


# ---- object size: the table of the specification, section 3.32


def test_size_of_squares() -> None:
    sizes = []
    for edge in range(1, 8):
        mask_HW = np.zeros((12, 14), bool)
        mask_HW[2 : 2 + edge, 3 : 3 + edge] = True
        sizes.append(object_size(mask_HW))
    assert sizes == [2, 2, 4, 4, 6, 6, 8]


def test_size_at_the_open_border_and_at_the_extremes() -> None:
    columns_HW = np.zeros((5, 7), bool)
    columns_HW[:, :3] = True
    assert object_size(columns_HW) == 6
    corner_HW = np.ones((48, 32), bool)
    corner_HW[0, 0] = False
    assert object_size(corner_HW) == 94
    assert object_size(np.ones((48, 32), bool)) == 96
    assert object_size(np.zeros((48, 32), bool)) == 0


def test_size_census_of_all_3x3_masks() -> None:
    masks = (np.array(bits, bool).reshape(3, 3) for bits in itertools.product((0, 1), repeat=9))
    sizes, counts = np.unique([object_size(mask_HW) for mask_HW in masks], return_counts=True)
    assert dict(zip(sizes.tolist(), counts.tolist(), strict=True)) == {0: 1, 2: 416, 4: 94, 6: 1}


def test_bounding_box_with_a_margin_stays_inside() -> None:
    mask = np.zeros((4, 6), bool)
    mask[0, 2] = mask[1, 3] = True
    assert bounding_box(mask) == (slice(0, 2), slice(2, 4))
    assert bounding_box(mask, margin=1) == (slice(0, 3), slice(1, 5))
    assert mask[bounding_box(np.zeros_like(mask))].size == 0


# ---- Annotation


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"pixels": "pints"}, "'pints'.* Did you mean 'points'"),
        ({"placement": "centre"}, "'centre'.* Did you mean 'center'"),
        ({"statistics": ("are",)}, "'are'.* Did you mean 'area'"),
        ({"statistics": ("area", "area")}, "once"),
        ({"pixels": "points", "pixel_budget": -1}, "0 or more, but got -1"),
        ({"pixels": "none", "pixel_budget": 1}, "got 1 with pixels = 'none'"),
        ({"pixels": "dense", "pixel_budget": 5}, "leave it out"),
        ({"pixels": "scribble", "pixel_budget": 5}, "leave it out"),
        ({"statistic_error": -0.1}, r"\[0, 2\], but got -0.1"),
        ({"statistic_error": 2.1}, r"\[0, 2\], but got 2.1"),
        ({"statistic_error": float("nan")}, "but got nan"),
    ],
)
def test_annotation_refuses(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Annotation(**settings)


@pytest.mark.parametrize(
    ("settings", "granted"),
    [
        ({}, set()),
        ({"pixels": "points"}, set()),
        ({"pixels": "points", "pixel_budget": 1}, {"pixels"}),
        ({"pixels": "fg_points", "pixel_budget": 1, "statistics": ("area",)}, {"pixels", "statistics"}),
        ({"pixels": "scribble"}, {"pixels"}),
        ({"pixels": "dense"}, {"pixels", "dense"}),
        ({"statistics": ("presence",)}, {"statistics"}),
    ],
)
def test_grants(settings: dict[str, Any], granted: set[str]) -> None:
    assert Annotation(**settings).grants() == granted


def test_to_dict_survives_json() -> None:
    annotation = Annotation(
        pixels="fg_points",
        pixel_budget=5,
        placement="center",
        statistics=("area", "size"),
        statistic_error=0.2,
    )
    stored = json.loads(json.dumps(annotation.to_dict()))
    assert stored == annotation.to_dict()
    assert Annotation.from_dict(stored) == annotation
    assert Annotation.from_dict({}) == Annotation()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"pixel_bugdet": 5}, "Did you mean 'pixel_budget'"),
        ({"pixel_budget": "5"}, "like 0, but got '5'"),
        ({"pixel_budget": 5.0}, "like 0"),
        ({"pixel_budget": True}, "like 0"),
        ({"statistics": "area"}, "like "),
        ({"statistics": [1]}, "like "),
        ({"statistic_error": "much"}, "like "),
    ],
)
def test_from_dict_refuses(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Annotation.from_dict(settings)


def test_a_whole_number_is_an_error_rate_too() -> None:
    assert Annotation.from_dict({"statistic_error": 1}).statistic_error == 1.0


# ---- annotate


def test_unlabelled_is_what_methods_ignore() -> None:
    assert UNLABELLED == IGNORE


@pytest.mark.parametrize(
    "annotation",
    [
        Annotation(),
        Annotation(pixels="points"),
        Annotation(pixels="fg_points", placement="center"),
        Annotation(statistics=("area",)),
    ],
)
def test_no_pixel_is_labelled(annotation: Annotation) -> None:
    weak = _annotate(annotation, np.zeros((2, 4, 5), np.uint8))  # a budget of 0 needs no class either
    assert weak.labels_NHW.dtype == np.uint8
    assert (weak.labels_NHW == UNLABELLED).all()
    assert set(weak.statistics) == set(annotation.statistics)


def test_dense_and_scribble_are_copies() -> None:
    scribbles_NHW = np.where(MASK_HW == 1, 1, 255).astype(np.uint8)[None]
    scribbles_NHW[0, 0, 0] = 0
    dense = _annotate(Annotation(pixels="dense"), MASK_HW[None]).labels_NHW
    scribble = _annotate(Annotation(pixels="scribble"), MASK_HW[None], scribbles_NHW=scribbles_NHW).labels_NHW
    np.testing.assert_array_equal(dense[0], MASK_HW)
    np.testing.assert_array_equal(scribble, scribbles_NHW)
    dense[:] = 9
    scribble[:] = 9
    assert MASK_HW.max() == 1
    assert scribbles_NHW.max() == 255


@pytest.mark.parametrize(
    ("pixels", "labels", "missing"),
    [("scribble", [1, 255, 1], 0), ("scribble", [0, 255, 0], 1), ("dense", [0, 0, 0], 1)],
)
def test_a_class_that_nobody_labelled_is_refused(pixels: str, labels: list[int], missing: int) -> None:
    scribbles_NHW = np.array(labels, np.uint8)[:, None, None].repeat(2, 2)
    masks_NHW = np.where(scribbles_NHW == 255, 0, scribbles_NHW).astype(np.uint8)
    with pytest.raises(
        UserError, match=rf"3 labelled images \({pixels}\) hold none of class {missing}; label"
    ):
        _annotate(Annotation(pixels=pixels), masks_NHW, scribbles_NHW=scribbles_NHW)


def test_scribbles_must_exist() -> None:
    with pytest.raises(UserError, match=r"needs a data set with scribbles.*use pixels = 'points'"):
        _annotate(Annotation(pixels="scribble"), MASK_HW[None])


def test_points_of_a_tiny_class_are_all_its_pixels() -> None:
    large = np.zeros((4, 5), np.uint8)
    large[:2] = 1
    weak = _annotate(Annotation(pixels="points", pixel_budget=6), np.stack([MASK_HW, large]))
    labels_HW = weak.labels_NHW[0]
    assert ((labels_HW == 1) == (MASK_HW == 1)).all()
    assert (labels_HW == 0).sum() == 6
    assert (weak.labels_NHW[1] == 1).sum() == 6


def test_budget_beyond_every_image_is_refused() -> None:
    with pytest.raises(UserError, match="class 1 has at most 4 and the budget is 5; use 4 or less"):
        _annotate(Annotation(pixels="points", pixel_budget=5), MASK_HW[None])
    with pytest.raises(UserError, match="class 0 has at most 16"):
        _annotate(Annotation(pixels="points", pixel_budget=17), MASK_HW[None])
    with pytest.raises(UserError, match="class 1 has at most 4"):  # background is not asked for
        _annotate(Annotation(pixels="fg_points", pixel_budget=17), MASK_HW[None])


def test_a_declared_class_without_any_pixel_is_refused() -> None:
    with pytest.raises(UserError, match="no image of the training set holds class 2"):
        _annotate(Annotation(pixels="points", pixel_budget=1), MASK_HW[None], num_classes=3)
    _annotate(Annotation(statistics=("area",)), MASK_HW[None], num_classes=3)


def test_center_is_the_deepest_pixel() -> None:
    mask_HW = np.zeros((9, 11), np.uint8)
    mask_HW[2:7, 3:8] = 1
    annotation = Annotation(pixels="fg_points", pixel_budget=1, placement="center")
    labels_HW = _annotate(annotation, mask_HW[None]).labels_NHW[0]
    np.testing.assert_array_equal(np.argwhere(labels_HW == 1), [[4, 5]])
    nine = Annotation(pixels="fg_points", pixel_budget=9, placement="center")
    labels_HW = _annotate(nine, mask_HW[None]).labels_NHW[0]
    assert (labels_HW[3:6, 4:7] == 1).all()


def test_center_counts_the_image_border_as_outside() -> None:
    mask_HW = np.zeros((5, 9), np.uint8)
    mask_HW[:, :5] = 1  # cut off by three sides of the image
    annotation = Annotation(pixels="fg_points", pixel_budget=1, placement="center")
    labels_HW = _annotate(annotation, mask_HW[None]).labels_NHW[0]
    np.testing.assert_array_equal(np.argwhere(labels_HW == 1), [[2, 2]])


def test_center_breaks_ties_by_the_seed() -> None:
    mask_HW = np.zeros((3, 12), np.uint8)
    mask_HW[1, 1:11] = 1  # all ten pixels are one pixel deep
    annotation = Annotation(pixels="fg_points", pixel_budget=1, placement="center")
    chosen = {
        int(np.argmax(_annotate(annotation, mask_HW[None], seed=s).labels_NHW[0, 1] == 1)) for s in range(99)
    }
    assert chosen == set(
        range(1, 11)
    )  # P(one of ten is never drawn) < 10 * 0.9 ** 99 = 3e-4, and seeds are fixed


def test_center_is_uniform_where_every_pixel_is_equally_deep() -> None:
    mask_HW = np.zeros((3, 300), np.uint8)
    mask_HW[1] = 1  # 300 ties: the permutation alone decides
    uniform, center = (
        _annotate(Annotation(pixels="fg_points", pixel_budget=20, placement=placement), mask_HW[None])
        for placement in ("uniform", "center")
    )
    np.testing.assert_array_equal(uniform.labels_NHW, center.labels_NHW)


def test_uniform_reaches_every_pixel_equally_often() -> None:
    annotation = Annotation(pixels="fg_points", pixel_budget=1)
    masks_NHW = np.repeat(MASK_HW[None], 4000, axis=0)
    hits_HW = (_annotate(annotation, masks_NHW).labels_NHW == 1).sum(axis=0)
    assert (hits_HW[MASK_HW == 0] == 0).all()
    # Binomial(4000, 1/4): standard deviation 27.4; five of them.
    assert (np.abs(hits_HW[MASK_HW == 1] - 1000) < 137).all()


def test_published_point_sets_do_not_change() -> None:
    """Frozen result: changing how points are drawn changes what a published (image id, seed) means."""
    mask_HW = np.zeros((6, 6), np.uint8)
    mask_HW[1:5, 1:5] = 1
    weak = _annotate(Annotation(pixels="points", pixel_budget=3), mask_HW[None], seed=7)
    assert np.flatnonzero(weak.labels_NHW[0].ravel() == 0).tolist() == [5, 30, 35]
    assert np.flatnonzero(weak.labels_NHW[0].ravel() == 1).tolist() == [19, 25, 28]


def test_seed_and_image_id_matter() -> None:
    mask_HW = np.zeros((32, 32), np.uint8)
    mask_HW[8:24, 8:24] = 1
    annotation = Annotation(pixels="points", pixel_budget=5)
    one = _annotate(annotation, mask_HW[None]).labels_NHW
    assert (one == _annotate(annotation, mask_HW[None]).labels_NHW).all()
    assert (one != _annotate(annotation, mask_HW[None], seed=1).labels_NHW).any()
    assert (one != _annotate(annotation, mask_HW[None], image_ids=["other"]).labels_NHW).any()


@pytest.mark.parametrize(
    ("placement", "expected"),
    [
        ("boundary", {(1, 1), (1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2), (3, 3)}),  # all but the middle
        ("extreme_intensity", {(2, 2), (1, 1)}),  # 255 and 0 among values of 100
    ],
)
def test_placements_by_hand(placement: str, expected: set[tuple[int, int]]) -> None:
    mask_HW = np.zeros((6, 6), np.uint8)
    mask_HW[1:4, 1:4] = 1
    image_HW = np.full((6, 6), 100, np.uint8)
    image_HW[2, 2], image_HW[1, 1], image_HW[5, 5] = 255, 0, 255  # the last is background
    annotation = Annotation(pixels="fg_points", pixel_budget=len(expected), placement=placement)
    labels_HW = _annotate(annotation, mask_HW[None], images_NHW=image_HW[None]).labels_NHW[0]
    assert {(int(row), int(column)) for row, column in np.argwhere(labels_HW == 1)} == expected


# ---- statistic_error


def test_error_distorts_extents_only() -> None:
    masks_NHW = np.stack([MASK_HW] * 3)
    exact = _annotate(Annotation(statistics=STATISTICS), masks_NHW).statistics
    noisy = _annotate(Annotation(statistics=STATISTICS, statistic_error=0.3), masks_NHW).statistics
    for name in STATISTICS:
        changed = ~np.isclose(exact[name], noisy[name], equal_nan=True)
        assert changed.any() == (name in EXTENTS), name
        assert noisy[name].dtype == np.float32


def test_error_has_mean_one_and_the_asked_deviation() -> None:
    count = 4000
    masks_NHW = np.repeat(MASK_HW[None], count, axis=0)
    for error in (0.2, 1.0):
        annotation = Annotation(statistics=("perimeter",), statistic_error=error)
        factor_N = _annotate(annotation, masks_NHW).statistics["perimeter"][:, 1] / np.float32(8 / 20)
        assert abs(factor_N.mean() - 1) < 5 * error / np.sqrt(count)  # five standard errors
        # The log-normal's fourth moment makes the deviation's own error large at error = 1.
        assert factor_N.std() == pytest.approx(error, rel=0.06 if error < 0.5 else 0.2)


def test_error_is_drawn_per_class_and_statistic() -> None:
    annotation = Annotation(statistics=("area", "size", "perimeter"), statistic_error=0.3)
    masks_NHW = np.array([[[0, 0, 1, 1]]], np.uint8)  # both classes have the same extents
    statistics = _annotate(annotation, masks_NHW).statistics
    area, perimeter = statistics["area"] / 0.5, statistics["perimeter"] / 0.25
    assert area[0, 0] != pytest.approx(area[0, 1], rel=1e-3)
    assert area[0, 0] != pytest.approx(perimeter[0, 0], rel=1e-3)


def test_volume_area_keeps_one_value_per_volume_under_error() -> None:
    annotation = Annotation(statistics=("volume_area",), statistic_error=0.5)
    masks_NHW = np.stack([MASK_HW] * 4)
    area_N = _annotate(annotation, masks_NHW, volume_ids=["a", "b", "a", "b"]).statistics["volume_area"][:, 1]
    assert area_N[0] == area_N[2]
    assert area_N[1] == area_N[3]
    assert area_N[0] != area_N[1]


def test_absent_stays_zero_and_nobody_reports_more_than_the_image() -> None:
    annotation = Annotation(statistics=("area", "volume_area", "size"), statistic_error=2.0)
    masks_NHW = np.zeros((50, 4, 5), np.uint8)
    statistics = _annotate(annotation, masks_NHW).statistics
    for values_NK in statistics.values():
        assert (values_NK[:, 1] == 0).all()
    assert statistics["area"].max() == 1.0
    assert statistics["size"].max() > 10.0  # the exact size is 10


# ---- cost


@pytest.mark.parametrize(
    ("settings", "seconds"),
    [
        ({}, 0.0),
        ({"pixels": "points"}, 0.0),
        ({"pixels": "points", "pixel_budget": 3}, 6 * 2.4),
        ({"pixels": "points", "pixel_budget": 10}, (10 + 4) * 2.4),
        ({"pixels": "fg_points", "pixel_budget": 10}, 4 * 2.4),
        ({"pixels": "scribble"}, 17.0),
        ({"pixels": "dense"}, 239.0),
        ({"statistics": tuple(set(STATISTICS) - {"presence"})}, 0.0),
        ({"statistics": ("area", "presence"), "pixels": "fg_points", "pixel_budget": 1}, 3.4),
    ],
)
def test_cost_by_hand(settings: dict[str, Any], seconds: float) -> None:
    cost_N = cost_seconds(Annotation(**settings), np.stack([MASK_HW, MASK_HW]), np.ones(2, bool), 2)
    assert cost_N.dtype == np.float64
    np.testing.assert_allclose(cost_N, [seconds, seconds])


def test_cost_counts_the_points_that_were_placed() -> None:
    masks_NHW = np.stack([MASK_HW, np.zeros_like(MASK_HW)])
    annotation = Annotation(pixels="points", pixel_budget=4)
    placed_N = (_annotate(annotation, masks_NHW).labels_NHW != UNLABELLED).sum(axis=(1, 2))
    np.testing.assert_allclose(cost_seconds(annotation, masks_NHW, np.ones(2, bool), 2), 2.4 * placed_N)
    assert placed_N.tolist() == [8, 4]


TWO_OBJECTS_HW = np.array([[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 0]], np.uint8)


@pytest.mark.parametrize("kind", ["dense", "points"])
def test_more_labelled_images_contain_fewer(kind: str) -> None:
    masks_NHW = np.stack([MASK_HW] * 12)
    budget = 2 if kind == "points" else 0
    labelled = {
        count: _annotate(Annotation(pixels=kind, pixel_budget=budget, labelled_images=count), masks_NHW)
        for count in (1, 4, 12, None)
    }
    for count, weak in labelled.items():
        has_pixels_N = (weak.labels_NHW != UNLABELLED).any(axis=(1, 2))
        np.testing.assert_array_equal(has_pixels_N, weak.labelled_N)
        assert weak.labelled_N.sum() == (count or 12)
    assert (labelled[1].labelled_N <= labelled[4].labelled_N).all()
    everything = labelled[None].labels_NHW
    np.testing.assert_array_equal(labelled[12].labels_NHW, everything)
    few = labelled[4]
    np.testing.assert_array_equal(few.labels_NHW[few.labelled_N], everything[few.labelled_N])


def test_which_images_are_labelled_depends_on_the_seed_and_on_their_names_alone() -> None:
    masks_NHW = np.stack([MASK_HW] * 12)
    annotation = Annotation(pixels="dense", labelled_images=4, statistics=("size",))
    one = _annotate(annotation, masks_NHW)
    other = _annotate(annotation, masks_NHW, seed=1)
    assert one.labelled_N.tolist() != other.labelled_N.tolist()
    order = np.random.default_rng(0).permutation(12)
    shuffled = _annotate(annotation, masks_NHW, image_ids=[f"case/{row}" for row in order])
    np.testing.assert_array_equal(shuffled.labelled_N, one.labelled_N[order])
    assert (one.statistics["size"][:, 1] == 2).all()  # reported for every image


def test_only_labelled_images_cost_and_none_without_pixels() -> None:
    masks_NHW = np.stack([MASK_HW] * 12)
    annotation = Annotation(pixels="dense", labelled_images=4, statistics=("size",))
    labelled_N = _annotate(annotation, masks_NHW).labelled_N
    assert cost_seconds(annotation, masks_NHW, labelled_N, 2).sum() == 4 * 239.0
    assert not _annotate(Annotation(statistics=("size",)), masks_NHW).labelled_N.any()
    assert not _annotate(Annotation(pixels="points"), masks_NHW).labelled_N.any()


@pytest.mark.parametrize(
    ("pixels", "budget", "seconds", "labelled"),
    [
        ("dense", 0, 60.0, 2),  # 480 s of 8 images pay for two masks at 239 s
        ("dense", 0, 59.0, 1),
        ("scribble", 0, 8.5, 4),
        ("points", 2, 4.8, 4),  # four clicks an image, 9.6 s
        ("fg_points", 1, 2.4, 8),
        ("points", 1, 100.0, 8),  # more than all of them cost
    ],
)
def test_a_budget_labels_as_many_images_as_it_pays_for(
    pixels: str, budget: int, seconds: float, labelled: int
) -> None:
    masks_NHW = np.stack([MASK_HW] * 8)
    annotation = Annotation(pixels=pixels, pixel_budget=budget, seconds_per_image=seconds)
    weak = _annotate(annotation, masks_NHW, scribbles_NHW=masks_NHW)
    assert weak.labelled_N.sum() == labelled
    counted = dataclasses.replace(annotation, seconds_per_image=None, labelled_images=labelled)
    np.testing.assert_array_equal(
        weak.labels_NHW, _annotate(counted, masks_NHW, scribbles_NHW=masks_NHW).labels_NHW
    )
    spent = cost_seconds(annotation, masks_NHW, weak.labelled_N, 2).sum()
    assert spent <= seconds * 8 + 1e-9


def test_a_budget_must_pay_for_an_image_and_not_be_said_twice() -> None:
    with pytest.raises(UserError, match=r"100 s for 2 images do not pay for the first, which takes 239 s"):
        _annotate(Annotation(pixels="dense", seconds_per_image=50.0), np.stack([MASK_HW] * 2))
    with pytest.raises(UserError, match=r"both say how many.*got 3 and 5; leave one out"):
        Annotation(pixels="dense", labelled_images=3, seconds_per_image=5.0)
    with pytest.raises(UserError, match=r"seconds_per_image must be above 0, but got 0"):
        Annotation(pixels="dense", seconds_per_image=0.0)
    assert Annotation.from_dict({"seconds_per_image": 2}).seconds_per_image == 2


def test_more_labelled_images_than_there_are_is_refused() -> None:
    with pytest.raises(UserError, match=r"must not exceed the training images, but got 3 of 2; use fewer"):
        _annotate(Annotation(pixels="dense", labelled_images=3), np.stack([MASK_HW] * 2))
    with pytest.raises(UserError, match=r"labelled_images must be 1 or more, but got 0"):
        Annotation(labelled_images=0)


@pytest.mark.parametrize("name", ["size", "size_closed", "size_mm"])
def test_a_size_is_that_of_one_object(name: str) -> None:
    masks_NHW = np.stack([MASK_HW, TWO_OBJECTS_HW])
    with pytest.raises(UserError, match=r"1 of 2 training images hold several objects of class 1; set sev"):
        _annotate(Annotation(statistics=(name,)), masks_NHW)
    thickest = _annotate(Annotation(statistics=(name,), several_objects="thickest"), masks_NHW)
    assert thickest.statistics[name][1, 1] == (4 if name != "size_closed" else 2)  # it touches the border
    _annotate(Annotation(statistics=("area", "components")), masks_NHW)
    touching = np.array([[[1, 0, 0], [0, 1, 0], [0, 0, 0]]], np.uint8)  # by a corner: one object
    _annotate(Annotation(statistics=("size",)), touching)


def test_counted_statistics_by_hand() -> None:
    assert _statistic("size_mm").tolist() == [[2.0, 1.0, 0.0]]  # half a millimetre a pixel
    masks_NHW = TWO_OBJECTS_HW[None]
    assert _statistic("components", masks_NHW=masks_NHW).tolist() == [[1.0, 2.0, 0.0]]
    assert _statistic("width", masks_NHW=masks_NHW).tolist() == [[5.0, 2.0, 0.0]]
    assert _statistic("size_closed", masks_NHW=np.ones((1, 4, 5), np.uint8)).tolist() == [[0.0, 4.0, 0.0]]


@pytest.mark.parametrize("spacing", [(np.nan, np.nan), (1.0, 1.2)])
def test_millimetres_need_square_pixels_of_known_side(spacing: tuple[float, float]) -> None:
    with pytest.raises(UserError, match=r"square pixels of known side, but image 0 has .* use the statistic"):
        _statistic("size_mm", spacing_mm=np.array([[*spacing, 1.0]]))
