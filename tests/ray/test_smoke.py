"""The study `smoke` with the real trainable, as a user starts it: networks are trained and judged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mlflow
import pytest

from study import discovery
from tests.chaos.harness import processes_of

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

QUIET_SECONDS = 60
"""What the study may take on two cores of its own; the time limit of the test is for a shared machine."""


def command(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs it to its end, in a session of its own, of which nothing may then be left."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    arguments = [sys.executable, "-m", *words, "--home", str(home)]
    with subprocess.Popen(
        arguments, cwd=ROOT, env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        stdout, stderr = process.communicate()
    left = processes_of(process.pid)
    for one in left:
        one.kill()
    assert left == []
    return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, schema: Path) -> Path:
    folder = tmp_path_factory.mktemp("smoke")
    (folder / "mlflow.db").write_bytes(schema.read_bytes())
    return folder


@pytest.fixture(scope="module")
def smoke(home: Path) -> subprocess.CompletedProcess[str]:
    started, load = time.monotonic(), os.getloadavg()[0]
    done = command(home, "study.run", "smoke")
    seconds = time.monotonic() - started
    if load < 1:
        assert seconds < QUIET_SECONDS
    return done


def test_prints_its_answer_and_nothing_of_ray(smoke: subprocess.CompletedProcess[str], home: Path) -> None:
    page = home / "smoke" / "report" / "report.html"
    assert (smoke.returncode, smoke.stderr) == (0, f"Report: {page}\n")
    assert page.stat().st_size < 5e6
    lines = smoke.stdout.splitlines()
    study = discovery.load("smoke")
    assert lines[0] == study.question
    assert any(line.strip().startswith("arm ") and "dice [95 %]" in line for line in lines)
    for arm in study.arms:
        assert any(arm.name in line and "2/2" in line for line in lines)
    assert [line for line in lines if "ray" in line.lower().replace(str(home), "")] == []


def test_status(smoke: subprocess.CompletedProcess[str], home: Path) -> None:
    done = command(home, "study", "status", "smoke", "--format", "json")
    assert (done.returncode, done.stderr) == (0, "")
    counts = json.loads(done.stdout)
    assert list(counts) == ["study", "planned", "finished", "pruned", "failed", "running"]
    assert (counts["study"], counts["planned"], counts["failed"], counts["running"]) == ("smoke", 8, 0, 0)
    assert counts["finished"] + counts["pruned"] == 8


def test_report(smoke: subprocess.CompletedProcess[str], home: Path) -> None:
    done = command(home, "study", "report", "smoke", "--format", "json")
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert list(answer) == ["study", "metric", "arms", "pairs"]
    for arm in answer["arms"]:
        assert list(arm) == ["name", "mean", "low", "high", "replicates", "cases", "missed_rate"]
        assert arm["replicates"] == 2
        assert 0 <= arm["low"] <= arm["mean"] <= arm["high"] <= 1
    (pair,) = answer["pairs"]
    assert list(pair) == ["a", "b", "difference", "low", "high", "p", "verdict"]
    assert [pair["a"], pair["b"]] == [arm["name"] for arm in answer["arms"]]


def test_mlflow(smoke: subprocess.CompletedProcess[str], home: Path) -> None:
    """Arms hold the definition, the answer and the selected model; confirmed trials their pictures."""
    client: Any = mlflow.MlflowClient(tracking_uri=f"sqlite:///{home / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("smoke").experiment_id])
    arms = [run for run in runs if run.data.tags["study.kind"] == "arm"]
    trials = [run for run in runs if run.data.tags["study.kind"] == "trial"]
    assert (len(arms), len(trials)) == (2, 8)
    assert {run.info.status for run in arms} == {"FINISHED"}
    assert {run.info.status for run in trials} <= {"FINISHED", "KILLED"}  # KILLED: stopped at the rung
    for run in arms:
        names = {file.path for file in client.list_artifacts(run.info.run_id)}
        assert {"spec.json", "answer.json", "answer.md", "curves", "model", "samples"} <= names
    for run in trials:
        assert {"dice", "loss_total", "seconds"} <= set(run.data.metrics)
        if run.data.tags["study.phase"] == "confirm":
            assert run.info.status == "FINISHED"
            assert client.list_artifacts(run.info.run_id, "samples")
