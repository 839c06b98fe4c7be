"""A study from which parts are taken at seeded moments: each kind of loss one function, all in one table."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from study.home import Home
from tests.chaos import harness
from tests.chaos.harness import PATIENCE, Driver, Process, essence, trace_lines, wait_for, workers_among
from tests.cluster.nodes import Cluster
from tests.ray import driver
from tests.ray.toy import HOLD, ORDERS
from tests.servers.servers import MlflowServer, Postgres

LONGEST_OUTAGE = 5.0
"""Seconds for which a server is away before it is started again, at most."""

FILLER = "filler"


@dataclass
class Chaos:
    """A study that loses something again and again, and is started again until it ends.

    On this machine unless there is a cluster; Optuna and MLflow in files unless there are servers. The disk
    of the home can be filled where it is a file system of its own.
    """

    home: Path
    dataset: Path
    arguments: tuple[str, ...] = ("run", driver.NAME)
    logs: Path | None = None
    cluster: Cluster | None = None
    postgres: Postgres | None = None
    mlflow: MlflowServer | None = None

    def __post_init__(self) -> None:
        self.folder = Home(self.home).study(driver.NAME)
        self.kills: Counter[str] = Counter()
        self.starts = 0
        self.environment: dict[str, str] = {}
        self.optuna_url = None if self.postgres is None else self.postgres.create(f"o{time.time_ns()}")
        if self.optuna_url is not None:
            self.environment["STUDY_OPTUNA_STORAGE"] = self.optuna_url
        if self.mlflow is not None:
            self.environment["MLFLOW_TRACKING_URI"] = self.mlflow.uri
        if self.cluster is not None:
            self.environment["RAY_AUTH_MODE"] = self.cluster.environment["RAY_AUTH_MODE"]
            self.environment["RAY_ADDRESS"] = self.cluster.address

    def kinds(self) -> list[str]:
        """What can be taken from this study."""
        return [name for name, kind in KINDS.items() if kind.possible(self)]

    def run(self, plan: list[str], seed: int, *, sleep: float) -> None:
        """Carries the plan out in order, then lets the study end."""
        (self.home / ORDERS).write_text(json.dumps({"sleep": sleep}))
        rng = np.random.default_rng(seed)
        waiting = list(plan)
        code = -1
        while code != 0:
            one = Driver(
                self.home, self.dataset, *self.arguments, environment=self.environment, logs=self.logs
            )
            self.starts += 1
            try:
                expected = self._disturb(one, waiting, rng)
                code = one.wait()
                wait_for(lambda one=one: not one.lasting(), PATIENCE, "the end of Ray's processes")
            finally:
                one.finish()
            if code == 2 and "Ray must start within" in one.errors():
                continue  # this machine has much to do: as users would, later again
            assert code in (expected.ends or 0, 0), f"{self.kills}: {code}\n{one.errors()}"
            if code == expected.ends:
                assert expected.says in one.errors(), one.errors()
                assert "Traceback" not in one.errors(), one.errors()
        assert not waiting, f"the study ended before {waiting}; give it more trials or sleep"

    def _disturb(self, one: Driver, waiting: list[str], rng: np.random.Generator) -> Kind:
        """Strikes, each time after a random number of new trace lines, until the driver's end or the plan's.

        Returns the last kind.
        """
        kind = Kind(kill_worker)
        while waiting and one.process.poll() is None:
            goal = trace_lines(self.folder) + int(rng.integers(2, 14))
            self.lines(one, goal, PATIENCE, "progress")
            time.sleep(float(rng.uniform(0, 0.1)))
            if one.process.poll() is None:
                kind = KINDS[waiting[0]]
                kind.strike(self, one, rng)
                self.kills[waiting.pop(0)] += 1
                if kind.ends is not None:
                    break
        return kind

    def lines(self, one: Driver, goal: int, patience: float, what: str = "") -> None:
        """Waits until the trials left so many lines, or the driver ends. Raises TimeoutError if `what`."""
        reached = lambda: one.process.poll() is not None or trace_lines(self.folder) >= goal  # noqa: E731
        with contextlib.nullcontext() if what else contextlib.suppress(TimeoutError):
            wait_for(reached, patience, what)

    def outage(self, one: Driver, rng: np.random.Generator) -> None:
        """Lets the study go on for a moment without what it has just lost."""
        goal = trace_lines(self.folder) + int(rng.integers(0, 10))
        self.lines(one, goal, float(rng.uniform(0, LONGEST_OUTAGE)))

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """No trial gets further meanwhile: a server may take longer to start than the study to end."""
        (self.home / HOLD).touch()
        try:
            yield
        finally:
            (self.home / HOLD).unlink()

    def check(self, undisturbed: list[tuple[Any, ...]]) -> None:
        """Everything that a disturbed study promises. Raises AssertionError."""
        rows = self.folder.ledger.trials()
        different = set(essence(rows)) ^ set(undisturbed)
        assert not different, sorted(different)
        harness.assert_ended_once(self.folder)
        harness.assert_few_repeats(self.folder, self.kills)
        harness.assert_optuna_agrees(self.folder, rows, self.optuna_url)
        harness.assert_mlflow_agrees(self.home, rows, None if self.mlflow is None else self.mlflow.uri)


def kill_worker(chaos: Chaos, one: Driver, rng: np.random.Generator) -> None:
    """A process that trains, on whichever node."""
    found: list[Process] = []

    def some() -> bool:
        everybody = one.family() if chaos.cluster is None else chaos.cluster.processes()
        found[:] = workers_among(everybody)
        return bool(found) or one.process.poll() is not None

    wait_for(some, PATIENCE, "a worker")
    if found:
        found[int(rng.integers(len(found)))].kill()


def kill_driver(chaos: Chaos, one: Driver, rng: np.random.Generator) -> None:
    """And nothing else: what it started must notice."""
    one.process.kill()


def kill_raylet(chaos: Chaos, one: Driver, rng: np.random.Generator) -> None:
    """The only node of a local Ray, as when memory runs out: the driver says so and ends.

    Ray needs up to 20 s to notice (2.60), for which the workers go on: a short study would come to its end.
    """
    (raylet,) = raylets_among(one.family())
    raylet.kill()
    chaos.outage(one, rng)
    with chaos.held():
        one.wait()


def kill_node(chaos: Chaos, one: Driver, rng: np.random.Generator) -> None:
    """A node of a cluster, all at once or its raylet first; another joins."""
    assert chaos.cluster is not None
    node = chaos.cluster.nodes[int(rng.integers(len(chaos.cluster.nodes)))]
    if rng.random() < 0.5:
        for raylet in raylets_among(node.processes()):
            raylet.kill()
        chaos.outage(one, rng)
    chaos.cluster.remove(node)
    chaos.outage(one, rng)
    with chaos.held():
        chaos.cluster.add()


def kill_all(chaos: Chaos, one: Driver, rng: np.random.Generator) -> None:
    """The driver and all of Ray at once, as when the power fails."""
    everybody = one.family() + ([] if chaos.cluster is None else chaos.cluster.processes())
    for process in everybody:
        process.kill()
    if chaos.cluster is not None:
        chaos.cluster.restart()


def kill_database(chaos: Chaos, one: Driver, rng: np.random.Generator) -> None:
    """PostgreSQL's first process, without any of its care; started again after a while."""
    assert chaos.postgres is not None
    chaos.postgres.stop(signal.SIGKILL)
    chaos.outage(one, rng)
    with chaos.held():
        chaos.postgres.start()


def kill_tracking(chaos: Chaos, one: Driver, rng: np.random.Generator) -> None:
    """MLflow's server and its workers; started again after a while."""
    assert chaos.mlflow is not None
    chaos.mlflow.kill()
    chaos.outage(one, rng)
    with chaos.held():
        chaos.mlflow.start()


def kill_teller(chaos: Chaos, one: Driver, rng: np.random.Generator) -> None:
    """The driver's process that tells MLflow: the driver starts another."""
    for process in one.family():
        if "study.tracking_process" in process.name:
            process.kill()


def fill_disk(chaos: Chaos, one: Driver, rng: np.random.Generator) -> None:
    """All that the home's disk has left, but a few pages; there is space again once the driver has ended."""
    filler = chaos.home / FILLER
    with filler.open("wb") as file:
        for piece in (1 << 20, 1 << 12):
            with contextlib.suppress(OSError):
                while True:
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), piece)
        left = int(rng.integers(0, 10)) << 12
        file.truncate(max(0, file.seek(0, os.SEEK_END) - left))
    try:
        one.wait()
    finally:
        filler.unlink()


def raylets_among(processes: list[Process]) -> list[Process]:
    return [p for p in processes if p.name.split()[0].endswith("/raylet")]


@dataclass(frozen=True)
class Kind:
    """One way to lose something."""

    strike: Callable[[Chaos, Driver, np.random.Generator], None]
    """Takes it and, unless the driver ends by it, gives it back."""
    ends: int | None = None
    """The driver's exit code; None: it goes on."""
    says: str = ""
    """What its last words hold then."""
    possible: Callable[[Chaos], bool] = lambda chaos: True


KINDS = {
    "worker": Kind(kill_worker),
    "driver": Kind(kill_driver, -signal.SIGKILL),
    "raylet": Kind(kill_raylet, 2, "Ray's last node died", possible=lambda chaos: chaos.cluster is None),
    "node": Kind(kill_node, possible=lambda chaos: chaos.cluster is not None),
    "all": Kind(kill_all, -signal.SIGKILL),
    "database": Kind(kill_database, possible=lambda chaos: chaos.postgres is not None),
    "tracking": Kind(kill_tracking, possible=lambda chaos: chaos.mlflow is not None),
    "teller": Kind(kill_teller),
    "disk": Kind(fill_disk, 2, "o space ", possible=lambda chaos: chaos.home.is_mount()),
}
