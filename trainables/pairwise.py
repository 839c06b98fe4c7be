"""Potts energies of soft labels: sums over pairs of pixels, without a list or an unfolded tensor of pairs.

k(i, j) = sum_m w_m exp(-|i - j|^2 / (2 sigma_xy,m^2) - |x_i - x_j|^2 / (2 sigma_x,m^2)), k(i, i) = 0, weighs
the ordered pairs of pixels and p_c(i) is the probability of class c. With the message
m_c(i) = sum_j k(i, j) p_c(j) the energy of an image is

    sum_ij k(i, j) (1 - sum_c p_c(i) p_c(j)) = sum_i sum_c m_c(i) (1 - p_c(i)),

because p sums to 1 over the classes. Every term of the right side is at least 0, so nothing cancels where
the predictions are sure and the same one-hot label everywhere costs exactly 0. k is symmetric, so the
derivative by p is -2 m: once m is known, and it is found without a graph, backward is one multiplication.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainables.method import Scalar
from trainables.terms import full_precision

Probabilities = Float[Tensor, "B K H W"]
Image = Float[Tensor, "B C H W"]

PIECE = 2**16
"""Pixels that are worked on at once on a CPU, at least an image: the many passes then stay in its caches."""


class Kernel(NamedTuple):
    """One of the Gaussians that k is the sum of."""

    weight: float
    sigma_xy: float
    """In pixels; inf: the distance does not matter."""
    sigma_intensity: float
    """In units of the image; inf: the intensities do not matter."""


class _Potts(torch.autograd.Function):
    """sum_i sum_c m_c(i) (1 - p_c(i)) of each image; its derivative by p is that of the pair sum, -2 m."""

    @staticmethod
    def forward(ctx: Any, p_BKHW: Tensor, message_BKHW: Tensor) -> Tensor:
        ctx.save_for_backward(message_BKHW)
        return (1.0 - p_BKHW).mul_(message_BKHW).flatten(1).sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_B: Tensor) -> tuple[Tensor, None]:
        (message_BKHW,) = ctx.saved_tensors
        return message_BKHW * (-2.0 * gradient_B).view(-1, 1, 1, 1), None


def potts_energy(p_BKHW: Probabilities, message_BKHW: Probabilities) -> Float[Tensor, " B"]:
    """The energy [B] of each image: half of it is that of the unordered pairs.

    p must sum to 1 over the classes and message_BKHW be its sums over a symmetric kernel. Differentiable
    once, by p only: the kernel is a constant.
    """
    return _Potts.apply(p_BKHW, message_BKHW)


def gated_crf_loss(
    p_BKHW: Probabilities, image_BCHW: Image, kernels: Sequence[Kernel], radius: int
) -> Scalar:
    """The Potts energy of the pairs at most `radius` rows and columns apart, divided by the B H W pixels.

    Only pairs inside the image count, so that the same one-hot label everywhere costs 0; the usual
    formulation adds `outside_constant`. In float32 where less is given; `radius` is in pixels.
    Source: Obukhov et al. 2019, arXiv:1906.04651.
    """
    p_BKHW = full_precision(p_BKHW)
    message_BKHW = window_message(p_BKHW.detach(), image_BCHW, kernels, radius)
    return potts_energy(p_BKHW, message_BKHW).sum() / p_BKHW[:, 0].numel()


@torch.no_grad()
def window_message(
    p_BKHW: Probabilities, image_BCHW: Image, kernels: Sequence[Kernel], radius: int
) -> Probabilities:
    """m: each pixel's kernel sum over the (2 radius + 1)^2 window around it, cut off at the image's border.

    Half of the offsets suffice: the weights of one are also those of its opposite.
    """
    message_BKHW, image_BCHW = torch.zeros_like(p_BKHW), image_BCHW.to(p_BKHW.dtype)
    height, width = p_BKHW.shape[2:]
    for piece in pieces(p_BKHW):
        for row, column in _half_window(radius, height, width):
            (rows_i, rows_j), (columns_i, columns_j) = _overlap(row, height), _overlap(column, width)
            i, j = (piece, slice(None), rows_i, columns_i), (piece, slice(None), rows_j, columns_j)
            squares_B1HW = (image_BCHW[i] - image_BCHW[j]).square_().sum(1, keepdim=True)
            weight_B1HW = _gaussians(squares_B1HW, row * row + column * column, kernels)
            message_BKHW[i].addcmul_(weight_B1HW, p_BKHW[j])
            message_BKHW[j].addcmul_(weight_B1HW, p_BKHW[i])
    return message_BKHW


def pieces(tensor: Tensor) -> Iterator[slice]:
    """Ranges of images: all at once on a GPU and in a graph, where every piece would add its launches."""
    images, pixels = len(tensor), tensor[0, 0].numel()
    at_once = tensor.device.type != "cpu" or torch.compiler.is_compiling()
    step = images if at_once else max(1, PIECE // pixels)
    for first in range(0, images, step):
        yield slice(first, first + step)


def _half_window(radius: int, height: int, width: int) -> Iterator[tuple[int, int]]:
    """One (row, column) of each pair of opposite offsets that fit in the image."""
    rows, columns = min(radius, height - 1), min(radius, width - 1)
    yield from ((0, column) for column in range(1, columns + 1))
    yield from ((row, column) for row in range(1, rows + 1) for column in range(-columns, columns + 1))


def _overlap(offset: int, length: int) -> tuple[slice, slice]:
    """Along one axis, the i for which i + offset is inside too, and these i + offset."""
    return (
        slice(max(0, -offset), length - max(0, offset)),
        slice(max(0, offset), length - max(0, -offset)),
    )


def _gaussians(squares: Tensor, squared_distance: float, kernels: Sequence[Kernel]) -> Tensor:
    """k of pairs with these squared differences of intensity, all `squared_distance` px^2 apart."""
    parts = []
    for weight, sigma_xy, sigma_intensity in kernels:
        near = weight * math.exp(-0.5 * squared_distance / sigma_xy**2)
        parts.append((squares * (-0.5 / sigma_intensity**2)).exp_().mul_(near))
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)


def outside_constant(image_BCHW: Image, kernels: Sequence[Kernel], radius: int) -> Scalar:
    """What the usual formulation of `gated_crf_loss` is larger by; it has no gradient.

    Unfolding zero-padded features pairs a pixel near the border with pixels outside, all of them at row 0,
    column 0 and of intensity 0, and no label agrees with theirs. So a pixel at (r, c) of intensity x, n of
    whose (2 radius + 1)^2 window lie outside, adds n k((r, c, x), (0, 0, 0)) / (B H W).
    """
    image_BCHW = full_precision(image_BCHW)
    row_H, column_W = (
        torch.arange(n, device=image_BCHW.device, dtype=image_BCHW.dtype) for n in image_BCHW.shape[2:]
    )
    inside_H, inside_W = (1 + at.clamp(max=radius) + at.flip(0).clamp(max=radius) for at in (row_H, column_W))
    outside_HW = (2 * radius + 1) ** 2 - inside_H[:, None] * inside_W
    squared_distance_HW = row_H[:, None].square() + column_W.square()
    squares_BHW = image_BCHW.square().sum(1)
    weights = [
        weight * (-0.5 * (squared_distance_HW / sigma_xy**2 + squares_BHW / sigma_intensity**2)).exp()
        for weight, sigma_xy, sigma_intensity in kernels
    ]
    return (outside_HW * torch.stack(weights).sum(0)).mean()
