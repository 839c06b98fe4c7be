"""Learning curves: what is on the axes for which rows."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread

from study.pictures import learning_curves
from study.results import TrialRow

ROW = TrialRow(
    key="k",
    arm="points",
    phase="search",
    number=0,
    state="finished",
    value=0.5,
    seed=1,
    fold=0,
    parameters={},
    iterations=200,
    seconds=1.0,
    annotation_seconds=1.0,
    curve=[{"iteration": 100, "dice": 0.25}, {"iteration": 200, "dice": 0.5}],
)


@pytest.fixture
def axes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Draws, checks that a picture was written, and hands back its axes."""
    figures: list[Figure] = []
    subplots = Figure.subplots

    def remembered(figure: Figure, *arguments: Any, **named: Any) -> Any:
        figures.append(figure)
        return subplots(figure, *arguments, **named)

    monkeypatch.setattr(Figure, "subplots", remembered)

    def draw(rows: list[TrialRow], **named: Any) -> Axes:
        path = tmp_path / "report" / "curves.png"
        learning_curves(path, rows, "dice", **named)
        assert imread(path).ndim == 3
        return figures[-1].axes[0]

    return draw


def labels(found: Axes) -> list[str]:
    legend = found.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


def test_one_line_per_trial_with_its_points(axes: Any) -> None:
    found = axes([ROW, dataclasses.replace(ROW, number=1, curve=ROW.curve[:1])])
    assert [list(zip(*line.get_data(), strict=True)) for line in found.lines] == [
        [(100, 0.25), (200, 0.5)],
        [(100, 0.25)],
    ]


def test_arms_phases_and_ends_are_told_apart(axes: Any) -> None:
    rows = [
        ROW,
        dataclasses.replace(ROW, arm="dense", state="pruned"),
        dataclasses.replace(ROW, phase="confirm"),
    ]
    found = axes(rows)
    assert labels(found) == [
        "points, search (1 trial)",
        "dense, search (1 trial)",
        "points, confirm (1 trial)",
        "finished",
        "pruned",
    ]
    assert len({line.get_color() for line in found.lines}) == 3
    assert found.lines[0].get_marker() != found.lines[1].get_marker()


def test_more_arms_than_colours_differ_in_their_dashes(axes: Any) -> None:
    found = axes([dataclasses.replace(ROW, arm=f"arm{number}") for number in range(20)])
    assert len({(line.get_color(), line.get_linestyle()) for line in found.lines}) == 20


def test_axes_say_what_they_show(axes: Any) -> None:
    found = axes([ROW])
    assert (found.get_xlabel(), found.get_ylabel()) == ("training iteration", "validation dice")
    assert axes([ROW], unit="mm").get_ylabel() == "validation dice (mm)"


@pytest.mark.parametrize("rows", [[], [dataclasses.replace(ROW, curve=[{"iteration": 1, "loss": 2.0}])]])
def test_without_reports_the_picture_says_so(axes: Any, rows: list[TrialRow]) -> None:
    found = axes(rows)
    assert [text.get_text() for text in found.texts] == ["no reports of dice yet"]
    assert list(found.lines) == []
