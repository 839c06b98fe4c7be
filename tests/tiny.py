"""A network of three convolutions, a batch of small images, and methods as they run outside the tests."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn

from trainables.method import IGNORE, AbstractMethod, Batch, Network, Output
from trainables.statistics import STATISTICS, summary_statistics


class TinyNetwork(Network):
    """Four feature channels, a bottleneck at half the resolution, any number of classes, no randomness."""

    def __init__(self, num_classes: int = 4, seed: int = 0) -> None:
        super().__init__()
        self.num_classes, self.feature_channels, self.bottleneck_channels = num_classes, 4, 4
        self.stage_channels = (4, 4)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder = nn.Conv2d(1, 4, 3, padding=1, stride=2)
            self.decoder = nn.Conv2d(1, 4, 3, padding=1)
            self.classifier = nn.Conv2d(8, num_classes, 1)

    def forward(self, image_BCHW: Tensor) -> Output:
        bottleneck = torch.tanh(self.encoder(image_BCHW))
        features = torch.tanh(self.decoder(image_BCHW))
        upsampled = nn.functional.interpolate(bottleneck, size=image_BCHW.shape[-2:], mode="nearest")
        logits = self.classifier(torch.cat([features, upsampled], 1))
        return Output(logits, features, bottleneck, (features, bottleneck))


def masks_of(num_images: int, num_classes: int, size: int, seed: int = 0) -> np.ndarray:
    """Class masks uint8 [N,H,W] of a rectangle per foreground class; image 0 lacks the last class."""
    rng = np.random.default_rng(seed)
    masks_NHW = np.zeros((num_images, size, size), np.uint8)
    for n in range(num_images):
        for k in range(1, num_classes - (n == 0)):
            row, column = rng.integers(size // 2, size=2)
            height, width = rng.integers(2, size // 2 + 1, size=2)
            masks_NHW[n, row : row + height, column : column + width] = k
    return masks_NHW


def a_batch(
    num_classes: int = 4,
    *,
    num_images: int = 4,
    size: int = 8,
    needs: frozenset[str] = frozenset({"pixels", "statistics"}),
    seed: int = 0,
) -> Batch:
    """Images in pairs of one volume. Labels are dense, or a fifth of the pixels; statistics all or none."""
    rng = np.random.default_rng(seed)
    masks_NHW = masks_of(num_images, num_classes, size, seed)
    images_NHW = rng.integers(256, size=masks_NHW.shape, dtype=np.uint8)
    images_NHW = (images_NHW // 4 + 32 * masks_NHW).astype(np.uint8)
    labels_NHW = masks_NHW.astype(np.int64)
    if "dense" not in needs:
        labels_NHW[rng.random(masks_NHW.shape) > 0.2] = IGNORE
    volume_N = np.arange(num_images) // 2
    statistics = summary_statistics(
        STATISTICS if "statistics" in needs else (),
        images_NHW=images_NHW,
        masks_NHW=masks_NHW,
        volume_ids=[str(v) for v in volume_N],
        spacing_mm=np.full((num_images, 3), 0.5),
        num_classes=num_classes,
    )
    return Batch(
        image_BCHW=torch.from_numpy(images_NHW[:, None].astype(np.float32) / 255),
        labels_BHW=torch.from_numpy(labels_NHW),
        statistics={name: torch.from_numpy(values) for name, values in statistics.items()},
        volume_B=torch.from_numpy(volume_N),
        pixel_mm_B=torch.full((num_images,), 0.5),
    )


def mapped(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    """The batch with every tensor changed."""
    assert batch.volume_B is not None
    return Batch(
        image_BCHW=change(batch.image_BCHW),
        labels_BHW=change(batch.labels_BHW),
        statistics={name: change(values) for name, values in batch.statistics.items()},
        volume_B=change(batch.volume_B),
    )


def without_labels(batch: Batch, images: slice = slice(None)) -> Batch:
    """The batch with nothing annotated in some of its images."""
    labels_BHW = batch.labels_BHW.clone()
    labels_BHW[images] = IGNORE
    return dataclasses.replace(batch, labels_BHW=labels_BHW)


_PLAIN_MODULES: dict[str, ModuleType] = {}


@contextlib.contextmanager
def plain_methods() -> Iterator[Callable[[str], type[AbstractMethod]]]:
    """`discovery.load` without the run-time check of annotations that pytest puts into `trainables`.

    TorchDynamo can not trace through that check, and outside the tests it is not there. The plain modules are
    kept from one use to the next, because TorchDynamo remembers a module by its name.
    """
    checked, finders = _trainables_modules(), list(sys.meta_path)
    sys.meta_path[:] = [f for f in finders if not type(f).__module__.startswith("jaxtyping")]
    _swap_modules(checked, _PLAIN_MODULES)
    try:
        yield importlib.import_module("trainables.discovery").load
    finally:
        _PLAIN_MODULES.update(_trainables_modules())
        _swap_modules(_PLAIN_MODULES, checked)
        sys.meta_path[:] = finders


def _trainables_modules() -> dict[str, ModuleType]:
    return {name: module for name, module in sys.modules.items() if name.split(".")[0] == "trainables"}


def _swap_modules(out: dict[str, ModuleType], into: dict[str, ModuleType]) -> None:
    for name in out:
        del sys.modules[name]
    sys.modules.update(into)
