"""Which method makes the most of an expert's scribbles, on ACDC? (methods.md section 6, study 15)"""

from __future__ import annotations

from study import click_arms
from study.spec import Study


def define() -> Study:
    """The arms of `methods_acdc`, with scribbles for clicks: the fairness that point papers are asked for."""
    return click_arms.on_acdc(
        "methods_scribble",
        "Which method makes the most of a scribble a class and image?",
        click_arms.SCRIBBLE,
    )
