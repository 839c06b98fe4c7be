"""Which temperature should the contrastive variance have? (methods.md section 6, study 9)"""

from __future__ import annotations

from study import click_arms
from study.spec import Study

TEMPERATURES = (0.03, 0.05, 0.07, 0.09, 0.1, 0.15, 0.2)
"""The levels of the paper's figure."""
PUBLISHED = 0.07


def define() -> Study:
    """Each temperature at the method's default weight."""
    levels = {
        t: click_arms.arm("PSCV", suffix=f", temperature {t:g}", contrastive_temperature=t)
        for t in TEMPERATURES
    }
    return click_arms.on_phantoms(
        "ablation_cv_temperature",
        "Which temperature should the contrastive variance compare with?",
        tuple(levels.values()),
        tuple((arm.name, levels[PUBLISHED].name) for t, arm in levels.items() if t != PUBLISHED),
    )
