"""A study as its trials, their identity and their cost before anything starts."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from search_spaces import space_of
from study.schedule import independence, sampler_name
from study.spec import Arm, Stage, Study, base_point, protocol_of, search_trials
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
        protocol=protocol_of(study, arm, **protocol),
        data=data,
        fold=fold,
        seed=seed,
        test=test,
        pretraining=_pretraining_of(study, arm.pretraining, data, seed=seed, fold=fold),
    )


def _pretraining_of(
    study: Study, stage: Stage | None, data: DataSource, *, seed: int, fold: int
) -> Trial | None:
    """Depends on neither the arm nor its parameters: arms with the same stage share it."""
    if stage is None:
        return None
    assert study.pretraining is not None
    return Trial(
        method=stage.method,
        settings=stage.settings,
        annotation=stage.annotation,
        network=study.network,
        network_settings=study.network_settings,
        protocol=study.pretraining,
        data=data,
        fold=fold,
        seed=seed,
    )


def pretrainings(study: Study, data: DataSource) -> dict[str, Trial]:
    """Every pre-training that the study may start from, once each, by key: the search's first."""
    of_search = (study.search.seed, study.data.fold)
    used = [(of_search, arm.pretraining) for arm in study.arms if search_trials(study, arm)]
    used += [(pair, arm.pretraining) for pair in study.replicates.pairs() for arm in study.arms]
    trials = (_pretraining_of(study, stage, data, seed=seed, fold=fold) for (seed, fold), stage in used)
    return {trial.key(): trial for trial in trials if trial is not None}


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
    search: str
    """Who proposes, and what that does not depend on; "" where no arm searches."""
    pretrainings: int
    """Trainings that arms start from and share; those whose network a home already holds are not repeated."""
    pretraining_seconds: float | None
    """Of one worker, for all of them; None when not measured."""
    gpus_per_trial: float = 0.0
    sharing: str = ""
    """Why a trial takes that share of a GPU, where a probe decided it."""

    @property
    def trials(self) -> int:
        """Of the arms; the pre-trainings come on top."""
        return sum(arm.trials for arm in self.arms)

    @property
    def training_seconds(self) -> float | None:
        """Of one worker, if no trial is stopped early; None when not measured."""
        known = [
            a.iterations * a.seconds_per_iteration for a in self.arms if a.seconds_per_iteration is not None
        ]
        return sum(known) + (self.pretraining_seconds or 0.0) if len(known) == len(self.arms) else None

    @property
    def wall_seconds(self) -> tuple[float, float] | None:
        """A range: every searched trial but one an arm stopped at the first rung .. none stopped."""
        if self.training_seconds is None:
            return None
        least = sum(self._fewest_iterations(a) * (a.seconds_per_iteration or 0.0) for a in self.arms)
        least += self.pretraining_seconds or 0.0
        return least / self.concurrency, self.training_seconds / self.concurrency

    def _fewest_iterations(self, arm: ArmPlan) -> float:
        whole = arm.iterations / arm.trials
        stopped = min((*self.rungs, whole))
        going_on = min(1, arm.search_trials)
        return (arm.confirm_trials + going_on) * whole + (arm.search_trials - going_on) * stopped


def make(
    study: Study,
    *,
    annotation_seconds: Mapping[str, float],
    rungs: tuple[int, ...],
    concurrency: int,
    missing: Sequence[Trial] = (),
    speed: Mapping[str, float] | None = None,
    gpus_per_trial: float = 0.0,
    sharing: str = "",
) -> Plan:
    """The plan of a study; `missing` are the pre-trainings that a home lacks, `speed` holds measured seconds
    per iteration by arm."""
    arms = []
    for arm in study.arms:
        search = search_trials(study, arm)
        arms.append(
            ArmPlan(
                name=arm.name,
                method=arm.method,
                sampler=sampler_name(study.search) if search > 1 else "published configuration",
                search_trials=search,
                confirm_trials=study.num_replicates,
                searched=tuple(arm.search),
                iterations=(search + study.num_replicates) * protocol_of(study, arm).iterations,
                annotation_seconds=annotation_seconds[arm.name],
                seconds_per_iteration=None if speed is None else speed[arm.name],
            )
        )
    steps = sum(trial.protocol.iterations for trial in missing)
    return Plan(
        study=study.name,
        arms=tuple(arms),
        rungs=rungs,
        concurrency=concurrency,
        search=independence(study.search) if any(arm.search_trials > 1 for arm in arms) else "",
        pretrainings=len(missing),
        # A supervised step is as long as the shortest of the arms' steps: it has no weak loss.
        pretraining_seconds=None if speed is None else steps * min(speed.values()),
        gpus_per_trial=gpus_per_trial,
        sharing=sharing,
    )


def check_arms(study: Study, dataset: Dataset, data: DataSource) -> dict[str, float]:
    """Every arm's annotator seconds. Raises UserError for an arm that could not be trained.

    The weak labels of each arm are really made and the loss of two images is really computed, once, so that a
    budget which no image can fill, a scribble that the data lack or a statistic that a method's settings ask
    for in vain is refused here and not in a worker.
    """
    train = dataset.folds[study.data.fold].train
    masks = np.asarray(dataset.masks_NHW[train])
    seconds: dict[str, float] = {}
    tried: set[str] = set()
    for arm in study.arms:
        trial = trial_of(
            study, arm, base_point(study, arm), data, seed=study.search.seed, fold=study.data.fold, test=False
        )
        trial.check()
        stages = [trial] if trial.pretraining is None else [trial, trial.pretraining]
        # An image that one stage has dense and the other clicked is paid for once: a mask holds the clicks.
        for stage in stages:
            if stage.key() not in tried:  # arms share their pre-training
                tried.add(stage.key())
                _try_out(stage, dataset)
        costs = [
            cost_seconds(stage.annotation, masks, weak_labels(stage, dataset).labelled_N, dataset.num_classes)
            for stage in stages
        ]
        seconds[arm.name] = float(np.max(costs, axis=0).sum())
    _label_every_fold(study, dataset, data)
    return seconds


def _label_every_fold(study: Study, dataset: Dataset, data: DataSource) -> None:
    """A class that is labelled in one fold's training images may be missing in another's."""
    for fold in study.replicates.folds:
        if fold != study.data.fold:
            for arm in study.arms:
                trial = trial_of(study, arm, base_point(study, arm), data, seed=0, fold=fold, test=False)
                weak_labels(trial, dataset)


def _try_out(trial: Trial, dataset: Dataset) -> None:
    """One loss. Raises UserError where a worker's first step would."""
    import torch

    from trainables.loop import Training

    protocol = trial.protocol
    size = min(2, protocol.batch_size)
    small = dataclasses.replace(
        protocol, batch_size=size, labelled_per_batch=min(size, protocol.labelled_per_batch)
    )
    training = Training(dataclasses.replace(trial, protocol=small), dataset, torch.device("cpu"))
    with torch.no_grad():
        training.method.losses(training.net, training.batches.batch(0), training.state, 0.0)


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
