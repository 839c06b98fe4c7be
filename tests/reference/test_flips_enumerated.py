"""Every statistic of every mask of a small image, and the gradient of an enumerated expectation."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from tests.reference.test_chebyshev import literal_size
from trainables import flips

SHAPES = ((3, 3), (3, 4), (1, 1), (1, 6), (6, 1), (2, 3), (4, 2))
# methods.md 3.32: p = .1 ... .9 in row-major order, target size 2
P = torch.arange(1, 10, dtype=torch.float64) / 10
GRADIENT = (0.085146, 0.134301, 0.072115, 0.530438, 2.191703, 1.066810, 0.287821, 1.257971, 0.638438)
VARIANCE = (0.6946, 0.7079, 0.4160, 1.9468, 4.1258, 3.2162, 1.1569, 3.5510, 2.3010)


def literal_components(masks_NHW: np.ndarray) -> np.ndarray:
    return np.array([ndimage.label(mask_HW, np.ones((3, 3)))[1] for mask_HW in masks_NHW])


def literal_width(masks_NHW: np.ndarray) -> np.ndarray:
    """The longest run of any row or column, counted pixel by pixel."""
    return np.array([max(map(_longest_run, [*mask_HW, *mask_HW.T])) for mask_HW in masks_NHW])


def _longest_run(row_W: np.ndarray) -> int:
    return max((len(list(run)) for inside, run in itertools.groupby(row_W.tolist()) if inside), default=0)


LITERAL: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "area": lambda masks_NHW: masks_NHW.sum((1, 2)),
    "components": literal_components,
    "size": functools.partial(literal_size, border="open"),
    "size_closed": functools.partial(literal_size, border="background"),
    "width": literal_width,
}


def all_masks(height: int, width: int) -> np.ndarray:
    """Mask n has pixel v where bit v of n is set, pixels in row-major order."""
    code_N = np.arange(2 ** (height * width))
    return (code_N[:, None] >> np.arange(height * width) & 1).astype(bool).reshape(-1, height, width)


def test_every_statistic_has_a_literal_definition_here() -> None:
    assert sorted(LITERAL) == flips.names()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", flips.names())
def test_all_masks_and_all_flips(name: str, shape: tuple[int, int]) -> None:
    masks_NHW = all_masks(*shape)
    value_N = LITERAL[name](masks_NHW)
    result = flips.load(name)(torch.from_numpy(masks_NHW))
    assert np.array_equal(result.value_B.numpy(), value_N)
    flipped_code_NV = np.arange(len(masks_NHW))[:, None] ^ (1 << np.arange(shape[0] * shape[1]))
    assert np.array_equal(result.flipped_BHW.flatten(1).numpy(), value_N[flipped_code_NV])
    assert result.largest == value_N.max()


def expectation(loss_N: Tensor, p_V: Tensor) -> Tensor:
    """E h over all masks of a 3 x 3 image whose pixels are independent."""
    return (_probability(p_V) * loss_N).sum()


def _probability(p_V: Tensor) -> Tensor:
    masks_NV = torch.from_numpy(all_masks(3, 3)).flatten(1)
    return torch.where(masks_NV, p_V, 1 - p_V).prod(1)


def estimates(name: str, target: float) -> tuple[Tensor, Tensor]:
    """The loss of each mask [N] and the estimate y_i (h(y) - h(y with i flipped)) from it alone [N,V]."""
    masks = torch.from_numpy(all_masks(3, 3))
    result = flips.load(name)(masks)
    loss_N = (target - result.value_B.double()).square()
    flipped_NV = (target - result.flipped_BHW.double()).square().flatten(1)
    sign_NV = torch.where(masks.flatten(1), 1.0, -1.0).double()
    return loss_N, sign_NV * (loss_N.unsqueeze(1) - flipped_NV)


@pytest.mark.parametrize("p_V", [P, torch.full((9,), 0.5, dtype=torch.float64)], ids=["rising", "half"])
@pytest.mark.parametrize("name", flips.names())
def test_mean_estimate_is_the_derivative(name: str, p_V: Tensor) -> None:
    """Target 2.5: about 2 and 3 a size's loss can be even in the mask, and its derivative at .5 is 0."""
    loss_N, estimate_NV = estimates(name, target=2.5)
    p_V = p_V.clone().requires_grad_()
    (exact_V,) = torch.autograd.grad(expectation(loss_N, p_V), p_V)
    mean_V = (_probability(p_V.detach()).unsqueeze(1) * estimate_NV).sum(0)
    # sums of 512 products of at most 43: rounding stays below 1e-13
    torch.testing.assert_close(mean_V, exact_V, rtol=0, atol=1e-12)
    assert exact_V.abs().max() > 0.01


class TestNumbersOfTheSpecification:
    """Object size, open border; the tolerances are half a unit of the last digit given."""

    def test_expected_loss(self) -> None:
        loss_N, _ = estimates("size", target=2.0)
        assert expectation(loss_N, P).item() == pytest.approx(1.09875456, abs=5e-9)

    def test_mean_and_variance_of_one_estimate(self) -> None:
        _, estimate_NV = estimates("size", target=2.0)
        weight_N1 = _probability(P).unsqueeze(1)
        mean_V = (weight_N1 * estimate_NV).sum(0)
        variance_V = (weight_N1 * (estimate_NV - mean_V).square()).sum(0)
        assert mean_V.tolist() == pytest.approx(GRADIENT, abs=5.1e-7)
        assert variance_V.tolist() == pytest.approx(VARIANCE, abs=5.1e-5)

    def test_coin_flips(self) -> None:
        half_V = torch.full((9,), 0.5, dtype=torch.float64)
        loss_N, estimate_NV = estimates("size", target=2.0)
        corner, edge, centre = 0.296875, 0.640625, 1.515625
        assert expectation(loss_N, half_V).item() == 0.7734375
        expected = [corner, edge, corner, edge, centre, edge, corner, edge, corner]
        assert estimate_NV.mean(0).tolist() == expected  # sums of integers over 512: exact
        size_N = flips.load("size")(torch.from_numpy(all_masks(3, 3))).value_B.double()
        assert size_N.mean().item() == 2.37109375
