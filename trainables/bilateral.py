"""Sums over all pairs of pixels of an image under Gaussian kernels: small matrix products, no list of pairs.

A Gaussian is a sum over nodes of products of narrower ones: with nodes t spaced h = sigma / sqrt(2)

    exp(-(a - b)^2 / (2 sigma^2))  =  pi^(-1/2) sum_t exp(-(a - t)^2 / sigma^2) exp(-(b - t)^2 / sigma^2),

where the sum is the trapezoid rule of an integral: its relative error is 2 exp(-pi^2) = 1.03e-4, and what
the nodes farther than 2 sigma outside the values' range would add is 3e-5. So the kernel of row, column and
intensity is F F^T with a feature of F for each triple of nodes, some 14 x 14 x 30 of them, and multiplying by
it costs two passes over the image instead of one per pixel. The lattice is a bilateral grid with Gaussians
where the usual one interpolates linearly and blurs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor

from trainables.method import Scalar
from trainables.pairwise import Image, Kernel, Probabilities, pieces, potts_energy
from trainables.terms import full_precision

SMALLEST_MASS = 1e-3
"""Kernel mass of a pixel below which it has no neighbours to speak of."""

FARTHEST = 20.0
"""Squared distance to a node, in sigma^2, from which a feature is 0 instead of exp(-20) = 2e-9 and less.
Products of such numbers are denormal, and matrix products of those were 30 times as slow on a CPU."""


def dense_crf_loss(p_BKHW: Probabilities, image_BCHW: Image, kernels: Sequence[Kernel]) -> Scalar:
    """The Potts energy of all pairs over their kernel mass, the mean over the images: from 0 to 1 - 1/K.

    The energy of an image is sum_ij k(i, j) (1 - p(i) . p(j)) over its ordered pairs i != j and the mass
    sum_ij k(i, j): the share of like pixels that have unlike labels. image_BCHW has one channel, in [0, 1].
    The energy is that of Tang et al. 2018, arXiv:1803.09569; the division by the mass is ours.
    """
    p_BKHW = full_precision(p_BKHW)
    message_BKHW = dense_message(p_BKHW.detach(), image_BCHW, kernels)
    least = SMALLEST_MASS * p_BKHW[0, 0].numel()
    mass_B = message_BKHW.flatten(1).sum(1).clamp(min=least)  # p sums to 1 over the classes
    return (potts_energy(p_BKHW, message_BKHW) / mass_B).mean()


@torch.no_grad()
def dense_message(p_BKHW: Probabilities, image_BCHW: Image, kernels: Sequence[Kernel]) -> Probabilities:
    """m_c(i) = sum over the j != i of k(i, j) p_c(j). Kernels of infinite sigma_intensity are exact, others
    have the module's error of 3e-4 of each pair's k. Raises ValueError for more than one image channel."""
    if image_BCHW.shape[1] != 1:
        raise ValueError(
            f"The kernel is one of grey images, but the image has {image_BCHW.shape[1]} channels."
        )
    image_BHW = image_BCHW[:, 0].to(p_BKHW.dtype)
    message_BKHW = torch.empty_like(p_BKHW)
    with _without_autocast(p_BKHW):
        for piece in pieces(p_BKHW):
            sums = [kernel.weight * _gaussian(p_BKHW[piece], image_BHW[piece], kernel) for kernel in kernels]
            message_BKHW[piece] = torch.stack(sums).sum(0)
    return message_BKHW.sub_(sum(kernel.weight for kernel in kernels) * p_BKHW)  # k(i, i) was 1


def _without_autocast(tensor: Tensor) -> AbstractContextManager[None]:
    """Matrix products keep their precision; meta tensors have no autocast that could be switched off."""
    if not torch.amp.is_autocast_available(tensor.device.type):
        return nullcontext()
    return torch.autocast(tensor.device.type, enabled=False)


def _gaussian(p_BKHW: Tensor, image_BHW: Tensor, kernel: Kernel) -> Tensor:
    """One kernel of weight 1, the pixel itself included."""
    if math.isinf(kernel.sigma_intensity):
        return _spatial(p_BKHW, kernel)
    return _bilateral(p_BKHW, image_BHW, kernel)


def _spatial(p_BKHW: Tensor, kernel: Kernel) -> Tensor:
    """The Gaussian of the distance alone: one matrix along the rows, one along the columns."""
    rows_HH, columns_WW = (
        (-0.5 * ((at[:, None] - at) / kernel.sigma_xy).square()).exp() for at in _places(p_BKHW)
    )
    return rows_HH @ p_BKHW @ columns_WW


def _bilateral(p_BKHW: Tensor, image_BHW: Tensor, kernel: Kernel) -> Tensor:
    """F (F^T p): R and E are the nodes along the rows and the columns, J those of the intensity."""
    row_H, column_W = _places(p_BKHW)
    height, width = p_BKHW.shape[2:]
    features_HR = _features(row_H, kernel.sigma_xy, 0.0, height - 1.0)
    features_WE = _features(column_W, kernel.sigma_xy, 0.0, width - 1.0)
    features_BHWJ = _features(image_BHW, kernel.sigma_intensity, 0.0, 1.0)
    spread_BHKEW = p_BKHW.transpose(1, 2).unsqueeze(3) * features_WE.T
    sums_BHKEJ = (spread_BHKEW.flatten(2, 3) @ features_BHWJ).unflatten(2, spread_BHKEW.shape[2:4])
    lattice_BRKEJ = torch.einsum("hr,bhkej->brkej", features_HR, sums_BHKEJ)
    sums_BHKEJ = torch.einsum("hr,brkej->bhkej", features_HR, lattice_BRKEJ)
    gathered_BHKEW = (sums_BHKEJ.flatten(2, 3) @ features_BHWJ.mT).unflatten(2, spread_BHKEW.shape[2:4])
    return gathered_BHKEW.mul_(features_WE.T).sum(3).transpose(1, 2)


def _places(p_BKHW: Tensor) -> tuple[Tensor, Tensor]:
    """The row and the column of each pixel."""
    row_H, column_W = (torch.arange(n, device=p_BKHW.device, dtype=p_BKHW.dtype) for n in p_BKHW.shape[2:])
    return row_H, column_W


def _features(values: Float[Tensor, "*S"], sigma: float, low: float, high: float) -> Float[Tensor, "*S J"]:
    """pi^(-1/4) exp(-(a - t)^2 / sigma^2) for the nodes t from low - 2 sigma to high + 2 sigma."""
    spacing = sigma / math.sqrt(2.0)
    intervals = math.ceil((high - low + 4.0 * sigma) / spacing)
    first = (low + high - intervals * spacing) / 2.0
    node_J = first + spacing * torch.arange(intervals + 1, device=values.device, dtype=values.dtype)
    squares_SJ = ((values.unsqueeze(-1) - node_J) / sigma).square()
    near_SJ = squares_SJ.clamp(max=FARTHEST).neg_().exp_().mul_(math.pi**-0.25)
    return near_SJ.masked_fill_(squares_SJ >= FARTHEST, 0.0)
