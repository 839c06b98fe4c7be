"""Scribbles on a phantom's mask: one stroke for each class of an image, as ACDC's experts drew them.

An annotator goes round inside a structure, about half way between its border and its middle, without closing
the curve; and round the structures, at some distance, for the background. Both are parts of curves of equal
distance to the border. Of phantoms-organs as it is by default, 64 x 64, the strokes are 10.3 % of the
liver's pixels, 12.0 % of the spleen's, 7.2 % of the kidneys' (one of the two is drawn in) and 0.84 % of the
background's.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from trainables.data.rules import UNLABELLED

STRUCTURE_SHARE = (0.09, 0.17)
"""Share of a structure's pixels that are to be drawn. ACDC's experts: 0.10 to 0.14 by structure."""
BACKGROUND_SHARE = (0.006, 0.011)
"""ACDC's experts: 0.0066."""

_DEPTH = (0.3, 0.55)
"""Where a structure's stroke runs: 0 on the border, 1 at its deepest pixel. ACDC: half way."""
_DISTANCE = (0.03, 0.09)
"""Of the background's stroke from the structures, in sides of the image."""
_WIDER = (96, 160)
"""Sides of an image from which on the pen is one pixel wider."""
_STEPS = tuple((down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if (down, right) != (0, 0))


def scribble(mask_HW: np.ndarray, num_classes: int, generator: np.random.Generator) -> np.ndarray:
    """One stroke inside each class that the uint8 [H, W] mask holds, background included.

    Returns uint8 [H, W]: the class id on its stroke, 255 elsewhere. A stroke is an 8-connected open curve,
    1 pixel wide (2 from 96 pixels a side on, 3 from 160 on), never outside its class, never empty. Of several
    objects of a class one gets it, a large one more likely than a small one. The background's runs round
    structures, and may leave the body; in an image without structures, round the middle of the image.
    """
    width = 1 + sum(min(mask_HW.shape) >= side for side in _WIDER)
    drawn_HW = np.full(mask_HW.shape, UNLABELLED, np.uint8)
    for class_id in range(num_classes):
        class_HW = mask_HW == class_id
        if class_HW.any():
            share = generator.uniform(*(STRUCTURE_SHARE if class_id else BACKGROUND_SHARE))
            # A background without structures has nothing to be drawn round: it is drawn in as one of them.
            outside = class_id == 0 and not class_HW.all()
            drawn_HW[_stroke(class_HW, outside, share, width, generator)] = class_id
    return drawn_HW


def _stroke(
    class_HW: np.ndarray, outside: bool, share: float, width: int, generator: np.random.Generator
) -> np.ndarray:
    """The pixels of one stroke, bool [H, W]."""
    path = _longest_path(_open_curve(class_HW, outside, width, generator), generator)
    per_step = 1.3 * width - 0.3  # a wide pen paints more on its diagonal steps
    length = min(len(path), max(1, round(share * np.count_nonzero(class_HW) / per_step)))
    start = int(generator.integers(len(path) - length + 1))
    stroke_HW = np.zeros_like(class_HW)
    stroke_HW[tuple(np.transpose(path[start : start + length]))] = True
    return ndimage.binary_dilation(stroke_HW, np.ones((width, width), bool)) & class_HW


def _open_curve(
    class_HW: np.ndarray, outside: bool, width: int, generator: np.random.Generator
) -> np.ndarray:
    """A band of pixels of one depth, bool [H, W], round one object; cut at a random place if it is a ring.

    `outside`: the class is what lies outside the structures. The band cannot be empty: depth falls from the
    deepest pixel to 1 by at most 1 a pixel.
    """
    depth_HW = _depth(class_HW, framed=not outside)
    deepest = depth_HW.max()
    level = deepest * generator.uniform(*_DEPTH)
    if outside:
        level = min(level, min(class_HW.shape) * generator.uniform(*_DISTANCE))
    level = min(deepest, max(level, 1.01))  # off the border, where there are pixels off the border
    band_HW = class_HW & (depth_HW >= level) & (depth_HW < level + 1.0)
    row, column = generator.choice(np.argwhere(band_HW))
    labels_HW, _ = ndimage.label(band_HW, np.ones((3, 3), bool))
    band_HW = labels_HW == labels_HW[row, column]
    if not (ndimage.binary_fill_holes(band_HW) & ~band_HW).any():
        return band_HW
    reach = 1 + width
    cut_HW = band_HW.copy()
    cut_HW[max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1] = False
    return cut_HW if cut_HW.any() else band_HW


def _depth(class_HW: np.ndarray, *, framed: bool) -> np.ndarray:
    """Distance in pixels to the nearest pixel outside the class; `framed`: beyond the image is outside."""
    padded = np.pad(class_HW, 1, constant_values=False) if framed else class_HW
    depth_HW = ndimage.distance_transform_edt(padded)
    return depth_HW[1:-1, 1:-1] if framed else depth_HW


def _longest_path(curve_HW: np.ndarray, generator: np.random.Generator) -> list[tuple[int, int]]:
    """A shortest path between two pixels that are far apart: the farthest of a random one, and its farthest.

    A shortest path never touches itself, so the stroke is a simple curve.
    """
    pixels = [(int(row), int(column)) for row, column in np.argwhere(curve_HW)]
    end = _breadth_first(set(pixels), pixels[int(generator.integers(len(pixels)))])[0]
    return _breadth_first(set(pixels), end)


def _breadth_first(unseen: set[tuple[int, int]], start: tuple[int, int]) -> list[tuple[int, int]]:
    """The way back to `start` from the pixel farthest from it, in 8-connected steps; takes from `unseen`."""
    unseen.remove(start)
    queue, before = [start], {start: start}
    for row, column in queue:  # grows while it is read
        for down, right in _STEPS:
            neighbour = (row + down, column + right)
            if neighbour in unseen:
                unseen.remove(neighbour)
                before[neighbour] = (row, column)
                queue.append(neighbour)
    path = [queue[-1]]
    while path[-1] != start:
        path.append(before[path[-1]])
    return path
