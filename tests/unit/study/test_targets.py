"""Totals of trials and replicates: remembered, never silently changed, grown without touching old seeds."""

from __future__ import annotations

from pathlib import Path

import pytest

from search_spaces import UserError
from study import commands, discovery, overrides, targets
from study.home import Home


def command(home: Path, *settings: str, trials: int | None = None, replicates: int | None = None):
    return commands.definition("smoke", None, trials, replicates, list(settings), str(home), fork=None)


def test_more_replicates_keep_the_old_seeds() -> None:
    study = discovery.load("smoke")
    assert targets.asked_for(study, trials=None, replicates=4).replicates.seeds == (1001, 1002, 1003, 1004)
    assert targets.asked_for(study, trials=None, replicates=1).replicates.seeds == (1001,)
    odd = overrides.apply(study, ["replicates.seeds=7,40"])
    assert targets.asked_for(odd, trials=None, replicates=3).replicates.seeds == (7, 40, 41)


@pytest.mark.parametrize("count", [0, -1])
def test_no_replicates_is_refused_with_the_number_given(count: int) -> None:
    with pytest.raises(UserError, match=f"--replicates must be 1 or more, but got {count}"):
        targets.asked_for(discovery.load("smoke"), trials=None, replicates=count)


def test_a_started_study_remembers_its_targets(tmp_path: Path) -> None:
    first = command(tmp_path, trials=5, replicates=3)
    Home(tmp_path).study("smoke").freeze(first)
    again = command(tmp_path)
    assert (again.search.trials, again.num_replicates) == (5, 3)


def test_a_setting_counts_more_than_memory(tmp_path: Path) -> None:
    Home(tmp_path).study("smoke").freeze(command(tmp_path, trials=5))
    assert command(tmp_path, "search.trials=9").search.trials == 9
    assert command(tmp_path, "search.trials=9", trials=7).search.trials == 7


def test_extending_takes_larger_totals_only() -> None:
    study = targets.asked_for(discovery.load("smoke"), trials=5, replicates=3)
    assert targets.extended(study, trials=8, replicates=None).search.trials == 8
    with pytest.raises(UserError, match="--trials is the new total and must not be below the 5"):
        targets.extended(study, trials=4, replicates=None)
    with pytest.raises(UserError, match="--replicates is the new total"):
        targets.extended(study, trials=None, replicates=2)
    with pytest.raises(UserError, match="needs --trials or --replicates"):
        targets.extended(study, trials=None, replicates=None)


def test_a_relative_data_set_is_made_absolute_wherever_it_is_named(tmp_path: Path) -> None:
    assert Path(command(tmp_path, "data.dataset=here.parquet").data.dataset).is_absolute()
    assert command(tmp_path, "data.dataset=phantoms-organs").data.dataset == "phantoms-organs"


def test_an_arm_keeps_what_it_fixes_itself() -> None:
    study = overrides.apply(
        discovery.load("ablation_statistic_terms"), ["summary_statistics.statistic_weight=3"]
    )
    assert study.arm("no statistic").settings["statistic_weight"] == 0.0
    assert study.arm("all terms").settings["statistic_weight"] == 3.0
