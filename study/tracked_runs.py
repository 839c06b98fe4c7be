"""What is done to the runs of arms and trials, and in which order, so that every step may be repeated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from study.results import TrialRow
from study.run_format import (
    NOTE,
    STATUS,
    Identity,
    Point,
    all_parameters,
    clean,
    first_of_each,
    flat,
    identity_of,
    now,
    points_of,
    run_name,
    state_tags,
    trial_tags,
)

if TYPE_CHECKING:
    from study.mlflow_runs import Runs

Artifacts = Sequence[tuple[Path, str]]
"""(file, folder within the run, "" for its root)."""


Tags = dict[str, str]


def _once(
    runs: Runs, kind: str, identity: Callable[[Tags], object], known: Iterable[str]
) -> Iterator[tuple[str, str, Tags]]:
    """(run id, status, tags) of the runs of a kind, one for each identity; further ones are deleted.

    A run is there twice when the server carried a creation out that its client had given up and repeated.
    Kept is the one that is known, else one that has ended, else always the same.
    """
    ids, seen = set(known), set()
    for run_id, status, tags in sorted(
        runs.find(kind), key=lambda run: (run[0] not in ids, run[1] == "RUNNING", run[0])
    ):
        if identity(tags) in seen:
            runs.delete(run_id)
        else:
            seen.add(identity(tags))
            yield run_id, status, tags


class ArmRuns:
    """One parent run per arm, found again by its tags."""

    def __init__(self, runs: Runs, notes: Mapping[str, str] | None = None) -> None:
        self._runs = runs
        self._notes = notes or {}
        self.ids: dict[str, str] = {}
        self._unheard: set[str] = set()

    def load(self) -> None:
        """Find the arms of an earlier run of the study and set them running again."""
        self._find()
        for run_id in self.ids.values():
            self._runs.resume(run_id)
            self._runs.tag(run_id, {"study.interrupted": "false"})

    def run_of(self, arm: str) -> str:
        """The arm's run, created when it is new."""
        if arm in self._unheard:
            self._find()
            self._unheard.discard(arm)
        if arm not in self.ids:
            tags = {"study.kind": "arm", "study.arm": arm, "study.interrupted": "false"}
            self._unheard.add(arm)  # should the answer be lost, the run may exist: look before the retry
            self.ids[arm] = self._runs.create(arm, tags, now())
            self._unheard.discard(arm)
        return self.ids[arm]

    def _find(self) -> None:
        known = set(self.ids.values())
        for run_id, _, tags in _once(self._runs, "arm", lambda tags: tags["study.arm"], known):
            self.ids[tags["study.arm"]] = run_id

    def describe(self, arm: str) -> None:
        """Attach the data set, the frozen study, and what the arm is in words."""
        self._runs.describe(self.run_of(arm))
        if arm in self._notes:
            self._runs.tag(self.run_of(arm), {NOTE: self._notes[arm]})

    def select(self, arm: str, row: TrialRow, artifacts: Artifacts) -> None:
        """Replace the tags study.selected.* by this row's configuration."""
        run_id, prefix = self.run_of(arm), "study.selected."
        tags = {prefix + name: text for name, text in flat(row.parameters).items()}
        tags |= {f"{prefix}trial_number": str(row.number), f"{prefix}value": str(row.value)}
        self._runs.replace_tags(run_id, prefix, tags)
        self._runs.attach(run_id, artifacts)

    def answer(
        self, texts: Mapping[str, str], metrics: Mapping[str, Mapping[str, float]], moment: int
    ) -> None:
        """Texts on every arm, metrics on their own; all FINISHED. A changed value is the next step.

        moment: from when the answer is, the same whenever it is given (see `Point.milliseconds`).
        """
        for arm in {**self.ids, **metrics}:
            run_id = self.run_of(arm)
            for name, text in texts.items():
                self._runs.write_text(run_id, text, name)
            points = []
            for metric, value in metrics.get(arm, {}).items():
                last = self._runs.last_point(run_id, clean(metric))
                if last is None or last.value != value:
                    points.append(Point(clean(metric), float(value), last.step + 1 if last else 0, moment))
            self._runs.log(run_id, points)
            self._runs.end(run_id, "FINISHED", now())

    def interrupt(self) -> None:
        """KILLED, until `load` finds them."""
        for run_id in self.ids.values():
            self._runs.tag(run_id, {"study.interrupted": "true"})
            self._runs.end(run_id, "KILLED", now())


@dataclass(slots=True)
class _Trial:
    """What is known of a trial's run."""

    run_id: str
    status: str
    state: str
    logged: set[tuple[str, int]] | None = None
    """(metric, step) of every point, kept while the trial runs; None: not asked for yet."""


class TrialRuns:
    """One child run per trial, found again by its tags."""

    def __init__(self, runs: Runs, arms: ArmRuns, metric: str) -> None:
        self._runs = runs
        self._arms = arms
        self._metric = metric
        self._known: dict[Identity, _Trial] = {}
        self._looked = False
        self._unheard = False
        """Whether the answer to a creation was ever lost, so that a run may appear at any later moment."""
        self._live: dict[str, Identity] = {}
        self.last_end = 0
        """Unix time in milliseconds at which the last trial ended, of those told of."""

    def start(self, row: TrialRow) -> None:
        """A new run, or the trial's old one set running again."""
        trial = self._trial(row)
        if trial.status != "RUNNING":
            self._runs.resume(trial.run_id)
            # Tried again, so what ended it before no longer holds.
            again = {
                "study.state": row.state,
                "study.interrupted": "false",
                "study.failure": "",
                "study.reason": "",
            }
            self._runs.tag(trial.run_id, again)
            trial.status, trial.state = "RUNNING", row.state
        self._live[row.key] = row.identity

    def report(self, key: str, points: list[Point]) -> None:
        """Points of the running trial with this key."""
        self._log_new(self._all()[self._live[key]], points)

    def end(self, row: TrialRow, artifacts: Artifacts = ()) -> None:
        """Everything the row knows and the run lacks; the status last, for it says that the rest is there."""
        self._note_end(row)
        trial = self._trial(row)
        self._log_new(trial, points_of(row, self._metric), state_tags(row))
        self._runs.attach(trial.run_id, artifacts)
        self._runs.end(trial.run_id, STATUS[row.state], int(1000 * row.finished))
        trial.status, trial.state, trial.logged = STATUS[row.state], row.state, None
        if self._live.get(row.key) == row.identity:
            del self._live[row.key]

    def reconcile(
        self, rows: Iterable[TrialRow], artifacts: Callable[[TrialRow], Artifacts] = lambda row: ()
    ) -> None:
        """Write what MLflow lacks or shows otherwise; nothing else stays RUNNING."""
        final = {row.identity: row for row in rows if row.is_final}
        for identity, row in final.items():
            self._note_end(row)
            trial = self._all().get(identity)
            if trial is None or (trial.status, trial.state) != (STATUS[row.state], row.state):
                self.end(row, artifacts(row))
        self.interrupt(except_for=final)

    def settle(self) -> None:
        """Delete what was created twice; at the end, when nothing can come late any more."""
        if self._unheard:
            self._look()

    def interrupt(self, except_for: Iterable[Identity] = ()) -> None:
        """KILLED, until `start` takes the trial up again."""
        for identity in self._all().keys() - set(except_for):
            trial = self._all()[identity]
            if trial.status in ("RUNNING", "SCHEDULED"):
                self._runs.tag(trial.run_id, {"study.state": "interrupted", "study.interrupted": "true"})
                self._runs.end(trial.run_id, "KILLED", now())
                trial.status, trial.state = "KILLED", "interrupted"

    def _note_end(self, row: TrialRow) -> None:
        self.last_end = max(self.last_end, int(1000 * row.finished))

    def _all(self) -> dict[Identity, _Trial]:
        if not self._looked:
            self._look()
        return self._known

    def _look(self) -> None:
        known = {trial.run_id for trial in self._known.values()}
        for run_id, status, tags in _once(self._runs, "trial", identity_of, known):
            self._known.setdefault(identity_of(tags), _Trial(run_id, status, tags.get("study.state", "")))
        self._looked = True

    def _trial(self, row: TrialRow) -> _Trial:
        """The trial's run, created when it is new, with the parameters it lacks."""
        trial = self._all().get(row.identity)
        if trial is None:
            parent = {"mlflow.parentRunId": self._arms.run_of(row.arm)}
            try:
                run_id = self._runs.create(run_name(row), trial_tags(row) | parent, int(1000 * row.started))
            except Exception:
                # The run may exist although the answer was lost: look before the retry.
                self._looked, self._unheard = False, True
                raise
            trial = self._all()[row.identity] = _Trial(run_id, "RUNNING", row.state, set())
            self._runs.log_parameters(run_id, all_parameters(row))
        elif row.key not in self._live:
            self._runs.complete_parameters(trial.run_id, all_parameters(row))
        return trial

    def _log_new(self, trial: _Trial, points: list[Point], tags: Tags | None = None) -> None:
        if trial.logged is None:
            trial.logged = self._runs.logged(trial.run_id)
        fresh = first_of_each(points, trial.logged)
        logged, trial.logged = trial.logged, None  # asked for again should the answer be lost
        self._runs.log(trial.run_id, fresh, tags)
        trial.logged = logged | {(point.metric, point.step) for point in fresh}
