"""What the gated CRF loss costs in time and memory, over unfolding every window, and of a training step."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.benchmarks.measure import DEVICES, Note, interleaved, peak_bytes, trainables
from tests.reference.test_gated_crf import BILATERAL, unfolded

__all__ = ["trainables"]

SHAPE = (12, 4, 256, 256)
RADIUS = 5
WHERE = f"({'x'.join(map(str, SHAPE))}, radius {RADIUS}"

pytestmark = pytest.mark.timeout(900)

BEFORE = """
from tests.benchmarks.test_gated_crf import SHAPE, a_problem, step
from tests.reference.test_gated_crf import unfolded
from trainables.pairwise import gated_crf_loss
p, image = a_problem(SHAPE)
"""


def a_problem(shape: tuple[int, int, int, int], device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Probabilities that want a gradient, and an image of one channel."""
    g = torch.Generator().manual_seed(0)
    p = torch.randn(shape, generator=g).softmax(1).to(device).requires_grad_()
    return p, torch.rand(shape[0], 1, *shape[2:], generator=g).to(device)


def step(loss: Callable[..., Tensor], p: Tensor, image: Tensor) -> Tensor:
    """Forward and backward: the gradient by p."""
    return torch.autograd.grad(loss(p, image, BILATERAL, RADIUS), p)[0]


@pytest.mark.parametrize("device", DEVICES)
def test_time_over_unfolded(
    benchmark: Any, ratio: Note, trainables: Callable[[str], ModuleType], device: str
) -> None:
    pairwise = trainables("pairwise")
    p, image = a_problem(SHAPE, device)
    difference = step(pairwise.gated_crf_loss, p, image) - step(unfolded, p, image)
    largest = step(unfolded, p, image).abs().max()
    assert float(difference.abs().max() / largest) < 1e-5  # float32, 120 additions
    ours, slow = interleaved(
        [lambda f=f: step(f, p, image) for f in (pairwise.gated_crf_loss, unfolded)], 3, device
    )
    benchmark.pedantic(step, (pairwise.gated_crf_loss, p, image), rounds=3)
    ratio(f"gated CRF over unfolded windows, time {WHERE}, {device}, 1 thread)", ours / slow, "<= 0.05")


@pytest.mark.parametrize("device", DEVICES)
def test_time_over_training_step(
    benchmark: Any, ratio: Note, trainables: Callable[[str], ModuleType], device: str
) -> None:
    """The step is forward and backward of the smallest network on offer, without the optimiser."""
    pairwise = trainables("pairwise")
    p, image = a_problem(SHAPE, device)
    torch.manual_seed(0)
    net = trainables("networks").build("timm_unet", {"encoder": "resnet18"}, SHAPE[1]).to(device)

    def train() -> None:
        net.zero_grad()
        net(image).logits_BKHW.square().mean().backward()

    ours, network = interleaved([lambda: step(pairwise.gated_crf_loss, p, image), train], 3, device)
    benchmark.pedantic(step, (pairwise.gated_crf_loss, p, image), rounds=3)
    what = f"gated CRF over the network's step, timm_unet resnet18 {WHERE}"
    ratio(f"{what}, {device}, 1 thread)", ours / network, "<= 0.1" if device == "cpu" else "no goal")


def test_peak_memory_over_unfolded(benchmark: Any, ratio: Note) -> None:
    """Peak resident memory beyond what was there before the step, each in a fresh process."""

    def peak(loss: str) -> float:
        return peak_bytes(BEFORE + f"step({loss}, *a_problem((1, 2, 8, 8)))", f"step({loss}, p, image)")

    ours = benchmark.pedantic(peak, ("gated_crf_loss",), rounds=1)
    slow = peak("unfolded")
    ratio(f"gated CRF over unfolded windows, peak memory {WHERE}, CPU)", ours / slow, "<= 0.025")
    tensor = SHAPE[0] * SHAPE[1] * SHAPE[2] * SHAPE[3] * 4
    ratio(f"gated CRF, peak memory over that of the probabilities {WHERE}, CPU)", ours / tensor, "<= 5")
