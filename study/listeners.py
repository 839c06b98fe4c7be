"""What the board wrote down is passed on: to MLflow, and to the disk as pictures and freed checkpoints."""

from __future__ import annotations

import contextlib

from study.results import TrialRow
from study.tracking_process import TrackingProcess
from study.trial_files import TrialFiles, trial_folder
from trainables.failures import TIMEOUT
from trainables.gallery import GALLERY
from trainables.left import CHECKPOINT
from trainables.store import Store, StoreAwayError


class Listeners:
    """The board's listener.

    files: of the study's trials; own: the study's folder in the home, perhaps where they are too.
    """

    def __init__(self, tracker: TrackingProcess, files: TrialFiles, own: Store) -> None:
        self.tracker, self.files, self.own = tracker, files, own

    def trial_started(self, row: TrialRow) -> None:
        self.tracker.trial_started(row)

    def trial_reported(self, row: TrialRow) -> None:
        point = dict(row.curve[-1])
        self.tracker.trial_reported(row.key, int(point.pop("iteration")), point)

    def trial_ended(self, row: TrialRow) -> None:
        self.tracker.trial_ended(row, self.files.artifacts(row))
        if row.phase == "confirm":
            self._bring_home(row.key)
        # A search's row says all, and its best is trained anew on fresh seeds; of a pre-training the network
        # alone is needed. What ran out of time was not wrong, and may be looked at.
        if row.phase != "confirm" and row.failure != TIMEOUT:
            with contextlib.suppress(OSError, StoreAwayError):
                trial_folder(self.files.place, row.key).hasty().delete(CHECKPOINT)

    def _bring_home(self, key: str) -> None:
        """The report's pictures, where trials leave them elsewhere: its readers have the home alone."""
        theirs, own = trial_folder(self.files.place, key), trial_folder(self.own, key)
        if theirs.uri != own.uri:
            with contextlib.suppress(OSError, StoreAwayError):
                pictures = theirs.hasty().read(GALLERY)
                if pictures is not None:
                    own.write(GALLERY, pictures)
