"""A study as its trials, their identity and their cost before anything starts."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from search_spaces import space_of
from study.proposals import sampler_name
from study.spec import Arm, Study, base_point
from trainables import discovery
from trainables.annotations import cost_seconds
from trainables.batches import weak_labels
from trainables.data.dataset import Dataset
from trainables.trial import DataSource, Trial


def trial_of(
    study: Study,
    arm: Arm,
    parameters: Mapping[str, Any],
    data: DataSource,
    *,
    seed: int,
    fold: int,
    test: bool,
) -> Trial:
    """The trial that an arm's parameters stand for: those of the method, then those of the protocol."""
    of_method = space_of(discovery.load(arm.method))
    settings = {**arm.settings, **{k: v for k, v in parameters.items() if k in of_method}}
    protocol = {k: v for k, v in parameters.items() if k not in of_method}
    return Trial(
        method=arm.method,
        settings=settings,
        annotation=arm.annotation,
        network=study.network,
        network_settings=study.network_settings,
        protocol=dataclasses.replace(study.protocol, **protocol),
        data=data,
        fold=fold,
        seed=seed,
        test=test,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmPlan:
    """What one arm will do."""

    name: str
    method: str
    sampler: str
    search_trials: int
    confirm_trials: int
    searched: tuple[str, ...]
    iterations: int
    """Optimiser steps if no trial is stopped early."""
    annotation_seconds: float
    """Annotator's time for the training images."""
    seconds_per_iteration: float | None
    """Measured here, on one trial's share of the machine; None when not measured."""

    @property
    def trials(self) -> int:
        return self.search_trials + self.confirm_trials


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a study will do, and what that costs at most."""

    study: str
    arms: tuple[ArmPlan, ...]
    rungs: tuple[int, ...]
    concurrency: int

    @property
    def trials(self) -> int:
        return sum(arm.trials for arm in self.arms)

    @property
    def training_seconds(self) -> float | None:
        """Of one worker, if no trial is stopped early; None when not measured."""
        known = [
            a.iterations * a.seconds_per_iteration for a in self.arms if a.seconds_per_iteration is not None
        ]
        return sum(known) if len(known) == len(self.arms) else None

    @property
    def wall_seconds(self) -> tuple[float, float] | None:
        """A range: every searched trial but one an arm stopped at the first rung .. none stopped."""
        if self.training_seconds is None:
            return None
        least = sum(self._fewest_iterations(a) * (a.seconds_per_iteration or 0.0) for a in self.arms)
        return least / self.concurrency, self.training_seconds / self.concurrency

    def _fewest_iterations(self, arm: ArmPlan) -> float:
        whole = arm.iterations / arm.trials
        stopped = min((*self.rungs, whole))
        return (arm.confirm_trials + 1) * whole + (arm.search_trials - 1) * stopped


def make(
    study: Study,
    *,
    annotation_seconds: Mapping[str, float],
    rungs: tuple[int, ...],
    concurrency: int,
    speed: Mapping[str, float] | None = None,
) -> Plan:
    """The plan of a study; `speed` holds measured seconds per iteration by arm."""
    arms = []
    for arm in study.arms:
        search = study.search.trials if arm.search else 1
        arms.append(
            ArmPlan(
                name=arm.name,
                method=arm.method,
                sampler=sampler_name(study.search)
                if arm.search and search > 1
                else "published configuration",
                search_trials=search,
                confirm_trials=study.num_replicates,
                searched=tuple(arm.search),
                iterations=(search + study.num_replicates) * study.protocol.iterations,
                annotation_seconds=annotation_seconds[arm.name],
                seconds_per_iteration=None if speed is None else speed[arm.name],
            )
        )
    return Plan(study=study.name, arms=tuple(arms), rungs=rungs, concurrency=concurrency)


def check_arms(study: Study, dataset: Dataset, data: DataSource) -> dict[str, float]:
    """Every arm's annotator seconds. Raises UserError for an arm that could not be trained.

    The weak labels of each arm are really made, once, so that a budget which no image can fill or a
    scribble that the data lack is refused here and not in a worker.
    """
    train = dataset.folds[study.data.fold].train
    masks = np.asarray(dataset.masks_NHW[train])
    seconds: dict[str, float] = {}
    for arm in study.arms:
        trial = trial_of(
            study, arm, base_point(study, arm), data, seed=study.search.seed, fold=study.data.fold, test=False
        )
        trial.check()
        weak_labels(trial, dataset)
        seconds[arm.name] = float(cost_seconds(arm.annotation, masks, dataset.num_classes).sum())
    return seconds


def measure(
    study: Study, dataset: Dataset, data: DataSource, *, threads: int, steps: int = 4
) -> dict[str, float]:
    """Seconds per training step of each arm on this machine's CPU or GPU, after one warm-up step."""
    import torch

    from trainables.loop import Training

    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    speed: dict[str, float] = {}
    long_enough = dataclasses.replace(study.protocol, iterations=max(steps + 1, study.protocol.iterations))
    for arm in study.arms:
        trial = trial_of(
            study, arm, base_point(study, arm), data, seed=study.search.seed, fold=study.data.fold, test=False
        )
        training = Training(dataclasses.replace(trial, protocol=long_enough), dataset, device)
        training.advance(1)
        started = time.perf_counter()
        training.advance(1 + steps)
        speed[arm.name] = (time.perf_counter() - started) / steps
    return speed
