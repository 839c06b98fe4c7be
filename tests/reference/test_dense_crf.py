"""Dense CRF loss: methods.md 3.8, every pair of pixels as one matrix in float64, and the Potts energy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from search_spaces import space_of
from tests.reference.test_gated_crf import constant_labels, random_image, random_p
from tests.tiny import TinyNetwork, a_batch, plain_methods, without_labels
from trainables import pairwise, terms
from trainables.bilateral import dense_crf_loss, dense_message
from trainables.method import Batch, Terms
from trainables.methods.dense_crf import DenseCrf
from trainables.pairwise import Kernel

WIDE = (Kernel(1.0, 4.0, 0.059),)
KERNELS = [WIDE, (Kernel(1.0, 1.6, 0.02),), (Kernel(0.6, 9.0, 0.3), Kernel(2.0, 3.0, math.inf))]
EXACT = (Kernel(1.0, 2.0, math.inf),)
FACTORED = 3e-4
"""Error of a factored Gaussian: 1.03e-4 along each of three axes; the tails add 3e-5 at the ends."""


def pairs(image_BCHW: Tensor, kernels: Sequence[Kernel]) -> Tensor:
    """W [B,V,V] in float64 with zeros on the diagonal."""
    height, width = image_BCHW.shape[2:]
    place = torch.cartesian_prod(torch.arange(height), torch.arange(width)).double().unsqueeze(0)
    tone = image_BCHW.double().flatten(2).mT
    far, unlike = ((f.unsqueeze(1) - f.unsqueeze(2)).square().sum(-1) for f in (place, tone))
    w = sum(
        k.weight * (-far / (2 * k.sigma_xy**2) - unlike / (2 * k.sigma_intensity**2)).exp() for k in kernels
    )
    assert isinstance(w, Tensor)
    return w.masked_fill(torch.eye(height * width, dtype=torch.bool), 0.0)


def exact_loss(p: Tensor, image: Tensor, kernels: Sequence[Kernel]) -> Tensor:
    """The definition, by sum_c p_c' W (1 - p_c); differentiable in p."""
    w_BVV, p_BKV = pairs(image, kernels), p.double().flatten(2)
    energy = torch.einsum("bkv,bvw,bkw->b", p_BKV, w_BVV, 1 - p_BKV)
    return (energy / w_BVV.sum((1, 2))).mean()


class TestMessage:
    @pytest.mark.parametrize("kernels", KERNELS)
    @pytest.mark.parametrize("shape", [(12, 12), (7, 20), (1, 9), (16, 1)])
    def test_is_the_matrix_product(self, kernels: Sequence[Kernel], shape: tuple[int, int]) -> None:
        p, image = random_p(0, (2, 3, *shape)), random_image(0, (2, 1, *shape))
        expected = (pairs(image, kernels) @ p.flatten(2).mT).mT.unflatten(2, shape)
        bound = FACTORED * (
            expected + sum(k.weight for k in kernels)
        )  # with the pixel itself, taken out after
        assert ((dense_message(p, image, kernels) - expected).abs() <= bound).all()

    def test_of_the_distance_alone_is_exact(self) -> None:
        p, image = random_p(1), random_image(1)
        expected = (pairs(image, EXACT) @ p.flatten(2).mT).mT.unflatten(2, (6, 5))
        torch.testing.assert_close(dense_message(p, image, EXACT), expected, rtol=1e-12, atol=1e-13)

    def test_far_pixels_say_nothing_instead_of_denormal_numbers(self) -> None:
        dot = torch.zeros(1, 1, 1, 60)
        dot[..., 0] = 1.0
        said = dense_message(dot, torch.zeros(1, 1, 1, 60), (Kernel(1.0, 3.0, math.inf),)).flatten()
        assert said[18].item() == pytest.approx(math.exp(-18.0), rel=1e-5)
        assert (said[19:] == 0.0).all()

    @pytest.mark.parametrize("extreme", [0.0, 1.0])
    def test_is_as_near_at_the_ends_of_the_range(self, extreme: float) -> None:
        p, image = random_p(2), torch.full((2, 1, 6, 5), extreme, dtype=torch.float64)
        expected = (pairs(image, WIDE) @ p.flatten(2).mT).mT.unflatten(2, (6, 5))
        torch.testing.assert_close(dense_message(p, image, WIDE), expected, rtol=2 * FACTORED, atol=FACTORED)

    def test_image_by_image_equals_all_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        p, image = random_p(3, (5, 3, 6, 5)), random_image(3, (5, 1, 6, 5))
        whole = dense_message(p, image, KERNELS[2])
        monkeypatch.setattr(pairwise, "PIECE", 60)
        torch.testing.assert_close(dense_message(p, image, KERNELS[2]), whole, rtol=1e-12, atol=1e-14)

    def test_wants_grey_images(self) -> None:
        with pytest.raises(ValueError, match="3 channels"):
            dense_message(random_p(4), random_image(4, (2, 3, 6, 5)), WIDE)


class TestLoss:
    @pytest.mark.parametrize("kernels", KERNELS)
    def test_equals_the_definition_with_its_gradient(self, kernels: Sequence[Kernel]) -> None:
        p, image = random_p(5, (2, 3, 9, 8)).requires_grad_(), random_image(5, (2, 1, 9, 8))
        ours, slow = dense_crf_loss(p, image, kernels), exact_loss(p, image, kernels)
        assert ours.item() == pytest.approx(slow.item(), rel=2 * FACTORED)  # numerator and mass
        ours_p, slow_p = (torch.autograd.grad(loss, p)[0] for loss in (ours, slow))
        # The two differ by what is the same for all classes, which no softmax lets through.
        centred = [g - g.mean(1, keepdim=True) for g in (ours_p, slow_p)]
        torch.testing.assert_close(*centred, rtol=0.0, atol=3 * FACTORED * float(slow_p.abs().max()))

    def test_both_forms_of_the_energy_are_equal(self) -> None:
        """sum_c p_c' W (1 - p_c) = 1' W 1 - sum_c p_c' W p_c, because p sums to 1."""
        p, image = random_p(6), random_image(6)
        w_BVV, p_BKV = pairs(image, EXACT), p.flatten(2)
        other = w_BVV.sum((1, 2)) - torch.einsum("bkv,bvw,bkw->b", p_BKV, w_BVV, p_BKV)
        energy = pairwise.potts_energy(p, dense_message(p, image, EXACT))
        torch.testing.assert_close(energy, other, rtol=1e-12, atol=0)

    def test_hard_labels_cost_the_potts_energy(self) -> None:
        """All 3^4 labellings of 2 x 2 pixels; each unordered pair counts twice."""
        image = torch.tensor([0.1, 0.15, 0.8, 0.2], dtype=torch.float64).view(1, 1, 2, 2)
        w_VV = pairs(image, EXACT)[0]
        for labelling in itertools.product(range(3), repeat=4):
            p = terms.one_hot(torch.tensor(labelling).view(1, 2, 2), 3).double()
            unlike = [2 * float(w_VV[i, j]) for i, j in itertools.combinations(range(4), 2)
                      if labelling[i] != labelling[j]]  # fmt: skip
            energy = pairwise.potts_energy(p, dense_message(p, image, EXACT))
            assert energy.item() == pytest.approx(sum(unlike), rel=1e-12)

    @pytest.mark.parametrize("kernels", KERNELS)
    def test_one_class_everywhere_is_exactly_zero(self, kernels: Sequence[Kernel]) -> None:
        image = random_image(7, (1, 1, 8, 8))
        assert dense_crf_loss(constant_labels().float(), image.float(), kernels).item() == 0.0

    @pytest.mark.parametrize("num_classes", [2, 5])
    def test_uniform_is_one_minus_its_share(self, num_classes: int) -> None:
        p = torch.full((1, num_classes, 8, 8), 1 / num_classes)
        loss = dense_crf_loss(p, random_image(8, (1, 1, 8, 8)).float(), WIDE)
        assert loss.item() == pytest.approx(1 - 1 / num_classes, rel=1e-5)  # float32

    def test_pixels_are_no_neighbours_of_their_own(self) -> None:
        """Trap: with k(i, i) = 1 a lonely soft pixel would cost 1 - p.p."""
        lonely = (Kernel(1.0, 0.05, math.inf),)
        assert dense_crf_loss(random_p(9), random_image(9), lonely).item() == 0.0

    def test_weight_means_the_same_at_any_size(self) -> None:
        """Trap: the published 2e-9 belongs to a sum over 257^2 pixels, which grows with the fourth power."""
        p, image = random_p(10, (1, 2, 8, 8)), random_image(10, (1, 1, 8, 8))
        large = [t.repeat_interleave(3, 2).repeat_interleave(3, 3) for t in (p, image)]
        kernels = [(Kernel(1.0, 2.0 * zoom, 0.2),) for zoom in (1, 3)]
        small_loss, large_loss = dense_crf_loss(p, image, kernels[0]), dense_crf_loss(*large, kernels[1])
        assert large_loss.item() == pytest.approx(small_loss.item(), rel=0.1)  # the pairs within a pixel
        energies = [
            pairwise.potts_energy(q, dense_message(q, x, k)).item()
            for q, x, k in ((p, image, kernels[0]), (*large, kernels[1]))
        ]
        assert energies[1] > 50 * energies[0]

    def test_each_image_counts_the_same(self) -> None:
        p, image = random_p(11), random_image(11)
        image[1] *= 0.1  # all alike: more mass
        each = [dense_crf_loss(p[b : b + 1], image[b : b + 1], WIDE) for b in range(2)]
        torch.testing.assert_close(dense_crf_loss(p, image, WIDE), torch.stack(each).mean())

    @pytest.mark.parametrize("kernels", [EXACT, WIDE])
    def test_gradient_of_the_logits(self, kernels: Sequence[Kernel]) -> None:
        logits, image = random_p(12).log().requires_grad_(), random_image(12)
        loss = lambda a: dense_crf_loss(a.softmax(1), image, kernels)  # noqa: E731
        # The mass is a constant of p up to the rounding of its sum; the factored k is symmetric.
        assert torch.autograd.gradcheck(loss, (logits,))

    @pytest.mark.parametrize("given", [torch.float16, torch.bfloat16, torch.float32])
    def test_matrix_products_keep_float32_under_autocast(self, given: torch.dtype) -> None:
        p, image = random_p(13, (1, 3, 12, 12)).to(given), random_image(13, (1, 1, 12, 12)).float()
        plain = dense_crf_loss(p.float(), image, WIDE)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = dense_crf_loss(p, image, WIDE)
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, plain, rtol=1e-5, atol=0)  # bfloat16 would be off by 4e-3

    def test_keeps_little_for_backward(self) -> None:
        kept: list[Tensor] = []
        p, image = random_p(14).requires_grad_(), random_image(14)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
            dense_crf_loss(p, image, WIDE)
        assert sum(t.numel() for t in kept) < 1.2 * p.numel()


def losses(method: DenseCrf, batch: Batch, progress: float = 1.0) -> tuple[TinyNetwork, Terms]:
    net = TinyNetwork()
    return net, method.losses(net, batch, method.init(net), progress)


class TestMethod:
    def test_searched_and_published(self) -> None:
        assert list(space_of(DenseCrf)) == ["crf_weight", "sigma_xy", "sigma_intensity", "start"]
        assert DenseCrf().sigma_xy * 513 == pytest.approx(100)
        assert DenseCrf().sigma_intensity * 255 == pytest.approx(15)

    def test_total_is_the_weighted_sum_once_the_second_phase_has_begun(self) -> None:
        method = DenseCrf(crf_weight=0.3, start=0.4)
        for progress, weight in ((0.0, 0.0), (0.39, 0.0), (0.4, 0.3), (1.0, 0.3)):
            _, out = losses(method, a_batch(), progress)
            expected = out["partial_cross_entropy"] + weight * out["dense_crf"]
            torch.testing.assert_close(out["total"], expected)
            assert out["dense_crf"].item() > 0

    def test_without_its_weight_is_the_partial_cross_entropy(self) -> None:
        _, out = losses(DenseCrf(crf_weight=0.0), a_batch())
        assert set(out) == {"total", "partial_cross_entropy"}

    def test_width_of_the_kernel_follows_the_image(self) -> None:
        batch = a_batch(size=16)
        net, out = losses(DenseCrf(sigma_xy=0.25, spatial_weight=2.0, spatial_sigma=1.5), batch)
        p = terms.probabilities(net(batch.image_BCHW).logits_BKHW)
        kernels = (Kernel(1.0, 4.0, 15 / 255), Kernel(2.0, 1.5, math.inf))
        expected = exact_loss(p, batch.image_BCHW, kernels)
        assert out["dense_crf"].item() == pytest.approx(expected.item(), rel=2 * FACTORED)

    def test_images_without_a_label_teach(self) -> None:
        assert DenseCrf.learns_from_unlabelled
        net, out = losses(DenseCrf(), without_labels(a_batch()))
        gradients = torch.autograd.grad(out["total"], list(net.classifier.parameters()))
        assert max(float(g.abs().max()) for g in gradients) > 1e-4

    def test_both_phases_compile(self) -> None:
        with plain_methods() as load:
            method, net = load("dense_crf")(spatial_weight=1.0), TinyNetwork()
            state, batch = method.init(net), a_batch()
            torch.compiler.reset()
            compiled = torch.compile(method.losses, fullgraph=True, backend="aot_eager")
            for progress in (0.2, 0.6):
                graph, eager = (f(net, batch, state, progress)["total"] for f in (compiled, method.losses))
                torch.testing.assert_close(graph, eager)
