"""Trials are tried out as they will be trained; the device that tells of its memory is made up here."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.trainables.toy_data import protocol, trial_on
from trainables import inference, probe
from trainables.data.dataset import Dataset
from trainables.failures import NotFiniteError
from trainables.loop import Training
from trainables.probe import LENGTH, STEPS, CudaCounter, Probe
from trainables.trial import Trial


class MadeUp:
    """A device of 1000 bytes; the peak of each trial is told before."""

    device = torch.device("cpu")

    def __init__(self, *peaks: int) -> None:
        self.peaks, self.restarts = peaks, 0

    def restart(self) -> None:
        self.restarts += 1

    def peak_bytes(self) -> int:
        return self.peaks[self.restarts - 1]

    def outside_bytes(self) -> int:
        return 50

    def total_bytes(self) -> int:
        return 1000

    def name(self) -> str:
        return "made up"

    def busy(self) -> float | None:
        return 0.25


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Place:
    def __init__(self, folder: Path, dataset: Dataset) -> None:
        self.folder, self.dataset = folder, dataset

    def raw(self, **changes: Any) -> dict[str, Any]:
        trial = trial_on(self.dataset, self.folder / "toy.parquet", **changes)
        raw: dict[str, Any] = json.loads(json.dumps(trial.to_dict()))
        return raw

    def probe(self, *peaks: int) -> Probe:
        return Probe(str(self.folder / "cache"), 1, MadeUp(*peaks))


@pytest.fixture
def place(toy_folder: Path, dataset: Dataset) -> Place:
    return Place(toy_folder, dataset)


def watched(monkeypatch: pytest.MonkeyPatch, name: str) -> list[Any]:
    """What the method of a training is called with."""
    calls: list[Any] = []
    original = getattr(Training, name)

    def noted(self: Training, *arguments: Any) -> Any:
        calls.append((self.iteration, *arguments))
        return original(self, *arguments)

    monkeypatch.setattr(Training, name, noted)
    return calls


def test_each_trial_is_trained_at_three_moments_and_validated(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    advanced, predicted = watched(monkeypatch, "advance"), watched(monkeypatch, "predict")
    one = place.probe(300, 200)
    first = one.load(place.raw())
    assert advanced == [(0, STEPS), (LENGTH // 2, LENGTH // 2 + STEPS), (LENGTH - STEPS, LENGTH)]
    assert [len(rows) for _, rows in predicted] == [min(inference.BATCH, len(place.dataset.folds[0].val))]
    assert (first.fits, first.peak_bytes, first.outside_bytes, first.total_bytes) == (True, 300, 50, 1000)
    assert first.name == "made up"
    assert one.load(place.raw(seed=1)).peak_bytes == 200  # the peak counts anew


def test_the_weights_that_a_protocol_keeps_are_held_too(place: Place) -> None:
    one = place.probe(1, 1)
    one.load(place.raw())
    assert one.training is not None
    assert one.training.kept is None
    one.load(place.raw(protocol=protocol(keep="best_iou")))
    assert one.training.kept is not None


def test_a_trial_is_the_one_that_will_be_trained(place: Place) -> None:
    """Nothing but its length differs."""
    raw = place.raw(protocol=protocol(batch_size=3))
    one = place.probe(1)
    one.load(raw)
    assert one.training is not None
    tried = one.training.trial
    assert tried.protocol.iterations == LENGTH
    wanted = Trial.from_dict(raw)
    assert dataclasses.replace(tried, protocol=wanted.protocol) == wanted
    assert tried.protocol.batch_size == 3


def test_memory_that_is_not_enough_is_a_result(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    one = place.probe(10, 10)

    def full(self: Training, until: int) -> None:
        raise torch.OutOfMemoryError("no more")

    with monkeypatch.context() as patch:
        patch.setattr(Training, "advance", full)
        found = one.load(place.raw())
    assert (found.fits, found.peak_bytes) == (False, 1000)
    assert one.training is None  # nothing of it stays
    assert one.train(0.01).steps_per_second == 0.0
    assert one.load(place.raw()).fits


def test_a_bug_is_none(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Training, until: int) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(Training, "advance", broken)
    with pytest.raises(KeyError, match="a bug"):
        place.probe(1).load(place.raw())


def test_a_trial_that_diverges_takes_no_less(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverges(self: Training, until: int) -> None:
        self.iteration = until
        raise NotFiniteError("the loss is nan")

    monkeypatch.setattr(Training, "advance", diverges)
    one = place.probe(10)
    assert one.load(place.raw()).fits
    assert one.train(0.01).steps_per_second > 0


def test_steps_are_timed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that a step moves on by a second: five pairs of looks at it in ten seconds."""
    one = place.probe(1)
    one.load(place.raw())
    now = [100.0]
    monkeypatch.setattr(probe.time, "perf_counter", lambda: now[0])

    def second(self: Training, until: int) -> None:
        now[0] += until - self.iteration
        self.iteration = until

    monkeypatch.setattr(Training, "advance", second)
    told = one.train(10.0)
    assert told.steps_per_second == 1.0
    assert told.busy == 0.25


def test_without_cuda_there_is_no_gpu_and_the_probe_says_so(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not Probe(str(place.folder / "cache"), 1).has_gpu()
    assert place.probe(1).has_gpu()
    assert CudaCounter().busy() is None  # no driver, no answer, no error
