"""Labels of the pixels between seeds: the class whose seed a random walker meets first, for a batch at once.

The walker at i steps to a neighbour j of four with probability proportional to

    w_ij = exp(-beta |g_i - g_j|^2 / (10 s)) + FLOOR,

g being the image rescaled to [-1, 1] and s its standard deviation. u_c(i), the probability that its first
seed is of class c, is harmonic: sum_j w_ij (u_c(i) - u_c(j)) = 0 at every pixel without a seed, while a
seed's u is its one-hot label. A fixed number of conjugate gradients solves this linear system: nothing is
read from the device to decide when to stop. What makes few of them enough is their preconditioner, a V-cycle
of multigrid: blocks of 2 x 2, 4 x 4, ... pixels, up to the whole image, share one unknown each, which carries
a seed's say across the image in one step.

Source: Grady 2006, "Random walks for image segmentation" (IEEE TPAMI 28); the weights, with the division by
10 s, as in scikit-image's random_walker.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

from trainables.pairwise import Image, pieces
from trainables.terms import Labels, full_precision, one_hot

FLOOR = 1e-6
"""Least weight. scikit-image has 1e-10, which float32 can not tell from no connection at all."""
TINY = 1e-30
"""What a divisor is at least: a residual of 0 stays 0."""


DAMPING = 0.8
"""Of the smoother, Jacobi's iteration: below 1, so that it shrinks every error."""
BLOCK_STEP = 1.5
"""What a block's correction is multiplied by. Unknowns that are constant on blocks see differences as too
stiff, twice where the solution is smooth; 2 would no longer be safe. Of 1, 1.5 and 1.8 it needed the fewest
iterations on slices of ACDC."""


def random_walk(
    image_BCHW: Image, labels_BHW: Labels, num_classes: int, *, beta: float, iterations: int
) -> Float[Tensor, "B {num_classes} H W"]:
    """u: of each pixel, the probabilities of the class of the first seed; one-hot at the seeds.

    labels_BHW holds the seeds, and IGNORE elsewhere; beta > 0 has the unit 1 / g. u is between 0 and 1; over
    the classes it sums to 1, less what the iterations have not reached yet. A class without a seed in the
    image has u = 0, so that without any seed all of u is 0. No gradient.
    """
    return _random_walk(full_precision(image_BCHW.detach()), labels_BHW, num_classes, beta, iterations)


@torch.library.custom_op(
    "trainables::random_walk",
    mutates_args=(),
    schema="(Tensor image, Tensor labels, int num_classes, float beta, int iterations) -> Tensor",
)
def _random_walk(image: Tensor, labels: Tensor, num_classes: int, beta: float, iterations: int) -> Tensor:
    """One operation of a compiled graph, which need not unroll the solver's thousands."""
    walks = []
    for piece in pieces(image):
        seeds_BKHW = one_hot(labels[piece], num_classes).to(image.dtype)
        walks.append(solve(seeds_BKHW, *_weights(image[piece], beta), iterations))
    return torch.cat(walks).clamp_(0.0, 1.0)


@_random_walk.register_fake
def _(image: Tensor, labels: Tensor, num_classes: int, beta: float, iterations: int) -> Tensor:
    return image.new_empty(image.shape[0], num_classes, image.shape[2], image.shape[3])


class _Level(NamedTuple):
    """The system for blocks of some size: edges between them, edges to seeds, and 1 / the diagonal."""

    down: Tensor
    right: Tensor
    to_seeds: Tensor
    inverse: Tensor


def _weights(image_BCHW: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Of the edges to the pixel below [B,1,H-1,W] and to the pixel on the right [B,1,H,W-1]."""
    low, high = (extreme(image_BCHW, (1, 2, 3), keepdim=True) for extreme in (torch.amin, torch.amax))
    g_BCHW = 2.0 * (image_BCHW - low) / (high - low).clamp(min=TINY) - 1.0
    deviation_B111 = g_BCHW.std((1, 2, 3), correction=0, keepdim=True)
    rate_B111 = -beta / (
        10.0 * deviation_B111.clamp(min=1e-6)
    )  # 0 in a constant image, where g does not differ
    down, right = (
        (g_BCHW.diff(dim=dim).square().sum(1, keepdim=True) * rate_B111).exp() + FLOOR for dim in (2, 3)
    )
    return down, right


def solve(seeds_BKHW: Tensor, down: Tensor, right: Tensor, iterations: int) -> Tensor:
    """u by conjugate gradients, each class of each image for itself, from 0 where there is no seed.

    down [B,1,H-1,W] and right [B,1,H,W-1] are the weights of the edges to the pixel below and on the right.
    """
    free_B1HW = seeds_BKHW.sum(1, keepdim=True) == 0
    levels = _hierarchy(down, right, free_B1HW)
    u, residual = seeds_BKHW, -_outflow(seeds_BKHW, down, right) * free_B1HW
    direction = corrected = _v_cycle(levels, residual)
    slope = _product(residual, corrected)
    for _ in range(iterations):
        response = _response(levels[0], direction)
        step = slope / _product(direction, response).clamp(min=TINY)
        u = torch.addcmul(u, step, direction)
        residual = torch.addcmul(residual, step, response, value=-1.0)
        corrected = _v_cycle(levels, residual)
        before, slope = slope, _product(residual, corrected)
        direction = torch.addcmul(corrected, slope / before.clamp(min=TINY), direction)
    return u


def _v_cycle(levels: list[_Level], residual: Tensor) -> Tensor:
    """An approximate solution for that residual: smoothed, corrected by the blocks' own, smoothed again."""
    level = levels[0]
    if len(levels) == 1:
        return level.inverse * residual
    weight = DAMPING * level.inverse
    u = weight * residual
    coarse = _v_cycle(levels[1:], _block_sums(residual - _response(level, u), (2, 2)))
    size = (residual.shape[2], residual.shape[3])
    u = u + BLOCK_STEP * interpolate(coarse, size, mode="nearest") * (level.inverse > 0)
    return torch.addcmul(u, weight, residual - _response(level, u))


def _response(level: _Level, u: Tensor) -> Tensor:
    """The system's matrix times u, which is 0 at the seeds."""
    return torch.addcmul(_outflow(u, level.down, level.right), level.to_seeds, u)


def _product(one_BKHW: Tensor, other_BKHW: Tensor) -> Tensor:
    return (one_BKHW * other_BKHW).sum((2, 3), keepdim=True)


def _outflow(u_BKHW: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """The Laplacian: sum_j w_ij (u(i) - u(j)) over the neighbours."""
    below, after = down * u_BKHW.diff(dim=2), right * u_BKHW.diff(dim=3)
    return pad(below, (0, 0, 1, 0)) - pad(below, (0, 0, 0, 1)) + pad(after, (1, 0)) - pad(after, (0, 1))


def _at_both_ends(down: Tensor, right: Tensor) -> Tensor:
    """Of each pixel, the sum over its edges."""
    return pad(down, (0, 0, 1, 0)) + pad(down, (0, 0, 0, 1)) + pad(right, (1, 0)) + pad(right, (0, 1))


def _hierarchy(down: Tensor, right: Tensor, free_B1HW: Tensor) -> list[_Level]:
    """The system itself, and those of ever larger blocks, whose weights sum those between their pixels."""
    degree_B1HW = _at_both_ends(down, right)
    down = down * (free_B1HW[:, :, 1:] & free_B1HW[:, :, :-1])
    right = right * (free_B1HW[..., 1:] & free_B1HW[..., :-1])
    to_seeds = (degree_B1HW - _at_both_ends(down, right)) * free_B1HW
    levels = [_Level(down, right, to_seeds, free_B1HW / degree_B1HW.clamp(min=TINY))]
    while max(to_seeds.shape[2:]) > 1:
        to_seeds = _block_sums(to_seeds, (2, 2))
        down, right = _block_sums(down[:, :, 1::2], (1, 2)), _block_sums(right[..., 1::2], (2, 1))
        diagonal = to_seeds + _at_both_ends(down, right)
        inverse = torch.where(diagonal > TINY, 1.0 / diagonal.clamp(min=TINY), 0.0)  # 0: a block of seeds
        levels.append(_Level(down, right, to_seeds, inverse))
    return levels


def _block_sums(values: Tensor, block: tuple[int, int]) -> Tensor:
    """Over blocks of that many rows and columns; the last ones may be smaller."""
    if 0 in values.shape:  # no edge is left in this direction
        rows, columns = (-(-n // side) for n, side in zip(values.shape[2:], block, strict=True))
        return values.new_zeros(*values.shape[:2], rows, columns)
    return avg_pool2d(values, block, ceil_mode=True, divisor_override=1)
