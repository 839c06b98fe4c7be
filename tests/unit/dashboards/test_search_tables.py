"""Searches as rows: only full lengths count, the best is the selected one, contours need enough points."""

import math
from xml.etree import ElementTree

import numpy as np
import pytest

from dashboards import importance_tables, search_figures
from dashboards.importance_tables import FEWEST_TRIALS, Importance, can_be_told, importances
from dashboards.search_tables import (
    ArmSearch,
    Point,
    best_so_far,
    contour,
    numeric,
    position,
    searches,
    shown,
    unsearched,
)
from search_spaces import Choice, Float, Int, UserError
from study.spec import Arm, Study
from tests.unit.dashboards.rows import trial
from trainables.annotations import Annotation

SPACE = {"rate": Float(1e-3, 1e-1, log=True), "count": Int(1, 5), "kind": Choice(("x", "y", "z"))}


def a_study(**changes):
    searched = Arm(
        name="a", method="full_supervision", annotation=Annotation(pixels="dense"),
        search={"learning_rate": Float(1e-3, 1e-2, log=True)},
    )  # fmt: skip
    fixed = Arm(name="fixed", method="full_supervision", annotation=Annotation(pixels="dense"))
    return Study(name="toy", question="?", arms=(searched, fixed), **changes)


def a_search(values, *, greater=True, space=SPACE, parameters=None):
    rng = np.random.default_rng(0)
    points = []
    for number, value in enumerate(values):
        own = {"rate": 10 ** rng.uniform(-3, -1), "count": int(rng.integers(1, 6)), "kind": "xyz"[number % 3]}
        own = own if parameters is None else parameters[number]
        points.append(Point(number, {name: own[name] for name in space}, value))
    return ArmSearch("a", space, tuple(points), 0, 0, 0, greater)


def row(number, rate=2e-3, **changes):
    return trial(number, parameters={"learning_rate": rate, "iterations": 5}, **changes)


def test_only_full_lengths_are_points_and_the_others_are_counted():
    rows = [
        row(3, value=0.4),
        row(0, value=0.6, rate=5e-3),
        row(1, state="pruned"),
        row(2, state="diverged", value=None),
        row(4, state="failed"),
        row(5, state="running"),
        row(6, details={"same_as": 0}),
        row(7, value=None),
        row(0, phase="confirm"),
    ]
    (search,) = searches(a_study(), rows)
    assert [(p.number, p.value) for p in search.points] == [(0, 0.6), (3, 0.4)]
    assert search.points[0].parameters == {"learning_rate": 5e-3}
    assert (search.stopped, search.broken, search.repeated) == (1, 3, 1)
    assert search.best == search.points[0]


def test_arms_that_search_nothing_or_have_not_begun_are_not_among_them():
    assert searches(a_study(), [trial(0, arm="fixed")]) == []
    assert searches(a_study(), []) == []
    assert unsearched(a_study()) == ["fixed"]


@pytest.mark.parametrize(("greater", "best", "steps"), [
    (True, 2, [(0, 0.5), (2, 0.9), (4, 0.9)]),
    (False, 1, [(0, 0.5), (1, 0.3), (4, 0.3)]),
])  # fmt: skip
def test_best_so_far_and_the_earliest_of_equals(greater, best, steps):
    search = a_search([0.5, 0.3, 0.9, 0.9, 0.3], greater=greater)
    assert best_so_far(search) == steps
    assert search.best.number == best


def test_a_search_without_a_full_length_has_no_best():
    assert a_search([]).best is None
    assert best_so_far(a_search([])) == []
    assert shown(a_search([]), 5) == []


def test_thinning_keeps_the_best():
    search = a_search([0.0] * 40 + [1.0] + [0.0] * 59)
    kept = shown(search, 10)
    assert len(kept) == 11
    assert search.best in kept
    assert len(shown(search, 100)) == 100


def test_positions_are_as_the_search_sees_them():
    assert position(SPACE["rate"], 1e-2) == pytest.approx(0.5)
    assert position(SPACE["count"], 2) == 0.25
    assert [position(SPACE["kind"], kind) for kind in "xyz"] == [0.0, 0.5, 1.0]
    assert position(SPACE["rate"], 1.0) == 1.0  # a published value may lie outside
    assert math.isnan(position(SPACE["rate"], 0.0))
    assert math.isnan(position(SPACE["kind"], "w"))
    assert numeric(SPACE) == ["rate", "count"]


def test_a_contour_is_linear_between_the_points_and_empty_beyond():
    space = {"u": Float(0.0, 1.0), "v": Float(1.0, 100.0, log=True)}
    corners = [(0.2, 0.2), (0.8, 0.2), (0.2, 0.8), (0.8, 0.8), (0.5, 0.5)]
    places = corners + [(0.3 + 0.1 * n, 0.4) for n in range(5)]
    parameters = [{"u": u, "v": 100**v} for u, v in places]
    search = a_search([2 * u + v for u, v in places], space=space, parameters=parameters)
    drawn = contour(search, "u", "v")
    inside = (drawn.grid_x > 0.21) & (drawn.grid_x < 0.79)
    v = np.log(drawn.grid_y) / np.log(100)
    expected = 2 * drawn.grid_x[None, :] + v[:, None]
    within = ((v > 0.21) & (v < 0.79))[:, None] & inside[None, :]
    np.testing.assert_allclose(drawn.values[within], expected[within], atol=1e-9)
    assert np.isnan(drawn.values[0]).all()
    assert (drawn.grid_y[0], drawn.grid_y[-1]) == (1.0, pytest.approx(100.0))


def test_too_few_or_aligned_points_have_no_contour():
    with pytest.raises(UserError, match="Contours need 10 different configurations at full length, but 4"):
        contour(a_search([0.1, 0.2, 0.3, 0.4]), "rate", "count")
    line = [{"rate": 10 ** (-3 + 0.1 * n), "count": 3, "kind": "x"} for n in range(12)]
    with pytest.raises(UserError, match="on one line over rate and count"):
        contour(a_search(list(range(12)), parameters=line), "rate", "count")


def test_importances_find_the_parameter_that_decides():
    search = a_search([0.0] * 60)
    points = tuple(
        Point(p.number, p.parameters, -abs(math.log10(p.parameters["rate"]) + 2)) for p in search.points
    )
    told = importances(ArmSearch("a", SPACE, points, 9, 0, 0, True), most=1000)
    assert told[0].parameter == "rate"
    assert told[0].share > 0.6
    assert sum(one.share for one in told) == pytest.approx(1)
    assert all(one.low <= one.share <= one.high for one in told)
    assert importances(ArmSearch("a", SPACE, points, 9, 0, 0, True), most=1000) == told
    # without a range beyond MOST_REPEATED, and from fewer trials than there are
    many = ArmSearch("a", SPACE, points * 4, 0, 0, 0, True)
    assert math.isnan(importances(many, most=150)[0].low)


def test_importances_need_enough_trials_that_differ():
    values = list(range(FEWEST_TRIALS))
    assert importances(a_search(values[:-1]), most=100) == []
    assert importances(a_search([0.5] * FEWEST_TRIALS), most=100) == []
    assert importances(a_search(values, space={"rate": SPACE["rate"]}), most=100) == []
    assert can_be_told(a_search(values))
    assert round(importance_tables.BEST_SHARE * FEWEST_TRIALS) == importance_tables.FEWEST_BEST


def test_numbers_and_choices_are_drawn():
    search = a_search([n / 10 for n in range(70)])
    pages = [
        search_figures.history(search, "Dice", 30),
        search_figures.slices(search, "Dice", 30),
        search_figures.parallel(search, "Dice", 30),
        search_figures.contours(search, [contour(search, "rate", "count")], "Dice", 30),
        search_figures.importances(
            search, [Importance("rate", 0.7, 0.6, 0.8), Importance("kind", 0.3, math.nan, 1)]
        ),
    ]
    texts = ["".join(ElementTree.fromstring(page).itertext()) for page in pages]
    assert "trial 69: 6.9 (rate = " in texts[0]  # the best is there although few are
    assert all(word in texts[1] for word in ("rate", "0.001", "0.1", "count", "kind", "xyz"))
    assert texts[2].count("trial ") == 1  # the best has a name
    assert "rate: 0.70 (0.60 to 0.80)" in texts[4]
    assert "kind: 0.30" in texts[4]
