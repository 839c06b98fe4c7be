"""One study from its definition to its answer: prepare, plan, run, answer."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from search_spaces import UserError
from study import answer as answers
from study import datasets, engine, plan, ray_network, storage
from study.answer import Answer
from study.arm_board import ArmBoard, rung_iterations
from study.board import Board
from study.console import Screen, introduction
from study.engine import Machine
from study.home import SPEC, Home, StudyFolder, agree
from study.pictures import learning_curves
from study.pretraining import Networks
from study.results import TrialRow
from study.segments import full_disk_told
from study.spec import PRETRAINING, Study
from study.stopping import stop_on_signal
from study.tracking import Tracker
from trainables.data.dataset import Dataset
from trainables.failures import TIMEOUT
from trainables.trainable import CHECKPOINT, SAMPLES, StudyTrainable
from trainables.trial import DataSource

log = logging.getLogger(__name__)

TRACKING_PATIENCE = 60.0
"""Seconds that the end of a run waits for MLflow; what it has not taken by then is delivered next time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A study that was checked against its data and may start."""

    study: Study
    home: Home
    dataset: Dataset
    data: DataSource
    annotation_seconds: Mapping[str, float]

    @property
    def folder(self) -> StudyFolder:
        return self.home.study(self.study.name)

    def plan(self, *, slots: int = 1, speed: Mapping[str, float] | None = None) -> plan.Plan:
        networks = Networks(self.home.networks)
        return plan.make(
            self.study,
            annotation_seconds=self.annotation_seconds,
            rungs=rung_iterations(self.study.protocol, self.study.search.rungs),
            concurrency=slots,
            missing=[
                t for key, t in plan.pretrainings(self.study, self.data).items() if not networks.has(key)
            ],
            speed=speed,
        )


def prepare(study: Study, home: Home) -> Prepared:
    """Opens the data and checks every arm against them. Raises UserError; writes nothing into the study."""
    home.check_writable()
    dataset, data = datasets.open_data(study.data, home)
    for fold in study.replicates.folds:
        if not 0 <= fold < len(dataset.folds):
            raise UserError(
                f"replicates.folds must lie in 0 .. {len(dataset.folds) - 1}, the folds of {dataset.name}, "
                f"but got {fold}; use --set replicates.folds=0."
            )
    seconds = plan.check_arms(study, dataset, data)
    return Prepared(study=study, home=home, dataset=dataset, data=data, annotation_seconds=seconds)


class Listeners:
    """Passes on what the board wrote down: to MLflow, and to the disk as pictures and freed checkpoints."""

    def __init__(self, tracker: Tracker, folder: Path) -> None:
        self.tracker, self.folder = tracker, folder

    def trial_started(self, row: TrialRow) -> None:
        self.tracker.trial_started(row)

    def trial_reported(self, row: TrialRow) -> None:
        point = dict(row.curve[-1])
        self.tracker.trial_reported(row.key, int(point.pop("iteration")), point)

    def artifacts(self, row: TrialRow) -> list[tuple[Path, str]]:
        """What a trial that has ended left beside its row."""
        return _existing((engine.trial_folder(self.folder, row.key) / SAMPLES, "samples"))

    def trial_ended(self, row: TrialRow) -> None:
        trial = engine.trial_folder(self.folder, row.key)
        self.tracker.trial_ended(row, self.artifacts(row))
        # A search's row says all, and its best is trained anew on fresh seeds; of a pre-training the network
        # alone is needed. What ran out of time was not wrong, and may be looked at.
        if row.phase != "confirm" and row.failure != TIMEOUT:
            with contextlib.suppress(OSError):
                (trial / CHECKPOINT).unlink(missing_ok=True)


def _existing(*artifacts: tuple[Path, str]) -> list[tuple[Path, str]]:
    return [(path, place) for path, place in artifacts if path.exists()]


def run(
    prepared: Prepared,
    machine: Machine,
    console: Console,
    *,
    tracking_uri: str | None = None,
    storage_url: str | None = None,
    trainable: type = StudyTrainable,
) -> Answer:
    """Runs what is missing of a study and returns its answer. Raises UserError; KeyboardInterrupt on Ctrl-C.

    Only one driver at a time; the same call again continues, after any end of the last one.
    """
    study, folder = prepared.study, prepared.folder
    with full_disk_told(prepared.home.path), folder.locked():
        frozen = folder.frozen()
        if frozen is not None:
            agree(frozen, study)
        tracker = _tracker(prepared, tracking_uri)
        tracker.start([*([PRETRAINING] if study.pretraining else []), *(arm.name for arm in study.arms)])
        try:
            folder.freeze(study)
            console.print(introduction(study, str(folder.path), tracker.uri), soft_wrap=True)
            listeners = Listeners(tracker, folder.path)
            board = Board(
                study,
                storage=storage.open_storage(folder.path, storage_url),
                ledger=folder.ledger,
                data=prepared.data,
                class_names=prepared.dataset.class_names,
                annotation_seconds=prepared.annotation_seconds,
                listener=listeners,
                networks=Networks(prepared.home.networks),
            )
            tracker.reconcile(folder.ledger.trials(), listeners.artifacts)
            _work(board, machine, console, folder, trainable)
        except BaseException:
            tracker.interrupted()
            tracker.close(TRACKING_PATIENCE)
            raise
        return _conclude(prepared, board, tracker, console)


def _work(board: Board, machine: Machine, console: Console, folder: StudyFolder, trainable: type) -> None:
    if board.finished():
        return
    with stop_on_signal(board):
        try:
            machine, slots = engine.connect(machine, folder.path / SPEC)
            line = ray_network.reach(machine.address, dashboard=machine.dashboard)
            console.print(Text(line), soft_wrap=True)
            with Screen(console, board, slots):
                engine.run(board, machine, slots, folder.path, trainable=trainable)
        finally:
            engine.disconnect()
    if not board.finished():
        raise RuntimeError(f"Ray Tune ended before the study did; see {folder.path / 'ray.log'}.")


def answer_of(study: Study, folder: StudyFolder) -> Answer:
    """The answer as far as the ledger goes. Reads nothing else."""
    ledger = folder.ledger
    return answers.build(
        study.name,
        study.metric,
        [arm.name for arm in study.arms],
        study.compared(),
        study.num_replicates,
        ledger.trials(),
        ledger.cases(),
        study.watch,
    )


def _conclude(prepared: Prepared, board: Board, tracker: Tracker, console: Console) -> Answer:
    study, folder = prepared.study, prepared.folder
    answer = answer_of(study, folder)
    report = folder.path / "report"
    report.mkdir(exist_ok=True)
    texts = {"answer.json": answers.to_json(answer), "answer.md": answers.to_markdown(answer)}
    for name, text in texts.items():
        (report / name).write_text(text)
    for name, arm in board.arms.items():
        row = _row_of_selection(arm)
        if row is not None:
            _log_selected(name, row, board, tracker, folder.path)
    tracker.answered(texts, {arm.name: _metrics(arm, study.metric) for arm in answer.arms})
    tracker.close(TRACKING_PATIENCE)
    console.print(answers.to_table(answer))
    return answer


def _row_of_selection(arm: ArmBoard) -> TrialRow | None:
    """The trial that an arm's configuration was selected by: of the search, or else its first replicate."""
    best = arm.selected()
    if best is None:
        return None
    return arm.rows.get(best.number) or arm.confirmed.get(0)


def _log_selected(name: str, row: TrialRow, board: Board, tracker: Tracker, folder: Path) -> None:
    """The arm's selected configuration: its curve beside its rivals', its checkpoint, its pictures."""
    arm = board.arms[name]
    curves = folder / "report" / f"{arm.arm.method}-{row.key}-curves.png"
    learning_curves(curves, [*arm.rows.values(), *arm.confirmed.values()], board.study.metric)
    first = next((r for _, r in sorted(arm.confirmed.items()) if r.state == "finished"), None)
    trial = engine.trial_folder(folder, first.key) if first is not None else folder
    artifacts = _existing((curves, "curves"), (trial / CHECKPOINT, "model"), (trial / SAMPLES, "samples"))
    tracker.arm_selected(name, row, artifacts)


def _metrics(arm: answers.ArmAnswer, metric: str) -> dict[str, float]:
    values = {
        f"test_{metric}": arm.mean,
        f"test_{metric}_low": arm.low,
        f"test_{metric}_high": arm.high,
        "test_missed_rate": arm.missed_rate,
    }
    return {k: float(v) for k, v in values.items() if v is not None and v == v}


def _tracker(prepared: Prepared, uri: str | None) -> Tracker:
    study, dataset = prepared.study, prepared.dataset
    description: dict[str, Any] = {
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        "path": prepared.data.path,
        "num_images": dataset.num_images,
        "num_cases": len(set(dataset.case_ids)),
    }
    return Tracker(
        home=prepared.home.path,
        study=study.name,
        question=study.question,
        metric=study.metric,
        greater_is_better=study.greater_is_better,
        tracking_uri=uri,
        spec_json=study.to_json(),
        dataset=description,
    )
