"""The fixtures of the Ray tier, and a study that nothing happened to."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from study.home import Home
from tests.chaos.harness import Driver, essence, sigterm_as_ctrl_c
from tests.ray import driver
from tests.ray.conftest import dataset, home

MEGABYTES = 48
"""Of the small disk: a toy study leaves some two."""

__all__ = ["dataset", "home", "undisturbed"]


@pytest.fixture(scope="session")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, schema: Path, dataset: Path
) -> list[tuple[Any, ...]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    shutil.copy(schema, folder / "mlflow.db")
    one = Driver(folder, dataset, "run", driver.NAME)
    try:
        assert one.wait() == 0, one.errors()
    finally:
        one.finish()
    return essence(Home(folder).study(driver.NAME).ledger.trials())


@pytest.fixture
def small_disk(tmp_path: Path, schema: Path) -> Iterator[Path]:
    """A home on a file system of its own where one may be mounted, else on the disk of everybody."""
    sigterm_as_ctrl_c()
    folder = tmp_path / "small disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    shutil.copy(schema, folder / "mlflow.db")
    yield folder
    if mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True)
