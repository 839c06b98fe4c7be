"""Random warps of the plane: a pool that albumentations draws once, from which every batch takes its own.

A warp says for each pixel of the output which point of the input it shows. albumentations finds that point by
transforming the two coordinate images (column and row) in place of a picture, so that its transforms are
applied once and not at every step; batches are then warped where they lie, CPU or GPU. The coordinate images
are larger than the picture: what a warp brings in from outside has coordinates outside, and no border rule of
a transform ever touches one. Nothing lies there: an image is 0, and a label IGNORE (not 0, which would teach
that the corners of every turned image are background).

Warps change areas, lengths and positions, so no summary statistic stays true.
"""

from __future__ import annotations

import math
import os
from functools import lru_cache

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks the network for updates at import

import albumentations as A
import numpy as np
import torch
from jaxtyping import Float, Int, Int32, UInt8
from torch import Tensor
from torch.nn.functional import grid_sample

from trainables.method import IGNORE

POOL = 128
"""How many warps are drawn; with the eight symmetries of a square image a thousand views of each."""
SEED = 1
DEGREES = 30
SCALE = (0.8, 1.25)
SHEAR = 8
"""Degrees, along both axes."""
SHIFT = 0.1
"""Of the image's side."""
BENDING = 0.015
"""Standard deviation of an elastic displacement, of the image's shorter side."""
SMOOTHNESS = 0.1
"""Standard deviation of the Gaussian that smooths the displacements, of the image's shorter side."""
INVERSION_STEPS = 6

Grids = Float[Tensor, "G H W 2"]
Landings = Int32[Tensor, "G V"]


def identity(height: int, width: int, pad: int = 0) -> Float[np.ndarray, "h w 2"]:
    """(x, y) of every pixel's centre, -1 and 1 at the image's edges; of `pad` more pixels on each side."""
    sides = [(2 * np.arange(-pad, side + pad) + 1) / side - 1 for side in (width, height)]
    return np.stack(np.meshgrid(*sides), -1).astype(np.float32)


def _elastic_margin(height: int, width: int) -> int:
    """Pixels around the image that a displacement can bring in, and where smoothing noise meets its edge."""
    return math.ceil(2 * SMOOTHNESS * min(height, width)) + 1


def _padding(height: int, width: int) -> int:
    """Pixels around the image that the farthest warp can bring in, its turned corner included."""
    corner = math.hypot(height, width) / 2 + math.sqrt(2) * _elastic_margin(height, width)
    stretch = 1 / SCALE[0] / (1 - math.tan(math.radians(SHEAR)))
    return math.ceil((corner + SHIFT * max(height, width)) * stretch - min(height, width) / 2)


def _transform(height: int, width: int) -> A.Compose:
    pad, margin = _padding(height, width), _elastic_margin(height, width)
    shift = {name: SHIFT * side / (side + 2 * pad) for name, side in (("x", width), ("y", height))}
    sigma = max(1.0, SMOOTHNESS * min(height, width))
    # Uniform noise in [-1, 1] has the deviation 3^-1/2; smoothing a plane divides that by 2 pi^1/2 sigma.
    alpha = BENDING * min(height, width) * 2 * math.sqrt(3 * math.pi) * sigma
    return A.Compose(
        [
            A.Affine(
                rotate=(-DEGREES, DEGREES),
                scale=SCALE,
                keep_ratio=True,
                shear=(-SHEAR, SHEAR),
                translate_percent={name: (-s, s) for name, s in shift.items()},
                p=0.9,
            ),
            A.CenterCrop(height + 2 * margin, width + 2 * margin),
            A.ElasticTransform(alpha=alpha, sigma=sigma, noise_distribution="uniform", p=0.5),
            A.CenterCrop(height, width),
        ],
        seed=SEED,
    )


@lru_cache(maxsize=2)
def pool(height: int, width: int) -> Grids:
    """The POOL warps of images of this shape: for each pixel the point (x, y) that it shows, as `identity`.

    They depend on the shape alone; about one in twenty leaves the image as it is. Kept for the process: 8
    bytes times POOL times the pixels, 67 MB at 256 x 256.
    """
    transform, coordinates = _transform(height, width), identity(height, width, _padding(height, width))
    return torch.from_numpy(np.stack([transform(image=coordinates)["image"] for _ in range(POOL)]))


@lru_cache(maxsize=2)
def landings(height: int, width: int) -> Landings:
    """The inverse of `pool`: the pixel where each pixel's centre arrives, height * width if outside.

    Half the memory of the pool again.
    """
    return torch.stack([_landing(grid) for grid in pool(height, width)])


def _landing(grid_HW2: Float[Tensor, "H W 2"]) -> Int32[Tensor, " V"]:
    """Solves affine(t) + bend(t) = v for t: the bend is so smooth that each step is a contraction."""
    height, width, _ = grid_HW2.shape
    v = torch.from_numpy(identity(height, width)).double().view(-1, 2)
    design = torch.cat([v, torch.ones(len(v), 1, dtype=v.dtype)], 1)
    shown = grid_HW2.double().view(-1, 2)
    affine = torch.linalg.pinv(design) @ shown  # [3, 2]
    bend = (shown - design @ affine).view(1, height, width, 2).permute(0, 3, 1, 2)
    inverse, t = torch.linalg.pinv(affine[:2]), v
    for _ in range(INVERSION_STEPS):
        here = grid_sample(bend, t.view(1, 1, -1, 2), padding_mode="border", align_corners=False)
        t = (v - affine[2] - here[0, :, 0].T) @ inverse
    side = torch.tensor([width, height])
    column, row = ((t + 1) * side / 2).floor().long().T
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return torch.where(inside, row * width + column, height * width).int()


def warp_images(
    image_BCHW: Float[Tensor, "B C H W"], grid_BHW2: Float[Tensor, "B H W 2"]
) -> Float[Tensor, "B C H W"]:
    """What each pixel shows, bilinear between the pixels' centres; 0 outside the image."""
    return grid_sample(image_BCHW, grid_BHW2, align_corners=False)


def warp_labels(
    labels_BHW: UInt8[Tensor, "B H W"], grid_BHW2: Float[Tensor, "B H W 2"]
) -> UInt8[Tensor, "B H W"]:
    """The label of the pixel nearest to what each pixel shows; IGNORE outside the image.

    Right for masks and strokes. A single labelled pixel may be shown by none or by several.
    """
    known = labels_BHW[:, None].float() - IGNORE  # what lies outside is 0, and IGNORE once more
    return (grid_sample(known, grid_BHW2, mode="nearest", align_corners=False)[:, 0] + IGNORE).byte()


def move_points(labels_BHW: UInt8[Tensor, "B H W"], landing_BV: Int[Tensor, "B V"]) -> UInt8[Tensor, "B H W"]:
    """Every labelled pixel put where its centre arrives; IGNORE elsewhere.

    So a click neither vanishes nor doubles unless it leaves the image; a class whose every click has left has
    no label, as if it were absent, even where a rest of it still shows. Of two that arrive at one pixel (they
    were neighbours, in an image made smaller) the lower class stays.
    """
    pixels = labels_BHW.flatten(1)
    moved = torch.full_like(pixels, IGNORE)
    moved = torch.cat([moved, moved[:, :1]], 1)  # the last one takes what leaves the image
    moved.scatter_reduce_(1, landing_BV.long(), pixels, "amin")  # IGNORE is the highest: it never wins
    return moved[:, :-1].reshape(labels_BHW.shape)
