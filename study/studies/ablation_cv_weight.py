"""How heavily should the contrastive variance weigh? (methods.md section 6, study 8)"""

from __future__ import annotations

from study import click_arms
from study.spec import Study

WEIGHTS = (1e-3, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
"""The levels of the paper's figure, and the weight that it gives for ACDC."""
PUBLISHED = 0.3


def define() -> Study:
    """Each weight at the published temperature, beside the Mumford-Shah loss that it shall improve upon."""
    levels = {w: click_arms.arm("PSCV", suffix=f", weight {w:g}", contrastive_weight=w) for w in WEIGHTS}
    reference = click_arms.arm("Mumford-Shah")
    return click_arms.on_phantoms(
        "ablation_cv_weight",
        "How heavily should the contrastive variance weigh beside the clicks?",
        (reference, *levels.values()),
        (
            *((arm.name, reference.name) for arm in levels.values()),
            *((arm.name, levels[PUBLISHED].name) for w, arm in levels.items() if w != PUBLISHED),
        ),
    )
