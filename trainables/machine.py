"""Where a trial runs: device, its share of it, and the versions of what computes. For the ledger."""

from __future__ import annotations

import functools
import platform
from importlib import metadata
from typing import Any

import torch

from trainables.trial import NUMERICS

CPU = "cpu"
DISTRIBUTION = "weak-supervision-study"
_NAMED = ("numpy", "torch", "timm", "segmentation-models-pytorch", "albumentations", "ray", "optuna")


def facts(*, gpus: float, threads: int) -> dict[str, Any]:
    """What a later reader needs to count a trial's cost and to repeat it.

    `gpus` is the share of a GPU that the trial was given; with 0, or where there is none, it runs on
    `threads` CPU threads.
    """
    on_gpu = bool(gpus) and torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if on_gpu else CPU,
        "gpus": gpus if on_gpu else 0.0,
        "threads": threads,
        "versions": versions(),
    }


@functools.cache
def versions() -> dict[str, str]:
    """The project's own version where it is installed, Python's, and those of the libraries that compute."""
    found = {"python": platform.python_version(), "numerics": str(NUMERICS)}
    for name in (DISTRIBUTION, *_NAMED):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # run from a source tree: the project itself has no version there
    return found
