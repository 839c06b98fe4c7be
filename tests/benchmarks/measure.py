"""How benchmarks of losses measure: in turn, on one thread, without the network; memory in a new process."""

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

from tests.tiny import plain_methods

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
Note = Callable[[str, float, str], None]

_MEMORY = """
from pathlib import Path
import torch

def kilobytes(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field)))

torch.set_num_threads(1)
{before}
Path("/proc/self/clear_refs").write_text("5")  # the peak so far, that of the imports, is forgotten
resident = kilobytes("VmRSS")
{measured}
print(1024 * (kilobytes("VmHWM") - resident))
"""


def peak_bytes(before: str, measured: str) -> float:
    """Bytes that the statement `measured` takes at its peak, in a fresh process that ran `before`."""
    code = _MEMORY.format(before=before, measured=measured)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return float(done.stdout)


@pytest.fixture
def trainables() -> Iterator[Callable[[str], ModuleType]]:
    """Modules as they are outside the tests, where no call has its annotations checked; one thread."""
    torch.set_num_threads(1)
    with plain_methods():
        yield lambda name: importlib.import_module(f"trainables.{name}")


def interleaved(functions: list[Callable[[], Any]], rounds: int, device: str) -> list[float]:
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


def stepper(method: Any, net: Any, batch: Any) -> Callable[[], None]:
    """One training step without the optimiser, which is equal in all that are compared."""
    state = method.init(net).to(batch.image_BCHW.device)

    def step() -> None:
        net.zero_grad()
        method.losses(net, batch, state, 0.5)["total"].backward()
        method.after_step(net, state, 0.5)

    return step


class Fixed(torch.nn.Module):
    """A network of no cost: the logits that another one gave, as its parameters."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(output.logits_BKHW.detach().clone())
        self.num_classes = self.logits.shape[1]
        self.output = output

    def forward(self, image_BCHW: Tensor) -> Any:
        del image_BCHW
        return self.output._replace(logits_BKHW=self.logits)
