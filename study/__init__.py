"""A study is a frozen question; this floor turns it into trials and trials into an answer.

`study.load(NAME)` reads a study that was run as tables.
"""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from study.api import StoredStudy

__all__ = ["load"]


def load(name: str, home: str | PathLike[str] | None = None) -> StoredStudy:
    """A study that was run, as far as it has come at this moment.

    Reads its frozen definition and its ledger and nothing else: no server, no checkpoint, no data set is
    needed, and a study may be read while it runs.

    Args:
        name: of the study.
        home: folder of all studies; if not given, the environment's STUDY_HOME, or else `runs`.

    Raises:
        search_spaces.UserError: no such study was started in that home, or a file of it is damaged; the
            sentence says which and what to do.

    Example:
        pixels = study.load("ablation_pixels")
        pixels.answer().plot.barh(x="arm", y="mean")
    """
    from study import api  # here: whoever needs another module of this floor does not pay for pandas

    return api.load(name, home)
