"""Ten losses of every kind that one machine knows: what is short enough for every run of the tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.chaos.harness import essence
from tests.chaos.kinds import Chaos
from tests.ray import driver
from tests.servers.servers import MlflowServer

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1800)]

KINDS = {"worker": 3, "driver": 1, "raylet": 1, "all": 1, "tracking": 1, "teller": 1, "disk": 2}
ARGUMENTS = ("run", driver.NAME, "--trials", "14")


@pytest.fixture
def mlflow_server(tmp_path: Path, schema: Path) -> Iterator[MlflowServer]:
    """On a file of its own: PostgreSQL is not everywhere."""
    folder = tmp_path / "mlflow"
    folder.mkdir()
    (folder / "mlflow.db").write_bytes(schema.read_bytes())
    server = MlflowServer(folder, f"sqlite:///{folder / 'mlflow.db'}")
    yield server
    server.kill()


def test_ten_losses_change_nothing(
    small_disk: Path, home: Path, tmp_path: Path, dataset: Path, mlflow_server: MlflowServer
) -> None:
    """`pytest -m chaos` has a hundred, on a cluster with servers."""
    expected = Chaos(home, dataset, ARGUMENTS)
    expected.run([], 0, sleep=0.0)
    chaos = Chaos(small_disk, dataset, ARGUMENTS, logs=tmp_path, mlflow=mlflow_server)
    plan = [kind for kind, times in KINDS.items() for _ in range(times)]
    # Without a disk of its own (only root may mount one) the home's is not filled.
    plan = [kind if kind in chaos.kinds() else "worker" for kind in plan]
    chaos.run(list(np.random.default_rng(0).permutation(plan)), 0, sleep=0.3)
    assert chaos.kills.total() == 10
    chaos.check(essence(expected.folder.ledger.trials()))
