"""What trials take of a GPU: memory, time, and how fast several are side by side. Really trained.

Knows no Ray: `study.ray_probe` has one `Probe` in each of as many processes as trials are tried side by side.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol, runtime_checkable

import torch

from trainables import failures, inference
from trainables.data.dataset import open_dataset
from trainables.failures import NotFiniteError
from trainables.loop import Training
from trainables.trial import Trial

LENGTH = 1_000_000
"""Iterations of a training that is tried out: more than the probe will ever take."""

STEPS = 4
"""Steps at the beginning, in the middle and at the end of that: some methods begin a term late."""


@runtime_checkable
class Counter(Protocol):
    """What a device says of itself."""

    @property
    def device(self) -> torch.device | None:
        """None where there is none."""

    def restart(self) -> None:
        """What is free is given back; the peak counts from now on."""

    def peak_bytes(self) -> int:
        """The most that this process's tensors, and the allocator's reserve for them, have taken."""

    def outside_bytes(self) -> int:
        """What is taken besides: the process's context, and other processes."""

    def total_bytes(self) -> int:
        """All memory of the device."""

    def name(self) -> str:
        """As its maker calls it."""

    def busy(self) -> float | None:
        """Share of the last moments in which it computed; None where the driver does not tell."""


class CudaCounter:
    """The GPU that this process was given."""

    @property
    def device(self) -> torch.device | None:
        return torch.device("cuda") if torch.cuda.is_available() else None

    def restart(self) -> None:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

    def peak_bytes(self) -> int:
        return torch.cuda.max_memory_reserved()

    def outside_bytes(self) -> int:
        free, total = torch.cuda.mem_get_info()
        return total - free - torch.cuda.memory_reserved()

    def total_bytes(self) -> int:
        return torch.cuda.mem_get_info()[1]

    def name(self) -> str:
        return torch.cuda.get_device_name()

    def busy(self) -> float | None:
        # In some containers the driver's own library is missing: the decision does without.
        with contextlib.suppress(Exception):
            return torch.cuda.utilization() / 100
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What one trial took."""

    fits: bool
    """False: the GPU's memory was not enough."""
    peak_bytes: int
    outside_bytes: int
    total_bytes: int
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How fast a trial trained."""

    steps_per_second: float
    busy: float | None
    """Share of the time in which the GPU computed, for whomever."""


class Probe:
    """One process's trial on a GPU."""

    def __init__(self, cache: str, threads: int, counter: Counter | None = None) -> None:
        torch.set_num_threads(threads)
        self.cache = Path(cache)
        self.counter: Counter = CudaCounter() if counter is None else counter
        self.training: Training | None = None

    def has_gpu(self) -> bool:
        """Whether PyTorch can use the GPU that this process was given."""
        return self.counter.device is not None

    def load(self, raw: Mapping[str, Any]) -> Footprint:
        """Trains a trial (`Trial.to_dict`) at its beginning, middle and end, and validates a batch."""
        self.training = None
        gc.collect()
        self.counter.restart()
        fits = True
        try:
            self._exercise(self._training(Trial.from_dict(raw)))
        except Exception as error:
            if failures.classify(error) != failures.OUT_OF_MEMORY:
                raise
            fits, self.training = False, None
        total = self.counter.total_bytes()
        return Footprint(
            fits=fits,
            peak_bytes=self.counter.peak_bytes() if fits else total,
            outside_bytes=self.counter.outside_bytes(),
            total_bytes=total,
            name=self.counter.name(),
        )

    def _training(self, trial: Trial) -> Training:
        dataset = open_dataset(
            Path(trial.data.path),
            cache=self.cache,
            size=trial.data.size,
            merge_foreground=trial.data.merge_foreground,
        )
        protocol = dataclasses.replace(trial.protocol, iterations=LENGTH)
        device = self.counter.device
        assert device is not None
        self.training = Training(dataclasses.replace(trial, protocol=protocol), dataset, device)
        return self.training

    def _exercise(self, training: Training) -> None:
        for beginning in (0, LENGTH // 2, LENGTH - STEPS):
            training.iteration = beginning
            _advance(training)
        training.predict(training.split.val[: inference.BATCH])
        kept_by = training.trial.protocol.kept_by
        if kept_by is not None:
            training.keep({kept_by: 0.0})

    def train(self, seconds: float) -> Speed:
        """Steps of the loaded trial for so long; none where its memory was not enough."""
        training, steps, busy = self.training, 0, list[float]()
        if training is None:
            return Speed(steps_per_second=0.0, busy=None)
        training.iteration = LENGTH // 2
        began = time.perf_counter()
        while (elapsed := time.perf_counter() - began) < seconds:
            _advance(training)
            steps += STEPS
            told = self.counter.busy()
            if told is not None:
                busy.append(told)
        return Speed(steps_per_second=steps / elapsed, busy=fmean(busy) if busy else None)


def _advance(training: Training) -> None:
    with contextlib.suppress(NotFiniteError):  # a trial that diverges takes no less
        training.advance(training.iteration + STEPS)
