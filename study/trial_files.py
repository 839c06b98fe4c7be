"""What trials left beside their rows; for MLflow as paths, of the files themselves or of copies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from study.results import TrialRow
from trainables.left import SAMPLES
from trainables.store import Store


def trial_folder(place: Store, key: str) -> Store:
    """Where a trial's checkpoint and pictures lie."""
    return place.child("trials", key)


@dataclass(frozen=True, slots=True)
class TrialFiles:
    """Files of a study's trials. Small, for it goes to another process.

    place: where the study's trials leave them; room: a folder for copies of what lies in no folder, there
    until the tracker is closed.
    """

    place: Store
    room: Path

    def artifacts(self, row: TrialRow) -> list[tuple[Path, str]]:
        """What a trial that has ended left beside its row."""
        return self.of(row.key, (SAMPLES, "samples"))

    def of(self, key: str, *wanted: tuple[str, str]) -> list[tuple[Path, str]]:
        """Those of a trial's files that are there, each as a path, and what MLflow calls its folder."""
        folder = trial_folder(self.place, key)
        found = [(_as_path(folder, name, self.room / key), where) for name, where in wanted]
        return [(path, where) for path, where in found if path is not None]


def _as_path(folder: Store, name: str, room: Path) -> Path | None:
    """The file itself, or a copy of it in `room`; None where there is none."""
    if folder.is_local:
        path = Path(folder.file(name))
        return path if path.exists() else None
    content = folder.read(name)
    if content is None:
        return None
    room.mkdir(parents=True, exist_ok=True)
    (room / name).write_bytes(content)
    return room / name
