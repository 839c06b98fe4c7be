"""How many trials and replicates a study aims at: totals that are remembered, and may grow."""

from __future__ import annotations

import dataclasses

from search_spaces import UserError
from study.home import StudyFolder
from study.spec import Study

MOST_REPLICATES = 10_000


def remembered(study: Study, folder: StudyFolder) -> Study:
    """The study with the targets that it was last run or extended with, if it ever was."""
    frozen = folder.frozen()
    if frozen is None:
        return study
    return _with(study, frozen.search.trials, frozen.replicates.seeds)


def asked_for(study: Study, *, trials: int | None, replicates: int | None) -> Study:
    """The study with the totals that a command names. Raises UserError.

    More replicates go on after the last seed; those that are there keep theirs, and so their results.
    """
    seeds = study.replicates.seeds
    if replicates is not None:
        if replicates < 1:
            raise UserError(f"--replicates must be 1 or more, but got {replicates}.")
        if replicates > MOST_REPLICATES:
            raise UserError(f"--replicates must be {MOST_REPLICATES} or less, but got {replicates}.")
        missing = replicates - len(seeds)
        fresh = range(max(seeds) + 1, max(seeds) + 1 + max(0, missing))
        seeds = (*seeds[:replicates], *fresh)
    return _with(study, study.search.trials if trials is None else trials, seeds)


def extended(study: Study, *, trials: int | None, replicates: int | None) -> Study:
    """A started study with larger totals. Raises UserError for none, or smaller ones."""
    now = {"--trials": study.search.trials, "--replicates": len(study.replicates.seeds)}
    wanted = {"--trials": trials, "--replicates": replicates}
    if trials is None and replicates is None:
        raise UserError(f"Extending {study.name} needs --trials or --replicates: the new totals.")
    for flag, total in wanted.items():
        if total is not None and total < now[flag]:
            raise UserError(
                f"{flag} is the new total and must not be below the {now[flag]} that {study.name} has, "
                f"but got {total}."
            )
    return asked_for(study, trials=trials, replicates=replicates)


def _with(study: Study, trials: int, seeds: tuple[int, ...]) -> Study:
    return dataclasses.replace(
        study,
        search=dataclasses.replace(study.search, trials=trials),
        replicates=dataclasses.replace(study.replicates, seeds=seeds),
    )
