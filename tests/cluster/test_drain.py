"""A node that is taken away: SIGTERM to its `ray start --block`, while a network is trained there."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from study.home import Home
from tests.chaos import harness
from tests.cluster.conftest import Start
from tests.cluster.nodes import Cluster
from tests.ray import driver
from tests.ray.toy import ORDERS

pytestmark = [pytest.mark.cluster, pytest.mark.ray, pytest.mark.timeout(900)]


def test_a_node_that_gets_sigterm_loses_no_step(
    cluster: Cluster, start: Start, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray drains the node, the driver tells its worker, the trial goes on elsewhere: nothing is a failure."""
    monkeypatch.setenv(driver.REAL, "yes")
    (home / ORDERS).write_text(json.dumps({"sleep": 0.1}))  # 30 s in all: the driver looks every other second
    folder = Home(home).study(driver.NAME)
    one = start(home, "run", driver.NAME)
    harness.wait_for(lambda: steps_of(folder.path), harness.PATIENCE, "training")
    process = int(steps_of(folder.path)[0].split()[1])
    (node,) = [node for node in cluster.nodes if process in node.pids()]
    node.process.send_signal(signal.SIGTERM)
    (home / ORDERS).unlink()  # only the first process need be slow
    assert one.wait() == 0, one.errors()
    cluster.remove(node)
    (row,) = folder.ledger.trials()
    assert (row.state, row.failure) == ("finished", "")
    assert row.details["losses"] == ["preempted"]
    steps = [line.split() for line in steps_of(folder.path)]
    assert [int(step) for step, _ in steps] == list(range(driver.ITERATIONS))
    assert len({process for _, process in steps}) == 2


def steps_of(folder: Path) -> list[str]:
    return [line for path in folder.glob("trials/*/steps") for line in path.read_text().splitlines()]
