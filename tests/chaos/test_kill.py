"""Each kind of loss alone, on one machine: the study then equals an undisturbed one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.chaos.kinds import Chaos

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.mark.parametrize("what", ["worker", "driver", "raylet", "all", "disk"])
@pytest.mark.parametrize("seed", [1, 2])
def test_twice(
    what: str, seed: int, small_disk: Path, tmp_path: Path, dataset: Path, undisturbed: list[tuple[Any, ...]]
) -> None:
    chaos = Chaos(small_disk, dataset, logs=tmp_path)
    if what not in chaos.kinds():
        pytest.skip("filling a disk needs one of its own: only root may mount a small tmpfs")
    chaos.run([what] * 2, seed, sleep=0.3)
    assert chaos.kills[what] == 2
    chaos.check(undisturbed)
