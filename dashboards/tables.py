"""Pure rows for the figures: what is plotted, with no knowledge of how. Tests look at these."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from study.conclusion import Answer
from study.spec import Arm
from trainables.metrics import METRICS

_METRICS = {
    "dice": "Dice",
    "iou": "IoU",
    "hd95": "HD95",
    "area_error": "area error",
    "size_error": "size error",
}
_UNITS = {"area_error": " [fraction of pixels]", "size_error": " [px²]"}


@dataclass(frozen=True, slots=True)
class ArmRow:
    """One arm of an interval plot; NaN where nothing was confirmed."""

    name: str
    mean: float
    low: float
    high: float
    cases: int
    replicates: str
    """Finished / planned."""


@dataclass(frozen=True, slots=True)
class BudgetRow:
    """One point of a curve: quality against the annotator's seconds for the training images."""

    family: str
    name: str
    seconds: float
    amount: str
    """What the annotator was asked for, where it is counted: "5 px" per class and image, "85 masks"."""
    mean: float
    low: float
    high: float


def arm_rows(answer: Answer) -> list[ArmRow]:
    """All arms in the study's order."""
    return [
        ArmRow(a.name, a.mean, a.low, a.high, a.cases, f"{a.replicates}/{a.planned}") for a in answer.arms
    ]


def budget_rows(answer: Answer, arms: Sequence[Arm]) -> list[BudgetRow]:
    """The confirmed arms by family, each in order of its annotation time.

    A family is what one line joins: the same supervision apart from its amount ("with statistics", "without
    statistics", "full masks"; after a pre-training what followed it), and the same method where one
    supervision has several.
    """
    families = _families(arms)
    rows = [
        BudgetRow(families[arm.name], arm.name, a.annotation_seconds, _amount(arm), a.mean, a.low, a.high)
        for arm, a in zip(arms, answer.arms, strict=True)
        if not (math.isnan(a.mean) or math.isnan(a.annotation_seconds))
    ]
    order = list(dict.fromkeys(families.values()))
    return sorted(rows, key=lambda row: (order.index(row.family), row.seconds))


def has_curve(rows: Sequence[BudgetRow]) -> bool:
    """Whether one family was asked for different annotation times, so that a line says something."""
    return any(
        len({row.seconds for row in rows if row.family == family}) > 1 for family in {r.family for r in rows}
    )


def metric_name(metric: str) -> str:
    """As the field writes it: "Dice", "IoU"."""
    return _METRICS[metric]


def quality_label(answer: Answer) -> str:
    """The metric with its unit and direction, for an axis."""
    name = metric_name(answer.metric) + _UNITS.get(answer.metric, "")
    if answer.metric == "hd95":
        name += f" [{next((a.hd95_unit for a in answer.arms if a.hd95_unit), 'mm')}]"
    return f"{name}, {'greater' if METRICS[answer.metric] else 'smaller'} is better"


def _families(arms: Sequence[Arm]) -> dict[str, str]:
    supervision = {arm.name: _supervision(arm) for arm in arms}
    methods: dict[str, set[str]] = {}
    for arm in arms:
        methods.setdefault(supervision[arm.name], set()).add(arm.method)
    return {
        arm.name: kind if len(methods[kind]) == 1 else f"{arm.method}, {kind}"
        for arm, kind in ((arm, supervision[arm.name]) for arm in arms)
    }


def _supervision(arm: Arm) -> str:
    if arm.pretraining is not None:
        return _after_pretraining(arm)
    if arm.annotation.pixels == "dense":
        return "full masks"
    return "with statistics" if arm.annotation.statistics else "without statistics"


def _after_pretraining(arm: Arm) -> str:
    masks, statistics = arm.annotation.pixels == "dense", bool(arm.annotation.statistics)
    if arm.protocol.get("iterations") == 0:
        return "as pre-trained"
    if masks:
        return "then statistics and masks" if statistics else "then the masks again"
    return "then statistics alone" if arm.annotation.pixels == "none" else "then statistics and clicks"


def _amount(arm: Arm) -> str:
    masks = arm.annotation if arm.pretraining is None else arm.pretraining.annotation
    if masks.pixels == "dense" and (masks.labelled_images is not None or arm.pretraining is not None):
        return "all masks" if masks.labelled_images is None else f"{masks.labelled_images} masks"
    return "" if arm.annotation.pixels in ("scribble", "dense") else f"{arm.annotation.pixel_budget} px"
