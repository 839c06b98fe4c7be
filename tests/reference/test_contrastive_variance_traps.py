"""Contrastive variance: the structural facts of methods.md 3.6 and every trap that it names."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.reference.test_contrastive_variance import random_case
from trainables import terms
from trainables.methods import contrastive_variance as c


def total(p: Tensor, image: Tensor, present: Tensor, positive: Tensor, **given: Any) -> float:
    return (
        c.contrastive_variance(p, image, present, positive, **({"temperature": 0.07} | given))[0].sum().item()
    )


class TestStructure:
    def test_lies_within_its_bounds(self) -> None:
        g = torch.Generator().manual_seed(0)
        p = (5 * torch.randn(12, 9, 6, 6, generator=g)).softmax(1)
        everything = torch.ones(12, 9, dtype=torch.bool)
        nat, _ = c.contrastive_variance(
            p,
            torch.rand(12, 1, 6, 6, generator=g),
            everything,
            c.draw_positives(everything),
            temperature=0.07,
        )
        low, high = (math.log1p(88 * math.exp(sign / 0.07)) for sign in (-1, 1))
        assert (low, high) == (pytest.approx(5.5e-5, rel=0.01), pytest.approx(18.763, abs=1e-3))
        assert low < nat.min().item() < nat.max().item() < high

    def test_equal_maps_count_the_negatives(self) -> None:
        """Every pair alike: log(1 + M), M = 11 images x 8 classes."""
        everything, x = torch.ones(12, 9, dtype=torch.bool), torch.rand(1, 1, 4, 4).expand(12, 1, 4, 4)
        p = torch.full((12, 9, 4, 4), 1 / 9)
        nat, _ = c.contrastive_variance(p, x, everything, c.draw_positives(everything), temperature=0.07)
        assert nat.flatten().tolist() == pytest.approx([4.488636] * 108, abs=1e-4)  # float32 over tau

    def test_does_not_see_gain_and_offset_of_an_image(self) -> None:
        logits, image, present = random_case(7)
        p, positive = logits.softmax(1), c.draw_positives(present)
        gain = torch.tensor([2.0, -0.3, 1e-3, 40.0], dtype=torch.float64).view(4, 1, 1, 1)
        changed = total(p, gain * image + gain.sqrt().nan_to_num(0.7), present, positive)
        assert changed == pytest.approx(total(p, image, present, positive), rel=1e-9)

    def test_sees_where_a_class_lies_but_not_a_common_order_of_the_pixels(self) -> None:
        logits, image, present = random_case(8)
        p, positive = logits.softmax(1).detach(), c.draw_positives(present)
        before = total(p, image, present, positive)
        order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
        shuffled = (t.flatten(2)[..., order].view(t.shape) for t in (p, image))
        assert total(*shuffled, present, positive) == pytest.approx(before, rel=1e-10)
        shifted = (torch.cat([t[:1].roll(1, 2), t[1:]]) for t in (p, image))
        assert abs(total(*shifted, present, positive) - before) > 0.01

    def test_permuting_the_batch_permutes_the_anchors(self) -> None:
        logits, image, present = random_case(9)
        p, positive = logits.softmax(1), c.draw_positives(present)
        order = torch.tensor([2, 0, 3, 1])
        nat, _ = c.contrastive_variance(p, image, present, positive, temperature=0.07)
        permuted, _ = c.contrastive_variance(
            p[order], image[order], present[order], order.argsort()[positive[order]], temperature=0.07
        )
        torch.testing.assert_close(permuted, nat[order])

    def test_colour_channels_add_their_squares(self) -> None:
        logits, image, _ = random_case(10)
        p = logits.softmax(1)
        both = terms.variance_maps(p, torch.cat([image, 2 * image + 1], 1))
        torch.testing.assert_close(both, 5 * terms.variance_maps(p, image))


class TestTraps:
    def test_one_image_has_nothing_to_contrast(self) -> None:
        logits, image, _ = random_case(11, b=1)
        everything = torch.ones(1, 3, dtype=torch.bool)
        nat, is_anchor = c.contrastive_variance(
            logits.softmax(1), image, everything, c.draw_positives(everything), temperature=0.07
        )
        (gradient,) = torch.autograd.grad(terms.masked_mean(nat, is_anchor), logits)
        assert not is_anchor.any()
        assert nat.abs().max().item() == gradient.abs().max().item() == 0.0

    @pytest.mark.parametrize("kind", ["constant image", "class without probability", "hardly any"])
    def test_a_vanished_map_has_cosine_zero_and_no_gradient(self, kind: str) -> None:
        g = torch.Generator().manual_seed(12)
        logits, image = torch.randn(4, 3, 128, 128, generator=g), torch.rand(4, 1, 128, 128, generator=g)
        if kind == "constant image":
            image[0] = 0.3  # whose mean is off by rounding; the squares of that are no map
        else:
            logits[0, 1] = {"class without probability": -2000.0, "hardly any": -36.0}[kind]
        logits.requires_grad_()
        z = terms.variance_maps(logits.softmax(1), c.stretched(image))
        cos = c.cosines(z)
        assert torch.isfinite(cos).all()
        assert cos[0, 1].abs().max().item() == 0.0
        assert cos[1, 1, 1, 1].item() == pytest.approx(1.0)
        everything = torch.ones(4, 3, dtype=torch.bool)
        nat, _ = c.contrastive_variance(
            logits.softmax(1), image, everything, c.draw_positives(everything), temperature=0.07
        )
        assert nat[0, 1].item() == pytest.approx(math.log(1 + 3 * 2), rel=1e-6)
        (gradient,) = torch.autograd.grad(cos[0, 1].sum() + cos[1:, :, 0, 1].sum(), logits)
        assert gradient.abs().max().item() == 0.0

    @pytest.mark.parametrize("scale", [1e2, 1e4])
    def test_saturated_logits_have_a_finite_gradient(self, scale: float) -> None:
        logits = (scale * random_case(13)[0].float()).detach().requires_grad_()
        everything = torch.ones(4, 3, dtype=torch.bool)
        nat, _ = c.contrastive_variance(
            logits.softmax(1),
            torch.rand(4, 1, 4, 5),
            everything,
            c.draw_positives(everything),
            temperature=0.02,
        )
        (gradient,) = torch.autograd.grad(nat.sum(), logits)
        assert torch.isfinite(nat).all()
        assert torch.isfinite(gradient).all()

    def test_a_low_temperature_does_not_overflow(self) -> None:
        """exp(1 / 0.005) is infinite in float32."""
        logits, image, present = random_case(14)
        p, positive = logits.softmax(1), c.draw_positives(present)
        single = total(p.float(), image.float(), present, positive, temperature=0.005)
        # cosines of float32, 1e-7 each, are divided by the temperature
        assert single == pytest.approx(total(p, image, present, positive, temperature=0.005), rel=1e-3)

    def test_autocast_does_not_round_the_products(self) -> None:
        logits, image, present = random_case(15)
        arguments = (logits.float().softmax(1), image.float(), present, c.draw_positives(present))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert (image.float().flatten(1) @ image.float().flatten(1).T).dtype == torch.bfloat16
            reduced = total(*arguments)
        assert reduced == total(*arguments)

    def test_small_maps_keep_their_direction(self) -> None:
        """z of 1e-8 and less would vanish in half precision, and so would its squares."""
        logits, image, present = random_case(16)
        p, positive = logits.softmax(1), c.draw_positives(present)
        faint = (0.5 + 2**-8 * image).float()
        assert terms.variance_maps(p, faint).max() < 1e-5
        # the image keeps 16 of its 24 bits
        assert total(p.float(), faint, present, positive) == pytest.approx(
            total(p, image, present, positive), rel=1e-2
        )

    def test_two_halves_of_a_batch_are_another_loss(self) -> None:
        logits, image, _ = random_case(17)
        p, everything = logits.softmax(1), torch.ones(4, 3, dtype=torch.bool)
        positive = torch.tensor([1, 0, 3, 2]).view(4, 1).expand(4, 3)
        halves = sum(total(p[s], image[s], everything[s], positive[:2]) for s in (slice(0, 2), slice(2, 4)))
        assert total(p, image, everything, positive) > halves + 1.0
