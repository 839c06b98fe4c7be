"""How many sampled masks does a size gradient need? (methods.md section 6, study 4)"""

from __future__ import annotations

from study import size_arms
from study.size_arms import MASKS
from study.spec import Study

SAMPLES = (1, 2, 4, 8)


def define() -> Study:
    """n of the sizes alone, as published, and n beside the masks, from the same networks."""
    before = size_arms.before(MASKS)
    alone = {n: size_arms.sizes_alone(MASKS, f"sizes alone, n = {n}", samples=n) for n in SAMPLES}
    beside = {n: size_arms.sizes_and_masks(MASKS, f"sizes and masks, n = {n}", samples=n) for n in SAMPLES}
    return size_arms.study(
        "ablation_gradient_samples",
        "How many sampled masks does the gradient of an object's size need, and what does each cost?",
        (before, *alone.values(), *beside.values()),
        (
            *((alone[n].name, alone[1].name) for n in SAMPLES[1:]),
            *((beside[n].name, beside[1].name) for n in SAMPLES[1:]),
            *((arm.name, before.name) for arm in (alone[1], alone[8], beside[1], beside[8])),
        ),
    )
