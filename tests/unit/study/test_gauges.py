"""What Prometheus is told of running trials, counted call by call."""

import dataclasses

import pytest

from study.gauges import GAUGES, GPU_MEMORY, LABELS, LOSS, METRIC, SPEED, Gauges, values
from tests.unit.study.conftest import World, a_study


class Recorder:
    """Stands in for Ray's gauges."""

    def __init__(self):
        self.made, self.told = [], []

    def __call__(self, name, description, labels):
        self.made.append((name, labels))
        outer = self

        class Gauge:
            def set(self, value, tags):
                outer.told.append((name, value, tags))

        return Gauge()


@pytest.fixture
def jobs():
    """Two that run; the first has reported twice."""
    board = World().board(a_study())
    first, second = board.suggest(), board.suggest()
    curve = [
        {"iteration": 10, "seconds": 3.0, "training_seconds": 2.0, "dice": 0.4, "loss_total": 1.5},
        {"iteration": 30, "seconds": 9.0, "training_seconds": 7.0, "dice": 0.6, "loss_total": 1.25},
    ]
    board.report(first, {"curve": curve, "state": "running", "gpu_memory": 12})
    return board, first, second


def test_every_gauge_has_the_same_few_labels():
    make = Recorder()
    Gauges("toy", "dice", make)
    assert make.made == [(name, LABELS) for name in GAUGES]
    assert LABELS == ("study", "arm", "phase", "trial")


def test_a_look_costs_one_update_of_each_gauge_and_a_report_none(jobs):
    board, first, second = jobs
    make = Recorder()
    gauges = Gauges("toy", "dice", make)
    assert make.told == []
    gauges.tell([first, second])
    assert len(make.told) == len(GAUGES)  # the second has reported nothing
    board.report(first, {"curve": first.row.curve, "state": "running"})
    assert len(make.told) == len(GAUGES)
    labels = {"study": "toy", "arm": first.arm, "phase": "search", "trial": "0"}
    assert all(tags == labels for _, _, tags in make.told)
    board.end(first, {}, "pruned")
    gauges.tell(list(board.running.values()))
    assert len(make.told) == len(GAUGES)  # of a trial that has ended nothing more is told


def test_the_values_are_those_of_the_last_report(jobs):
    _, first, second = jobs
    assert values(first.row, "dice", 12) == {LOSS: 1.25, METRIC: 0.6, SPEED: 20 / 5.0, GPU_MEMORY: 12.0}
    once = dataclasses.replace(first.row, curve=first.row.curve[:1])
    assert values(once, "dice", 0)[SPEED] == 10 / 2.0
    assert values(second.row, "dice", 0) == {}


def test_what_a_report_lacks_is_not_told():
    row = dataclasses.replace(
        World().board(a_study()).suggest().row, curve=[{"iteration": 1, "seconds": 0.0}]
    )
    assert values(row, "dice", 0) == {GPU_MEMORY: 0.0}


def test_labels_are_letters_that_ray_takes_and_names_stay_apart(jobs):
    _, first, _ = jobs
    make = Recorder()
    for first.arm in ("clicks · é", "clicks · è"):
        Gauges("toy", "dice", make).tell([first])
    arms = {tags["arm"] for _, _, tags in make.told}
    assert len(arms) == 2
    assert all(arm.isascii() for arm in arms)
