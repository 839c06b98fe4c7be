"""The real trainable, with a trace of its steps."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from torch import Tensor

from tests.ray.toy import orders_of, trace_folder
from trainables.trainable import StudyTrainable


class RecordedTrainable(StudyTrainable):
    """The file `steps` of a trial's folder has a line for every step that was trained: iteration, process.

    The order "sleep" is of every step.
    """

    def _open(self) -> dict[str, Any] | None:
        saved = super()._open()
        training = self.training
        assert training is not None
        step, seconds = training._step, orders_of(self.settings).get("sleep", 0.0)

        def recorded() -> dict[str, Tensor]:
            terms = step()
            with (trace_folder(self.settings) / "steps").open("a") as file:
                file.write(f"{training.iteration} {os.getpid()}\n")
            self.after(training.iteration)
            time.sleep(seconds)
            return terms

        training._step = recorded  # type: ignore[method-assign]
        return saved

    def after(self, iteration: int) -> None:
        """Nothing."""


class TermTrainable(RecordedTrainable):
    """Its process gets SIGTERM in the steps 5 and 200, once each."""

    def after(self, iteration: int) -> None:
        told = trace_folder(self.settings) / f"told {iteration}"
        if iteration in (5, 200) and not told.exists():
            told.touch()
            os.kill(os.getpid(), signal.SIGTERM)
