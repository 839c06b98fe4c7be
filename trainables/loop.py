"""The one training loop. Knows neither Ray nor MLflow: a `Training` advances, validates, tests, saves, loads.

Everything random at step t is drawn from (seed, t), so a training that was killed and continued from its
checkpoint is bit for bit the training that was not (on the CPU, with the same number of threads), wherever
between two steps it was cut off.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainables import discovery, inference, metrics, micro_batches, networks
from trainables.batches import BatchSource
from trainables.data.dataset import Dataset, resize_ids
from trainables.failures import NotFiniteError
from trainables.method import Batch, Network, Terms
from trainables.seeds import stable_seed
from trainables.trial import Trial


class InterruptionError(Exception):
    """A training was asked to stop, between two steps or in a validation: its state may be saved."""


class Training:
    """One trial between its first step and its scores."""

    def __init__(
        self,
        trial: Trial,
        dataset: Dataset,
        device: torch.device,
        *,
        network: Mapping[str, Tensor] | None = None,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        """network: the weights that a pre-trained trial starts from, instead of random ones.

        interrupted: asked before every step and every batch of a prediction; once it is true, these raise
        InterruptionError.
        """
        self.trial, self.dataset, self.device = trial, dataset, device
        self.interrupted = interrupted
        self.parts = 1
        """Micro-batches of a step; more than one only where `divisible`."""
        self.split = dataset.folds[trial.fold]
        self.iteration = 0
        self.start = self.until = 0
        """The iterations between which the loss terms are summed: of the last or the broken-off `advance`."""
        self.sums: dict[str, Tensor] = {}
        self.kept: dict[str, Any] | None = None
        """The validation metrics and the weights that the protocol keeps so far."""
        torch.manual_seed(stable_seed("weights", trial.seed))
        self.method = discovery.load(trial.method)(**trial.settings)
        self.net: Network = networks.build(trial.network, trial.network_settings, dataset.num_classes)
        if network is not None:
            self.net.load_state_dict(network)
        self.state = self.method.init(self.net)
        layout = inference.layout_for(device)
        self.net.to(device=device, memory_format=layout)  # type: ignore[call-overload]
        self.state.to(device=device, memory_format=layout)  # type: ignore[call-overload]
        if trial.protocol.compiled:
            self.net.compile()  # in place: weights keep their names, so checkpoints fit either way
        self.optimiser = self._optimiser()
        self.batches = BatchSource(trial, dataset, device, layout)
        self.reduced = inference.reduces(trial.protocol.precision, device)

    def _parameters(self) -> list[nn.Parameter]:
        owned = [*self.net.parameters(), *self.state.parameters()]
        return [p for p in owned if p.requires_grad]

    def _optimiser(self) -> torch.optim.Optimizer:
        protocol = self.trial.protocol
        if protocol.optimiser == "adam":
            return torch.optim.Adam(
                self._parameters(),
                lr=protocol.learning_rate,
                betas=(protocol.momentum, 0.999),
                weight_decay=protocol.weight_decay,
            )
        return torch.optim.SGD(
            self._parameters(),
            lr=protocol.learning_rate,
            momentum=protocol.momentum,
            weight_decay=protocol.weight_decay,
        )

    def advance(self, until: int) -> dict[str, float]:
        """Trains up to iteration `until`; returns the mean of every loss term on the way.

        After an InterruptionError the same call goes on where it stopped, also in another process that loaded
        the state, and returns the mean over the whole way; once there, it returns that again.
        Raises NotFiniteError when a loss was NaN or infinite, or the last step left such a weight. The check
        costs two host synchronisations a call, none a step: terms are summed on the device.
        """
        self.net.train()
        self.state.train()
        if until != self.until:
            self.start, self.until, self.sums = self.iteration, until, {}
        while self.iteration < until:
            self._stop_if_asked()
            for name, value in self._step().items():
                value = value.detach()
                self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.iteration += 1
        return self._means() if self.sums else {}

    def _means(self) -> dict[str, float]:
        means = {name: float(total) / (self.until - self.start) for name, total in self.sums.items()}
        weights_finite = bool(torch.stack([p.isfinite().all() for p in self._parameters()]).all())
        if not (weights_finite and all(math.isfinite(value) for value in means.values())):
            broken = ", ".join(f"{name} = {value}" for name, value in means.items())
            raise NotFiniteError(
                f"The loss or a weight is not finite between iterations {self.start} and {self.until}: "
                f"{broken}."
            )
        return means

    def _stop_if_asked(self) -> None:
        if self.interrupted():
            raise InterruptionError

    def _step(self) -> dict[str, Tensor]:
        protocol, t = self.trial.protocol, self.iteration
        torch.manual_seed(stable_seed("step", self.trial.seed, t))  # dropout and whatever a method draws
        for group in self.optimiser.param_groups:
            group["lr"] = protocol.learning_rate_at(t)
        progress = t / protocol.iterations
        batch = self.batches.batch(t)
        self.optimiser.zero_grad(set_to_none=True)
        terms = self._backward(batch, progress)
        self.optimiser.step()
        self.method.after_step(self.net, self.state, progress)
        return terms

    def _backward(self, batch: Batch, progress: float) -> Terms:
        def losses(part: Batch) -> Terms:
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.reduced):
                return self.method.losses(self.net, part, self.state, progress)

        if self.parts > 1:
            return micro_batches.backward(losses, batch, self.parts, self.method.means_over())
        terms = losses(batch)
        terms["total"].backward()
        return terms

    @property
    def divisible(self) -> bool:
        """Whether a step may be computed in micro-batches."""
        return bool(self.method.means_over()) and self.trial.protocol.batch_size > 1

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Class ids [len(rows), H, W] uint8 of the data set's rows, in evaluation mode."""
        self.net.eval()
        return np.concatenate([self._classify(part) for part in _chunks(rows)])

    def _classify(self, rows: np.ndarray) -> np.ndarray:
        self._stop_if_asked()
        images = self.batches.images(rows)
        edge_filter = self.trial.protocol.edge_filter
        return inference.classify(self.net, images, edge_filter=edge_filter, reduced=self.reduced)

    def validate(self, names: Sequence[str]) -> dict[str, float]:
        """Metrics on the validation split: mean over volumes, then over foreground classes."""
        rows, data = self.split.val, self.dataset
        if set(names) == {"dice"}:  # the common case without any distance transform
            volumes = [data.volume_ids[r] for r in rows]
            truths, _ = data.truths(rows)
            predictions = _resized(self.predict(rows), truths)
            return {
                "dice": float(metrics.dice_per_volume(predictions, truths, volumes, data.num_classes).mean())
            }
        scores = self.score(rows, distances="hd95" in names)
        return {name: metrics.mean_score(scores, name) for name in names}

    def keep(self, values: Mapping[str, float]) -> Mapping[str, float]:
        """Keeps the weights as they are if the protocol's rule prefers them; returns the kept ones' metrics.

        values: what `validate` just gave, with the metric that the rule names (`protocol.kept_by`).
        """
        metric = self.trial.protocol.kept_by
        if metric is None:
            return values
        if self.kept is None or metrics.is_better(values[metric], self.kept["values"][metric], metric):
            weights = {name: value.detach().clone() for name, value in self.net.state_dict().items()}
            self.kept = {"values": dict(values), "weights": weights}
        kept: dict[str, float] = self.kept["values"]
        return kept

    def restore_kept(self) -> None:
        """Puts the kept weights into the network: those that are tested and handed on."""
        if self.kept is not None:
            self.net.load_state_dict(self.kept["weights"])

    @contextlib.contextmanager
    def kept_weights(self) -> Iterator[None]:
        """`restore_kept`, undone by an interruption: a continuation must validate the last weights again."""
        if self.kept is None:
            yield
            return
        last = {name: value.detach().clone() for name, value in self.net.state_dict().items()}
        self.restore_kept()
        try:
            yield
        except InterruptionError:
            self.net.load_state_dict(last)
            raise

    def score(self, rows: np.ndarray, *, distances: bool = True) -> list[metrics.CaseScore]:
        """Every metric per volume and foreground class of the data set's rows."""
        return self.scores_of(self.predict(rows), rows, distances=distances)

    def scores_of(
        self, predictions_NHW: np.ndarray, rows: np.ndarray, *, distances: bool = True
    ) -> list[metrics.CaseScore]:
        """predictions_NHW: what `predict` gave for the rows; they are judged at the masks' stored size."""
        data = self.dataset
        truths, spacing_mm = data.truths(rows)
        return metrics.score_volumes(
            _resized(predictions_NHW, truths),
            truths,
            case_ids=[data.case_ids[r] for r in rows],
            volume_ids=[data.volume_ids[r] for r in rows],
            slice_index=data.slice_index[rows],
            spacing_mm=spacing_mm,
            num_classes=data.num_classes,
            distances=distances,
        )

    def state_dict(self) -> dict[str, Any]:
        """All that a continuation needs; random numbers follow from the iteration."""
        return {
            "iteration": self.iteration,
            "net": self.net.state_dict(),
            "state": self.state.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "kept": self.kept,
            "parts": self.parts,
            "sums": {"start": self.start, "until": self.until, "terms": self.sums},
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.iteration = saved["iteration"]
        self.net.load_state_dict(saved["net"])
        self.state.load_state_dict(saved["state"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.kept = saved["kept"]
        self.parts, sums = saved["parts"], saved["sums"]
        self.start, self.until, self.sums = sums["start"], sums["until"], sums["terms"]


def _chunks(rows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), inference.BATCH):
        yield rows[start : start + inference.BATCH]


def _resized(predictions_NHW: np.ndarray, truths: Sequence[np.ndarray]) -> list[np.ndarray]:
    pairs = zip(predictions_NHW, truths, strict=True)
    return [resize_ids(prediction_HW, truth_HW.shape) for prediction_HW, truth_HW in pairs]
