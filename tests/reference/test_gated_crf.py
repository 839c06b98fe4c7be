"""Gated CRF: values of methods.md 3.7, every pair in a loop, and the formulation with unfolded tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import unfold

from search_spaces import space_of
from tests.tiny import TinyNetwork, a_batch, plain_methods, without_labels
from trainables import pairwise, terms
from trainables.method import Batch, Terms
from trainables.methods.gated_crf import GatedCrf
from trainables.pairwise import Kernel, gated_crf_loss, outside_constant

BILATERAL = (Kernel(1.0, 6.0, 0.1),)
KERNELS = [
    BILATERAL,
    (Kernel(1.0, 5.0, 0.1), Kernel(1.0, 3.0, math.inf)),
    (Kernel(0.7, math.inf, 0.3), Kernel(0.2, 2.0, math.inf)),
]


def random_p(seed: int, shape: Sequence[int] = (2, 3, 6, 5), scale: float = 1.0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=g).mul(scale).softmax(1)


def random_image(seed: int, shape: Sequence[int] = (2, 1, 6, 5)) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(100 + seed))


def constant_labels(num_classes: int = 3, size: int = 8) -> Tensor:
    p = torch.zeros(1, num_classes, size, size, dtype=torch.float64)
    p[:, 1] = 1.0
    return p


def kernel(image_CHW: Tensor, i: tuple[int, int], j: tuple[int, int], kernels: Sequence[Kernel]) -> float:
    far = float((i[0] - j[0]) ** 2 + (i[1] - j[1]) ** 2)
    unlike = float((image_CHW[:, i[0], i[1]] - image_CHW[:, j[0], j[1]]).square().sum())
    return sum(w * math.exp(-far / (2 * s**2) - unlike / (2 * t**2)) for w, s, t in kernels)


def every_pair(p: Tensor, image: Tensor, kernels: Sequence[Kernel], radius: int) -> Tensor:
    """The definition: all ordered pairs of pixels of each image; differentiable in p."""
    batch, _, height, width = p.shape
    pixels = list(np.ndindex(height, width))
    total = p.new_zeros(())
    for b in range(batch):
        for i in pixels:
            for j in pixels:
                if i != j and max(abs(i[0] - j[0]), abs(i[1] - j[1])) <= radius:
                    like = (p[b, :, i[0], i[1]] * p[b, :, j[0], j[1]]).sum()
                    total = total + kernel(image[b], i, j, kernels) * (1 - like)
    return total / (batch * len(pixels))


def unfolded(p: Tensor, image: Tensor, kernels: Sequence[Kernel], radius: int) -> Tensor:
    """The usual formulation: windows of zero-padded features and labels, the centre's weight set to 0."""
    batch, _, height, width = p.shape
    side = 2 * radius + 1

    def windows(x: Tensor) -> Tensor:
        return unfold(x, side, padding=radius).view(batch, x.shape[1], side**2, height, width)

    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack([row, column]).to(p.dtype).expand(batch, 2, height, width)
    weight = p.new_zeros(())
    for w, sigma_xy, sigma_x in kernels:
        exponent = p.new_zeros(())
        for feature, sigma in ((place, sigma_xy), (image, sigma_x)):
            if math.isfinite(sigma):
                scaled = feature / sigma
                exponent = exponent - 0.5 * (windows(scaled) - scaled.unsqueeze(2)).square().sum(1)
        weight = weight + w * exponent.exp()
    weight = weight.clone()
    weight[:, side**2 // 2] = 0
    like = (windows(p) * p.unsqueeze(2)).sum(1)
    return (weight.sum() - (weight * like).sum()) / (batch * height * width)


class TestValues:
    def test_by_hand(self) -> None:
        """k = exp(-1/72 - 1/2) = 0.5981649; both ordered pairs, 1 - p.p = 0.58, over two pixels."""
        image = torch.tensor([0.0, 0.1], dtype=torch.float64).view(1, 1, 1, 2)
        p = torch.tensor([[0.9, 0.4], [0.1, 0.6]], dtype=torch.float64).view(1, 2, 1, 2)
        assert kernel(image[0], (0, 0), (0, 1), BILATERAL) == pytest.approx(0.5981649, abs=5e-8)
        assert gated_crf_loss(p, image, BILATERAL, 5).item() == pytest.approx(0.3469356, abs=5e-8)
        usual = gated_crf_loss(p, image, BILATERAL, 5) + outside_constant(image, BILATERAL, 5)
        assert usual.item() == pytest.approx(95.44, abs=5e-3)

    @pytest.mark.parametrize("kernels", KERNELS)
    @pytest.mark.parametrize(("radius", "channels"), [(1, 1), (2, 3), (5, 1), (7, 2)])
    def test_equals_every_pair_with_its_gradient(
        self, kernels: Sequence[Kernel], radius: int, channels: int
    ) -> None:
        p = random_p(radius).requires_grad_()
        image = random_image(radius, (2, channels, 6, 5))
        ours, slow = gated_crf_loss(p, image, kernels, radius), every_pair(p, image, kernels, radius)
        torch.testing.assert_close(ours, slow, rtol=1e-12, atol=0)
        gradients = (torch.autograd.grad(loss, p)[0] for loss in (ours, slow))
        torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-13)

    @pytest.mark.parametrize("kernels", KERNELS)
    @pytest.mark.parametrize("radius", [2, 5])
    def test_usual_formulation_is_larger_by_the_constant_and_has_the_same_gradient(
        self, kernels: Sequence[Kernel], radius: int
    ) -> None:
        """Trap: unfolding zero-padded features gives pixels near the border neighbours that do not exist."""
        for seed in range(5):
            p, image = random_p(seed).requires_grad_(), random_image(seed)
            ours, usual = (loss(p, image, kernels, radius) for loss in (gated_crf_loss, unfolded))
            constant = outside_constant(image, kernels, radius)
            assert constant.item() > 0.1
            torch.testing.assert_close(ours + constant, usual, rtol=1e-12, atol=0)
            gradients = (torch.autograd.grad(loss, p)[0] for loss in (ours, usual))
            torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-13)

    def test_one_class_everywhere_is_exactly_zero(self) -> None:
        """Trap: the border's constant, 3.5 or so on 8 x 8 pixels."""
        image = random_image(0, (1, 1, 8, 8))
        for p in (constant_labels(), constant_labels().float()):
            assert gated_crf_loss(p, image.to(p.dtype), BILATERAL, 5).item() == 0.0
        assert unfolded(constant_labels(), image, BILATERAL, 5).item() > 1.0

    def test_uniform_is_the_mean_kernel_mass_times_one_minus_its_share(self) -> None:
        image, p = random_image(1), torch.full((2, 4, 6, 5), 0.25, dtype=torch.float64)
        mass = sum(
            kernel(image[b], i, j, BILATERAL)
            for b in range(2)
            for i in np.ndindex(6, 5)
            for j in np.ndindex(6, 5)
            if i != j
        )
        loss = gated_crf_loss(p, image, BILATERAL, 7)
        assert loss.item() == pytest.approx(0.75 * mass / 60, rel=1e-12)

    def test_hard_labels_cost_their_unlike_pairs(self) -> None:
        """Trap: a pair counts twice, once from each end. Three pixels in a row, no intensity."""
        p = terms.one_hot(torch.tensor([[[0, 1, 1]]]), 2).double()
        near, far = math.exp(-1 / 8), math.exp(-4 / 8)
        loss = gated_crf_loss(p, torch.zeros(1, 1, 1, 3).double(), (Kernel(1.0, 2.0, math.inf),), 2)
        assert loss.item() == pytest.approx(2 * (near + far) / 3, rel=1e-12)

    def test_intensities_count_in_units_of_the_image(self) -> None:
        """Trap: sigma = 0.1 belongs to intensities in [0, 1]; in 0 .. 255 it would see edges everywhere."""
        image, p = random_image(2), random_p(2)
        scaled = (Kernel(1.0, 6.0, 25.5),)
        ours, other = (gated_crf_loss(p, x, k, 3) for x, k in ((image, BILATERAL), (255 * image, scaled)))
        torch.testing.assert_close(ours, other)
        assert gated_crf_loss(p, 255 * image, BILATERAL, 3).item() < 0.1 * ours.item()

    @pytest.mark.parametrize("flip", [(2,), (3,), (2, 3)])
    def test_does_not_know_a_direction(self, flip: tuple[int, ...]) -> None:
        p, image = random_p(3), random_image(3)
        turned = gated_crf_loss(p.flip(flip), image.flip(flip), BILATERAL, 3)
        torch.testing.assert_close(turned, gated_crf_loss(p, image, BILATERAL, 3))

    def test_image_by_image_equals_all_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        p, image = random_p(4, (5, 3, 6, 5)), random_image(4, (5, 1, 6, 5))
        whole = pairwise.window_message(p, image, BILATERAL, 3)
        for pixels in (1, 60, 61):  # one image, two, two
            monkeypatch.setattr(pairwise, "PIECE", pixels)
            assert torch.equal(pairwise.window_message(p, image, BILATERAL, 3), whole)


class TestPrecision:
    def test_sure_predictions_lose_no_digits(self) -> None:
        """Trap: the mass of the kernel minus what agrees cancels; here to 1e-6 of the mass in float32."""
        logits = random_p(5, (1, 2, 8, 8)).log() + torch.tensor([14.0, 0.0]).view(1, 2, 1, 1)
        image = random_image(5, (1, 1, 8, 8))
        exact = gated_crf_loss(logits.softmax(1), image, BILATERAL, 5).item()
        single = gated_crf_loss(logits.float().softmax(1), image.float(), BILATERAL, 5).item()
        assert exact < 1e-4
        assert single == pytest.approx(exact, rel=0.03)  # 1 - p has steps of 6e-8, p about 1e-6

    def test_float32_is_near_float64(self) -> None:
        p, image = random_p(6, (2, 4, 16, 16)), random_image(6, (2, 1, 16, 16))
        exact, single = (
            gated_crf_loss(p, image, BILATERAL, 5),
            gated_crf_loss(p.float(), image.float(), BILATERAL, 5),
        )
        assert single.dtype == torch.float32
        assert single.item() == pytest.approx(exact.item(), rel=1e-5)  # 120 additions of 6e-8 each

    @pytest.mark.parametrize("given", [torch.float16, torch.bfloat16])
    def test_half_precision_is_computed_in_float32(self, given: torch.dtype) -> None:
        p, image = random_p(7).to(given), random_image(7).float()
        loss = gated_crf_loss(p, image, BILATERAL, 3)
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, gated_crf_loss(p.float(), image, BILATERAL, 3))


class TestGradient:
    @pytest.mark.parametrize("kernels", KERNELS)
    def test_of_the_logits(self, kernels: Sequence[Kernel]) -> None:
        """Through the softmax: p alone may not leave the sums of 1 that the value relies on."""
        logits, image = random_p(8).log().requires_grad_(), random_image(8)
        loss = lambda a: gated_crf_loss(a.softmax(1), image, kernels, 2)  # noqa: E731
        assert torch.autograd.gradcheck(loss, (logits,))

    def test_flows_through_both_ends_and_not_into_the_kernel(self) -> None:
        """Trap: through one end only it would be -m, half of it."""
        p, image = random_p(9).requires_grad_(), random_image(9).requires_grad_()
        loss = gated_crf_loss(p, image, BILATERAL, 3)
        message = pairwise.window_message(p, image, BILATERAL, 3)
        torch.testing.assert_close(torch.autograd.grad(loss, p, retain_graph=True)[0], -2 * message / 60)
        assert torch.autograd.grad(loss, image, allow_unused=True) == (None,)

    def test_keeps_one_tensor_for_backward(self) -> None:
        kept: list[Tensor] = []
        p, image = random_p(10).requires_grad_(), random_image(10)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
            gated_crf_loss(p, image, BILATERAL, 3)
        assert [t.shape for t in kept if t.ndim] == [p.shape]


def losses(method: GatedCrf, batch: Batch, progress: float = 1.0) -> tuple[TinyNetwork, Terms]:
    net = TinyNetwork()
    return net, method.losses(net, batch, method.init(net), progress)


class TestMethod:
    def test_searches_what_methods_md_searches(self) -> None:
        assert list(space_of(GatedCrf)) == [
            "crf_weight",
            "sigma_xy",
            "sigma_intensity",
            "radius",
            "warm_up",
        ]
        method = GatedCrf()
        assert (method.crf_weight, method.sigma_xy, method.sigma_intensity, method.radius) == (0.1, 6, 0.1, 5)

    def test_total_is_the_weighted_sum(self) -> None:
        _, out = losses(GatedCrf(crf_weight=0.3), a_batch())
        expected = out["partial_cross_entropy"] + 0.3 * out["gated_crf"]
        torch.testing.assert_close(out["total"], expected)
        assert out["gated_crf"].item() > 0

    def test_ramps_as_a_fraction_of_the_training(self) -> None:
        """Trap: a ramp in iterations never ends in a short trial."""
        for progress, share in ((0.0, math.exp(-5)), (0.2, math.exp(-1.25)), (0.4, 1.0), (0.9, 1.0)):
            _, out = losses(GatedCrf(crf_weight=1.0, warm_up=0.4), a_batch(), progress)
            expected = out["partial_cross_entropy"] + share * out["gated_crf"]
            torch.testing.assert_close(out["total"], expected)

    def test_without_its_weight_is_the_partial_cross_entropy(self) -> None:
        _, out = losses(GatedCrf(crf_weight=0.0), a_batch())
        assert set(out) == {"total", "partial_cross_entropy"}
        assert out["total"].item() == out["partial_cross_entropy"].item()

    def test_spatial_kernel_adds_its_own_loss(self) -> None:
        batch = a_batch()
        net, plain = losses(GatedCrf(), batch)
        _, both = losses(GatedCrf(spatial_weight=2.0, spatial_sigma=3.0), batch)
        p = terms.probabilities(net(batch.image_BCHW).logits_BKHW)
        alone = gated_crf_loss(p, batch.image_BCHW, (Kernel(2.0, 3.0, math.inf),), 5)
        torch.testing.assert_close(both["gated_crf"], plain["gated_crf"] + alone)

    def test_images_without_a_label_teach(self) -> None:
        assert GatedCrf.learns_from_unlabelled
        net, out = losses(GatedCrf(), without_labels(a_batch()))
        assert out["partial_cross_entropy"].item() == 0.0
        gradients = torch.autograd.grad(out["total"], list(net.classifier.parameters()))
        assert max(float(g.abs().max()) for g in gradients) > 1e-4

    def test_two_kernels_compile(self) -> None:
        with plain_methods() as load:
            method, net = load("gated_crf")(spatial_weight=1.0, radius=2, warm_up=0.5), TinyNetwork()
            state, batch = method.init(net), a_batch()
            torch.compiler.reset()
            compiled = torch.compile(method.losses, fullgraph=True, backend="aot_eager")
            graph, eager = (f(net, batch, state, 0.2)["total"] for f in (compiled, method.losses))
            torch.testing.assert_close(graph, eager)

    def test_smooths_a_noisy_labelling_up_to_the_edge(self) -> None:
        """Descent on the loss alone: votes within a region of like intensity win, across the edge not."""
        truth = torch.zeros(1, 12, 12, dtype=torch.long)
        truth[:, :, 6:] = 1
        noisy = truth ^ (torch.rand(truth.shape, generator=torch.Generator().manual_seed(0)) < 0.2).long()
        logits = (2.0 * terms.one_hot(noisy, 2).double()).requires_grad_()
        for _ in range(60):
            loss = gated_crf_loss(logits.softmax(1), 0.5 * truth[:, None].double(), BILATERAL, 5)
            (gradient,) = torch.autograd.grad(loss, logits)
            logits = (logits - 5 * gradient).detach().requires_grad_()
        assert (noisy != truth).sum().item() > 15
        assert torch.equal(logits.argmax(1), truth)
