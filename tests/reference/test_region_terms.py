"""Shared terms of soft regions: lengths, mean intensities and variance maps, by hand and written out."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from tests.reference.test_terms import random_case, random_image
from trainables import terms


def slow_length(p_HW: Tensor) -> float:
    """The sum of absolute differences to the pixel below and to the pixel on the right."""
    (h, w), values = p_HW.shape, p_HW.tolist()
    down = sum(abs(values[r + 1][c] - values[r][c]) for r, c in itertools.product(range(h - 1), range(w)))
    right = sum(abs(values[r][c + 1] - values[r][c]) for r, c in itertools.product(range(h), range(w - 1)))
    return down + right


class TestTotalVariation:
    def test_of_a_square_is_its_outline_in_both_classes(self) -> None:
        labels = torch.zeros(1, 9, 8, dtype=torch.long)
        labels[0, 2:5, 3:6] = 1
        square = terms.one_hot(labels, 2).float()
        assert terms.total_variation(square).tolist() == [[12.0, 12.0]]
        assert terms.total_variation(square.rot90(1, (2, 3))).tolist() == [[12.0, 12.0]]

    def test_equals_the_formula_written_out(self) -> None:
        p = random_case(0)[0].softmax(1)
        slow = [[slow_length(p[n, k]) for k in range(4)] for n in range(2)]
        torch.testing.assert_close(terms.total_variation(p), torch.tensor(slow, dtype=torch.float64))

    @pytest.mark.parametrize("shape", [(3, 4), (1, 1)])
    def test_of_constant_p_is_exactly_zero_without_gradient(self, shape: tuple[int, int]) -> None:
        p = torch.tensor([0.1, 0.9]).view(1, 2, 1, 1).repeat(1, 1, *shape).requires_grad_()
        length = terms.total_variation(p).sum()
        (gradient,) = torch.autograd.grad(length, p)
        assert length.item() == gradient.abs().max().item() == 0.0


class TestRegions:
    def test_means_and_variance_by_hand(self) -> None:
        p = torch.tensor([[0.1, 0.2], [0.8, 0.9]], dtype=torch.float64).view(1, 1, 2, 2)
        p, image = torch.cat([1 - p, p], 1), torch.tensor([[[[0.0, 0.0], [1.0, 1.0]]]], dtype=torch.float64)
        assert terms.region_means(p, image).flatten().tolist() == pytest.approx([0.15, 0.85], abs=1e-12)
        assert terms.variance_maps(p, image).sum().item() == pytest.approx(0.51, abs=1e-12)

    def test_every_channel_has_its_mean(self) -> None:
        p, image = random_case(1)[0].softmax(1), random_image(1, channels=3)
        means, maps = terms.region_means(p, image), terms.variance_maps(p, image)
        for n, k in itertools.product(range(2), range(4)):
            slow = [((p[n, k] * x).sum() / p[n, k].sum()).item() for x in image[n]]
            assert means[n, k].tolist() == pytest.approx(slow, rel=1e-12)
            squares = sum((x - m) ** 2 for x, m in zip(image[n], slow, strict=True))
            torch.testing.assert_close(maps[n, k], squares * p[n, k])

    def test_a_vanished_region_is_finite(self) -> None:
        p = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).repeat(1, 1, 3, 3).requires_grad_()
        maps = terms.variance_maps(p, torch.rand(1, 1, 3, 3))
        (gradient,) = torch.autograd.grad(maps.sum(), p)
        assert maps[0, 1].abs().max().item() == 0.0
        assert torch.isfinite(gradient).all()

    @pytest.mark.parametrize("given", [torch.bfloat16, torch.float16, torch.float32])
    def test_compute_in_float32_under_autocast(self, given: torch.dtype) -> None:
        p, image = random_case(2)[0].softmax(1).to(given), random_image(2).to(given)
        exact = terms.variance_maps(p.double(), image.double())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            maps, length = terms.variance_maps(p, image), terms.total_variation(p)
        assert maps.dtype == length.dtype == torch.float32
        torch.testing.assert_close(maps, exact.float(), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(length, terms.total_variation(p.double()).float())

    def test_gradients(self) -> None:
        logits, image = random_case(3)[0].requires_grad_(), random_image(3)

        def energy(a: Tensor) -> tuple[Tensor, Tensor]:
            p = a.softmax(1)
            return terms.variance_maps(p, image), terms.total_variation(p)

        assert torch.autograd.gradcheck(energy, (logits,))

    def test_the_sum_has_no_gradient_through_the_means(self) -> None:
        """sum (x - c)^2 p is least at the mean; one map alone does change with it."""
        logits, image = random_case(4)[0].requires_grad_(), random_image(4)
        for power, alike in ((1, True), (2, False)):
            through, stopped = (
                torch.autograd.grad(
                    terms.variance_maps(logits.softmax(1), image, detach_means=d).pow(power).sum(), logits
                )[0]
                for d in (False, True)
            )
            assert torch.allclose(through, stopped, rtol=1e-10, atol=1e-12) == alike
