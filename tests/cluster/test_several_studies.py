"""Two studies of one home on one cluster at once: each keeps to its cap and answers as alone."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from study.home import Home
from tests.chaos import harness
from tests.chaos.harness import Driver, essence, undisturbed_words
from tests.cluster.conftest import Start
from tests.cluster.test_nodes import at_once, check
from tests.ray import driver
from tests.ray.toy import ORDERS

pytestmark = [pytest.mark.cluster, pytest.mark.ray, pytest.mark.timeout(600)]

SECOND = ("run", driver.NAME, "--fork", "second", "--trials", "3", "--set", "search.sampler=random")


def alone(home: Path, dataset: Path) -> list[tuple[Any, ...]]:
    """The second study on this machine, without a cluster."""
    one = Driver(home, dataset, *SECOND)
    try:
        assert one.wait() == 0, one.errors()
    finally:
        one.finish()
    return essence(Home(home).study("second").ledger.trials())


def test_two_drivers_share_a_cluster(
    start: Start, tmp_path: Path, dataset: Path, undisturbed: list[tuple[Any, ...]]
) -> None:
    """Also the home's databases, which neither finds there when it starts."""
    home, other = tmp_path / "home", tmp_path / "alone"
    home.mkdir()
    other.mkdir()
    expected = alone(other, dataset)
    (home / ORDERS).write_text(json.dumps({"sleep": 0.5}))
    first = start(home, "run", driver.NAME, "--max-concurrent", "1")
    second = start(home, *SECOND, "--max-concurrent", "1")
    folders = [Home(home).study(name) for name in (driver.NAME, "second")]
    for one, folder in zip((first, second), folders, strict=True):
        assert one.wait() == 0, one.errors()
        assert one.errors() == undisturbed_words(folder)
    check(home, undisturbed, Counter())
    rows = [folder.ledger.trials() for folder in folders]
    assert essence(rows[1]) == expected
    harness.assert_ended_once(folders[1])
    harness.assert_optuna_agrees(folders[1], rows[1])
    assert [at_once(mine) for mine in rows] == [1, 1]
    assert at_once(rows[0] + rows[1]) == 2, "one waited for the other"
