"""Batches: drawn from (trial, step) alone, every image once a pass, no label that was not paid for."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.trainables import toy_data
from tests.unit.trainables.toy_data import DENSE, WEAK, protocol, trial_on
from trainables.annotations import Annotation, annotate
from trainables.batches import BatchSource, weak_labels
from trainables.data import augment
from trainables.data.dataset import Dataset
from trainables.method import IGNORE, Batch
from trainables.statistics import STATISTICS, summary_statistics
from trainables.trial import Trial

CPU = torch.device("cpu")
ANNOTATIONS = {
    "dense": DENSE,
    "points": WEAK,
    "foreground": Annotation(pixels="fg_points", pixel_budget=3, placement="center"),
    "scribble": Annotation(pixels="scribble"),
    "none": Annotation(statistics=("area",)),
}


def source_of(trial: Trial, data: Dataset) -> BatchSource:
    return BatchSource(trial, data, CPU, torch.contiguous_format)


def weakly(data: Dataset, annotation: Annotation = WEAK, **changes: Any) -> Trial:
    settings = {key: changes.pop(key) for key in ("augmentation", "batch_size") if key in changes}
    return trial_on(data, annotation=annotation, protocol=protocol(iterations=100, **settings), **changes)


def equal(one: Batch, other: Batch) -> bool:
    return (
        torch.equal(one.image_BCHW, other.image_BCHW)
        and torch.equal(one.labels_BHW, other.labels_BHW)
        and one.statistics.keys() == other.statistics.keys()
        and all(
            torch.equal(v.nan_to_num(-1), other.statistics[k].nan_to_num(-1))
            for k, v in one.statistics.items()
        )
    )


def origins(batch: Batch, data: Dataset, augmentation: str) -> list[tuple[int, int]]:
    """(row of the data set, symmetry) of each image of a batch, found by comparing pixels."""
    rows = data.folds[0].train
    images = torch.from_numpy(data.images_NHW[rows])
    tables = augment.symmetries(augmentation, *data.shape)
    found = []
    for image in batch.image_BCHW:
        for g in range(len(tables)):
            moved = augment.apply(images, tables, torch.full((len(rows),), g))
            equals = (moved.float() / 255 == image).all(-1).all(-1)
            found += [(int(rows[n]), g) for n in equals.nonzero().flatten().tolist()]
    assert len(found) == len(batch.image_BCHW), "the toy images must differ from each other and their mirrors"
    return found


@pytest.fixture
def oblong(toy_folder: Path) -> Dataset:
    return toy_data.opened(toy_folder, size=(16, 12))


def test_a_batch_depends_on_trial_and_step_alone(dataset: Dataset) -> None:
    trial = weakly(dataset)
    forward = source_of(trial, dataset)
    sequence = [forward.batch(t) for t in range(12)]
    other = source_of(dataclasses.replace(trial), dataset)
    torch.manual_seed(99)
    for t in (7, 0, 11, 7):
        torch.rand(5)  # the global generator plays no part
        assert equal(other.batch(t), sequence[t])
    assert not equal(sequence[0], sequence[1])


def test_another_seed_draws_another_batch(dataset: Dataset) -> None:
    one, other = (source_of(weakly(dataset, seed=s), dataset).batch(0) for s in (0, 1))
    assert not torch.equal(one.image_BCHW, other.image_BCHW)


@pytest.mark.parametrize("batch_size", [1, 5, 23, 24, 60])
def test_every_pass_visits_every_image_once(dataset: Dataset, batch_size: int) -> None:
    source = source_of(weakly(dataset, batch_size=batch_size, augmentation="none"), dataset)
    train = dataset.folds[0].train.tolist()
    passes = 3 if batch_size > 1 else 1
    visits: list[int] = []
    while len(visits) < passes * len(train):
        batch = source.batch(len(visits) // batch_size)
        assert batch.image_BCHW.shape == (batch_size, 1, *dataset.shape)
        visits += [row for row, _ in origins(batch, dataset, "none")]
    turns = [visits[len(train) * turn : len(train) * (turn + 1)] for turn in range(passes)]
    assert all(sorted(turn) == train for turn in turns)
    assert len({tuple(turn) for turn in turns}) == passes  # every time in another order


def test_all_symmetries_are_drawn(dataset: Dataset) -> None:
    for augmentation, count in (("none", 1), ("flips", 4), ("flips_turns", 8)):
        source = source_of(weakly(dataset, augmentation=augmentation, batch_size=64), dataset)
        drawn = {g for _, g in origins(source.batch(0), dataset, augmentation)}
        assert drawn == set(range(count))


def test_symmetries_are_drawn_anew_for_each_step_and_seed(dataset: Dataset) -> None:
    def drawn(seed: int, step: int) -> list[int]:
        batch = source_of(weakly(dataset, seed=seed, batch_size=24), dataset).batch(step)
        return [g for _, g in origins(batch, dataset, "flips_turns")]

    assert drawn(0, 0) == drawn(0, 0) != drawn(0, 1)
    assert drawn(0, 0) != drawn(1, 0)


@pytest.mark.parametrize("kind", ANNOTATIONS)
def test_labels_are_what_was_annotated_and_nothing_else(dataset: Dataset, kind: str) -> None:
    annotation = ANNOTATIONS[kind]
    rows = dataset.folds[0].train
    assert dataset.scribbles_NHW is not None
    granted = annotate(
        annotation,
        images_NHW=dataset.images_NHW[rows],
        masks_NHW=dataset.masks_NHW[rows],
        scribbles_NHW=dataset.scribbles_NHW[rows],
        image_ids=[dataset.image_ids[r] for r in rows],
        volume_ids=[dataset.volume_ids[r] for r in rows],
        spacing_mm=dataset.spacing_mm[rows],
        num_classes=3,
        seed=5,
    ).labels_NHW
    batch = source_of(weakly(dataset, annotation, seed=5, batch_size=24), dataset).batch(3)
    tables = augment.symmetries("flips_turns", *dataset.shape)
    position = {int(row): n for n, row in enumerate(rows)}
    found = origins(batch, dataset, "flips_turns")
    for labels, (row, g) in zip(batch.labels_BHW, found, strict=True):
        one = torch.from_numpy(granted[position[row]][None])
        assert torch.equal(labels, augment.apply(one, tables, torch.tensor([g]))[0].long())
    labelled = (batch.labels_BHW != IGNORE).double().mean().item()
    assert {"dense": labelled == 1, "none": labelled == 0}.get(kind, 0 < labelled < 0.2)


def test_dense_labels_are_the_masks(dataset: Dataset) -> None:
    batch = source_of(weakly(dataset, DENSE, augmentation="none"), dataset).batch(0)
    rows = [row for row, _ in origins(batch, dataset, "none")]
    np.testing.assert_array_equal(batch.labels_BHW, dataset.masks_NHW[rows])
    assert batch.labels_BHW.dtype == torch.int64
    assert batch.statistics == {}
    assert batch.volume_B is None


def test_images_are_intensities(dataset: Dataset) -> None:
    source = source_of(weakly(dataset), dataset)
    rows = np.array([3, 0, 3])
    images = source.images(rows)
    assert images.dtype == torch.float32
    np.testing.assert_array_equal(images[:, 0] * 255, dataset.images_NHW[rows].astype(np.float32))


@pytest.mark.parametrize("shape", ["square", "oblong"])
def test_statistics_are_those_of_the_augmented_masks(shape: str, dataset: Dataset, oblong: Dataset) -> None:
    data = dataset if shape == "square" else oblong
    without = {"volume_area", "size_mm"}  # these need whole volumes, and square pixels
    names = tuple(name for name in STATISTICS if name not in without)
    annotation = Annotation(statistics=names, several_objects="thickest")
    source = source_of(weakly(data, annotation, batch_size=24), data)
    batch = source.batch(1)
    assert batch.statistics.keys() == set(names)
    tables = augment.symmetries("flips_turns", *data.shape)
    rows, moves = zip(*origins(batch, data, "flips_turns"), strict=True)
    masks = augment.apply(torch.from_numpy(data.masks_NHW[list(rows)]), tables, torch.tensor(moves))
    images = (batch.image_BCHW[:, 0] * 255).round().to(torch.uint8)
    expected = summary_statistics(
        names,
        images_NHW=images.numpy(),
        masks_NHW=masks.numpy(),
        volume_ids=[""] * len(rows),
        spacing_mm=data.spacing_mm[list(rows)],
        num_classes=3,
    )
    for name in names:
        assert batch.statistics[name].dtype == torch.float32
        np.testing.assert_allclose(batch.statistics[name], expected[name], atol=2e-6, err_msg=name)


def test_volume_area_comes_with_whole_volumes(dataset: Dataset) -> None:
    trial = weakly(dataset, Annotation(statistics=("volume_area",)), batch_size=4)
    source = source_of(trial, dataset)
    train = dataset.folds[0].train
    in_volume = {
        name: {int(r) for r in train if dataset.volume_ids[r] == name} for name in set(dataset.volume_ids)
    }
    visited: list[str] = []
    for t in range(6):  # 12 volumes of 2 slices on average: 6 batches of 2 volumes
        batch = source.batch(t)
        assert batch.volume_B is not None
        rows = np.array([row for row, _ in origins(batch, dataset, "flips_turns")])
        for volume in range(int(batch.volume_B.max()) + 1):
            held = rows[batch.volume_B.numpy() == volume]
            name = dataset.volume_ids[held[0]]
            assert sorted(held) == sorted(in_volume[name])
            visited.append(name)
            areas = (dataset.masks_NHW[held] == 1).mean((1, 2))
            reported = batch.statistics["volume_area"][batch.volume_B == volume, 1]
            np.testing.assert_allclose(reported, np.full(len(held), areas.mean()), rtol=1e-6)
    assert sorted(visited) == sorted({dataset.volume_ids[r] for r in train})


def test_a_batch_may_hold_more_volumes_than_there_are(dataset: Dataset) -> None:
    trial = weakly(dataset, Annotation(statistics=("volume_area",)), batch_size=40)
    batch = source_of(trial, dataset).batch(0)
    assert batch.volume_B is not None
    assert batch.volume_B.max() == 19
    assert len(batch.volume_B) == len(batch.image_BCHW)


def test_images_are_not_copied(dataset: Dataset) -> None:
    source = source_of(weakly(dataset), dataset)
    assert np.shares_memory(source.pixels.numpy(), dataset.images_NHW)


def test_weak_labels_are_kept_for_the_next_trial(dataset: Dataset) -> None:
    trial = weakly(dataset, seed=41)
    kept = weak_labels(trial, dataset)
    assert weak_labels(dataclasses.replace(trial, method="partial_cross_entropy"), dataset) is kept
    others = [weak_labels(dataclasses.replace(trial, seed=42 + n), dataset) for n in range(8)]
    assert not any(np.array_equal(other.labels_NHW, kept.labels_NHW) for other in others)
    again = weak_labels(trial, dataset)
    assert again is not kept  # only the last few stay in memory
    np.testing.assert_array_equal(again.labels_NHW, kept.labels_NHW)


FIVE = Annotation(pixels="dense", labelled_images=5)


def labelled_rows(data: Dataset, annotation: Annotation, seed: int = 0) -> set[int]:
    granted = weak_labels(weakly(data, annotation, seed=seed), data)
    return set(data.folds[0].train[granted.labelled_N].tolist())


def test_a_method_that_needs_pixels_is_shown_the_labelled_images_alone(dataset: Dataset) -> None:
    trial = weakly(dataset, FIVE, augmentation="none", batch_size=10)
    batch = source_of(trial, dataset).batch(0)
    rows = [row for row, _ in origins(batch, dataset, "none")]
    assert sorted(rows) == sorted(2 * list(labelled_rows(dataset, FIVE)))  # two passes over the five
    assert not (batch.labels_BHW == IGNORE).any()


def test_so_many_of_a_batch_are_labelled_and_the_rest_are_any(dataset: Dataset) -> None:
    annotation = dataclasses.replace(FIVE, statistics=("area",))
    settings = protocol(iterations=100, batch_size=8, labelled_per_batch=3, augmentation="none")
    trial = trial_on(dataset, method="size_constraint", annotation=annotation, protocol=settings)
    source = source_of(trial, dataset)
    labelled = labelled_rows(dataset, annotation)
    others: set[int] = set()
    for step in range(20):
        batch = source.batch(step)
        rows = [row for row, _ in origins(batch, dataset, "none")]
        assert set(rows[:3]) <= labelled
        others |= set(rows[3:])
        with_pixels = (batch.labels_BHW != IGNORE).flatten(1).any(1)
        assert [bool(w) for w in with_pixels] == [row in labelled for row in rows]
        assert batch.statistics["area"].isfinite().all()
    assert others == set(dataset.folds[0].train.tolist())


def test_millimetres_come_with_the_pixels_side(dataset: Dataset) -> None:
    annotation = Annotation(statistics=("size", "size_mm"), several_objects="thickest")
    halved = dataclasses.replace(dataset, spacing_mm=dataset.spacing_mm / 2, fingerprint="halved")
    trial = weakly(halved, annotation, batch_size=24)
    batch = source_of(trial, halved).batch(0)
    assert batch.pixel_mm_B is not None
    assert batch.pixel_mm_B.tolist() == [0.5] * 24
    assert torch.equal(batch.statistics["size_mm"], batch.statistics["size"] / 2)
    assert source_of(weakly(dataset, Annotation(statistics=("size",))), dataset).batch(0).pixel_mm_B is None
