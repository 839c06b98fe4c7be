"""What a trial costs beside its training: against stock Ray Tune, and from 100 to 2,000 trials.

Each measurement has its own process, because Ray and memory high-water marks stay behind in one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(1800)


def measured(function: str, trials: int | str, module: str = "noop") -> list[float]:
    """The numbers that `tests.benchmarks.<module>.<function>(trials)` returns in a fresh process."""
    call = f"print('RESULT', json.dumps({module}.{function}({trials})))"
    code = f"import json; from tests.benchmarks import {module}; {call}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    assert lines, done.stderr[-2000:]
    numbers: list[float] = json.loads(lines[0].removeprefix("RESULT"))
    return numbers


def test_trials_per_second_against_stock_ray_tune(
    benchmark: Any, ratio: Callable[[str, float, str], None]
) -> None:
    stock_seconds, stock_trials = measured("stock", 40)
    seconds, trials, _ = benchmark.pedantic(measured, ("ours", 200), rounds=1)
    ratio("trials per second: ours (200, ledger + Optuna + MLflow)", trials / seconds, "-")
    ratio(
        "trials per second: stock Tune + OptunaSearch + MLflow callback (40)",
        stock_trials / stock_seconds,
        "-",
    )
    ratio("trials per second over stock", (trials / seconds) / (stock_trials / stock_seconds), ">= 30")


def test_driver_time_and_memory_stay_flat(benchmark: Any, ratio: Callable[[str, float, str], None]) -> None:
    few_seconds, few, few_memory = measured("ours", 100)
    many_seconds, many, many_memory = benchmark.pedantic(measured, ("ours", 2000), rounds=1)
    ratio("seconds per trial, 2,000 trials over 100", (many_seconds / many) / (few_seconds / few), "flat: 1")
    ratio("driver's peak memory, 2,000 trials over 100", many_memory / few_memory, "flat: 1")


def test_a_large_study_is_taken_up_and_looked_at(
    benchmark: Any, ratio: Callable[[str, float, str], None]
) -> None:
    """Of 10,000 trials; of 500 with a thousand metrics each beside those of 500 without."""
    resume, status, report = benchmark.pedantic(measured, ("taken_up", 10_000, "large"), rounds=1)
    ratio("seconds until the first job of a continued study of 10,000 trials", resume, "<= 5")
    ratio("seconds of its status", status, "<= 5")
    ratio("seconds of its answer", report, "<= 5")
    few, _, _ = measured("taken_up", 500, "large")
    many, _, _ = measured("taken_up", "500, 1000", "large")
    ratio("taking up trials of 1,000 metrics over trials of 2", many / few, "-")


def test_what_lies_between_trials(benchmark: Any, ratio: Callable[[str, float, str], None]) -> None:
    over = benchmark.pedantic(measured, ("over_ideal", 200), rounds=1)[0]
    ratio("200 one-second trials on all slots, wall seconds over the ideal", over, "<= 1.05")


def test_what_tracking_costs(benchmark: Any, ratio: Callable[[str, float, str], None]) -> None:
    tracked = benchmark.pedantic(measured, ("ours", "100, noop.OneSecond"), rounds=1)[0]
    untracked = measured("ours", "100, noop.OneSecond, tracked=False")[0]
    ratio("100 one-second trials, wall seconds tracked by MLflow over not", tracked / untracked, "<= 1.02")


def test_a_lost_worker_is_replaced(benchmark: Any, ratio: Callable[[str, float, str], None]) -> None:
    again, first = benchmark.pedantic(measured, ("recovery", 12), rounds=1)
    ratio("from a worker's death to its trial's next step, over a driver's start to its first step",
          again / first, "-")  # fmt: skip
    ratio("seconds from a worker's death to its trial's next step", again, "-")
