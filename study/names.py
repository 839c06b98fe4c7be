"""What studies and arms may be called: a study's name is a folder's, and must lead nowhere else."""

from __future__ import annotations

import re

LONGEST = 100
RESERVED = ("cache", "datasets", "mlartifacts", "pretrained")
"""Folders of a home that belong to all studies."""
RULE = f"letters, digits, _ and -, {LONGEST} at most, and none of {', '.join(RESERVED)}"


def is_study(name: object) -> bool:
    """May a study be called so?"""
    good = isinstance(name, str) and re.fullmatch(rf"\w[\w-]{{0,{LONGEST - 1}}}", name) is not None
    return good and str(name).lower() not in RESERVED


def is_arm(name: object) -> bool:
    """May an arm be called so? It is shown and stored, and never a part of a path."""
    return isinstance(name, str) and 0 < len(name) <= LONGEST and name.isprintable()
