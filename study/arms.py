"""Arms and settings that studies share: the statistic with k pixels, k pixels alone, full supervision."""

from __future__ import annotations

from typing import Any

from search_spaces import Float
from study.spec import Arm, space
from trainables.annotations import Annotation
from trainables.protocol import Protocol

LEARNING_RATE = Float(1e-3, 1e-2, log=True)
"""Around Adam's 3e-3 at these lengths; the WSL protocol's range is for SGD."""

SMALL_NETWORK = {"width": 8, "levels": 4}
"""The literature's U-Net at half its width and one level less: enough for 64 x 64 phantoms on a CPU."""


def short_protocol(iterations: int, reports: int = 6) -> Protocol:
    """Adam for a few hundred steps: a trial of half a minute on one core."""
    return Protocol(
        optimiser="adam", learning_rate=3e-3, iterations=iterations, batch_size=12, reports=reports
    )


def clicks(budget: int) -> dict[str, Any]:
    """`budget` pixels inside the target, wherever the annotator happened to click."""
    return {"pixels": "fg_points", "pixel_budget": budget, "placement": "uniform"} if budget else {}


def pixels(budget: int) -> str:
    return f"{budget} pixel" + ("" if budget == 1 else "s")


def statistic(name: str, budget: int, *, error: float = 0.0, **settings: Any) -> Arm:
    """The area that a doctor wrote down, with `budget` clicked pixels; `settings` are fixed, not searched."""
    searched = [n for n in ("statistic_weight", "confidence_weight") if n not in settings]
    return Arm(
        name=name,
        method="summary_statistics",
        annotation=Annotation(statistics=("area",), statistic_error=error, **clicks(budget)),
        settings=settings,
        search=space("summary_statistics", *searched, learning_rate=LEARNING_RATE),
    )


def pixels_only(budget: int) -> Arm:
    """The control: the clicked pixels without the statistic."""
    return Arm(
        name=f"{pixels(budget)} only",
        method="partial_cross_entropy",
        annotation=Annotation(**clicks(budget)),
        search=space("partial_cross_entropy", learning_rate=LEARNING_RATE),
    )


def full() -> Arm:
    """The ceiling: every pixel labelled."""
    return Arm(
        name="full supervision",
        method="full_supervision",
        annotation=Annotation(pixels="dense"),
        search=space("full_supervision", learning_rate=LEARNING_RATE),
    )
