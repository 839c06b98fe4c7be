"""What Prometheus is told of the trials that run: four numbers each. Knows no Ray.

The driver tells them, out of the reports that it gets anyway: no worker and no GPU does anything for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from study.arm_board import Job
from study.results import TrialRow

LOSS, METRIC = "study_trial_loss", "study_trial_metric"
SPEED, GPU_MEMORY = "study_trial_iterations_per_second", "study_trial_gpu_memory_bytes"
GAUGES = {
    LOSS: "Training loss at the trial's last report.",
    METRIC: "Validation metric that the study selects by, at the trial's last report.",
    SPEED: "Optimiser steps per second between the trial's last two reports, validation left out.",
    GPU_MEMORY: "GPU memory that the trial's process holds.",
}
"""Name and description. Ray exports each with "ray_" before it."""

LABELS = ("study", "arm", "phase", "trial")
"""No more than the plan of a study has: hosts and processes are Ray's own labels."""


class Gauge(Protocol):
    """As `ray.util.metrics.Gauge`."""

    def set(self, value: float, tags: dict[str, str]) -> None: ...


class Gauges:
    """The gauges of one study's running trials."""

    def __init__(self, study: str, metric: str, make: Callable[[str, str, tuple[str, ...]], Gauge]) -> None:
        """`make` takes name, description and labels."""
        self.study, self.metric = study, metric
        self._gauges = {name: make(name, description, LABELS) for name, description in GAUGES.items()}

    def tell(self, running: Iterable[Job]) -> None:
        """One update of every gauge for each trial that has reported; to be called every few seconds.

        Ray forgets what is not told again within two of its reports (20 s): so a line in Grafana has no gaps
        however rarely a trial reports, and ends where the trial does.
        """
        for job in running:
            for name, value in values(job.row, self.metric, job.gpu_memory).items():
                self._gauges[name].set(value, self._labels(job))

    def _labels(self, job: Job) -> dict[str, str]:
        labels = {"study": self.study, "arm": job.arm, "phase": job.phase, "trial": str(job.number)}
        # Ray takes no other letters (2.60); these keep two names apart.
        return {name: text.encode("ascii", "backslashreplace").decode() for name, text in labels.items()}


def values(row: TrialRow, metric: str, gpu_memory: int) -> dict[str, float]:
    """What is known of a running trial by gauge; nothing before its first report."""
    curve = row.curve
    if not curve:
        return {}
    last, before = curve[-1], curve[-2] if len(curve) > 1 else {}
    known = {LOSS: last.get("loss_total"), METRIC: last.get(metric), GPU_MEMORY: float(gpu_memory)}
    seconds = last.get("training_seconds", 0.0) - before.get("training_seconds", 0.0)
    if seconds > 0:
        known[SPEED] = (last["iteration"] - before.get("iteration", 0)) / seconds
    return {name: float(value) for name, value in known.items() if value is not None}
