"""Total variation: both forms by hand and pixel by pixel, and the two bugs that methods.md 3.5 names."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.reference.test_region_terms import slow_length
from tests.tiny import TinyNetwork, a_batch, plain_methods, without_labels
from trainables import terms
from trainables.methods.total_variation import TotalVariation, contour, outline

FORMS = ("contour", "anisotropic")


def square(side: int = 5, row: int = 2, column: int = 3, size: int = 10) -> Tensor:
    """Hard probabilities [1,2,size,size] of a square in the background."""
    labels = torch.zeros(1, size, size, dtype=torch.long)
    labels[0, row : row + side, column : column + side] = 1
    return terms.one_hot(labels, 2).double()


def random_p(seed: int, num_classes: int = 3) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(2, num_classes, 4, 6, dtype=torch.float64, generator=g).softmax(1)


def slow_contour(p_HW: Tensor) -> list[list[float]]:
    def around(values: list[list[float]], r: int, c: int) -> list[float]:
        rows = values[max(r - 1, 0) : r + 2]
        return [v for row in rows for v in row[max(c - 1, 0) : c + 2]]

    def each(values: list[list[float]], choose: Callable[[list[float]], float]) -> list[list[float]]:
        return [[choose(around(values, r, c)) for c in range(len(values[0]))] for r in range(len(values))]

    eroded = each(p_HW.tolist(), min)
    opened = each(eroded, max)
    return [
        [max(0.0, o - e) for o, e in zip(*rows, strict=True)] for rows in zip(opened, eroded, strict=True)
    ]


class TestByHand:
    def test_contour_of_a_square_is_its_inner_rim(self) -> None:
        rim = contour(square())[0, 1]
        expected = square()[0, 1] - square(3, 3, 4)[0, 1]
        assert torch.equal(rim, expected)
        assert rim.sum().item() == 16

    def test_anisotropic_of_a_square_is_its_outline_per_pixel(self) -> None:
        assert outline(square(3)[:, 1:], "anisotropic").item() == pytest.approx(12 / 100, rel=1e-12)
        assert outline(square(3), "anisotropic").item() == pytest.approx(24 / 2 / 100, rel=1e-12)

    def test_what_is_thinner_than_the_window_has_no_contour_but_a_length(self) -> None:
        line = torch.zeros(1, 1, 7, 7)
        line[:, :, 3:5] = 1.0
        assert outline(line, "contour").item() == 0.0
        assert outline(line, "anisotropic").item() == pytest.approx(14 / 49)

    @pytest.mark.parametrize("form", FORMS)
    def test_the_border_of_the_image_is_no_rim(self, form: str) -> None:
        p = torch.tensor([0.2, 0.8]).view(1, 2, 1, 1).repeat(3, 1, 6, 5).requires_grad_()
        loss = outline(p, form)
        (gradient,) = torch.autograd.grad(loss, p)
        assert loss.item() == gradient.sum().item() == 0.0
        corner = outline(square(5, 0, 0)[:, 1:], form).item()
        assert corner == pytest.approx({"contour": 9, "anisotropic": 10}[form] / 100, rel=1e-12)


class TestEqualsPixelByPixel:
    def test_contour(self) -> None:
        p = random_p(0)
        slow = [[slow_contour(p[n, k]) for k in range(3)] for n in range(2)]
        assert torch.equal(contour(p), torch.tensor(slow, dtype=torch.float64))
        assert contour(p).max() > 0.01

    def test_anisotropic(self) -> None:
        p = random_p(1)
        lengths = [slow_length(p[n, k]) for n, k in itertools.product(range(2), range(3))]
        expected = sum(lengths) / 6 / 24
        assert outline(p, "anisotropic").item() == pytest.approx(expected, rel=1e-12)

    @pytest.mark.parametrize("form", FORMS)
    def test_gradients(self, form: str) -> None:
        logits = random_p(2).log().requires_grad_()
        assert torch.autograd.gradcheck(lambda a: outline(a.softmax(1), form), (logits,))

    @pytest.mark.parametrize("form", FORMS)
    def test_a_quarter_turn_changes_nothing(self, form: str) -> None:
        p = random_p(3)
        turned = outline(p.rot90(1, (2, 3)), form)
        assert turned.item() == pytest.approx(outline(p, form).item(), rel=1e-12)


class TestTraps:
    """WSL4MIS slices the batch where it means the classes; PyMIC pools over the classes."""

    @pytest.mark.parametrize("form", FORMS)
    def test_every_image_counts(self, form: str) -> None:
        net, batch = TinyNetwork(), a_batch()
        method = TotalVariation(form=form)
        images = batch.image_BCHW.clone().requires_grad_()
        batch = dataclasses.replace(batch, image_BCHW=images)
        loss = method.losses(net, batch, method.init(net), 0.5)["total_variation"]
        (gradient,) = torch.autograd.grad(loss, images)
        assert (gradient.abs().sum((1, 2, 3)) > 0).all()

    def test_classes_do_not_reach_into_each_other(self) -> None:
        p = random_p(4, num_classes=4)
        changed = p.clone()
        changed[:, 0] = 0.0
        assert torch.equal(contour(changed)[:, 1:], contour(p)[:, 1:])

    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize("classes", ["foreground", "all"])
    def test_the_background_counts_when_all_do(self, form: str, classes: str) -> None:
        net, batch = TinyNetwork(), a_batch()
        method = TotalVariation(form=form, classes=classes)
        p = net(batch.image_BCHW).logits_BKHW.detach().double().softmax(1)
        p = p[:, 1:] if classes == "foreground" else p
        of_images = [
            outline(p[n : n + 1, k : k + 1], form).item() for n in range(4) for k in range(p.shape[1])
        ]
        out = method.losses(net, batch, method.init(net), 0.5)["total_variation"]
        assert out.item() == pytest.approx(sum(of_images) / len(of_images), rel=1e-5)  # float32


class TestMethod:
    @pytest.mark.parametrize(
        ("fraction", "progress", "ramp"),
        [(0.0, 0.0, 1.0), (0.5, 0.0, math.exp(-5)), (0.5, 0.25, math.exp(-1.25)), (0.5, 0.5, 1.0)],
    )
    def test_total_is_the_formula(self, fraction: float, progress: float, ramp: float) -> None:
        net, batch = TinyNetwork(), a_batch()
        method = TotalVariation(total_variation_weight=0.5, ramp_fraction=fraction)
        out = method.losses(net, batch, method.init(net), progress)
        pce = terms.partial_cross_entropy(net(batch.image_BCHW).logits_BKHW, batch.labels_BHW)
        expected = pce.item() + 0.5 * ramp * out["total_variation"].item()
        assert out["total_variation"].item() > 0
        assert out["total"].item() == pytest.approx(expected, rel=1e-6)

    def test_learns_from_images_without_labels(self) -> None:
        net, batch = TinyNetwork(), without_labels(a_batch())
        method = TotalVariation()
        out = method.losses(net, batch, method.init(net), 0.5)
        out["total"].backward()
        assert out["partial_cross_entropy"].item() == 0.0
        assert net.classifier.weight.grad is not None
        assert net.classifier.weight.grad.abs().sum() > 0

    def test_the_anisotropic_form_compiles(self) -> None:
        net, batch = TinyNetwork(), a_batch()
        with plain_methods() as load:
            method = load("total_variation")(form="anisotropic", classes="all")
            compiled = torch.compile(method.losses, fullgraph=True, backend="aot_eager")
            graph, eager = (f(net, batch, method.init(net), 0.5)["total"] for f in (compiled, method.losses))
        torch.testing.assert_close(graph, eager)
