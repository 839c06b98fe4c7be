"""The figures are files with something in them, also at the edges; the command line finds its study."""

import math
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from dashboards.__main__ import answer_of, draw, main
from dashboards.figures import budget_curve
from dashboards.tables import ArmRow, BudgetRow
from search_spaces import UserError
from study.results import CaseRow, Ledger, TrialRow
from study.spec import Arm, Replicates, Study
from trainables.annotations import Annotation

LABELS = {"quality": "Dice, greater is better", "title": "toy"}


def ink(path):
    """Share of pixels that are not white."""
    with Image.open(path) as image:
        return float((np.asarray(image.convert("L")) < 250).mean())


def colours(path):
    with Image.open(path) as image:
        return set(map(tuple, np.asarray(image.convert("RGB")).reshape(-1, 3).tolist()))


def point(family, seconds, mean=0.5, amount="1 px"):
    return BudgetRow(family, f"{family} {amount}", seconds, amount, mean, mean - 0.1, mean + 0.05)


def test_curve_draws_each_family_in_its_colour(tmp_path):
    rows = [point("with statistics", s, 0.5 + s / 100, f"{k} px") for k, s in ((0, 0.0), (1, 2.4), (5, 12.0))]
    rows += [point("without statistics", s, 0.3 + s / 100, f"{k} px") for k, s in ((1, 2.4), (5, 12.0))]
    rows += [point("full masks", 239.0, 0.9, "")]
    budget_curve.draw(rows, tmp_path / "curve.png", **LABELS)
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0x22, 0x22, 0x22)} <= colours(tmp_path / "curve.png")
    assert 0.01 < ink(tmp_path / "curve.png") < 0.3


@pytest.mark.parametrize("seconds", [(0.0,), (0.0, 0.0), (3.0,), (1.0, 1e7), (0.0, 1e-3, 5e5)])
def test_curve_at_the_edges_of_time(tmp_path, seconds):
    rows = [point("a", s, 0.5, f"{k} px") for k, s in enumerate(seconds)]
    budget_curve.draw(rows, tmp_path / "curve.png", **LABELS)
    assert ink(tmp_path / "curve.png") > 0.01


def test_curve_without_rows_is_a_bug(tmp_path):
    with pytest.raises(ValueError, match="at least one row"):
        budget_curve.draw([], tmp_path / "curve.png", **LABELS)


def test_interval_plot_with_any_name_and_without_numbers(tmp_path):
    rows = [
        ArmRow("costs $5, not $x^", 0.5, 0.4, 0.55, 20, "3/3"),
        ArmRow("one case", 0.5, math.nan, math.nan, 1, "1/3"),
        ArmRow(
            "a name that is much longer than the space beside the axis would allow", 0.2, 0.2, 0.2, 9, "3/3"
        ),
    ]
    budget_curve.interval_plot(rows, tmp_path / "arms.png", **LABELS)
    with_numbers = ink(tmp_path / "arms.png")
    nothing = ArmRow("nothing", math.nan, math.nan, math.nan, 0, "0/3")
    budget_curve.interval_plot([nothing], tmp_path / "none.png", **LABELS)
    assert with_numbers > 0.01
    assert (0x00, 0x72, 0xB2) not in colours(tmp_path / "none.png")


@pytest.mark.parametrize("suffix", ["svg", "pdf"])
def test_other_formats(tmp_path, suffix):
    path = tmp_path / f"curve.{suffix}"
    budget_curve.draw([point("a", 1.0)], path, **LABELS)
    assert path.read_bytes().startswith({"svg": b"<?xml", "pdf": b"%PDF"}[suffix])


@pytest.fixture
def home(tmp_path):
    """A study of two arms with one confirmed replicate each, as a folder."""
    arms = tuple(
        Arm(name=f"{k} pixels", method=METHOD, annotation=Annotation(pixels="points", pixel_budget=k))
        for k in (1, 5)
    )
    study = Study(name="toy", question="Is more better?", arms=arms, replicates=Replicates(seeds=(1001,)))
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "spec.json").write_text(study.to_json())
    ledger = Ledger(folder / "ledger")
    for arm in arms:
        budget = arm.annotation.pixel_budget
        ledger.append(
            finished(arm.name, 2.4 * budget), [scored(arm.name, i, 0.4 + budget / 20) for i in range(7)]
        )
    return tmp_path


METHOD = "partial_cross_entropy"


def finished(arm, cost):
    return TrialRow(
        key=arm, arm=arm, phase="confirm", number=0, state="finished", value=0.5, seed=1001, fold=0,
        parameters={}, iterations=10, seconds=1.0, annotation_seconds=cost,
    )  # fmt: skip


def scored(arm, number, dice):
    return CaseRow(
        key=arm, arm=arm, phase="confirm", replicate=0, seed=1001, fold=0, split="test", case_id=f"p{number}",
        volume_id=f"p{number}", class_id=1, class_name="lesion", dice=dice + number / 100, iou=0.5, hd95=1.0,
        hd95_max=1.0, distance_unit="px", area_error=0.1, relative_area_error=0.1, size_error=0.1,
        missed=False, false_alarm=False, both_empty=False,
    )  # fmt: skip


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["dashboards", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code, capsys.readouterr()


def test_command_draws_the_study(home, monkeypatch, capsys):
    code, output = run(monkeypatch, capsys, "toy", "--home", home)
    assert code == 0
    assert output.out.strip() == str(home / "toy" / "figure.png")
    assert ink(home / "toy" / "figure.png") > 0.01


def test_answer_of_a_folder(home):
    study = Study.from_json((home / "toy" / "spec.json").read_text())
    answer = answer_of(study, Ledger(home / "toy" / "ledger"))
    assert answer.complete
    assert answer.pairs[0].verdict == "5 pixels better than 1 pixels"
    assert answer.arms[0].mean == pytest.approx(0.45 + 0.03, rel=1e-12)


def test_nothing_confirmed_is_told(home):
    study = Study.from_json((home / "toy" / "spec.json").read_text())
    with pytest.raises(UserError, match="no confirmed arm to draw"):
        draw(study, answer_of(study, Ledger(home / "elsewhere")), home / "figure.png")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["toi"], "There is no study 'toi' in {home}. Did you mean 'toy'? Studies there: toy."),
        (["toy", "--output", "figure.bmp"], "--output must end in .png, .svg, .pdf, but got 'figure.bmp'."),
        (
            ["toy", "--output", "nowhere/a.png"],
            "--output must lie in an existing folder, but there is no 'nowhere'.",
        ),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_2(home, monkeypatch, capsys, arguments, sentence):
    code, output = run(monkeypatch, capsys, *arguments, "--home", home)
    assert code == 2
    assert output.err.strip() == sentence.format(home=home)


def test_no_display_and_no_training_stack_is_needed():
    code = (
        "import sys, dashboards.__main__; "
        "heavy = {'ray', 'mlflow', 'optuna', 'torch', 'matplotlib.pyplot'}; "
        "sys.exit(len(heavy & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
