"""A study without Ray and networks: toy arms, values by a known function, drivers that are killed."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest

from search_spaces import Choice
from study import arms as shared
from study.arm_board import Job
from study.board import Board
from study.home import Home
from study.pretraining import Networks
from study.results import CaseRow, TrialRow
from study.spec import Arm, Replicates, Search, Study, space
from trainables.annotations import Annotation
from trainables.protocol import Protocol
from trainables.trial import DataSource


@pytest.fixture(scope="session")
def trained_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with the really trained study "toy"; not to be changed."""
    from tests.unit.study.exporting import make_home  # trainables and Ray, which most tests here do without

    return make_home(tmp_path_factory.mktemp("trained"))


DATA = DataSource(path="toy.parquet", fingerprint="toy")
DISCRETE, DIVERGING, SEARCHED = "two clicks", "always diverges", "statistic"


def discrete_arm() -> Arm:
    """Three configurations, so that a search of twelve must repeat some."""
    return Arm(
        name=DISCRETE,
        method="partial_cross_entropy",
        annotation=Annotation(**shared.clicks(2)),
        search=space("partial_cross_entropy", learning_rate=Choice((1e-3, 3e-3, 1e-2))),
    )


def diverging_arm() -> Arm:
    return Arm(
        name=DIVERGING,
        method="full_supervision",
        annotation=Annotation(pixels="dense"),
        search=space("full_supervision", learning_rate=shared.LEARNING_RATE),
    )


def a_study(
    *, arms: Sequence[Arm] | None = None, seeds: tuple[int, ...] = (1001, 1002), **search: Any
) -> Study:
    settings = {"trials": 12, "lookahead": 3, "sampler": "random", "rungs": (1 / 6, 0.5), **search}
    return Study(
        name="toy",
        question="Does the board keep its word?",
        arms=tuple(arms or (shared.statistic(SEARCHED, 5), discrete_arm(), diverging_arm())),
        search=Search(**settings),
        replicates=Replicates(seeds=seeds),
        protocol=Protocol(optimiser="adam", learning_rate=3e-3, iterations=60, batch_size=4, reports=6),
    )


class ListLedger:
    """`study.results.Ledger` in memory; its rule of which row counts is written a second time here."""

    def __init__(self) -> None:
        self.rows: list[TrialRow] = []
        self.case_rows: list[CaseRow] = []

    def append(self, trial: TrialRow, cases: Sequence[CaseRow] = ()) -> None:
        self.rows.append(trial)
        self.case_rows += cases

    def trials(self) -> list[TrialRow]:
        latest: dict[Any, TrialRow] = {}
        for row in self.rows:
            if row.is_final or row.identity not in latest or not latest[row.identity].is_final:
                latest[row.identity] = row
        return list(latest.values())


class Killed(BaseException):
    """The driver process dies here."""


class FakeNetworks(Networks):
    """Pre-trained networks without files, and no other driver that might train one."""

    def __init__(self) -> None:
        super().__init__(Path("nowhere"))
        self.left: set[str] = set()
        self.results: dict[str, dict[str, Any]] = {}

    def has(self, key: str) -> bool:
        return key in self.left

    def result(self, key: str) -> dict[str, Any]:
        return self.results[key]

    def claim(self, key: str) -> bool:
        return True

    def release(self, key: str) -> None:
        pass


class Workers:
    """What the trainable does, with a checkpoint per key that outlives the driver."""

    def __init__(self, networks: FakeNetworks) -> None:
        self.networks = networks
        self.checkpoints: dict[str, dict[str, Any]] = {}
        self.trained: Counter[tuple[str, int]] = Counter()
        """How often (key, iteration) was trained."""
        self.told: defaultdict[Any, list[int]] = defaultdict(list)
        """Iterations of the reports that a listener heard of, by the trial's identity."""

    def step(self, job: Job, metric: str = "dice") -> dict[str, Any]:
        key = job.row.key
        saved = self.checkpoints.setdefault(key, {"curve": [], "state": "running"})
        if saved["state"] == "running":
            state = fate(job, len(saved["curve"]))
            if state != "running":
                return {**saved, "state": state, "reason": "toy"}
            points = job.trial.protocol.report_points()
            iteration = points[len(saved["curve"])]
            self.trained[key, iteration] += 1
            point = {"iteration": iteration, "seconds": iteration / 10, metric: value(job, iteration)}
            final = iteration == points[-1]
            saved = {"curve": [*saved["curve"], point], "state": "finished" if final else "running"}
            self.checkpoints[key] = saved
            if final and job.phase == "pretrain":
                self.networks.left.add(key)
                self.networks.results[key] = saved
        cases = [case(job)] if saved["state"] == "finished" and job.trial.test else []
        return {**saved, "cases": cases}

    # As `study.service.Listeners`: the checkpoint of a searched trial is freed once it has ended.
    def trial_started(self, row: TrialRow) -> None:
        pass

    def trial_reported(self, row: TrialRow) -> None:
        self.told[row.identity].append(row.iterations)

    def trial_ended(self, row: TrialRow) -> None:
        if row.phase != "confirm":
            self.checkpoints.pop(row.key, None)


def fate(job: Job, reports: int) -> str:
    """Some regions of the space end badly after so many reports, always at the same one."""
    if job.arm == DIVERGING and reports == 2:
        return "diverged"
    if job.trial.settings.get("statistic_weight", 1.0) > 20 and reports == 4:
        return "diverged"
    if job.trial.settings.get("confidence_weight", 0.1) < 0.006 and reports == 1:
        return "failed"
    return "running"


def value(job: Job, iteration: int) -> float:
    """Best at learning rate 0.005 and weight 3; grows with training; a little luck by seed."""
    weight = job.trial.settings.get("statistic_weight", 3.0)
    distance = math.log10(weight / 3) ** 2 + math.log10(job.trial.protocol.learning_rate / 0.005) ** 2
    return math.exp(-distance) * iteration / 60 * (1 - 0.01 * (job.trial.seed % 7))


def case(job: Job) -> dict[str, Any]:
    dice = value(job, 60)
    return {
        "case_id": "c1", "volume_id": "c1", "class_id": 1, "dice": dice, "iou": dice / 2, "hd95": 3.0,
        "hd95_max": 3.0, "distance_unit": "px", "area_error": 0.1, "relative_area_error": 0.1,
        "size_error": 1.0, "missed": False, "false_alarm": False, "both_empty": False,
    }  # fmt: skip


class World:
    """What outlives a driver: the ledger, the database, the workers' checkpoints."""

    def __init__(self, ledger: Any = None) -> None:
        self.ledger = ListLedger() if ledger is None else ledger
        self.storage: Any = optuna.storages.InMemoryStorage()
        self.networks = FakeNetworks()
        self.workers = Workers(self.networks)
        self.deaths = 0

    def board(self, study: Study) -> Board:
        return Board(
            study,
            storage=self.storage,
            ledger=self.ledger,
            data=DATA,
            class_names=("background", "lesion"),
            annotation_seconds={arm.name: 5.0 for arm in study.arms},
            listener=self.workers,
            networks=self.networks,
        )

    def outcome(self) -> set[tuple[Any, ...]]:
        """What must not depend on order, concurrency and deaths."""
        rows = self.ledger.trials()
        return {(r.arm, r.phase, r.number, r.key, r.state, r.value, r.iterations) for r in rows if r.is_final}

    def run(self, study: Study, *, seed: int = 0, concurrency: int = 1, deadly: float = 0.0) -> Board:
        """One driver after another until the study is finished; each dies at a moment that `seed` decides."""
        chance = random.Random(seed)

        def danger() -> None:
            if chance.random() < deadly:
                self.deaths += 1
                raise Killed

        while True:
            try:
                board = self.board(study)
                make_dangerous(board, danger)
                work(board, self.workers, chance, concurrency, danger)
                return board
            except Killed:
                continue


def make_dangerous(board: Board, danger: Callable[[], None]) -> None:
    """A driver may die before its ledger or its database hears of something that the other knows."""
    ledger, append = board.ledger, type(board.ledger).append

    def risky_append(row: TrialRow, cases: Sequence[CaseRow] = ()) -> None:
        danger()
        append(ledger, row, cases)

    board.ledger = type("Risky", (), {"append": staticmethod(risky_append), "trials": ledger.trials})()
    for arm in board.arms.values():
        arm.store.changed = risky(arm.store.changed, danger)  # type: ignore[method-assign]
        arm.store.store.add = risky(arm.store.store.add, danger)  # type: ignore[method-assign]
        arm.store.store.tell = risky(arm.store.store.tell, danger)  # type: ignore[method-assign]


def risky(call: Callable[..., None], danger: Callable[[], None]) -> Callable[..., None]:
    def called(*arguments: Any) -> None:
        danger()
        call(*arguments)

    return called


def work(
    board: Board, workers: Workers, chance: random.Random, concurrency: int, danger: Callable[[], None]
) -> None:
    """What Ray Tune and the adapters do: fill the places, pass on reports in any order, stop what must."""
    jobs: list[Job] = []
    while not board.finished():
        danger()
        while len(jobs) < concurrency and (job := board.suggest()) is not None:
            check_promises(board, job, jobs)
            jobs.append(job)
        if board.finished():  # the last search trials of an arm were repetitions
            return
        assert jobs, "nothing runs and nothing may start"
        job = chance.choice(jobs)
        result = workers.step(job)
        danger()
        if not board.report(job, result):
            board.end(job, result, "pruned", reason="stopped")
        elif result["state"] != "running":
            board.end(job, result, result["state"])
        if job.id not in board.running:
            jobs.remove(job)


def check_promises(board: Board, job: Job, jobs: list[Job]) -> None:
    assert job.id not in {j.id for j in jobs}
    assert job.row.key not in {j.row.key for j in jobs}
    start = job.trial.pretraining
    assert start is None or board.pretraining.networks.has(start.key())
    if job.phase == "pretrain":
        return
    arm = board.arms[job.arm]
    if job.phase == "search":
        assert sum(j.arm == job.arm for j in jobs) < board.study.search.lookahead
        return
    best = arm.selected()
    assert best is not None
    assert all(a.ended for a in arm.attempts)
    assert len(arm.attempts) == arm.target
    assert job.row.parameters == best.parameters
    assert (job.trial.seed, job.trial.fold) == board.study.replicates.pairs()[job.number]
    assert job.trial.seed != board.study.search.seed
    assert job.trial.test
