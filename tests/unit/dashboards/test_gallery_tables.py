"""Which cases the gallery shows: of the first finished replicate, chosen from the ledger's rows."""

import math

from dashboards.gallery_tables import role_name, shown_trials, structure_phrases
from study.conclusion import build
from tests.unit.dashboards.rows import case, trial


def confirm(number, **changes):
    return trial(number, phase="confirm", seed=1001 + number, **{"parameters": {"x": 1}, **changes})


def rows_of(*dice, key="key0", replicate=0, **changes):
    return [case(f"c{n}", value, key=key, replicate=replicate, **changes) for n, value in enumerate(dice)]


def shown(trials, cases, arms=("a",), metric="dice"):
    return shown_trials(trials, cases, build("toy", metric, list(arms), [], 3, trials, cases))


def test_the_first_finished_replicate_is_shown():
    trials = [confirm(2), confirm(0, state="failed"), confirm(1), trial(0)]
    cases = rows_of(0.9, key="key2", replicate=2) + rows_of(0.1, 0.5, 0.3, 0.4, key="key1", replicate=1)
    cases += rows_of(1.0, key="key0", phase="search")
    (found,) = shown(trials, cases)
    assert (found.arm, found.key, found.number, found.seed, found.cases) == ("a", "key1", 1, 1002, 4)
    assert [(c.role, c.case_id, c.value) for c in found.shown] == [
        ("best", "c1", 0.5), ("median", "c3", 0.4), ("worst", "c0", 0.1),
    ]  # fmt: skip


def test_arms_without_a_scored_confirmation_are_not_there():
    trials = [confirm(0), confirm(0, arm="b", key="b"), trial(0, arm="c")]
    assert [found.arm for found in shown(trials, rows_of(0.5), ("c", "b", "a"))] == ["a"]
    assert shown([], []) == []


def test_a_configuration_that_was_given_up_is_not_shown():
    trials = [confirm(0, key="old", started=1.0), confirm(0, parameters={"x": 2}, started=2.0)]
    (found,) = shown(trials, rows_of(0.5, key="old") + rows_of(0.4))
    assert found.key == "key0"


def test_a_case_is_its_classes_and_volumes_and_background_is_none_of_them():
    cases = [
        case("c0", 0.2, volume_id="c0/ed"),
        case("c0", 0.4, volume_id="c0/es"),
        case("c0", 0.9, volume_id="c0/ed", class_id=2, class_name="wall"),
        case("c0", 1.0, class_id=0, class_name="background"),
    ]
    (found,) = shown([confirm(0)], cases)
    (only,) = found.shown
    assert only.value == 0.5
    assert [row.class_id for row in only.structures] == [1, 1, 2]
    assert structure_phrases(only.structures) == [
        "lesion Dice 0.3, HD95 3 mm", "wall Dice 0.9, HD95 3 mm",
    ]  # fmt: skip


def test_cases_without_a_value_are_counted_and_not_placed():
    cases = [case("c0", 0.5), case("c1", 1.0, hd95=math.nan, both_empty=True)]
    (found,) = shown([confirm(0)], cases, metric="hd95")
    assert (found.cases, found.undefined) == (1, 1)
    assert [c.case_id for c in found.shown] == ["c0"]


def test_a_miss_is_said_to_be_one_and_its_distance_is_undefined():
    missed = case("c0", 0.0, hd95=96.2, missed=True)
    assert structure_phrases([missed]) == ["lesion missed, Dice 0, HD95 undefined"]
    alarm = case("c0", 0.0, hd95=96.2, false_alarm=True)
    assert structure_phrases([alarm]) == ["lesion absent, but predicted, Dice 0, HD95 undefined"]
    empty = case("c0", 1.0, hd95=math.nan, both_empty=True)
    assert structure_phrases([empty]) == ["lesion absent, and rightly not predicted, Dice 1, HD95 undefined"]
    seen = case("c0", 0.5, volume_id="es", hd95=4.0)
    assert structure_phrases([missed, seen]) == ["lesion missed in 1 of 2 volumes, Dice 0.25, HD95 4 mm"]


def test_roles_in_words():
    assert role_name("best", 20) == "best of 20 cases"
    assert role_name("best", 1) == "only case"
