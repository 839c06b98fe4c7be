"""The loop: steps by hand, the schedule, repeatability, divergence, and scores of a known prediction."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.unit.trainables import toy_data
from tests.unit.trainables.toy_data import NETWORK, WEAK, only, protocol, trial_on
from trainables import inference, metrics
from trainables.data.dataset import Dataset
from trainables.loop import NotFiniteError, Training
from trainables.method import Network, Output
from trainables.seeds import stable_seed
from trainables.trial import Trial

CPU = torch.device("cpu")


class Constant(Network):
    """Predicts one class everywhere, or as many first columns of each class as are given."""

    def __init__(self, columns: Sequence[int]) -> None:
        super().__init__()
        self.num_classes = len(columns)
        self.classes_W = torch.repeat_interleave(torch.arange(len(columns)), torch.tensor(columns))

    def forward(self, image_BCHW: Tensor) -> Output:
        one_hot_KW = nn.functional.one_hot(self.classes_W, self.num_classes).T.float()
        batch, _, height, _ = image_BCHW.shape
        logits = one_hot_KW[None, :, None].expand(batch, -1, height, -1)
        return Output(logits, image_BCHW, image_BCHW)


def training_of(trial: Trial, data: Dataset) -> Training:
    return Training(trial, data, CPU)


def parameters(training: Training) -> list[Tensor]:
    modules = (training.net, training.state)
    return [p.detach().clone() for module in modules for p in module.parameters()]


def gradients(training: Training) -> list[Tensor]:
    """Of the loss of the step that comes next, as the loop draws it."""
    torch.manual_seed(stable_seed("step", training.trial.seed, training.iteration))
    training.net.train()
    batch = training.batches.batch(training.iteration)
    terms = training.method.losses(training.net, batch, training.state, 0.0)
    owned = [*training.net.parameters(), *training.state.parameters()]
    return list(torch.autograd.grad(terms["total"], owned))


def weak_trial(dataset: Dataset, **changes: Any) -> Trial:
    return trial_on(dataset, method="summary_statistics", annotation=WEAK, **changes)


def test_one_step_of_each_optimiser_by_hand(dataset: Dataset) -> None:
    rate, decay = 0.01, 0.004
    for optimiser in ("sgd", "adam"):
        settings = protocol(optimiser=optimiser, learning_rate=rate, weight_decay=decay)
        trial = weak_trial(dataset, protocol=settings)
        training = training_of(trial, dataset)
        before, slopes = parameters(training), gradients(training_of(trial, dataset))
        training.advance(1)
        for old, slope, new in zip(before, slopes, parameters(training), strict=True):
            g = slope + decay * old
            step = g if optimiser == "sgd" else g / (g.abs() + 1e-8)
            # float32: weights near 1, and Adam divides by gradients near its epsilon
            torch.testing.assert_close(new, old - rate * step, rtol=1e-5, atol=1e-6)


def test_momentum_reaches_both_optimisers(dataset: Dataset) -> None:
    for optimiser in ("sgd", "adam"):
        trial = weak_trial(dataset, protocol=protocol(optimiser=optimiser, momentum=0.6))
        (group,) = training_of(trial, dataset).optimiser.param_groups
        assert group["momentum" if optimiser == "sgd" else "betas"] in (0.6, (0.6, 0.999))


def test_what_a_method_keeps_beside_the_network_is_trained(dataset: Dataset) -> None:
    training = training_of(weak_trial(dataset), dataset)
    before = [p.detach().clone() for p in training.state.parameters()]
    assert before
    training.advance(2)
    after = list(training.state.parameters())
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("schedule", ["poly", "cosine", "constant"])
def test_the_rate_follows_the_schedule(
    dataset: Dataset, schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = trial_on(dataset, protocol=protocol(schedule=schedule, learning_rate=0.02, iterations=5))
    training = training_of(trial, dataset)
    rates: list[float] = []
    step = training.optimiser.step

    def recorded() -> None:
        rates.extend(group["lr"] for group in training.optimiser.param_groups)
        step()

    monkeypatch.setattr(training.optimiser, "step", recorded)
    training.advance(2)
    training.advance(5)
    factors: dict[str, Callable[[int], float]] = {
        "poly": lambda t: (1 - t / 5) ** 0.9,
        "cosine": lambda t: (1 + math.cos(math.pi * t / 5)) / 2,
        "constant": lambda t: 1.0,
    }
    assert rates == pytest.approx([0.02 * factors[schedule](t) for t in range(5)], rel=1e-12)


def test_terms_are_means_over_the_steps(dataset: Dataset) -> None:
    trial = trial_on(dataset)
    one_by_one, at_once = training_of(trial, dataset), training_of(trial, dataset)
    steps = [one_by_one.advance(t) for t in (1, 2, 3)]
    terms = at_once.advance(3)
    assert terms.keys() == {"total", "cross_entropy", "dice"}
    for name, value in terms.items():
        assert value == pytest.approx(np.mean([step[name] for step in steps]), rel=1e-6)
    assert at_once.iteration == one_by_one.iteration == 3


def test_progress_is_the_trained_fraction(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    training = training_of(trial_on(dataset, protocol=protocol(iterations=4)), dataset)
    seen: list[tuple[str, float]] = []
    method = training.method

    class Spy:
        def losses(self, net: Network, batch: Any, state: nn.Module, progress: float) -> dict[str, Tensor]:
            seen.append(("losses", progress))
            return method.losses(net, batch, state, progress)

        def after_step(self, net: Network, state: nn.Module, progress: float) -> None:
            seen.append(("after", progress))

    monkeypatch.setattr(training, "method", Spy())
    training.advance(3)
    fractions = (0.0, 0.25, 0.5)
    assert seen == [(call, fraction) for fraction in fractions for call in ("losses", "after")]


def test_seed_decides_weights(dataset: Dataset) -> None:
    one, again, other = (parameters(training_of(trial_on(dataset, seed=seed), dataset)) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not torch.equal(one[0], other[0])


def test_divergence_is_an_error_of_its_own(dataset: Dataset) -> None:
    trial = trial_on(dataset, protocol=protocol(learning_rate=1e30))
    training = training_of(trial, dataset)
    with pytest.raises(NotFiniteError, match=r"not finite between iterations 0 and 6: .*total = (nan|inf)"):
        training.advance(6)


def test_a_known_prediction_has_known_scores(dataset: Dataset) -> None:
    """Nothing but background: Dice 1 where a class is absent from a volume, else 0."""
    training = training_of(trial_on(dataset), dataset)
    training.net = Constant([16, 0, 0])
    rows = dataset.folds[0].val
    volumes = np.array(dataset.volume_ids)[rows]
    absent = [
        [not (dataset.masks_NHW[rows[volumes == v]] == k).any() for v in sorted(set(volumes))] for k in (1, 2)
    ]
    assert 0 < np.sum(absent) < np.size(absent)
    assert training.validate(["dice"])["dice"] == pytest.approx(np.mean(absent))
    assert training.validate(["iou"])["iou"] == pytest.approx(np.mean(absent))
    scores = training.score(rows)
    assert [s.missed for s in scores] == [not a for pair in zip(*absent, strict=True) for a in pair]


def test_half_a_prediction_by_hand(dataset: Dataset) -> None:
    training = training_of(trial_on(dataset), dataset)
    training.net = Constant([4, 12, 0])
    row = next(int(r) for r in dataset.folds[0].val if (dataset.masks_NHW[r] == 1).any())
    inside = dataset.masks_NHW[row] == 1
    (score, _) = training.score(np.array([row]))
    assert score.dice == pytest.approx(2 * inside[:, 4:].sum() / (inside.sum() + 16 * 12))
    assert score.area_error == pytest.approx((16 * 12 - inside.sum()) / 256)


@pytest.mark.parametrize("metric", ["dice", "iou", "hd95", "area_error", "size_error"])
def test_validation_is_the_mean_score(dataset: Dataset, metric: str) -> None:
    training = training_of(trial_on(dataset), dataset)
    training.net = Constant([3, 7, 6])
    expected = metrics.mean_score(training.score(dataset.folds[0].val), metric)
    assert training.validate([metric])[metric] == pytest.approx(expected, rel=1e-12)
    assert math.isfinite(expected)


def test_prediction_is_that_of_evaluation_mode(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """No dropout, no batch statistics: an image's prediction depends on nothing but itself."""
    training = training_of(trial_on(dataset), dataset)
    training.advance(2)
    rows = dataset.folds[0].train
    together = training.predict(rows)
    buffers = {name: b.clone() for name, b in training.net.named_buffers()}
    monkeypatch.setattr(inference, "BATCH", 1)
    np.testing.assert_array_equal(training.predict(rows), together)
    assert together.dtype == np.uint8
    assert all(torch.equal(b, buffers[name]) for name, b in training.net.named_buffers())


def test_validation_does_not_disturb_the_training(dataset: Dataset) -> None:
    disturbed, left_alone = (training_of(trial_on(dataset), dataset) for _ in range(2))
    for until in (2, 4, 6):
        disturbed.advance(until)
        disturbed.validate(["dice"])
    left_alone.advance(6)
    assert all(torch.equal(a, b) for a, b in zip(parameters(disturbed), parameters(left_alone), strict=True))


def test_eight_images_can_be_learnt(dataset: Dataset) -> None:
    few = only(dataset, dataset.folds[0].train[2:10])
    assert {int(k) for k in np.unique(few.masks_NHW[few.folds[0].train])} == {0, 1, 2}
    settings = protocol(optimiser="adam", learning_rate=0.01, iterations=80, batch_size=8)
    trial = trial_on(few, protocol=settings, network_settings={**NETWORK, "width": 4})
    training = training_of(trial, few)
    before = training.validate(["dice"])["dice"]
    first, last = training.advance(10)["total"], 0.0
    for until in (70, 80):
        last = training.advance(until)["total"]
    assert last < first / 4
    assert before < 0.5
    assert training.validate(["dice"])["dice"] > 0.9


def test_a_pretrained_trial_starts_from_the_network_it_is_given(dataset: Dataset) -> None:
    first = training_of(trial_on(dataset), dataset)
    first.advance(6)
    fine = trial_on(dataset, seed=5, pretraining=trial_on(dataset))
    started = Training(fine, dataset, torch.device("cpu"), network=first.net.state_dict())
    rows = dataset.folds[0].val
    np.testing.assert_array_equal(started.predict(rows), first.predict(rows))
    assert started.iteration == 0
    started.advance(2)
    assert not all(
        torch.equal(a, b) for a, b in zip(started.net.parameters(), first.net.parameters(), strict=True)
    )


def test_nothing_is_trained_in_no_iterations(dataset: Dataset) -> None:
    trial = trial_on(dataset, protocol=protocol(iterations=0), pretraining=trial_on(dataset))
    training = training_of(trial, dataset)
    before = parameters(training)
    assert training.advance(0) == {}
    assert all(torch.equal(a, b) for a, b in zip(parameters(training), before, strict=True))


@pytest.mark.parametrize(("rule", "metric", "expected"), [("iou", "iou", 2), ("size_error", "size_error", 1)])
def test_the_best_weights_by_validation_are_kept(
    dataset: Dataset, rule: str, metric: str, expected: int
) -> None:
    training = training_of(trial_on(dataset, protocol=protocol(keep=f"best_{rule}")), dataset)
    history = []
    for value in ({"iou": 0.4, "size_error": 3.0}, {"iou": 0.3, "size_error": 1.0},
                  {"iou": 0.6, "size_error": 2.0}, {"iou": 0.5, "size_error": 4.0}):  # fmt: skip
        training.advance(training.iteration + 1)
        history.append([p.clone() for p in training.net.parameters()])
        kept = training.keep(value)
    assert kept[metric] == {"iou": 0.6, "size_error": 1.0}[metric]
    saved = training.state_dict()
    again = training_of(training.trial, dataset)
    again.load_state_dict(saved)
    again.restore_kept()
    assert all(torch.equal(a, b) for a, b in zip(again.net.parameters(), history[expected], strict=True))


@pytest.mark.slow
def test_a_compiled_network_trains_and_its_weights_fit_a_plain_one(dataset: Dataset) -> None:
    """Its dropout draws other numbers, so that the trainings differ."""
    plain, compiled = (
        training_of(trial_on(dataset, protocol=protocol(compiled=compiled)), dataset)
        for compiled in (False, True)
    )
    before = parameters(compiled)
    assert math.isfinite(compiled.advance(3)["total"])
    assert not all(torch.equal(a, b) for a, b in zip(before, parameters(compiled), strict=True))
    plain.load_state_dict(compiled.state_dict())
    rows = dataset.folds[0].test
    assert (plain.predict(rows) != compiled.predict(rows)).mean() < 0.01  # fused sums round differently


def test_predictions_are_judged_at_the_size_of_the_stored_masks(tmp_path: Path) -> None:
    """At 4x4 the truth would lose its details and the score would be another."""
    full, small = toy_data.opened(tmp_path), toy_data.opened(tmp_path, size=(4, 4))
    training = training_of(trial_on(small), small)
    training.net = Constant([2, 1, 1])
    rows = small.folds[0].test
    drawn_NHW = np.broadcast_to(np.repeat([0, 0, 1, 2], 4), (len(rows), 16, 16)).astype(np.uint8)
    by_hand = metrics.score_volumes(
        drawn_NHW,
        full.masks_NHW[rows],
        case_ids=[full.case_ids[r] for r in rows],
        volume_ids=[full.volume_ids[r] for r in rows],
        slice_index=full.slice_index[rows],
        spacing_mm=full.spacing_mm[rows],
        num_classes=3,
    )
    scores = training.score(rows)
    assert [(s.dice, s.hd95, s.area_error) for s in scores] == [
        (s.dice, s.hd95, s.area_error) for s in by_hand
    ]
    val = small.folds[0].val
    assert training.validate(["dice"])["dice"] == pytest.approx(metrics.mean_dice(training.score(val)))


def test_the_edge_filter_clears_columns_in_proportion_to_the_width(dataset: Dataset) -> None:
    plain = training_of(trial_on(dataset), dataset)
    filtered = training_of(trial_on(dataset, protocol=protocol(edge_filter=50)), dataset)
    rows = dataset.folds[0].test[:2]
    for training in (plain, filtered):
        training.net = Constant([0, 16, 0])
    assert (plain.predict(rows) == 1).all()
    predicted = filtered.predict(rows)
    assert (predicted[:, :, 3:13] == 1).all()  # 50 of 256 columns are 3 of 16
    assert not predicted[:, :, :3].any()
    assert not predicted[:, :, 13:].any()


def test_without_a_rule_the_last_weights_are_scored(dataset: Dataset) -> None:
    training = training_of(trial_on(dataset), dataset)
    training.advance(2)
    before = parameters(training)
    assert training.keep({"dice": 0.5}) == {"dice": 0.5}
    assert training.keep({"dice": 0.1}) == {"dice": 0.1}
    training.restore_kept()
    assert all(torch.equal(a, b) for a, b in zip(parameters(training), before, strict=True))


@pytest.mark.parametrize(
    ("value", "than", "metric", "better"),
    [
        (0.6, 0.5, "dice", True), (0.5, 0.5, "dice", False), (1.0, 2.0, "size_error", True),
        (math.nan, 0.0, "dice", False), (0.0, math.nan, "dice", True), (math.nan, math.nan, "hd95", False),
    ],
)  # fmt: skip
def test_better_is_what_the_metric_says(value: float, than: float, metric: str, better: bool) -> None:
    assert metrics.is_better(value, than, metric) is better
