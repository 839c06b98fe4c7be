"""What the contrastive variance adds to a training step on labelled pixels."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.benchmarks.measure import DEVICES, Fixed, Note, interleaved, stepper, trainables

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
def test_contrastive_variance_over_bare_step(
    benchmark: Any, ratio: Note, trainables: Callable[[str], ModuleType], num_classes: int, device: str
) -> None:
    """The bare step is the network's with the cross-entropy of the clicks, forward and backward.

    Differences of steps drown in the step's own noise, so what is added is timed without the network:
    the losses of fixed logits, those with the term minus those without.
    """
    method = trainables("methods.contrastive_variance").ContrastiveVariance
    net = trainables("networks").build("unet", {}, num_classes).to(device)
    batch = clicked_images(trainables("method").Batch, num_classes, device)
    fixed = Fixed(net(batch.image_BCHW))
    plain = method(contrastive_weight=0.0, total_variation_weight=0.0)
    methods = {
        "contrastive variance": method(total_variation_weight=0.0),
        "contrastive variance and total variation": method(),
    }
    losses = [stepper(each, fixed, batch) for each in (plain, *methods.values())]
    rounds = 3 if device == "cpu" else 15
    bare, without, *with_term = interleaved([stepper(plain, net, batch), *losses], rounds, device)
    benchmark.pedantic(losses[1], rounds=1)
    for name, seconds in zip(methods, with_term, strict=True):
        what = f"1 + {name} over bare step, K = {num_classes} (unet, 12x256x256, {device}, 1 thread)"
        ratio(what, 1.0 + (seconds - without) / bare, GOAL[num_classes] if device == "cpu" else "no goal")
