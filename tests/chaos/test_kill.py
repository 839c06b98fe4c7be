"""Each kind of kill alone (a worker, the driver, everything): the study then equals an undisturbed one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from study.home import Home
from tests.chaos.harness import Chaos, Driver, assert_mlflow_agrees, essence, trace_lines, wait_for
from tests.ray import driver
from tests.ray.toy import ORDERS

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.mark.parametrize("what", ["worker", "driver", "all"])
@pytest.mark.parametrize("seed", [1, 2])
def test_kill(what: str, seed: int, home: Path, dataset: Path, undisturbed: list[tuple[Any, ...]]) -> None:
    chaos = Chaos(home, dataset)
    chaos.run([what] * 2, seed, sleep=0.05)
    assert chaos.kills[what] == 2
    chaos.check(undisturbed)


def test_the_raylet_alone(home: Path, dataset: Path, undisturbed: list[tuple[Any, ...]]) -> None:
    """Ray's last node is gone, as when memory runs out: the driver says so and ends; it does not wait."""
    (home / ORDERS).write_text(json.dumps({"sleep": 0.5}))
    folder = Home(home).study(driver.NAME)
    one = Driver(home, dataset, "run", driver.NAME)
    try:
        wait_for(lambda: trace_lines(folder) > 5, 150, "progress")
        (raylet,) = [p for p in one.family() if p.name.split()[0].endswith("/raylet")]
        raylet.kill()
        assert one.wait(90) == 1
        assert "Ray's last node died" in one.errors()
    finally:
        one.finish()
    (home / ORDERS).unlink()
    rest = Driver(home, dataset, "run", driver.NAME)
    try:
        assert rest.wait() == 0, rest.errors()
    finally:
        rest.finish()
    rows = folder.ledger.trials()
    assert essence(rows) == undisturbed
    assert_mlflow_agrees(home, rows)
