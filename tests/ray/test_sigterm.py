"""SIGTERM to real processes that train a network: to a worker, and to a driver whose worker must follow."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from study import service
from study.engine import Machine
from study.home import Home
from study.results import TrialRow
from study.spec import Study
from tests.chaos import harness
from tests.chaos.harness import Driver
from tests.ray import driver
from tests.ray.conftest import Runner
from tests.ray.recorded import TermTrainable
from trainables.left import CHECKPOINT
from trainables.stopping import read_note
from trainables.store import Store
from trainables.trainable import StudyTrainable

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

WITHIN = 10.0
"""Seconds from the signal to the checkpoint that are promised; a step here takes a hundredth of one."""


TIMES = ("reported", "seconds", "training_seconds")


def the_row(home: Path) -> TrialRow:
    (row,) = Home(home).study(driver.NAME).ledger.trials()
    return row


def without_time(row: TrialRow) -> tuple[Any, ...]:
    curve = [{k: v for k, v in point.items() if k not in TIMES} for point in row.curve]
    return row.key, row.state, row.value, row.iterations, curve


def run(runner: Runner, study: Study, trainable: type) -> TrialRow:
    service.run(service.prepare(study, Home(runner.home)), Machine(), runner.console, trainable=trainable)
    return the_row(runner.home)


@pytest.fixture(scope="module")
def expected(
    tmp_path_factory: pytest.TempPathFactory, schema: Path, dataset: Path, one_ray: None
) -> tuple[Any, ...]:
    """What the trial gives that nobody disturbs."""
    home = tmp_path_factory.mktemp("undisturbed")
    (home / "mlflow.db").write_bytes(schema.read_bytes())
    study = driver.define_one(str(dataset))
    return without_time(run(Runner(home, dataset), study, StudyTrainable))


def test_a_worker_that_gets_sigterm_loses_no_step(runner: Runner, expected: tuple[Any, ...]) -> None:
    """Twice, between two reports each time: nothing is a failure, nothing is trained twice."""
    row = run(runner, driver.define_one(str(runner.dataset)), TermTrainable)
    assert without_time(row) == expected
    assert (row.failure, row.details["losses"]) == ("", ["preempted", "preempted"])
    folder = Home(runner.home).study(driver.NAME).path / "trials" / row.key
    steps = [line.split() for line in (folder / "steps").read_text().splitlines()]
    assert [int(step) for step, _ in steps] == list(range(row.iterations))
    assert len({process for _, process in steps}) == 3


def test_a_driver_that_gets_sigterm_lets_its_workers_write(
    home: Path, dataset: Path, expected: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(driver.REAL, "yes")
    folder = Home(home).study(driver.NAME)
    one = Driver(home, dataset, "run", driver.NAME)
    try:
        harness.wait_for(lambda: steps_of(folder.path) >= 5, 150, "training")
        asked = time.time()
        one.process.send_signal(signal.SIGTERM)
        assert one.wait() == 1
    finally:
        one.finish()
    row = the_row(home)
    assert not row.is_final
    trial = folder.path / "trials" / row.key
    note = read_note(Store.at(trial))
    assert note is not None
    assert note["reason"] == "its driver was asked to stop"
    assert (trial / CHECKPOINT).stat().st_mtime - asked < WITHIN
    saved = torch.load(trial / CHECKPOINT, weights_only=True)
    assert saved["training"]["iteration"] == note["iteration"] == steps_of(folder.path)
    assert 5 <= note["iteration"] < driver.ITERATIONS
    assert saved["result"]["curve"] == []  # no report was near

    again = Driver(home, dataset, "run", driver.NAME)
    try:
        assert again.wait() == 0, again.errors()
    finally:
        again.finish()
    assert without_time(the_row(home)) == expected
    assert steps_of(folder.path) == driver.ITERATIONS  # none of them twice


def steps_of(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("trials/*/steps"))
