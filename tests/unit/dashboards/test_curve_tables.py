"""Learning curves as rows: whose they are, which are shown of many, and that the means are over all."""

import math

import pytest

from dashboards.curve_tables import by_arm, counted, curves, end_rows, mean_curve, thinned
from study.conclusion import build
from tests.unit.dashboards.rows import trial


def reports(*values, name="dice"):
    return [{"iteration": 10.0 * (n + 1), name: value} for n, value in enumerate(values)]


def test_a_curve_is_what_a_trial_reported_and_nothing_undefined():
    rows = [
        trial(0, curve=reports(0.1, math.nan, 0.3), state="pruned"),
        trial(1, curve=reports(1.0, name="loss_total")),
        trial(2, curve=[]),
        trial(3, details={"same_as": 0}),
        trial(4, phase="pretrain"),
    ]
    (curve,) = curves(rows, "dice")
    assert (curve.number, curve.state, curve.points) == (0, "pruned", ((10, 0.1), (30, 0.3)))
    assert [c.number for c in curves(rows, "loss_total")] == [1]


def test_a_configuration_that_was_given_up_is_not_counted():
    old = trial(0, phase="confirm", parameters={"x": 1}, started=1.0)
    new = trial(0, key="new", phase="confirm", parameters={"x": 2}, started=2.0)
    rows = [old, new, trial(0, parameters={"x": 1})]
    answer = build("toy", "dice", ["a"], [], 1, rows, [])
    assert counted(rows, answer) == rows[1:]


def test_arms_come_in_the_studys_order_and_those_without_a_curve_not_at_all():
    rows = [trial(0, arm="b"), trial(0, arm="a", phase="confirm"), trial(0, arm="gone")]
    arms = by_arm(curves(rows, "dice"), ["a", "b", "c"], most=10)
    assert [(arm.arm, arm.all_confirmations, arm.all_searches) for arm in arms] == [("a", 1, 0), ("b", 0, 1)]


def test_of_many_curves_some_are_shown_and_the_mean_is_over_all():
    rows = [trial(n, phase="confirm", curve=reports(n / 100, n / 50)) for n in range(100)]
    rows += [trial(n, curve=reports(0.0)) for n in range(200)]
    rows.append(trial(100, phase="confirm", state="failed", curve=reports(9.0)))
    (arm,) = by_arm(curves(rows, "dice"), ["a"], most=12)
    assert len(arm.confirmations) == 12
    assert arm.searches == ()
    assert (arm.all_confirmations, arm.all_searches, arm.finished) == (101, 200, 100)
    assert arm.mean == ((10, pytest.approx(0.495)), (20, pytest.approx(0.99)))
    (arm,) = by_arm(curves(rows[100:], "dice"), ["a"], most=12)
    assert len(arm.confirmations) + len(arm.searches) == 12


def test_ten_thousand_trials_leave_a_few_hundred_curves():
    rows = [trial(n, arm=f"arm {n % 20}") for n in range(10_000)]
    arms = by_arm(curves(rows, "dice"), [f"arm {n}" for n in range(20)], most=300)
    assert 250 <= sum(len(arm.searches) for arm in arms) <= 300
    assert sum(arm.all_searches for arm in arms) == 10_000


@pytest.mark.parametrize(
    ("count", "most", "kept"), [(3, 5, [0, 1, 2]), (9, 3, [0, 4, 8]), (9, 1, [0]), (9, 0, [])]
)
def test_thinned_keeps_both_ends(count, most, kept):
    assert thinned(range(count), most) == kept


def test_the_mean_is_taken_where_all_have_a_value():
    rows = [trial(0, curve=reports(0.0, 0.2, 0.4)), trial(1, curve=reports(1.0, math.nan, 0.6))]
    assert mean_curve(curves(rows, "dice")) == ((10, 0.5), (30, 0.5))
    assert mean_curve([]) == ()


def test_whether_an_arm_was_still_learning():
    rows = [
        trial(0, phase="confirm", curve=reports(5.0, 4.0, 2.5)),
        trial(0, arm="b", phase="confirm", curve=reports(3.0)),
        trial(0, arm="c"),
    ]
    arms = by_arm(curves(rows, "dice"), ["a", "b", "c"], most=10)
    first, second = end_rows(arms, greater_is_better=False)
    assert (first.arm, first.iterations, first.first, first.last, first.gain) == ("a", 30, 5.0, 2.5, 1.5)
    assert math.isnan(second.gain)
    assert end_rows(arms, greater_is_better=True)[0].gain == -1.5
