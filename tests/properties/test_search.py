"""Same definition, same seeds: the same proposals and rows, whatever runs at once and whoever ends first."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study import arms as shared
from study.spec import Study
from tests.unit.study.conftest import SEARCHED, World, a_study

EVERY = {"deadline": None, "derandomize": True}


def study(sampler: str, lookahead: int) -> Study:
    """Both samplers that learn draw at random until ten trials are known to them: 16 leave them some more."""
    arms = [shared.statistic(SEARCHED, 5)] if sampler != "random" else None
    trials = 16 if sampler != "random" else 9
    return a_study(arms=arms, sampler=sampler, trials=trials, lookahead=lookahead, seed=6)


def rows(world: World) -> list[Any]:
    """All that a row says of a trial, without moments and machines."""
    return sorted(
        (
            r.arm,
            r.phase,
            r.number,
            r.key,
            r.state,
            repr(r.value),
            r.iterations,
            repr(r.parameters),
            repr(r.curve),
        )
        for r in world.ledger.trials()
    )


@functools.cache
def one_after_another(sampler: str, lookahead: int) -> list[Any]:
    world = World()
    world.run(study(sampler, lookahead))
    return rows(world)


disturbance = st.fixed_dictionaries(
    {
        "concurrency": st.integers(1, 8),
        "seed": st.integers(0, 10_000),
        "deadly": st.sampled_from([0.0, 0.01, 0.03]),
    }
)


def check(sampler: str, lookahead: int, how: dict[str, Any]) -> None:
    world = World()
    world.run(study(sampler, lookahead), **how)
    assert rows(world) == one_after_another(sampler, lookahead), how


@settings(max_examples=15, **EVERY)
@given(lookahead=st.integers(1, 8), how=disturbance)
def test_random_search(lookahead: int, how: dict[str, Any]) -> None:
    check("random", lookahead, how)


@settings(max_examples=10, **EVERY)
@given(lookahead=st.sampled_from([1, 4]), how=disturbance)
def test_tpe(lookahead: int, how: dict[str, Any]) -> None:
    check("tpe", lookahead, how)


@pytest.mark.slow
@pytest.mark.timeout(300)
@settings(max_examples=10, **EVERY)
@given(lookahead=st.sampled_from([1, 4]), how=disturbance)
def test_a_gaussian_process(lookahead: int, how: dict[str, Any]) -> None:
    check("gp", lookahead, how)


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_another_window_is_another_search_so_that_equality_is_no_accident(sampler: str) -> None:
    """A random search proposes the same and stops others."""
    assert one_after_another(sampler, 1) != one_after_another(sampler, 4)
