"""One PostgreSQL for the session, and on it one MLflow server and fresh databases for the studies."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos.conftest import undisturbed
from tests.chaos.harness import Driver, sigterm_as_ctrl_c
from tests.ray.conftest import dataset
from tests.servers.servers import MlflowServer, Postgres, account, program

__all__ = ["dataset", "undisturbed"]

Start = Callable[..., Driver]


@pytest.fixture(scope="session")
def postgres_session() -> Iterator[Postgres]:
    absent = [name for name in ("initdb", "postgres") if program(name) is None]
    if absent:
        pytest.skip(f"PostgreSQL's {' and '.join(absent)} not found: apt-get install postgresql")
    if account() is None:
        pytest.skip("PostgreSQL does not run as root, and there is no user postgres or nobody")
    sigterm_as_ctrl_c()
    with tempfile.TemporaryDirectory() as folder:  # not pytest's, which is closed to other users
        server = Postgres(Path(folder))
        yield server
        server.stop()


@pytest.fixture
def postgres(postgres_session: Postgres) -> Postgres:
    """Running, whatever the last test did to it."""
    postgres_session.start()
    return postgres_session


@pytest.fixture
def optuna_url(postgres: Postgres) -> str:
    """An empty database."""
    return postgres.create(f"optuna_{uuid.uuid4().hex}")


@pytest.fixture(scope="session")
def mlflow_session(
    postgres_session: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MlflowServer]:
    folder = tmp_path_factory.mktemp("mlflow")
    server = MlflowServer(folder, postgres_session.create("mlflow"))
    yield server
    server.kill()


@pytest.fixture
def mlflow_server(postgres: Postgres, mlflow_session: MlflowServer) -> MlflowServer:
    """Running, whatever the last test did to it."""
    if mlflow_session.process is None or mlflow_session.process.poll() is not None:
        mlflow_session.start()
    return mlflow_session


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Without a database: they are elsewhere."""
    folder = tmp_path / "my runs"
    folder.mkdir()
    return folder


@pytest.fixture
def start(home: Path, dataset: Path) -> Iterator[Start]:
    """Starts drivers of `home`; none of their processes outlives the test."""
    started: list[Driver] = []

    def begin(*arguments: str, **environment: str) -> Driver:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("MLFLOW_TRACKING_URI", "STUDY_OPTUNA_STORAGE"):
                patch.delenv(name, raising=False)
            for name, value in environment.items():
                patch.setenv(name, value)
            started.append(Driver(home, dataset, *arguments))
        return started[-1]

    yield begin
    for one in started:
        one.finish()
