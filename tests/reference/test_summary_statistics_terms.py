"""Summary statistics: overlap, confidence and reconstruction against methods.md 3.30 and slow versions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.reference.test_summary_statistics import (
    FOREGROUND,
    RECONSTRUCTIONS,
    random_image,
    random_p,
    set_up,
    two_classes,
)
from tests.tiny import TinyNetwork
from trainables import terms
from trainables.method import IGNORE
from trainables.methods import summary_statistics as s
from trainables.networks.heads import CoarseLayers, RegionAutoencoders


class TestOverlap:
    @pytest.mark.parametrize(("form", "expected"), [("ce", 0.3080931), ("recall", 0.25)])
    def test_by_hand(self, form: str, expected: float) -> None:
        labels = torch.tensor([[[1, 1], [IGNORE, IGNORE]]])
        loss = s.overlap_loss(two_classes(FOREGROUND).log(), labels, form)
        assert loss.item() == pytest.approx(expected, abs=5e-8)

    @pytest.mark.parametrize("form", ["ce", "recall"])
    @pytest.mark.parametrize("num_classes", [2, 4])
    def test_is_a_mean_of_image_means_over_annotated_images(self, form: str, num_classes: int) -> None:
        logits = random_p(3, num_classes).log() * 2
        g = torch.Generator().manual_seed(0)
        labels = torch.where(
            torch.rand(3, 4, 5, generator=g) < 0.3, torch.randint(num_classes, (3, 4, 5), generator=g), IGNORE
        )
        labels[1] = IGNORE
        p, means = logits.softmax(1), []
        for b in (0, 2):
            picked = [
                float(p[b, int(labels[b, r, c]), r, c])
                for r, c in np.ndindex(4, 5)
                if labels[b, r, c] != IGNORE
            ]
            means.append(sum(-math.log(v) if form == "ce" else 1 - v for v in picked) / len(picked))
        assert s.overlap_loss(logits, labels, form).item() == pytest.approx(sum(means) / 2, rel=1e-12)

    @pytest.mark.parametrize("form", ["ce", "recall"])
    def test_gradient_is_zero_outside_the_labelled_pixels(self, form: str) -> None:
        logits = random_p(4).log().requires_grad_()
        labels = torch.full((3, 4, 5), IGNORE)
        labels[0, 1, 2] = 1
        (gradient,) = torch.autograd.grad(s.overlap_loss(logits, labels, form), logits)
        touched = gradient.abs().sum(1) > 0
        assert touched.nonzero().tolist() == [[0, 1, 2]]
        assert torch.autograd.gradcheck(lambda a: s.overlap_loss(a, labels, form), (logits,))

    @pytest.mark.parametrize("form", ["ce", "recall"])
    def test_no_labelled_pixel_is_exactly_zero(self, form: str) -> None:
        logits = random_p(4).log().requires_grad_()
        loss = s.overlap_loss(logits, torch.full((3, 4, 5), IGNORE), form)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss.item() == 0.0
        assert gradient.abs().max().item() == 0.0

    def test_positive_pixels_alone_are_satisfied_by_all_foreground(self) -> None:
        """Trap: the term does not see where the foreground ends; the statistic has to say it."""
        labels = torch.tensor([[[1, IGNORE], [IGNORE, IGNORE]]])
        logits = torch.stack([torch.full((2, 2), -30.0), torch.full((2, 2), 30.0)]).unsqueeze(0)
        assert s.overlap_loss(logits, labels, "ce").item() == pytest.approx(0.0, abs=1e-12)
        area = s.soft_area(logits.softmax(1))[:, 1]
        assert s.discrepancy(area, torch.tensor([0.25]), "rel").item() > 2.9


class TestConfidence:
    def test_by_hand(self) -> None:
        logits = two_classes(FOREGROUND).log()
        assert s.confidence_loss(logits, "gini").item() == pytest.approx(0.58, abs=1e-12)
        nats = s.confidence_loss(logits, "entropy").item() * math.log(2)
        assert nats == pytest.approx(0.4558950, abs=5e-8)

    @pytest.mark.parametrize("form", ["gini", "entropy"])
    @pytest.mark.parametrize("num_classes", [2, 4])
    def test_runs_from_zero_to_one(self, form: str, num_classes: int) -> None:
        uniform = torch.zeros(2, num_classes, 3, 3, requires_grad=True)
        certain = torch.zeros(2, num_classes, 3, 3)
        certain[:, 1] = 1e4
        certain.requires_grad_()
        assert s.confidence_loss(uniform, form).item() == pytest.approx(1.0, rel=1e-6)
        loss = s.confidence_loss(certain, form)
        (gradient,) = torch.autograd.grad(loss, certain)
        assert loss.item() == 0.0
        assert torch.isfinite(gradient).all()

    @pytest.mark.parametrize("num_classes", [2, 4])
    def test_equals_the_formula_written_out(self, num_classes: int) -> None:
        p = random_p(5, num_classes)
        gini = entropy = 0.0
        for b, r, c in np.ndindex(3, 4, 5):
            values = p[b, :, r, c].tolist()
            gini += num_classes / (num_classes - 1) * (1 - sum(v * v for v in values)) / 60
            entropy -= sum(v * math.log(v) for v in values) / math.log(num_classes) / 60
        assert s.confidence_loss(p.log(), "gini").item() == pytest.approx(gini, rel=1e-12)
        assert s.confidence_loss(p.log(), "entropy").item() == pytest.approx(entropy, rel=1e-12)

    @pytest.mark.parametrize("form", ["gini", "entropy"])
    def test_gradient(self, form: str) -> None:
        logits = random_p(6).log().requires_grad_()
        assert torch.autograd.gradcheck(lambda a: s.confidence_loss(a, form), (logits,))


class TestReconstruction:
    def test_chan_vese_by_hand(self) -> None:
        x = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64).view(1, 1, 2, 2)
        p = two_classes(torch.tensor([0.1, 0.2, 0.8, 0.9], dtype=torch.float64))
        c = s.region_means(p, x)
        assert c.flatten().tolist() == pytest.approx([0.15, 0.85])
        loss = s.reconstruction_loss(s.compose(p, c), x, "squared")
        energy = (p * (x - c.squeeze(2)).square()).sum(1).mean()
        assert loss.item() == pytest.approx(0.06625, abs=1e-12)
        assert energy.item() == pytest.approx(0.1275, abs=1e-12)
        softness = (p[:, 0] * p[:, 1]).mean() * (c[0, 1] - c[0, 0]).square()
        assert softness.item() == pytest.approx(0.06125, abs=1e-12)

    @pytest.mark.parametrize("num_classes", [2, 4])
    def test_chan_vese_identity_for_any_number_of_classes(self, num_classes: int) -> None:
        p, x = random_p(7, num_classes), random_image(7)
        c = s.region_means(p, x).squeeze(2)
        loss = s.reconstruction_loss(s.compose(p, c.unsqueeze(2)), x, "squared")
        energy = (p * (x - c).square()).sum(1).mean()
        variance = ((p * c.square()).sum(1) - (p * c).sum(1).square()).mean()
        torch.testing.assert_close(loss, energy - variance)
        assert variance.item() > 0

    def test_region_means_of_a_hard_mask(self) -> None:
        x = torch.tensor([0.2, 0.4, 0.6, 0.9]).view(1, 1, 2, 2)
        p = terms.one_hot(torch.tensor([[[1, 1], [0, 0]]]), 3).float()
        assert s.region_means(p, x).flatten().tolist() == pytest.approx([0.75, 0.3, 0.0])

    def test_region_gradient(self) -> None:
        x = random_image(8)
        loss = lambda p: s.reconstruction_loss(s.compose(p, s.region_means(p, x)), x, "squared")  # noqa: E731
        assert torch.autograd.gradcheck(loss, (random_p(8).requires_grad_(),))

    @pytest.mark.parametrize(("error", "expected"), [("squared", 0.125), ("absolute", 0.25)])
    def test_errors_by_hand(self, error: str, expected: float) -> None:
        drawn, image = torch.tensor([0.0, 0.5]), torch.tensor([0.0, 1.0])
        shape = (1, 1, 1, 2)
        assert s.reconstruction_loss(drawn.view(shape), image.view(shape), error).item() == expected

    def test_similarity_equals_the_formula_written_out(self) -> None:
        g = torch.Generator().manual_seed(0)
        x, y = torch.rand(2, 2, 1, 8, 9, dtype=torch.float64, generator=g)
        scores = []
        for b, r, q in np.ndindex(2, 8 - 6, 9 - 6):
            u, v = x[b, 0, r : r + 7, q : q + 7], y[b, 0, r : r + 7, q : q + 7]
            covariance = ((u - u.mean()) * (v - v.mean())).mean()
            variances = u.var(correction=0) + v.var(correction=0)
            light = (2 * u.mean() * v.mean() + 1e-4) / (u.mean() ** 2 + v.mean() ** 2 + 1e-4)
            scores.append(float(light * (2 * covariance + 9e-4) / (variances + 9e-4)))
        similarity = s.structural_similarity(x, y)
        assert similarity.item() == pytest.approx(sum(scores) / len(scores), rel=1e-10)
        assert s.reconstruction_loss(x, y, "ssim").item() == pytest.approx(1 - similarity.item())
        assert s.reconstruction_loss(x, x, "ssim").item() == pytest.approx(0.0, abs=1e-12)

    def test_a_gated_layer_sees_its_own_region_only(self) -> None:
        torch.manual_seed(0)
        coders, image = RegionAutoencoders(2), torch.rand(1, 1, 8, 8)
        p = torch.zeros(1, 2, 8, 8)
        p[:, 0, :, :4], p[:, 1, :, 4:] = 1, 1
        changed = image.clone()
        changed[..., 4:] = 1 - changed[..., 4:]
        before, after = coders(p, image), coders(p, changed)
        assert torch.equal(before[:, 0], after[:, 0])
        assert not torch.equal(before[:, 1], after[:, 1])

    def test_a_coarse_layer_has_the_degrees_of_freedom_of_its_grid(self) -> None:
        torch.manual_seed(0)
        layers = CoarseLayers(4, num_classes=3, grid=2)
        drawn = layers(torch.randn(50, 4, 8, 8), (16, 16))
        assert drawn.shape == (50, 3, 1, 16, 16)
        for k in range(3):
            assert torch.linalg.matrix_rank(drawn[:, k].flatten(1), rtol=1e-4).item() == 4

    @pytest.mark.parametrize("reconstruction", RECONSTRUCTIONS)
    def test_state_holds_parameters_exactly_where_layers_are_learnt(self, reconstruction: str) -> None:
        net = TinyNetwork()
        learnt = list(s.SummaryStatistics(reconstruction=reconstruction).init(net).parameters())
        off = s.SummaryStatistics(reconstruction=reconstruction, reconstruction_weight=0.0).init(net)
        assert bool(learnt) == (reconstruction in ("parallel", "composite", "gated"))
        assert not list(off.parameters())

    @pytest.mark.parametrize("reconstruction", RECONSTRUCTIONS)
    def test_mask_dependence(self, reconstruction: str) -> None:
        """Only `parallel` and `none` draw without looking at p."""
        method, net, state, batch = set_up(reconstruction=reconstruction)
        one = method.losses(net, batch, state, 0.0)
        with torch.no_grad():
            net.classifier.bias.add_(torch.tensor([0.0, 2.0, -1.0, 3.0]))
        other = method.losses(net, batch, state, 0.0)
        changed = "reconstruction" in one and one["reconstruction"] != other["reconstruction"]
        assert bool(changed) == (reconstruction in ("composite", "gated", "chan_vese"))
