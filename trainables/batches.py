"""Batches of a trial: which images at step t, what their annotation grants, augmented where the data lie."""

from __future__ import annotations

import warnings
from collections import OrderedDict

import numpy as np
import torch
from torch import Tensor

from trainables import discovery
from trainables.annotations import Annotation, WeakLabels, annotate
from trainables.data import augment
from trainables.data.dataset import Dataset
from trainables.data.heavy import HeavyAugmentation
from trainables.method import Batch
from trainables.seeds import stable_seed
from trainables.statistics import pixel_side_mm
from trainables.trial import Trial

RESIDENT_SHARE = 0.4
"""The data set is held on the GPU when it takes less than this share of the memory that is free."""


_KEPT: OrderedDict[tuple[str, int, Annotation, int], WeakLabels] = OrderedDict()
"""The last few weak labels: a worker trains many trials of one study that share images and clicks."""


def weak_labels(trial: Trial, dataset: Dataset) -> WeakLabels:
    """What the annotators of this trial wrote down about its training images, in the split's order."""
    key = (dataset.fingerprint, trial.fold, trial.annotation, trial.seed)
    if key not in _KEPT:
        _KEPT[key] = _annotate(trial, dataset)
        if len(_KEPT) > 8:
            _KEPT.popitem(last=False)
    return _KEPT[key]


def _annotate(trial: Trial, dataset: Dataset) -> WeakLabels:
    rows = dataset.folds[trial.fold].train
    return annotate(
        trial.annotation,
        images_NHW=dataset.images_NHW[rows],
        masks_NHW=dataset.masks_NHW[rows],
        scribbles_NHW=None if dataset.scribbles_NHW is None else dataset.scribbles_NHW[rows],
        image_ids=[dataset.image_ids[r] for r in rows],
        volume_ids=[dataset.volume_ids[r] for r in rows],
        spacing_mm=dataset.spacing_mm[rows],
        num_classes=dataset.num_classes,
        seed=trial.seed,
    )


def _as_tensor(array: np.ndarray) -> Tensor:
    """No copy: a memory-mapped array stays shared with every other trial of the node."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch warns of read-only memory; nobody writes here
        return torch.from_numpy(array)


def _sent(numbers: np.ndarray, device: torch.device) -> Tensor:
    """A few numbers on the device. A copy this small is taken before the call returns, waited for or not."""
    return torch.from_numpy(numbers).to(device, non_blocking=True)


class BatchSource:
    """Images, labels and statistics of one trial; `batch(t)` depends on (trial, t) alone."""

    def __init__(
        self, trial: Trial, dataset: Dataset, device: torch.device, layout: torch.memory_format
    ) -> None:
        self.trial, self.device, self.layout = trial, device, layout
        self.train_rows = dataset.folds[trial.fold].train
        labels = weak_labels(trial, dataset)
        self.labels = _as_tensor(labels.labels_NHW).to(device)
        self.statistics = {name: torch.from_numpy(v).to(device) for name, v in labels.statistics.items()}
        self.pixel_mm: Tensor | None = None
        if "size_mm" in labels.statistics:
            sides = pixel_side_mm(dataset.spacing_mm[self.train_rows])
            self.pixel_mm = torch.from_numpy(sides.astype(np.float32)).to(device)
        self.labelled = np.flatnonzero(labels.labelled_N)
        useful = discovery.load(trial.method).learns_from_unlabelled or not len(self.labelled)
        self.drawn = np.arange(len(self.train_rows)) if useful else self.labelled
        self.pixels = self._place(_as_tensor(dataset.images_NHW))
        self.tables = augment.symmetries(trial.protocol.augmentation, *dataset.shape).to(device)
        self.heavy: HeavyAugmentation | None = None
        if trial.protocol.augmentation == "heavy":
            points = trial.annotation.has_points
            self.heavy = HeavyAugmentation(*dataset.shape, points=points, device=device)
        self.volumes: list[np.ndarray] | None = None
        if "volume_area" in labels.statistics:
            names = np.array([dataset.volume_ids[r] for r in self.train_rows])
            self.volumes = [np.flatnonzero(names == name) for name in np.unique(names)]

    def _place(self, pixels: Tensor) -> Tensor:
        if self.device.type != "cuda":
            return pixels
        free, _ = torch.cuda.mem_get_info(self.device)
        return pixels.to(self.device) if pixels.nbytes < RESIDENT_SHARE * free else pixels

    def _send(self, pixels: Tensor) -> Tensor:
        """To the device; from page-locked memory, so that the host need not wait for the copy."""
        if pixels.device.type == self.device.type:
            return pixels
        return pixels.pin_memory().to(self.device, non_blocking=True)

    def images(self, rows: np.ndarray) -> Tensor:
        """Intensities [B,1,H,W] in [0, 1] of the data set's rows."""
        picked = self._send(self.pixels[_sent(rows, self.pixels.device)])
        return (picked[:, None].float() / 255).contiguous(memory_format=self.layout)

    def batch(self, iteration: int) -> Batch:
        """The training batch of step `iteration`, augmented."""
        size = self.trial.protocol.batch_size
        if self.volumes is None:
            positions, volume = self._images_of(iteration, size), None
        else:
            positions, volume = self._whole_volumes(iteration, size)
        choice = self._symmetries_of(iteration, len(positions))
        index = _sent(positions, self.device)
        image = augment.apply(self.images(self.train_rows[positions]), self.tables, choice)
        labels = augment.apply(self.labels[index], self.tables, choice)
        if self.heavy is not None:
            image, labels = self.heavy(image, labels, seed=stable_seed("heavy", self.trial.seed, iteration))
        statistics = {name: values[index] for name, values in self.statistics.items()}
        if "centroid" in statistics:
            statistics["centroid"] = augment.move_centroids(
                statistics["centroid"], self.tables, choice, image.shape[-1]
            )
        return Batch(
            image_BCHW=image.contiguous(memory_format=self.layout),
            labels_BHW=labels.long(),
            statistics=statistics,
            volume_B=None if volume is None else _sent(volume, self.device),
            pixel_mm_B=None if self.pixel_mm is None else self.pixel_mm[index],
        )

    def _images_of(self, iteration: int, size: int) -> np.ndarray:
        """First the images that have labelled pixels, as many as the protocol asks, then any."""
        first = self.trial.protocol.labelled_per_batch
        rest = size - first
        parts = []
        if first:
            chosen = self._draw(len(self.labelled), iteration * first, first, "order of labelled")
            parts.append(self.labelled[chosen])
        if rest:
            parts.append(self.drawn[self._draw(len(self.drawn), iteration * rest, rest)])
        return np.concatenate(parts)

    def _draw(self, population: int, start: int, count: int, stream: str = "order") -> np.ndarray:
        """Positions start .. start + count of an endless row of shuffled passes over the population."""
        passes = range(start // population, (start + count - 1) // population + 1)
        order = np.concatenate([self._shuffled(population, p, stream) for p in passes])
        offset = start - passes[0] * population
        return order[offset : offset + count]

    def _shuffled(self, population: int, turn: int, stream: str) -> np.ndarray:
        rng = np.random.default_rng(stable_seed(stream, self.trial.seed, turn))
        return rng.permutation(population)

    def _whole_volumes(self, iteration: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """About `size` images as whole volumes, and the volume of each within the batch."""
        assert self.volumes is not None
        typical = float(np.mean([len(v) for v in self.volumes]))
        count = max(1, round(size / typical))
        drawn = self._draw(len(self.volumes), iteration * count, count)
        parts = [self.volumes[v] for v in drawn]
        return np.concatenate(parts), np.repeat(np.arange(count), [len(p) for p in parts])

    def _symmetries_of(self, iteration: int, count: int) -> Tensor:
        rng = np.random.default_rng(stable_seed("augment", self.trial.seed, iteration))
        return _sent(rng.integers(len(self.tables), size=count), self.device)
