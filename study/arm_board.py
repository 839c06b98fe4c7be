"""One arm of a study: what is proposed, selected and confirmed next. Decides; writes nothing down."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from study.plan import trial_of
from study.proposals import Attempt, Proposer
from study.results import TrialRow
from study.spec import Arm, Study, base_point
from study.storage import ArmStore
from trainables.trial import DataSource, Trial


@dataclass(slots=True)
class Job:
    """One training that the engine is asked to run."""

    arm: str
    phase: str
    number: int
    trial: Trial
    row: TrialRow

    @property
    def id(self) -> tuple[str, str, int]:
        return self.arm, self.phase, self.number


class ArmBoard:
    """One arm: its search in the order of trial numbers, then its confirmation."""

    def __init__(
        self, study: Study, arm: Arm, store: ArmStore, data: DataSource, annotation_seconds: float
    ) -> None:
        self.study, self.arm, self.store, self.data = study, arm, store, data
        self.annotation_seconds = annotation_seconds
        self.base = base_point(study, arm)
        self.proposer = Proposer(study.name, arm, study.search, greater_is_better=study.greater_is_better)
        self.attempts = store.load()
        self.confirmed: dict[int, TrialRow] = {}
        self.handed_out: set[tuple[str, int]] = set()
        self.rows: dict[int, TrialRow] = {}
        """Final rows of the search by number."""
        self.first_with: dict[str, int] = {}
        """The lowest number of each key that did not fail: the same configuration is never trained twice."""
        self.earlier: dict[str, TrialRow] = {}
        """Replicates by key that an earlier run trained, of whichever configuration was selected then."""

    @property
    def target(self) -> int:
        return self.study.search.trials if self.arm.search else 1

    def searched(self) -> bool:
        return len(self.attempts) >= self.target and all(a.ended for a in self.attempts)

    def selected(self) -> Attempt | None:
        """The best trial at full length; the earliest of equals. None when every trial diverged or failed."""
        sign = 1 if self.study.greater_is_better else -1
        full = [a for a in self.attempts if a.state == "finished" and a.value is not None]
        return max(full, key=lambda a: (sign * (a.value or 0.0), -a.number), default=None)

    def next(self) -> Job | None:
        """A job that may start now, without writing anything yet; None when there is none (for now)."""
        for attempt in self.attempts:
            if not attempt.ended and ("search", attempt.number) not in self.handed_out:
                return self.search_job(attempt)
        number = len(self.attempts)
        if number < self.target:
            waits_for = self.attempts[: max(0, number - self.study.search.lookahead + 1)]
            if not all(a.ended for a in waits_for):
                return None
            parameters = self.proposer.propose(self.attempts, self.base)
            return self.search_job(Attempt(number, parameters))
        return self._next_confirmation() if self.searched() else None

    def search_job(self, attempt: Attempt) -> Job:
        trial = trial_of(
            self.study, self.arm, attempt.parameters, self.data,
            seed=self.study.search.seed, fold=self.study.data.fold, test=False,
        )  # fmt: skip
        return self._job("search", attempt.number, trial, attempt.parameters)

    def _next_confirmation(self) -> Job | None:
        best = self.selected()
        if best is None:
            return None
        for index in range(self.study.num_replicates):
            if index not in self.confirmed and ("confirm", index) not in self.handed_out:
                return self._replicate(best, index)
        return None

    def _replicate(self, best: Attempt, index: int) -> Job:
        seed, fold = self.study.replicates.pairs()[index]
        trial = trial_of(self.study, self.arm, best.parameters, self.data, seed=seed, fold=fold, test=True)
        return self._job("confirm", index, trial, best.parameters)

    def adopt(self) -> None:
        """Takes over the replicates of the selected configuration that an earlier run trained.

        After `extend` another configuration may be selected: the replicates of the old one do not count.
        """
        best = self.selected() if self.earlier and self.searched() else None
        if best is not None:
            for index in range(self.study.num_replicates):
                row = self.earlier.get(self._replicate(best, index).row.key)
                if row is not None and row.number == index:
                    self.confirmed[index] = row

    def remember(self, key: str, number: int) -> None:
        """Notes whose result a repetition of this configuration will get."""
        first = self.rows.get(self.first_with.setdefault(key, number))
        if first is not None and first.state == "failed":
            self.first_with[key] = number

    def _job(self, phase: str, number: int, trial: Trial, parameters: Mapping[str, Any]) -> Job:
        row = TrialRow(
            key=trial.key(), arm=self.arm.name, phase=phase, number=number, state="running", value=None,
            seed=trial.seed, fold=trial.fold, parameters=dict(parameters), iterations=0, seconds=0.0,
            annotation_seconds=self.annotation_seconds, started=time.time(),
            details={"trial": trial.to_dict()},
        )  # fmt: skip
        return Job(self.arm.name, phase, number, trial, row)

    def finished(self) -> bool:
        """Nothing left to do, whether or not the arm can answer."""
        if not self.searched():
            return False
        return self.selected() is None or len(self.confirmed) >= self.study.num_replicates
