"""What is planned, running and done in a study: the one place that decides what is trained next.

Knows no Ray: `suggest`, `report` and `end` are called by the adapters of `study.engine`, and by tests.
Order of writing: ledger, then MLflow, and Optuna within a second (`study.late_store`). At start all three are
brought to what the ledger says.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import optuna

from search_spaces import UserError
from study.arm_board import ArmBoard, Job, job_of
from study.late_store import LateStore
from study.losses import Losses
from study.pretraining import Networks, PretrainingBoard
from study.proposals import Attempt, survives
from study.results import CaseRow, Ledger, TrialRow
from study.spec import PRETRAINING, Study
from study.storage import ArmStore
from trainables.failures import BUG
from trainables.trial import DataSource

__all__ = ["ArmBoard", "Board", "Job", "Listener"]


class Listener(Protocol):
    """Hears what happens, after it is in the ledger: MLflow, the terminal."""

    def trial_started(self, row: TrialRow) -> None: ...
    def trial_reported(self, row: TrialRow) -> None: ...
    def trial_ended(self, row: TrialRow) -> None: ...


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
        networks: Networks,
    ) -> None:
        self.study, self.ledger, self.listener, self.class_names = study, ledger, listener, class_names
        self.pretraining = PretrainingBoard(study, data, networks)
        rows = ledger.trials()
        self.arms = {
            arm.name: ArmBoard(
                study,
                arm,
                LateStore(
                    ArmStore(storage, f"{study.name}/{arm.name}", greater_is_better=study.greater_is_better)
                ),
                data,
                annotation_seconds[arm.name],
                [row for row in rows if row.arm == arm.name and row.phase == "search" and row.is_final],
            )
            for arm in study.arms
        }
        self.running: dict[tuple[str, str, int], Job] = {}
        self.losses = Losses()
        self._heard: dict[tuple[str, str, int], list[dict[str, float]]] = {}
        """By id, the curves of jobs that were taken back."""
        self.stopping = False
        self._reconcile(rows)

    def _reconcile(self, rows: list[TrialRow]) -> None:
        """Brings the arms and Optuna to the ledger, which is right wherever they differ."""
        for row in rows:
            # Its network is there, so it ended, though the driver died before it could hear of it.
            if row.phase == "pretrain" and not row.is_final and self.pretraining.networks.has(row.key):
                curve = self.pretraining.networks.result(row.key)["curve"]
                ended = dataclasses.replace(row, state="finished", finished=time.time())
                self.ledger.append(_upto(ended, curve, self.study.metric))
        for name, board in self.arms.items():
            own = [row for row in rows if row.arm == name]
            for row in sorted((r for r in own if r.phase == "search"), key=lambda r: r.number):
                if row.number > len(board.attempts):
                    break  # an earlier one is in neither memory: from there on they are proposed again
                self._recall(board, row)
            for attempt in board.attempts:
                if attempt.ended and attempt.number not in board.rows:  # its row is lost or in another home
                    attempt.state, attempt.value = "running", None
            # A confirmation that failed is tried again by the same command.
            done = [r for r in own if r.phase == "confirm" and r.is_final and r.state != "failed"]
            board.earlier = {row.key: row for row in done}
            board.adopt()
        self.write()

    def _recall(self, board: ArmBoard, row: TrialRow) -> None:
        if row.number == len(board.attempts):  # the database was lost; the ledger was not
            self._add_attempt(board, Attempt(row.number, row.parameters), row.key)
        attempt = board.attempts[row.number]
        if attempt.parameters != row.parameters or board.search_trial(attempt).key() != row.key:
            raise UserError(
                f"Trial {row.number} of arm {row.arm!r} must be the one that was started, but the data set, "
                "the program or Optuna's database has changed since; restore it, or use --fork NAME or "
                "another --home."
            )
        board.remember(row.key, row.number)
        if row.is_final:
            board.rows[row.number] = row
            self._conclude(board, row)

    def finished(self) -> bool:
        return all(board.finished() for board in self.arms.values())

    def write_when_due(self) -> None:
        """As `write`, at most once a second; to be called again and again."""
        for board in self.arms.values():
            board.store.write_when_due()

    def write(self) -> None:
        """Optuna's database says what the ledger says. Raises UserError when it is away for long."""
        for board in self.arms.values():
            board.store.write()

    def suggest(self) -> Job | None:
        """The next job, written down as running; None when nothing may start now."""
        while not self.stopping:
            order = sorted(self.arms.values(), key=lambda b: len(b.attempts) + len(b.confirmed))
            jobs = (self._startable(job) for board in order for job in board.candidates())
            job = next((job for job in jobs if job is not None), None)
            if job is None:
                return None
            if job.phase == "pretrain":
                return self._started(job)
            self._write_down(job)
            if not self._known_already(job) and not self._lacks_its_start(job):
                return self._started(job)
        return None

    def _startable(self, job: Job) -> Job | None:
        """The job itself, the pre-training that it waits for, or None while another brings what it needs."""
        if self._waits_for_twin(job):
            return None
        start = job.trial.pretraining
        if start is None:
            return job
        key = start.key()
        if self.pretraining.networks.has(key) or key in self.pretraining.broken:
            return job
        if not self.pretraining.start(key):
            return None
        number = self.pretraining.numbers[key]
        return job_of(PRETRAINING, "pretrain", number, start, parameters={}, annotation_seconds=0.0)

    def _started(self, job: Job) -> Job:
        if heard := self._heard.pop(job.id, None):  # it stands, though no other process may get as far
            job.row = _upto(job.row, heard, self.study.metric)
        self.ledger.append(job.row)
        self.running[job.id] = job
        self.listener.trial_started(job.row)
        return job

    def _lacks_its_start(self, job: Job) -> bool:
        """Ends a job whose pre-training left no network."""
        start = job.trial.pretraining
        broken = self.pretraining.broken.get(start.key()) if start is not None else None
        if broken is not None:
            reason = f"its pre-training {broken.state}: {broken.reason}"
            row = dataclasses.replace(job.row, state="failed", reason=reason, failure=broken.failure)
            self._end(job, row, [])
        return broken is not None

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
            board.remember(job.row.key, job.number)
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
        return False

    def lost(self, job: Job, failure: str, *, iteration: int = 0, message: str = "") -> None:
        """Its process is gone. The trial is handed out again as long as it gets further, else it failed.

        iteration: of the checkpoint that the process left, if that is newer than the last report.
        """
        if failure == BUG:
            lines = message.strip().splitlines() or ["its process ended at its start"]
            self.end(job, {"failure": BUG, "trace": message}, "failed", reason=lines[-1])
        elif self.losses.note(job.id, failure, max(iteration, job.row.iterations)):
            self.take_back(job)
        else:
            result = {"failure": failure, "trace": message}
            self.end(job, result, "failed", reason=self.losses.reason(job.id))

    def take_back(self, job: Job) -> None:
        """`suggest` gives the job out again, and it continues from its checkpoint."""
        self.running.pop(job.id, None)
        self._heard[job.id] = job.row.curve
        if job.phase == "pretrain":
            self.pretraining.end(job.row.key)
        else:
            self.arms[job.arm].handed_out.discard((job.phase, job.number))

    def report(self, job: Job, result: Mapping[str, Any]) -> bool:
        """Takes one result of a running job; False when its training should stop."""
        curve = result["curve"]
        job.host = result.get("host", "")
        job.memory, job.gpu_memory = result.get("memory", 0), result.get("gpu_memory", 0)
        known = len(job.row.curve)
        if len(curve) > known:
            job.row = _upto(job.row, curve, self.study.metric)
        goes_on = job.phase != "search" or self._passes_rungs(job)
        if len(job.row.curve) > known:  # told last: what lies beyond the rung where it ends is cut off
            self.listener.trial_reported(job.row)
        return goes_on

    def _passes_rungs(self, job: Job) -> bool:
        """Judges every rung that the curve has passed.

        After a kill a trial may be heard of again only beyond a rung, finished, diverged or failed even; it
        then ends as it would have ended there.
        """
        board = self.arms[job.arm]
        attempt = board.attempts[job.number]
        for length, point in enumerate(job.row.curve, 1):
            iteration = int(point["iteration"])
            if iteration not in board.rungs:
                continue
            if iteration not in attempt.rungs:
                attempt.rungs[iteration] = self._score(point)
                board.store.changed(attempt)
            if not survives(
                board.attempts, job.number, iteration, self.study.search, greater=self.study.greater_is_better
            ):
                job.row = _upto(job.row, job.row.curve[:length], self.study.metric)
                return False
        return True

    def end(self, job: Job, result: Mapping[str, Any], state: str, reason: str = "") -> None:
        """Writes down how a job ended: ledger, Optuna, then whoever listens."""
        details = {**job.row.details, "host": result.get("host", ""), "trace": result.get("trace", "")}
        details["machine"] = result.get("machine", {})
        if result.get("micro_batches", 1) > 1:  # each with a batch normalisation of its own
            details["micro_batches"] = result["micro_batches"]
        if job.id in self.losses.history:
            details["losses"] = self.losses.history[job.id]
        row = dataclasses.replace(
            job.row, state=state, reason=reason or result.get("reason", ""), finished=time.time(),
            details=details, failure=result.get("failure", "") if state in ("failed", "diverged") else "",
        )  # fmt: skip
        if state == "diverged":
            row = dataclasses.replace(row, value=None)
        cases = [self._case(job, raw) for raw in result.get("cases", [])] if state == "finished" else []
        self._end(job, row, cases)

    def _end(self, job: Job, row: TrialRow, cases: list[CaseRow]) -> None:
        self.ledger.append(row, cases)
        self.running.pop(job.id, None)
        if job.phase == "pretrain":
            self.pretraining.end(row.key)
            if not self.pretraining.networks.has(row.key):
                self.pretraining.broken[row.key] = row
        elif job.phase == "search":
            board = self.arms[job.arm]
            board.rows[row.number] = row
            self._conclude(board, row)
            board.adopt()
        else:
            self.arms[job.arm].confirmed[job.number] = row
        self.listener.trial_ended(row)

    def _conclude(self, board: ArmBoard, row: TrialRow) -> None:
        attempt = board.attempts[row.number]
        attempt.state, attempt.value = row.state, row.value
        for point in row.curve:
            if int(point["iteration"]) in board.rungs:
                attempt.rungs[int(point["iteration"])] = self._score(point)
        board.store.changed(attempt)

    def _score(self, point: Mapping[str, float]) -> float:
        value = point[self.study.metric]
        return self.study.worst if math.isnan(value) else value

    def _case(self, job: Job, raw: Mapping[str, Any]) -> CaseRow:
        row = job.row
        return CaseRow(
            key=row.key, arm=row.arm, phase=row.phase, replicate=row.number, seed=row.seed, fold=row.fold,
            split="test", class_name=self.class_names[raw["class_id"]], **raw,
        )  # fmt: skip


def _upto(row: TrialRow, curve: Sequence[dict[str, float]], metric: str) -> TrialRow:
    """The row as it stands at the last point of `curve`."""
    last = curve[-1]
    value = None if math.isnan(last[metric]) else last[metric]
    return dataclasses.replace(
        row, curve=list(curve), value=value, iterations=int(last["iteration"]), seconds=last["seconds"]
    )
