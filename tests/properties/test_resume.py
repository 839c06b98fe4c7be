"""A training that was interrupted and continued is bit for bit the training that was not."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces import hyper_parameters
from tests.unit.trainables.toy_data import opened, protocol, trial_on
from trainables import discovery
from trainables.annotations import Annotation
from trainables.data.dataset import Dataset
from trainables.loop import InterruptionError, Training
from trainables.protocol import Protocol
from trainables.statistics import STATISTICS
from trainables.trial import Trial

CPU = torch.device("cpu")
STEPS = 4
OPTIMISERS = [
    str(option)
    for parameter in hyper_parameters(Protocol)
    if parameter.name == "optimiser" and parameter.allowed is not None
    for option in parameter.allowed.corners()
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return opened(tmp_path_factory.mktemp("toy"))


def choices() -> list[tuple[str, dict[str, Any], str]]:
    """Every method with every optimiser, and with each named option of each of its choices."""
    out: list[tuple[str, dict[str, Any], str]] = []
    for name in discovery.names():
        out += [(name, {}, optimiser) for optimiser in OPTIMISERS]
        for p in hyper_parameters(discovery.load(name)):
            if p.allowed is not None and not p.searched:
                out += [
                    (name, {p.name: option}, "sgd") for option in p.allowed.corners() if option != p.default
                ]
    return out


def trial_of(dataset: Dataset, name: str, values: dict[str, Any], optimiser: str = "sgd") -> Trial:
    pixels = "dense" if "dense" in discovery.load(name).needs else "points"
    annotation = Annotation(pixels=pixels, pixel_budget=0 if pixels == "dense" else 2, statistics=STATISTICS)
    trial = trial_on(
        dataset,
        method=name,
        settings=values,
        annotation=annotation,
        protocol=protocol(iterations=STEPS, optimiser=optimiser),
        network_settings={"width": 2, "levels": 2},
    )
    trial.check()
    return trial


def saved_and_loaded(training: Training) -> dict[str, Any]:
    """Through a file, as a checkpoint is: nothing in it but tensors and plain values."""
    file = io.BytesIO()
    torch.save(training.state_dict(), file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def run(trial: Trial, dataset: Dataset, interruptions: tuple[int, ...] = ()) -> tuple[Any, ...]:
    """(last loss terms, state, validation Dice) after STEPS steps and as many fresh processes."""
    training = Training(trial, dataset, CPU)
    for t in interruptions:
        training.advance(t)
        state = saved_and_loaded(training)
        torch.manual_seed(12345)  # another process has another past
        training = Training(trial, dataset, CPU)
        training.load_state_dict(state)
    training.advance(STEPS - 1)
    return training.advance(STEPS), saved_and_loaded(training), training.validate(["dice"])["dice"]


def broken_off(trial: Trial, dataset: Dataset, reports: tuple[int, ...], stops: set[int]) -> list[Any]:
    """What every report says, and the last state, of processes that are told to stop at those iterations."""
    left, said, state = set(stops), list[Any](), None
    while len(said) < len(reports):
        training = Training(trial, dataset, CPU)
        training.interrupted = lambda: training.iteration in left  # noqa: B023 - called within this turn
        if state is not None:
            training.load_state_dict(state)
        try:
            for until in reports[len(said) :]:
                terms = training.advance(until)
                said.append((terms, training.validate(["dice"])))
        except InterruptionError:
            left.discard(training.iteration)  # the next process is not told
        state = saved_and_loaded(training)
        torch.manual_seed(54321)
    assert not left
    return [*said, state]


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for key in value for leaf in [key, *leaves(value[key])]]
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in leaves(item)]
    return [(str(value.dtype), value.tolist())] if isinstance(value, torch.Tensor) else [value]


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("name", discovery.names())
def test_two_trainings_are_equal(dataset: Dataset, name: str, optimiser: str) -> None:
    trial = trial_of(dataset, name, {}, optimiser)
    one, other = (run(trial, dataset) for _ in range(2))
    assert leaves(one) == leaves(other)
    another = run(dataclasses.replace(trial, seed=1), dataset)
    assert leaves(another) != leaves(one)


@pytest.mark.parametrize(("name", "values", "optimiser"), choices(), ids=str)
def test_continued_equals_uninterrupted(
    dataset: Dataset, name: str, values: dict[str, Any], optimiser: str
) -> None:
    trial = trial_of(dataset, name, values, optimiser)
    assert leaves(run(trial, dataset, interruptions=(2,))) == leaves(run(trial, dataset))


@settings(max_examples=4, deadline=None, derandomize=True)
@given(interruptions=st.sets(st.integers(0, STEPS - 1), min_size=1).map(sorted).map(tuple))
def test_any_interruptions(dataset: Dataset, interruptions: tuple[int, ...]) -> None:
    trial = trial_of(dataset, "summary_statistics", {"reconstruction": "composite"})
    assert leaves(run(trial, dataset, interruptions)) == leaves(run(trial, dataset))


@settings(max_examples=8, deadline=None, derandomize=True)
@given(stops=st.sets(st.integers(0, STEPS), min_size=1))
def test_broken_off_anywhere_the_reports_are_the_same(dataset: Dataset, stops: set[int]) -> None:
    """Between two reports, in a validation (at 3 and at the end), more than once: also the mean losses."""
    trial = trial_of(dataset, "summary_statistics", {})
    undisturbed = broken_off(trial, dataset, (3, STEPS), set())
    assert leaves(broken_off(trial, dataset, (3, STEPS), stops)) == leaves(undisturbed)


@pytest.mark.parametrize("name", discovery.names())
def test_the_mean_losses_of_a_broken_off_report(dataset: Dataset, name: str) -> None:
    trial = trial_of(dataset, name, {})
    assert leaves(broken_off(trial, dataset, (STEPS,), {1, 3})) == leaves(
        broken_off(trial, dataset, (STEPS,), set())
    )


def test_the_optimiser_travels_with_the_checkpoint(dataset: Dataset) -> None:
    """Without its momentum the continuation differs: the equalities above are no accident."""
    trial = trial_of(dataset, "full_supervision", {})
    training, continued = Training(trial, dataset, CPU), Training(trial, dataset, CPU)
    training.advance(2)
    fresh = continued.optimiser.state_dict()
    continued.load_state_dict({**saved_and_loaded(training), "optimiser": fresh})
    assert leaves(training.advance(4)) != leaves(continued.advance(4))
