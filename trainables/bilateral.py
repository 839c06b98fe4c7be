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
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from trainables.method import Scalar
from trainables.pairwise import Image, Kernel, Probabilities, pieces, potts_energy
from trainables.terms import full_precision, full_precision_products

PairSums = Callable[[Probabilities], Probabilities]

SMALLEST_MASS = 1e-3
"""Kernel mass of a pixel below which it has no neighbours to speak of."""

FARTHEST = 20.0
"""What is smaller than exp(-20) = 2e-9, a feature far from its node or the Gaussian of a distance, is 0.
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
    """m_c(i) = sum over the j != i of k(i, j) p_c(j). Kernels of infinite sigma_intensity are exact to 2e-9,
    others have the module's error of 3e-4 of each pair's k. Raises ValueError for several image channels."""
    image_BCHW = image_BCHW.to(p_BKHW.dtype)
    return torch.stack([k.weight * pair_sums(image_BCHW, k)(p_BKHW) for k in kernels]).sum(0)


@torch.no_grad()
def pair_sums(image_BCHW: Image, kernel: Kernel) -> PairSums:
    """`dense_message` of one kernel, its weight left out, for many p: what the image decides is done once."""
    if image_BCHW.shape[1] != 1:
        raise ValueError(
            f"The kernel is one of grey images, but the image has {image_BCHW.shape[1]} channels."
        )
    by_piece = [(piece, _gaussian(image_BCHW[piece, 0], kernel)) for piece in pieces(image_BCHW)]

    @torch.no_grad()
    def sums(p_BKHW: Probabilities) -> Probabilities:
        with full_precision_products(p_BKHW):
            message_BKHW = torch.cat([gaussian(p_BKHW[piece]) for piece, gaussian in by_piece])
        return message_BKHW.sub_(p_BKHW)  # k(i, i) was 1

    return sums


def _gaussian(image_BHW: Tensor, kernel: Kernel) -> PairSums:
    """One kernel of weight 1, the pixel itself included."""
    if math.isinf(kernel.sigma_intensity):
        return _spatial(image_BHW, kernel)
    return _bilateral(image_BHW, kernel)


def _spatial(image_BHW: Tensor, kernel: Kernel) -> PairSums:
    """The Gaussian of the distance alone: one matrix along the rows, one along the columns."""
    rows_HH, columns_WW = (
        _near((at[:, None] - at).div(kernel.sigma_xy * math.sqrt(2.0)).square()) for at in _places(image_BHW)
    )
    return lambda p_BKHW: rows_HH @ p_BKHW @ columns_WW


def _bilateral(image_BHW: Tensor, kernel: Kernel) -> PairSums:
    """F (F^T p): R and E are the nodes along the rows and the columns, J those of the intensity."""
    row_H, column_W = _places(image_BHW)
    height, width = image_BHW.shape[1:]
    features_HR = _features(row_H, kernel.sigma_xy, 0.0, height - 1.0)
    features_EW = _features(column_W, kernel.sigma_xy, 0.0, width - 1.0).T.contiguous()
    features_BHWJ = _features(image_BHW, kernel.sigma_intensity, 0.0, 1.0)

    def sums(p_BKHW: Tensor) -> Tensor:
        spread_BHKEW = p_BKHW.transpose(1, 2).contiguous().unsqueeze(3) * features_EW
        sums_BHPJ = spread_BHKEW.flatten(2, 3) @ features_BHWJ  # P: every pair of K and E
        lattice_BRX = features_HR.T @ sums_BHPJ.flatten(2)
        sums_BHPJ = (features_HR @ lattice_BRX).view_as(sums_BHPJ)
        gathered_BHKEW = (sums_BHPJ @ features_BHWJ.mT).view_as(spread_BHKEW)
        return gathered_BHKEW.mul_(features_EW).sum(3).transpose(1, 2)

    return sums


def _places(image_BHW: Tensor) -> tuple[Tensor, Tensor]:
    """The row and the column of each pixel."""
    row_H, column_W = (
        torch.arange(n, device=image_BHW.device, dtype=image_BHW.dtype) for n in image_BHW.shape[1:]
    )
    return row_H, column_W


def _features(values: Float[Tensor, "*S"], sigma: float, low: float, high: float) -> Float[Tensor, "*S J"]:
    """pi^(-1/4) exp(-(a - t)^2 / sigma^2) for the nodes t from low - 2 sigma to high + 2 sigma."""
    spacing = sigma / math.sqrt(2.0)
    intervals = math.ceil((high - low + 4.0 * sigma) / spacing)
    first = (low + high - intervals * spacing) / 2.0
    node_J = first + spacing * torch.arange(intervals + 1, device=values.device, dtype=values.dtype)
    return _near(((values.unsqueeze(-1) - node_J) / sigma).square()).mul_(math.pi**-0.25)


def _near(squares: Tensor) -> Tensor:
    """exp(-squares), and 0 where that is next to nothing."""
    return squares.clamp(max=FARTHEST).neg_().exp_().masked_fill_(squares >= FARTHEST, 0.0)
