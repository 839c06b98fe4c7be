"""`status --watch`: a study that another process runs, drawn again and again until its driver ends."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable

from rich.console import Console
from rich.live import Live as Canvas

from search_spaces import UserError
from study import status, view
from study.home import StudyFolder
from study.view import Snapshot

EVERY, LINE_EVERY = 2.0, 20.0
"""Seconds between two looks: on a terminal, and where lines are written."""
SHORTEST = 0.1


def check(watch: bool, interval: float | None, format_: str) -> None:
    """Raises UserError for options that do not go together."""
    if watch and format_ != "table":
        raise UserError(f"--watch draws a table, but got --format {format_}; leave one of them out.")
    if interval is not None and not watch:
        raise UserError(f"--interval is of --watch, but got {interval:g} without it; add --watch.")
    if interval is not None and not (math.isfinite(interval) and interval >= SHORTEST):
        raise UserError(f"--interval must be {SHORTEST:g} seconds or more, but got {interval:g}.")


def every(interval: float | None, console: Console) -> float:
    """Seconds between two looks."""
    return interval or (EVERY if console.is_terminal else LINE_EVERY)


def watch(
    folder: StudyFolder, console: Console, interval: float, sleep: Callable[[float], object] = time.sleep
) -> None:
    """Draws until no driver runs, or Ctrl-C. Raises UserError for a damaged ledger or definition."""
    look = functools.partial(_look, folder)
    with contextlib.suppress(KeyboardInterrupt):
        if console.is_terminal:
            _draw(look, console, interval, sleep)
            return
        while (shot := look()).alive:
            console.print(view.line(shot), soft_wrap=True)
            sleep(interval)
        console.print(view.line(shot), soft_wrap=True)


def _draw(
    look: Callable[[], Snapshot], console: Console, interval: float, sleep: Callable[[float], object]
) -> None:
    """One picture that changes; the last one stays."""
    shot = look()
    try:
        with Canvas(view.picture(shot), console=console, auto_refresh=False, transient=True) as canvas:
            while shot.alive:
                sleep(interval)
                shot = look()
                canvas.update(view.picture(shot), refresh=True)
    finally:
        console.print(view.picture(shot))


def _look(folder: StudyFolder) -> Snapshot:
    study = folder.frozen()  # read again: `extend` may have given it more trials
    assert study is not None
    return status.snapshot(study, folder)
