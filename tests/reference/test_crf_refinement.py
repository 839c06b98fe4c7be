"""CRF refinement: the terms written out, when a round begins, and the traps of methods.md 3.9 and 7."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from search_spaces import space_of
from tests.reference.test_mean_field import slow, weights
from tests.reference.test_scribble_to_label import sharp
from tests.reference.test_terms import slow_partial_cross_entropy
from tests.tiny import TinyNetwork, a_batch, plain_methods, without_labels
from tests.unit.trainables.toy_data import opened, protocol, trial_on
from trainables import networks
from trainables.annotations import Annotation
from trainables.data.dataset import Dataset
from trainables.loop import Training
from trainables.method import IGNORE, Batch, Network, Output
from trainables.methods.crf_refinement import CrfRefinement, Frozen, round_of
from trainables.pairwise import Kernel

PLAIN = {"total", "partial_cross_entropy"}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return opened(tmp_path_factory.mktemp("toy"))


def set_up(num_classes: int = 4, **settings: Any) -> tuple[CrfRefinement, Network, Frozen, Batch]:
    """The frozen copy is another network."""
    method, net = CrfRefinement(**settings), sharp(num_classes)
    state = method.init(sharp(num_classes, seed=1))
    assert isinstance(state, Frozen)
    return method, net, state, a_batch(num_classes)


def slow_refined(state: Frozen, batch: Batch, kernels: tuple[Kernel, ...], iterations: int) -> Tensor:
    unary = -state(batch.image_BCHW).logits_BKHW.double().log_softmax(1)
    return slow(unary, batch.labels_BHW, weights(batch.image_BCHW, kernels), iterations)


class TestTerms:
    def test_searched_and_standard(self) -> None:
        assert list(space_of(CrfRefinement)) == [
            "rounds", "pseudo_weight", "bilateral_weight", "sigma_xy", "sigma_intensity", "certainty"
        ]  # fmt: skip
        method = CrfRefinement()
        assert (method.spatial_weight, method.spatial_sigma, method.bilateral_weight) == (3, 3, 10)
        assert method.sigma_xy * 500 == pytest.approx(80)
        assert method.sigma_intensity * 255 == pytest.approx(13)

    @pytest.mark.parametrize("num_classes", [2, 4])
    @pytest.mark.parametrize("certainty", [0.0, 0.7])
    def test_equal_the_formulas_written_out(self, num_classes: int, certainty: float) -> None:
        settings = {"sigma_xy": 0.3, "sigma_intensity": 0.1, "bilateral_weight": 1.0, "spatial_weight": 0.5}
        method, net, state, batch = set_up(
            num_classes, pseudo_weight=0.7, certainty=certainty, mean_field_iterations=3, **settings
        )
        fast = method.losses(net, batch, state, 0.5)
        kernels = (Kernel(1.0, 0.3 * 8, 0.1), Kernel(0.5, 3.0, math.inf))
        q = slow_refined(state, batch, kernels, 3)
        most, labels = q.max(1)
        labels[most < certainty] = IGNORE
        logits = net(batch.image_BCHW).logits_BKHW.detach().double()
        pce, pseudo = (slow_partial_cross_entropy(logits, y) for y in (batch.labels_BHW, labels))
        frozen = state(batch.image_BCHW).logits_BKHW.argmax(1)
        share = (labels != IGNORE).double().mean().item()
        assert share == 1.0 if certainty == 0.0 else 0.25 < share < 0.96
        # float32 against float64; no pixel is so near a threshold that the factored kernel decides
        assert fast["partial_cross_entropy"].item() == pytest.approx(pce, rel=1e-5)
        assert fast["pseudo"].item() == pytest.approx(pseudo, rel=1e-5)
        assert fast["total"].item() == pytest.approx(pce + 0.7 * pseudo, rel=1e-5)
        assert fast["pseudo_label_share"].item() == pytest.approx(share, abs=1e-6)
        changed = (q.argmax(1) != frozen).double().mean().item()
        assert fast["refined_share"].item() == pytest.approx(changed, abs=1e-6)
        assert 0.05 < changed < 0.95

    def test_soft_labels_are_the_refined_probabilities(self) -> None:
        method, net, state, batch = set_up(labels="soft", bilateral_weight=0.0, spatial_weight=1.0)
        q = slow_refined(state, batch, (Kernel(1.0, 3.0, math.inf),), 5)
        log_p = net(batch.image_BCHW).logits_BKHW.detach().double().log_softmax(1)
        expected = -(q * log_p).sum(1).mean().item()
        assert method.losses(net, batch, state, 0.5)["pseudo"].item() == pytest.approx(expected, rel=1e-5)

    def test_without_any_kernel_the_frozen_network_s_classes_are_fitted(self) -> None:
        method, net, state, batch = set_up(bilateral_weight=0.0, spatial_weight=0.0)
        blank = without_labels(batch)
        out = method.losses(net, blank, state, 0.5)
        labels = state(batch.image_BCHW).logits_BKHW.argmax(1)
        expected = slow_partial_cross_entropy(net(batch.image_BCHW).logits_BKHW.detach().double(), labels)
        assert out["pseudo"].item() == pytest.approx(expected, rel=1e-5)
        assert out["refined_share"].item() == 0.0

    @pytest.mark.parametrize("settings", [{"pseudo_weight": 0.0}, {"rounds": 1}])
    def test_switched_off_is_the_partial_cross_entropy(self, settings: dict[str, Any]) -> None:
        method, net, _, batch = set_up(**settings)
        for progress in (0.0, 0.5, 1.0):
            assert set(method.losses(net, batch, Refusing(), progress)) == PLAIN

    def test_uncertain_pixels_are_ignored_and_not_background(self) -> None:
        """Trap: nothing but the labelled pixels is certain, and none of those is background."""
        method, net, state, batch = set_up(certainty=0.95, bilateral_weight=0.0, spatial_weight=0.0)
        nn.init.zeros_(state.copy.net.classifier.weight)  # type: ignore[union-attr, arg-type]
        labels = torch.where(batch.labels_BHW == 0, IGNORE, batch.labels_BHW)
        some = Batch(image_BCHW=batch.image_BCHW, labels_BHW=labels)
        out = method.losses(net, some, state, 0.5)
        assert out["pseudo"].item() == pytest.approx(out["partial_cross_entropy"].item(), rel=1e-6)
        share = (labels != IGNORE).float().mean().item()
        assert 0 < out["pseudo_label_share"].item() == pytest.approx(share, abs=1e-6)
        none = method.losses(net, without_labels(some), state, 0.5)
        assert none["total"].item() == none["pseudo_label_share"].item() == 0.0

    def test_clicks_stay_where_the_crf_removes_them(self) -> None:
        """Trap: over-smoothing. One pixel of class 3 in images without any other; the rest is as before."""
        method, net, state, batch = set_up(bilateral_weight=20.0, spatial_weight=20.0, labels="hard")
        labels = torch.full_like(batch.labels_BHW, IGNORE)
        with torch.no_grad():
            state.copy.net.classifier.weight.zero_()  # type: ignore[union-attr, operator]
            state.copy.net.classifier.bias.copy_(torch.tensor([5.0, 0, 0, 0]))  # type: ignore[union-attr, operator]
        labels[:, 4, 4] = 3
        clicked = Batch(image_BCHW=batch.image_BCHW, labels_BHW=labels)
        out = method.losses(net, clicked, state, 0.5)
        expected = torch.zeros_like(labels)
        expected[:, 4, 4] = 3
        logits = net(batch.image_BCHW).logits_BKHW.detach().double()
        assert out["pseudo"].item() == pytest.approx(slow_partial_cross_entropy(logits, expected), rel=1e-5)
        assert out["refined_share"].item() == pytest.approx(1 / 64)

    def test_nothing_but_the_network_has_a_gradient(self) -> None:
        """The pseudo labels of the network itself are constants: the gradient is that of given labels."""
        method, net, _, batch = set_up()
        state = method.init(net)
        out = method.losses(net, batch, state, 0.5)
        ours = torch.autograd.grad(out["pseudo"], list(net.parameters()))
        q = slow_refined(
            state,  # type: ignore[arg-type]
            batch,
            (Kernel(10.0, 0.16 * 8, 13 / 255), Kernel(3.0, 3.0, math.inf)),
            5,
        )
        given = nn.functional.cross_entropy(net(batch.image_BCHW).logits_BKHW, q.argmax(1))
        for one, other in zip(ours, torch.autograd.grad(given, list(net.parameters())), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
        assert not any(p.requires_grad for p in state.parameters())

    def test_images_without_a_label_teach(self) -> None:
        assert CrfRefinement.learns_from_unlabelled
        method, net, state, batch = set_up()
        total = method.losses(net, without_labels(batch), state, 0.5)["total"]
        gradients = torch.autograd.grad(total, list(net.parameters()))
        assert all(float(g.abs().max()) > 1e-4 for g in gradients)

    def test_every_round_compiles(self) -> None:
        with plain_methods() as load:
            method, net = load("crf_refinement")(labels="soft"), TinyNetwork()
            state, batch = method.init(TinyNetwork(seed=1)), a_batch()
            torch.compiler.reset()
            compiled = torch.compile(method.losses, fullgraph=True, backend="aot_eager")
            for progress in (0.2, 0.6):
                graph, eager = (f(net, batch, state, progress) for f in (compiled, method.losses))
                torch.testing.assert_close(graph, eager)


class Refusing(nn.Module):
    """A state that must not be asked."""

    def forward(self, image_BCHW: Tensor) -> Output:
        raise AssertionError(f"A forward pass of {len(image_BCHW)} images that nobody needs.")


class Counting(Network):
    """A network that is the number of steps it has made."""

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Parameter(torch.zeros(()))


def copies(iterations: int, rounds: int, interrupted: bool = False) -> tuple[list[int | None], int]:
    """The step at which each step's frozen copy was taken, None in the first round; how many were taken."""
    method, net = CrfRefinement(rounds=rounds), Counting()
    state, taken = method.init(net), list[int | None]()
    for t in range(iterations):
        assert isinstance(state, Frozen)
        first = round_of(t / iterations, rounds) == 0
        taken.append(None if first else int(state.copy.net.step))  # type: ignore[arg-type]
        nn.init.constant_(net.step, t + 1.0)
        method.after_step(net, state, t / iterations)
        if interrupted:
            file = io.BytesIO()
            torch.save(state.state_dict(), file)
            file.seek(0)
            state = method.init(Counting())
            state.load_state_dict(torch.load(file, weights_only=True))
    assert isinstance(state, Frozen)
    return taken, state.copy.updates


class TestRounds:
    @pytest.mark.parametrize("rounds", range(1, 6))
    def test_each_begins_with_the_network_as_it_is_then(self, rounds: int) -> None:
        """Step t is in round t rounds / iterations, rounded down: whole numbers, for any number of steps."""
        for iterations in [*range(1, 41), 97, 100, 999, 1000]:
            in_round = [t * rounds // iterations for t in range(iterations)]
            first = {r: t for t, r in reversed(list(enumerate(in_round)))}
            expected = [first[r] if r else None for r in in_round]
            taken, count = copies(iterations, rounds)
            assert taken == expected, iterations
            if iterations >= 2 * rounds:  # one a round; that of the first step is never asked
                assert count == (rounds if rounds > 1 else 0)

    @pytest.mark.parametrize("iterations", [1, 2, 3, 4, 7, 12])
    def test_go_on_from_any_checkpoint(self, iterations: int) -> None:
        for rounds in range(1, 6):
            assert copies(iterations, rounds, interrupted=True) == copies(iterations, rounds)

    def test_boundaries_are_exact(self) -> None:
        """Trap: 3 (1 / 3) or 5 (3 / 5) may be less than whole in floating point."""
        for rounds in range(1, 6):
            for iterations in range(rounds, 3000 * rounds, rounds):
                for r in range(1, rounds):
                    step = iterations // rounds * r
                    assert round_of(step / iterations, rounds) == r
                    assert round_of((step - 1) / iterations, rounds) == r - 1

    def test_the_first_asks_neither_the_copy_nor_the_crf(self) -> None:
        method, net, _, batch = set_up()
        out = method.losses(net, batch, Refusing(), 0.3333)
        assert torch.equal(out["total"], out["partial_cross_entropy"])
        assert out["pseudo"].item() == out["pseudo_label_share"].item() == out["refined_share"].item() == 0.0
        with pytest.raises(AssertionError, match="nobody needs"):
            method.losses(net, batch, Refusing(), 0.3334)

    def test_the_copy_is_evaluated_whatever_the_loop_says(self) -> None:
        torch.manual_seed(0)
        net = networks.build("unet", {"width": 2, "levels": 2}, 4)
        state = CrfRefinement().init(net)
        state.train()
        image = a_batch().image_BCHW
        first, second = (state(image).logits_BKHW for _ in range(2))
        assert torch.equal(first, second)  # no dropout
        torch.testing.assert_close(state(image[:1]).logits_BKHW, first[:1])  # not normalised by its batch


def a_training(dataset: Dataset, method: str, **settings: Any) -> Training:
    trial = trial_on(
        dataset,
        method=method,
        settings=settings,
        annotation=Annotation(pixels="points", pixel_budget=2),
        protocol=protocol(iterations=6),
    )
    return Training(trial, dataset, CPU)


class TestLoop:
    def test_first_round_is_the_partial_cross_entropy_s_training(self, dataset: Dataset) -> None:
        ours, plain = (a_training(dataset, m) for m in ("crf_refinement", "partial_cross_entropy"))
        for until, alike in ((2, True), (3, False)):
            one, other = (training.advance(until) for training in (ours, plain))
            assert (one["total"] == other["total"]) is alike
            pairs = zip(ours.net.parameters(), plain.net.parameters(), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs) is alike

    def test_copies_are_the_network_s_checkpoints(self, dataset: Dataset, tmp_path: Path) -> None:
        """Six steps of three rounds, interrupted before every one: copies of steps 2 and 4, buffers too."""
        saved: list[dict[str, Any]] = []
        training = a_training(dataset, "crf_refinement")
        for t in range(6):
            torch.save(training.state_dict(), tmp_path / f"{t}.pt")
            saved.append(torch.load(tmp_path / f"{t}.pt", weights_only=True))
            training = a_training(dataset, "crf_refinement")
            training.load_state_dict(saved[t])
            training.advance(t + 1)
        for t, copied in ((2, 2), (3, 2), (4, 4), (5, 4)):
            state, net = saved[t]["state"], saved[copied]["net"]
            assert all(torch.equal(state[f"copy.net.{name}"], value) for name, value in net.items())
        uninterrupted = a_training(dataset, "crf_refinement")
        uninterrupted.advance(6)
        for one, other in zip(uninterrupted.net.parameters(), training.net.parameters(), strict=True):
            assert torch.equal(one, other)
