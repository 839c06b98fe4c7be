"""The teacher's average: the identities of methods.md 1.5, its buffers, and what survives a checkpoint."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.tiny import TinyNetwork
from trainables import networks
from trainables.ema import Teacher
from trainables.method import Network


def weights(net: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def students(count: int, seed: int = 0) -> list[Network]:
    """Networks in float64 with unrelated random weights, as an optimiser might visit them."""
    return [TinyNetwork(seed=1000 * seed + n).double() for n in range(count)]


def small_unet(seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return networks.build("unet", {"width": 2, "levels": 2}, 3)


def image(seed: int = 0) -> Tensor:
    return torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


class TestAverage:
    def test_after_the_first_update_the_teacher_is_the_student_whatever_it_was(self) -> None:
        teacher, student = Teacher(TinyNetwork(seed=1), 0.01, evaluates=True), TinyNetwork(seed=2)
        assert not torch.equal(weights(teacher), weights(student))
        teacher.update(student)
        assert torch.equal(weights(teacher), weights(student))

    def test_begins_as_the_network_and_does_not_follow_it_by_itself(self) -> None:
        net = TinyNetwork()
        teacher = Teacher(net, 0.01, evaluates=True)
        assert torch.equal(weights(teacher), weights(net))
        with torch.no_grad():
            net.classifier.weight.add_(1.0)
        assert not torch.equal(weights(teacher), weights(net))

    def test_is_the_plain_mean_until_the_rate_takes_over(self) -> None:
        nets = students(60)
        teacher = Teacher(nets[0], 0.01, evaluates=True)
        for net in nets:
            teacher.update(net)
        mean = torch.stack([weights(net) for net in nets]).mean(0)
        torch.testing.assert_close(weights(teacher), mean, rtol=0, atol=1e-15)  # float64

    def test_forgets_with_the_rate_from_then_on(self) -> None:
        """By hand with rate 1/4: three steps of the mean, the fourth is both, then 3/4 old and 1/4 new."""
        nets = students(6, seed=1)
        teacher = Teacher(nets[0], 0.25, evaluates=True)
        for net in nets:
            teacher.update(net)
        w = [weights(net) for net in nets]
        expected = (w[0] + w[1] + w[2] + w[3]) / 4
        for newest in w[4:]:
            expected = 0.75 * expected + 0.25 * newest
        torch.testing.assert_close(weights(teacher), expected, rtol=0, atol=1e-15)
        mean = torch.stack(w).mean(0)
        assert not torch.allclose(weights(teacher), mean)

    def test_rate_one_is_a_copy_of_the_last_student(self) -> None:
        nets = students(3)
        teacher = Teacher(nets[0], 1.0, evaluates=True)
        for net in nets:
            teacher.update(net)
        assert torch.equal(weights(teacher), weights(nets[-1]))


class TestGradient:
    def test_has_none_and_leaves_the_student_its_own(self) -> None:
        net = TinyNetwork()
        teacher = Teacher(net, 0.01, evaluates=True)
        assert not any(p.requires_grad for p in teacher.parameters())
        assert all(p.requires_grad for p in net.parameters())
        assert teacher(image()).logits_BKHW.grad_fn is None
        net(image()).logits_BKHW.sum().backward()
        teacher.update(net)
        assert all(p.grad is None and p.grad_fn is None for p in teacher.parameters())
        assert all(p.requires_grad and p.grad is not None for p in net.parameters())


class TestBuffers:
    def test_an_evaluating_teacher_takes_the_student_s(self) -> None:
        net = small_unet()
        teacher = Teacher(net, 0.01, evaluates=True)
        for seed in range(3):
            net.train()(3 + 2 * image(seed))
            teacher.update(net)
        for mine, theirs in zip(teacher.buffers(), net.buffers(), strict=True):
            assert torch.equal(mine, theirs)
        before = [b.clone() for b in teacher.buffers()]
        teacher(image())
        assert all(torch.equal(a, b) for a, b in zip(before, teacher.buffers(), strict=True))

    def test_a_training_teacher_keeps_its_own(self) -> None:
        net = small_unet()
        teacher = Teacher(net, 0.01, evaluates=False)
        teacher(image())
        own = [b.clone() for b in teacher.buffers()]
        net.train()(3 + 2 * image(1))
        teacher.update(net)
        assert all(torch.equal(a, b) for a, b in zip(own, teacher.buffers(), strict=True))
        assert not any(
            torch.equal(a, b) for a, b in zip(teacher.buffers(), net.buffers(), strict=True) if b.ndim
        )

    def test_an_evaluating_teacher_stays_so_and_repeats_itself(self) -> None:
        teacher = Teacher(small_unet(), 0.01, evaluates=True)
        teacher.train()
        assert not any(m.training for m in teacher.modules())
        assert torch.equal(teacher(image()).logits_BKHW, teacher(image()).logits_BKHW)

    def test_a_training_teacher_drops_features_until_it_is_told_to_evaluate(self) -> None:
        teacher = Teacher(small_unet(), 0.01, evaluates=False)
        assert all(m.training for m in teacher.modules())
        assert not torch.equal(teacher(image()).logits_BKHW, teacher(image()).logits_BKHW)
        teacher.eval()
        assert torch.equal(teacher(image()).logits_BKHW, teacher(image()).logits_BKHW)

    @pytest.mark.parametrize("evaluates", [True, False])
    def test_evaluated_it_is_near_the_student_it_averages(self, evaluates: bool) -> None:
        """A teacher whose running statistics were never updated would not be: images lie far from mean 0."""
        net = small_unet()
        teacher = Teacher(net, 0.01, evaluates=evaluates)
        torch.manual_seed(0)
        for seed in range(60):
            net.train()(20 + 5 * image(seed))
            teacher(20 + 5 * image(seed))
            teacher.update(net)
        x = 20 + 5 * image(99)
        mine, theirs = teacher.eval()(x).logits_BKHW, net.eval()(x).logits_BKHW
        stale = small_unet().eval()(x).logits_BKHW
        assert mine.isfinite().all()
        # the two sets of statistics saw different dropout; stale ones are off by the images' mean
        assert (mine - theirs).detach().abs().max() < 0.1 * (stale - theirs).detach().abs().max()


def test_a_saved_teacher_goes_on_as_if_never_stopped() -> None:
    nets = students(5)
    teacher = Teacher(nets[0], 0.01, evaluates=True)
    for net in nets[:3]:
        teacher.update(net)
    restored = Teacher(nets[4], 0.01, evaluates=True)
    restored.load_state_dict(teacher.state_dict())
    assert restored.updates == 3
    for net in nets[3:]:
        teacher.update(net)
        restored.update(net)
    assert torch.equal(weights(teacher), weights(restored))
