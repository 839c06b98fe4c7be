"""Images a second of the published protocol on a GPU: the whole loop, with each weak loss and without."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from study import click_arms, datasets
from study.home import Home
from study.spec import Data
from tests.benchmarks.measure import Note
from tests.tiny import plain_methods
from trainables.loop import Training
from trainables.protocol import Protocol
from trainables.trial import Trial

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="the published protocol is one for a GPU"),
]

STEPS = 100
GOALS = {"contrastive_variance": "<= 1.02", "gated_crf": "<= 1.05"}


def _seconds(training: Training) -> float:
    torch.cuda.synchronize()
    started = time.perf_counter()
    training.advance(training.iteration + STEPS)
    torch.cuda.synchronize()
    return time.perf_counter() - started


@pytest.mark.parametrize("batch_size", [12, 64])
def test_images_per_second(batch_size: int, benchmark: Any, ratio: Note, tmp_path: Path) -> None:
    dataset, data = datasets.open_data(Data(dataset="phantoms-organs", size=(256, 256)), Home(tmp_path))
    with plain_methods():
        trainings = {
            method: Training(
                Trial(
                    method=method,
                    annotation=click_arms.POINT,
                    protocol=Protocol(iterations=60_000, batch_size=batch_size),
                    data=data,
                ),
                dataset,
                torch.device("cuda"),
            )
            for method in click_arms.METHODS.values()
        }
        compiled = Training(
            Trial(
                method="partial_cross_entropy",
                annotation=click_arms.POINT,
                protocol=Protocol(iterations=60_000, batch_size=batch_size, compiled=True),
                data=data,
            ),
            dataset,
            torch.device("cuda"),
        )
        trainings["partial_cross_entropy, compiled"] = compiled
        plain = trainings["partial_cross_entropy"]
        for training in trainings.values():
            _seconds(training)  # warms up
        benchmark.pedantic(lambda: _seconds(plain), rounds=3)
        step = min(_seconds(plain) for _ in range(3)) / STEPS
        ratio(f"thousand images a second, U-Net, 256x256, batch {batch_size}, bf16, no weak loss",
              batch_size / step / 1000, "none")  # fmt: skip
        for method, training in trainings.items():
            taken = min(_seconds(training) for _ in range(3)) / STEPS
            ratio(f"step with {method} over one without a weak loss, batch {batch_size}, GPU",
                  taken / step, GOALS.get(method, "none"))  # fmt: skip
