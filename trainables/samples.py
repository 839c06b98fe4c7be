"""What a trial shows of itself at its end: training images with their clicks, and test images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from trainables import gallery, pictures
from trainables.annotations import UNLABELLED
from trainables.batches import weak_labels
from trainables.data.dataset import resize_ids
from trainables.gallery import Picture
from trainables.loop import Training
from trainables.metrics import METRICS, CaseScore

LONGEST_IMAGE, LONGEST_MASK = 256, 512
"""Pixels along the longer side of what the gallery keeps; masks are all but free."""
TAUGHT = 2
"""Training images in the gallery."""


def draw(path: Path, training: Training, test_predictions: np.ndarray, count: int = 4) -> None:
    """Training images with their clicks, and test images, both with prediction and error."""
    data, split = training.dataset, training.split
    labels = weak_labels(training.trial, data).labels_NHW
    shown = np.unique(np.linspace(0, len(split.train) - 1, count).astype(int))
    tested = np.unique(np.linspace(0, len(split.test) - 1, count).astype(int))
    rows = np.concatenate([split.train[shown], split.test[tested]])
    nothing = np.full((len(tested), *data.shape), UNLABELLED, np.uint8)
    pictures.samples(
        path,
        data.images_NHW[rows],
        data.masks_NHW[rows],
        np.concatenate([labels[shown], nothing]),
        np.concatenate([training.predict(split.train[shown]), test_predictions[tested]]),
        data.class_names,
        [f"train {data.image_ids[r]}" for r in split.train[shown]]
        + [f"test {data.image_ids[r]}" for r in split.test[tested]],
    )


def leave(
    folder: Path, training: Training, test_predictions: np.ndarray, scores: Sequence[CaseScore], metric: str
) -> None:
    """Of the metric's best, median and worst test case, as they were judged, and of training images."""
    values = gallery.case_values(scores, metric)
    chosen = gallery.choose(values, greater_is_better=METRICS[metric])
    tested = [_tested(training, test_predictions, role, case) for role, case in chosen.items()]
    gallery.write(folder / gallery.GALLERY, [*tested, *_taught(training)])


def _tested(training: Training, test_predictions: np.ndarray, role: str, case: str) -> Picture:
    data, test = training.dataset, training.split.test
    own = np.flatnonzero([data.case_ids[row] == case for row in test])
    truths, _ = data.truths(test[own])
    predictions = [
        resize_ids(test_predictions[place], truth_HW.shape)
        for place, truth_HW in zip(own, truths, strict=True)
    ]
    shown = gallery.shown_slice(truths, predictions)
    row = int(test[own[shown]])
    slices = sum(data.volume_ids[other] == data.volume_ids[row] for other in test[own])
    return _picture(training, role, row, truths[shown], predictions[shown], None, slices)


def _taught(training: Training) -> list[Picture]:
    """Training images with a labelled structure, else with a labelled pixel, else any."""
    data, train = training.dataset, training.split.train
    labels_NHW = weak_labels(training.trial, data).labels_NHW
    places = _worth_showing(labels_NHW)
    shown = np.unique(places[(2 * np.arange(TAUGHT) + 1) * len(places) // (2 * TAUGHT)])
    pairs = zip(shown, training.predict(train[shown]), strict=True)
    return [
        _picture(training, gallery.TRAIN, row, data.masks_NHW[row], prediction_HW, labels_NHW[place], 1)
        for place, prediction_HW in pairs
        for row in [int(train[place])]
    ]


def _worth_showing(labels_NHW: np.ndarray) -> np.ndarray:
    flat = labels_NHW.reshape(len(labels_NHW), -1)
    labelled = flat != UNLABELLED
    for shown in ((labelled & (flat > 0)).any(1), labelled.any(1)):
        if shown.any():
            return np.flatnonzero(shown)
    return np.arange(len(flat))


def _picture(
    training: Training,
    role: str,
    row: int,
    truth_HW: np.ndarray,
    prediction_HW: np.ndarray,
    labels_HW: np.ndarray | None,
    slices: int,
) -> Picture:
    data = training.dataset
    image = Image.fromarray(np.asarray(data.images_NHW[row]))
    image.thumbnail((LONGEST_IMAGE, LONGEST_IMAGE), Image.Resampling.BOX)
    size = _within(truth_HW.shape, LONGEST_MASK)
    return Picture(
        role=role,
        case_id=data.case_ids[row],
        image_id=data.image_ids[row],
        slice_index=int(data.slice_index[row]),
        slices=slices,
        judged=truth_HW.shape,
        image_HW=np.asarray(image),
        truth_HW=resize_ids(np.asarray(truth_HW), size),
        prediction_HW=resize_ids(prediction_HW, size),
        labels_HW=labels_HW,
    )


def _within(shape: tuple[int, int], longest: int) -> tuple[int, int]:
    scale = min(1.0, longest / max(shape))
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))
