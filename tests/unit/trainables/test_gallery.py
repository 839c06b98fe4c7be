"""The gallery of a trial: which cases, which slice, which size, and a file that tells when it is damaged."""

from __future__ import annotations

import dataclasses
import math
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from study import stats
from tests.unit.trainables.toy_data import DENSE, WEAK, opened, trial_on
from trainables import gallery, samples
from trainables.annotations import Annotation
from trainables.data.dataset import Dataset, resize_ids
from trainables.gallery import GalleryError, Picture, case_values, choose, shown_slice
from trainables.loop import Training
from trainables.method import IGNORE


class Score(NamedTuple):
    case_id: str
    dice: float


def a_picture(**changes: object) -> Picture:
    mask = np.zeros((6, 8), np.uint8)
    mask[2:4, 3:6] = 1
    image = np.arange(48, dtype=np.uint8).reshape(6, 8)
    values = {
        "role": "best", "case_id": "c1", "image_id": "c1/3", "slice_index": 3, "slices": 5, "judged": (6, 8),
        "image_HW": image, "truth_HW": mask, "prediction_HW": mask.T.reshape(6, 8), "labels_HW": None,
    }  # fmt: skip
    return Picture(**{**values, **changes})


def test_a_case_is_worth_the_mean_of_its_defined_rows_as_the_answer_has_it() -> None:
    rows = [Score("b", 0.5), Score("a", 1.0), Score("b", 0.2), Score("a", math.nan), Score("c", math.nan)]
    values = case_values(rows, "dice")
    assert (values["a"], values["b"]) == (1.0, pytest.approx(0.35))
    assert math.isnan(values["c"])
    ids, means = stats.case_means([r.dice for r in rows], [r.case_id for r in rows], [0] * len(rows))
    np.testing.assert_equal(dict(zip(ids, means, strict=True)), values)


@pytest.mark.parametrize(
    ("values", "chosen"),
    [
        ({}, {}),
        ({"a": math.nan}, {}),
        ({"a": 0.3}, {"best": "a"}),
        ({"a": 0.3, "b": 0.4}, {"best": "b", "worst": "a"}),
        ({"a": 0.3, "b": 0.4, "c": 0.0}, {"best": "b", "median": "a", "worst": "c"}),
        ({"a": 0.3, "b": 0.4, "c": 0.0, "d": 0.5, "e": math.nan}, {"best": "d", "median": "b", "worst": "c"}),
        ({"z": 0.0, "b": 0.0, "c": 0.0}, {"best": "b", "median": "c", "worst": "z"}),
    ],
)
def test_best_median_worst(values: dict[str, float], chosen: dict[str, str]) -> None:
    assert choose(values, greater_is_better=True) == chosen
    assert list(choose(dict(reversed(values.items())), greater_is_better=True).items()) == list(
        chosen.items()
    )


def test_of_a_distance_the_smallest_is_best() -> None:
    assert choose({"a": 3.0, "b": 1.0, "c": 90.0}, greater_is_better=False) == {
        "best": "b", "median": "a", "worst": "c",
    }  # fmt: skip


def test_the_slice_with_most_truth_is_shown_or_else_with_most_prediction() -> None:
    def areas(*counts: int) -> list[np.ndarray]:
        masks = np.zeros((len(counts), 4, 4), np.uint8)
        for mask, count in zip(masks, counts, strict=True):
            mask.ravel()[:count] = 2
        return list(masks)

    assert shown_slice(areas(0, 3, 5, 1), areas(9, 0, 0, 0)) == 2
    assert shown_slice(areas(0, 0, 0), areas(0, 1, 4)) == 2
    assert shown_slice(areas(0, 0, 0), areas(0, 0, 0)) == 1


def test_a_file_holds_what_was_written_and_is_the_same_each_time(tmp_path: Path) -> None:
    labels = np.full((12, 16), IGNORE, np.uint8)
    pictures = [a_picture(), a_picture(role="train", labels_HW=labels, judged=(600, 800))]
    for name in ("a", "b"):
        gallery.write(tmp_path / name, pictures)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert {m.date_time for m in zipfile.ZipFile(tmp_path / "a").infolist()} == {(1980, 1, 1, 0, 0, 0)}
    for left, picture in zip(gallery.read(tmp_path / "a"), pictures, strict=True):
        np.testing.assert_equal(dataclasses.asdict(left), dataclasses.asdict(picture))


def test_nothing_half_written_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "gallery.npz"
    gallery.write(path, [a_picture()])
    before = path.read_bytes()

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez_compressed", killed)
        with pytest.raises(KeyboardInterrupt):
            gallery.write(path, [])
    assert path.read_bytes() == before
    gallery.write(path, [a_picture()])
    assert [found.name for found in tmp_path.iterdir()] == ["gallery.npz"]


def test_a_damaged_or_foreign_file_is_said_to_be(tmp_path: Path) -> None:
    path = tmp_path / "gallery.npz"
    gallery.write(path, [a_picture()])
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 3] ^= 0xFF
    for damaged in (b"", b"no archive", content[: len(content) // 2], bytes(flipped)):
        path.write_bytes(damaged)
        with pytest.raises(GalleryError, match=r"gallery\.npz cannot be read"):
            gallery.read(path)
    np.savez(path, index=np.array([{"version": 1}], object), allow_pickle=True)
    with pytest.raises(GalleryError):  # a pickle is not opened
        gallery.read(path)
    gallery.write(path, [a_picture(truth_HW=np.zeros((2, 2), np.int64))])
    with pytest.raises(GalleryError, match="picture 0 is no image"):
        gallery.read(path)


def test_a_later_version_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(gallery, "VERSION", 2)
        gallery.write(tmp_path / "g", [])
    with pytest.raises(GalleryError, match="its version is 2, and 1 is known"):
        gallery.read(tmp_path / "g")


def shown(dataset: Dataset, folder: Path, annotation: Annotation = DENSE, **changes: object):
    """The pictures of an untrained network, its test predictions and scores."""
    training = Training(
        trial_on(dataset, annotation=annotation, test=True, **changes), dataset, torch.device("cpu")
    )
    predictions = training.predict(training.split.test)
    scores = training.scores_of(predictions, training.split.test)
    samples.leave(folder, training, predictions, scores, "dice")
    return gallery.read(folder / "gallery.npz"), predictions, scores


def test_pictures_are_of_the_data_set(dataset: Dataset, tmp_path: Path) -> None:
    pictures, predictions, scores = shown(dataset, tmp_path, WEAK, method="partial_cross_entropy")
    test, train = dataset.folds[0].test, dataset.folds[0].train
    assert [p.role for p in pictures] == ["best", "median", "worst", "train", "train"]
    chosen = choose(case_values(scores, "dice"), greater_is_better=True)
    for picture in pictures[:3]:
        row = dataset.image_ids.index(picture.image_id)
        place = int(np.flatnonzero(test == row)[0])
        own = [r for r in test if dataset.case_ids[r] == picture.case_id]
        assert picture.case_id == chosen[picture.role] == dataset.case_ids[row]
        volume = [r for r in own if dataset.volume_ids[r] == dataset.volume_ids[row]]
        assert (picture.slice_index, picture.slices) == (dataset.slice_index[row], len(volume))
        areas = {r: np.count_nonzero(dataset.masks_NHW[r]) for r in own}
        assert areas[row] == max(areas.values())
        np.testing.assert_array_equal(picture.image_HW, dataset.images_NHW[row])
        np.testing.assert_array_equal(picture.truth_HW, dataset.masks_NHW[row])
        np.testing.assert_array_equal(picture.prediction_HW, predictions[place])
        assert picture.labels_HW is None  # nobody annotates a test image
    for picture in pictures[3:]:
        row = dataset.image_ids.index(picture.image_id)
        assert row in train
        assert picture.labels_HW is not None
        clicked = picture.labels_HW != IGNORE
        assert (picture.labels_HW[clicked] > 0).any()  # one that taught the network a structure
        np.testing.assert_array_equal(picture.labels_HW[clicked], dataset.masks_NHW[row][clicked])


def test_without_any_click_training_images_are_shown_all_the_same(dataset: Dataset, tmp_path: Path) -> None:
    nobody = Annotation(pixels="none", statistics=("area",))
    pictures, _, _ = shown(dataset, tmp_path, nobody, method="size_constraint")
    taught = [p for p in pictures if p.role == "train"]
    assert len(taught) == 2
    assert all(p.labels_HW is not None and (p.labels_HW == IGNORE).all() for p in taught)


def test_masks_are_shown_at_the_size_they_were_judged_at(toy_folder: Path, tmp_path: Path) -> None:
    small = opened(toy_folder, size=(8, 12))
    pictures, predictions, _ = shown(small, tmp_path)
    worst = pictures[2]
    row = small.image_ids.index(worst.image_id)
    truths, _ = small.truths(np.array([row]))
    assert worst.judged == worst.truth_HW.shape == (16, 16)
    assert worst.image_HW.shape == (8, 12)
    np.testing.assert_array_equal(worst.truth_HW, truths[0])
    place = int(np.flatnonzero(small.folds[0].test == row)[0])
    np.testing.assert_array_equal(worst.prediction_HW, resize_ids(predictions[place], (16, 16)))
    assert pictures[3].judged == (8, 12)


def test_large_images_are_kept_smaller(toy_folder: Path) -> None:
    large = opened(toy_folder, size=(300, 520))
    training = Training(trial_on(large, test=True), large, torch.device("cpu"))
    row = int(training.split.test[0])
    picture = samples._picture(
        training, "best", row, large.masks_NHW[row], large.masks_NHW[row], np.zeros((300, 520), np.uint8), 1
    )
    assert picture.image_HW.shape == (148, 256)
    assert picture.truth_HW.shape == picture.prediction_HW.shape == (295, 512)
    assert picture.judged == (300, 520)
    assert picture.labels_HW is not None
    assert picture.labels_HW.shape == (300, 520)  # a click is one pixel
