"""The fixtures of the Ray tier, and a study that nothing happened to."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from study.home import Home
from tests.chaos.harness import Driver, essence
from tests.ray import driver
from tests.ray.conftest import dataset, home, schema

__all__ = ["dataset", "home", "schema", "undisturbed"]


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
