"""The tiny data set, written once a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.trainables import toy_data
from trainables.data.dataset import Dataset


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("toy")


@pytest.fixture(scope="session")
def dataset(toy_folder: Path) -> Dataset:
    return toy_data.opened(toy_folder)
