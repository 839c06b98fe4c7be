"""Summary statistics: the soft statistics, their errors and the method, with the traps of methods.md 3.30."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from search_spaces import UserError
from tests.tiny import TinyNetwork, a_batch, masks_of, plain_methods, without_labels
from trainables import terms
from trainables.method import Batch
from trainables.methods import summary_statistics as s
from trainables.statistics import summary_statistics

RECONSTRUCTIONS = ("none", "parallel", "composite", "gated", "chan_vese")
FORMS = ("rel", "abs", "sq")
FOREGROUND = torch.tensor([0.9, 0.6, 0.2, 0.1], dtype=torch.float64)


def two_classes(p_foreground: Tensor, width: int = 2) -> Tensor:
    """Probabilities [1,2,H,width] from those of the foreground."""
    return torch.stack([1 - p_foreground, p_foreground]).view(1, 2, -1, width)


def random_p(seed: int, num_classes: int = 4, num_images: int = 3) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(num_images, num_classes, 4, 5, dtype=torch.float64, generator=g).softmax(1)


def random_image(seed: int, num_images: int = 3) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.rand(num_images, 1, 4, 5, dtype=torch.float64, generator=g)


class TestStatistics:
    @pytest.mark.parametrize(("form", "expected"), [("abs", 0.2), ("sq", 0.04), ("rel", 0.2 / 0.251)])
    def test_area_by_hand(self, form: str, expected: float) -> None:
        area = s.soft_area(two_classes(FOREGROUND))[:, 1]
        assert area.item() == pytest.approx(0.45, abs=1e-12)
        loss = s.discrepancy(area, torch.tensor([0.25], dtype=torch.float64), form)
        assert loss.item() == pytest.approx(expected, abs=1e-12)

    def test_volume_area_is_the_mean_over_the_volume_s_slices(self) -> None:
        p = torch.stack([torch.full((2, 2), v) for v in (0.1, 0.8, 0.3, 0.6)]).unsqueeze(1)
        area = s.soft_volume_area(p, torch.tensor([1, 0, 1, 1]))
        assert area.flatten().tolist() == pytest.approx([1 / 3, 0.8, 1 / 3, 1 / 3])

    def test_of_a_hard_mask_they_are_the_reported_ones(self) -> None:
        """The annotator's numpy code and the soft statistics agree, up to float32."""
        masks, images = (
            masks_of(4, 4, 8),
            np.random.default_rng(0).integers(256, size=(4, 8, 8), dtype=np.uint8),
        )
        reported = summary_statistics(
            s.USABLE,
            images_NHW=images,
            masks_NHW=masks,
            volume_ids=["a", "a", "b", "b"],
            spacing_mm=np.ones((4, 3)),
            num_classes=4,
        )
        p = terms.one_hot(torch.from_numpy(masks).long(), 4).double()
        image = torch.from_numpy(images[:, None] / 255)
        soft = {
            "area": s.soft_area(p),
            "volume_area": s.soft_volume_area(p, torch.tensor([0, 0, 1, 1])),
            "mean_intensity": s.soft_mean_intensity(p, image),
            "perimeter": s.soft_perimeter(p),
            "centroid": s.soft_centroid(p),
        }
        assert soft.keys() == reported.keys()
        for name, target in reported.items():
            known = torch.from_numpy(~np.isnan(target))
            assert known.any(), name
            torch.testing.assert_close(
                soft[name][known], torch.from_numpy(target).double()[known], rtol=1e-6, atol=1e-7
            )

    @pytest.mark.parametrize("seed", range(3))
    def test_equal_the_formulas_written_out(self, seed: int) -> None:
        p, x = random_p(seed), random_image(seed)
        b, k, h, w = p.shape
        intensity, perimeter, centroid = torch.zeros(b, k), torch.zeros(b, k), torch.zeros(b, k, 2)
        intensity, perimeter, centroid = intensity.double(), perimeter.double(), centroid.double()
        for i, c in np.ndindex(b, k):
            mass = float(sum(p[i, c, r, q] for r, q in np.ndindex(h, w)))
            for r, q in np.ndindex(h, w):
                intensity[i, c] += p[i, c, r, q] * x[i, 0, r, q] / mass
                centroid[i, c, 0] += p[i, c, r, q] * (r + 0.5) / h / mass
                centroid[i, c, 1] += p[i, c, r, q] * (q + 0.5) / w / mass
                if r + 1 < h:
                    perimeter[i, c] += abs(p[i, c, r, q] - p[i, c, r + 1, q]) / (h * w)
                if q + 1 < w:
                    perimeter[i, c] += abs(p[i, c, r, q] - p[i, c, r, q + 1]) / (h * w)
        torch.testing.assert_close(s.soft_mean_intensity(p, x), intensity)
        torch.testing.assert_close(s.soft_perimeter(p), perimeter)
        torch.testing.assert_close(s.soft_centroid(p), centroid)

    def test_gradients(self) -> None:
        x, volume = random_image(1), torch.tensor([0, 1, 0])
        for statistic in (
            s.soft_area,
            lambda p: s.soft_volume_area(p, volume),
            lambda p: s.soft_mean_intensity(p, x),
            s.soft_perimeter,
            s.soft_centroid,
        ):
            assert torch.autograd.gradcheck(statistic, (random_p(0).requires_grad_(),))

    def test_area_gradient_is_the_same_at_every_pixel(self) -> None:
        p = two_classes(FOREGROUND).requires_grad_()
        loss = s.discrepancy(s.soft_area(p)[:, 1:], torch.tensor([[0.25]]).double(), "rel")
        (gradient,) = torch.autograd.grad(loss, p)
        expected = torch.full((2, 2), 1 / (4 * 0.251), dtype=torch.float64)
        torch.testing.assert_close(gradient[0, 1], expected)

    def test_of_an_empty_region_are_finite_with_finite_gradient(self) -> None:
        p = torch.zeros(1, 2, 4, 4).requires_grad_()
        image = torch.ones(1, 1, 4, 4)
        total = (
            s.soft_mean_intensity(p, image).sum() + s.soft_centroid(p).sum() + s.region_means(p, image).sum()
        )
        (gradient,) = torch.autograd.grad(total, p)
        assert total.item() == 0.0
        assert torch.isfinite(gradient).all()


class TestDiscrepancy:
    @pytest.mark.parametrize("form", FORMS)
    def test_unknown_targets_give_no_loss_and_no_gradient(self, form: str) -> None:
        estimate = torch.tensor([0.3, 0.9, 0.5], requires_grad=True)
        loss = s.discrepancy(estimate, torch.tensor([0.2, math.nan, math.nan]), form)
        alone = s.discrepancy(estimate[:1], torch.tensor([0.2]), form)
        (gradient,) = torch.autograd.grad(loss, estimate)
        assert loss.item() == alone.item() > 0
        assert gradient[0].item() > 0
        assert gradient[1:].tolist() == [0.0, 0.0]

    @pytest.mark.parametrize("form", FORMS)
    def test_nothing_known_is_exactly_zero(self, form: str) -> None:
        estimate = torch.tensor([0.3, 0.9], requires_grad=True)
        loss = s.discrepancy(estimate, torch.full((2,), math.nan), form)
        (gradient,) = torch.autograd.grad(loss, estimate)
        assert loss.item() == 0.0
        assert gradient.tolist() == [0.0, 0.0]

    def test_absent_class_is_not_divided_by_its_area(self) -> None:
        loss = s.discrepancy(torch.tensor([0.3, 0.3]), torch.tensor([0.0, 0.1]), "rel")
        assert loss.item() == pytest.approx((0.3 + 0.2 / 0.101) / 2)

    @pytest.mark.parametrize("form", FORMS)
    def test_constant_p_satisfies_the_area_with_an_empty_mask(self, form: str) -> None:
        """Trap: why a confidence term exists."""
        p = two_classes(torch.full((16,), 0.25, dtype=torch.float64), width=4)
        assert s.discrepancy(s.soft_area(p)[:, 1], torch.tensor([0.25]).double(), form).item() == 0.0
        assert p.argmax(1).sum() == 0
        assert s.confidence_loss(p.log(), "gini").item() == pytest.approx(0.75)


def set_up(
    num_classes: int = 4, **settings: object
) -> tuple[s.SummaryStatistics, TinyNetwork, torch.nn.Module, Batch]:
    method, net = s.SummaryStatistics(**settings), TinyNetwork(num_classes)
    torch.manual_seed(0)
    return method, net, method.init(net), a_batch(num_classes)


def only(batch: Batch, *names: str) -> Batch:
    return dataclasses.replace(batch, statistics={name: batch.statistics[name] for name in names})


class TestMethod:
    @pytest.mark.parametrize("num_classes", [2, 4])
    def test_total_is_the_weighted_sum_of_the_terms(self, num_classes: int) -> None:
        weights = {"reconstruction": 0.7, "statistic": 3.0, "overlap": 0.2, "confidence": 0.05}
        method, net, state, batch = set_up(num_classes, **{f"{k}_weight": v for k, v in weights.items()})
        out = method.losses(net, batch, state, 0.0)
        assert out.keys() == {"total", *weights}
        expected = sum(weight * out[name].item() for name, weight in weights.items())
        assert out["total"].item() == pytest.approx(expected, rel=1e-6)
        assert all(out[name].item() > 0 for name in weights)

    @pytest.mark.parametrize("term", ["reconstruction", "statistic", "overlap", "confidence"])
    def test_a_weight_of_zero_drops_its_term(self, term: str) -> None:
        method, net, state, batch = set_up(**{f"{term}_weight": 0.0})
        assert term not in method.losses(net, batch, state, 0.0)

    def test_all_weights_zero_is_refused(self) -> None:
        off = {f"{t}_weight": 0.0 for t in ("statistic", "overlap", "confidence")}
        with pytest.raises(UserError, match="nothing to minimise"):
            s.SummaryStatistics(**off, reconstruction="none")

    @pytest.mark.parametrize("form", FORMS)
    def test_statistics_add_up_over_the_granted_ones(self, form: str) -> None:
        _, net, _, batch = set_up()
        p = net(batch.image_BCHW).logits_BKHW.softmax(1)
        single = [s.statistic_loss(p, only(batch, name), form).item() for name in s.USABLE]
        assert all(value > 0 for value in single)
        assert s.statistic_loss(p, batch, form).item() == pytest.approx(sum(single), rel=1e-6)

    def test_background_does_not_enter(self) -> None:
        _, net, _, batch = set_up()
        p = net(batch.image_BCHW).logits_BKHW.softmax(1)
        before = s.statistic_loss(p, batch, "abs")
        for values in batch.statistics.values():
            values[:, 0] = 0.123
        assert s.statistic_loss(p, batch, "abs").item() == before.item()

    def test_a_centroid_is_not_divided_by_where_it_lies(self) -> None:
        _, net, _, batch = set_up()
        p = net(batch.image_BCHW).logits_BKHW.softmax(1)
        centroid = only(batch, "centroid")
        assert s.statistic_loss(p, centroid, "rel").item() == s.statistic_loss(p, centroid, "abs").item()

    def test_unusable_statistics_are_the_user_s_mistake(self) -> None:
        method, net, state, batch = set_up()
        with pytest.raises(UserError, match=r"needs one of area, .* but it grants presence, size"):
            method.losses(net, only(batch, "presence", "size"), state, 0.0)

    def test_volume_area_needs_volumes(self) -> None:
        method, net, state, batch = set_up()
        with pytest.raises(ValueError, match="whole volumes"):
            method.losses(net, dataclasses.replace(batch, volume_B=None), state, 0.0)

    def test_unknown_statistics_and_no_labels_leave_no_gradient(self) -> None:
        method, net, state, batch = set_up(reconstruction="none", confidence_weight=0.0)
        unknown = {name: torch.full_like(v, math.nan) for name, v in batch.statistics.items()}
        nothing = dataclasses.replace(without_labels(batch), statistics=unknown)
        total = method.losses(net, nothing, state, 0.0)["total"]
        total.backward()
        assert total.item() == 0.0
        assert all(p.grad is None or p.grad.abs().max() == 0 for p in net.parameters())

    def test_no_statistic_and_pixels_only_is_the_weak_control(self) -> None:
        method, net, state, batch = set_up(
            statistic_weight=0.0, reconstruction="none", confidence_weight=0.0, overlap_weight=2.0
        )
        out = method.losses(net, only(batch), state, 0.0)
        overlap = s.overlap_loss(net(batch.image_BCHW).logits_BKHW, batch.labels_BHW, "ce")
        assert out["total"].item() == pytest.approx(2 * overlap.item(), rel=1e-6)

    @pytest.mark.parametrize("reconstruction", RECONSTRUCTIONS)
    def test_float32_under_autocast_and_close_to_it(self, reconstruction: str) -> None:
        method, net, state, batch = set_up(reconstruction=reconstruction)
        full = method.losses(net, batch, state, 0.0)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            reduced = method.losses(net, batch, state, 0.0)
        for name, value in full.items():
            assert reduced[name].dtype == torch.float32
            # bf16 has 8 bits; the logits differ by 2^-8 of their size
            torch.testing.assert_close(reduced[name], value, rtol=0.03, atol=0.01)

    @pytest.mark.parametrize(
        "reconstruction", ["composite", "gated", "chan_vese"]
    )  # the contract does the default
    def test_compiles(self, reconstruction: str) -> None:
        with plain_methods() as load:
            method, net = (
                load("summary_statistics")(reconstruction=reconstruction, overlap="recall"),
                TinyNetwork(),
            )
            torch.manual_seed(0)
            state, batch = method.init(net), a_batch()
            torch.compiler.reset()
            compiled = torch.compile(method.losses, fullgraph=True, backend="aot_eager")
            graph, eager = (f(net, batch, state, 0.5)["total"] for f in (compiled, method.losses))
        torch.testing.assert_close(graph, eager)

    def test_learns_the_area_and_the_pixels(self) -> None:
        """A hundred steps of the whole loss bring every term of a tiny problem down."""
        method, net, state, batch = set_up()
        optimiser = torch.optim.Adam([*net.parameters(), *state.parameters()], lr=0.03)
        first = method.losses(net, batch, state, 0.0)
        for _ in range(100):
            optimiser.zero_grad()
            method.losses(net, batch, state, 0.0)["total"].backward()
            optimiser.step()
        last = method.losses(net, batch, state, 1.0)
        assert last["total"].item() < 0.7 * first["total"].item()
        assert last["statistic"].item() < 0.7 * first["statistic"].item()
        assert last["reconstruction"].item() < first["reconstruction"].item()
