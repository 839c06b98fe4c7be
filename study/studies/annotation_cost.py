"""Which labels and which method for the same annotator's time? (methods.md section 6, study 29)"""

from __future__ import annotations

from study import click_arms
from study.spec import Arm, Study
from trainables.annotations import Annotation

SECONDS = 10.0
"""A training image: about one click a class, a scribble on every other image, or a mask on every 24th."""
LESS, MORE = 2.5, 40.0
CLICKS_OF_MORE = 4
"""A class: what spends MORE; with one click a class the time would not be used."""
FOLLOWED = ("pCE", "gated CRF", "PSCV")
"""The methods that are shown at all three budgets, and with scribbles."""


def _clicks(seconds: float) -> Annotation:
    budget = CLICKS_OF_MORE if seconds == MORE else 1
    return Annotation(pixels="points", pixel_budget=budget, seconds_per_image=seconds)


def _scribbles(seconds: float) -> Annotation:
    return Annotation(pixels="scribble", seconds_per_image=seconds)


def _others(seconds: float) -> tuple[Arm, ...]:
    suffix = f", {seconds:g} s"
    masks = click_arms.full(f"masks{suffix}", seconds_per_image=seconds)
    return (
        *(click_arms.arm(name, _scribbles(seconds), suffix=f", scribbles{suffix}") for name in FOLLOWED),
        *((masks,) if seconds >= SECONDS else ()),  # LESS pays for so few that a class may be in none of them
    )


def define() -> Study:
    """Every method with clicks at one budget; three of them, and scribbles, at less and at more as well."""
    equal = (*click_arms.weak(_clicks(SECONDS), suffix=f", {SECONDS:g} s"), *_others(SECONDS))
    less, more = (
        (*(click_arms.arm(name, _clicks(s), suffix=f", {s:g} s") for name in FOLLOWED), *_others(s))
        for s in (LESS, MORE)
    )
    pairs = (
        *click_arms.against_baselines(equal),
        *((arm.name, row[0].name) for row in (less, more) for arm in row[1:]),
    )
    return click_arms.on_phantoms(
        "annotation_cost",
        "For the same annotator's time: clicks, scribbles or masks, and which method?",
        (*equal, *less, *more),
        pairs,
    )
