"""A long series of random kills. CHAOS_KILLS sets its length, CHAOS_SEED its course."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest

from tests.chaos.harness import Chaos, essence, repeated_work
from tests.ray import driver

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(7200)]

KINDS = ("worker", "driver", "all")
log = logging.getLogger(__name__)


def test_soak(tmp_path: Path, dataset: Path, schema: Path) -> None:
    """By default 20 kills, more than half of which end the driver."""
    kills, seed = int(os.environ.get("CHAOS_KILLS", "20")), int(os.environ.get("CHAOS_SEED", "0"))
    trials = 4 + kills  # enough that the study outlives them
    arguments = ("run", driver.NAME, "--trials", str(trials))
    one = Chaos(_home(tmp_path / "undisturbed", schema), dataset, arguments)
    one.run([], seed, sleep=0.0)
    rows = essence(one.folder.ledger.trials())
    assert len(rows) == 2 * (trials + 2)

    plan = [str(kind) for kind in np.random.default_rng(seed).choice(KINDS, kills)]
    log.info("seed %d: %s", seed, plan)
    chaos = Chaos(_home(tmp_path / "killed", schema), dataset, arguments)
    chaos.run(plan, seed, sleep=0.05)
    log.info("%d starts, %d intervals repeated", chaos.starts, repeated_work(chaos.folder))
    chaos.check(rows)


def _home(folder: Path, schema: Path) -> Path:
    folder.mkdir()
    (folder / "mlflow.db").write_bytes(schema.read_bytes())
    return folder
