"""Every file of trainables/methods/ is held to the same contract, by name, without being listed anywhere."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import inspect
import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from search_spaces import hyper_parameters, space_of
from search_spaces.to_optuna import distributions
from tests.tiny import TinyNetwork, a_batch, mapped, plain_methods, without_labels
from trainables import discovery
from trainables.method import AbstractMethod, Batch, Network, State, Terms

METHODS = discovery.names()
NEEDS = {"pixels", "dense", "statistics"}
CORNERS = 64
IMPORTS = {
    "__future__", "collections", "collections.abc", "copy", "dataclasses", "jaxtyping", "math",
    "search_spaces", "trainables.bilateral", "trainables.discrete", "trainables.ema", "trainables.flips",
    "trainables.mean_field", "trainables.method", "trainables.pairwise", "trainables.random_walk",
    "trainables.regulariser", "trainables.sampled_gradient", "trainables.schedules", "trainables.terms",
    "typing",
}  # fmt: skip
IMPORT_ROOTS = ("torch", "trainables.networks")
SYNCHRONISES = {"cpu", "item", "numpy", "tolist"}

pytestmark = pytest.mark.parametrize("name", METHODS)


def source_of(name: str) -> ast.Module:
    return ast.parse(Path(inspect.getfile(discovery.load(name))).read_text(encoding="utf-8"))


def set_up(method: AbstractMethod, num_classes: int = 4, **batch: Any) -> tuple[Network, State, Batch]:
    net = TinyNetwork(num_classes)
    torch.manual_seed(0)
    return net, method.init(net), a_batch(num_classes, needs=method.needs, **batch)


def run(
    method: AbstractMethod, net: Network, batch: Batch, state: State, progress: float = 0.5, seed: int = 0
) -> Terms:
    torch.manual_seed(seed)  # whatever a method draws, it draws from here
    return method.losses(net, batch, state, progress)


def gradient_size(net: Network, total: Tensor) -> float:
    """Sum of absolute gradients; a parameter that the loss does not reach counts as 0."""
    gradients = torch.autograd.grad(total, list(net.parameters()), allow_unused=True)
    return sum(g.abs().sum().item() for g in gradients if g is not None)


def assert_trains(name: str, values: Mapping[str, Any], num_classes: int = 4) -> None:
    method = discovery.load(name)(**values)
    net, state, batch = set_up(method, num_classes)
    terms = run(method, net, batch, state)
    assert all(t.ndim == 0 and t.dtype == torch.float32 for t in terms.values()), values
    assert all(math.isfinite(t.item()) for t in terms.values()), values
    size = gradient_size(net, terms["total"])
    assert math.isfinite(size), values
    assert size > 0, values


def corners(name: str) -> Iterator[dict[str, Any]]:
    """All corners of the searched box, or where they are too many the default moved to each bound in turn."""
    space = space_of(discovery.load(name))
    sides = {field: domain.corners() for field, domain in space.items()}
    if math.prod(map(len, sides.values())) <= CORNERS:
        yield from (dict(zip(sides, point, strict=True)) for point in itertools.product(*sides.values()))
    else:
        yield from ({field: value} for field, side in sides.items() for value in side)


class TestDeclaration:
    def test_is_a_final_frozen_dataclass_with_slots(self, name: str) -> None:
        cls = discovery.load(name)
        assert getattr(cls, "__final__", False)
        assert cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
        assert all(field.kw_only for field in dataclasses.fields(cls))  # type: ignore[arg-type]
        assert "__slots__" in vars(cls)
        for field in hyper_parameters(cls)[:1]:
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(cls(), field.name, field.default)

    def test_class_name_follows_the_file(self, name: str) -> None:
        assert discovery.load(name).__name__ == "".join(part.title() for part in name.split("_"))

    def test_module_docstring_is_a_card(self, name: str) -> None:
        cls = discovery.load(name)
        first, *rest = (inspect.getmodule(cls).__doc__ or "").splitlines()  # type: ignore[union-attr]
        assert first.endswith(".")
        assert "$$" in "\n".join(rest)
        assert "Source" in "\n".join(rest)
        assert cls.paper

    def test_needs_what_an_annotation_can_grant(self, name: str) -> None:
        needs = discovery.load(name).needs
        assert needs
        assert needs <= NEEDS

    def test_published_default_is_reachable(self, name: str) -> None:
        cls = discovery.load(name)
        for parameter in hyper_parameters(cls):
            assert parameter.source
            assert parameter.unit
            assert parameter.accepts(getattr(cls(), parameter.name))

    def test_optuna_draws_fall_in_the_space(self, name: str) -> None:
        space = space_of(discovery.load(name))
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        for _ in range(20):
            drawn = study.ask(fixed_distributions=distributions(space)).params
            assert drawn.keys() == space.keys()
            assert all(drawn[field] in domain for field, domain in space.items())

    def test_imports_only_the_shared_modules(self, name: str) -> None:
        for node in ast.walk(source_of(name)):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom):
                package = node.module == "trainables"
                modules = [f"trainables.{a.name}" for a in node.names] if package else [str(node.module)]
            for module in modules:
                root = any(module == r or module.startswith(r + ".") for r in IMPORT_ROOTS)
                assert root or module in IMPORTS, f"{name} imports {module}"

    def test_has_a_reference_test(self, name: str) -> None:
        assert importlib.util.find_spec(f"tests.reference.test_{name}") is not None


class TestLosses:
    def test_every_corner_of_the_space_trains(self, name: str) -> None:
        for values in corners(name):
            assert_trains(name, values)

    def test_every_named_choice_trains(self, name: str) -> None:
        for parameter in hyper_parameters(discovery.load(name)):
            if parameter.allowed is not None and not parameter.searched:
                for value in parameter.allowed.corners():
                    assert_trains(name, {parameter.name: value})

    def test_every_weight_can_be_switched_off(self, name: str) -> None:
        for parameter in hyper_parameters(discovery.load(name)):
            if parameter.off is not None:
                assert_trains(name, {parameter.name: parameter.off})

    @pytest.mark.parametrize("num_classes", [2, 3])
    def test_any_number_of_classes(self, name: str, num_classes: int) -> None:
        assert_trains(name, {}, num_classes)

    @pytest.mark.parametrize("progress", [0.0, 1.0])
    def test_first_and_last_step_are_finite(self, name: str, progress: float) -> None:
        method = discovery.load(name)()
        net, state, batch = set_up(method)
        assert all(math.isfinite(t.item()) for t in run(method, net, batch, state, progress).values())

    def test_permuting_the_batch_does_not_change_the_loss(self, name: str) -> None:
        method = discovery.load(name)()
        net, state, batch = set_up(method)
        one, other = (run(method, net, batch, state, seed=seed)["total"] for seed in (0, 1))
        if one != other:
            pytest.skip("the loss draws random numbers per image: equal in distribution only")
        order = torch.tensor([2, 0, 3, 1])
        permuted = run(method, net, mapped(batch, lambda t: t[order]), state)["total"]
        torch.testing.assert_close(permuted, one)

    @pytest.mark.parametrize("images", [slice(0, 1), slice(None)])
    def test_images_without_a_label_stay_finite(self, name: str, images: slice) -> None:
        method = discovery.load(name)()
        net, state, batch = set_up(method)
        terms = run(method, net, without_labels(batch, images), state)
        assert all(math.isfinite(t.item()) for t in terms.values())
        assert math.isfinite(gradient_size(net, terms["total"]))

    def test_saturated_logits_stay_finite(self, name: str) -> None:
        method = discovery.load(name)()
        net, state, batch = set_up(method)
        with torch.no_grad():
            net.classifier.weight.mul_(1e4)  # type: ignore[operator, union-attr]
        terms = run(method, net, batch, state)
        assert all(math.isfinite(t.item()) for t in terms.values())
        assert math.isfinite(gradient_size(net, terms["total"]))

    def test_float32_under_bfloat16_autocast(self, name: str) -> None:
        method = discovery.load(name)()
        net, state, batch = set_up(method)
        full = run(method, net, batch, state)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            reduced = run(method, net, batch, state)
        assert reduced.keys() == full.keys()
        assert all(t.dtype == torch.float32 for t in reduced.values())
        assert all(math.isfinite(t.item()) for t in reduced.values())
        assert gradient_size(net, reduced["total"]) > 0

    def test_does_not_touch_the_batch_or_the_network(self, name: str) -> None:
        method = discovery.load(name)()
        net, state, batch = set_up(method)
        images, labels = batch.image_BCHW.clone(), batch.labels_BHW.clone()
        weights = [p.detach().clone() for p in net.parameters()]
        run(method, net, batch, state)
        assert torch.equal(batch.image_BCHW, images)
        assert torch.equal(batch.labels_BHW, labels)
        assert all(torch.equal(a, b) for a, b in zip(net.parameters(), weights, strict=True))


class OperationCounter(TorchDispatchMode):
    """Counts the tensor operations that reach the device."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


class TestSpeed:
    def test_source_calls_nothing_that_waits_for_the_device(self, name: str) -> None:
        calls = [n for n in ast.walk(source_of(name)) if isinstance(n, ast.Call)]
        called = {c.func.attr for c in calls if isinstance(c.func, ast.Attribute)}
        assert not called & SYNCHRONISES

    def test_runs_where_there_are_shapes_but_no_values(self, name: str) -> None:
        """Meta tensors raise when a value is read, makes a shape, or meets a tensor left on the CPU."""
        method = discovery.load(name)()
        net, state, batch = set_up(method)
        terms = run(method, net.to("meta"), mapped(batch, lambda t: t.to("meta")), state.to("meta"))
        assert all(t.is_meta and t.ndim == 0 for t in terms.values())

    def test_has_no_loop_over_images_or_pixels(self, name: str) -> None:
        method = discovery.load(name)()
        counts = []
        for num_images, size in ((2, 8), (6, 8), (2, 16), (2, 32)):
            net, state, batch = set_up(method, num_images=num_images, size=size)
            with OperationCounter() as counter:
                run(method, net, batch, state)
            counts.append(counter.count)
        few, more, doubled, again = counts
        assert few == more > 0
        # Windows that double may add operations with each doubling of the side, the same number or a few
        # more; a loop over rows adds twice as many each time, one over pixels four times.
        assert 0 <= again - doubled <= 1.5 * (doubled - few)

    def test_compiles_into_one_graph_that_equals_eager(self, name: str) -> None:
        with plain_methods() as load:
            method = load(name)()
            net, state, batch = set_up(method)
            eager = run(method, net, batch, state)
            size = gradient_size(net, eager["total"])  # a second pass may move buffers of the state
            torch.compiler.reset()
            torch.manual_seed(0)
            compiled = torch.compile(method.losses, fullgraph=True, backend="aot_eager")
            graph = compiled(net, batch, state, 0.5)
            assert graph.keys() == eager.keys()
            for term, value in eager.items():
                torch.testing.assert_close(graph[term], value)
            assert gradient_size(net, graph["total"]) == pytest.approx(size, rel=1e-4)


class TestState:
    def test_is_on_the_optimiser_s_side_only_where_it_has_a_gradient(self, name: str) -> None:
        method = discovery.load(name)()
        net, state, batch = set_up(method)
        owned = [p for p in state.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(
            run(method, net, batch, state)["total"], [*net.parameters(), *owned], allow_unused=True
        )[len(list(net.parameters())) :]
        assert all(g is not None and torch.isfinite(g).all() for g in gradients)

    def test_survives_a_checkpoint(self, name: str) -> None:
        method = discovery.load(name)()
        net, state, batch = set_up(method)
        method.after_step(net, state, 0.5)
        net.eval()
        before = run(method, net, batch, state)
        torch.manual_seed(1)
        restored = method.init(TinyNetwork(seed=1))
        restored.load_state_dict(state.state_dict())
        after = run(method, net, batch, restored)
        assert all(torch.equal(before[term], after[term]) for term in before)

    @pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
    def test_stays_finite_after_a_step(self, name: str, progress: float) -> None:
        method = discovery.load(name)()
        net, state, batch = set_up(method)
        method.after_step(net, state, progress)
        values = [*net.parameters(), *state.state_dict().values()]
        assert all(bool(torch.isfinite(v).all()) for v in values)
        assert math.isfinite(run(method, net, batch, state, progress)["total"].item())
