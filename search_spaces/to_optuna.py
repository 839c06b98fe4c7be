"""The only file of this package that knows Optuna."""

from __future__ import annotations

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from search_spaces.domains import Choice, Domain, Float, Int
from search_spaces.fields import Space


def distribution(domain: Domain) -> BaseDistribution:
    match domain:
        case Float(low, high, log):
            return FloatDistribution(low, high, log=log)
        case Int(low, high, step):
            return IntDistribution(low, high, step=step)
        case Choice(options):
            return CategoricalDistribution(options)


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """A space as Optuna's ask-and-tell interface takes it."""
    return {name: distribution(domain) for name, domain in space.items()}
