"""Pictures of what a network was told and what it answers: one row per image, written as PNG."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Integer, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from trainables.legend import ERROR_COLOURS, MOST_DOTS, class_colour, error_maps
from trainables.method import IGNORE

_COLUMNS = ("image", "truth", "annotation", "prediction", "errors")
_INCHES = 2.2


def samples(
    path: Path,
    images_NHW: UInt8[np.ndarray, "N H W"],
    masks: Integer[np.ndarray, "N H W"],
    labels: Integer[np.ndarray, "N H W"],
    predictions: Integer[np.ndarray, "N H W"],
    class_names: Sequence[str],
    titles: Sequence[str],
) -> None:
    """Draw per image: itself, the true outline, the annotation, the prediction, and where they differ.

    Args:
        path: of the PNG; its folder is made.
        images_NHW: intensities 0 .. 255.
        masks: true class index per pixel.
        labels: what was annotated: class index, or IGNORE.
        predictions: predicted class index per pixel.
        class_names: index = class, 0 = background.
        titles: one per image, for its row.
    """
    count, height, width = images_NHW.shape
    row_inches = min(max(_INCHES * height / width, 0.6 * _INCHES), 1.6 * _INCHES)
    foot = 0.55
    figure = Figure(figsize=(_INCHES * len(_COLUMNS) + 0.4, row_inches * count + foot + 0.3))
    FigureCanvasAgg(figure)
    axes = figure.subplots(count, len(_COLUMNS), squeeze=False)
    for row in range(count):
        for column in axes[row]:
            column.imshow(images_NHW[row], cmap="gray", vmin=0, vmax=255)
            column.set(xticks=[], yticks=[])
        _, truth, annotation, prediction, errors = axes[row]
        _outline(truth, masks[row], len(class_names))
        _annotation(annotation, labels[row])
        _fill(prediction, predictions[row])
        _outline(prediction, predictions[row], len(class_names))
        _errors(errors, masks[row], predictions[row])
        axes[row, 0].set_ylabel(
            "\n".join(textwrap.fill(line, 30) for line in titles[row].splitlines()), fontsize=8
        )
    for column, name in zip(axes[0], _COLUMNS, strict=True):
        column.set_title(name, fontsize=10)
    inches = figure.get_figheight()
    figure.subplots_adjust(
        left=0.035, right=0.995, bottom=foot / inches, top=1 - 0.3 / inches, wspace=0.03, hspace=0.04
    )
    _legend(figure, class_names)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _outline(axes: Axes, classes_HW: Integer[np.ndarray, "H W"], num_classes: int) -> None:
    areas = np.bincount(classes_HW.ravel(), minlength=num_classes)
    height, width = classes_HW.shape
    x, y = np.arange(-1, width + 1), np.arange(-1, height + 1)
    for index in sorted(
        np.flatnonzero(areas), key=lambda present: -areas[present]
    ):  # the enclosed ones on top
        if index != 0:
            framed = np.pad((classes_HW == index).astype(np.float32), 1)  # closes outlines at the border
            axes.contour(x, y, framed, levels=[0.5], colors=[class_colour(int(index))], linewidths=1.3)
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def _annotation(axes: Axes, labels_HW: Integer[np.ndarray, "H W"]) -> None:
    rows, columns = np.nonzero(labels_HW != IGNORE)
    if len(rows) > MOST_DOTS:
        _fill(axes, labels_HW)
        return
    if len(rows) == 0:
        box = {"facecolor": "black", "alpha": 0.6, "linewidth": 0}
        axes.text(0.03, 0.04, "none", transform=axes.transAxes, color="white", fontsize=8, bbox=box)
        return
    colours = [class_colour(int(index)) for index in labels_HW[rows, columns]]
    size = 26 if len(rows) <= 50 else 5
    axes.scatter(columns, rows, s=size, c=colours, edgecolors="black", linewidths=0.6 if size > 5 else 0.2)


def _fill(axes: Axes, classes_HW: Integer[np.ndarray, "H W"]) -> None:
    """Transparent areas; where background is annotated beside unlabelled pixels it is shaded too."""
    overlay = np.zeros((*classes_HW.shape, 4), dtype=np.float32)
    partly = bool((classes_HW == IGNORE).any())
    for index in np.unique(classes_HW):
        if index != IGNORE and (index != 0 or partly):
            overlay[classes_HW == index] = (*to_rgb(class_colour(int(index))), 0.45)
    axes.imshow(overlay, interpolation="nearest")


def _errors(
    axes: Axes, mask_HW: Integer[np.ndarray, "H W"], prediction_HW: Integer[np.ndarray, "H W"]
) -> None:
    overlay = np.zeros((*mask_HW.shape, 4), dtype=np.float32)
    for kind, wrong in error_maps(mask_HW, prediction_HW).items():
        overlay[wrong] = (*to_rgb(ERROR_COLOURS[kind]), 0.8)
    axes.imshow(overlay, interpolation="nearest")


def _legend(figure: Figure, class_names: Sequence[str]) -> None:
    classes = [
        Line2D(
            [],
            [],
            marker="o",
            linestyle="none",
            markeredgecolor="black",
            color=class_colour(index),
            label=name,
        )
        for index, name in enumerate(class_names)
    ]
    errors = [Patch(color=colour, label=f"error: {kind}") for kind, colour in ERROR_COLOURS.items()]
    figure.legend(
        handles=[*classes, *errors],
        loc="lower center",
        ncols=min(len(classes) + len(errors), 8),
        fontsize=8,
        frameon=False,
    )
