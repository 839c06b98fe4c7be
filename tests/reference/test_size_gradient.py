"""Size gradient: the method's terms and figures, its targets and units, a tiny training by sizes alone."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from search_spaces import UserError, space_of
from tests.reference.test_summary_statistics import only
from tests.tiny import TinyNetwork, a_batch, masks_of, plain_methods, without_labels
from trainables import flips, terms
from trainables.method import Batch, Network, Output, State, Terms
from trainables.methods import size_gradient as s
from trainables.sampled_gradient import class_logits, expected_squared_error

FIGURES = {"noisy_squared_error", "noisy_minus_mask", "zero_gradient_share"}
WEIGHTS = {"size": 30.0, "overlap": 0.5, "entropy": 0.2, "edge": 3.0, "mass": 0.7}
EVERY_WEIGHT = {f"{name}_weight": weight for name, weight in WEIGHTS.items()}
CHOICES = (*flips.names(), "size_mm")


class Painted(Network):
    """Logits that are parameters, whatever the image."""

    def __init__(self, logits_BKHW: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits_BKHW)

    def forward(self, image_BCHW: Tensor) -> Output:
        return Output(self.logits, self.logits, self.logits)


def painted(masks_NHW: Tensor, num_classes: int, confidence: float) -> Painted:
    """The class of each pixel `confidence` above the others."""
    return Painted(confidence * terms.one_hot(masks_NHW, num_classes).float())


def set_up(num_classes: int = 4, **settings: object) -> tuple[s.SizeGradient, TinyNetwork, State, Batch]:
    method, net = s.SizeGradient(**settings), TinyNetwork(num_classes)
    return method, net, method.init(net), a_batch(num_classes)


def losses(method: s.SizeGradient, net: Network, batch: Batch, seed: int = 0) -> Terms:
    torch.manual_seed(seed)
    return method.losses(net, batch, method.init(net), 0.5)


def greatest_gradient(net: Network, loss: Tensor) -> float:
    gradients = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True, retain_graph=True)
    return max(g.abs().max().item() for g in gradients if g is not None)


class TestTerms:
    @pytest.mark.parametrize("num_classes", [2, 4])
    def test_total_is_the_weighted_sum_of_the_terms_without_the_figures(self, num_classes: int) -> None:
        method, net, _, batch = set_up(num_classes, **EVERY_WEIGHT)
        out = losses(method, net, batch)
        assert out.keys() == {"total", *WEIGHTS, *FIGURES}
        expected = sum(weight * out[name].item() for name, weight in WEIGHTS.items())
        assert out["total"].item() == pytest.approx(expected, rel=1e-5)
        assert all(out[name].item() > 0 for name in (*WEIGHTS, "noisy_squared_error"))
        assert not any(out[name].requires_grad for name in FIGURES)

    def test_defaults_are_size_and_overlap(self) -> None:
        method, net, _, batch = set_up()
        out = losses(method, net, batch)
        assert out.keys() == {"total", "size", "overlap", *FIGURES}
        expected = method.size_weight * out["size"] + method.overlap_weight * out["overlap"]
        assert out["total"].item() == pytest.approx(expected.item(), rel=1e-6)

    def test_terms_are_the_shared_ones(self) -> None:
        method, net, _, batch = set_up(**EVERY_WEIGHT, edge_contrast=0.2)
        out, logits = losses(method, net, batch), net(batch.image_BCHW).logits_BKHW
        p = logits.softmax(1)
        expected = {
            "overlap": terms.partial_cross_entropy(logits, batch.labels_BHW),
            "entropy": terms.entropy(logits),
            "edge": terms.contrast_total_variation(p, batch.image_BCHW, 0.2),
            "mass": 1 - p[:, 0].mean(),
        }
        for name, value in expected.items():
            assert out[name].item() == pytest.approx(value.item(), rel=1e-5), name

    @pytest.mark.parametrize("term", WEIGHTS)
    def test_a_weight_of_zero_drops_its_term(self, term: str) -> None:
        method, net, _, batch = set_up(**EVERY_WEIGHT | {f"{term}_weight": 0.0})
        out = losses(method, net, batch)
        figures = set() if term == "size" else FIGURES
        assert out.keys() == {"total", *WEIGHTS, *figures} - {term}

    def test_all_weights_zero_is_refused(self) -> None:
        with pytest.raises(UserError, match="nothing to minimise"):
            s.SizeGradient(size_weight=0.0, overlap_weight=0.0)
        assert s.SizeGradient(size_weight=0.0, overlap_weight=0.0, mass_weight=0.1).mass_weight == 0.1

    def test_searched_settings(self) -> None:
        searched = ["size_weight", "overlap_weight", "samples", "noise_scale"]
        assert list(space_of(s.SizeGradient)) == searched


class TestSize:
    @pytest.mark.parametrize("num_classes", [2, 4])
    def test_every_setting_arrives(self, num_classes: int) -> None:
        settings = {"samples": 3, "noise_scale": 0.5, "sampling": "systematic", "pixel_share": 0.5}
        method, net, _, batch = set_up(num_classes, statistic="width", overlap_weight=0.0, **settings)
        out = losses(method, net, batch)
        torch.manual_seed(0)
        estimate = expected_squared_error(
            class_logits(net(batch.image_BCHW).logits_BKHW).flatten(0, 1),
            batch.statistics["width"][:, 1:].flatten(),
            flips.load("width"),
            **settings,
        )
        assert out["size"].item() == estimate.loss.item() > 0
        assert out["noisy_squared_error"].item() == estimate.squared_error.item()
        assert out["noisy_minus_mask"].item() == estimate.noisy_minus_mask.item()
        assert out["zero_gradient_share"].item() == estimate.zero_gradient_share.item()
        weights = list(net.parameters())
        ours, theirs = (
            torch.autograd.grad(loss, weights, retain_graph=True) for loss in (out["size"], estimate.loss)
        )
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
        for name, value in {"samples": 2, "noise_scale": 1.0, "sampling": "antithetic"}.items():
            changed = dataclasses.replace(method, **{name: value})
            assert losses(changed, net, batch)["noisy_squared_error"].item() != estimate.squared_error.item()
        whole = losses(dataclasses.replace(method, pixel_share=1.0), net, batch)["size"]
        assert greatest_gradient(net, whole) != greatest_gradient(net, out["size"])

    @pytest.mark.parametrize("statistic", CHOICES)
    def test_a_sure_and_true_mask_has_no_error(self, statistic: str) -> None:
        """What is reported of a mask is what the loss counts in it, in the same unit, class by class."""
        method = s.SizeGradient(statistic=statistic, samples=2)
        truth = torch.from_numpy(masks_of(4, 4, 8)).long()
        net, batch = painted(truth, 4, 40.0), a_batch(4)
        out = losses(method, net, batch)
        # areas are fractions in float32 times 64, sizes in mm halves: exact
        assert out["noisy_squared_error"].item() == out["size"].item() == 0.0
        assert out["noisy_minus_mask"].item() == 0.0
        one = 1 / 64 if statistic == "area" else 1.0
        wrong = {statistic: batch.statistics[statistic] + one}
        one_off = losses(method, net, dataclasses.replace(batch, statistics=wrong))
        assert one_off["noisy_squared_error"].item() == 1.0

    def test_area_is_reported_as_a_fraction_and_counted_in_pixels(self) -> None:
        method = s.SizeGradient(statistic="area", overlap_weight=0.0)
        mask = torch.zeros(1, 8, 8, dtype=torch.long)
        mask[0, 2:5, 1:5] = 1
        batch = with_statistic(a_batch(2, num_images=1), "area", 48 / 64)
        out = losses(method, painted(mask, 2, 40.0), batch)
        assert out["noisy_squared_error"].item() == (48 - 12) ** 2
        assert out["size"].item() == pytest.approx((48 - 12) ** 2 / 64**2)

    def test_size_in_mm(self) -> None:
        """Pixels of 0.5 mm: a quarter of the squared error in pixels."""
        net, batch = TinyNetwork(), a_batch()
        pixels, mm = (
            losses(s.SizeGradient(statistic=name), net, batch)["noisy_squared_error"].item()
            for name in ("size", "size_mm")
        )
        assert mm == pixels / 4 > 0

    def test_size_in_mm_needs_the_side_of_the_pixels(self) -> None:
        method, net, _, batch = set_up(statistic="size_mm")
        with pytest.raises(ValueError, match="pixel_mm_B"):
            losses(method, net, dataclasses.replace(batch, pixel_mm_B=None))

    def test_each_image_has_its_own_pixels(self) -> None:
        method = s.SizeGradient(statistic="size_mm", overlap_weight=0.0)
        mask = torch.zeros(2, 8, 8, dtype=torch.long)
        mask[:, 2:6, 1:5] = 1
        batch = with_statistic(a_batch(2, num_images=2), "size_mm", 8.0)
        batch = dataclasses.replace(batch, pixel_mm_B=torch.tensor([2.0, 1.0]))
        out = losses(method, painted(mask, 2, 40.0), batch)
        # size 4 px, 8 mm as reported in the first image and 4 mm in the second
        assert out["noisy_squared_error"].item() == (0 + 4**2) / 2

    def test_statistic_that_is_not_granted_is_the_user_s_mistake(self) -> None:
        method, net, _, batch = set_up()
        with pytest.raises(UserError, match=r"statistic = 'size' needs that .* it grants area, presence;"):
            losses(method, net, only(batch, "area", "presence"))
        with pytest.raises(UserError, match="grants none"):
            losses(method, net, only(batch))
        without = dataclasses.replace(method, size_weight=0.0)
        assert losses(without, net, only(batch))["total"].item() > 0

    def test_background_has_no_size(self) -> None:
        method, net, _, batch = set_up()
        before = losses(method, net, batch)["size"].item()
        batch.statistics["size"][:, 0] = 2.0
        assert losses(method, net, batch)["size"].item() == before

    def test_unknown_size_is_exactly_zero_without_gradient(self) -> None:
        method, net, _, batch = set_up(overlap_weight=0.0)
        out = losses(method, net, with_statistic(batch, "size", math.nan))
        assert out["total"].item() == out["size"].item() == 0.0
        assert greatest_gradient(net, out["total"]) == 0.0

    def test_no_labelled_pixel_leaves_the_size_alone(self) -> None:
        method, net, _, batch = set_up()
        out = losses(method, net, without_labels(batch))
        assert out["overlap"].item() == 0.0
        assert out["total"].item() == pytest.approx(method.size_weight * out["size"].item(), rel=1e-6)
        assert greatest_gradient(net, out["overlap"]) == 0.0
        assert greatest_gradient(net, out["size"]) > 0.0


def with_statistic(batch: Batch, name: str, value: float) -> Batch:
    return dataclasses.replace(batch, statistics={name: torch.full_like(batch.statistics[name], value)})


@pytest.mark.parametrize("num_classes", [2, 4])
def test_float32_under_autocast(num_classes: int) -> None:
    """A pixel whose uniform number lies between its two probabilities is drawn otherwise, hence the size only
    within a half."""
    method, net, _, batch = set_up(num_classes, **EVERY_WEIGHT)
    full = losses(method, net, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        reduced = losses(method, net, batch)
    assert all(value.dtype == torch.float32 for value in reduced.values())
    assert reduced["size"].item() == pytest.approx(full["size"].item(), rel=0.5)
    for name in ("overlap", "entropy", "edge", "mass"):
        # bf16 has 8 bits; the logits differ by 2^-8 of their size
        torch.testing.assert_close(reduced[name], full[name], rtol=0.03, atol=0.01)
    assert greatest_gradient(net, reduced["size"]) > 0


def test_compiles_with_other_choices() -> None:
    """The defaults are compiled by the contract."""
    with plain_methods() as load:
        method = load("size_gradient")(
            statistic="width", sampling="systematic", pixel_share=0.5, samples=3, entropy_weight=0.1
        )
        net, batch = TinyNetwork(), a_batch()
        state = method.init(net)
        torch.compiler.reset()
        compiled = torch.compile(method.losses, fullgraph=True, backend="aot_eager")
        graph, eager = (losses_of(f, net, batch, state) for f in (compiled, method.losses))
    assert graph.keys() == eager.keys()
    for name, value in eager.items():
        torch.testing.assert_close(graph[name], value)


def losses_of(function: object, net: Network, batch: Batch, state: State) -> Terms:
    torch.manual_seed(0)
    return function(net, batch, state, 0.5)  # type: ignore[operator]


@pytest.mark.parametrize(("side", "target"), [(8, 4.0), (5, 6.0)], ids=["shrink", "close"])
def test_learns_a_size_from_nothing_but_the_size(side: int, target: float) -> None:
    """Squares in 12 x 12 pixels, plain gradient descent on their logits: one of size 8 is to be 4, and one of
    size 6 is to have it under noise, too. Each error is that of 4 x 8 drawn masks, and 5 are averaged."""
    method = s.SizeGradient(overlap_weight=0.0, size_weight=1.0)
    mask = torch.zeros(4, 12, 12, dtype=torch.long)
    mask[:, 1 : 1 + side, 1 : 1 + side] = 1
    net, batch = painted(mask, 2, 3.0), with_statistic(a_batch(2, size=12), "size", target)
    optimiser = torch.optim.SGD(net.parameters(), lr=1000.0)
    errors = []
    for step in range(60):
        optimiser.zero_grad()
        out = losses(method, net, batch, seed=step)
        out["total"].backward()
        optimiser.step()
        errors.append(out["noisy_squared_error"].item())
    first, last = errors[0], sum(errors[-5:]) / 5
    assert first > 2.0
    assert last < first / 4, (first, last)


def test_a_sure_square_does_not_grow() -> None:
    """Trap: no single flip makes it larger, each removal smaller. The gradient only makes it surer."""
    method = s.SizeGradient(overlap_weight=0.0, samples=1)
    mask = torch.zeros(1, 12, 12, dtype=torch.long)
    mask[:, 1:6, 1:6] = 1
    net, batch = painted(mask, 2, 12.0), with_statistic(a_batch(2, num_images=1, size=12), "size", 10.0)
    out = losses(method, net, batch)
    (gradient_BKHW,) = torch.autograd.grad(out["size"], list(net.parameters()))
    assert out["noisy_squared_error"].item() == (10 - 6) ** 2
    assert gradient_BKHW[0, 1][mask[0] == 0].abs().max().item() == 0.0
    assert gradient_BKHW[0, 1][mask[0] == 1].max().item() < 0.0
