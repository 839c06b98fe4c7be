"""Uncertainty-aware self-ensembling: turns, uncertainty, masked error, and the traps of methods.md 3.11."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.reference.test_terms import slow_partial_cross_entropy
from tests.tiny import TinyNetwork, a_batch, mapped, plain_methods, without_labels
from trainables import networks
from trainables.ema import Teacher
from trainables.method import Batch, Network, Output
from trainables.methods import uncertainty_self_ensembling as u
from trainables.methods.uncertainty_self_ensembling import UncertaintySelfEnsembling

CPU = torch.device("cpu")
RAMP = {0.0: 0.0067379, 0.5: 0.2865048, 1.0: 1.0}  # methods.md 1.5


class PerPixelNetwork(Network):
    """Logits from each pixel's intensity alone: whatever permutes the image permutes them."""

    def __init__(self, num_classes: int = 4) -> None:
        super().__init__()
        self.num_classes = num_classes
        torch.manual_seed(0)
        self.classifier = nn.Conv2d(1, num_classes, 1)
        with torch.no_grad():
            self.classifier.weight.mul_(20.0)

    def forward(self, image_BCHW: Tensor) -> Output:
        logits = self.classifier(image_BCHW)
        return Output(logits, logits, logits)


def random_p(seed: int, num_classes: int = 3) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(2, num_classes, 3, 4, dtype=torch.float64, generator=g).mul(3).softmax(1)


def sharp(num_classes: int = 4, seed: int = 0) -> TinyNetwork:
    """A network that is certain at some pixels and not at others."""
    net = TinyNetwork(num_classes, seed)
    with torch.no_grad():
        net.classifier.weight.mul_(8.0)
    return net


def logits_of_entropy(nat: float) -> Tensor:
    """Logits [4,4,8,8], of every pixel the same, whose softmax (1 - 3 e, e, e, e) has that entropy."""
    low, high = 1e-9, 0.25
    for _ in range(60):
        e = (low + high) / 2
        entropy = -(1 - 3 * e) * math.log(1 - 3 * e) - 3 * e * math.log(e)
        low, high = (e, high) if entropy < nat else (low, e)
    return torch.tensor([1 - 3 * e, e, e, e]).log().view(1, 4, 1, 1).expand(4, 4, 8, 8)


def set_up(
    num_classes: int = 4, **settings: Any
) -> tuple[UncertaintySelfEnsembling, Network, Teacher, Batch]:
    """The teacher has other weights than the network."""
    method, net = UncertaintySelfEnsembling(**settings), sharp(num_classes)
    state = method.init(sharp(num_classes, seed=1))
    assert isinstance(state, Teacher)
    return method, net, state, a_batch(num_classes)


class TestTurns:
    def test_square_images_turn_by_quarters(self) -> None:
        image = torch.arange(2 * 1 * 9.0).view(2, 1, 3, 3)
        tables = u.turns(3, 3, CPU)
        assert len(tables) == 4
        for quarters, table in enumerate(tables):
            assert torch.equal(u.gathered(image, table), image.rot90(quarters, (2, 3)))

    def test_others_by_halves(self) -> None:
        image = torch.arange(2 * 1 * 6.0).view(2, 1, 2, 3)
        identity, half = u.turns(2, 3, CPU)
        assert torch.equal(u.gathered(image, identity), image)
        assert torch.equal(u.gathered(image, half), image.flip(2, 3))

    @pytest.mark.parametrize("shape", [(4, 4), (3, 5)])
    def test_row_minus_g_undoes_row_g(self, shape: tuple[int, int]) -> None:
        image = torch.rand(2, 3, *shape)
        tables = u.turns(*shape, CPU)
        for g in range(len(tables)):
            back = tables[-g % len(tables)]
            assert torch.equal(u.gathered(u.gathered(image, tables[g]), back), image)


class TestNoise:
    def test_is_cut_at_twice_its_scale(self) -> None:
        torch.manual_seed(0)
        noise = u.with_noise(torch.zeros(1, 1, 200, 200), 0.1)
        assert noise.max().item() == pytest.approx(0.2)
        assert noise.min().item() == pytest.approx(-0.2)
        assert noise.std().item() == pytest.approx(0.0959, abs=1e-3)  # var .7385 + 4 x .0455

    def test_of_scale_zero_is_none(self) -> None:
        image = torch.rand(1, 1, 4, 4)
        assert torch.equal(u.with_noise(image, 0.0), image)


class TestUncertainty:
    @pytest.mark.parametrize(
        ("p", "expected"),
        [([0.25] * 4, math.log(4)), ([0.7, 0.1, 0.1, 0.1], 0.9404480), ([1.0, 0.0, 0.0, 0.0], 0.0)],
    )
    def test_by_hand(self, p: list[float], expected: float) -> None:
        entropy = u.predictive_entropy(torch.tensor(p, dtype=torch.float64).view(1, 4, 1, 1))
        assert entropy.item() == pytest.approx(expected, abs=5e-8)

    def test_passes_that_contradict_each_other_are_uncertain(self) -> None:
        """Two passes, each sure of another class: ln 2; the mean of their entropies would be 0."""
        method, _, teacher, batch = set_up(2, passes=2, noise=0.0)
        answers = iter([0.0, 50.0, -50.0])  # the target's pass, then the two

        def answer(_: Tensor) -> Output:
            logits = torch.zeros(4, 2, 8, 8)
            logits[:, 1] = next(answers)
            return Output(logits, logits, logits)

        teacher.forward = answer  # type: ignore[method-assign]
        target, uncertainty = method._teach(batch, teacher)
        torch.testing.assert_close(uncertainty, torch.full((4, 8, 8), math.log(2)))
        assert (target == 0.5).all()  # a single pass, not the mean


class TestError:
    def test_by_hand(self) -> None:
        p = torch.tensor([[0.7, 0.3], [0.5, 0.5]]).T.view(1, 2, 1, 2)
        target = torch.tensor([[0.6, 0.4], [0.1, 0.9]]).T.view(1, 2, 1, 2)
        uncertainty = torch.tensor([0.5, 0.6]).view(1, 1, 2)
        errors = [0.02 / 2, 0.32 / 2]
        for threshold, expected in ((0.55, errors[0]), (0.65, sum(errors) / 2)):
            loss = u.certain_squared_error(p, target, uncertainty, threshold, 2.0)
            assert loss.item() == pytest.approx(expected, abs=1e-7)

    @pytest.mark.parametrize("seed", range(2))
    def test_equals_the_loop(self, seed: int) -> None:
        p, target = random_p(seed), random_p(seed + 10)
        uncertainty = u.predictive_entropy(target)
        threshold = uncertainty.median().item()
        total, count = 0.0, 0
        for b, r, c in np.ndindex(2, 3, 4):
            if uncertainty[b, r, c].item() < threshold:
                count += 1
                total += sum((p[b, k, r, c].item() - target[b, k, r, c].item()) ** 2 / 3 for k in range(3))
        fast = u.certain_squared_error(p, target, uncertainty, threshold, 3.0).item()
        assert 0 < count < 24
        assert fast == pytest.approx(total / count, abs=1e-12)

    def test_gradient(self) -> None:
        target = random_p(1)
        uncertainty = u.predictive_entropy(target)
        threshold = uncertainty.median().item()
        p = random_p(0).requires_grad_()
        loss = u.certain_squared_error(p, target, uncertainty, threshold, 3.0)
        (gradient,) = torch.autograd.grad(loss, p)
        assert (gradient.abs().sum(1) > 0).equal(uncertainty < threshold)
        assert torch.autograd.gradcheck(
            lambda q: u.certain_squared_error(q, target, uncertainty, threshold, 3.0),
            (random_p(0).requires_grad_(),),
        )

    def test_of_no_certain_pixel_is_zero_with_zero_gradient(self) -> None:
        p = random_p(0).requires_grad_()
        loss = u.certain_squared_error(p, random_p(1), torch.ones(2, 3, 4).double(), 0.5, 3.0)
        (gradient,) = torch.autograd.grad(loss, p)
        assert loss.item() == 0.0
        assert (gradient == 0).all()


class TestMethod:
    @pytest.mark.parametrize("seed", range(4))
    @pytest.mark.parametrize("progress", RAMP)
    def test_equals_the_formula_written_out(self, seed: int, progress: float) -> None:
        """Without noise and dropout the turn is the only thing drawn; four seeds draw different ones."""
        method, net, teacher, batch = set_up(noise=0.0, consistency_weight=2.0, ramp_fraction=0.5)
        torch.manual_seed(seed)
        fast = method.losses(net, batch, teacher, progress)
        torch.manual_seed(seed)
        quarters = int(torch.randint(4, (1,)))
        turned = batch.image_BCHW.rot90(quarters, (2, 3))
        target = teacher(turned).logits_BKHW.double().softmax(1).rot90(-quarters, (2, 3))
        logits = net(batch.image_BCHW).logits_BKHW.detach().double()
        threshold = (0.75 + 0.25 * RAMP[progress]) * math.log(4)
        errors = []
        for b, r, c in np.ndindex(4, 8, 8):
            q = target[b, :, r, c].tolist()
            if -sum(v * math.log(v) for v in q) < threshold:
                p = logits[b, :, r, c].softmax(0).tolist()
                errors.append(sum((x - y) ** 2 for x, y in zip(p, q, strict=True)) / 4)
        assert 0 < len(errors) < 256 or progress == 1.0  # the threshold is then the largest entropy
        consistency = sum(errors) / len(errors)
        pce = slow_partial_cross_entropy(logits, batch.labels_BHW)
        weight = 2.0 * {0.0: RAMP[0.0], 0.5: 1.0, 1.0: 1.0}[progress]
        # float32 against float64
        assert fast["consistency"].item() == pytest.approx(consistency, rel=1e-4)
        assert fast["certain_share"].item() == pytest.approx(len(errors) / 256, abs=1e-6)
        assert fast["total"].item() == pytest.approx(pce + weight * consistency, rel=1e-5)

    def test_is_zero_where_turning_the_image_turns_the_prediction(self) -> None:
        method, net, batch = UncertaintySelfEnsembling(noise=0.0), PerPixelNetwork(), a_batch()
        state = method.init(net)
        for seed in range(8):
            torch.manual_seed(seed)
            t = method.losses(net, batch, state, 1.0)
            assert t["consistency"].item() == pytest.approx(0.0, abs=1e-12)
            assert t["certain_share"].item() > 0

    def test_every_turn_is_drawn(self) -> None:
        method, net, teacher, batch = set_up(noise=0.0)
        values = set()
        for seed in range(24):
            torch.manual_seed(seed)
            values.add(round(method.losses(net, batch, teacher, 1.0)["consistency"].item(), 7))
        assert len(values) == 4

    def test_any_shape(self) -> None:
        method, net, teacher, batch = set_up()
        batch = mapped(batch, lambda t: t[..., :6] if t.ndim >= 3 and t.shape[-1] == 8 else t)
        assert batch.image_BCHW.shape[-2:] == (8, 6)
        assert math.isfinite(method.losses(net, batch, teacher, 1.0)["total"].item())

    def test_threshold_is_a_share_of_ln_k(self) -> None:
        """Between ln 2 and ln 4 the published threshold leaves out what ours keeps; of 2 classes nothing."""
        for num_classes in (2, 4):
            shares = {}
            for largest in ("log_classes", "log_2"):
                method, net, teacher, batch = set_up(num_classes, noise=0.0, largest_entropy=largest)
                torch.manual_seed(0)
                t = method.losses(net, batch, teacher, 0.0)
                shares[largest] = t["certain_share"].item()
            if num_classes == 2:
                assert shares["log_2"] == shares["log_classes"]
            else:
                assert shares["log_2"] < shares["log_classes"]

    @pytest.mark.parametrize(
        ("largest", "progress", "expected"),
        [("log_2", 0.0, 0.51986), ("log_2", 1.0, 0.69315), ("log_classes", 0.0, 1.03972)],
    )
    def test_thresholds_of_methods_md(self, largest: str, progress: float, expected: float) -> None:
        """A teacher that is as uncertain everywhere: certain just below the threshold, not just above it.

        At the start the ramp has begun: 0.75 + 0.25 x 0.0067.
        """
        expected *= 1 + (1 - progress) * 0.25 * RAMP[0.0] / 0.75
        for off, share in ((-2e-4, 1.0), (2e-4, 0.0)):
            method, net, teacher, batch = set_up(largest_entropy=largest)
            logits = logits_of_entropy(expected + off)
            teacher.forward = lambda _, a=logits: Output(a, a, a)  # type: ignore[method-assign, misc]
            assert method.losses(net, batch, teacher, progress)["certain_share"].item() == share

    def test_divisor_two_is_k_halves_of_ours(self) -> None:
        values = []
        for divisor in ("two", "classes"):
            method, net, teacher, batch = set_up(noise=0.0, divisor=divisor)
            torch.manual_seed(0)
            values.append(method.losses(net, batch, teacher, 1.0)["consistency"].item())
        assert values[0] == pytest.approx(2 * values[1], rel=1e-6)  # K / 2 with K = 4
        assert values[1] > 0

    def test_one_pass_for_the_target_and_n_for_the_uncertainty(self) -> None:
        method, net, teacher, batch = set_up(passes=4)
        inputs: list[Tensor] = []
        teacher.net.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
        method.losses(net, batch, teacher, 0.5)
        assert len(inputs) == 5
        assert len({float(x.sum()) for x in inputs}) == 5  # noise of its own for each

    def test_teaches_the_network_and_never_the_teacher(self) -> None:
        method, net, teacher, batch = set_up()
        t = method.losses(net, without_labels(batch), teacher, 1.0)
        assert t["partial_cross_entropy"].item() == 0.0
        t["total"].backward()
        assert all(p.grad is None for p in teacher.parameters())
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())

    def test_the_teacher_follows_after_the_step(self) -> None:
        method, net, teacher, batch = set_up()
        method.losses(net, batch, teacher, 0.0)
        assert teacher.updates == 0
        method.after_step(net, teacher, 0.0)
        assert all(torch.equal(a, b) for a, b in zip(teacher.parameters(), net.parameters(), strict=True))

    def test_the_teacher_drops_features(self) -> None:
        """Two passes without noise differ beside a network with dropout; evaluating they would not."""
        torch.manual_seed(0)
        net = networks.build("unet", {"width": 2, "levels": 2}, 4)
        teacher = UncertaintySelfEnsembling().init(net)
        image = a_batch().image_BCHW
        teacher.train()
        assert not torch.equal(teacher(image).logits_BKHW, teacher(image).logits_BKHW)

    def test_compiles_where_pixels_are_certain(self) -> None:  # in the contract no pixel is
        with plain_methods() as load:
            method, net, batch = load("uncertainty_self_ensembling")(passes=2), sharp(), a_batch()
            state = method.init(sharp(seed=1))
            torch.compiler.reset()
            compiled = torch.compile(method.losses, fullgraph=True, backend="aot_eager")
            values = []
            for losses in (compiled, method.losses):
                torch.manual_seed(1)
                values.append(losses(net, batch, state, 0.5))
        torch.testing.assert_close(values[0]["total"], values[1]["total"])
        assert values[0]["certain_share"] == values[1]["certain_share"] > 0
