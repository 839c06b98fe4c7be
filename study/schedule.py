"""What is settled of a search before it starts: its sampler, its rungs, what it does not depend on. Pure.

Whoever looks at a study asks this, and need not wait for Optuna and torch.
"""

from __future__ import annotations

from collections.abc import Sequence

from study.spec import GP_LIMIT, Search
from trainables.protocol import Protocol


def sampler_name(search: Search) -> str:
    """The sampler that fits the space, where the study leaves the choice: no space here has conditions."""
    if search.sampler != "auto":
        return search.sampler
    return "gp" if search.trials <= GP_LIMIT else "tpe"


def independence(search: Search) -> str:
    """What does not depend on timing, in words. It holds for every sampler: none is ever shown more."""
    behind = f"trials 0 to n - {search.lookahead}" if search.lookahead > 1 else "the trials before it"
    once = (
        f"up to {search.lookahead} trials of an arm at once" if search.lookahead > 1 else "one after another"
    )
    return (
        f"{sampler_name(search)}, {once} (search.lookahead). Proposals and rows are the same whatever runs "
        f"at once and whichever trial ends first: trial n is proposed and stopped by {behind} alone."
    )


def rung_iterations(protocol: Protocol, rungs: Sequence[float]) -> tuple[int, ...]:
    """The report points nearest to these fractions of a training; the end is no rung."""
    points = protocol.report_points()[:-1]
    wanted = [fraction * protocol.iterations for fraction in rungs]
    return tuple(sorted({min(points, key=lambda p: abs(p - w)) for w in wanted})) if points else ()
