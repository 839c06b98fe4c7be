"""How much noise should a size gradient be sampled with? (methods.md section 6, study 7)"""

from __future__ import annotations

from study import size_arms
from study.size_arms import MASKS
from study.spec import Study

SCALES = (0.05, 0.1, 0.25, 0.5, 1.0)


def define() -> Study:
    """Each scale of the logistic noise, with the sizes alone and with the masks beside them."""
    before = size_arms.before(MASKS)
    alone = {z: size_arms.sizes_alone(MASKS, f"sizes alone, noise {z:g}", noise_scale=z) for z in SCALES}
    beside = {
        z: size_arms.sizes_and_masks(MASKS, f"sizes and masks, noise {z:g}", noise_scale=z) for z in SCALES
    }
    return size_arms.study(
        "ablation_noise_scale",
        "How much noise should the masks be drawn with whose sizes are compared?",
        (before, *alone.values(), *beside.values()),
        (
            *((alone[z].name, alone[1.0].name) for z in SCALES[:-1]),
            *((beside[z].name, beside[1.0].name) for z in SCALES[:-1]),
            (alone[1.0].name, before.name),
            (beside[1.0].name, before.name),
        ),
    )
