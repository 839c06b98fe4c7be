"""The board in the shapes that Ray Tune calls: a Searcher that proposes, a scheduler that stops."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from study.board import Board, Job
from study.engine import BoardError, payload_of
from study.losses import class_of
from trainables.stopping import read_note
from trainables.store import Store


class BoardSearcher(Searcher):
    """Gives Tune the board's jobs one by one and hears how they end."""

    def __init__(
        self, board: Board, config_of: Callable[[Job], dict[str, Any]], slots: Callable[[], int]
    ) -> None:
        super().__init__(metric="payload", mode="max")
        self.board, self.config_of, self.slots = board, config_of, slots
        self.jobs: dict[str, Job] = {}
        self.stopped: set[str] = set()
        self.messages: dict[str, str] = {}
        """What Ray said of trials whose process it lost."""
        self.safe: set[str] = set()
        """Trials that left a checkpoint since the driver was asked to stop."""
        self.last: dict[str, dict[str, Any]] = {}

    @contextlib.contextmanager
    def _asking_the_board(self) -> Iterator[None]:
        """An error of the board ends the run, as a signal does once every running trial is safe."""
        try:
            yield
        except Exception as error:
            raise BoardError(error) from error
        if self.board.stopping and self.jobs.keys() <= self.safe:
            raise KeyboardInterrupt

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        with self._asking_the_board():
            self.board.write_when_due()
            job = self.board.suggest() if len(self.jobs) < self.slots() else None
            if job is not None:
                self.jobs[trial_id] = job
                return self.config_of(job)
            return Searcher.FINISHED if self.board.finished() else None

    def heard(self, trial_id: str, result: dict[str, Any]) -> bool:
        """One report of a trial; False when it should stop."""
        with self._asking_the_board():
            payload = payload_of(result)
            self.last[trial_id] = payload
            goes_on = self.board.report(self.jobs[trial_id], payload)
            if self.board.stopping:
                self.safe.add(trial_id)  # a report is a checkpoint
        if not goes_on:
            self.stopped.add(trial_id)
        return goes_on

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Heard through the scheduler, which must answer at once; Tune calls both."""

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        job = self.jobs.pop(trial_id, None)
        if job is not None:
            with self._asking_the_board():
                self._end(trial_id, job, result, error)

    def _end(self, trial_id: str, job: Job, result: dict[str, Any] | None, error: bool) -> None:
        last = payload_of(result) if result and "payload" in result else self.last.get(trial_id)
        self.last.pop(trial_id, None)
        if trial_id in self.stopped:
            self.board.end(job, last or {}, "pruned", reason=f"stopped at iteration {job.row.iterations}")
        elif error:
            # Waits for a store that is away, too long for the trial: if it stays away, it ends the run.
            note = read_note(Store.at(self.config_of(job)["folder"]))
            message = self.messages.pop(trial_id, "")
            reached = note["iteration"] if note is not None else 0
            self.board.lost(job, class_of(message, note), iteration=reached, message=message)
        elif last is not None and last["state"] != "running":
            if self.board.report(job, last):
                self.board.end(job, last, last["state"])
            else:  # it was trained past a rung while nobody listened
                self.board.end(job, last, "pruned", reason=f"stopped at iteration {job.row.iterations}")
        # else: interrupted; it stays RUNNING and the same command continues it

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its searcher to restore it later, which never happens here."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the board is in the ledger and in Optuna's storage."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see `save`."""


class BoardScheduler(FIFOScheduler):
    """First come, first served; a trial goes on as long as the board says so."""

    def __init__(self, searcher: BoardSearcher) -> None:
        super().__init__()
        self.searcher = searcher

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return True

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """None, for Tune's own order: a choice is given the next process that comes free, and the one that
        still starts for it is killed, so that short trials would never have more than one."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        goes_on = self.searcher.heard(trial.trial_id, result)
        return TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Called before the searcher hears of it, which is told no reason."""
        if trial.error_file is not None:
            self.searcher.messages[trial.trial_id] = Path(trial.error_file).read_text()
