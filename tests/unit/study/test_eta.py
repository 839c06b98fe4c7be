"""The time left of studies whose trials are known, by hand."""

import dataclasses

import pytest

from study import arms as shared
from study.eta import Running, duration, estimate
from study.results import TrialRow
from study.spec import Replicates
from tests.unit.study.conftest import DISCRETE, SEARCHED, a_study, discrete_arm

FULL = 60
"""Iterations of a trial of `a_study`."""


def row(number, iterations=FULL, *, arm=SEARCHED, phase="search", pace=0.1, state="finished", **changes):
    return TrialRow(
        key=f"{phase}{number}", arm=arm, phase=phase, number=number, state=state, value=0.5, seed=0, fold=0,
        parameters={}, iterations=iterations, seconds=pace * iterations, annotation_seconds=0.0, **changes,
    )  # fmt: skip


def under_way(number, iterations, *, arm=SEARCHED, phase="search", pace=0.1):
    return Running(
        arm=arm, phase=phase, number=number, seed=0, iterations=iterations, of=FULL, seconds=pace * iterations
    )


def one_arm(**search):
    return a_study(
        arms=[shared.statistic(SEARCHED, 5)], **{"trials": 6, "rungs": (), "lookahead": 4, **search}
    )


def left(study, rows, running=(), *, slots=1, **options):
    by_arm = {arm.name: [r for r in rows if r.arm == arm.name] for arm in study.arms}
    return estimate(study, by_arm, running, slots=slots, **options)


def test_nothing_is_said_before_a_trial_has_reported():
    assert left(one_arm(), []).seconds is None
    assert left(one_arm(), [], [under_way(0, 0)]).seconds is None
    assert left(one_arm(), [], [under_way(0, 10)]).seconds == pytest.approx(5.0 + 5 * 6.0 + 2 * 6.0)


def test_what_is_left_takes_its_iterations_at_the_measured_pace():
    assert left(one_arm(), [row(0)]).seconds == pytest.approx(5 * 6.0 + 2 * 6.0)
    assert left(one_arm(), [row(0, pace=0.2)]).seconds == pytest.approx(2 * 42.0)
    ended = [row(n) for n in range(6)] + [row(n, phase="confirm") for n in range(2)]
    assert left(one_arm(), ended).seconds == 0.0


def test_slots_share_the_work_but_no_more_than_the_search_runs_at_once():
    rows = [row(0), row(1)]  # four searched ones are left, then two replicates
    assert left(one_arm(), rows, slots=2).seconds == pytest.approx(12.0 + 6.0)
    assert left(one_arm(), rows, slots=100).seconds == pytest.approx(6.0 + 6.0)
    assert left(one_arm(lookahead=2), rows, slots=100).seconds == pytest.approx(12.0 + 6.0)


def test_one_trial_is_not_shared_out():
    rows = [row(n) for n in range(5)]
    assert left(one_arm(), rows, slots=4).seconds == pytest.approx(6.0 + 6.0)


def test_arms_that_are_stopped_early_are_expected_to_be_stopped_again():
    study = one_arm(rungs=(1 / 3,))
    rows = [row(0), row(1, 20, state="pruned"), row(2, 20, state="pruned"), row(3, 20, state="pruned")]
    assert left(study, rows).seconds == pytest.approx(2 * 0.1 * 30 + 2 * 6.0)


def test_a_trial_that_has_passed_a_rung_is_expected_to_go_as_far_as_those_that_did():
    study = one_arm(rungs=(1 / 3, 2 / 3))
    rows = [row(0), row(1, 20, state="pruned"), row(2, 40, state="pruned"), row(3, 20, state="pruned")]
    waiting = 1 * (60 + 20 + 40 + 20) / 4
    for at, end in ((0, 35), (10, 35), (20, 50), (30, 50), (40, 60), (50, 60)):
        expected = 0.1 * (waiting + end - at) + 2 * 6.0
        assert left(study, rows, [under_way(4, at)]).seconds == pytest.approx(expected)


def test_the_pace_of_an_arm_is_its_own_and_that_of_a_new_arm_the_others():
    study = a_study(arms=[shared.statistic(SEARCHED, 5), discrete_arm()], trials=2, rungs=(), seeds=(1001,))
    rows = [row(0, pace=0.1), row(1, pace=0.1)]
    assert left(study, rows).seconds == pytest.approx(6.0 + 3 * 6.0)
    rows += [row(0, arm=DISCRETE, pace=0.5)]
    assert left(study, rows).seconds == pytest.approx(6.0 + 2 * 30.0)


def test_a_new_arm_is_stopped_as_early_as_the_others_and_without_any_the_estimate_is_a_bound():
    study = a_study(
        arms=[shared.statistic(SEARCHED, 5), discrete_arm()], trials=2, rungs=(1 / 3,), seeds=(1001,)
    )
    first = left(study, [], [under_way(0, 30)])
    assert first.at_most
    assert first.seconds == pytest.approx(0.1 * (30 + 3 * 60 + 2 * 60))
    some = left(study, [row(0, 60), row(1, 20, state="pruned")])
    assert not some.at_most
    assert some.seconds == pytest.approx(0.1 * (2 * 60 * (2 / 3) + 2 * 60))
    assert not left(one_arm(rungs=()), [], [under_way(0, 30)]).at_most


def test_a_copy_of_a_twin_takes_no_time():
    copy = row(1, details={"same_as": 0})
    assert left(one_arm(), [row(0), copy]).seconds == pytest.approx(0.1 * 4 * 30 + 2 * 6.0)


def test_what_an_earlier_run_did_says_nothing_of_the_speed_but_of_the_lengths():
    old, new = row(0, pace=9.0, started=10.0), row(1, 20, state="pruned", started=100.0)
    study = one_arm(rungs=(1 / 3,))
    assert left(study, [old, new], since=50.0).seconds == pytest.approx(0.1 * 4 * 40 + 2 * 6.0)
    assert left(study, [old], since=50.0).seconds is None


def test_pre_trainings_come_on_top():
    without = left(one_arm(), [row(0)]).seconds
    assert left(one_arm(), [row(0)], pretraining_iterations=100).seconds == pytest.approx(without + 10.0)


def test_replicates_that_run_count_as_far_as_they_are():
    study = dataclasses.replace(one_arm(), replicates=Replicates(seeds=(1001, 1002, 1003)))
    rows = [row(n) for n in range(6)] + [row(0, phase="confirm")]
    running = [under_way(1, 30, phase="confirm")]
    assert left(study, rows, running).seconds == pytest.approx(3.0 + 6.0)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (3599.7, "1 h 00 min"),
     (7500, "2 h 05 min"), (100 * 3600, "100 h 00 min")],
)  # fmt: skip
def test_durations_in_words(seconds, words):
    assert duration(seconds) == words
