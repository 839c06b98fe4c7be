"""The table of arms: numbers, costs in what they ran on, columns that nobody needs, structures."""

import math

import pytest

from dashboards.arm_tables import (
    Cost,
    arms_grid,
    best_by_time,
    cost_of,
    minutes,
    shared_cost,
    structures_grid,
)
from study.spec import PRETRAINING
from tests.unit.dashboards.studies import MACHINE, a_source, a_trial

GPU = {**MACHINE, "device": "a GPU", "gpus": 0.5}


def column(table, header):
    return [row[table.headers.index(header)] for row in table.rows]


def test_arms():
    source = a_source({"clicks": 0.5, "masks": 0.7}, budgets=(1, 9))
    table = arms_grid(source.answer, source.trials)
    assert table.headers == (
        "arm", "Dice [95 %]", "runs", "cases", "missed", "SD of runs", "HD95", "area error",
        "annotator, minutes", "training, CPU-hours",
    )  # fmt: skip
    assert [cell.text for cell in column(table, "arm")] == ["clicks", "masks"]
    assert column(table, "Dice [95 %]")[0].number == pytest.approx(0.5 + 0.03 + 0.01)
    assert [cell.text for cell in column(table, "annotator, minutes")] == ["2.0", "18"]
    assert [cell.text for cell in column(table, "training, CPU-hours")] == ["2.0", "2.0"]  # 2 x 1800 s x 2
    assert [cell.text for cell in column(table, "runs")] == ["2/2", "2/2"]


def test_an_arm_without_a_number_says_so_and_is_sorted_last():
    source = a_source({"done": 0.5, "missing": -1})
    table = arms_grid(source.answer, source.trials)
    cell = column(table, "Dice [95 %]")[1]
    assert cell.text == "–"
    assert math.isnan(cell.number)


@pytest.mark.parametrize(
    ("machines", "said"),
    [
        ([MACHINE], "1.0 CPU-hours"),
        ([GPU, GPU], "0.50 GPU-hours"),
        ([GPU, MACHINE], "0.25 GPU-hours + 1.0 CPU-hours"),
        ([{}], "0.50 hours"),
        ([], "0"),
    ],
)
def test_costs_are_hours_of_what_was_used(machines, said):
    trials = [a_trial("a", n, details={"machine": machine}) for n, machine in enumerate(machines)]
    assert str(cost_of(trials)) == said


def test_costs_of_several_kinds_name_them_in_every_cell():
    mixed = [a_trial("a", 5, phase="search", details={"machine": GPU})]
    source = a_source({"a": 0.5, "b": 0.6}, further=mixed)
    table = arms_grid(source.answer, source.trials)
    assert [cell.text for cell in column(table, "training")] == [
        "0.25 GPU-hours + 2.0 CPU-hours",
        "2.0 CPU-hours",
    ]


def test_shared_cost():
    assert shared_cost([a_trial("a")]) is None
    assert shared_cost([a_trial("a"), a_trial(PRETRAINING)]) == Cost({"CPU-hours": 1.0})


def test_structures():
    assert structures_grid(a_source({"a": 0.5}).answer) is None
    table = structures_grid(a_source({"a": 0.5, "b": -1}, classes=2).answer)
    assert table.headers == (
        "arm", "class 1, Dice [95 %]", "class 2, Dice [95 %]", "class 1, HD95 [mm]", "class 2, HD95 [mm]",
    )  # fmt: skip
    assert [cell.text for cell in table.rows[1]] == ["b", "–", "–", "–", "–"]


def test_best_by_time():
    source = a_source({"a": 0.5, "b": 0.7, "c": 0.9, "d": -1}, budgets=(1, 1, 5, 5))
    rows = [[cell.text for cell in row[:3]] for row in best_by_time(source.answer).rows]
    assert rows == [["2.0", "2", "b"], ["10", "1", "c"]]


@pytest.mark.parametrize(("seconds", "said"), [(0.0, "0 min"), (24.0, "0.40 min"), (316440.0, "5,274 min")])
def test_minutes(seconds, said):
    assert minutes(seconds) == said
