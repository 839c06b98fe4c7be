"""Contrastive variance: the values of methods.md 3.6, a float64 loop over all pairs, the method's terms."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from torch import Tensor

from tests.tiny import TinyNetwork, a_batch, mapped, plain_methods, without_labels
from trainables import terms
from trainables.method import IGNORE, Batch
from trainables.methods import contrastive_variance as c

CHOICES = {
    "background": ("both", "negative_only", "none"),
    "absent": ("exclude", "include"),
    "negatives": ("published", "with_same_image", "with_same_class"),
    "detach": ("none", "centroid", "negatives"),
}


def random_case(seed: int, b: int = 4, k: int = 3, present: float = 0.7) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [b,k,4,5] and images [b,1,4,5] in float64, and which classes the images have."""
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(b, k, 4, 5, dtype=torch.float64, generator=g)
    image = torch.rand(b, 1, 4, 5, dtype=torch.float64, generator=g)
    present_BK = torch.rand(b, k, generator=g) < present
    return logits.requires_grad_(), image, present_BK


def slow_maps(p: Tensor, image: Tensor, detach: str) -> list[list[Tensor]]:
    """z[n][k], flat."""
    maps = []
    for p_K, x in zip(p, image, strict=True):
        means = [(x[0] * q).sum() / q.sum() for q in p_K]
        means = [m.detach() for m in means] if detach == "centroid" else means
        maps.append([((x[0] - m) ** 2 * q).flatten() for m, q in zip(means, p_K, strict=True)])
    return maps


def is_negative(n: int, k: int, i: int, j: int, m: int, present: Tensor, choices: dict[str, str]) -> bool:
    if choices["absent"] == "exclude" and not present[i, j]:
        return False
    if choices["background"] == "none" and j == 0:
        return False
    if choices["negatives"] == "with_same_image" and i == n:
        return j != k
    if choices["negatives"] == "with_same_class" and j == k:
        return i not in (n, m)
    return i != n and j != k


def slow_loss(
    p: Tensor, image: Tensor, present: Tensor, positive: Tensor, tau: float, **given: str
) -> dict[tuple[int, int], Tensor]:
    """l of every anchor, each pair on its own."""
    choices = {name: options[0] for name, options in CHOICES.items()} | given
    z = slow_maps(p, image, choices["detach"])
    b, k = present.shape
    out = {}
    for n, own in itertools.product(range(b), range(k)):
        m = int(positive[n, own])
        if not present[n, own] or m == n or (own == 0 and choices["background"] != "both"):
            continue
        top = torch.exp(torch.cosine_similarity(z[n][own], z[m][own], 0, eps=0.0) / tau)
        bottom = top
        for i, j in itertools.product(range(b), range(k)):
            if is_negative(n, own, i, j, m, present, choices):
                other = z[i][j].detach() if choices["detach"] == "negatives" else z[i][j]
                bottom = bottom + torch.exp(torch.cosine_similarity(z[n][own], other, 0, eps=0.0) / tau)
        out[n, own] = -torch.log(top / bottom)
    return out


def hand_example() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    image = torch.tensor([[0, 0.5, 1, 0.25], [0.2, 0.4, 0.9, 0.1]], dtype=torch.float64).view(2, 1, 2, 2)
    p = torch.tensor([[0.2, 0.6, 0.9, 0.3], [0.1, 0.4, 0.8, 0.3]], dtype=torch.float64).view(2, 1, 2, 2)
    everything = torch.ones(2, 2, dtype=torch.bool)
    return torch.cat([1 - p, p], 1), image, everything, c.draw_positives(everything)


class TestByHand:
    def test_cosines(self) -> None:
        p, image, *_ = hand_example()
        cos = c.cosines(terms.variance_maps(p, image))
        pairs = [cos[0, 0, 1, 0], cos[0, 0, 1, 1], cos[0, 1, 1, 0], cos[0, 1, 1, 1]]
        assert [v.item() for v in pairs] == pytest.approx([0.7827, 0.6732, 0.8750, 0.8583], abs=5e-5)

    @pytest.mark.parametrize(("tau", "total"), [(0.07, 2.635455), (0.5, 2.614623), (1.0, 2.686775)])
    def test_loss(self, tau: float, total: float) -> None:
        nat, is_anchor = c.contrastive_variance(*hand_example(), temperature=tau)
        assert is_anchor.all()
        assert nat.sum().item() == pytest.approx(total, abs=2e-6)
        if tau == 0.07:
            expected = [0.190038, 0.820273, 1.556461, 0.068682]
            assert nat.flatten().tolist() == pytest.approx(expected, abs=1e-6)


class TestEqualsTheLoop:
    @pytest.mark.parametrize(
        "choices",
        [{}, *({name: v} for name, options in CHOICES.items() for v in options[1:])],
        ids=lambda choices: "-".join(choices.values()) or "published",
    )
    @pytest.mark.parametrize(("b", "k"), [(4, 3), (3, 2)])
    def test_value_and_gradient(self, choices: dict[str, str], b: int, k: int) -> None:
        logits, image, present = random_case(b, b, k)
        present[1:, 1] = False  # class 1 is in one image alone: its anchors vanish
        present[0] = present[:, 0] = True
        torch.manual_seed(0)
        positive = c.draw_positives(present)
        p = logits.softmax(1)
        nat, is_anchor = c.contrastive_variance(p, image, present, positive, temperature=0.1, **choices)
        slow = slow_loss(p, image, present, positive, 0.1, **choices)
        assert {tuple(where) for where in is_anchor.nonzero().tolist()} == slow.keys()
        assert (0, 1) not in slow
        if not slow:
            assert (k, choices.get("background", "both")) != (2, "both")
            assert nat.sum() == 0
            return
        for where, value in slow.items():
            assert nat[where].item() == pytest.approx(value.item(), rel=1e-10, abs=1e-12)
        fast_gradient, slow_gradient = (
            torch.autograd.grad(total, logits, retain_graph=True)[0]
            for total in (nat.sum(), torch.stack(list(slow.values())).sum())
        )
        torch.testing.assert_close(fast_gradient, slow_gradient, rtol=1e-9, atol=1e-11)

    def test_gradcheck(self) -> None:
        logits, image, present = random_case(5)
        positive = c.draw_positives(present)

        def loss(a: Tensor) -> Tensor:
            return c.contrastive_variance(a.softmax(1), image, present, positive, temperature=0.3)[0]

        assert loss(logits).any()
        assert torch.autograd.gradcheck(loss, (logits,))

    def test_the_centroid_s_gradient_matters(self) -> None:
        """It vanishes in the Mumford-Shah loss, not here: methods.md has 0.37 on one random case."""
        logits, image, present = random_case(6, present=1.0)
        positive = c.draw_positives(present)
        gradients = []
        for detach in ("none", "centroid"):
            nat = c.contrastive_variance(
                logits.softmax(1), image, present, positive, temperature=0.07, detach=detach
            )[0]
            gradients.append(torch.autograd.grad(nat.sum(), logits)[0])
        assert (gradients[0] - gradients[1]).norm() > 0.05 * gradients[0].norm()


class TestPositives:
    def test_are_other_images_with_the_class_each_as_often(self) -> None:
        present = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]], dtype=torch.bool)
        torch.manual_seed(0)
        draws = torch.stack([c.draw_positives(present) for _ in range(600)])
        for n, k in itertools.product(range(4), range(3)):
            allowed = [i for i in range(4) if i != n and present[i, k]] or [n]
            counts = torch.bincount(draws[:, n, k], minlength=4)
            assert counts.nonzero().flatten().tolist() == allowed
            # five standard deviations of a share of 1/2 or 1/3 of 600 draws
            assert (counts[allowed] - 600 / len(allowed)).abs().max() <= 5 * math.sqrt(600 / 4)

    def test_follow_torch_s_seed(self) -> None:
        present = torch.ones(12, 4, dtype=torch.bool)
        torch.manual_seed(3)
        first, second = c.draw_positives(present), c.draw_positives(present)
        torch.manual_seed(3)
        assert torch.equal(first, c.draw_positives(present))
        assert not torch.equal(first, second)

    def test_present_are_labelled_classes_and_the_background(self) -> None:
        labels = torch.tensor([[[0, 2]], [[1, IGNORE]], [[IGNORE, IGNORE]]])
        batch = Batch(image_BCHW=torch.zeros(3, 1, 1, 2), labels_BHW=labels)
        assert c.present_classes(batch, 3).int().tolist() == [[1, 0, 1], [1, 1, 0], [1, 0, 0]]

    def test_a_tag_says_that_a_class_is_there_though_nobody_labelled_it(self) -> None:
        labels = torch.full((2, 1, 2), IGNORE)
        tags = {"presence": torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])}
        batch = Batch(image_BCHW=torch.zeros(2, 1, 1, 2), labels_BHW=labels, statistics=tags)
        assert c.present_classes(batch, 3).int().tolist() == [[1, 0, 1], [1, 1, 0]]


class TestMethod:
    def test_total_is_the_formula(self) -> None:
        net, batch = TinyNetwork(), a_batch()
        method = c.ContrastiveVariance(contrastive_weight=0.2, total_variation_weight=1e-4)
        torch.manual_seed(5)
        out = method.losses(net, batch, method.init(net), 0.5)
        logits = net(batch.image_BCHW).logits_BKHW.double()
        present = c.present_classes(batch, 4)
        torch.manual_seed(5)
        slow = slow_loss(logits.softmax(1), batch.image_BCHW, present, c.draw_positives(present), 0.07)
        p = logits.softmax(1)
        length = sum((p.roll(-1, d) - p).narrow(d, 0, 7).abs().sum().item() for d in (2, 3)) / 16
        expected = {
            "partial_cross_entropy": terms.partial_cross_entropy(logits, batch.labels_BHW).item(),
            "contrastive": torch.stack(list(slow.values())).mean().item(),
            "total_variation": length,
        }
        for name, value in expected.items():
            assert out[name].item() == pytest.approx(value, rel=1e-4)  # float32 over tau
        assert out["total"].item() == pytest.approx(
            sum(w * v for w, v in zip((1.0, 0.2, 1e-4), expected.values(), strict=True)), rel=1e-4
        )

    def test_one_click_per_class_makes_sum_and_mean_agree_in_their_ratios(self) -> None:
        """With every class in every image all three counts are B K = 16."""
        net, batch = TinyNetwork(), a_batch()
        labels = torch.full_like(batch.labels_BHW, IGNORE)
        labels[:, 2, :4] = torch.arange(4)
        batch = dataclasses.replace(batch, labels_BHW=labels)
        out = {}
        for reduction in ("mean", "sum"):
            method = c.ContrastiveVariance(reduction=reduction)
            torch.manual_seed(0)
            out[reduction] = method.losses(net, batch, method.init(net), 0.5)
        for name, value in out["mean"].items():
            assert out["sum"][name].item() == pytest.approx(16 * value.item(), rel=1e-5)

    def test_learns_from_an_image_without_labels(self) -> None:
        net, batch = TinyNetwork(), without_labels(a_batch(), slice(0, 1))
        images = batch.image_BCHW.clone().requires_grad_()
        batch = dataclasses.replace(batch, image_BCHW=images)
        method = c.ContrastiveVariance(total_variation_weight=0.0)
        contrastive = method.losses(net, batch, method.init(net), 0.5)["contrastive"]
        (gradient,) = torch.autograd.grad(contrastive, images)
        assert gradient[0].abs().sum() > 0

    def test_without_weights_it_is_the_partial_cross_entropy(self) -> None:
        net, batch = TinyNetwork(), a_batch()
        method = c.ContrastiveVariance(contrastive_weight=0.0, total_variation_weight=0.0)
        out = method.losses(net, batch, method.init(net), 0.5)
        assert out.keys() == {"total", "partial_cross_entropy"}
        expected = terms.partial_cross_entropy(net(batch.image_BCHW).logits_BKHW, batch.labels_BHW)
        assert out["total"].item() == expected.item() > 0

    @pytest.mark.parametrize(
        "values",
        [
            ("negative_only", "include", "with_same_image", "centroid"),
            ("none", "exclude", "with_same_class", "negatives"),
        ],
    )
    def test_every_choice_compiles_and_waits_for_no_value(self, values: tuple[str, ...]) -> None:
        with plain_methods() as load:
            net, batch = TinyNetwork(), a_batch()
            method = load("contrastive_variance")(**dict(zip(CHOICES, values, strict=True)))
            compiled = torch.compile(method.losses, fullgraph=True, backend="aot_eager")
            results = []
            for losses in (compiled, method.losses):
                torch.manual_seed(0)
                results.append(losses(net, batch, method.init(net), 0.5)["total"])
            torch.testing.assert_close(*results)
            on_meta = mapped(batch, lambda t: t.to("meta"))
            assert method.losses(net.to("meta"), on_meta, method.init(net), 0.5)["total"].is_meta
