"""What a training is called where people look for it: Ray's dashboard, `top`, `nvidia-smi`."""

from __future__ import annotations

from collections.abc import Sequence


def title(job: Sequence[str | int], seed: int) -> str:
    """ "clicks · search 3 · seed 0"; `job` is arm, phase, number."""
    arm, phase, number = job
    return f"{arm} · {phase} {number} · seed {seed}"
