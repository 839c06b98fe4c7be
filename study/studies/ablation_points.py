"""How many clicks are enough, and what would scribbles or masks give? (methods.md section 6, study 16)"""

from __future__ import annotations

from study import click_arms
from study.spec import Study
from trainables.annotations import Annotation

BUDGETS = (1, 2, 5, 10, 20, 50)
COMPARED = ("pCE", "gated CRF", "PSCV")


def define() -> Study:
    """Nested clicks, then scribbles, then full masks, for three methods."""
    labels = {f"{k} a class": Annotation(pixels="points", pixel_budget=k) for k in BUDGETS}
    labels |= {"scribbles": click_arms.SCRIBBLE, "masks": Annotation(pixels="dense")}
    by_label = {
        label: [click_arms.arm(name, annotation, suffix=f", {label}") for name in COMPARED]
        for label, annotation in labels.items()
    }
    return click_arms.on_phantoms(
        "ablation_points",
        "How many clicks a class are enough, and for which method?",
        tuple(arm for row in by_label.values() for arm in row),
        tuple((other.name, row[0].name) for row in by_label.values() for other in row[1:]),
    )
