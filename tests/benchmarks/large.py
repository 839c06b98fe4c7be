"""A study of many finished trials on disk, made without Ray: how fast is it taken up and looked at?"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable
from typing import Any

from study import status, storage
from study.board import Board
from study.ending import answer_of
from study.home import Home, StudyFolder
from study.pretraining import Networks
from study.results import Ledger, TrialRow
from study.spec import Study
from tests.benchmarks import noop
from trainables.trial import DataSource


class Deaf:
    """Hears of trials, as MLflow and the screen would."""

    def trial_started(self, row: TrialRow) -> None: ...
    def trial_reported(self, row: TrialRow) -> None: ...
    def trial_ended(self, row: TrialRow) -> None: ...


def _board(study: Study, folder: StudyFolder) -> Board:
    return Board(
        study,
        storage=storage.open_storage(folder.path, None),
        ledger=Ledger(folder.path / "ledger"),
        data=DataSource(path="none", fingerprint="none"),
        class_names=("background", "target"),
        annotation_seconds={arm.name: 0.0 for arm in study.arms},
        listener=Deaf(),
        networks=Networks(folder.path / "pretrained"),
    )


def _fill(study: Study, folder: StudyFolder, trials: int, metrics: int) -> None:
    board = _board(study, folder)
    further = {f"loss_{number}": float(number) for number in range(metrics)}
    curve = [{"iteration": 1, "seconds": 0.0, "dice": 0.5, "loss_total": 1.0, **further}]
    for _ in range(trials):
        job = board.suggest()
        assert job is not None
        result: dict[str, Any] = {"curve": curve, "state": "finished", "cases": []}
        board.report(job, result)
        board.end(job, result, "finished")


def _seconds(call: Callable[[], Any]) -> float:
    """Of this process's time: other load on the machine says nothing about the program."""
    started = time.process_time()
    call()
    return time.process_time() - started


def taken_up(trials: int, metrics: int = 0) -> list[float]:
    """Seconds until the first job of a continued study, of `status` and of the answer."""
    study = noop.study(trials)
    study = dataclasses.replace(study, search=dataclasses.replace(study.search, sampler="random"))
    with tempfile.TemporaryDirectory() as room:
        folder = Home.at(room).study(study.name)
        folder.freeze(study)
        _fill(study, folder, trials - 1, metrics)
        return [
            _seconds(lambda: _board(study, folder).suggest()),
            _seconds(lambda: status.to_json(study, folder)),
            _seconds(lambda: answer_of(study, folder)),
        ]
