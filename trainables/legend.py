"""What the colours of a picture mean: one for each class, one for each kind of error. Loads no torch."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Integer

CLASS_COLOURS = ("#d9d9d9", "#e69f00", "#56b4e9", "#f0e442", "#cc79a7", "#009e73", "#0072b2", "#d55e00")
"""Okabe and Ito's palette, which colour-blind readers can tell apart; background light grey."""

ERROR_COLOURS = {"false positive": "#ff2d2d", "false negative": "#3d5afe", "wrong class": "#c6ff00"}
"""None of the class colours, and of clearly different brightness."""

MOST_DOTS = 1000
"""Up to so many labelled pixels are drawn as dots, more as areas."""


def class_colour(index: int) -> str:
    """The colour of a class; with more than seven foreground classes they come round again."""
    return CLASS_COLOURS[0] if index == 0 else CLASS_COLOURS[1 + (index - 1) % (len(CLASS_COLOURS) - 1)]


def error_maps(
    mask_HW: Integer[np.ndarray, "H W"], prediction_HW: Integer[np.ndarray, "H W"]
) -> dict[str, Bool[np.ndarray, "H W"]]:
    """Where the prediction is wrong, by kind as in ERROR_COLOURS; a pixel is of one kind at most."""
    return {
        "false positive": (mask_HW == 0) & (prediction_HW != 0),
        "false negative": (mask_HW != 0) & (prediction_HW == 0),
        "wrong class": (mask_HW != 0) & (prediction_HW != 0) & (mask_HW != prediction_HW),
    }
