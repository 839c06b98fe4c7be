"""PostgreSQL and an MLflow tracking server as own processes on loopback, stopped and killed at will."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import mlflow
import psycopg

PATIENCE = 120.0
"""Seconds that a server may take to start on a busy machine."""

USER = "study"
PASSWORD = "geheim-Wort/27"
"""With a character that an address must quote."""

QUOTED = "geheim-Wort%2F27"
SECRETS = (PASSWORD, QUOTED)


def program(name: str) -> str | None:
    """A program of PostgreSQL, where Debian keeps it too."""
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    return shutil.which(name) or next(map(str, debian), None)


def account() -> str | None:
    """Whom the database runs as: PostgreSQL refuses root. None where root finds nobody else."""
    if os.getuid() != 0:
        return pwd.getpwuid(os.getuid()).pw_name
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    return None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Any, what: str, patience: float = PATIENCE) -> None:
    """Polls until the condition holds. Raises TimeoutError."""
    end = time.monotonic() + patience
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not happen within {patience:g} s")
        time.sleep(0.1)


class Postgres:
    """A cluster in `folder`, which must be reachable for `account()`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.process: subprocess.Popen[bytes] | None = None
        word = folder / "password"
        word.write_text(PASSWORD)
        if os.getuid() == 0:
            for path in (folder, word):
                shutil.chown(path, account())
        self._do(
            "initdb", "-D", str(self.data), "-U", USER, "--auth=scram-sha-256", f"--pwfile={word}",
            "--encoding=UTF8", "--no-locale", "--no-sync",
        ).wait(PATIENCE)  # fmt: skip
        self.start()

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def _do(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        path = program(name)
        assert path is not None
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [path, *arguments], cwd=self.folder, stdout=log, stderr=log, start_new_session=True,
                user=account() if os.getuid() == 0 else None,
            )  # fmt: skip

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://{USER}:{QUOTED}@127.0.0.1:{self.port}/{database}"

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user=USER, password=PASSWORD, dbname=database,
            autocommit=True, connect_timeout=5,
        )  # fmt: skip

    def create(self, database: str) -> str:
        """A new database; its address."""
        with self.connect() as connection:
            connection.execute(f'CREATE DATABASE "{database}"')
        return self.url(database)

    def start(self) -> None:
        """Returns when it answers. After a kill the old one's children may still be leaving: tried again."""
        end = time.monotonic() + PATIENCE
        while not self._answers():
            if self.process is None or self.process.poll() is not None:
                self.process = self._do(
                    "postgres", "-D", str(self.data), "-p", str(self.port),
                    "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=",
                )  # fmt: skip
            if time.monotonic() > end:
                raise TimeoutError((self.folder / "postgres.log").read_text()[-2000:])
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self, number: int = signal.SIGINT) -> None:
        """SIGINT: shutdown that ends every connection; SIGKILL: as a crash."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(PATIENCE)


class MlflowServer:
    """`mlflow server` with artifacts proxied and its host check on."""

    def __init__(self, folder: Path, backend: str) -> None:
        self.folder, self.backend, self.port = folder, backend, free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def uri_with_password(self) -> str:
        """Its check of passwords is MLflow's affair; here it matters where the password goes."""
        return f"http://{USER}:{QUOTED}@127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns when it answers. The database's address is in the environment: nobody reads it there."""
        environment = {
            **os.environ,
            "MLFLOW_BACKEND_STORE_URI": self.backend,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        with (self.folder / "mlflow.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port),
                    "--workers", "1", "--serve-artifacts",
                    "--artifacts-destination", str(self.folder / "artifacts"),
                    "--allowed-hosts", f"127.0.0.1:{self.port}",
                ],
                cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        until(self._answers, f"the start of MLflow's server, see {self.folder / 'mlflow.log'}")

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def set_aside(self) -> None:
        """Renames the experiments of earlier tests: the server is the session's."""
        client: Any = mlflow.MlflowClient(tracking_uri=self.uri)
        for experiment in client.search_experiments():
            if experiment.name != "Default":
                client.rename_experiment(experiment.experiment_id, f"of an earlier test {time.time()}")

    def kill(self) -> None:
        """kill -9 of the server and its workers: the session that its start opened."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(PATIENCE)
            until(lambda: not self._answers(), "the end of MLflow's server")
