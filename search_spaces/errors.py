"""A user's mistake as a value: one sentence that names the rule, the value and the way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Shown as one sentence without a traceback; the command line ends with exit code 2."""


def nearest(name: str, known: Iterable[str]) -> str:
    """ " Did you mean 'x'?" for the closest known name, else the empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""
