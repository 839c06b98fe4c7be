"""Sampled gradients of discrete statistics against enumerated expectations, with the numbers and traps of
methods.md 3.32."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.reference.test_flips_enumerated import GRADIENT, VARIANCE, P, all_masks
from trainables import flips, sampled_gradient
from trainables.discrete import Flips
from trainables.sampled_gradient import SAMPLINGS, Estimate, class_logits, expected_squared_error

LOGIT = torch.logit(P).view(3, 3)
Statistic = Callable[[Tensor], Flips]


def logits_of(mask_HW: Tensor, confidence: float) -> Tensor:
    """+confidence in the mask, -confidence outside, float64."""
    return torch.where(mask_HW, confidence, -confidence).double()


def square(height: int, width: int, row: int, column: int, side: int) -> Tensor:
    mask_HW = torch.zeros(height, width, dtype=torch.bool)
    mask_HW[row : row + side, column : column + side] = True
    return mask_HW


def estimate_of(
    logits_MHW: Tensor,
    targets: float | Tensor,
    statistic: Statistic | str = "size",
    *,
    samples: int = 1,
    seed: int = 0,
    **options: object,
) -> tuple[Estimate, Tensor]:
    """The estimate, and its gradient in the logits."""
    logits_MHW = logits_MHW.clone().requires_grad_()
    target_M = torch.as_tensor(targets, dtype=torch.float64).expand(len(logits_MHW)).clone()
    statistic = flips.load(statistic) if isinstance(statistic, str) else statistic
    torch.manual_seed(seed)
    estimate = expected_squared_error(logits_MHW, target_M, statistic, samples=samples, **options)  # type: ignore[arg-type]
    (gradient_MHW,) = torch.autograd.grad(estimate.loss, logits_MHW)
    return estimate, gradient_MHW


def enumerated(statistic: str, target: float, logits_HW: Tensor, noise_scale: float = 1.0) -> list[Tensor]:
    """Over all masks: the expected squared error, its gradient in the logits, and its variance."""
    masks = torch.from_numpy(all_masks(*logits_HW.shape))
    error_N = (target - flips.load(statistic)(masks).value_B.double()).square()
    logits_HW = logits_HW.clone().requires_grad_()
    p_HW = torch.sigmoid(logits_HW / noise_scale)
    probability_N = torch.where(masks, p_HW, 1 - p_HW).flatten(1).prod(1)
    expected = (probability_N * error_N).sum()
    (gradient_HW,) = torch.autograd.grad(expected, logits_HW)
    variance = (probability_N.detach() * (error_N - expected.detach()).square()).sum()
    return [expected.detach(), gradient_HW, variance]


def largest_of(statistic: str, shape: tuple[int, ...]) -> int:
    return flips.load(statistic)(torch.zeros(1, *shape, dtype=torch.bool)).largest


def per_mask(gradient_MHW: Tensor, largest: int) -> Tensor:
    """What each of the M masks, taken alone, estimates of the gradient of the error in its own unit."""
    return gradient_MHW * len(gradient_MHW) * largest**2


class TestClassLogits:
    def test_of_two_classes_is_the_difference(self) -> None:
        a = torch.randn(2, 2, 3, 4, generator=torch.Generator().manual_seed(0))
        assert torch.equal(class_logits(a), a[:, 1:] - a[:, :1])

    @pytest.mark.parametrize("num_classes", [2, 3, 4])
    def test_sigmoid_of_it_is_the_softmax(self, num_classes: int) -> None:
        a = 3 * torch.randn(2, num_classes, 3, 4, generator=torch.Generator().manual_seed(0))
        # a few roundings of float32, 6e-8 each
        torch.testing.assert_close(class_logits(a).sigmoid(), a.softmax(1)[:, 1:], rtol=0, atol=1e-6)

    def test_gradient(self) -> None:
        a = torch.randn(1, 4, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        assert torch.autograd.gradcheck(class_logits, (a.requires_grad_(),))

    @pytest.mark.parametrize("num_classes", [2, 4])
    def test_saturated_logits_stay_finite(self, num_classes: int) -> None:
        a = torch.zeros(1, num_classes, 1, 2)
        a[0, 1, 0, 0], a[0, 0, 0, 1] = 1e4, 1e4
        a.requires_grad_()
        out = class_logits(a)
        (gradient,) = torch.autograd.grad(out.sum(), a)
        assert out[0, 0].flatten().tolist() == pytest.approx([1e4, -1e4], rel=1e-3)
        assert torch.isfinite(out).all()
        assert torch.isfinite(gradient).all()

    def test_half_precision_becomes_float32(self) -> None:
        assert class_logits(torch.zeros(1, 3, 2, 2, dtype=torch.bfloat16)).dtype == torch.float32


class TestExactly:
    """Each outcome of the random numbers is drawn once and weighted with its probability."""

    @pytest.mark.parametrize("noise_scale", [1.0, 0.4])
    @pytest.mark.parametrize("statistic", flips.names())
    def test_mean_over_all_masks(
        self, monkeypatch: pytest.MonkeyPatch, statistic: str, noise_scale: float
    ) -> None:
        masks = torch.from_numpy(all_masks(3, 3))
        monkeypatch.setattr(torch, "rand_like", lambda p: torch.where(masks, 0.0, 1.0).to(p))
        logits_NHW = LOGIT.expand(512, 3, 3)
        estimate, gradient_NHW = estimate_of(logits_NHW, 3.5, statistic, noise_scale=noise_scale)
        p_HW = torch.sigmoid(LOGIT / noise_scale)
        probability_N = torch.where(masks, p_HW, 1 - p_HW).flatten(1).prod(1)
        per_mask_NHW = per_mask(gradient_NHW, largest_of(statistic, (3, 3)))
        _, exact_HW, _ = enumerated(statistic, 3.5, LOGIT, noise_scale)
        # sums of 512 products of at most 100: rounding stays below 1e-13
        mean_HW = (probability_N.view(-1, 1, 1) * per_mask_NHW).sum(0)
        torch.testing.assert_close(mean_HW, exact_HW, rtol=0, atol=1e-12)
        assert exact_HW.abs().max() > 1e-5  # of the closed border's, which needs a full or an empty mask
        value_N = flips.load(statistic)(masks).value_B.double()
        thresholded = flips.load(statistic)((LOGIT > 0)[None]).value_B.item()
        assert estimate.squared_error.item() == pytest.approx((value_N - 3.5).square().mean().item())
        assert estimate.noisy_minus_mask.item() == pytest.approx(value_N.mean().item() - thresholded)

    @pytest.mark.parametrize("shape", [(2, 2), (1, 4)])
    @pytest.mark.parametrize(
        ("sampling", "samples"), [("antithetic", 2), ("systematic", 2), ("systematic", 3)]
    )
    @pytest.mark.parametrize("statistic", flips.names())
    def test_mean_over_all_joined_samples(
        self,
        monkeypatch: pytest.MonkeyPatch,
        statistic: str,
        sampling: str,
        samples: int,
        shape: tuple[int, int],
    ) -> None:
        """One number per pixel decides all its samples: [0, 1) is cut wherever one of them changes, and the
        middle of each part stands for it, for all four pixels at once."""
        p_V = torch.tensor([0.15, 0.45, 0.6, 0.9], dtype=torch.float64)
        steps = torch.arange(samples) / samples
        choices = []
        for p in p_V:
            mirrored = 1 - p if sampling == "antithetic" else p
            cuts = torch.cat([torch.tensor([0.0, 1.0, p, mirrored]), steps, (p - steps) % 1.0]).double()
            cuts = cuts.unique()
            choices.append(list(zip((cuts[1:] + cuts[:-1]) / 2, cuts.diff(), strict=True)))
        outcomes = torch.tensor(list(itertools.product(*choices)), dtype=torch.float64)
        uniform_NHW, weight_N = outcomes[..., 0].view(-1, *shape), outcomes[..., 1].prod(1)
        monkeypatch.setattr(torch, "rand_like", lambda p: uniform_NHW)
        logits_HW = torch.logit(p_V).view(shape)
        _, gradient_NHW = estimate_of(
            logits_HW.expand_as(uniform_NHW), 1.5, statistic, samples=samples, sampling=sampling
        )
        per_mask_NHW = per_mask(gradient_NHW, largest_of(statistic, shape))
        _, exact_HW, _ = enumerated(statistic, 1.5, logits_HW)
        # the cuts are rounded to float32, 6e-8, and errors change by at most 16
        mean_HW = (weight_N.view(-1, 1, 1) * per_mask_NHW).sum(0)
        torch.testing.assert_close(mean_HW, exact_HW, rtol=0, atol=1e-5)
        assert exact_HW.abs().max() > 0.01

    def test_by_hand(self) -> None:
        """A pixel that is surely there beside one that surely is not: size 2; 0 without it, 4 with both.
        Of 3.5 the squared errors are 2.25, 12.25 and 0.25."""
        estimate, gradient_1HW = estimate_of(torch.tensor([[[20.0, -20.0]]]).double(), 3.5)
        slope = 1 / (2 + 2 * math.cosh(20))  # p (1 - p), of both
        assert estimate.loss.item() == 2.25 / 4**2
        expected = [(2.25 - 12.25) * slope / 4**2, -(2.25 - 0.25) * slope / 4**2]
        # 1 - p keeps 7 digits of e^-20
        assert gradient_1HW.flatten().tolist() == pytest.approx(expected, rel=1e-6)


class TestSampled:
    """The mean of thousands of estimates; each bound is 4.5 of its standard errors (270 of them)."""

    @pytest.mark.parametrize("pixel_share", [1.0, 0.3])
    @pytest.mark.parametrize("sampling", SAMPLINGS)
    @pytest.mark.parametrize("statistic", flips.names())
    def test_mean_is_the_enumerated_gradient(self, statistic: str, sampling: str, pixel_share: float) -> None:
        masks, target = 3000, 2.0
        estimate, gradient_MHW = estimate_of(
            LOGIT.expand(masks, 3, 3),
            target,
            statistic,
            samples=8,
            sampling=sampling,
            pixel_share=pixel_share,
        )
        per_mask_MHW = per_mask(gradient_MHW, largest_of(statistic, (3, 3)))
        expected, exact_HW, variance = enumerated(statistic, target, LOGIT)
        standard_error_HW = per_mask_MHW.std(0) / math.sqrt(masks)
        assert ((per_mask_MHW.mean(0) - exact_HW).abs() < 4.5 * standard_error_HW).all()
        # joined samples may err together, but no more than if the 8 were one
        assert abs(estimate.squared_error - expected) < 4.5 * (variance / masks).sqrt()
        assert estimate.loss.item() == pytest.approx(
            estimate.squared_error.item() / largest_of(statistic, (3, 3)) ** 2
        )

    def test_numbers_of_the_specification(self) -> None:
        """Mean and variance of single estimates in p. The variances of 9 pixels are measured to about 5 %
        (a fourth moment of up to 15 variances squared, 6000 estimates)."""
        _, gradient_MHW = estimate_of(LOGIT.expand(6000, 3, 3), 2.0)
        slope_MV = per_mask(gradient_MHW, 6).flatten(1) / (P * (1 - P))
        exact_V, variance_V = (torch.tensor(v, dtype=torch.float64) for v in (GRADIENT, VARIANCE))
        assert ((slope_MV.mean(0) - exact_V).abs() < 4.5 * (variance_V / 6000).sqrt()).all()
        torch.testing.assert_close(slope_MV.var(0), variance_V, rtol=0.2, atol=0)

    def test_a_share_of_the_pixels_adds_its_own_variance(self) -> None:
        """(v + m^2) / share - m^2 for a mean m and a variance v; measured to about 10 %, see above."""
        _, gradient_MHW = estimate_of(LOGIT.expand(6000, 3, 3), 2.0, pixel_share=0.3)
        slope_MV = per_mask(gradient_MHW, 6).flatten(1) / (P * (1 - P))
        exact_V, variance_V = (torch.tensor(v, dtype=torch.float64) for v in (GRADIENT, VARIANCE))
        expected_V = (variance_V + exact_V.square()) / 0.3 - exact_V.square()
        torch.testing.assert_close(slope_MV.var(0), expected_V, rtol=0.4, atol=0)
        # of 54 000 derivatives three tenths are kept, give or take 0.002, as far as they are not 0 anyway
        _, whole_MHW = estimate_of(LOGIT.expand(6000, 3, 3), 2.0)
        kept = (gradient_MHW != 0).sum() / (whole_MHW != 0).sum()
        assert kept.item() == pytest.approx(0.3, abs=0.01)

    def test_variance_falls_with_the_number_of_samples(self) -> None:
        """4 in theory; the bounds leave a tenth for each of the two measured variances and more."""
        variances = []
        for samples in (1, 4):
            _, gradient_MHW = estimate_of(LOGIT.expand(4000, 3, 3), 2.0, samples=samples)
            variances.append(gradient_MHW.var(0).sum().item())
        assert 3.0 < variances[0] / variances[1] < 5.3

    @pytest.mark.parametrize(("confidence", "size"), [(1, 4.1), (3, 8.6), (5, 14.9)])
    def test_noise_makes_objects_smaller(self, confidence: float, size: float) -> None:
        """Trap: a clean 20 x 20 square. 0.05 is the rounding of the table; 400 sizes whose standard deviation
        is about 1.5 have a mean within 4 x 0.075."""
        logits_HW = logits_of(square(48, 32, 14, 6, 20), confidence)
        estimate, _ = estimate_of(logits_HW.expand(50, 48, 32), 20.0, samples=8)
        assert 20 + estimate.noisy_minus_mask.item() == pytest.approx(size, abs=0.35)

    def test_less_noise_lets_them_be(self) -> None:
        logits_HW = logits_of(square(48, 32, 14, 6, 20), 3)
        estimate, _ = estimate_of(logits_HW.expand(4, 48, 32), 20.0, samples=2, noise_scale=0.1)
        # a pixel is wrong with probability e^-30
        assert estimate.noisy_minus_mask.item() == 0.0
        assert estimate.squared_error.item() == 0.0


def problem(height: int = 12, width: int = 10) -> tuple[Tensor, Tensor]:
    """Logits [4,H,W] of all degrees of certainty and even targets."""
    generator = torch.Generator().manual_seed(3)
    logits_MHW = 2 * torch.randn(4, height, width, dtype=torch.float64, generator=generator) + 1
    return logits_MHW, torch.tensor([2.0, 4.0, 6.0, 8.0], dtype=torch.float64)


class TestConventions:
    @pytest.mark.parametrize("sampling", SAMPLINGS)
    def test_pieces_change_nothing(self, monkeypatch: pytest.MonkeyPatch, sampling: str) -> None:
        logits_MHW, target_M = problem()
        whole, gradient = estimate_of(logits_MHW, target_M, samples=8, sampling=sampling)
        for pixels in (1, 3 * logits_MHW.numel()):  # one sample at a time; 3, 3 and 2
            monkeypatch.setitem(sampled_gradient.PIECE, "cpu", pixels)
            pieces, other = estimate_of(logits_MHW, target_M, samples=8, sampling=sampling)
            # sums of integers: in any order exact
            assert pieces == whole
            assert torch.equal(other, gradient)

    def test_joined_samples_cover_a_coin(self) -> None:
        """p = .5: antithetic pairs are each other's complements, half of 4 systematic masks have a pixel."""
        drawn: dict[str, Tensor] = {}
        for sampling in SAMPLINGS:

            def recorded(masks: Tensor, sampling: str = sampling) -> Flips:
                drawn[sampling] = masks  # the thresholded masks come first
                return flips.load("area")(masks)

            estimate_of(torch.zeros(1, 8, 8).double(), 20.0, recorded, samples=4, sampling=sampling)
        assert all(masks.shape == (4, 8, 8) for masks in drawn.values())
        assert torch.equal(drawn["antithetic"][::2], ~drawn["antithetic"][1::2])
        assert torch.equal(drawn["systematic"].sum(0), torch.full((8, 8), 2))
        assert not torch.equal(drawn["antithetic"][0], drawn["antithetic"][2])
        assert len(drawn["independent"].sum(0).unique()) == 5  # 0 to 4 times

    def test_unknown_targets_are_left_out(self) -> None:
        """Two of four: what is left has twice the weight, and the same random numbers."""
        logits_MHW, target_M = problem()
        all_known, gradient = estimate_of(logits_MHW, target_M, samples=8)
        some = [torch.where(torch.arange(4) % 2 == rest, target_M, math.nan) for rest in (0, 1)]
        (even, even_gradient), (odd, odd_gradient) = (estimate_of(logits_MHW, t, samples=8) for t in some)
        assert even_gradient[1::2].abs().max() == odd_gradient[0::2].abs().max() == 0.0
        assert gradient.abs().amax((1, 2)).min() > 0.0
        torch.testing.assert_close(even_gradient + odd_gradient, 2 * gradient, rtol=1e-12, atol=0)
        for one, other, both in zip(even, odd, all_known, strict=True):
            assert (one.item() + other.item()) / 2 == pytest.approx(both.item(), rel=1e-12)
        assert even.loss.item() != odd.loss.item()

    def test_nothing_known_is_exactly_zero(self) -> None:
        logits_MHW, target_M = problem()
        estimate, gradient = estimate_of(logits_MHW, torch.full_like(target_M, math.nan), samples=2)
        assert [value.item() for value in estimate] == [0.0] * 4
        assert gradient.abs().max() == 0.0

    def test_loss_is_the_mean_over_the_masks(self) -> None:
        """Logits of +-40: nothing is left to chance. Sizes 4 and 2 against 8 and 2, largest 20."""
        masks = torch.stack([square(9, 10, 2, 2, 3), square(9, 10, 5, 5, 1)])
        estimate, _ = estimate_of(logits_of(masks, 40), torch.tensor([8.0, 2.0]), samples=3)
        assert estimate.squared_error.item() == 16 / 2
        assert estimate.loss.item() == pytest.approx(16 / 2 / 20**2, rel=1e-12)

    def test_units(self) -> None:
        """Half a millimetre a pixel, reported in mm: errors a half, squares a quarter, exactly."""
        logits_MHW, target_M = problem()
        pixels, gradient = estimate_of(logits_MHW, target_M, samples=2)
        unit_M = torch.full_like(target_M, 0.5)
        mm, other = estimate_of(logits_MHW, 0.5 * target_M, samples=2, unit_M=unit_M)
        assert mm.squared_error.item() == pixels.squared_error.item() / 4
        assert mm.noisy_minus_mask.item() == pixels.noisy_minus_mask.item() / 2
        assert mm.zero_gradient_share.item() == pixels.zero_gradient_share.item()
        torch.testing.assert_close(other, gradient / 4, rtol=1e-12, atol=0)

    def test_each_mask_has_its_own_unit(self) -> None:
        masks = torch.stack([square(9, 10, 2, 2, 4)] * 2)
        estimate, _ = estimate_of(
            logits_of(masks, 40), torch.tensor([2.0, 12.0]), unit_M=torch.tensor([0.5, 2.0]).double()
        )
        # sizes 4 px: 2 mm as reported, and 8 mm instead of 12
        assert estimate.squared_error.item() == 4**2 / 2

    def test_float32(self) -> None:
        logits_MHW, target_M = problem()
        torch.manual_seed(0)
        estimate = expected_squared_error(
            logits_MHW.float(), target_M.float(), flips.load("size"), samples=2, sampling="systematic"
        )
        assert all(value.dtype == torch.float32 for value in estimate)


class TestFigures:
    def test_empty_mask_pushes_every_pixel_alike(self) -> None:
        """Trap: one pixel is of size 2 wherever it is, (s - 2)^2 - s^2 = 4 - 4 s."""
        estimate, gradient_1HW = estimate_of(torch.full((1, 7, 5), -40.0).double(), 6.0, samples=2)
        slope = math.exp(-40)  # p (1 - p)
        expected = torch.full((1, 7, 5), (4 - 4 * 6) * slope / 14**2, dtype=torch.float64)
        torch.testing.assert_close(gradient_1HW, expected, rtol=1e-9, atol=0)
        assert estimate.zero_gradient_share.item() == 0.0
        assert estimate.squared_error.item() == 36.0

    def test_full_mask(self) -> None:
        """Removing a pixel leaves twice the distance to the farthest corner from it, 4 to 8 instead of 10."""
        estimate, gradient_1HW = estimate_of(torch.full((1, 5, 5), 20.0).double(), 10.0)
        rows, columns = torch.meshgrid(torch.arange(5), torch.arange(5), indexing="ij")
        farthest_HW = 2 + torch.maximum((rows - 2).abs(), (columns - 2).abs())
        slope = torch.sigmoid(torch.tensor(-20.0)).item()
        expected = -(10 - 2 * farthest_HW.double()).square() * slope / 100
        # 1 - p keeps 7 digits of e^-20
        torch.testing.assert_close(gradient_1HW[0], expected, rtol=1e-6, atol=0)
        assert estimate.zero_gradient_share.item() == 0.0
        assert estimate.squared_error.item() == 0.0

    def test_share_of_masks_without_gradient(self) -> None:
        """Two squares apart: no flip changes the size, as long as each of them keeps the other's."""
        apart = square(14, 14, 1, 1, 5) | square(14, 14, 8, 8, 5)
        masks = torch.stack([apart, torch.zeros_like(apart)])
        estimate, gradient = estimate_of(logits_of(masks, 40), 4.0, samples=2)
        assert estimate.zero_gradient_share.item() == 0.5
        assert gradient[0].abs().max() == 0.0
        assert gradient[1].abs().min() > 0.0

    def test_a_changed_size_without_a_changed_error_has_no_gradient(self) -> None:
        """1 lies between 0, the size of an empty mask, and 2, that of a pixel."""
        estimate, gradient = estimate_of(torch.full((1, 6, 6), -40.0).double(), 1.0)
        assert estimate.zero_gradient_share.item() == 1.0
        assert gradient.abs().max() == 0.0

    def test_a_sure_mask_has_its_own_size(self) -> None:
        estimate, _ = estimate_of(logits_of(square(48, 32, 14, 6, 20), 40)[None], 18.0, samples=2)
        assert estimate.noisy_minus_mask.item() == 0.0
        assert estimate.squared_error.item() == (20 - 18) ** 2
