"""A study that was really trained, in this process and in seconds, for the tests of export and prediction."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

from study import service
from study.board import Board, Job
from study.home import Home
from study.results import TrialRow
from study.spec import Arm, Data, Replicates, Search, Study
from study.trial_files import trial_folder
from tests.unit.trainables import toy_data
from trainables.annotations import Annotation
from trainables.protocol import Protocol
from trainables.trainable import StudyTrainable

CLICKS, FULL = "clicks | <b>two</b>", "full"


class Silent:
    """A listener that keeps every checkpoint."""

    def trial_started(self, row: TrialRow) -> None: ...
    def trial_reported(self, row: TrialRow) -> None: ...
    def trial_ended(self, row: TrialRow) -> None: ...


def one_arm() -> Arm:
    return Arm(name=FULL, method="full_supervision", annotation=Annotation(pixels="dense"))


def a_study(dataset: Path, **changes: Any) -> Study:
    """Two arms without a search, two replicates each, on the toy data."""
    settings = {
        "name": "toy",
        "question": "Do exported models do what was scored?",
        "arms": (
            Arm(
                name=CLICKS,
                method="partial_cross_entropy",
                annotation=Annotation(pixels="points", pixel_budget=2),
            ),
            one_arm(),
        ),
        "data": Data(dataset=str(dataset)),
        "search": Search(trials=1),
        "replicates": Replicates(seeds=(1001, 1002)),
        "network_settings": {"width": 4, "levels": 2},
        "protocol": Protocol(
            optimiser="adam",
            learning_rate=1e-2,
            iterations=24,
            batch_size=6,
            reports=3,
            keep="best_dice",
            edge_filter=20,
        ),
        **changes,
    }
    return Study(**settings)


def train(home: Home, study: Study) -> None:
    """What `study run` does, without Ray, MLflow and a terminal."""
    prepared = service.prepare(study, home)
    folder = prepared.folder
    folder.freeze(study)
    board = Board(
        study,
        storage=optuna.storages.InMemoryStorage(),
        ledger=folder.ledger,
        data=prepared.data,
        class_names=prepared.dataset.class_names,
        annotation_seconds=prepared.annotation_seconds,
        listener=Silent(),
        networks=prepared.networks(),
    )
    while (job := board.suggest()) is not None:
        result = _trained(job, home, trial_folder(prepared.place, job.row.key).uri)
        board.report(job, result)
        board.end(job, result, result["state"])
        assert result["state"] == "finished", result


def _trained(job: Job, home: Home, folder: str) -> dict[str, Any]:
    trainable = StudyTrainable(
        {
            "trial": json.loads(json.dumps(job.trial.to_dict())),
            "key": job.row.key,
            "study": "toy",
            "job": list(job.id),
            "folder": folder,
            "cache": str(home.cache),
            "metric": "dice",
            "watch": [],
            "start": None,
            "network": None,
            "threads": torch.get_num_threads(),
            "gpus": 0.0,
        }
    )
    result: dict[str, Any] = {"state": "running"}
    while result["state"] == "running":
        result = json.loads(trainable.step()["payload"])
    return result


def make_home(folder: Path, **changes: Any) -> Home:
    """A home with the study "toy", whose data lie beside it. SIGTERM is left as it was."""
    before = signal.getsignal(signal.SIGTERM)
    patch = pytest.MonkeyPatch()
    patch.setattr(
        "trainables.samples.draw", lambda path, *_: path.touch()
    )  # pictures take longer than the training
    patch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(folder / "ray"))
    try:
        if not (folder / "toy.parquet").exists():
            toy_data.write(folder / "toy.parquet")
        home = Home(folder / "home")
        train(home, a_study(folder / "toy.parquet", **changes))
    finally:
        patch.undo()
        signal.signal(signal.SIGTERM, before)
    return home
