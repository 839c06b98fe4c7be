"""What does a filter of the image's edges hide? (methods.md section 6, study 18)"""

from __future__ import annotations

import dataclasses

from study import click_arms
from study.spec import Arm, Stage, Study

COLUMNS = 50
"""At each side, of 256. Source: En and Guo 2022, section 4.1: for every method on Synapse."""


def _scored(arm: Arm, columns: int) -> Arm:
    """The network of `arm`, trained once for both filters, as it is."""
    return dataclasses.replace(
        arm,
        name=f"{arm.name}, {f'{columns} columns' if columns else 'unfiltered'}",
        protocol={"iterations": 0, "edge_filter": columns},
        pretraining=Stage(method=arm.method, annotation=arm.annotation, settings=arm.settings),
    )


def define() -> Study:
    """Every method, scored with the filter and without: the same networks, so only the filter differs."""
    trained = (*(click_arms.arm(name) for name in click_arms.METHODS), click_arms.full())
    pairs = [(_scored(arm, COLUMNS), _scored(arm, 0)) for arm in trained]
    return click_arms.on_phantoms(
        "ablation_edge_filter",
        "What does calling the image's edges background hide, and for which method?",
        tuple(arm for pair in pairs for arm in pair),
        tuple((filtered.name, plain.name) for filtered, plain in pairs),
        metric="hd95",
        watch=("dice",),
        pretraining=click_arms.SHORT,
    )
