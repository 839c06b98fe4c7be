"""What the loader adds to a training step, and how much of a study's wall time is training."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from study import datasets, discovery, plan
from study.home import Home
from study.results import Ledger
from study.spec import Data
from tests.benchmarks.measure import interleaved, stepper
from trainables import saved
from trainables.annotations import Annotation
from trainables.left import CHECKPOINT
from trainables.loop import Training
from trainables.protocol import Protocol
from trainables.store import Store
from trainables.trial import Trial

pytestmark = pytest.mark.timeout(1800)


def test_loader_cost_per_step(
    benchmark: Any, ratio: Callable[[str, float, str], None], tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    study = discovery.load("ablation_pixels")
    dataset, data = datasets.open_data(study.data, Home(tmp_path))
    arm = study.arm("statistic + 5 pixels")
    trial = plan.trial_of(study, arm, {}, data, seed=0, fold=0, test=False)
    training = Training(trial, dataset, torch.device("cpu"))
    training.advance(5)
    batch = training.batches.batch(5)
    rounds, loading, bare = 30, 0.0, 0.0
    for step in range(rounds):  # alternating, so that other load on the machine meets both
        started = time.perf_counter()
        training.batches.batch(step)
        between = time.perf_counter()
        training.method.losses(training.net, batch, training.state, 0.5)["total"].backward()
        training.optimiser.step()
        loading, bare = loading + between - started, bare + time.perf_counter() - between
    benchmark.pedantic(training.batches.batch, (7,), rounds=20)
    ratio("loader over bare training step (U-Net, 64x64, batch 12, CPU)", loading / bare, "<= 0.02")


def test_heavy_augmentation_cost_per_step(
    benchmark: Any, ratio: Callable[[str, float, str], None], tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    dataset, data = datasets.open_data(Data(dataset="phantoms-organs", size=(128, 128)), Home(tmp_path))
    trainings = [
        Training(
            Trial(
                method="partial_cross_entropy",
                annotation=Annotation(pixels="points", pixel_budget=5),
                network_settings={"width": 8, "levels": 4},
                protocol=Protocol(augmentation=augmentation),
                data=data,
            ),
            dataset,
            torch.device("cpu"),
        )
        for augmentation in ("flips_turns", "heavy")
    ]
    light, heavy = (training.batches for training in trainings)
    batch = light.batch(0)
    step = stepper(trainings[0].method, trainings[0].net, batch)
    light_s, heavy_s, step_s = interleaved([lambda: light.batch(1), lambda: heavy.batch(1), step], 20, "cpu")
    benchmark.pedantic(heavy.batch, (1,), rounds=5)
    ratio("what heavy augmentation adds, over a bare training step (U-Net of width 8 and 4 levels, 128x128, "
          "batch 12, CPU)", (heavy_s - light_s) / step_s, "<= 0.05")  # fmt: skip


def test_checkpoint_cost_per_interval(
    benchmark: Any, ratio: Callable[[str, float, str], None], tmp_path: Path
) -> None:
    """A checkpoint after each of six reports of the study that the README runs first."""
    torch.set_num_threads(1)
    study = discovery.load("ablation_pixels")
    dataset, data = datasets.open_data(study.data, Home(tmp_path))
    arm = study.arm("statistic + 5 pixels")
    trial = plan.trial_of(study, arm, {}, data, seed=0, fold=0, test=False)
    training = Training(trial, dataset, torch.device("cpu"))
    training.advance(1)
    until = trial.protocol.report_points()[0]
    store = Store.at(tmp_path)

    def write() -> None:
        saved.write(store, CHECKPOINT, {"training": training.state_dict(), "result": {}}, "key")

    started = time.perf_counter()
    training.advance(until)
    interval = time.perf_counter() - started
    started = time.perf_counter()
    for _ in range(10):
        write()
    checkpoint = (time.perf_counter() - started) / 10
    benchmark.pedantic(write, rounds=5)
    ratio("a checkpoint over the training between two reports (ablation_pixels)", checkpoint / interval,
          "<= 0.02")  # fmt: skip


def test_share_of_wall_time_in_training(
    benchmark: Any, ratio: Callable[[str, float, str], None], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "study.run", "ablation_pixels", "--home", str(tmp_path)]
    started = time.perf_counter()
    benchmark.pedantic(lambda: subprocess.run(command, check=True, capture_output=True), rounds=1)
    wall = time.perf_counter() - started
    rows = Ledger(tmp_path / "ablation_pixels" / "ledger").trials()
    slots = len(os.sched_getaffinity(0))
    ratio("training seconds over wall seconds x trials at once, whole ablation_pixels",
          sum(row.seconds for row in rows) / (wall * slots), ">= 0.9")  # fmt: skip
