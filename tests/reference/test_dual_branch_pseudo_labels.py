"""Dual-branch pseudo labels: the mixture, its Dice, the second decoder and the traps of methods.md 3.10."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.reference.test_terms import slow_partial_cross_entropy
from tests.tiny import TinyNetwork, a_batch, plain_methods, without_labels
from trainables import networks, terms
from trainables.methods.dual_branch_pseudo_labels import DualBranchPseudoLabels, mixed_pseudo_labels
from trainables.networks.decoder import AuxiliaryDecoder

FORMS = ("hard", "soft")


def random_p(seed: int, num_classes: int = 3) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(2, num_classes, 4, 5, dtype=torch.float64, generator=g).softmax(1)


def slow_dice(p: Tensor, t: Tensor, smoothing: float = 1e-5) -> float:
    """One term per class, one pixel after the other."""
    num_images, num_classes, height, width = p.shape
    scores = []
    for k in range(num_classes):
        overlap, squares = 0.0, 0.0
        for b, r, c in np.ndindex(num_images, height, width):
            overlap += p[b, k, r, c].item() * t[b, k, r, c].item()
            squares += p[b, k, r, c].item() ** 2 + t[b, k, r, c].item() ** 2
        scores.append((2 * overlap + smoothing) / (squares + smoothing))
    return 1 - sum(scores) / num_classes


def slow_mixture(p1: Tensor, p2: Tensor, beta: float, form: str) -> Tensor:
    q = torch.zeros_like(p1)
    for b, r, c in np.ndindex(p1.shape[0], *p1.shape[2:]):
        values = [beta * p1[b, k, r, c] + (1 - beta) * p2[b, k, r, c] for k in range(p1.shape[1])]
        for k, value in enumerate(values):
            q[b, k, r, c] = value if form == "soft" else float(value == max(values))
    return q


class TestPseudoLabels:
    @pytest.mark.parametrize(("beta", "winner"), [(0.81, 0), (0.79, 1), (1.0, 0), (0.0, 1)])
    def test_by_hand(self, beta: float, winner: int) -> None:
        # .6 b + .1 (1 - b) = .1 + .5 b beats .4 b + .9 (1 - b) = .9 - .5 b from b = .8 on.
        p1, p2 = (torch.tensor(p).view(1, 2, 1, 1) for p in ([0.6, 0.4], [0.1, 0.9]))
        q = mixed_pseudo_labels(p1, p2, torch.tensor(beta), "hard")
        assert q.flatten().tolist() == [float(winner == 0), float(winner == 1)]

    def test_one_branch_alone_at_the_ends(self) -> None:
        p1, p2 = random_p(0), random_p(1)
        assert not torch.equal(p1.argmax(1), p2.argmax(1))
        for beta, p in ((1.0, p1), (0.0, p2)):
            q = mixed_pseudo_labels(p1, p2, torch.tensor(beta), "hard")
            assert torch.equal(q.argmax(1), p.argmax(1))

    @pytest.mark.parametrize("form", FORMS)
    def test_equals_the_loop_and_has_no_gradient(self, form: str) -> None:
        p1, p2 = random_p(2).requires_grad_(), random_p(3).requires_grad_()
        q = mixed_pseudo_labels(p1, p2, torch.tensor(0.3, dtype=torch.float64), form)
        assert q.grad_fn is None
        assert not q.requires_grad
        torch.testing.assert_close(q, slow_mixture(p1.detach(), p2.detach(), 0.3, form))


class TestDice:
    @pytest.mark.parametrize("form", FORMS)
    def test_equals_the_loop(self, form: str) -> None:
        p, q = random_p(4), slow_mixture(random_p(5), random_p(6), 0.4, form)
        fast = terms.soft_dice_to(p, q).item()
        assert fast == pytest.approx(slow_dice(p, q), abs=1e-12)

    def test_smoothing_is_added_once_a_class(self) -> None:
        """A score broadcast to [B,B,H,W] keeps the ratio but hides e: by hand with e as large as the sums."""
        p = torch.tensor([0.8, 0.4, 0.2, 0.6], dtype=torch.float64).view(2, 2, 1, 1)  # p_0 = .8, .2
        q = torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=torch.float64).view(2, 2, 1, 1)  # q_0 = 1, 0
        scores = ((2 * 0.8 + 1) / (0.68 + 1 + 1), (2 * 0.6 + 1) / (0.52 + 1 + 1))
        assert terms.soft_dice_to(p, q, 1.0).item() == pytest.approx(1 - sum(scores) / 2, abs=1e-12)

    def test_is_zero_where_both_agree_with_themselves(self) -> None:
        hard = terms.one_hot(random_p(7).argmax(1), 3).double()
        for p in (hard, random_p(7)):
            assert terms.soft_dice_to(p, p).item() == pytest.approx(0.0, abs=1e-15)

    def test_class_that_the_labels_lack_costs_almost_one(self) -> None:
        p = random_p(8)
        q = torch.zeros_like(p)
        q[:, 0] = 1.0
        alone = terms.soft_dice_to(p[:, 1:2], q[:, 1:2]).item()
        assert alone == pytest.approx(1 - 1e-5 / (p[:, 1].square().sum().item() + 1e-5), abs=1e-12)
        assert alone > 0.999

    @pytest.mark.parametrize("form", FORMS)
    def test_gradient(self, form: str) -> None:
        q = slow_mixture(random_p(5), random_p(6), 0.4, form)
        assert torch.autograd.gradcheck(lambda p: terms.soft_dice_to(p, q), (random_p(9).requires_grad_(),))


class TestMethod:
    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize("num_classes", [2, 4])
    def test_equals_the_formula_written_out_with_one_beta_a_step(self, form: str, num_classes: int) -> None:
        net, batch = TinyNetwork(num_classes), a_batch(num_classes)
        method = DualBranchPseudoLabels(pseudo_labels=form, pseudo_weight=0.7)
        state = method.init(net).eval()  # no dropout: beta is then the only number drawn
        torch.manual_seed(3)
        fast = method.losses(net, batch, state, 0.0)
        torch.manual_seed(3)
        beta = torch.rand(()).item()
        out = net(batch.image_BCHW)
        branches = [out.logits_BKHW.detach().double(), state(out.stages, (8, 8)).detach().double()]
        p1, p2 = (logits.softmax(1) for logits in branches)
        q = slow_mixture(p1, p2, beta, form)
        pce = sum(slow_partial_cross_entropy(logits, batch.labels_BHW) for logits in branches) / 2
        dice = (slow_dice(p1, q) + slow_dice(p2, q)) / 2
        # float32 against float64
        assert fast["partial_cross_entropy"].item() == pytest.approx(pce, rel=1e-5)
        assert fast["pseudo_dice"].item() == pytest.approx(dice, rel=1e-5)
        assert fast["total"].item() == pytest.approx(pce + 0.7 * dice, rel=1e-5)

    def test_beta_is_drawn_anew_each_step(self) -> None:
        net, batch, method = TinyNetwork(), a_batch(), DualBranchPseudoLabels(pseudo_labels="soft")
        state = method.init(net).eval()
        torch.manual_seed(0)
        first, second = (method.losses(net, batch, state, 0.0)["pseudo_dice"].item() for _ in range(2))
        assert first != second

    @pytest.mark.parametrize(
        ("fraction", "progress", "factor"), [(0, 0, 1), (0.5, 0.25, 0.2865048), (1, 1, 1)]
    )
    def test_ramp_is_a_fraction_of_the_training(
        self, fraction: float, progress: float, factor: float
    ) -> None:
        net, batch = TinyNetwork(), a_batch()
        method = DualBranchPseudoLabels(ramp_fraction=float(fraction))
        state = method.init(net).eval()
        t = method.losses(net, batch, state, float(progress))
        pseudo = t["total"] - t["partial_cross_entropy"]
        assert pseudo.item() == pytest.approx(0.5 * factor * t["pseudo_dice"].item(), rel=1e-5)

    def test_without_a_label_the_mixture_still_teaches(self) -> None:
        net, method = TinyNetwork(), DualBranchPseudoLabels()
        state = method.init(net)
        t = method.losses(net, without_labels(a_batch()), state, 0.0)
        t["total"].backward()
        assert t["partial_cross_entropy"].item() == 0.0
        assert all(p.grad is not None and p.grad.isfinite().all() for p in state.parameters())
        assert net.encoder.weight.grad is not None
        assert net.encoder.weight.grad.abs().sum() > 0

    def test_both_branches_teach_the_encoder(self) -> None:
        """The classifier of the network is reached by its own branch only, the encoder by both."""
        net, method, batch = TinyNetwork(), DualBranchPseudoLabels(pseudo_weight=0.0), a_batch()
        state = method.init(net).eval()
        (gradient,) = torch.autograd.grad(method.losses(net, batch, state, 0.0)["total"], net.encoder.weight)
        own = terms.partial_cross_entropy(net(batch.image_BCHW).logits_BKHW, batch.labels_BHW) / 2
        (alone,) = torch.autograd.grad(own, net.encoder.weight)
        assert not torch.allclose(gradient, alone)

    def test_compiles_with_soft_labels(self) -> None:  # the contract does the default
        with plain_methods() as load:
            method, net, batch = (
                load("dual_branch_pseudo_labels")(pseudo_labels="soft"),
                TinyNetwork(),
                a_batch(),
            )
            state = method.init(net)
            torch.compiler.reset()
            compiled = torch.compile(method.losses, fullgraph=True, backend="aot_eager")
            totals = []
            for losses in (compiled, method.losses):
                torch.manual_seed(1)
                totals.append(losses(net, batch, state, 0.5)["total"])
        torch.testing.assert_close(*totals)


class TestAuxiliaryDecoder:
    @pytest.mark.parametrize("size", [(16, 16), (17, 31), (5, 40)])
    def test_beside_a_u_net_it_is_the_network_s_own_decoder(self, size: tuple[int, int]) -> None:
        torch.manual_seed(0)
        net = networks.build("unet", {"width": 3, "levels": 3}, 4).eval()
        second = AuxiliaryDecoder(net, 0.5).eval()
        own = {k: v for k, v in net.state_dict().items() if not k.startswith("down.")}
        second.load_state_dict(own)  # the same names and shapes
        out = net(torch.rand(2, 1, *size))
        assert torch.equal(second(out.stages, size), out.logits_BKHW)

    @pytest.mark.parametrize(
        ("name", "settings"),
        [
            ("unet", {"width": 2, "levels": 2}),
            ("timm_unet", {"encoder": "resnet10t"}),
            ("timm_unet", {"encoder": "resnet10t", "depth": 1}),
            ("timm_unet", {"encoder": "convnext_atto"}),  # has a stage without channels
        ],
    )
    def test_fits_every_network_and_image_size(self, name: str, settings: dict[str, object]) -> None:
        net = networks.build(name, settings, 3).eval()
        second = AuxiliaryDecoder(net, 0.5).eval()
        for size in ((32, 32), (17, 31), (1, 1)):
            out = net(torch.rand(2, 1, *size))
            assert tuple(s.shape[1] for s in out.stages) == net.stage_channels
            assert torch.equal(out.stages[-1], out.bottleneck)
            assert second(out.stages, size).shape == (2, 3, *size)

    def test_loses_whole_channels_of_every_stage_in_training_only(self) -> None:
        net = TinyNetwork()
        second = AuxiliaryDecoder(net, 0.5)
        stages = net(torch.rand(8, 1, 8, 8)).stages
        seen: list[Tensor] = []
        second.drop.register_forward_hook(lambda *args: seen.append(args[-1]))
        torch.manual_seed(0)
        second(stages, (8, 8))
        assert len(seen) == len(stages) == 2
        for before, after in zip(stages, seen, strict=True):
            lost = (after == 0).flatten(2)
            assert torch.equal(lost.all(2), lost.any(2))  # a channel is lost as a whole or not at all
            assert 0 < lost.all(2).double().mean().item() < 1
            torch.testing.assert_close(after, torch.where(lost.all(2)[..., None, None], 0.0, 2 * before))
        second.eval()
        assert torch.equal(second(stages, (8, 8)), second(stages, (8, 8)))
