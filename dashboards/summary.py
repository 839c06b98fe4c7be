"""The answer in a few sentences: how it stands, which arm is ahead, and what was measured. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dashboards.tables import metric_name
from study.answer import estimate
from study.conclusion import Answer, ArmAnswer, PairAnswer
from study.spec import Study, search_trials
from study.stats import NOT_SEPARATED, TOO_FEW_CASES
from trainables.metrics import METRICS


def status(answer: Answer) -> str:
    """Whether this is the answer, or how much of it."""
    if answer.all_failed:
        return f"There is no answer: {answer.all_failed[0].lower()}{answer.all_failed[1:]}"
    if answer.complete:
        return "Complete: every arm has all of its confirmation replicates."
    if not any(arm.cases for arm in answer.arms):
        return (
            "There is no answer yet: nothing was tested, for no confirmation has finished. What is missing:"
        )
    return (
        "Provisional: arms lack confirmation replicates, and what is said below may change. What is missing:"
    )


def headline(answer: Answer) -> str:
    """The arm with the best mean, and how it stands against the arms that it was compared with."""
    scored = [arm for arm in answer.arms if not math.isnan(arm.mean)]
    if len(scored) < 2:
        return _only(scored[0], answer.metric) if scored else ""
    greater = METRICS[answer.metric]
    best = (max if greater else min)(scored, key=lambda arm: arm.mean)
    most = "highest" if greater else "lowest"
    sentence = (
        f"{best.name} has the {most} mean {metric_name(answer.metric)} of {len(scored)} "
        f"arms, {estimate(best.mean, best.low, best.high)}"
    )
    return f"{sentence}{_standing(best.name, answer.pairs)}."


def _standing(name: str, pairs: Sequence[PairAnswer]) -> str:
    """How an arm came out of its comparisons."""
    others = {(pair.b if pair.a == name else pair.a): pair for pair in pairs if name in (pair.a, pair.b)}
    if not others:
        return "; the study compares it with no other"
    groups = {
        "better than": [other for other, pair in others.items() if pair.verdict.startswith(f"{name} better")],
        "worse than": [
            other for other, pair in others.items() if pair.verdict == f"{other} better than {name}"
        ],
        "not separated from": [o for o, pair in others.items() if pair.verdict == NOT_SEPARATED],
        "not yet to be compared with": [o for o, pair in others.items() if pair.verdict == TOO_FEW_CASES],
    }
    said = [f"{how} {_listed(arms, len(others))}" for how, arms in groups.items() if arms]
    return f". It is {' and '.join(said)}"


def _listed(arms: Sequence[str], compared: int) -> str:
    if len(arms) == compared > 2:
        return f"all {compared} arms that it is compared with"
    return "; ".join(arms[:4]) + (f" and {len(arms) - 4} more" if len(arms) > 4 else "")


def _only(arm: ArmAnswer, metric: str) -> str:
    return f"{arm.name} has a mean {metric_name(metric)} of {estimate(arm.mean, arm.low, arm.high)}."


def measured(spec: Study, answer: Answer) -> str:
    """What the numbers are of."""
    cases = sorted({arm.cases for arm in answer.arms if arm.cases})
    counted = f" ({' to '.join(map(str, dict.fromkeys((cases[0], cases[-1]))))})" if cases else ""
    seeds, folds = len(spec.replicates.seeds), len(spec.replicates.folds)
    runs = f"{_count(seeds, 'fresh seed')}" + (f" on {_count(folds, 'fold')}" if folds > 1 else "")
    searched = any(search_trials(spec, arm) for arm in spec.arms)
    how = (
        "What each arm's search selected on the validation split was trained again"
        if searched
        else "Each arm was trained as it stands, without a search,"
    )
    direction = "greater" if spec.greater_is_better else "smaller"
    return (
        f"{how} on {runs}, and scored once on the test split of {spec.data.dataset.rsplit('/', 1)[-1]}. "
        f"{metric_name(spec.metric)} per case{counted}, "
        f"{direction} is better; intervals are 95 % BCa bootstrap over cases, p-values are of Wilcoxon's "
        "signed-rank test after Holm's correction over the study's pairs."
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
