"""Random walker: resistors by hand, the linear system solved exactly, and no label where there is no seed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.sparse import linalg
from torch import Tensor

from search_spaces import space_of
from tests.reference.test_gated_crf import random_image
from tests.tiny import TinyNetwork, a_batch, plain_methods, without_labels
from trainables import pairwise, terms
from trainables.method import IGNORE, Batch, Terms
from trainables.methods.random_walker import RandomWalker, usable
from trainables.random_walk import FLOOR, random_walk, solve
from trainables.terms import certain_labels, soft_cross_entropy


def seeds_of(height: int, width: int, seeds: dict[tuple[int, int], int]) -> Tensor:
    labels_BHW = torch.full((1, height, width), IGNORE)
    for (row, column), label in seeds.items():
        labels_BHW[0, row, column] = label
    return labels_BHW


def random_seeds(shape: tuple[int, int, int], num_classes: int, share: float, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes, shape, generator=g)
    return torch.where(torch.rand(shape, generator=g) < share, labels, IGNORE)


def exact(image_HW: np.ndarray, labels_HW: np.ndarray, num_classes: int, beta: float) -> np.ndarray:
    """u [K,H,W]: the Laplacian as a sparse matrix, factorised."""
    g = 2 * (image_HW - image_HW.min()) / (image_HW.max() - image_HW.min()) - 1
    index = np.arange(g.size).reshape(g.shape)
    one = np.concatenate([index[1:].ravel(), index[:, 1:].ravel()])
    other = np.concatenate([index[:-1].ravel(), index[:, :-1].ravel()])
    weight = np.exp(-beta * (g.flat[one] - g.flat[other]) ** 2 / (10 * g.std())) + FLOOR
    ends = (np.concatenate([one, other]), np.concatenate([other, one]))
    adjacency = sparse.csr_matrix((np.concatenate([weight, weight]), ends), shape=(g.size, g.size))
    laplacian = (sparse.diags(np.asarray(adjacency.sum(1)).ravel()) - adjacency).tocsr()
    labels_V = labels_HW.ravel()
    seeded = labels_V != IGNORE
    solve = linalg.factorized(laplacian[~seeded][:, ~seeded].tocsc())
    u_KV = (labels_V == np.arange(num_classes)[:, None]).astype(float)
    for u_V in u_KV:
        u_V[~seeded] = solve(-laplacian[~seeded][:, seeded] @ u_V[seeded])
    return u_KV.reshape(num_classes, *g.shape)


def an_organ(size: int, noise: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Image [1,1,S,S] of a disc and a ring around it on a background, and its mask [1,S,S]."""
    row, column = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    radius = ((row - size / 2) ** 2 + (column - size / 2) ** 2).sqrt() / size
    mask = torch.where(radius < 0.15, 2, torch.where(radius < 0.3, 1, 0)).unsqueeze(0)
    g = torch.Generator().manual_seed(seed)
    image = 0.3 * mask + noise * torch.randn(mask.shape, generator=g)
    return image.unsqueeze(1), mask


class TestWalk:
    def test_even_resistors_by_hand(self) -> None:
        """On a constant image, of a row of six pixels between two seeds, u falls linearly."""
        labels = seeds_of(1, 6, {(0, 0): 0, (0, 5): 1})
        u = random_walk(torch.full((1, 1, 1, 6), 0.3), labels, 2, beta=100.0, iterations=20)
        # float32 after more steps than unknowns
        torch.testing.assert_close(u[0, 1, 0], torch.arange(6) / 5, rtol=0, atol=1e-5)
        torch.testing.assert_close(u.sum(1), torch.ones(1, 1, 6), rtol=0, atol=1e-5)

    def test_uneven_resistors_by_hand(self) -> None:
        """Intensities 0, 1, 1, 1: g = -1, 1, 1, 1 with deviation sqrt(3) / 2; one step differs, by 2."""
        step = math.exp(-5.0 * 4 / (10 * math.sqrt(0.75))) + FLOOR
        resistances = torch.tensor([0.0, 1 / step, 1 / (1 + FLOOR), 1 / (1 + FLOOR)], dtype=torch.float64)
        image = torch.tensor([0.0, 1.0, 1.0, 1.0], dtype=torch.float64).view(1, 1, 1, 4)
        u = random_walk(image, seeds_of(1, 4, {(0, 0): 0, (0, 3): 1}), 2, beta=5.0, iterations=20)
        torch.testing.assert_close(u[0, 1, 0], resistances.cumsum(0) / resistances.sum(), rtol=0, atol=1e-10)

    @pytest.mark.parametrize("shape", [(9, 7), (16, 16), (1, 13), (13, 1), (5, 12)])
    @pytest.mark.parametrize("beta", [1.0, 20.0])
    def test_converges_to_the_exact_solution(self, shape: tuple[int, int], beta: float) -> None:
        image, labels = random_image(0, (3, 1, *shape)), random_seeds((3, *shape), 3, 0.2)
        u = random_walk(image, labels, 3, beta=beta, iterations=80)
        for b in range(3):
            expected = exact(image[b, 0].numpy(), labels[b].numpy(), 3, beta)
            np.testing.assert_allclose(u[b].numpy(), expected, rtol=0, atol=1e-5)

    @pytest.mark.parametrize(("iterations", "wrong"), [(20, 2e-3), (40, 2e-4)])
    def test_labels_from_points_are_those_of_the_exact_solution(self, iterations: int, wrong: float) -> None:
        """The whole object is out of reach of as many single steps; two points a class."""
        image, mask = an_organ(96, noise=0.05)
        labels = seeds_of(
            96, 96, {(2, 2): 0, (90, 80): 0, (48, 70): 1, (26, 48): 1, (48, 48): 2, (50, 41): 2}
        )
        assert all(mask[0, r, c] == labels[0, r, c] for r, c in (labels[0] != IGNORE).nonzero().tolist())
        ours = random_walk(image, labels, 3, beta=100.0, iterations=iterations).argmax(1)[0]
        expected = exact(image[0, 0].double().numpy(), labels[0].numpy(), 3, 100.0).argmax(0)
        assert float((ours.numpy() != expected).mean()) <= wrong

    def test_follows_edges_of_the_image(self) -> None:
        image, mask = an_organ(48, noise=0.01)
        labels = seeds_of(48, 48, {(0, 0): 0, (24, 36): 1, (24, 24): 2})
        found = random_walk(image, labels, 3, beta=100.0, iterations=30).argmax(1)
        blind = random_walk(torch.zeros_like(image), labels, 3, beta=100.0, iterations=30).argmax(1)
        assert float((found == mask).float().mean()) > 0.99
        assert float((blind == mask).float().mean()) < 0.9

    def test_seeds_keep_their_label_and_u_is_a_probability(self) -> None:
        image, labels = random_image(1, (4, 1, 20, 17)).float(), random_seeds((4, 20, 17), 4, 0.1)
        for iterations in (1, 20, 60):
            u = random_walk(image, labels, 4, beta=10.0, iterations=iterations)
            seeded = terms.labelled(labels)
            assert torch.equal(u.argmax(1)[seeded], labels[seeded])
            assert torch.equal(u.amax(1)[seeded], torch.ones(int(seeded.sum())))
            assert float(u.min()) >= 0.0
            assert float(u.max()) <= 1.0
        torch.testing.assert_close(u.sum(1), torch.ones(4, 20, 17), rtol=0, atol=1e-3)

    def test_brightness_and_contrast_do_not_matter(self) -> None:
        """beta = 100 belongs to intensities in [-1, 1]."""
        image, labels = random_image(2, (2, 1, 10, 10)), random_seeds((2, 10, 10), 3, 0.2)
        u, other = (random_walk(x, labels, 3, beta=100.0, iterations=30) for x in (image, 0.2 * image + 5))
        torch.testing.assert_close(u, other, rtol=0, atol=1e-7)

    def test_each_image_walks_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        image, labels = random_image(3, (3, 1, 8, 8)), random_seeds((3, 8, 8), 3, 0.2)
        whole = random_walk(image, labels, 3, beta=100.0, iterations=20)
        monkeypatch.setattr(pairwise, "PIECE", 64)
        torch.testing.assert_close(random_walk(image, labels, 3, beta=100.0, iterations=20), whole)

    @pytest.mark.parametrize("given", [torch.float16, torch.bfloat16])
    def test_half_precision_is_computed_in_float32(self, given: torch.dtype) -> None:
        image, labels = random_image(4, (1, 1, 8, 8)).to(given), random_seeds((1, 8, 8), 3, 0.2)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            u = random_walk(image, labels, 3, beta=100.0, iterations=20)
        assert u.dtype == torch.float32
        assert torch.equal(u, random_walk(image.float(), labels, 3, beta=100.0, iterations=20))

    def test_runs_where_there_are_shapes_but_no_values(self) -> None:
        """Nothing is read from the device, whatever the compiler is told of the operation."""
        seeds = terms.one_hot(random_seeds((2, 11, 6), 3, 0.2), 3).float().to("meta")
        u = solve(seeds, torch.ones(2, 1, 10, 6, device="meta"), torch.ones(2, 1, 11, 5, device="meta"), 3)
        assert u.is_meta
        assert u.shape == (2, 3, 11, 6)

    def test_is_one_operation_that_the_compiler_may_trust(self) -> None:
        image, labels = random_image(7, (2, 1, 6, 5)).float(), random_seeds((2, 6, 5), 3, 0.3)
        operation = torch.ops.trainables.random_walk.default
        checks = ("test_schema", "test_faketensor")
        assert torch.library.opcheck(
            operation, (image, labels, 3, 10.0, 2), test_utils=checks
        ) == dict.fromkeys(checks, "SUCCESS")


class TestPseudoLabels:
    def test_without_a_seed_nothing_is_labelled(self) -> None:
        """Trap: an image without any seed must not become background."""
        image, labels = random_image(5, (1, 1, 9, 9)), torch.full((1, 9, 9), IGNORE)
        u = random_walk(image, labels, 3, beta=100.0, iterations=20)
        assert float(u.abs().max()) == 0.0
        assert (certain_labels(u, 0.0) == IGNORE).all()

    def test_class_without_a_seed_is_absent(self) -> None:
        """Trap: with points a class without a seed is routine (RV in 18 % of the slices of ACDC)."""
        image, labels = random_image(6, (1, 1, 9, 9)), seeds_of(9, 9, {(0, 0): 0, (5, 5): 2})
        u = random_walk(image, labels, 4, beta=10.0, iterations=30)
        assert set(certain_labels(u, 0.0).unique().tolist()) == {0, 2}
        assert torch.equal(usable(u, labels, "walk"), u)
        assert float(usable(u, labels, "skip").abs().max()) == 0.0

    def test_skip_takes_images_with_every_class(self) -> None:
        labels = torch.cat([seeds_of(2, 2, {(0, 0): 0, (1, 1): 1}), seeds_of(2, 2, {(0, 0): 0, (1, 1): 0})])
        kept = usable(torch.ones(2, 2, 2, 2), labels, "skip")
        assert kept.amax((1, 2, 3)).tolist() == [1.0, 0.0]

    def test_certainty_by_hand(self) -> None:
        u = torch.tensor([[0.6, 0.4, 0.0, 0.1], [0.4, 0.6, 0.0, 0.9]]).view(1, 2, 2, 2)
        assert certain_labels(u, 0.0).flatten().tolist() == [0, 1, IGNORE, 1]
        assert certain_labels(u, 0.7).flatten().tolist() == [IGNORE, IGNORE, IGNORE, 1]

    def test_soft_cross_entropy_by_hand(self) -> None:
        """Pixels u = (.6, .4), none, (.05, .45) = (.1, .9) of what was reached, and p = (.8, .2)."""
        u = torch.tensor([[0.6, 0.0, 0.05], [0.4, 0.0, 0.45]], dtype=torch.float64).view(1, 2, 1, 3)
        logits = torch.tensor([0.8, 0.2], dtype=torch.float64).log().view(1, 2, 1, 1).expand(1, 2, 1, 3)
        first, last = (-a * math.log(0.8) - (1 - a) * math.log(0.2) for a in (0.6, 0.1))
        assert soft_cross_entropy(logits, u, 0.0).item() == pytest.approx((first + last) / 2, rel=1e-12)
        assert soft_cross_entropy(logits, u, 0.8).item() == pytest.approx(last, rel=1e-12)
        free = logits.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda a: soft_cross_entropy(a, u, 0.0), (free,))


def losses(method: RandomWalker, batch: Batch) -> tuple[TinyNetwork, Terms]:
    net = TinyNetwork()
    return net, method.losses(net, batch, method.init(net), 0.5)


class TestMethod:
    def test_searched_and_published(self) -> None:
        assert list(space_of(RandomWalker)) == ["pseudo_weight", "beta", "certainty"]
        assert RandomWalker().beta == 100

    def test_equals_the_definition(self) -> None:
        batch = a_batch()
        net, out = losses(RandomWalker(pseudo_weight=0.3, solver_iterations=40), batch)
        logits = net(batch.image_BCHW).logits_BKHW
        labels = np.stack(
            [
                exact(x[0].double().numpy(), y.numpy(), 4, 100.0).argmax(0)
                for x, y in zip(batch.image_BCHW, batch.labels_BHW, strict=True)
            ]
        )
        expected = terms.partial_cross_entropy(logits, torch.from_numpy(labels))
        torch.testing.assert_close(out["pseudo"], expected, rtol=1e-4, atol=0)
        torch.testing.assert_close(out["total"], out["partial_cross_entropy"] + 0.3 * out["pseudo"])

    def test_without_its_weight_is_the_partial_cross_entropy(self) -> None:
        _, out = losses(RandomWalker(pseudo_weight=0.0), a_batch())
        assert set(out) == {"total", "partial_cross_entropy"}

    def test_certainty_skip_and_softness_change_the_loss(self) -> None:
        """Image 0 of the batch lacks a class."""
        batch = a_batch()
        values = [
            losses(RandomWalker(**settings), batch)[1]["pseudo"].item()  # type: ignore[arg-type]
            for settings in ({}, {"certainty": 0.8}, {"incomplete": "skip"}, {"labels": "soft"})
        ]
        assert len(set(values)) == 4

    def test_images_without_a_seed_teach_nothing(self) -> None:
        assert not RandomWalker.learns_from_unlabelled
        net, out = losses(RandomWalker(), without_labels(a_batch()))
        assert out["total"].item() == 0.0
        gradients = torch.autograd.grad(out["total"], list(net.classifier.parameters()))
        assert all(float(g.abs().max()) == 0.0 for g in gradients)

    def test_soft_labels_compile(self) -> None:
        with plain_methods() as load:
            method, net = (
                load("random_walker")(labels="soft", incomplete="skip", solver_iterations=20),
                TinyNetwork(),
            )
            state, batch = method.init(net), a_batch()
            torch.compiler.reset()
            compiled = torch.compile(method.losses, fullgraph=True, backend="aot_eager")
            graph, eager = (f(net, batch, state, 0.2)["total"] for f in (compiled, method.losses))
            torch.testing.assert_close(graph, eager)
