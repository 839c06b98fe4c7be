"""Phantoms: reproducible, independent of the number of cases, and as hard as the studies need them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from search_spaces import UserError
from trainables.data import phantoms
from trainables.data.dataset import open_dataset
from trainables.data.parquet import Row
from trainables.data.phantom_ct import SLICES
from trainables.data.phantom_shapes import Blob, fine_grid, pooled
from trainables.data.phantom_ultrasound import LESION_AREA

CASES = {"phantoms-lesions": 39, "phantoms-organs": 8, "phantoms-mixed": 26, "phantoms-sizes": 39}


@pytest.fixture(scope="module")
def images() -> dict[str, list[Row]]:
    return {kind: list(phantoms.rows(kind, cases=n, size=64, seed=0)) for kind, n in CASES.items()}


def identical(left: Row, right: Row) -> bool:
    arrays = ((left.image, right.image), (left.mask, right.mask), (left.scribble, right.scribble))
    same_pixels = all(np.array_equal(a, b) for a, b in arrays)  # None, where nobody drew, equals None
    return same_pixels and (left.image_id, left.spacing_mm) == (right.image_id, right.spacing_mm)


def empty(rows: list[Row]) -> np.ndarray:
    return np.array([not row.mask.any() for row in rows])


def test_kinds() -> None:
    assert phantoms.KINDS == ("phantoms-lesions", "phantoms-organs", "phantoms-mixed", "phantoms-sizes")
    assert phantoms.class_names("phantoms-organs") == ("background", "liver", "spleen", "kidney")


@pytest.mark.parametrize("kind", phantoms.KINDS)
def test_a_case_is_the_same_however_many_there_are(kind: str, images: dict[str, list[Row]]) -> None:
    few = list(phantoms.rows(kind, cases=3, size=64, seed=0))
    assert all(identical(a, b) for a, b in zip(few, images[kind], strict=False))


@pytest.mark.parametrize("kind", phantoms.KINDS)
def test_seeds_and_cases_differ(kind: str, images: dict[str, list[Row]]) -> None:
    other = next(phantoms.rows(kind, cases=3, size=64, seed=1))
    assert not np.array_equal(other.image, images[kind][0].image)
    assert len({row.image.tobytes() for row in images[kind]}) == len(images[kind])


def test_lesions_and_mixed_are_different_images(images: dict[str, list[Row]]) -> None:
    assert not np.array_equal(images["phantoms-lesions"][0].image, images["phantoms-mixed"][0].image)


@pytest.mark.parametrize(
    ("kind", "image_sum", "mask_sum"),
    [
        ("phantoms-lesions", 479312, 216),
        ("phantoms-organs", 637272, 1906),
        ("phantoms-mixed", 428389, 86),
        ("phantoms-sizes", 425248, 292),
    ],
)
def test_pixels_are_pinned(kind: str, image_sum: int, mask_sum: int) -> None:
    """A change here changes every published number: the sums over three cases, seed 0, 32 x 32.

    A last-digit difference between mathematical libraries may move single grey values by 1: 5 are allowed.
    """
    rows = list(phantoms.rows(kind, cases=3, size=32, seed=0))
    assert abs(sum(int(row.image.sum()) for row in rows) - image_sum) <= 5
    assert sum(int(row.mask.sum()) for row in rows) == mask_sum


@pytest.mark.parametrize(
    ("kind", "digest"),
    [
        ("phantoms-lesions", "bd7ce897daa1f927"),
        ("phantoms-organs", "85f93e14738b3fbb"),
        ("phantoms-mixed", "5b17d9c4db9a1224"),
        ("phantoms-sizes", "1d2987f3126ee7f7"),
    ],
)
def test_masks_are_those_before_there_were_scribbles(kind: str, digest: str) -> None:
    masks = [row.mask for row in phantoms.rows(kind, cases=3, size=32, seed=0)]
    assert hashlib.blake2b(np.stack(masks).tobytes(), digest_size=8).hexdigest() == digest


def test_only_organs_have_scribbles(images: dict[str, list[Row]]) -> None:
    for kind in phantoms.KINDS:
        drawn = [row.scribble is not None for row in images[kind]]
        assert drawn == [kind == "phantoms-organs"] * len(drawn)


@pytest.mark.parametrize("kind", phantoms.KINDS)
def test_arrays(kind: str, images: dict[str, list[Row]]) -> None:
    num_classes = len(phantoms.class_names(kind))
    for row in images[kind]:
        assert row.image.shape == row.mask.shape == (64, 64)
        assert row.image.dtype == row.mask.dtype == np.uint8
        assert row.mask.max() < num_classes
        assert row.image.std() > 20.0  # grey values; a constant image has 0
    assert set(np.unique([row.mask for row in images[kind]])) == set(range(num_classes))


def test_shapes_do_not_depend_on_the_size() -> None:
    """Fractions of the image agree up to the pixels on the border: 1.5 % for a lesion at 32 x 32."""
    for small, large in zip(
        phantoms.rows("phantoms-lesions", cases=6, size=32, seed=0),
        phantoms.rows("phantoms-lesions", cases=6, size=96, seed=0),
        strict=True,
    ):
        assert abs(small.mask.mean() - large.mask.mean()) < 0.015
        reduced = large.mask.reshape(32, 3, 32, 3).mean(axis=(1, 3)) > 0.5
        assert (reduced != small.mask).mean() < 0.02


@pytest.mark.parametrize("kind", ["phantoms-lesions", "phantoms-mixed"])
def test_lesion_areas(kind: str, images: dict[str, list[Row]]) -> None:
    areas = np.array([row.mask.mean() for row in images[kind] if row.mask.any()])
    assert areas.min() >= LESION_AREA[0]
    assert areas.max() <= LESION_AREA[1]
    # They vary: knowing one area does not tell the others.
    assert np.quantile(areas, 0.9) > 2.0 * np.quantile(areas, 0.1)


@pytest.mark.parametrize(("kind", "share"), [("phantoms-lesions", 0.08), ("phantoms-mixed", 0.5)])
def test_share_of_empty_images(kind: str, share: float) -> None:
    """In every part of the split. Steps of sqrt(2) keep the counts within 3; independent draws would not."""
    for seed in range(3):
        present = np.array([phantoms.has_lesion(kind, i, seed) for i in range(260)])
        part = np.array([phantoms.part_of(i) for i in range(260)])
        for name, count in (("train", 160), ("val", 40), ("test", 60)):
            assert (part == name).sum() == count
            assert abs((~present[part == name]).sum() - share * count) <= 3.0


def test_masks_are_empty_where_announced(images: dict[str, list[Row]]) -> None:
    for kind in ("phantoms-lesions", "phantoms-mixed"):
        announced = [not phantoms.has_lesion(kind, i, 0) for i in range(CASES[kind])]
        assert empty(images[kind]).tolist() == announced


def test_neither_darkness_nor_brightness_finds_the_lesion(images: dict[str, list[Row]]) -> None:
    """The best mask of a threshold per image, told the true area: what the area statistic alone could do."""
    for sign in (1, -1):
        scores = []
        for row in images["phantoms-lesions"]:
            if row.mask.any():
                grey = sign * row.image.astype(float)
                chosen = grey <= np.quantile(grey, row.mask.mean())
                scores.append(2.0 * (chosen & (row.mask > 0)).sum() / (chosen.sum() + row.mask.sum()))
        assert np.mean(scores) < 0.5


def test_look_alikes(images: dict[str, list[Row]]) -> None:
    """Outside the lesion, most images have many pixels darker than most of it, and brighter than most."""
    darker, brighter = [], []
    for row in images["phantoms-lesions"]:
        if row.mask.any():
            inside, outside = row.image[row.mask == 1], row.image[row.mask == 0]
            darker.append((outside < np.quantile(inside, 0.25)).sum() >= 20)
            brighter.append((outside > np.quantile(inside, 0.95)).sum() >= 20)
    assert np.mean(darker) > 0.8
    assert np.mean(brighter) > 0.8


def test_lesion_is_hypo_echoic(images: dict[str, list[Row]]) -> None:
    contrasts = [
        np.median(r.image[r.mask == 0]) - np.median(r.image[r.mask == 1])
        for r in images["phantoms-lesions"]
        if r.mask.any()
    ]
    assert np.mean(np.array(contrasts) > 10.0) > 0.95


def test_organ_volumes(images: dict[str, list[Row]]) -> None:
    rows = images["phantoms-organs"]
    for case in range(CASES["phantoms-organs"]):
        volume = rows[SLICES * case : SLICES * (case + 1)]
        assert [row.slice_index for row in volume] == list(range(SLICES))
        assert len({row.case_id for row in volume}) == len({row.spacing_mm for row in volume}) == 1
        row_mm, column_mm, slice_mm = volume[0].spacing_mm or (0.0, 0.0, 0.0)
        assert 340.0 <= row_mm * 64 == column_mm * 64 <= 410.0
        assert slice_mm == 24.0
        # Every patient has every organ.
        assert set(np.unique([row.mask for row in volume])) == {0, 1, 2, 3}


def test_absent_organs_occur(images: dict[str, list[Row]]) -> None:
    present = np.array([[(row.mask == k).any() for k in (1, 2, 3)] for row in images["phantoms-organs"]])
    assert (present.mean(axis=0) > 0.3).all()
    assert (present.mean(axis=0) < 0.95).all()


def test_organs_look_alike_in_grey_value(images: dict[str, list[Row]]) -> None:
    """Vessels, bowel or muscle outside are as bright as the organs, on about 1 % of each slice and more."""
    for row in images["phantoms-organs"]:
        if row.mask.any():
            median = np.median(row.image[row.mask > 0])
            assert (np.abs(row.image[row.mask == 0] - median) < 20.0).sum() > 30


def test_kidneys_are_brighter_than_the_liver(images: dict[str, list[Row]]) -> None:
    rows = images["phantoms-organs"]
    liver, kidney = (np.concatenate([row.image[row.mask == k] for row in rows]) for k in (1, 3))
    assert kidney.mean() > liver.mean() + 15.0


def test_blob_has_the_area_of_its_disc() -> None:
    """Waves and aspect keep the area; pixels of 1/256 leave an error far below 1 %."""
    waves = ((3.0, 0.2, 0.4), (5.0, 0.1, 1.0))
    blob = Blob(row=0.5, column=0.45, radius=0.2, aspect=1.5, angle=0.7, waves=waves)
    inside = blob.elevation(*fine_grid(128)) > 0.0
    assert inside.mean() == pytest.approx(np.pi * 0.2**2, rel=0.01)
    y_HW, x_HW = fine_grid(128)
    assert np.hypot(y_HW - 0.5, x_HW - 0.45)[inside].max() <= blob.reach


def test_pooled_means_of_2_by_2() -> None:
    fine = np.array([[1.0, 3.0, 0.0, 0.0], [5.0, 7.0, 0.0, 4.0], [1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 2.0, 2.0]])
    assert pooled(fine).tolist() == [[4.0, 1.0], [1.0, 2.0]]


@pytest.mark.parametrize("kind", phantoms.KINDS)
def test_written_file_opens(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"{kind}.parquet"
    phantoms.write(kind, path, cases=13, size=32, seed=3)
    dataset = open_dataset(path, cache=tmp_path / "cache")
    expected = list(phantoms.rows(kind, cases=13, size=32, seed=3))
    assert dataset.class_names == phantoms.class_names(kind)
    assert dataset.image_ids == tuple(row.image_id for row in expected)
    assert np.array_equal(dataset.images_NHW, np.stack([row.image for row in expected]))
    assert np.array_equal(dataset.masks_NHW, np.stack([row.mask for row in expected]))
    per_case = SLICES if kind == "phantoms-organs" else 1
    fold = dataset.folds[0]
    assert [len(part) for part in (fold.train, fold.val, fold.test)] == [
        8 * per_case,
        2 * per_case,
        3 * per_case,
    ]
    with pytest.raises(UserError, match="exists already"):
        phantoms.write(kind, path, cases=3, size=16)


def test_three_cases_are_enough_for_a_split() -> None:
    assert sorted(phantoms.part_of(i) for i in range(3)) == ["test", "train", "val"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "phantoms-lesion"}, "Did you mean 'phantoms-lesions'"),
        ({"cases": 2}, "3 to 100000 cases, but got 2; its default is 260"),
        ({"cases": 100_001}, "got 100001"),
        ({"size": 15}, "16 pixels a side or more, but got 15; its default is 64"),
    ],
)
def test_user_errors(arguments: dict[str, object], message: str) -> None:
    settings: dict[str, object] = {"kind": "phantoms-lesions", "cases": 3, "size": 32, "seed": 0} | arguments
    with pytest.raises(UserError, match=message):
        phantoms.rows(settings.pop("kind"), **settings)  # type: ignore[arg-type]
