"""Arms of the studies of points and scribbles: every method on the same weak labels, as it was published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from study import arms
from study.spec import Arm, Data, Replicates, Study
from trainables.annotations import Annotation

POINT = Annotation(pixels="points", pixel_budget=1)
"""One click a class and image. Source: En and Guo 2022, section 4.1."""

SCRIBBLE = Annotation(pixels="scribble")

METHODS = {
    "pCE": "partial_cross_entropy",
    "EntMin": "entropy_minimisation",
    "total variation": "total_variation",
    "Mumford-Shah": "mumford_shah",
    "random walker": "random_walker",
    "dense CRF": "dense_crf",
    "CRF refinement": "crf_refinement",
    "gated CRF": "gated_crf",
    "Scribble2Label": "scribble_to_label",
    "USTM": "uncertainty_self_ensembling",
    "WSL4MIS": "dual_branch_pseudo_labels",
    "PSCV": "contrastive_variance",
}
"""The methods that learn from some labelled pixels, by their names in the literature's tables."""

ACDC_CONTRASTIVE_WEIGHT = 1e-3
"""Source: En and Guo 2022, section 4.1; 0.3, the method's default, is that of Synapse."""

LONGER = 3
"""How many times as long the sober baseline trains: heavy augmentation needs it (ours)."""

SOBER = f"pCE, heavy augmentation, {LONGER} x as long"
FULL = "full supervision"

SHORT = arms.short_protocol(600)
"""What organs of phantoms need to be told apart from clicks, at the size of `arms.SMALL_NETWORK`."""


def arm(name: str, annotation: Annotation = POINT, *, suffix: str = "", **settings: Any) -> Arm:
    """One of METHODS by its name there."""
    return Arm(name=f"{name}{suffix}", method=METHODS[name], annotation=annotation, settings=settings)


def sober(annotation: Annotation, suffix: str = "") -> Arm:
    """The baseline that papers leave out: labelled pixels alone, augmented heavily and trained longer."""
    return Arm(
        name=f"{SOBER}{suffix}",
        method="partial_cross_entropy",
        annotation=annotation,
        protocol={"augmentation": "heavy"},
        longer=LONGER,
    )


def full(name: str = FULL, **annotation: Any) -> Arm:
    """The ceiling: full masks, of as many images as `annotation` says."""
    return Arm(name=name, method="full_supervision", annotation=Annotation(pixels="dense", **annotation))


def weak(annotation: Annotation, suffix: str = "", **of_contrastive_variance: Any) -> tuple[Arm, ...]:
    """Every method of METHODS on the same labels, then the sober baseline."""
    settings = {"PSCV": of_contrastive_variance}
    every = (arm(name, annotation, suffix=suffix, **settings.get(name, {})) for name in METHODS)
    return (*every, sober(annotation, suffix))


def against_baselines(compared: Sequence[Arm]) -> tuple[tuple[str, str], ...]:
    """Each arm against plain partial cross-entropy, and each against the sober baseline."""
    names = [a.name for a in compared]
    plain = next(a.name for a in compared if a.method == METHODS["pCE"] and a.longer == 1)
    baseline = next(a.name for a in compared if a.longer > 1)
    return (
        *((name, plain) for name in names if name != plain),
        *((name, baseline) for name in names if name not in (plain, baseline)),
    )


def on_acdc(name: str, question: str, annotation: Annotation) -> Study:
    """The published protocol: five folds of WSL4MIS, 60000 steps; three seeds, where the papers have one."""
    compared = (*weak(annotation, contrastive_weight=ACDC_CONTRASTIVE_WEIGHT), full())
    return Study(
        name=name,
        question=question,
        arms=compared,
        pairs=(*against_baselines(compared), ("PSCV", "gated CRF"), ("PSCV", "Mumford-Shah")),
        data=Data(dataset="acdc"),
        replicates=Replicates(seeds=(1001, 1002, 1003), folds=(0, 1, 2, 3, 4)),
    )


def on_phantoms(
    name: str,
    question: str,
    compared: tuple[Arm, ...],
    pairs: tuple[tuple[str, str], ...],
    seeds: tuple[int, ...] = (1001, 1002, 1003),
    **further: Any,
) -> Study:
    """Organs of phantoms, so that the study runs anywhere at once; `--dataset` takes it to real data."""
    return Study(
        name=name,
        question=question,
        arms=compared,
        pairs=pairs,
        data=Data(dataset="phantoms-organs"),
        replicates=Replicates(seeds=seeds),
        network_settings=arms.SMALL_NETWORK,
        protocol=SHORT,
        **further,
    )
