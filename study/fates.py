"""How trials ended that have no result, in words: counted by state, class of failure and reason. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from study.results import TrialRow


def fates(trials: Iterable[TrialRow]) -> list[str]:
    """For example "2 failed (out_of_memory: tried to allocate 2 GiB)", for each state, class and reason."""
    counts = Counter(f"{t.state} ({why})" if (why := _why(t)) else t.state for t in trials)
    return [f"{number} {fate}" for fate, number in counts.items()]


def _why(trial: TrialRow) -> str:
    """The class of its failure and the first line of the reason, as far as there are such."""
    reason = trial.reason.strip().partition("\n")[0].rstrip(". ")
    return ": ".join(part for part in (trial.failure, reason) if part)


def all_failed(study: str, trials: Sequence[TrialRow]) -> str:
    """Why a study of whose trials none could finish has nothing to say, in one sentence; else nothing.

    Each class of failure with its most frequent reason: the reasons of many bugs are many.
    """
    if not trials or any(t.state not in ("failed", "diverged") for t in trials):
        return ""
    by_class: dict[str, Counter[str]] = {}
    for trial in trials:
        by_class.setdefault(trial.failure or trial.state, Counter())[_why(trial)] += 1
    parts = [
        f"{reasons.total()} {failure} ({reason.removeprefix(failure).removeprefix(': ')})".removesuffix(" ()")
        for failure, reasons in by_class.items()
        for reason, _ in reasons.most_common(1)
    ]
    return f"No trial of {study} could finish: of {len(trials)}, {', '.join(parts)}."
