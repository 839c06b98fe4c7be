"""What a second decoder, teachers of nine noisy passes or one, and a mean field add to a training step."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

from tests.benchmarks.measure import DEVICES, Note, interleaved, stepper
from tests.tiny import a_batch, mapped, plain_methods

METHODS = {
    "dual_branch_pseudo_labels": "<= 2",  # a decoder more, and it is the larger half of a U-Net's work
    "uncertainty_self_ensembling": "<= 4.5",  # nine forward passes, each about a third of a step
    "scribble_to_label": "<= 1.5",  # one forward pass
    "crf_refinement": "<= 2.5",  # one forward pass, and five updates of the mean field
}

pytestmark = pytest.mark.timeout(900)


@pytest.mark.parametrize("device", DEVICES)
def test_step_over_partial_cross_entropy_step(benchmark: Any, ratio: Note, device: str) -> None:
    """The optimiser, equal in all, is left out."""
    torch.set_num_threads(1)
    with plain_methods() as load:
        torch.manual_seed(0)
        net = importlib.import_module("trainables.networks").build("unet", {}, 4).to(device)
        batch = mapped(a_batch(num_images=4, size=96), lambda t: t.to(device))
        steps = [stepper(load(name)(), net, batch) for name in ("partial_cross_entropy", *METHODS)]
        plain, *others = interleaved(steps, 5, device)
        benchmark.pedantic(steps[0], rounds=1)
    for (name, goal), seconds in zip(METHODS.items(), others, strict=True):
        what = f"step of {name} over partial_cross_entropy (unet, 4x96x96, {device}, 1 thread)"
        ratio(what, seconds / plain, goal if device == "cpu" else "no goal")
