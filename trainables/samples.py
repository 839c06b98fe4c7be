"""What a trial shows of itself at its end: training images with their clicks, and test images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trainables import pictures
from trainables.batches import weak_labels
from trainables.loop import Training


def draw(path: Path, training: Training, test_predictions: np.ndarray, count: int = 4) -> None:
    """Training images with their clicks, and test images, both with prediction and error."""
    data, split = training.dataset, training.split
    labels = weak_labels(training.trial, data).labels_NHW
    shown = np.unique(np.linspace(0, len(split.train) - 1, count).astype(int))
    tested = np.unique(np.linspace(0, len(split.test) - 1, count).astype(int))
    rows = np.concatenate([split.train[shown], split.test[tested]])
    nothing = np.full((len(tested), *data.shape), 255, np.uint8)
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
