"""What `study export` and `study predict` do; imported only when one of them is given."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from study import export as exporting
from study import predict as predicting
from study import registry
from study.home import Home
from trainables import exported
from trainables.data.rules import require_possible


def export(
    name: str,
    destination: Path,
    arm: str | None,
    replicate: int | None,
    formats: Sequence[str],
    registered: tuple[bool, str | None],
    home: str,
    tracking_uri: str | None,
    location: str | None,
    out: Console,
) -> int:
    """Writes the folder, registers it where that is asked (with a name or without), and says what it is.

    0, or 1 after Ctrl-C.
    """
    require_possible(destination)
    place = Home.at(home)
    try:
        done = exporting.export(
            place, name, destination, arm=arm, replicate=replicate, formats=formats, location=location
        )
    except KeyboardInterrupt:
        return _stopped()
    for line in exporting.sentences(done):
        out.print(Text(line), soft_wrap=True)
    if registered[0]:
        version = registry.register(done, place, registered[1], tracking_uri)
        out.print(Text(f"Registered as {version}."), soft_wrap=True)
    return 0


def _stopped() -> int:
    sys.stderr.write("Stopped. Nothing was written.\n")
    return 1


def predict(
    model: str,
    source: Path,
    target: Path,
    home: str,
    tracking_uri: str | None,
    out: Console,
    how: Mapping[str, Any],
) -> int:
    """Predicts and says what was written; 0, or 1 after Ctrl-C."""
    try:
        with registry.folder_of(model, home, tracking_uri) as folder:
            loaded = exported.read(folder)
            done = predicting.predict(loaded, source, target, **how)
    except KeyboardInterrupt:
        return _stopped()
    for line in predicting.sentences(done, target, loaded):
        out.print(Text(line), soft_wrap=True)
    return 0
