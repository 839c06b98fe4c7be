"""Unbiased gradients of discrete statistics of random masks: expected squared errors, sampled n times.

A mask is drawn pixel by pixel: y_i is foreground with probability p_i, independently. Of any function h of it
the derivative d E[h] / d p_i is the mean of s_i (h(y) - h(y with i flipped)), s_i = +1 where y_i is
foreground, else -1 (Barucic and Kybic 2022, lemma 1). That difference does not depend on the y_i that was
drawn: the two outcomes of pixel i itself are summed exactly (it is Rao-Blackwellised), which is why the n
samples are spent on the other pixels alone. Estimates stay unbiased whatever joins the n masks, as long as
each of them alone has the right distribution; see `SAMPLINGS`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trainables.discrete import Flips
from trainables.method import Scalar
from trainables.terms import full_precision, masked_mean

SAMPLINGS = ("independent", "antithetic", "systematic")
"""How the uniform numbers of the n samples go together: each for itself; in pairs u, 1 - u; u + k/n modulo 1.
All three are exactly unbiased."""

PIECE = {"cpu": 2**20, "cuda": 2**24}
"""Pixels whose flips are computed at once. On a CPU larger pieces leave the caches, and their memory is
returned to the system and fetched again, which was measured to cost three times the arithmetic."""


class Estimate(NamedTuple):
    """The objective, and what tells whether its gradient says anything."""

    loss: Scalar
    """Mean over samples and masks of ((target - value) / largest)^2; its gradient is the estimate."""
    squared_error: Scalar
    """The same without the division, in the statistic's unit squared: the error under noise."""
    noisy_minus_mask: Scalar
    """Mean value of the drawn masks minus that of the thresholded ones, in the statistic's unit."""
    zero_gradient_share: Scalar
    """Share of the drawn masks none of whose flips changes the error."""


def class_logits(logits_BKHW: Float[Tensor, "B K H W"]) -> Float[Tensor, "B J H W"]:
    """log p / (1 - p) of each foreground class under the softmax, J = K - 1, in float32 or float64.

    With two classes the difference of the two logits; with more the others' log-sum-exp takes the place of
    the background's logit. Nothing overflows where the softmax saturates.
    """
    a_BKHW = full_precision(logits_BKHW)
    if a_BKHW.shape[1] == 2:
        return a_BKHW[:, 1:] - a_BKHW[:, :1]
    classes = torch.arange(a_BKHW.shape[1], device=a_BKHW.device)
    own_JK = classes[1:, None] == classes
    others_BJKHW = a_BKHW.unsqueeze(1).masked_fill(own_JK[None, :, :, None, None], -torch.inf)
    return a_BKHW[:, 1:] - others_BJKHW.logsumexp(2)


def expected_squared_error(
    logits_MHW: Float[Tensor, "M H W"],
    target_M: Float[Tensor, " M"],
    flips: Callable[[Tensor], Flips],
    *,
    samples: int,
    noise_scale: float = 1.0,
    sampling: str = "independent",
    pixel_share: float = 1.0,
    unit_M: Float[Tensor, " M"] | None = None,
    value: Callable[[Tensor], Tensor] | None = None,
) -> Estimate:
    """The expected squared error of a discrete statistic of M random masks, its gradient sampled.

    logits_MHW: P(foreground) = sigmoid(logit / noise_scale), i.e. logistic noise of that scale is subtracted
    before thresholding at 0. target_M: the reported value; NaN where unknown, which gives exactly 0 and a
    zero gradient. unit_M: what one step of the statistic is worth in the target's unit (mm a pixel), 1 when
    None. pixel_share: of the pixels' derivatives only this random share is kept, each divided by it. value: a
    cheaper way to the statistic where its flips are not needed.
    Source: Barucic and Kybic 2022, eqs. 7-11 and 21; the mean over masks, the division by `largest`, the
    scale of the noise and the share are ours.
    """
    p_MHW = torch.sigmoid(logits_MHW / noise_scale)
    known_M = ~target_M.isnan()
    unit_M = torch.ones_like(target_M) if unit_M is None else unit_M
    with torch.no_grad():
        target_M = torch.where(known_M, target_M, 0.0)
        hard_M = unit_M * (flips(logits_MHW > 0).value_B if value is None else value(logits_MHW > 0))
        slope_MHW = torch.zeros_like(p_MHW)
        error_M, value_M, dead_M = (torch.zeros_like(target_M) for _ in range(3))
        for y_SMHW in _pieces(p_MHW, samples, sampling):
            drawn = flips(y_SMHW.flatten(0, 1))
            value_SM = unit_M * drawn.value_B.view(-1, len(p_MHW))
            error_SM = (target_M - value_SM).square()
            change_SMHW = _errors_of_flips(drawn, target_M, unit_M).sub_(error_SM[..., None, None])
            slope_MHW += torch.where(y_SMHW, -change_SMHW, change_SMHW).sum(0)
            error_M += error_SM.sum(0)
            value_M += value_SM.sum(0)
            dead_M += (~change_SMHW.flatten(2).any(-1)).sum(0)
        slope_MHW = _thinned(torch.where(known_M[:, None, None], slope_MHW, 0.0), pixel_share)
        error_M, value_M, dead_M = error_M / samples, value_M / samples, dead_M / samples
        # An integer, which leaves float64 what it is; 1 divided by it would be float32.
        count = samples * drawn.largest**2 * known_M.sum().clamp(min=1)
    surrogate = (slope_MHW * p_MHW).sum() / count
    error = masked_mean(error_M, known_M)
    return Estimate(
        loss=error / drawn.largest**2 + surrogate - surrogate.detach(),
        squared_error=error,
        noisy_minus_mask=masked_mean(value_M - hard_M, known_M),
        zero_gradient_share=masked_mean(dead_M, known_M),
    )


def _errors_of_flips(
    drawn: Flips, target_M: Float[Tensor, " M"], unit_M: Float[Tensor, " M"]
) -> Float[Tensor, "S M H W"]:
    """In place, as is what follows: new memory costs a CPU more than the arithmetic."""
    values_SMHW = drawn.flipped_BHW.to(target_M.dtype).unflatten(0, (-1, len(target_M)))
    return values_SMHW.mul_(unit_M[:, None, None]).sub_(target_M[:, None, None]).square_()


def _thinned(slope_MHW: Float[Tensor, "M H W"], share: float) -> Float[Tensor, "M H W"]:
    if share == 1.0:
        return slope_MHW
    return torch.where(torch.rand_like(slope_MHW) < share, slope_MHW / share, 0.0)


def _pieces(p_MHW: Float[Tensor, "M H W"], samples: int, sampling: str) -> Iterator[Bool[Tensor, "S M H W"]]:
    """The drawn masks, as many samples together as a piece may hold."""
    together = max(1, PIECE.get(p_MHW.device.type, 2**24) // p_MHW.numel())
    drawn = _uniforms(p_MHW, samples, sampling)
    while piece := list(itertools.islice(drawn, together)):
        yield torch.stack([uniform_MHW < p_MHW for uniform_MHW in piece])


def _uniforms(p_MHW: Float[Tensor, "M H W"], samples: int, sampling: str) -> Iterator[Float[Tensor, "M H W"]]:
    """Numbers in [0, 1), one tensor a sample."""
    first = torch.rand_like(p_MHW)
    for k in range(samples):
        if sampling == "systematic":
            yield (first + k / samples) % 1.0
        elif sampling == "antithetic" and k % 2:
            yield 1.0 - first
        else:
            first = torch.rand_like(p_MHW) if k else first
            yield first
