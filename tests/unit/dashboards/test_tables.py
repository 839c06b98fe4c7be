"""Rows behind the figures: order, families, what is left out, labels."""

import math
from dataclasses import replace

import pytest

from dashboards.tables import arm_rows, budget_rows, has_curve, quality_label
from study.conclusion import Answer, ArmAnswer
from study.spec import Arm, Stage
from trainables.annotations import Annotation

ARM = ArmAnswer("", 0.6, 0.5, 0.7, 3, 3, 20, 0.1, 0.02, 4.0, "mm", 0, 0.1, 60.0, 10.0, {})


def arm(name, pixels="points", budget=0, statistics=(), method="summary_statistics"):
    annotation = Annotation(pixels=pixels, pixel_budget=budget, statistics=statistics)
    return Arm(name=name, method=method, annotation=annotation)


ARMS = (
    arm("statistic + 5 pixels", budget=5, statistics=("area",)),
    arm("statistic only", pixels="none", statistics=("area",)),
    arm("5 pixels only", budget=5, method="partial_cross_entropy"),
    arm("full", pixels="dense", method="full_supervision"),
)
SECONDS = (25.0, 1.0, 24.0, 239.0)


def answer(arms=ARMS, seconds=SECONDS, metric="dice", **changes):
    answers = [
        replace(ARM, name=a.name, annotation_seconds=s, **changes) for a, s in zip(arms, seconds, strict=True)
    ]
    return Answer("toy", metric, tuple(answers), (), ())


def test_arm_rows_keep_the_order_and_the_unconfirmed():
    rows = arm_rows(answer(mean=math.nan, low=math.nan, high=math.nan, cases=0, replicates=1))
    assert [row.name for row in rows] == [a.name for a in ARMS]
    assert rows[0].replicates == "1/3"
    assert math.isnan(rows[0].mean)


def test_budget_rows_are_families_in_order_of_time():
    rows = budget_rows(answer(), ARMS)
    assert [(row.family, row.name, row.amount) for row in rows] == [
        ("with statistics", "statistic only", "0 px"),
        ("with statistics", "statistic + 5 pixels", "5 px"),
        ("without statistics", "5 pixels only", "5 px"),
        ("full masks", "full", ""),
    ]
    assert [row.seconds for row in rows] == [1.0, 25.0, 24.0, 239.0]
    assert (rows[0].mean, rows[0].low, rows[0].high) == (0.6, 0.5, 0.7)


def test_methods_on_one_supervision_are_families_of_their_own():
    arms = (arm("a", budget=1, method="x"), arm("b", budget=5, method="x"), arm("c", budget=1, method="y"))
    rows = budget_rows(answer(arms, (2.4, 12.0, 2.4)), arms)
    assert [row.family for row in rows] == ["x, without statistics"] * 2 + ["y, without statistics"]


@pytest.mark.parametrize("missing", ["mean", "annotation_seconds"])
def test_budget_rows_leave_out_what_has_no_place(missing):
    full = answer()
    arms = (replace(full.arms[0], **{missing: math.nan}), *full.arms[1:])
    rows = budget_rows(replace(full, arms=arms), ARMS)
    assert [row.name for row in rows] == ["statistic only", "5 pixels only", "full"]


def test_a_curve_needs_two_times_in_one_family():
    assert has_curve(budget_rows(answer(), ARMS))
    assert not has_curve(budget_rows(answer(), ARMS)[1:])
    assert not has_curve(budget_rows(answer(seconds=(5.0, 5.0, 2.0, 3.0)), ARMS))
    assert not has_curve([])


def test_quality_label_names_unit_and_direction():
    assert quality_label(answer()) == "Dice, greater is better"
    assert quality_label(answer(metric="hd95", hd95_unit="px")) == "HD95 [px], smaller is better"
    assert quality_label(answer(metric="size_error")) == "size error [px²], smaller is better"


def test_after_a_pretraining_families_say_what_followed_and_amounts_count_its_masks():
    def after(name, masks, *, count=85, **changes):
        stage = Stage(method="full_supervision", annotation=Annotation(pixels="dense", labelled_images=count))
        return replace(arm(name, pixels=masks, **changes), pretraining=stage)

    arms = (
        replace(after("before", "dense"), protocol={"iterations": 0}),
        after("longer", "dense"),
        after("alone", "none", statistics=("size",)),
        after("beside", "dense", statistics=("size",)),
        after("clicks", "points", budget=1, statistics=("size",)),
        after("everything", "dense", count=None),
    )
    rows = budget_rows(answer(arms, (1.0, 1.0, 1.0, 1.0, 2.0, 9.0)), arms)
    assert {row.name: (row.family, row.amount) for row in rows} == {
        "before": ("as pre-trained", "85 masks"),
        "longer": ("then the masks again", "85 masks"),
        "alone": ("then statistics alone", "85 masks"),
        "beside": ("then statistics and masks", "85 masks"),
        "clicks": ("then statistics and clicks", "85 masks"),
        "everything": ("then the masks again", "all masks"),
    }
