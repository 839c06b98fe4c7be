"""Which parameters of a finished search decided its metric: Optuna's PED-ANOVA. Reads no storage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna

from search_spaces.fields import Space
from search_spaces.to_optuna import distributions

Tried = tuple[Mapping[str, Any], float]
"""Parameters and the metric that they gave at full length."""


def shares(
    space: Space, tried: Sequence[Tried], *, greater_is_better: bool, best_share: float
) -> dict[str, float]:
    """What each parameter contributed to getting among the best `best_share` of the trials; adds up to 1.

    From a study in memory that holds these trials as complete, and no others. Source: Watanabe et al. 2023,
    PED-ANOVA, as Optuna has it.
    """
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=best_share)
    study = _rebuilt(space, tried, greater_is_better=greater_is_better)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(found[name]) for name in space}


def _rebuilt(space: Space, tried: Sequence[Tried], *, greater_is_better: bool) -> optuna.Study:
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it would announce the study
    try:
        study = optuna.create_study(direction="maximize" if greater_is_better else "minimize")
    finally:
        optuna.logging.set_verbosity(verbosity)
    known = distributions(space)
    study.add_trials(
        [
            optuna.trial.create_trial(params=dict(parameters), distributions=known, value=value)
            for parameters, value in tried
        ]
    )
    return study
