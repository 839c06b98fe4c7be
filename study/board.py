"""What is planned, running and done in a study: the one place that decides what is trained next.

Knows no Ray: `suggest`, `report` and `end` are called by the adapters of `study.engine`, and by tests.
Order of writing: ledger, then Optuna, then MLflow. At start all three are brought to what the ledger says.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import optuna

from study.plan import trial_of
from study.proposals import Attempt, Proposer, survives
from study.results import CaseRow, Ledger, TrialRow
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


class Listener(Protocol):
    """Hears what happens, after it is in the ledger: MLflow, the terminal."""

    def trial_started(self, row: TrialRow) -> None: ...
    def trial_reported(self, row: TrialRow) -> None: ...
    def trial_ended(self, row: TrialRow) -> None: ...


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
        """The lowest number of each key: the same configuration is never trained twice."""

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
                return self._search_job(attempt)
        number = len(self.attempts)
        if number < self.target:
            waits_for = self.attempts[: max(0, number - self.study.search.lookahead + 1)]
            if not all(a.ended for a in waits_for):
                return None
            parameters = self.proposer.propose(self.attempts, self.base)
            return self._search_job(Attempt(number, parameters))
        return self._next_confirmation() if self.searched() else None

    def _search_job(self, attempt: Attempt) -> Job:
        trial = trial_of(
            self.study, self.arm, attempt.parameters, self.data,
            seed=self.study.search.seed, fold=self.study.data.fold, test=False,
        )  # fmt: skip
        return self._job("search", attempt.number, trial, attempt.parameters)

    def _next_confirmation(self) -> Job | None:
        best = self.selected()
        if best is None:
            return None
        for index, (seed, fold) in enumerate(self.study.replicates.pairs()):
            if index not in self.confirmed and ("confirm", index) not in self.handed_out:
                trial = trial_of(
                    self.study, self.arm, best.parameters, self.data, seed=seed, fold=fold, test=True
                )
                return self._job("confirm", index, trial, best.parameters)
        return None

    def _job(self, phase: str, number: int, trial: Trial, parameters: Mapping[str, Any]) -> Job:
        row = TrialRow(
            key=trial.key(), arm=self.arm.name, phase=phase, number=number, state="running", value=None,
            seed=trial.seed, fold=trial.fold, parameters=dict(parameters), iterations=0, seconds=0.0,
            annotation_seconds=self.annotation_seconds, started=time.time(),
        )  # fmt: skip
        return Job(self.arm.name, phase, number, trial, row)

    def finished(self) -> bool:
        """Nothing left to do, whether or not the arm can answer."""
        if not self.searched():
            return False
        return self.selected() is None or len(self.confirmed) >= self.study.num_replicates


class Board:
    """All arms of a study."""

    def __init__(
        self,
        study: Study,
        *,
        storage: optuna.storages.BaseStorage,
        ledger: Ledger,
        data: DataSource,
        class_names: Sequence[str],
        annotation_seconds: Mapping[str, float],
        listener: Listener,
    ) -> None:
        self.study, self.ledger, self.listener, self.class_names = study, ledger, listener, class_names
        self.rungs = frozenset(rung_iterations(study))
        self.arms = {
            arm.name: ArmBoard(
                study,
                arm,
                ArmStore(storage, f"{study.name}/{arm.name}", greater_is_better=study.greater_is_better),
                data,
                annotation_seconds[arm.name],
            )
            for arm in study.arms
        }
        self.running: dict[tuple[str, str, int], Job] = {}
        self.stopping = False
        self._reconcile(ledger.trials())

    def _reconcile(self, rows: list[TrialRow]) -> None:
        """Brings Optuna to the ledger: what ended there but was not told is told now."""
        final = [row for row in rows if row.is_final and row.arm in self.arms]
        for row in sorted((r for r in final if r.phase == "search"), key=lambda r: r.number):
            board = self.arms[row.arm]
            if row.number == len(board.attempts):  # the database was lost; the ledger was not
                self._add_attempt(board, Attempt(row.number, row.parameters), row.key)
            board.first_with.setdefault(row.key, row.number)
            board.rows[row.number] = row
            if not board.attempts[row.number].ended:
                self._conclude(board, row)
        for row in final:
            # A confirmation that failed is tried again by the same command.
            if row.phase == "confirm" and row.state != "failed" and self._belongs(self.arms[row.arm], row):
                self.arms[row.arm].confirmed[row.number] = row

    def _belongs(self, board: ArmBoard, row: TrialRow) -> bool:
        """After `extend` another configuration may be selected; only its own replicates count then."""
        best = board.selected()
        pairs = board.study.replicates.pairs()
        return (
            best is not None
            and board.searched()
            and best.parameters == row.parameters
            and row.number < len(pairs)
            and pairs[row.number] == (row.seed, row.fold)
        )

    def finished(self) -> bool:
        return all(board.finished() for board in self.arms.values())

    def suggest(self) -> Job | None:
        """The next job, written down as running; None when nothing may start now."""
        while not self.stopping:
            order = sorted(self.arms.values(), key=lambda b: len(b.attempts) + len(b.confirmed))
            jobs = (board.next() for board in order)
            job = next((j for j in jobs if j is not None and not self._waits_for_twin(j)), None)
            if job is None:
                return None
            self._write_down(job)
            if not self._known_already(job):
                return job
        return None

    def _twin(self, job: Job) -> int | None:
        """The number of an earlier search trial with the same key: it is, or will be, this one's result."""
        first = self.arms[job.arm].first_with.get(job.row.key, job.number)
        return first if job.phase == "search" and first < job.number else None

    def _waits_for_twin(self, job: Job) -> bool:
        twin = self._twin(job)
        return twin is not None and not self.arms[job.arm].attempts[twin].ended

    def _write_down(self, job: Job) -> None:
        board = self.arms[job.arm]
        board.handed_out.add((job.phase, job.number))
        if job.phase == "search":
            board.first_with.setdefault(job.row.key, job.number)
            if job.number == len(board.attempts):
                self._add_attempt(board, Attempt(job.number, job.row.parameters), job.row.key)

    def _add_attempt(self, board: ArmBoard, attempt: Attempt, key: str) -> None:
        board.store.add(attempt, board.proposer.distributions, key)
        board.attempts.append(attempt)

    def _known_already(self, job: Job) -> bool:
        """Gives a repeated configuration the result of its twin; one that failed is worth another try."""
        twin = self._twin(job)
        row = self.arms[job.arm].rows.get(twin) if twin is not None else None
        if row is not None and row.state != "failed":
            details = {**row.details, "same_as": row.number}
            self._end(job, dataclasses.replace(row, number=job.number, seconds=0.0, details=details), [])
            return True
        self.ledger.append(job.row)
        self.running[job.id] = job
        self.listener.trial_started(job.row)
        return False

    def report(self, job: Job, result: Mapping[str, Any]) -> bool:
        """Takes one result of a running job; False when its training should stop."""
        curve = result["curve"]
        if len(curve) > len(job.row.curve):
            job.row = _upto(job.row, curve, self.study.metric)
            self.listener.trial_reported(job.row)
        if job.phase == "confirm" or result["state"] in ("diverged", "failed"):
            return True
        return self._passes_rungs(job)

    def _passes_rungs(self, job: Job) -> bool:
        """Judges every rung that the curve has passed since the last look.

        After a kill a trial may be heard of again only beyond a rung; it then ends as it would have there.
        """
        board = self.arms[job.arm]
        attempt = board.attempts[job.number]
        for length, point in enumerate(job.row.curve, 1):
            iteration = int(point["iteration"])
            if iteration not in self.rungs:
                continue
            if iteration not in attempt.rungs:
                attempt.rungs[iteration] = point[self.study.metric]
                board.store.report(job.number, iteration, point[self.study.metric])
            if not survives(
                board.attempts, job.number, iteration, self.study.search, greater=self.study.greater_is_better
            ):
                job.row = _upto(job.row, job.row.curve[:length], self.study.metric)
                return False
        return True

    def end(self, job: Job, result: Mapping[str, Any], state: str, reason: str = "") -> None:
        """Writes down how a job ended: ledger, Optuna, then whoever listens."""
        details = {"host": result.get("host", ""), "trace": result.get("trace", "")}
        reason = reason or result.get("reason", "")
        row = dataclasses.replace(job.row, state=state, reason=reason, finished=time.time(), details=details)
        if state == "diverged":
            row = dataclasses.replace(row, value=None)
        cases = [self._case(job, raw) for raw in result.get("cases", [])] if state == "finished" else []
        self._end(job, row, cases)

    def _end(self, job: Job, row: TrialRow, cases: list[CaseRow]) -> None:
        board = self.arms[job.arm]
        self.ledger.append(row, cases)
        self.running.pop(job.id, None)
        if job.phase == "search":
            board.rows[row.number] = row
            self._conclude(board, row)
        else:
            board.confirmed[job.number] = row
        self.listener.trial_ended(row)

    def _conclude(self, board: ArmBoard, row: TrialRow) -> None:
        attempt = board.attempts[row.number]
        attempt.state, attempt.value = row.state, row.value
        for point in row.curve:
            if int(point["iteration"]) in self.rungs:
                attempt.rungs.setdefault(int(point["iteration"]), point[self.study.metric])
        board.store.tell(attempt)

    def _case(self, job: Job, raw: Mapping[str, Any]) -> CaseRow:
        row = job.row
        return CaseRow(
            key=row.key, arm=row.arm, phase=row.phase, replicate=row.number, seed=row.seed, fold=row.fold,
            split="test", class_name=self.class_names[raw["class_id"]], **raw,
        )  # fmt: skip


def _upto(row: TrialRow, curve: Sequence[dict[str, float]], metric: str) -> TrialRow:
    """The row as it stands at the last point of `curve`."""
    last = curve[-1]
    return dataclasses.replace(
        row, curve=list(curve), value=last[metric], iterations=int(last["iteration"]), seconds=last["seconds"]
    )


def rung_iterations(study: Study) -> tuple[int, ...]:
    """The report points nearest to the study's rungs; the end is no rung."""
    points = study.protocol.report_points()[:-1]
    wanted = [fraction * study.protocol.iterations for fraction in study.search.rungs]
    return tuple(sorted({min(points, key=lambda p: abs(p - w)) for w in wanted})) if points else ()
