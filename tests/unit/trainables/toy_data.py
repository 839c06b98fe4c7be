"""A tiny data set on disk and trials on it, for the tests of the trial floor."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from trainables.annotations import Annotation
from trainables.data.dataset import Dataset, open_dataset
from trainables.data.parquet import Row, write_dataset
from trainables.protocol import Protocol
from trainables.trial import DataSource, Trial

CASES = 24
SLICES = (1, 2, 3)
"""Of one case, in turn: volumes of unequal length."""
SPLITS = {
    "train": [f"c{case:02d}" for case in range(12)],
    "val": [f"c{case:02d}" for case in range(12, 17)],
    "test": [f"c{case:02d}" for case in range(17, CASES)],
}
DENSE = Annotation(pixels="dense")
WEAK = Annotation(pixels="points", pixel_budget=2, statistics=("area", "centroid"))
NETWORK = {"width": 2, "levels": 2}


def rows(seed: int = 0) -> Iterator[Row]:
    """Noisy 16x16 images of a bright square and a dark bar, which some images lack."""
    rng = np.random.default_rng(seed)
    for case in range(CASES):
        for position in range(SLICES[case % len(SLICES)]):
            mask = np.zeros((16, 16), np.uint8)
            top, left = rng.integers(1, 7, 2)
            if case % 5:
                mask[top : top + 5, left : left + 6] = 1
            if case % 7:
                mask[13:15, left : left + 8] = 2
            image = np.array([90, 220, 20])[mask] + rng.normal(0, 8, mask.shape)
            scribble = np.where(rng.random(mask.shape) < 0.1, mask, 255)
            yield Row(
                case_id=f"c{case:02d}",
                slice_index=position,
                image=image.clip(0, 255).astype(np.uint8),
                mask=mask,
                scribble=scribble.astype(np.uint8),
                spacing_mm=(1.0, 1.0, 5.0),
            )


def write(path: Path) -> None:
    names = ("background", "square", "bar")
    write_dataset(path, rows(), name="Toy", class_names=names, splits=SPLITS)


def opened(folder: Path, size: tuple[int, int] | None = None) -> Dataset:
    """The data set `folder / "toy.parquet"` through the cache beside it; written at the first call."""
    path = folder / "toy.parquet"
    if not path.exists():
        write(path)
    return open_dataset(path, cache=folder / "cache", size=size)


def protocol(**changes: Any) -> Protocol:
    return Protocol(**{"iterations": 6, "batch_size": 4, "reports": 3, **changes})


def trial_on(dataset: Dataset, path: Path | str = "", **changes: Any) -> Trial:
    """A full supervision of a small U-Net, unless changed."""
    values: dict[str, Any] = {
        "method": "full_supervision",
        "annotation": DENSE,
        "network_settings": NETWORK,
        "protocol": protocol(),
        "data": DataSource(path=str(path), fingerprint=dataset.fingerprint),
    }
    return Trial(**{**values, **changes})


def only(dataset: Dataset, images: np.ndarray) -> Dataset:
    """The data set with the same images to train on, to select by and to test on."""
    fold = dataclasses.replace(dataset.folds[0], train=images, val=images, test=images)
    return dataclasses.replace(
        dataset, folds=(fold,), fold_names=("only",), fingerprint=f"{dataset.fingerprint} {images.tolist()}"
    )
