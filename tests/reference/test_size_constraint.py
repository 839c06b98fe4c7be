"""Size constraint: the penalty, its bounds and the method, with the values and traps of methods.md 3.31."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from search_spaces import UserError, space_of
from tests.reference.test_summary_statistics import only, random_p
from tests.tiny import TinyNetwork, a_batch, plain_methods, without_labels
from trainables import terms
from trainables.method import Batch, Terms
from trainables.methods import size_constraint as s
from trainables.methods.summary_statistics import discrepancy, soft_area

CHOICES = ("area", "presence")


def constant(p: float, num_classes: int = 1) -> Tensor:
    """10 x 10 pixels, foreground classes that have the same probability everywhere."""
    return torch.full((1, num_classes, 10, 10), p, dtype=torch.float64)


def percent(*counts: float) -> Tensor:
    """Fractions [1,K] of 10 x 10 pixels."""
    return torch.tensor([counts], dtype=torch.float64) / 100


def random_bounds() -> tuple[Tensor, Tensor]:
    """For `random_p(0)`: sizes below, inside and above their bounds, an absent class, unknown pairs."""
    below, inside, above, absent = (1.2, 1.5), (0.8, 1.1), (0.5, 0.7), (0.0, 0.0)
    factors = torch.tensor(
        [[below, inside, above, absent], [above, above, below, inside], [inside, below, below, above]]
    )
    low, high = soft_area(random_p(0)).unsqueeze(2).mul(factors).unbind(2)
    low[1, 0] = high[1, 1] = low[2, 2] = high[2, 2] = math.nan
    return low, high


class TestPenalty:
    @pytest.mark.parametrize(
        ("low", "high", "expected", "slope"), [(40, 50, 1.0, -0.2), (10, 20, 1.0, 0.2), (20, 40, 0.0, 0.0)]
    )
    def test_by_hand(self, low: int, high: int, expected: float, slope: float) -> None:
        """S = 30 of 100 pixels: the value, and the gradient 2 (30 - bound) / 100 at every pixel."""
        p = constant(0.3).requires_grad_()
        loss = s.size_penalty(p, percent(low), percent(high))
        (gradient,) = torch.autograd.grad(loss, p)
        assert loss.item() == pytest.approx(expected, abs=1e-12)
        torch.testing.assert_close(gradient, torch.full_like(gradient, slope))

    def test_is_the_mean_over_the_classes_by_hand(self) -> None:
        # px^2 / V: 10^2 / 100, inside, and 30^2 / 100 for a class that is absent.
        loss = s.size_penalty(constant(0.3, 3), percent(40, 20, 0), percent(50, 40, 0))
        assert loss.item() == pytest.approx((1 + 0 + 9) / 3, abs=1e-12)

    @pytest.mark.parametrize("images", [slice(0, 1), slice(1, 3), slice(0, 3)])
    def test_equals_the_formula_written_out(self, images: slice) -> None:
        p, (low, high) = random_p(0)[images], (bound[images] for bound in random_bounds())
        penalties = []
        for b, k in np.ndindex(*low.shape):
            a, z = 20 * float(low[b, k]), 20 * float(high[b, k])
            if not (math.isnan(a) or math.isnan(z)):
                size = sum(float(p[b, k, r, c]) for r, c in np.ndindex(4, 5))
                outside = size - a if size < a else size - z if size > z else 0.0
                penalties.append(outside**2 / 20)
        assert 0.0 in penalties
        assert s.size_penalty(p, low, high).item() == pytest.approx(sum(penalties) / len(penalties))

    def test_gradient(self) -> None:
        low, high = random_bounds()
        assert torch.autograd.gradcheck(
            lambda p: s.size_penalty(p, low, high), (random_p(0).requires_grad_(),)
        )

    @pytest.mark.parametrize("bound", [20, 40])
    def test_value_and_slope_are_continuous_at_a_bound(self, bound: int) -> None:
        """A distance of e pixels costs e^2 / 100, on the inner side nothing."""
        outwards = -1 if bound == 20 else 1
        for e in (0.0, 1e-3, 1e-2):
            for side in (-outwards, outwards):
                p = constant((bound + side * e) / 100).requires_grad_()
                loss = s.size_penalty(p, percent(20), percent(40))
                (gradient,) = torch.autograd.grad(loss, p)
                outside = e if side == outwards else 0.0
                # 1e-12: rounding of S / V, squared or doubled
                assert loss.item() == pytest.approx(outside**2 / 100, abs=1e-12)
                assert gradient.abs().max().item() == pytest.approx(2 * outside / 100, abs=1e-12)

    def test_inside_is_exactly_zero_without_gradient(self) -> None:
        p = random_p(3).requires_grad_()
        area = soft_area(p).detach()
        loss = s.size_penalty(p, 0.9 * area, 1.1 * area)
        (gradient,) = torch.autograd.grad(loss, p)
        assert loss.item() == 0.0
        assert gradient.abs().max().item() == 0.0

    @pytest.mark.parametrize("unknown", ["low", "high", "both"])
    def test_unknown_bounds_enter_neither_mean_nor_gradient(self, unknown: str) -> None:
        p = constant(0.3, 2).requires_grad_()
        low, high = percent(40, 40), percent(50, 50)
        if unknown != "high":
            low[0, 1] = math.nan
        if unknown != "low":
            high[0, 1] = math.nan
        loss = s.size_penalty(p, low, high)
        (gradient,) = torch.autograd.grad(loss, p)
        assert loss.item() == pytest.approx(1.0)
        assert gradient[0, 0].abs().min().item() > 0.0
        assert gradient[0, 1].abs().max().item() == 0.0

    @pytest.mark.parametrize("seed", range(3))
    def test_equal_bounds_are_v_times_the_squared_area_error(self, seed: int) -> None:
        p, reported = random_p(seed), soft_area(random_p(seed + 10))
        reported[0, 1] = math.nan
        squared = discrepancy(soft_area(p), reported, "sq")
        assert s.size_penalty(p, reported, reported).item() == pytest.approx(20 * squared.item(), rel=1e-12)

    def test_of_an_image_of_twice_the_side_is_four_times_as_large(self) -> None:
        p, (low, high) = random_p(0), random_bounds()
        doubled = p.repeat_interleave(2, 2).repeat_interleave(2, 3)
        small, large = (s.size_penalty(q, low, high).item() for q in (p, doubled))
        assert large == pytest.approx(4 * small, rel=1e-12)

    @pytest.mark.parametrize("given", [torch.float16, torch.bfloat16])
    def test_squares_of_pixel_counts_do_not_overflow(self, given: torch.dtype) -> None:
        """A full 256 x 256 image: S^2 = 4.3e9, and S itself is more than float16 holds."""
        p = torch.ones(1, 1, 256, 256, dtype=given)
        absent = torch.zeros(1, 1)
        loss = s.size_penalty(p, absent, absent)
        assert loss.dtype == torch.float32
        assert loss.item() == 65536.0


class TestBounds:
    def test_by_hand(self) -> None:
        """Of a class that is there, one that is not, and one of which nothing is known."""
        area = s.area_bounds(torch.tensor([[0.2, 0.0, math.nan]]), 0.1)
        tag = s.presence_bounds(torch.tensor([[1.0, 0.0, math.nan]]), 0.01, 0.25)
        for (low, high), expected in [(area, (0.18, 0.22)), (tag, (0.01, 0.25))]:
            assert (low[0, 0].item(), high[0, 0].item()) == pytest.approx(expected)
            assert (low[0, 1].item(), high[0, 1].item()) == (0.0, 0.0)
            assert torch.stack([low, high])[..., 2].isnan().all()

    def test_without_a_margin_are_the_report(self) -> None:
        area = torch.rand(3, 4, generator=torch.Generator().manual_seed(0))
        assert all(torch.equal(bound, area) for bound in s.area_bounds(area, 0.0))

    def test_published_ones_are_pixels_of_256_by_256(self) -> None:
        method = s.SizeConstraint()
        assert method.smallest_area * 256**2 == pytest.approx(60)
        assert method.largest_area * 256**2 == pytest.approx(2000)


def set_up(num_classes: int = 4, **settings: object) -> tuple[s.SizeConstraint, TinyNetwork, Batch]:
    return s.SizeConstraint(**settings), TinyNetwork(num_classes), a_batch(num_classes)


def losses(method: s.SizeConstraint, net: TinyNetwork, batch: Batch, progress: float = 0.5) -> Terms:
    return method.losses(net, batch, method.init(net), progress)


def with_statistic(batch: Batch, name: str, value: float) -> Batch:
    values = torch.full_like(batch.statistics[name], value)
    return dataclasses.replace(batch, statistics={name: values})


def greatest_gradient(net: TinyNetwork, loss: Tensor) -> float:
    gradients = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True, retain_graph=True)
    return max(g.abs().max().item() for g in gradients if g is not None)


class TestMethod:
    @pytest.mark.parametrize("num_classes", [2, 4])
    @pytest.mark.parametrize("bounds", CHOICES)
    def test_total_and_terms(self, num_classes: int, bounds: str) -> None:
        method, net, batch = set_up(num_classes, bounds=bounds, size_weight=0.03, overlap_weight=0.5)
        out, logits = losses(method, net, batch), net(batch.image_BCHW).logits_BKHW
        statistic = batch.statistics[bounds][:, 1:]
        low, high = {
            "area": (0.9 * statistic, 1.1 * statistic),
            "presence": (60 / 65536 * statistic, 2000 / 65536 * statistic),
        }[bounds]
        size = s.size_penalty(logits.softmax(1)[:, 1:], low, high)
        assert out.keys() == {"total", "overlap", "size"}
        assert out["size"].item() == pytest.approx(size.item(), rel=1e-5)
        assert out["overlap"].item() == terms.partial_cross_entropy(logits, batch.labels_BHW).item()
        assert out["total"].item() == pytest.approx(
            0.5 * out["overlap"].item() + 0.03 * size.item(), rel=1e-5
        )
        assert size.item() > 0

    def test_published_weight_is_constant(self) -> None:
        method, net, batch = set_up()
        out = [losses(method, net, batch, progress) for progress in (0.0, 0.5, 1.0)]
        assert out[0]["total"].item() == out[1]["total"].item() == out[2]["total"].item()
        expected = out[0]["overlap"].item() + 0.01 * out[0]["size"].item()
        assert out[0]["total"].item() == pytest.approx(expected, rel=1e-6)

    @pytest.mark.parametrize(
        ("progress", "share"), [(0.0, math.exp(-5)), (0.2, math.exp(-1.25)), (0.4, 1.0), (0.9, 1.0)]
    )
    def test_warm_up_weighs_the_size_only(self, progress: float, share: float) -> None:
        method, net, batch = set_up(warm_up=0.4, size_weight=1.0)
        out = losses(method, net, batch, progress)
        assert out["total"].item() == pytest.approx((out["overlap"] + share * out["size"]).item(), rel=1e-6)

    @pytest.mark.parametrize("term", ["overlap", "size"])
    def test_a_weight_of_zero_drops_its_term(self, term: str) -> None:
        method, net, batch = set_up(**{f"{term}_weight": 0.0})
        assert term not in losses(method, net, batch)

    def test_both_weights_zero_is_refused(self) -> None:
        with pytest.raises(UserError, match="nothing to minimise"):
            s.SizeConstraint(overlap_weight=0.0, size_weight=0.0)

    @pytest.mark.parametrize(("bounds", "other"), [CHOICES, CHOICES[::-1]])
    def test_statistic_of_the_other_bounds_is_the_user_s_mistake(self, bounds: str, other: str) -> None:
        method, net, batch = set_up(bounds=bounds)
        with pytest.raises(UserError, match=f"needs the statistic '{bounds}' .* but it grants {other}"):
            losses(method, net, only(batch, other))
        with pytest.raises(UserError, match="grants none"):
            losses(method, net, only(batch))
        assert losses(method, net, only(batch, bounds))["size"].item() > 0

    def test_searched_are_weight_ramp_and_margin_and_no_bounds_cross(self) -> None:
        assert list(space_of(s.SizeConstraint)) == ["size_weight", "warm_up", "margin"]
        ranges = {
            f.name: f.metadata["search_spaces.hp"].allowed for f in dataclasses.fields(s.SizeConstraint)
        }
        assert ranges["smallest_area"].high <= ranges["largest_area"].low

    @pytest.mark.parametrize("bounds", CHOICES)
    def test_background_has_no_bounds(self, bounds: str) -> None:
        method, net, batch = set_up(bounds=bounds)
        before = losses(method, net, batch)["size"].item()
        batch.statistics[bounds][:, 0] = 0.123
        assert losses(method, net, batch)["size"].item() == before

    @pytest.mark.parametrize("bounds", CHOICES)
    def test_absent_classes_are_suppressed(self, bounds: str) -> None:
        method, net, batch = set_up(bounds=bounds)
        p = net(batch.image_BCHW).logits_BKHW.softmax(1)[:, 1:]
        size = losses(method, net, with_statistic(batch, bounds, 0.0))["size"]
        assert size.item() == pytest.approx((p.sum((2, 3)).square() / 64).mean().item(), rel=1e-5)

    @pytest.mark.parametrize("bounds", CHOICES)
    def test_unknown_statistic_is_exactly_zero_without_gradient(self, bounds: str) -> None:
        method, net, batch = set_up(bounds=bounds, overlap_weight=0.0)
        out = losses(method, net, with_statistic(batch, bounds, math.nan))
        assert out["total"].item() == out["size"].item() == 0.0
        assert greatest_gradient(net, out["total"]) == 0.0

    def test_no_labelled_pixel_leaves_the_size_alone(self) -> None:
        method, net, batch = set_up()
        out = losses(method, net, without_labels(batch))
        assert out["overlap"].item() == 0.0
        assert out["total"].item() == pytest.approx(0.01 * out["size"].item(), rel=1e-6)
        assert greatest_gradient(net, out["overlap"]) == 0.0
        assert greatest_gradient(net, out["size"]) > 0.0

    @pytest.mark.parametrize("bounds", CHOICES)
    def test_float32_under_autocast_and_close_to_it(self, bounds: str) -> None:
        method, net, batch = set_up(bounds=bounds)
        full = losses(method, net, batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            reduced = losses(method, net, batch)
        for name, value in full.items():
            assert reduced[name].dtype == torch.float32
            # bf16 has 8 bits; the logits differ by 2^-8 of their size
            torch.testing.assert_close(reduced[name], value, rtol=0.03, atol=0.01)

    def test_compiles_with_a_warm_up(self) -> None:
        with plain_methods() as load:
            method, net = load("size_constraint")(bounds="presence", warm_up=0.8), TinyNetwork()
            state, batch = method.init(net), a_batch()
            torch.compiler.reset()
            compiled = torch.compile(method.losses, fullgraph=True, backend="aot_eager")
            for progress in (0.2, 0.6):  # the second compiles for any progress
                graph, eager = (f(net, batch, state, progress)["total"] for f in (compiled, method.losses))
                torch.testing.assert_close(graph, eager)

    def test_learns_sizes_and_pixels(self) -> None:
        """A hundred steps bring the soft sizes of a tiny problem nearer to their bounds, and the pixels."""
        method, net, batch = set_up(size_weight=1.0)
        optimiser = torch.optim.Adam(net.parameters(), lr=0.03)
        first = losses(method, net, batch)
        for _ in range(100):
            optimiser.zero_grad()
            losses(method, net, batch)["total"].backward()
            optimiser.step()
        last = losses(method, net, batch)
        assert last["size"].item() < 0.5 * first["size"].item()
        assert last["overlap"].item() < 0.9 * first["overlap"].item()
