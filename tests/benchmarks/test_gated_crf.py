"""What the gated CRF loss costs in time and memory, over unfolding every window, and of a training step."""

from __future__ import annotations

import importlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.reference.test_gated_crf import BILATERAL, unfolded
from tests.tiny import plain_methods

SHAPE = (12, 4, 256, 256)
RADIUS = 5
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
WHERE = f"({'x'.join(map(str, SHAPE))}, radius {RADIUS}"

pytestmark = pytest.mark.timeout(900)
Note = Callable[[str, float, str], None]

MEMORY = """
from pathlib import Path
import torch
from tests.benchmarks.test_gated_crf import RADIUS, SHAPE, a_problem, step
from tests.reference.test_gated_crf import BILATERAL, unfolded
from trainables.pairwise import gated_crf_loss

def kilobytes(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field)))

torch.set_num_threads(1)
step({loss}, *a_problem((1, 2, 8, 8)))
p, image = a_problem(SHAPE)
Path("/proc/self/clear_refs").write_text("5")  # the peak so far, that of the imports, is forgotten
before = kilobytes("VmRSS")
step({loss}, p, image)
print(kilobytes("VmHWM") - before)
"""


def a_problem(shape: tuple[int, int, int, int], device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Probabilities that want a gradient, and an image of one channel."""
    g = torch.Generator().manual_seed(0)
    p = torch.randn(shape, generator=g).softmax(1).to(device).requires_grad_()
    return p, torch.rand(shape[0], 1, *shape[2:], generator=g).to(device)


def step(loss: Callable[..., Tensor], p: Tensor, image: Tensor) -> Tensor:
    """Forward and backward: the gradient by p."""
    return torch.autograd.grad(loss(p, image, BILATERAL, RADIUS), p)[0]


@pytest.fixture
def trainables() -> Iterator[Callable[[str], ModuleType]]:
    """Modules as they are outside the tests, where no call has its annotations checked; one thread."""
    torch.set_num_threads(1)
    with plain_methods():
        yield lambda name: importlib.import_module(f"trainables.{name}")


def interleaved(functions: list[Callable[[], Any]], device: str, rounds: int) -> list[float]:
    """Median seconds of each one; called in turn, so that other load on the machine meets all of them.

    On a CPU those that this process was given: with its one thread, those that it would have waited alone.
    """
    clock = time.perf_counter if device == "cuda" else time.process_time
    seconds: list[list[float]] = [[] for _ in functions]
    for turn in range(rounds + 1):
        for function, taken in zip(functions, seconds, strict=True):
            started = clock()
            function()
            if device == "cuda":
                torch.cuda.synchronize()
            if turn:  # the first warms up
                taken.append(clock() - started)
    return [statistics.median(taken) for taken in seconds]


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
        [lambda f=f: step(f, p, image) for f in (pairwise.gated_crf_loss, unfolded)], device, rounds=3
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

    ours, network = interleaved([lambda: step(pairwise.gated_crf_loss, p, image), train], device, rounds=3)
    benchmark.pedantic(step, (pairwise.gated_crf_loss, p, image), rounds=3)
    what = f"gated CRF over the network's step, timm_unet resnet18 {WHERE}"
    ratio(f"{what}, {device}, 1 thread)", ours / network, "<= 0.1" if device == "cpu" else "no goal")


def test_peak_memory_over_unfolded(benchmark: Any, ratio: Note) -> None:
    """Peak resident memory beyond what was there before the step, each in a fresh process."""

    def peak(loss: str) -> int:
        code = MEMORY.format(loss=loss)
        return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout)

    ours = benchmark.pedantic(peak, ("gated_crf_loss",), rounds=1)
    slow = peak("unfolded")
    ratio(f"gated CRF over unfolded windows, peak memory {WHERE}, CPU)", ours / slow, "<= 0.025")
    tensor = SHAPE[0] * SHAPE[1] * SHAPE[2] * SHAPE[3] * 4 / 1024
    ratio(f"gated CRF, peak memory over that of the probabilities {WHERE}, CPU)", ours / tensor, "<= 5")
