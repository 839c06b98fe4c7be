"""The fixtures of the Ray tier, the undisturbed studies, and a cluster of a head and two nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos.conftest import undisturbed
from tests.chaos.harness import Driver, sigterm_as_ctrl_c
from tests.cluster.nodes import Cluster
from tests.ray.conftest import dataset, home
from tests.ray.driver import DATASET

__all__ = ["cluster", "dataset", "home", "start", "undisturbed"]

Start = Callable[..., Driver]


@pytest.fixture(scope="module")
def cluster(dataset: Path) -> Iterator[Cluster]:
    """Tests that take a node away add another."""
    sigterm_as_ctrl_c()
    made = Cluster(**{DATASET: str(dataset), "COLUMNS": "100"})
    try:
        made.add()
        made.add()
        yield made
    finally:
        made.close()


@pytest.fixture
def start(cluster: Cluster, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts drivers on the cluster; none of their processes outlives the test."""
    monkeypatch.setenv("RAY_AUTH_MODE", cluster.environment["RAY_AUTH_MODE"])
    started: list[Driver] = []

    def begin(home: Path, *arguments: str) -> Driver:
        started.append(Driver(home, dataset, *arguments, "--address", cluster.address))
        return started[-1]

    yield begin
    for one in started:
        one.finish()
