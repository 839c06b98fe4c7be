"""Mean field: methods.md 3.9 on four pixels, every pair in a loop in float64, labelled pixels that stay."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from tests.reference.test_dense_crf import FACTORED, pairs
from tests.reference.test_gated_crf import random_image, random_p
from tests.reference.test_random_walker import an_organ, random_seeds
from trainables import pairwise, terms
from trainables.mean_field import mean_field, normalised_message
from trainables.method import IGNORE
from trainables.pairwise import Kernel

U = torch.tensor([[0.2, 1], [0.9, 0.3], [0.5, 0.6], [1.2, 0.1]], dtype=torch.float64)
W = torch.tensor(
    [[0, 0.8, 0.5, 0.1], [0.8, 0, 0.1, 0.5], [0.5, 0.1, 0, 0.7], [0.1, 0.5, 0.7, 0]], dtype=torch.float64
)
FIXED_POINT = torch.tensor([0.403275, 0.679479, 0.562258, 0.793687], dtype=torch.float64)
SPATIAL = (Kernel(3.0, 2.0, math.inf),)
BILATERAL = (Kernel(10.0, 4.0, 0.1),)
KERNELS = [SPATIAL, BILATERAL, (*BILATERAL, *SPATIAL)]


def by_matrix(q_BKHW: Tensor) -> Tensor:
    return (q_BKHW.flatten(2) @ W).view_as(q_BKHW)


def as_image(values_VK: Tensor) -> Tensor:
    return values_VK.T.reshape(1, -1, 2, 2)


def nobody(p: Tensor) -> Tensor:
    return torch.full((len(p), *p.shape[2:]), IGNORE)


def weights(image: Tensor, kernels: Sequence[Kernel]) -> Tensor:
    """w [B,V,V] of the definition."""
    w = torch.zeros(())
    for kernel in kernels:
        k_BVV = pairs(image, [kernel._replace(weight=1.0)])
        n_BV = (1.0 + k_BVV.sum(2)).rsqrt()
        w = w + kernel.weight * n_BV.unsqueeze(2) * k_BVV * n_BV.unsqueeze(1)
    return w


def slow(unary: Tensor, labels: Tensor, w_BVV: Tensor, iterations: int) -> Tensor:
    """Pixel by pixel, and pair by pair."""
    classes, (height, width) = unary.shape[1], labels.shape[1:]
    out = []
    for u_KV, label_V, w_VV in zip(unary.flatten(2), labels.flatten(1), w_BVV, strict=True):

        def settled(i: int, scores: Tensor, label_V: Tensor = label_V) -> Tensor:
            if label_V[i] == IGNORE:
                return scores.softmax(0)
            return torch.eye(classes, dtype=torch.float64)[label_V[i]]

        q = [settled(i, -u_KV[:, i]) for i in range(len(label_V))]
        for _ in range(iterations):
            heard = [sum(w_VV[i, j] * q[j] for j in range(len(q)) if j != i) for i in range(len(q))]
            q = [settled(i, heard[i] - u_KV[:, i]) for i in range(len(q))]
        out.append(torch.stack(q, 1).view(classes, height, width))
    return torch.stack(out)


def a_case(shape: tuple[int, int] = (5, 4), classes: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Unary costs, labels of a fifth of the pixels, image."""
    unary = -random_p(0, (2, classes, *shape), scale=2.0).log()
    return unary, random_seeds((2, *shape), classes, 0.2), random_image(0, (2, 1, *shape))


class TestUpdates:
    def test_four_pixels_reach_the_fixed_point(self) -> None:
        """That of updates of one pixel after the other; updates of all at once converge here too."""
        unary = as_image(U)
        q = mean_field(unary, nobody(unary), by_matrix, 40)
        torch.testing.assert_close(q[0, 1].flatten(), FIXED_POINT, rtol=0, atol=1e-6)  # its digits

    def test_first_update_by_hand(self) -> None:
        """Pixel 0: Q(1) = 1 / (1 + exp(.8)), 1 / (1 + exp(-.6)), ... and then the neighbours' say."""
        unary = as_image(U)
        start = [1 / (1 + math.exp(one - zero)) for zero, one in U.tolist()]
        heard = sum(w * (2 * q - 1) for w, q in zip(W[0].tolist(), start, strict=True))
        expected = 1 / (1 + math.exp(0.8 - heard))
        begun, once = (mean_field(unary, nobody(unary), by_matrix, n) for n in (0, 1))
        assert begun[0, 1].flatten().tolist() == pytest.approx(start, rel=1e-12)
        assert once[0, 1, 0, 0].item() == pytest.approx(expected, rel=1e-12)

    @pytest.mark.parametrize("iterations", [0, 1, 3])
    def test_equals_the_loop_with_labels_known_all_the_while(self, iterations: int) -> None:
        unary, labels, image = a_case()
        w = weights(image, SPATIAL)
        message = lambda q: (q.flatten(2) @ w).view_as(q)  # noqa: E731
        q = mean_field(unary, labels, message, iterations)
        torch.testing.assert_close(q, slow(unary, labels, w, iterations), rtol=0, atol=1e-12)

    def test_labelled_pixels_keep_their_class_whatever_all_others_say(self) -> None:
        """Trap: over-smoothing removes structures of a few pixels; what somebody clicked must stay."""
        unary = torch.tensor([0.01, 5.0]).view(1, 2, 1, 1).repeat(1, 1, 15, 15)
        unary[0, :, 7, 7] = unary[0, :, 3, 3] = torch.tensor([5.0, 0.01])  # two specks of class 1
        labels = nobody(unary)
        labels[0, 7, 7] = 1
        message = normalised_message(torch.full((1, 1, 15, 15), 0.5), KERNELS[2])
        for iterations in (0, 1, 5):
            q = mean_field(unary, labels, message, iterations)
            assert q[0, :, 7, 7].tolist() == [0.0, 1.0]
        found = q.argmax(1)[0]
        assert found.sum() == found[7, 7] == 1  # the speck that nobody clicked is gone

    def test_a_click_is_heard_by_like_neighbours(self) -> None:
        """Clamped in every update, not in the result alone."""
        unary, labels = torch.full((1, 2, 1, 3), math.log(2.0)), torch.tensor([[[IGNORE, 1, IGNORE]]])
        message = normalised_message(torch.full((1, 1, 1, 3), 0.5), SPATIAL)
        q = mean_field(unary, labels, message, 1)
        assert q[0, 1, 0, 0] == q[0, 1, 0, 2] > 0.6

    def test_classes_have_no_order(self) -> None:
        unary, labels, image = a_case(classes=4)
        order = torch.tensor([2, 0, 3, 1])  # class c is called order[c]
        renamed = torch.where(labels == IGNORE, IGNORE, order[labels.clamp(max=3)])
        message = normalised_message(image, KERNELS[2])
        q = mean_field(unary, labels, message, 5)
        other = mean_field(unary[:, order.argsort()], renamed, message, 5)
        torch.testing.assert_close(other[:, order], q, rtol=0, atol=1e-10)
        assert (q - unary.neg().softmax(1)).abs().max() > 0.1

    def test_one_class_everywhere_stays(self) -> None:
        unary = terms.one_hot(torch.ones(1, 6, 5, dtype=torch.int64), 3).float().mul(-50.0)
        q = mean_field(unary, nobody(unary), normalised_message(random_image(1, (1, 1, 6, 5)), KERNELS[2]), 5)
        torch.testing.assert_close(q, terms.one_hot(unary.argmin(1), 3).to(q.dtype), rtol=0, atol=1e-20)

    def test_uncertain_pixels_follow_their_like(self) -> None:
        """Two halves of unlike intensity; a column at the border that the unary cost knows nothing of."""
        image = torch.zeros(1, 1, 8, 8)
        image[..., 4:] = 1.0
        unary = torch.stack([3.0 * image[0, 0], 3.0 * (1 - image[0, 0])]).unsqueeze(0)
        unary[..., 3] = torch.tensor([1.0, 0.5]).view(1, 2, 1)  # would be class 1 by itself
        message = normalised_message(image, BILATERAL)
        q = mean_field(unary, nobody(unary), message, 5)
        assert torch.equal(q.argmax(1), image[:, 0].long())

    def test_standard_kernels_find_a_noisy_organ(self) -> None:
        image, mask = an_organ(48, noise=0.03)
        noise = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(0))
        unary = -(terms.one_hot(mask, 3).float() + noise).log_softmax(1)
        kernels = (Kernel(10.0, 0.16 * 48, 13 / 255), Kernel(3.0, 3.0, math.inf))
        before, after = (
            (mean_field(unary, nobody(unary), normalised_message(image, kernels), n).argmax(1) == mask)
            for n in (0, 5)
        )
        assert before.float().mean() < 0.7
        assert after.float().mean() > 0.97

    @pytest.mark.parametrize("given", [torch.float16, torch.bfloat16, torch.float32])
    def test_computes_in_float32_under_autocast(self, given: torch.dtype) -> None:
        unary, labels, image = a_case((12, 12))
        unary, image = unary.to(given), image.float()
        plain = mean_field(unary.float(), labels, normalised_message(image, KERNELS[2]), 5)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            q = mean_field(unary, labels, normalised_message(image, KERNELS[2]), 5)
        assert q.dtype == torch.float32
        torch.testing.assert_close(q, plain, rtol=0, atol=1e-5)  # bfloat16 would be off by 1e-2

    def test_has_no_gradient(self) -> None:
        unary, labels, image = a_case()
        q = mean_field(unary.requires_grad_(), labels, normalised_message(image.requires_grad_(), SPATIAL), 2)
        assert not q.requires_grad


class TestNormalisedMessage:
    @pytest.mark.parametrize("kernels", KERNELS)
    @pytest.mark.parametrize("shape", [(9, 8), (1, 12), (12, 1)])
    def test_is_the_matrix_product(self, kernels: Sequence[Kernel], shape: tuple[int, int]) -> None:
        p, image = random_p(2, (2, 3, *shape)), random_image(2, (2, 1, *shape))
        expected = (p.flatten(2) @ weights(image, kernels)).view_as(p)
        # Each k and both n are off by 3e-4 of themselves, a half of it in a root; and k(i, i) is taken for 1.
        bound = 3 * FACTORED * (expected + sum(k.weight for k in kernels))
        assert ((normalised_message(image, kernels)(p) - expected).abs() <= bound).all()
        if kernels is SPATIAL:
            torch.testing.assert_close(normalised_message(image, kernels)(p), expected, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("kernels", KERNELS)
    def test_refines_as_the_loop_does(self, kernels: Sequence[Kernel]) -> None:
        unary, labels, image = a_case()
        q = mean_field(unary, labels, normalised_message(image, kernels), 5)
        expected = slow(unary, labels, weights(image, kernels), 5)
        # A message is off by some 3e-4 of at most 13 nat, and Q by at most a quarter of that.
        torch.testing.assert_close(q, expected, rtol=0, atol=1e-3 if BILATERAL[0] in kernels else 1e-12)

    def test_weights_are_symmetric(self) -> None:
        image = random_image(3, (1, 1, 4, 3))
        message = normalised_message(image, KERNELS[2])
        dots = torch.eye(12, dtype=torch.float64).view(12, 4, 3)
        rows = [message(torch.stack([1 - dot, dot]).unsqueeze(0))[0, 1].flatten() for dot in dots]
        w_VV = torch.stack(rows)
        torch.testing.assert_close(w_VV, w_VV.T, rtol=0, atol=1e-12)
        assert (w_VV > 0.01).any()

    def test_says_about_the_weight_however_many_pixels_are_alike(self) -> None:
        """Trap: the sum of a wide kernel that nobody normalised would be hundreds of its weight."""
        for size in (24, 48):
            q = torch.full((1, 2, size, size), 0.5)
            said = normalised_message(torch.full((1, 1, size, size), 0.3), (Kernel(10.0, 6.0, 0.1),))(q)
            middle = said.sum(1)[0, size // 2, size // 2].item()
            assert middle == pytest.approx(10.0, rel=0.15)  # the edge's pixels have less mass

    @pytest.mark.parametrize("kernels", KERNELS)
    def test_a_pixel_without_others_hears_nothing(self, kernels: Sequence[Kernel]) -> None:
        """Trap: 0 / 0 where a kernel has no mass. Once the only pixel, once the only one of its intensity."""
        alone = torch.full((1, 2, 1, 1), 0.5)
        said = normalised_message(torch.full((1, 1, 1, 1), 0.7), kernels)(alone)
        assert (said.abs() <= 10.0 * FACTORED).all()
        lonely = [k._replace(sigma_xy=0.05) for k in kernels]
        said = normalised_message(random_image(4, (1, 1, 5, 5)), lonely)(random_p(4, (1, 2, 5, 5)))
        assert (said.abs() <= 20.0 * FACTORED).all()

    def test_kernels_of_no_weight_add_nothing(self) -> None:
        image, q = random_image(5), random_p(5)
        none = [k._replace(weight=0.0) for k in KERNELS[2]]
        assert torch.equal(normalised_message(image, none)(q), torch.zeros_like(q))
        one = normalised_message(image, (none[0], *SPATIAL))(q)
        assert torch.equal(one, normalised_message(image, SPATIAL)(q))

    def test_image_by_image_equals_all_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        q, image = random_p(6, (5, 3, 6, 5)), random_image(6, (5, 1, 6, 5))
        whole = normalised_message(image, KERNELS[2])(q)
        monkeypatch.setattr(pairwise, "PIECE", 60)
        torch.testing.assert_close(normalised_message(image, KERNELS[2])(q), whole, rtol=0, atol=1e-12)

    def test_wants_grey_images(self) -> None:
        with pytest.raises(ValueError, match="3 channels"):
            normalised_message(random_image(7, (2, 3, 6, 5)), BILATERAL)
