"""Augmentation that keeps every summary statistic true: only transforms that permute an image's pixels.

albumentations applies each transform once, to the grid of pixel numbers; what comes back is a gather table.
A transform that crops, scales or blends loses or repeats pixel numbers and is refused, so an area that a
doctor wrote down stays right by construction. Batches are then augmented where they lie, CPU or GPU.
"""

from __future__ import annotations

import os
from typing import TypeAlias

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks the network for updates at import

import albumentations as A
import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

Transform: TypeAlias = A.BasicTransform | A.Compose

_FLIPS = ("e", "h", "v", "r180")
_TURNS = ("r90", "r270", "t", "hvt")


def _transform(element: str) -> Transform:
    parts: dict[str, list[A.BasicTransform]] = {
        "e": [A.NoOp(p=1)],
        "h": [A.HorizontalFlip(p=1)],
        "v": [A.VerticalFlip(p=1)],
        "r180": [A.HorizontalFlip(p=1), A.VerticalFlip(p=1)],
        "t": [A.Transpose(p=1)],
        "r90": [A.Transpose(p=1), A.VerticalFlip(p=1)],
        "r270": [A.Transpose(p=1), A.HorizontalFlip(p=1)],
        "hvt": [A.Transpose(p=1), A.HorizontalFlip(p=1), A.VerticalFlip(p=1)],
    }
    return A.Compose(parts[element])


def table_of(transform: Transform, height: int, width: int) -> Int[Tensor, " V"]:
    """Gather table of a transform: output pixel v comes from input pixel table[v].

    Raises ValueError when the transform does not keep all pixels of a `height` x `width` image.
    """
    grid = np.arange(height * width, dtype=np.float32).reshape(height, width)
    out = transform(image=grid)["image"]
    flat = out.ravel().astype(np.int64)
    permutes = out.shape == grid.shape and np.array_equal(np.sort(flat), np.arange(flat.size))
    if not permutes:
        raise ValueError(
            f"{transform} does not permute the pixels of a {height}x{width} image, so summary statistics "
            "would no longer be true; only flips, and turns of square images, keep them."
        )
    return torch.from_numpy(flat)


def symmetries(augmentation: str, height: int, width: int) -> Int[Tensor, "G V"]:
    """The gather tables of a named augmentation; row 0 leaves the image alone. Turns need a square image.

    "heavy" begins with the symmetries of "flips_turns"; `trainables.data.heavy` does the rest.
    """
    turns = _FLIPS + (_TURNS if height == width else ())
    elements = {"none": ("e",), "flips": _FLIPS, "flips_turns": turns, "heavy": turns}
    return torch.stack([table_of(_transform(e), height, width) for e in elements[augmentation]])


def apply(
    images: Shaped[Tensor, "B *C H W"], tables: Int[Tensor, "G V"], choice: Int[Tensor, " B"]
) -> Shaped[Tensor, "B *C H W"]:
    """Every image permuted by its own table; the same `choice` moves image and labels alike."""
    rows = tables[choice]
    if images.ndim == 4:
        rows = rows[:, None].expand(-1, images.shape[1], -1)
    return images.flatten(-2).gather(-1, rows).view_as(images)


def move_centroids(
    centroid_BK2: Float[Tensor, "B K 2"], tables: Int[Tensor, "G V"], choice: Int[Tensor, " B"], width: int
) -> Float[Tensor, "B K 2"]:
    """Centroids (row, column as fractions of height and width) of the permuted images.

    Each symmetry is affine on the unit square, so three corner pixels of its table fix it.
    """
    height = tables.shape[1] // width
    sources = torch.tensor([0, width - 1, (height - 1) * width], device=tables.device)
    targets = torch.stack([(tables == s).int().argmax(1) for s in sources], 1)
    rows = (targets // width + 0.5) / height
    columns = (targets % width + 0.5) / width
    corners = torch.stack((rows, columns), -1)  # [G, 3, 2]: where the three source corners went
    low_r, high_r = 0.5 / height, (height - 0.5) / height
    low_c, high_c = 0.5 / width, (width - 0.5) / width
    along_column = (corners[:, 1] - corners[:, 0]) / max(high_c - low_c, 1e-9)
    along_row = (corners[:, 2] - corners[:, 0]) / max(high_r - low_r, 1e-9)
    r, c = centroid_BK2[..., 0:1] - low_r, centroid_BK2[..., 1:2] - low_c
    return corners[choice, None, 0] + r * along_row[choice, None] + c * along_column[choice, None]
