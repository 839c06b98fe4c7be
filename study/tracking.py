"""MLflow as the driver tells it: a study is an experiment, an arm a parent run, a trial a child run.

Only `Tracker.start` waits for MLflow; the rest is queued and delivered by one thread, in order. The ledger is
the truth: `reconcile` makes MLflow agree with it, whatever a killed driver or an absent server left there.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from search_spaces import UserError
from study import notes
from study.delivery import Delivery, reason_of
from study.masking import masked, scrubbed
from study.mlflow_runs import DATABASE, ENVIRONMENT, SQLITE, Runs, is_trouble
from study.ownership import Owner
from study.results import TrialRow
from study.run_format import NOTE, clean, now, points_of_report, run_name
from study.tracked_runs import ArmRuns, Artifacts, TrialRuns

_log = logging.getLogger(__name__)


class Tracker:
    """One study in MLflow. Made, started and closed by the driver; workers never see it.

    Args:
        home: folder of all studies; holds the default database and its artifacts.
        question: what the study asks, shown as the experiment's note.
        metric: validation metric that the study selects by, named as in the curves.
        tracking_uri: of MLflow; None: MLFLOW_TRACKING_URI, else a SQLite file in `home`.
        spec_json: the frozen study, kept as artifact spec.json of every arm.
        dataset: name, fingerprint, path, num_images, num_cases.
        owner: the study's folder, as servers know it.
        arms: what is said about each arm, as Markdown.
    """

    def __init__(
        self,
        *,
        home: Path,
        study: str,
        question: str,
        metric: str,
        greater_is_better: bool,
        tracking_uri: str | None,
        spec_json: str,
        dataset: Mapping[str, Any],
        owner: Owner,
        arms: Mapping[str, str] | None = None,
    ) -> None:
        home = home.absolute()
        self.elsewhere = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        """The address that was given, as it stands; None: a file in the home."""
        uri = self.elsewhere or f"{SQLITE}{home / DATABASE}"
        self.uri = masked(uri)
        """Where the runs are, without the password."""
        tags = {
            "mlflow.experiment.primaryMetric.name": clean(metric),
            "mlflow.experiment.primaryMetric.greaterIsBetter": str(greater_is_better),
            NOTE: notes.of_study(question, metric, greater_is_better=greater_is_better),
            # Without it MLflow asks what kind of experiment this is, or takes it for one of language models.
            "mlflow.experimentKind": "custom_model_development",
        }
        place, shared = home / "mlartifacts" / study, self.elsewhere is not None
        self._open = partial(Runs, uri, study, tags, place, spec_json, dataset, owner, shared)
        self._reason = lambda error: scrubbed(reason_of(error), uri)
        self._metric = metric
        self._notes = arms or {}
        self._arms: ArmRuns
        self._trials: TrialRuns
        self._delivery: Delivery | None = None

    def start(self, arms: Sequence[str] = ()) -> None:
        """Open MLflow, create or find the experiment and the arms' runs. The one call that waits.

        Raises:
            UserError: the address does not answer (after about five seconds) or refuses, or others share it
                and the study there is another folder's.
        """
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        try:
            runs = self._open()
            self._arms = ArmRuns(runs, self._notes)
            self._arms.load()
            for arm in arms:
                self._arms.run_of(arm)
        except UserError:
            raise
        except Exception as error:  # of network, database or disk, under whatever name the client raises it
            raise UserError(
                f"MLflow at {self.uri} cannot be used ({self._reason(error)}): start that server, correct "
                "the address (MLFLOW_TRACKING_URI), or give none to track in a local file."
            ) from error
        self._trials = TrialRuns(runs, self._arms, self._metric)
        self._delivery = Delivery(
            f"MLflow at {self.uri}", runs.answers, disturbed=is_trouble, reason=self._reason
        )
        for arm in self._arms.ids:
            self._put(f"the description of {arm!r}", partial(self._arms.describe, arm))

    def trial_started(self, row: TrialRow) -> None:
        """A new run, or the trial's old one set running again."""
        self._put(run_name(row), lambda: self._trials.start(row))

    def trial_reported(self, key: str, iteration: int, metrics: Mapping[str, float]) -> None:
        """Points of the started trial with this key; a step that is logged already is skipped."""
        points = points_of_report(metrics, iteration, now())
        self._put(f"a report of trial {key}", lambda: self._trials.report(key, points))

    def trial_ended(self, row: TrialRow, artifacts: Artifacts = ()) -> None:
        """Complete the run from its row and end it. Artifact files must stay until `close`."""
        self._put(run_name(row), lambda: self._trials.end(row, artifacts))

    def arm_selected(self, arm: str, row: TrialRow, artifacts: Artifacts = ()) -> None:
        """The configuration that the search chose: tags study.selected.* of the arm, and files."""
        self._put(f"the selection of {arm!r}", lambda: self._arms.select(arm, row, artifacts))

    def answered(self, texts: Mapping[str, str], arm_metrics: Mapping[str, Mapping[str, float]]) -> None:
        """The study is complete: texts (file name -> content) and metrics on the arms, which are FINISHED."""
        self._put("the look for runs that came twice", lambda: self._trials.settle())
        self._put("the answer", lambda: self._arms.answer(texts, arm_metrics, self._trials.last_end))

    def interrupted(self) -> None:
        """No run stays RUNNING: arms and unfinished trials are KILLED until the study is resumed."""
        self._put("the look for runs that came twice", lambda: self._trials.settle())
        self._put("the interruption of trials", lambda: self._trials.interrupt())
        self._put("the interruption of arms", lambda: self._arms.interrupt())

    def reconcile(
        self, rows: Sequence[TrialRow], artifacts: Callable[[TrialRow], Artifacts] = lambda row: ()
    ) -> None:
        """Make MLflow agree with the ledger; after `start`, before the first trial.

        Final trials that are missing or shown otherwise are written from their rows, with their artifacts.
        Runs that are RUNNING without a final row become KILLED; `trial_started` takes up those that continue.
        """
        self._put("the reconciliation", lambda: self._trials.reconcile(rows, artifacts))

    def close(self, timeout: float = 10.0) -> None:
        """Deliver what is queued within `timeout` seconds; the next reconciliation does the rest."""
        left = self._delivery.close(timeout) if self._delivery is not None else 0
        if left:
            rest = "the next run of the study completes them from the ledger"
            _log.warning(
                "%d events did not reach MLflow at %s within %g s; %s.", left, self.uri, timeout, rest
            )

    def _put(self, subject: str, call: Callable[[], None]) -> None:
        if self._delivery is None:
            raise RuntimeError("Tracker.start() comes first")
        self._delivery.put(subject, call)
