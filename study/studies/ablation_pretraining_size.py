"""From how many masks on do object sizes add nothing? (methods.md section 6, study 5)"""

from __future__ import annotations

from study import size_arms
from study.spec import Study

LEVELS = (20, 40, 85, 340, None)
"""Masks of the pre-training; None is one for every training image."""


def define() -> Study:
    """For each number of masks: as pre-trained, trained on, sizes alone (the paper), sizes and masks."""
    before, longer, alone, beside = ({}, {}, {}, {})
    for count in LEVELS:
        name = size_arms.masks(count)
        before[count], longer[count] = size_arms.before(count), size_arms.masks_only(count)
        alone[count] = size_arms.sizes_alone(count, f"{name}, then sizes alone", samples=1)
        beside[count] = size_arms.sizes_and_masks(count, f"{name}, then sizes and masks")
    return size_arms.study(
        "ablation_pretraining_size",
        "How many masks must be drawn before the sizes of all other objects add nothing?",
        tuple(arm[count] for count in LEVELS for arm in (before, longer, alone, beside)),
        (
            *((alone[count].name, before[count].name) for count in LEVELS),
            *((alone[count].name, longer[count].name) for count in LEVELS),
            *((beside[count].name, longer[count].name) for count in LEVELS),
        ),
    )
