"""What the contrastive variance adds to a training step on labelled pixels."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.benchmarks.test_size_gradient import DEVICES, Note, interleaved, stepper, trainables

__all__ = ["trainables"]

GOAL = {4: "<= 1.02", 9: "<= 1.07"}
"""By the number of classes."""

pytestmark = pytest.mark.timeout(900)


def clicked_images(batch_class: Any, num_classes: int, device: str) -> Any:
    """12 images of 256 x 256 with one labelled pixel of each class."""
    torch.manual_seed(0)
    labels_BHW = torch.full((12, 256, 256), 255)
    labels_BHW[:, 100, :num_classes] = torch.arange(num_classes)
    return batch_class(image_BCHW=torch.rand(12, 1, 256, 256).to(device), labels_BHW=labels_BHW.to(device))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("num_classes", GOAL)
def test_contrastive_step_over_partial_step(
    benchmark: Any,
    ratio: Note,
    trainables: Callable[[str], ModuleType],  # noqa: F811
    num_classes: int,
    device: str,
) -> None:
    """Both have the network and the cross-entropy of the clicks; the optimiser, equal in both, is left out."""
    method = trainables("methods.contrastive_variance").ContrastiveVariance
    net = trainables("networks").build("unet", {}, num_classes).to(device)
    batch = clicked_images(trainables("method").Batch, num_classes, device)
    methods = {
        "bare": method(contrastive_weight=0.0, total_variation_weight=0.0),
        "contrastive": method(total_variation_weight=0.0),
        "contrastive and total variation": method(),
    }
    steps = [stepper(each, net, batch) for each in methods.values()]
    bare, *others = interleaved(steps, 2 if device == "cpu" else 15, device)
    benchmark.pedantic(steps[1], rounds=1)
    for name, seconds in zip(list(methods)[1:], others, strict=True):
        what = f"{name} over partial cross-entropy step, K = {num_classes} (unet, 12x256x256, {device})"
        goal = GOAL[num_classes] if device == "cpu" else "no goal"
        ratio(what, seconds / bare, goal)
