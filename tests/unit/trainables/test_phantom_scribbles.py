"""Scribbles of phantoms: open curves inside their classes, about as long as ACDC's."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from trainables.annotations import UNLABELLED, Annotation, annotate
from trainables.data import phantoms
from trainables.data.dataset import open_dataset
from trainables.data.phantom_scribbles import scribble

Pairs = list[tuple[np.ndarray, np.ndarray]]
SIZES = {64: 10, 96: 3, 192: 3}
"""Cases by size: one for each width of the pen."""
EIGHT = np.ones((3, 3), int)


@pytest.fixture(scope="module")
def drawn() -> dict[int, Pairs]:
    """(mask, scribble) of each slice, by size."""
    return {
        size: [
            (row.mask, row.scribble)
            for row in phantoms.rows("phantoms-organs", cases=cases, size=size, seed=0)
            if row.scribble is not None
        ]
        for size, cases in SIZES.items()
    }


def strokes(pairs: Pairs, class_id: int) -> Pairs:
    """(class, its stroke) of the images that hold the class."""
    return [(mask == class_id, drawn == class_id) for mask, drawn in pairs if (mask == class_id).any()]


def neighbours(stroke_HW: np.ndarray) -> np.ndarray:
    """How many of the 8 around each pixel of the stroke are its own."""
    return ndimage.convolve(stroke_HW.astype(int), EIGHT, mode="constant")[stroke_HW] - 1


def draw(mask_HW: np.ndarray, seed: int = 0) -> np.ndarray:
    return scribble(mask_HW.astype(np.uint8), 4, np.random.default_rng(seed))


@pytest.mark.parametrize("size", SIZES)
def test_strokes_stay_in_their_classes(size: int, drawn: dict[int, Pairs]) -> None:
    assert len(drawn[size]) == 6 * SIZES[size]
    for mask, labels in drawn[size]:
        assert labels.dtype == np.uint8
        assert ((labels == mask) | (labels == UNLABELLED)).all()


@pytest.mark.parametrize("size", SIZES)
def test_one_stroke_for_each_class_that_is_there(size: int, drawn: dict[int, Pairs]) -> None:
    for mask, labels in drawn[size]:
        assert set(np.unique(labels)) == set(np.unique(mask)) | {UNLABELLED}
        for class_id in np.unique(mask):
            assert ndimage.label(labels == class_id, EIGHT)[1] == 1


def test_a_thin_stroke_is_an_open_simple_curve(drawn: dict[int, Pairs]) -> None:
    """Two ends with one neighbour, all others with two: no branch, no loop, nowhere 2 pixels wide."""
    lengths = []
    for class_id in range(4):
        for _, stroke in strokes(drawn[64], class_id):
            counts = np.bincount(neighbours(stroke), minlength=3)
            lengths.append(stroke.sum())
            ends = [1, 0, 0] if lengths[-1] == 1 else [0, 2, lengths[-1] - 2]
            assert counts.tolist() == ends
    assert np.median(lengths) > 10


def test_the_pen_is_as_wide_as_the_size_asks(drawn: dict[int, Pairs]) -> None:
    for width, size in enumerate(SIZES, start=1):
        for _, stroke in strokes(drawn[size], 0):
            assert ndimage.binary_erosion(stroke, np.ones((width, width))).any()
            assert not ndimage.binary_erosion(stroke, np.ones((width + 2, width + 2))).any()


@pytest.mark.parametrize("size", SIZES)
def test_shares_of_pixels(size: int, drawn: dict[int, Pairs]) -> None:
    """ACDC: 10, 14 and 10 % of the structures, 0.66 % of the background; a kidney of two has half of it.

    Room of 3 % for structures: 18 slices, each with a share drawn between 9 and 17 % and rounded pixels.
    """
    for class_id, (low, high) in enumerate([(0.007, 0.0105), (0.08, 0.16), (0.08, 0.17), (0.05, 0.15)]):
        pairs = strokes(drawn[size], class_id)
        assert low < sum(b.sum() for _, b in pairs) / sum(a.sum() for a, _ in pairs) < high
    shares = [stroke.sum() / organ.sum() for organ, stroke in strokes(drawn[size], 1)]
    assert np.std(shares) > 0.01


def test_structures_are_drawn_off_their_borders(drawn: dict[int, Pairs]) -> None:
    for class_id in (1, 2, 3):
        for organ, stroke in strokes(drawn[64], class_id):
            inner = ndimage.binary_erosion(organ)
            assert not inner.any() or inner[stroke].all()


def test_background_runs_round_the_structures(drawn: dict[int, Pairs]) -> None:
    """At 3 to 9 % of the side (one pixel of room), hence off them, and seldom at the image's border."""
    for size in SIZES:
        at_border = []
        for mask, labels in drawn[size]:
            if mask.any():
                distance = ndimage.distance_transform_edt(mask == 0)[labels == 0]
                assert distance.min() >= 0.03 * size - 2.0
                assert distance.max() <= 0.09 * size + 3.0
            rows, columns = np.nonzero(labels == 0)
            at_border.append(min(rows.min(), columns.min(), size - 1 - rows.max(), size - 1 - columns.max()))
        assert np.mean(np.array(at_border) == 0) < 0.1


def test_background_of_an_image_without_structures() -> None:
    """A part of a curve half way between border and middle."""
    for seed in range(5):
        labels = draw(np.zeros((64, 64)), seed)
        rows, columns = np.nonzero(labels == 0)
        assert 0.005 < (labels == 0).mean() < 0.012
        assert min(rows.min(), columns.min()) >= 8
        assert max(rows.max(), columns.max()) <= 55


def test_strokes_of_one_class_lie_in_any_of_its_objects() -> None:
    mask = np.zeros((64, 64))
    mask[10:20, 10:20] = mask[40:50, 40:50] = 3
    first = [bool((draw(mask, seed)[:32] == 3).any()) for seed in range(20)]
    assert 0 < sum(first) < 20


def disc(row: int, column: int, radius: float) -> np.ndarray:
    y_HW, x_HW = np.indices((64, 64))
    return np.hypot(y_HW - row, x_HW - column) <= radius


def test_most_of_a_ring_is_drawn() -> None:
    """Of a disc with a radius of 10, 28 pixels and more are asked for: a ring of radius 4.5 to 7, less a gap.

    The shortest way between two pixels of a ring that is not cut open is at most half of it, 22 pixels.
    """
    lengths = [int((draw(disc(32, 32, 10.0), seed) == 1).sum()) for seed in range(20)]
    assert np.median(lengths) >= 23


def test_only_a_ring_is_cut() -> None:
    """Beside a disc, whose curve is a ring, a bar's middle line of 38 pixels is long enough for the least
    share of the 209 pixels of both: 19.
    """
    mask = disc(12, 12, 5.1)
    mask[40:43, 12:52] = True
    lengths = [int((draw(mask, seed) == 1)[30:].sum()) for seed in range(40)]
    in_bar = [length for length in lengths if length]
    assert len(in_bar) >= 5
    assert min(in_bar) >= 19


@pytest.mark.parametrize("side", [16, 64, 200])
def test_a_class_of_one_pixel_gets_it(side: int) -> None:
    for row, column in ((side // 2, side // 2), (0, 0), (side - 1, 3)):
        mask = np.zeros((side, side))
        mask[row, column] = 2
        labels = draw(mask)
        assert labels[row, column] == 2
        assert (labels == 2).sum() == 1
        swapped = draw(np.where(mask == 2, 0, 1))
        assert swapped[row, column] == 0


@pytest.mark.parametrize("seed", range(20))
def test_ragged_classes_get_their_strokes(seed: int) -> None:
    """Random class maps: fragments of one pixel, rings, classes that the image cuts off, no square."""
    generator = np.random.default_rng(seed)
    grain = (1, 2, 4, 8)[seed % 4]
    mask = np.kron(generator.integers(0, 4, (6, 9)), np.ones((grain, grain), int))
    labels = draw(mask, seed)
    for class_id in np.unique(mask):
        stroke = labels == class_id
        assert stroke.any()
        assert (mask[stroke] == class_id).all()
        assert ndimage.label(stroke, EIGHT)[1] == 1


def test_scribbles_are_pinned(drawn: dict[int, Pairs]) -> None:
    """A change here changes published numbers; distances are roots of integers, so that machines agree."""
    digests = {
        size: hashlib.blake2b(np.stack([b for _, b in pairs[:18]]).tobytes(), digest_size=8).hexdigest()
        for size, pairs in drawn.items()
    }
    assert digests == {64: "7b4b0ad431649b44", 96: "b030b57a51c50ead", 192: "84c0ac0f92fd9509"}


def test_seeds_cases_and_slices_differ(drawn: dict[int, Pairs]) -> None:
    mask = drawn[64][0][0]
    assert len({draw(mask, seed).tobytes() for seed in range(5)}) == 5
    # Not the same place of the image in each: the slices' generators differ.
    assert len({(labels == 0).tobytes() for _, labels in drawn[64]}) == len(drawn[64])


def test_a_study_may_ask_for_them(tmp_path: Path) -> None:
    path = tmp_path / "organs.parquet"
    phantoms.write("phantoms-organs", path, cases=13, size=32)
    dataset = open_dataset(path, cache=tmp_path / "cache")
    train = dataset.folds[0].train
    assert dataset.scribbles_NHW is not None
    weak = annotate(
        Annotation(pixels="scribble"),
        images_NHW=dataset.images_NHW[train],
        masks_NHW=dataset.masks_NHW[train],
        scribbles_NHW=dataset.scribbles_NHW[train],
        image_ids=[dataset.image_ids[i] for i in train],
        volume_ids=[dataset.volume_ids[i] for i in train],
        spacing_mm=dataset.spacing_mm[train],
        num_classes=dataset.num_classes,
        seed=0,
    )
    expected = [row.scribble for row in phantoms.rows("phantoms-organs", cases=13, size=32, seed=0)]
    assert np.array_equal(weak.labels_NHW, np.stack([expected[i] for i in train if expected[i] is not None]))
    assert set(np.unique(weak.labels_NHW)) == {0, 1, 2, 3, UNLABELLED}
    assert weak.labelled_N.all()
