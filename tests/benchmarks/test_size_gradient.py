"""What learning from sizes adds to a training step, and how samples pay in variance and time."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.benchmarks.measure import DEVICES, Fixed, Note, interleaved, stepper, trainables
from tests.reference.test_chebyshev import noisy_ellipses

__all__ = ["trainables"]

ROUNDS = {(48, 32): 11, (256, 256): 3}
"""Of interleaved steps by image shape; a step of the large ones takes seconds on a CPU."""
GOAL = {1: "<= 1.03", 8: "<= 1.08"}
GOAL_GPU = {1: "<= 1.15", 8: "<= 1.2"}

pytestmark = pytest.mark.timeout(900)


def ellipses(trainables: Callable[[str], ModuleType], shape: tuple[int, int], device: str) -> Any:
    """Batch of 16 noisy images of one ellipse each, all labelled and all sizes known."""
    masks_NHW = torch.from_numpy(noisy_ellipses(16, *shape, seed=0, flipped=0.0))
    size_N = trainables("flips").load("size")(masks_NHW).value_B.float()
    torch.manual_seed(0)
    image_NHW = 0.3 + 0.4 * masks_NHW + 0.2 * torch.randn(masks_NHW.shape)
    return trainables("method").Batch(
        image_BCHW=image_NHW.clamp(0, 1)[:, None].to(device),
        labels_BHW=masks_NHW.long().to(device),
        statistics={"size": torch.stack([size_N, size_N], 1).to(device)},
    )


def pretrained(trainables: Callable[[str], ModuleType], supervised: Any, device: str) -> Any:
    """Some steps, so that the drawn masks are ellipses with noise on them and not coin flips."""
    torch.manual_seed(0)
    net = trainables("networks").build("timm_unet", {"encoder": "resnet18"}, 2).to(device)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    step = stepper(supervised, net, ellipses(trainables, (64, 64), device))
    for _ in range(15):
        step()
        optimiser.step()
    return net


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", ROUNDS, ids=str)
def test_size_step_over_supervised_step(
    benchmark: Any, ratio: Note, trainables: Callable[[str], ModuleType], shape: tuple[int, int], device: str
) -> None:
    """What the sizes add on the logits of a network, over a whole step of that network: both have the
    cross-entropy of all pixels. The difference of whole steps, a hundredth, drowns in their noise.
    """
    method = trainables("methods.size_gradient").SizeGradient
    supervised = method(size_weight=0.0)
    net, batch = pretrained(trainables, supervised, device), ellipses(trainables, shape, device)
    fixed = Fixed(net(batch.image_BCHW))
    methods = [supervised, *(method(samples=n) for n in GOAL)]
    assert methods[-1].losses(net, batch, methods[-1].init(net), 0.5)["zero_gradient_share"] < 0.5
    steps = [stepper(supervised, net, batch), *(stepper(each, fixed, batch) for each in methods)]
    step, plain, *sized = interleaved(steps, ROUNDS[shape], device)
    benchmark.pedantic(steps[-1], rounds=1)
    for n, seconds in zip(GOAL, sized, strict=True):
        what = f"size-supervised over supervised step, n = {n} (timm_unet resnet18, 16x{shape[0]}x{shape[1]}"
        added = 1 + (seconds - plain) / step
        ratio(f"{what}, {device}, 1 thread)", added, GOAL[n] if device == "cpu" else GOAL_GPU[n])


@pytest.mark.parametrize("device", DEVICES)
def test_variance_times_time(
    benchmark: Any, ratio: Note, trainables: Callable[[str], ModuleType], device: str
) -> None:
    """Of the gradient in the logits, summed over the pixels; noisy ellipses that are to be 4 px larger."""
    expected_squared_error = trainables("sampled_gradient").expected_squared_error
    size = trainables("flips").load("size")
    masks = torch.from_numpy(noisy_ellipses(16, 32, 32, seed=0, flipped=0.0)).to(device)
    torch.manual_seed(0)
    logits = (torch.where(masks, 4.0, -4.0) + torch.randn(masks.shape, device=device)).requires_grad_()
    target = size(masks).value_B + 4.0

    def gradient(samples: int, sampling: str) -> Tensor:
        loss = expected_squared_error(logits, target, size, samples=samples, sampling=sampling).loss
        return torch.autograd.grad(loss, logits)[0]

    settings = [(n, "independent") for n in (1, 2, 4, 8)] + [(8, "antithetic"), (8, "systematic")]
    seconds = interleaved([lambda s=s: gradient(*s) for s in settings], 15, device)
    costs = []
    for each, taken in zip(settings, seconds, strict=True):
        variance = torch.stack([gradient(*each) for _ in range(150)]).var(0).sum().item()
        costs.append((variance, variance * taken))
    benchmark.pedantic(gradient, settings[3], rounds=5)
    for (n, sampling), (variance, cost) in zip(settings, costs, strict=True):
        what = f"{sampling} n = {n} over independent n = 8 (16x32x32, {device})"
        ratio(f"gradient variance, {what}", variance / costs[3][0], f"about {8 / n:g}")
        ratio(f"gradient variance x time, {what}", cost / costs[3][1], "no goal")
