"""What do Mumford-Shah and the contrastive variance add to the clicks? (methods.md section 6, study 11)"""

from __future__ import annotations

from study import click_arms
from study.spec import Study


def define() -> Study:
    """The paper's ablation: the clicks alone, with the Mumford-Shah loss, with the contrastive variance."""
    clicks, region, contrastive = (click_arms.arm(name) for name in ("pCE", "Mumford-Shah", "PSCV"))
    full = click_arms.full()
    return click_arms.on_phantoms(
        "ablation_loss_terms",
        "What do the Mumford-Shah loss and the contrastive variance add to one click a class?",
        (clicks, region, contrastive, full),
        (
            (region.name, clicks.name),
            (contrastive.name, clicks.name),
            (contrastive.name, region.name),
            (full.name, contrastive.name),
        ),
    )
