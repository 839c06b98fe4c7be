"""Translation to Optuna: same bounds, and every draw lies in the domain it came from."""

from __future__ import annotations

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from search_spaces import Choice, Domain, Float, Int
from search_spaces.to_optuna import distribution, distributions

SPACE: dict[str, Domain] = {
    "weight": Float(1e-4, 1.0, log=True),
    "share": Float(0.0, 1.0),
    "count": Int(2, 8, step=3),
    "form": Choice(("rel", "abs", "sq")),
    "tied": Choice((False, True)),
}


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        (SPACE["weight"], FloatDistribution(1e-4, 1.0, log=True)),
        (SPACE["share"], FloatDistribution(0.0, 1.0)),
        (SPACE["count"], IntDistribution(2, 8, step=3)),
        (SPACE["form"], CategoricalDistribution(("rel", "abs", "sq"))),
        (SPACE["tied"], CategoricalDistribution((False, True))),
    ],
)
def test_each_kind(domain: Domain, expected: object) -> None:
    assert distribution(domain) == expected


def test_keeps_names_and_order() -> None:
    assert list(distributions(SPACE)) == list(SPACE)


@pytest.mark.parametrize(
    "sampler", [optuna.samplers.RandomSampler(seed=0), optuna.samplers.TPESampler(seed=0, n_startup_trials=5)]
)
def test_draws_lie_in_the_domain(sampler: optuna.samplers.BaseSampler) -> None:
    study = optuna.create_study(sampler=sampler)
    seen: dict[str, set[object]] = {name: set() for name in SPACE}
    for number in range(40):
        trial = study.ask(fixed_distributions=distributions(SPACE))
        for name, value in trial.params.items():
            assert value in SPACE[name]
            seen[name].add(value)
        study.tell(trial, float(number))
    assert seen["count"] == {2, 5, 8}
    assert seen["tied"] == {False, True}
    assert len(seen["weight"]) > 30


@pytest.mark.parametrize("side", [0, 1])
def test_a_published_point_on_the_bounds_can_be_enqueued(side: int) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    point = {name: domain.corners()[side] for name, domain in SPACE.items()}
    study.enqueue_trial(point)
    assert study.ask(fixed_distributions=distributions(SPACE)).params == point
