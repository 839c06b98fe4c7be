"""What the Ray tier shares: a tiny data set, MLflow's empty database, and one Ray for many small studies."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from study import engine, service
from study.answer import Answer
from study.engine import Machine
from study.home import Home
from study.results import TrialRow
from study.spec import Study
from tests.ray import driver
from tests.ray.toy import ORDERS, ToyTrainable
from trainables.data.parquet import Row, write_dataset

ROOT = Path(__file__).resolve().parents[2]


def _square(case: int) -> Row:
    """A bright square somewhere on noise."""
    rng = np.random.default_rng(case)
    mask_HW = np.zeros((16, 16), np.uint8)
    row, column = rng.integers(1, 8, size=2)
    mask_HW[row : row + 6, column : column + 6] = 1
    image_HW = (rng.integers(0, 100, size=(16, 16)) + 100 * mask_HW).astype(np.uint8)
    return Row(case_id=f"case{case}", slice_index=0, image=image_HW, mask=mask_HW)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "squares.parquet"
    names = [f"case{i}" for i in range(8)]
    splits = {"train": names[:4], "val": names[4:6], "test": names[6:]}
    write_dataset(
        path,
        map(_square, range(8)),
        name="squares",
        class_names=("background", "square"),
        splits=splits,
        metadata={},
    )
    return path


@pytest.fixture
def home(tmp_path: Path, schema: Path) -> Path:
    folder = tmp_path / "my runs"  # with a space, as some have
    folder.mkdir()
    shutil.copy(schema, folder / "mlflow.db")
    return folder


@pytest.fixture(scope="module")
def one_ray() -> Iterator[None]:
    """One local Ray for all studies of a module: only the first connects, only the last disconnects."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))  # workers import tests.ray.toy
        engine.connect(Machine())
        import ray

        patch.setattr(ray, "init", lambda **options: None)
        disconnect = engine.disconnect
        patch.setattr(engine, "disconnect", lambda: None)
        # Drivers in processes of their own have it as users do; here each would import MLflow anew.
        patch.setattr(service, "TrackingProcess", lambda make, folder, rows: contextlib.nullcontext(make()))
        yield
        disconnect()


@dataclasses.dataclass
class Runner:
    """Runs toy studies in this process; keeps what the terminal showed."""

    home: Path
    dataset: Path
    console: Console = dataclasses.field(default_factory=lambda: Console(file=io.StringIO(), width=100))

    def study(self, **search: Any) -> Study:
        study = driver.define(str(self.dataset))
        return dataclasses.replace(study, search=dataclasses.replace(study.search, **search))

    def orders(self, **orders: Any) -> None:
        (self.home / ORDERS).write_text(json.dumps(orders))

    def run(self, study: Study, machine: Machine | None = None) -> Answer:
        prepared = service.prepare(study, Home(self.home))
        return service.run(prepared, machine or Machine(), self.console, trainable=ToyTrainable)

    def rows(self) -> dict[str, TrialRow]:
        """By "arm/phase/number"."""
        ledger = Home(self.home).study(driver.NAME).ledger
        return {f"{row.arm}/{row.phase}/{row.number}": row for row in ledger.trials()}

    def trace(self, row: TrialRow) -> list[tuple[str, int, int]]:
        """(word, number, process) of every line that the trial left."""
        folder = Home(self.home).study(driver.NAME).path / "trials" / row.key
        lines = [line.split() for line in (folder / "trace").read_text().splitlines()]
        return [(word, int(number), int(process)) for word, number, process in lines]


@pytest.fixture
def runner(home: Path, dataset: Path, one_ray: None) -> Runner:
    return Runner(home, dataset)
