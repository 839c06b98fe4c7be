"""Which configuration an arm tries next: Optuna's samplers, made independent of timing.

Trial n of an arm is proposed from the results of trials 0 .. n - lookahead and from nothing else, by a
sampler seeded with (study seed, arm, n). So the search is the same on one core and on a hundred, and the
same after any number of kills: a proposal can be computed again, and what a machine's luck reorders
within the window of `lookahead` cannot change it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from search_spaces.to_optuna import distributions
from study.schedule import sampler_name
from study.spec import Arm, Search
from trainables.seeds import stable_seed

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(slots=True)
class Attempt:
    """One trial of an arm's search, as the sampler and the pruning rule see it."""

    number: int
    parameters: dict[str, Any]
    state: str = "running"
    value: float | None = None
    rungs: dict[int, float] = field(default_factory=dict)
    """Validation metric by iteration."""
    error: str = ""

    @property
    def ended(self) -> bool:
        return self.state != "running"


def _sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    seed %= 2**32  # numpy's legacy generators take no more
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "gp":
            return optuna.samplers.GPSampler(seed=seed, deterministic_objective=False)
        if name == "tpe":
            return optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
        return optuna.samplers.RandomSampler(seed=seed)


class Proposer:
    """Proposals for one arm, from an in-memory Optuna study that is shown results late and in order."""

    def __init__(self, study_name: str, arm: Arm, search: Search, *, greater_is_better: bool) -> None:
        self.arm, self.search = arm, search
        self.name = sampler_name(search)
        self.seed = (study_name, arm.name, search.seed)
        self.distributions = distributions(arm.search)
        self.mirror = optuna.create_study(direction="maximize" if greater_is_better else "minimize")
        self.worst = 0.0 if greater_is_better else float("inf")
        self.shown: set[int] = set()
        self.proposed: dict[int, dict[str, Any]] = {}
        """By number. Drawing one twice would leave two trials of one number in the mirror."""

    def propose(self, attempts: list[Attempt], base: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters of trial len(attempts); trial 0 is the published configuration.

        `attempts` up to len(attempts) - lookahead must have ended.
        """
        number = len(attempts)
        if number == 0:
            return dict(base)
        if number not in self.proposed:
            self._show(attempts, upto=number - self.search.lookahead)
            self.mirror.sampler = _sampler(self.name, stable_seed("proposal", *self.seed, number))
            with warnings.catch_warnings():  # an infinite worst value may be clipped to the worst seen
                warnings.filterwarnings("ignore", message="Clip non-finite values")
                self.proposed[number] = dict(self.mirror.ask(self.distributions).params)
        return dict(self.proposed[number])

    def _show(self, attempts: list[Attempt], upto: int) -> None:
        """Brings the mirror to: trials 0 .. upto ended, the later ones running."""
        known = len(self.mirror.get_trials(deepcopy=False))
        for attempt in attempts[known:]:
            self.mirror.add_trial(self._frozen(attempt, ended=attempt.number <= upto))
        self.shown |= set(range(known, upto + 1))
        for attempt in attempts[: max(0, upto + 1)]:
            if attempt.number not in self.shown:
                self.shown.add(attempt.number)
                self.mirror.tell(attempt.number, **self._outcome(attempt))

    def _outcome(self, attempt: Attempt) -> dict[str, Any]:
        """A pruned trial counts with its last value: a Gaussian process would learn nothing from it else."""
        if attempt.state == "failed":
            return {"state": TrialState.FAIL}
        if attempt.state == "diverged" or attempt.value is None:
            return {"values": self.worst}
        return {"values": attempt.value}

    def _frozen(self, attempt: Attempt, *, ended: bool) -> FrozenTrial:
        outcome = self._outcome(attempt) if ended else {"state": TrialState.RUNNING}
        value = outcome.pop("values", None)
        return create_trial(
            params=attempt.parameters, distributions=self.distributions, value=value, **outcome
        )


def survives(attempts: list[Attempt], number: int, iteration: int, search: Search, *, greater: bool) -> bool:
    """Successive halving within one arm: is trial `number` among the best 1/reduction at this rung?

    Compared with the trials that had ended when it was proposed, so that the decision, like the proposal,
    does not depend on which of its neighbours happened to be faster.
    Source: Li et al. 2020, asynchronous successive halving (stopping variant).
    """
    mine = attempts[number].rungs[iteration]
    rivals = [
        a.rungs[iteration]
        for a in attempts[: max(0, number - search.lookahead + 1)]
        if iteration in a.rungs and a.number != number
    ]
    better = sum(value > mine if greater else value < mine for value in rivals)
    places = max(1, -(-(len(rivals) + 1) // search.reduction))
    return better < places
