"""Proposals that depend on the past beyond the window and on nothing else, and the pruning rule by hand."""

import dataclasses
import functools
import math

import numpy as np
import pytest

from study import arms as shared
from study.proposals import Attempt, Proposer, survives
from study.schedule import independence, sampler_name
from study.spec import Search
from tests.unit.study.conftest import discrete_arm, diverging_arm

ARM = shared.statistic("arm", 5)
BASE = {"statistic_weight": 1.0, "confidence_weight": 0.1, "learning_rate": 3e-3}
SAMPLERS = ("random", "tpe", "gp")
INFORMED = 13
"""By then both learning samplers use what they saw: ten startup trials that did not fail, and the window."""


def proposer(sampler="random", *, arm=ARM, greater=True, **search):
    settings = Search(sampler=sampler, lookahead=2, trials=40, **search)
    return Proposer("study", arm, settings, greater_is_better=greater)


def result(attempt):
    """States and values by the parameters, every kind of end among them."""
    weight = attempt.parameters["statistic_weight"]
    attempt.state = "diverged" if weight > 50 else "failed" if weight < 0.2 else "finished"
    attempt.value = math.exp(-(math.log(weight / 3) ** 2)) if attempt.state == "finished" else None
    if attempt.state == "finished" and attempt.number % 3 == 2:
        attempt.state = "pruned"


def searched(source, count, end=result, base=BASE):
    attempts = []
    for number in range(count):
        attempts.append(Attempt(number, source.propose(attempts, base)))
        end(attempts[-1])
    return attempts


@functools.cache
def example(sampler):
    """The search that most tests look at; a Gaussian process takes its time."""
    return searched(proposer(sampler), INFORMED + 2)


def ends(attempts):
    return [(a.parameters, a.state, a.value) for a in attempts]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_first_trial_is_the_base_point(sampler):
    assert proposer(sampler).propose([], BASE) == BASE


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_proposal_lies_in_the_space_and_differs_from_the_others(sampler):
    attempts = example(sampler)
    for attempt in attempts:
        assert all(attempt.parameters[name] in domain for name, domain in ARM.search.items())
    assert len({tuple(a.parameters.values()) for a in attempts}) == len(attempts)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_restart_at_any_trial_proposes_the_same(sampler):
    attempts = example(sampler)
    for number in (1, 2, 5, INFORMED):
        again = proposer(sampler)
        assert again.propose(attempts[:number], BASE) == attempts[number].parameters
    went_on = searched(proposer(sampler), 4)
    restarted = proposer(sampler)
    restarted.propose(attempts[:4], BASE)
    assert ends(went_on) == ends(attempts[:4])
    assert restarted.propose(attempts[:6], BASE) == attempts[6].parameters


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_results_within_the_window_do_not_matter_and_earlier_ones_do(sampler):
    attempts = example(sampler)[:INFORMED]
    wanted = example(sampler)[INFORMED].parameters
    for state, value in (("finished", 1.0), ("running", None)):
        changed = [*attempts[:-1], dataclasses.replace(attempts[-1], state=state, value=value)]
        assert proposer(sampler).propose(changed, BASE) == wanted
    first = dataclasses.replace(attempts[0], state="finished", value=2.0)
    other = proposer(sampler).propose([first, *attempts[1:]], BASE)
    assert (other == wanted) is (sampler == "random")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_asking_twice_changes_neither_this_proposal_nor_the_next(sampler):
    attempts = example(sampler)
    nervous = proposer(sampler)
    for _ in range(3):
        assert nervous.propose(attempts[:INFORMED], BASE) == attempts[INFORMED].parameters
    nervous.propose(attempts[:INFORMED], BASE).clear()
    assert nervous.propose(attempts[: INFORMED + 1], BASE) == attempts[INFORMED + 1].parameters


def test_seed_arm_and_study_each_make_another_search():
    wanted = searched(proposer(), 3)[1:]
    others = [
        searched(proposer(seed=1), 3)[1:],
        searched(proposer(arm=dataclasses.replace(ARM, name="other")), 3)[1:],
        searched(Proposer("other", ARM, Search(sampler="random", lookahead=2), greater_is_better=True), 3)[
            1:
        ],
    ]
    assert all(ends(other) != ends(wanted) for other in others)


@pytest.mark.parametrize(("sampler", "greater"), [("tpe", True), ("tpe", False), ("gp", True), ("gp", False)])
def test_where_trials_diverge_fewer_are_proposed(sampler, greater):
    """The upper 70 % of the range of rates diverge."""

    def end(attempt):
        rate = attempt.parameters["learning_rate"]
        attempt.state = "diverged" if rate > 2e-3 else "finished"
        attempt.value = None if rate > 2e-3 else 0.5 - sign * abs(math.log10(rate / 1.5e-3))

    sign = 1 if greater else -1
    count = 41 if sampler == "tpe" else 19
    arm, base = diverging_arm(), {"learning_rate": 3e-3}
    attempts = searched(proposer(sampler, arm=arm, greater=greater), count, end, base)
    informed = [a.parameters["learning_rate"] > 2e-3 for a in attempts[INFORMED:]]
    # 1 of 6 or fewer has probability 0.01 by chance, 14 of 28 or fewer 0.02
    assert sum(informed) <= (14 if sampler == "tpe" else 1)


def test_a_pruned_trial_counts_with_its_last_value():
    def end(state):
        def ended(attempt):
            attempt.state, attempt.value = state, attempt.parameters["learning_rate"]

        return ended

    arm, base = diverging_arm(), {"learning_rate": 3e-3}
    pruned = searched(proposer("tpe", arm=arm), 20, end("pruned"), base)
    finished = searched(proposer("tpe", arm=arm), 20, end("finished"), base)
    assert [a.parameters for a in pruned] == [a.parameters for a in finished]


def test_a_space_of_three_points_may_repeat_them():
    attempts = searched(
        proposer(arm=discrete_arm()), 8, lambda a: setattr(a, "state", "failed"), {"learning_rate": 3e-3}
    )
    assert len({a.parameters["learning_rate"] for a in attempts}) == 3


@pytest.mark.parametrize(
    ("sampler", "trials", "name"),
    [
        ("auto", 300, "gp"),
        ("auto", 301, "tpe"),
        ("auto", 1, "gp"),
        ("random", 5, "random"),
        ("tpe", 5, "tpe"),
    ],
)
def test_the_sampler_fits_the_number_of_trials(sampler, trials, name):
    assert sampler_name(Search(sampler=sampler, trials=trials)) == name


def at_rung(*values):
    """Attempts that have these values at iteration 10; None has not reached it."""
    return [Attempt(n, {}, rungs={} if v is None else {10: v}) for n, v in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "lookahead", "reduction", "goes_on"),
    [
        ((0.1,), 1, 3, True),  # nobody to compare with
        ((0.9, 0.1), 1, 3, False),  # one place for two
        ((0.1, 0.9), 1, 3, True),
        ((0.5, 0.5), 1, 3, True),  # an equal is not better
        ((0.9, 0.1), 2, 3, True),  # its rival lies within the window
        ((0.9, 0.8, 0.7, 0.75), 1, 3, False),  # third of four, two places
        ((0.9, 0.7, 0.6, 0.75), 1, 3, True),  # second of four
        ((0.9, 0.8, 0.7, 0.75), 1, 2, False),  # two places as well
        ((0.9, None, None, 0.5), 1, 3, False),  # who did not come so far is no rival
        ((None, None, 0.9, 0.5), 2, 3, True),
    ],
)
def test_survival_by_hand(values, lookahead, reduction, goes_on):
    search = Search(lookahead=lookahead, reduction=reduction)
    attempts, number = at_rung(*values), len(values) - 1
    assert survives(attempts, number, 10, search, greater=True) is goes_on
    mirrored = at_rung(*(None if v is None else -v for v in values))
    assert survives(mirrored, number, 10, search, greater=False) is goes_on


def test_survival_does_not_depend_on_trials_within_the_window():
    rng = np.random.default_rng(0)
    search = Search(lookahead=4, reduction=3)
    decisions = set()
    for _ in range(200):
        values = rng.random(12).round(2)
        attempts = at_rung(*values)
        decision = survives(attempts, 8, 10, search, greater=True)
        for neighbour in (5, 6, 7, 9, 10, 11):
            attempts[neighbour].rungs = {10: float(rng.random())} if rng.random() < 0.7 else {}
        assert survives(attempts, 8, 10, search, greater=True) is decision
        decisions.add(decision)
    assert decisions == {True, False}


def test_what_a_search_does_not_depend_on_is_said():
    told = independence(Search(sampler="tpe", lookahead=3))
    assert told == (
        "tpe, up to 3 trials of an arm at once (search.lookahead). Proposals and rows are the same whatever "
        "runs at once and whichever trial ends first: trial n is proposed and stopped by trials 0 to n - 3 "
        "alone."
    )
    assert independence(Search(sampler="gp", lookahead=1)).startswith(
        "gp, one after another (search.lookahead)."
    )
