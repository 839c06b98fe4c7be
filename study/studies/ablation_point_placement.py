"""Does it matter where the annotator clicks? (methods.md section 6, study 17)"""

from __future__ import annotations

from study import click_arms
from study.spec import Study
from trainables.annotations import PLACEMENTS, Annotation

COMPARED = ("pCE", "PSCV")


def define() -> Study:
    """One click a class in four places, for two methods and five annotators (the seed draws the clicks)."""
    by_method = {
        name: [
            click_arms.arm(
                name,
                Annotation(pixels="points", pixel_budget=1, placement=placement),
                suffix=f", {placement.replace('_', ' ')}",
            )
            for placement in PLACEMENTS
        ]
        for name in COMPARED
    }
    plain, contrastive = by_method.values()
    return click_arms.on_phantoms(
        "ablation_point_placement",
        "Does it matter where in a structure the annotator clicks?",
        (*plain, *contrastive),
        (
            *((arm.name, row[0].name) for row in (plain, contrastive) for arm in row[1:]),
            *((there.name, here.name) for here, there in zip(plain, contrastive, strict=True)),
        ),
        seeds=(1001, 1002, 1003, 1004, 1005),
    )
