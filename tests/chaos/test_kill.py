"""Each kind of kill alone (a worker, the driver, everything): the study then equals an undisturbed one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.chaos.harness import Chaos

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.mark.parametrize("what", ["worker", "driver", "all"])
@pytest.mark.parametrize("seed", [1, 2])
def test_kill(what: str, seed: int, home: Path, dataset: Path, undisturbed: list[tuple[Any, ...]]) -> None:
    chaos = Chaos(home, dataset)
    chaos.run([what] * 2, seed, sleep=0.05)
    assert chaos.kills[what] == 2
    chaos.check(undisturbed)
