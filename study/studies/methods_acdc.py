"""Which method makes the most of one click a class, on ACDC? (methods.md section 6, study 13)"""

from __future__ import annotations

from study import click_arms
from study.spec import Study


def define() -> Study:
    """Thirteen weak arms and full supervision, by the published protocol: long; see the README."""
    return click_arms.on_acdc(
        "methods_acdc",
        "Which method makes the most of one click a class and image?",
        click_arms.POINT,
    )
