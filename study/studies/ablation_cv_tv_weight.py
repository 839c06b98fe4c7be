"""How much should short outlines weigh beside the contrastive variance? (methods.md section 6, study 10)"""

from __future__ import annotations

from study import click_arms
from study.spec import Study

WEIGHTS = (0.0, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3)
PUBLISHED = 1e-5


def define() -> Study:
    """Each weight of the total variation; too large a one should make small organs vanish."""
    levels = {
        w: click_arms.arm("PSCV", suffix=f", outline weight {w:g}", total_variation_weight=w) for w in WEIGHTS
    }
    return click_arms.on_phantoms(
        "ablation_cv_tv_weight",
        "How heavily should short outlines weigh beside the contrastive variance?",
        tuple(levels.values()),
        tuple((arm.name, levels[PUBLISHED].name) for w, arm in levels.items() if w != PUBLISHED),
    )
