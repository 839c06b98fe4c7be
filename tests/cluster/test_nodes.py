"""A study over several Ray nodes equals that of one machine, also when one is lost and another joins."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from study.home import Home
from study.results import TrialRow
from tests.chaos import harness
from tests.chaos.harness import Driver, essence, undisturbed_words, wait_for
from tests.cluster.conftest import Start
from tests.cluster.nodes import PATIENCE, Cluster
from tests.ray import driver
from tests.ray.toy import ORDERS

pytestmark = [pytest.mark.cluster, pytest.mark.ray, pytest.mark.timeout(600)]


def check(home: Path, undisturbed: list[tuple[Any, ...]], lost: Counter[str]) -> None:
    """Everything that the chaos tests ask of a killed study. Raises AssertionError."""
    folder = Home(home).study(driver.NAME)
    rows = folder.ledger.trials()
    assert essence(rows) == undisturbed
    harness.assert_ended_once(folder)
    harness.assert_few_repeats(folder, lost)
    harness.assert_optuna_agrees(folder, rows)
    harness.assert_mlflow_agrees(home, rows)


def test_two_nodes_answer_as_one_machine(
    cluster: Cluster, start: Start, home: Path, undisturbed: list[tuple[Any, ...]]
) -> None:
    one = start(home, "run", driver.NAME)
    assert one.wait() == 0, one.errors()
    assert one.errors() == undisturbed_words(Home(home).study(driver.NAME))
    check(home, undisturbed, Counter())


def test_a_node_is_lost_and_another_joins(
    cluster: Cluster, start: Start, home: Path, undisturbed: list[tuple[Any, ...]]
) -> None:
    """What ran on the lost node goes on elsewhere from its checkpoint; the new node takes its share."""
    (home / ORDERS).write_text(json.dumps({"sleep": 1.5}))
    folder = Home(home).study(driver.NAME)
    one = start(home, "run", driver.NAME)
    old = cluster.nodes[0]
    wait_for(lambda: trained_by(folder.path) & old.pids(), 150, "a trial on the node")
    cluster.remove(old)
    wait_for(lambda: cluster.alive() == 2, PATIENCE, "the notice of the lost node")
    new = cluster.add()
    wait_for(lambda: trained_by(folder.path) & new.pids() or one.process.poll() is not None, 150, "a trial")
    assert one.process.poll() is None, "the study ended before the new node got a trial; give it more sleep"
    assert one.wait() == 0, one.errors()
    assert one.errors() == undisturbed_words(folder)
    check(home, undisturbed, Counter(worker=1))


def test_a_node_that_joins_is_used_at_once(
    cluster: Cluster, start: Start, home: Path, undisturbed: list[tuple[Any, ...]]
) -> None:
    """Nothing is lost and nothing restarted: from then on three trials run where two did."""
    (home / ORDERS).write_text(json.dumps({"sleep": 4.0}))
    folder = Home(home).study(driver.NAME)
    one = start(home, "run", driver.NAME)
    wait_for(lambda: len(trained_by(folder.path)) == 2, 150, "a trial on each node")
    assert at_once(folder.ledger.trials()) == 2
    new = cluster.add()
    try:
        wait_for(lambda: trained_by(folder.path) & new.pids() or one.process.poll() is not None, 150, "one")
        assert one.process.poll() is None, "the study ended before the new node got a trial"
        assert one.wait(300) == 0, one.errors()
    finally:
        cluster.remove(new)
        wait_for(lambda: cluster.alive() == 3, PATIENCE, "the notice of the node's end")
    assert one.errors() == undisturbed_words(folder)
    assert at_once(folder.ledger.trials()) == 3
    check(home, undisturbed, Counter())


def at_once(rows: list[TrialRow]) -> int:
    """Most trials under way at any moment."""
    return max(sum(b.started <= a.started < (b.finished or math.inf) for b in rows) for a in rows)


def trained_by(folder: Path) -> set[int]:
    """The processes that trained something of the study."""
    lines = [line for path in folder.glob("trials/*/trace") for line in path.read_text().splitlines()]
    return {int(line.split()[2]) for line in lines if line.startswith("begin")}


def test_real_networks_are_the_same_bit_for_bit(
    cluster: Cluster, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The study `smoke` by the command that a user gives, with a node lost while it trains."""
    monkeypatch.setenv("RAY_AUTH_MODE", cluster.environment["RAY_AUTH_MODE"])
    homes = [tmp_path / "one machine", tmp_path / "cluster"]
    where = [(), ("--address", cluster.address)]
    for home, words in zip(homes, where, strict=True):
        home.mkdir()
        one = Driver(home, dataset, "smoke", "--replicates", "1", *words, module="study.run")
        try:
            if words:
                lose_a_node(cluster, Home(home).study("smoke").path / "trials")
            assert one.wait(240) == 0, one.errors()
        finally:
            one.finish()
    assert outcome(homes[1]) == outcome(homes[0])
    harness.assert_ended_once(Home(homes[1]).study("smoke"))


def lose_a_node(cluster: Cluster, trials: Path) -> None:
    """Once both nodes have begun a trial; another node takes its place."""
    wait_for(lambda: len(list(trials.glob("*"))) >= 2, 150, "a trial on each node")
    cluster.remove(cluster.nodes[0])
    cluster.add()


def outcome(home: Path) -> tuple[list[Any], list[Any]]:
    """All that a study found out: rows with their curves, without times, and the scores of every case."""
    ledger = Home(home).study("smoke").ledger
    times = ("reported", "seconds", "training_seconds")
    rows = ledger.trials()
    curves = {
        row.identity: [{k: v for k, v in point.items() if k not in times} for point in row.curve]
        for row in rows
    }
    # As text, because two scores that are NaN are the same result.
    cases = sorted(map(repr, ledger.cases()))
    assert cases
    return [(one, repr(curves[one[:4]])) for one in essence(rows)], cases
