"""For all tests: one thread for what they compute, whose tensors are tiny, and MLflow's tables made once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is first imported, after this file


@pytest.fixture(scope="session")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's database without content: making its tables takes seconds."""
    import mlflow

    path = tmp_path_factory.mktemp("schema") / "mlflow.db"
    mlflow.MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path
