"""A study whose trials do nothing, run by our engine and by stock Ray Tune: what is left is overhead."""

from __future__ import annotations

import resource
import tempfile
import time
from functools import partial
from pathlib import Path

from ray import tune

from search_spaces import Float
from study import engine, storage
from study.board import Board
from study.engine import Machine
from study.listeners import Listeners
from study.ownership import Owner
from study.pretraining import Networks
from study.results import Ledger
from study.spec import Arm, Replicates, Search, Study, space
from study.tracking import Tracker
from study.tracking_process import TrackingProcess
from study.trial_files import TrialFiles
from tests.benchmarks.idle import NoOp, OneSecond
from trainables.annotations import Annotation
from trainables.protocol import Protocol
from trainables.store import Store
from trainables.trial import DataSource


def study(trials: int) -> Study:
    """Two arms of `trials` / 2 each, TPE as in stock OptunaSearch, one report a trial."""
    arms = tuple(
        Arm(
            name=name,
            method="summary_statistics",
            annotation=Annotation(statistics=("area",)),
            search=space("summary_statistics", "statistic_weight", learning_rate=Float(1e-4, 1e-2, log=True)),
        )
        for name in ("a", "b")
    )
    return Study(
        name="noop",
        question="How much does a trial cost beside its training?",
        arms=arms,
        search=Search(trials=trials // 2, sampler="tpe", lookahead=4, rungs=()),
        replicates=Replicates(seeds=(1001,)),
        protocol=Protocol(learning_rate=3e-3, iterations=1, reports=1),
    )


def ours(trials: int, trainable: type = NoOp) -> tuple[float, int, int]:
    """Seconds, trials and the driver's peak memory in KiB of a whole run with ledger, Optuna and MLflow."""
    with tempfile.TemporaryDirectory() as room:
        folder = Path(room) / "noop"
        folder.mkdir()
        place = Store.at(folder)
        definition = study(trials)
        make = partial(
            Tracker,
            home=Path(room), study="noop", question="", metric="dice", greater_is_better=True,
            tracking_uri=f"sqlite:///{room}/mlflow.db", spec_json="{}",
            dataset={"name": "none", "fingerprint": "0" * 16, "path": "", "num_images": 0, "num_cases": 0},
            owner=Owner(study="noop", identity="noop", place=room, begun=False, known=frozenset),
        )  # fmt: skip
        with TrackingProcess(make, folder, list) as tracker:
            tracker.start([arm.name for arm in definition.arms])
            board = Board(
                definition,
                storage=storage.open_storage(folder, None),
                ledger=Ledger(folder / "ledger"),
                data=DataSource(path="none", fingerprint="none"),
                class_names=("background", "target"),
                annotation_seconds={arm.name: 0.0 for arm in definition.arms},
                listener=Listeners(tracker, TrialFiles(place, folder), place),
                networks=Networks(Path(room) / "pretrained"),
            )
            machine, slots = engine.connect(Machine())
            started = time.perf_counter()
            try:
                engine.run(board, machine, slots, folder, place=place, trainable=trainable)
                tracker.close(300.0)
                seconds = time.perf_counter() - started
            finally:
                engine.disconnect()
        count = sum(len(arm.rows) + len(arm.confirmed) for arm in board.arms.values())
        return seconds, count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def over_ideal(trials: int) -> list[float]:
    """Seconds of a run of one-second trials on all slots over the seconds that the trials alone take."""
    seconds, count, _ = ours(trials, OneSecond)
    return [seconds * engine.available_cores() / count]


def stock(trials: int) -> tuple[float, int]:
    """Seconds and trials of Ray Tune with OptunaSearch and its MLflow callback, joined as documented."""
    import ray
    from ray.air.integrations.mlflow import MLflowLoggerCallback
    from ray.tune.search.optuna import OptunaSearch

    with tempfile.TemporaryDirectory() as room:
        engine.connect(Machine())
        callback = MLflowLoggerCallback(tracking_uri=f"sqlite:///{room}/mlflow.db", experiment_name="noop")
        started = time.perf_counter()
        try:
            tuner = tune.Tuner(
                tune.with_resources(NoOp, {"cpu": 1}),
                param_space={
                    "statistic_weight": tune.loguniform(0.1, 100),
                    "learning_rate": tune.loguniform(1e-4, 1e-2),
                },
                tune_config=tune.TuneConfig(
                    search_alg=OptunaSearch(metric="dice", mode="max"),
                    num_samples=trials,
                    metric="dice",
                    mode="max",
                ),
                run_config=tune.RunConfig(storage_path=room, verbose=0, callbacks=[callback]),
            )
            results = tuner.fit()
            seconds = time.perf_counter() - started
        finally:
            ray.shutdown()
        return seconds, len(results)
