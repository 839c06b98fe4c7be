"""One arm of a study: what is proposed, selected and confirmed next. Decides; writes nothing down."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from study.late_store import LateStore
from study.plan import trial_of
from study.proposals import Attempt, Proposer
from study.results import TrialRow
from study.schedule import rung_iterations
from study.spec import Arm, Study, base_point, protocol_of, search_trials
from trainables.trial import DataSource, Trial


@dataclass(slots=True)
class Job:
    """One training that the engine is asked to run; `arm` is spec.PRETRAINING where arms share it."""

    arm: str
    phase: str
    number: int
    trial: Trial
    row: TrialRow
    host: str = ""
    """Where it runs, as `memory` and `gpu_memory` (bytes) known from its last report."""
    memory: int = 0
    gpu_memory: int = 0

    @property
    def id(self) -> tuple[str, str, int]:
        return self.arm, self.phase, self.number


def job_of(
    arm: str,
    phase: str,
    number: int,
    trial: Trial,
    *,
    parameters: Mapping[str, Any],
    annotation_seconds: float,
) -> Job:
    """A job with its row as it stands before the first report."""
    row = TrialRow(
        key=trial.key(), arm=arm, phase=phase, number=number, state="running", value=None,
        seed=trial.seed, fold=trial.fold, parameters=dict(parameters), iterations=0, seconds=0.0,
        annotation_seconds=annotation_seconds, started=time.time(), details={"trial": trial.to_dict()},
    )  # fmt: skip
    return Job(arm, phase, number, trial, row)


def _ended(row: TrialRow) -> Attempt:
    return Attempt(row.number, row.parameters, row.state, row.value)


class ArmBoard:
    """One arm: its search in the order of trial numbers, then its confirmation."""

    def __init__(
        self,
        study: Study,
        arm: Arm,
        store: LateStore,
        data: DataSource,
        annotation_seconds: float,
        known: Sequence[TrialRow] = (),
    ) -> None:
        """known: final rows of the search."""
        self.study, self.arm, self.store, self.data = study, arm, store, data
        self.annotation_seconds = annotation_seconds
        self.protocol = protocol_of(study, arm)
        self.rungs = frozenset(rung_iterations(self.protocol, study.search.rungs))
        self.base = base_point(study, arm)
        self.proposer = Proposer(study.name, arm, study.search, greater_is_better=study.greater_is_better)
        self.attempts = store.load({row.number: _ended(row) for row in known})
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
        return search_trials(self.study, self.arm)

    def searched(self) -> bool:
        return len(self.attempts) >= self.target and all(a.ended for a in self.attempts)

    def selected(self) -> Attempt | None:
        """The best trial at full length; the earliest of equals. None when every trial diverged or failed.

        An arm that searches nothing has its configuration selected from the start, without a value.
        """
        if not self.arm.search:
            return Attempt(0, self.base, "finished")
        sign = 1 if self.study.greater_is_better else -1
        full = [a for a in self.attempts if a.state == "finished" and a.value is not None]
        return max(full, key=lambda a: (sign * (a.value or 0.0), -a.number), default=None)

    def candidates(self) -> Iterator[Job]:
        """The jobs that may start now, the most wanted first, without writing anything yet."""
        for attempt in self.attempts:
            if not attempt.ended and ("search", attempt.number) not in self.handed_out:
                yield self.search_job(attempt)
        number = len(self.attempts)
        if number < self.target:
            waits_for = self.attempts[: max(0, number - self.study.search.lookahead + 1)]
            if all(a.ended for a in waits_for):
                parameters = self.proposer.propose(self.attempts, self.base)
                yield self.search_job(Attempt(number, parameters))
        elif self.searched():
            yield from self._confirmations()

    def search_trial(self, attempt: Attempt) -> Trial:
        return trial_of(
            self.study, self.arm, attempt.parameters, self.data,
            seed=self.study.search.seed, fold=self.study.data.fold, test=False,
        )  # fmt: skip

    def search_job(self, attempt: Attempt) -> Job:
        return self._job("search", attempt.number, self.search_trial(attempt), attempt.parameters)

    def _confirmations(self) -> Iterator[Job]:
        best = self.selected()
        if best is not None:
            for index in range(self.study.num_replicates):
                if index not in self.confirmed and ("confirm", index) not in self.handed_out:
                    yield self._replicate(best, index)

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
        return job_of(
            self.arm.name, phase, number, trial,
            parameters=parameters, annotation_seconds=self.annotation_seconds,
        )  # fmt: skip

    def finished(self) -> bool:
        """Nothing left to do, whether or not the arm can answer."""
        if not self.searched():
            return False
        return self.selected() is None or len(self.confirmed) >= self.study.num_replicates
