"""How many trials share a GPU, decided from what a probe measured. Pure: `study.ray_probe` measures.

A trial more on a GPU is worth it as long as its memory fits and all of them together train clearly faster.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from search_spaces import Int
from study.plan import pretrainings, trial_of
from study.spec import PRETRAINING, Arm, Study, base_point, search_trials
from trainables.trial import DataSource, Trial

HEADROOM = 0.1
"""Share of a GPU's memory that is left free: allocators fragment, and a probe sees a few batches only."""

GAIN = 0.1
"""By so much more trials at once must train faster in all, to be worth their memory."""

MOST = 16
"""Trials on one GPU that are tried at all."""

NO_MEMORY = "more would not fit its memory"
_GIB = 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One GPU, and what trials took of it."""

    gpu: str
    total_bytes: int
    context_bytes: int
    """What every process takes besides its tensors; what other programs hold counts here, too."""
    peaks: Mapping[str, int]
    """Most bytes of tensors of one trial, by arm."""
    busy: float | None
    """Share of the time in which one trial keeps the GPU computing; None where the driver does not tell."""
    speedups: Mapping[int, float]
    """How many times as fast as one trial alone so many are together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """What was chosen."""

    trials: int
    """On one GPU."""
    share: float
    """Of a GPU for each, as Ray counts: in whole ten-thousandths."""
    reason: str
    """A sentence."""


def fitting(peak_bytes: int, context_bytes: int, total_bytes: int) -> int:
    """Trials whose memory fits on a GPU beside the headroom; 0 when not even one does."""
    return int(total_bytes * (1 - HEADROOM)) // max(1, peak_bytes + context_bytes)


def counts(most: int) -> list[int]:
    """The numbers of trials at once that are tried: 1, 2, 4 ... and the most that may be."""
    powers = [2**i for i in range(max(1, most).bit_length())]
    return sorted({*(n for n in powers if n <= most), max(1, most)})


def decide(measured: Measured, *, cores: int, wanted: int) -> Sharing:
    """The trials that a GPU takes.

    Args:
        cores: trials for which there are CPUs, for each GPU.
        wanted: trials that a GPU would get if all that can run at once did.
    """
    arm = max(measured.peaks, key=lambda name: measured.peaks[name])
    memory = fitting(measured.peaks[arm], measured.context_bytes, measured.total_bytes)
    limits = {
        NO_MEMORY: max(1, memory),
        "there are no CPUs for more": max(1, cores),
        "the study never runs more at once": max(1, wanted),
        f"more than {MOST} are not tried": MOST,
    }
    why, most = min(limits.items(), key=lambda item: item[1])
    chosen = 1
    for count in counts(most)[1:]:
        if count not in measured.speedups:
            why = NO_MEMORY
            break
        if measured.speedups[count] < (1 + GAIN) * measured.speedups.get(chosen, 1.0):
            why = "more would not train faster in all"
            break
        chosen = count
    return Sharing(trials=chosen, share=share_of(chosen), reason=_sentence(measured, arm, chosen, why))


def share_of(trials: int) -> float:
    """1 / trials, rounded down to what Ray can count, so that as many really fit."""
    return math.floor(10_000 / trials) / 10_000


def _sentence(measured: Measured, arm: str, chosen: int, why: str) -> str:
    head = f"{chosen} trials share a GPU" if chosen > 1 else "A trial takes a whole GPU"
    busy = "" if measured.busy is None else f" and keeps it {100 * measured.busy:.0f} % busy"
    takes = (measured.peaks[arm] + measured.context_bytes) / _GIB
    tried = ", ".join(f"{n} together {s:.2g}" for n, s in sorted(measured.speedups.items()) if n > 1)
    speeds = f"; {tried} times as fast as one" if tried else ""
    return (
        f"{head} (--gpus-per-trial {share_of(chosen):g}), because {why}: one takes up to {takes:.1f} of "
        f"{measured.total_bytes / _GIB:.1f} GiB of {measured.gpu} (arm {arm!r}){busy}{speeds}."
    )


def samples(study: Study, data: DataSource) -> dict[str, Trial]:
    """One trial of each arm and one pre-training, at their heaviest, as far as their definition tells."""
    trials = {
        arm.name: trial_of(
            study, arm, _heaviest(study, arm), data, seed=study.search.seed, fold=study.data.fold, test=False
        )
        for arm in study.arms
    }
    first = next(iter(pretrainings(study, data).values()), None)
    return trials if first is None else {**trials, PRETRAINING: first}


def _heaviest(study: Study, arm: Arm) -> dict[str, int | float | str]:
    """Where an arm starts, with everything that is counted (samples, rounds) at its highest."""
    counted = {name: domain.high for name, domain in arm.search.items() if isinstance(domain, Int)}
    return {**base_point(study, arm), **counted}


def most_at_once(study: Study) -> int:
    """Trials of a study that can run at the same time on machines without limit."""
    return sum(
        max(study.search.lookahead if search_trials(study, arm) else 0, study.num_replicates)
        for arm in study.arms
    )
