"""A password in an address is nowhere to be found: no file, no output, no record, no command line."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import optuna
import pytest

from study.storage import open_storage
from tests.chaos.harness import Driver
from tests.ray import driver
from tests.servers.conftest import Start
from tests.servers.servers import SECRETS, MlflowServer, Postgres, free_port
from tests.servers.test_studies import Servers, ended, pulse

pytestmark = [pytest.mark.servers, pytest.mark.ray, pytest.mark.timeout(600)]

OTHER = "noch-geheimer"
"""Of the environment."""


@pytest.fixture
def servers(home: Path, start: Start, optuna_url: str, mlflow_server: MlflowServer) -> Servers:
    return Servers(home, start, optuna_url, mlflow_server)


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """Of Ray's own logs; a short path, for sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        yield Path(folder)


def found_in(text: str) -> list[str]:
    return [secret for secret in (*SECRETS, OTHER) if secret in text]


def files_with_secrets(*folders: Path) -> list[Path]:
    """Of all files below the folders, of which each has some."""
    files = [[path for path in folder.rglob("*") if path.is_file()] for folder in folders]
    assert all(files)
    return [path for path in chain(*files) if found_in(path.read_bytes().decode(errors="replace"))]


def command_lines(one: Driver) -> Iterator[str]:
    for process in one.family():
        yield process.name


def records(client: Any) -> Iterable[str]:
    """All that MLflow knows of the study, as text."""
    experiment = client.get_experiment_by_name(driver.NAME)
    yield str(dict(experiment))
    for run in client.search_runs([experiment.experiment_id], max_results=1000):
        yield str(run.to_dictionary())


def test_no_trace_of_a_password(servers: Servers, postgres: Postgres, ray_folder: Path) -> None:
    """Also when the servers go away, which is when clients quote addresses."""
    servers.orders(sleep=0.2)
    one = servers.begin(
        "run", driver.NAME,
        "--optuna-storage", servers.optuna_url, f"--tracking-uri={servers.mlflow.uri_with_password}",
        MLFLOW_TRACKING_PASSWORD=OTHER, MLFLOW_TRACKING_USERNAME="bob", RAY_TMPDIR=str(ray_folder),
    )  # fmt: skip
    pulse(servers, 10)
    lines = list(command_lines(one))
    assert any("raylet" in line for line in lines)
    assert not [line for line in lines if found_in(line)]
    servers.mlflow.kill()
    pulse(servers, 10)
    servers.mlflow.start()
    postgres.stop()
    one.process.poll()
    postgres.start()
    said = ended(one)
    assert "does not answer" in said
    assert not found_in(said + one.output.read_text())
    assert "***@127.0.0.1" in one.output.read_text().replace("\n", "")
    assert files_with_secrets(servers.home, ray_folder, servers.mlflow.folder / "artifacts") == []
    assert not found_in(repr(servers.folder().ledger.trials()) + repr(servers.folder().ledger.cases()))
    assert not found_in("".join(records(servers.client)))
    storage = open_storage(servers.home, servers.optuna_url)
    studies = [
        optuna.load_study(study_name=name, storage=storage) for name in optuna.get_all_study_names(storage)
    ]
    assert not found_in(repr([(study.user_attrs, study.trials) for study in studies]))
    for command in ("status", "report"):
        look = servers.begin(command, driver.NAME, STUDY_OPTUNA_STORAGE=servers.optuna_url)
        assert not found_in(ended(look) + look.output.read_text())


@pytest.mark.parametrize("which", ["mlflow", "optuna"])
def test_a_server_that_is_not_there_is_named_without_its_password(servers: Servers, which: str) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    uris = {
        "MLFLOW_TRACKING_URI": servers.mlflow.uri_with_password,
        "STUDY_OPTUNA_STORAGE": servers.optuna_url,
    }
    if which == "mlflow":
        uris["MLFLOW_TRACKING_URI"] = servers.mlflow.uri_with_password.rpartition("@")[0] + f"@{nobody}"
    else:
        uris["STUDY_OPTUNA_STORAGE"] = servers.optuna_url.rpartition("@")[0] + f"@{nobody}/optuna"
    one = servers.begin("run", driver.NAME, **uris)
    assert one.wait() == 2
    said = one.errors()
    assert said.count("\n") == 1
    assert f"***@{nobody}" in said
    assert not found_in(said + one.output.read_text())
    assert files_with_secrets(servers.home) == []
