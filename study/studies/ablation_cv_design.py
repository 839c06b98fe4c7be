"""Which of the contrastive variance's open choices matter? (methods.md section 6, study 12)"""

from __future__ import annotations

import dataclasses

from study import click_arms
from study.spec import Study

CHOICES = {
    "negatives": ("with_same_image", "with_same_class"),
    "detach": ("centroid", "negatives"),
    "background": ("negative_only", "none"),
    "absent": ("include",),
}
"""What the paper does not do or does not say; the method's card explains each."""
BATCHES = (4, 8, 24)
"""A batch is the set that is contrasted; 12 is published. Smaller ones see fewer images in as many steps."""


def define() -> Study:
    """One change at a time, each against the method as it is published."""
    published = click_arms.arm("PSCV", suffix=", as published")
    variants = [
        dataclasses.replace(click_arms.arm("PSCV", suffix=f", {name} {option}"), settings={name: option})
        for name, options in CHOICES.items()
        for option in options
    ]
    variants += [
        dataclasses.replace(click_arms.arm("PSCV", suffix=f", batch of {b}"), protocol={"batch_size": b})
        for b in BATCHES
    ]
    return click_arms.on_phantoms(
        "ablation_cv_design",
        "Which of the choices that the paper leaves open matter to the contrastive variance?",
        (published, *variants),
        tuple((arm.name, published.name) for arm in variants),
    )
