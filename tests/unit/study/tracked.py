"""A study as a tracker is told of it, and as somebody sees it who opens MLflow."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.entities import Run

from study.mlflow_runs import ENVIRONMENT
from study.ownership import Owner
from study.results import TrialRow
from study.tracking import Tracker

STUDY = "pixels"
OWNER = Owner(study=STUDY, identity="mine", place="here:/runs/pixels", begun=True, known=frozenset)
PATIENCE = 30.0  # only to turn a hang into a failure: the queue is empty within milliseconds


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """`start` sets variables for the process; the next test must not inherit them."""
    for name in (*ENVIRONMENT, "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture
def home(tmp_path: Path, schema: Path) -> Path:
    folder = tmp_path / "my studies"  # a space, as in many home folders
    folder.mkdir()
    shutil.copy(schema, folder / "mlflow.db")
    return folder


def tracker(home: Path, **changes: Any) -> Tracker:
    return Tracker(**settings(home, **changes))


def settings(home: Path, **changes: Any) -> dict[str, Any]:
    """What a tracker is made from."""
    usual = {
        "home": home,
        "study": STUDY,
        "question": "Are five pixels enough?",
        "metric": "dice",
        "greater_is_better": True,
        "tracking_uri": None,
        "spec_json": '{"name": "pixels"}',
        "dataset": {
            "name": "acdc",
            "fingerprint": "f" * 64,
            "path": "acdc.parquet",
            "num_images": 1902,
            "num_cases": 100,
        },
        "owner": OWNER,
    }
    return usual | changes


def started(home: Path, **changes: Any) -> Tracker:
    result = tracker(home, **changes)
    result.start(["points", "dense"])
    return result


def trial(number: int = 0, state: str = "running", **changes: Any) -> TrialRow:
    ended = state != "running"
    row = TrialRow(
        key=f"key{number}",
        arm="points",
        phase="search",
        number=number,
        state=state,
        value=0.5 if ended else None,
        seed=7,
        fold=2,
        parameters={
            "learning_rate": 0.001,
            "network": {"encoder": "resnet18"},
            "channels": [8, 16],
            "a=b": True,
        },
        iterations=200 if ended else 0,
        seconds=12.5 if ended else 0.0,
        annotation_seconds=30.0,
        curve=[{"iteration": 100, "dice": 0.25}, {"iteration": 200, "dice": 0.5}] if ended else [],
        started=1_700_000_000.0,
        finished=1_700_000_020.0 if ended else 0.0,
    )
    return dataclasses.replace(row, **changes)


class View:
    """What somebody who opens MLflow sees."""

    def __init__(self, home: Path) -> None:
        self.client: Any = mlflow.MlflowClient(tracking_uri=f"sqlite:///{home / 'mlflow.db'}")
        self.experiment = self.client.get_experiment_by_name(STUDY)
        self.runs: list[Run] = list(
            self.client.search_runs([self.experiment.experiment_id], max_results=1000)
        )

    def arm(self, name: str) -> Run:
        (run,) = [run for run in self.trials_and_arms("arm") if run.data.tags["study.arm"] == name]
        return run

    def trials_and_arms(self, kind: str) -> list[Run]:
        return [run for run in self.runs if run.data.tags["study.kind"] == kind]

    def trial(self, number: int = 0, phase: str = "search") -> Run:
        (run,) = [
            run
            for run in self.trials_and_arms("trial")
            if (run.data.tags["study.trial_number"], run.data.tags["study.phase"]) == (str(number), phase)
        ]
        return run

    def statuses(self) -> dict[str, str]:
        return {run.info.run_name: run.info.status for run in self.runs}

    def points(self, run: Run, metric: str = "dice") -> list[tuple[int, float]]:
        history = self.client.get_metric_history(run.info.run_id, metric)
        return sorted((point.step, point.value) for point in history)

    def text(self, run: Run, name: str) -> str:
        return (Path(run.info.artifact_uri.removeprefix("file://").replace("%20", " ")) / name).read_text()


def report(target: Tracker, number: int, *steps: int) -> None:
    for step in steps:
        target.trial_reported(f"key{number}", step, {"dice": step / 400})
