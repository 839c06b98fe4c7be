"""A long series of random losses, on a cluster with servers: a hundred, in studies of ten each.

CHAOS_KILLS sets the length, CHAOS_SEED the course.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.chaos.harness import COSTS, essence, repeated_work
from tests.chaos.kinds import Chaos
from tests.cluster.conftest import cluster
from tests.cluster.nodes import Cluster
from tests.ray import driver
from tests.servers.conftest import mlflow_server, mlflow_session, postgres, postgres_session
from tests.servers.servers import MlflowServer, Postgres

__all__ = ["cluster", "mlflow_server", "mlflow_session", "postgres", "postgres_session"]

pytestmark = [pytest.mark.chaos, pytest.mark.ray]

KILLS = int(os.environ.get("CHAOS_KILLS", "100"))
SEED = int(os.environ.get("CHAOS_SEED", "0"))
OF_A_STUDY = 10
TRIALS = 4 + 2 * OF_A_STUDY
"""Of an arm's search: enough that the study outlives its kills."""

ARGUMENTS = ("run", driver.NAME, "--trials", str(TRIALS))
log = logging.getLogger(__name__)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, schema: Path, dataset: Path) -> list[tuple[Any, ...]]:
    """The rows of the same study on one machine, to which nothing happens."""
    home = tmp_path_factory.mktemp("undisturbed")
    (home / "mlflow.db").write_bytes(schema.read_bytes())
    one = Chaos(home, dataset, ARGUMENTS)
    one.run([], 0, sleep=0.0)
    return essence(one.folder.ledger.trials())


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", range(SEED, SEED + -(-KILLS // OF_A_STUDY)))
def test_soak(
    seed: int,
    small_disk: Path,
    tmp_path: Path,
    dataset: Path,
    expected: list[tuple[Any, ...]],
    cluster: Cluster,
    postgres: Postgres,
    mlflow_server: MlflowServer,
) -> None:
    assert len(expected) == 2 * (TRIALS + 2)
    began = time.monotonic()
    mlflow_server.set_aside()
    services = {"cluster": cluster, "postgres": postgres, "mlflow": mlflow_server}
    chaos = Chaos(small_disk, dataset, ARGUMENTS, logs=tmp_path, **services)
    kills = min(OF_A_STUDY, KILLS - OF_A_STUDY * (seed - SEED))
    plan = [str(kind) for kind in np.random.default_rng(seed).choice(chaos.kinds(), kills)]
    log.info("seed %d: %s", seed, plan)
    chaos.run(plan, seed, sleep=0.3)
    chaos.check(expected)
    log.info(
        "seed %d: %d kills %s, %d starts of the driver, %d trials each finished once, "
        "%d intervals repeated where %d may be, %.0f s",
        seed, kills, dict(chaos.kills), chaos.starts, len(expected), repeated_work(chaos.folder),
        sum(COSTS[kind] * times for kind, times in chaos.kills.items()), time.monotonic() - began,
    )  # fmt: skip
