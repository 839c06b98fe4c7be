"""What must stand beside the sizes, and by what is a network kept? (methods.md section 6, study 6)"""

from __future__ import annotations

from study import size_arms
from study.size_arms import MASKS
from study.spec import Study


def define() -> Study:
    """The sizes alone with each way of keeping weights, then with each further term."""
    base = size_arms.sizes_alone(MASKS, "sizes alone")
    kept = [
        size_arms.sizes_alone(MASKS, f"sizes alone, best {name} kept", keep=f"best_{metric}")
        for name, metric in (("size error", "size_error"), ("IoU", "iou"))
    ]
    beside = [
        size_arms.sizes_alone(MASKS, "sizes + foreground mass", mass_weight=0.01),
        size_arms.sizes_alone(MASKS, "sizes + edges", edge_weight=0.1),
        size_arms.sizes_alone(MASKS, "sizes + entropy", entropy_weight=0.1),
        *(size_arms.sizes_and_clicks(MASKS, budget) for budget in (1, 5)),
        size_arms.sizes_and_masks(MASKS, f"sizes + the {MASKS} masks"),
    ]
    control = size_arms.masks_only(MASKS)
    return size_arms.study(
        "ablation_size_objective",
        "Are object sizes enough to go on with, and what should stand beside them?",
        (base, *kept, *beside, control),
        (
            *((arm.name, base.name) for arm in (*kept, *beside)),
            (base.name, control.name),
            (beside[-1].name, control.name),
        ),
    )
