"""What the report is made of: the spec and the ledger of one study, read once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from study.conclusion import Answer, of_study
from study.home import StudyFolder
from study.results import CaseRow, TrialRow
from study.spec import Study


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One moment of a study; every section of its report is a function of this."""

    spec: Study
    folder: Path
    """Of the study: HOME/NAME."""
    trials: tuple[TrialRow, ...]
    cases: tuple[CaseRow, ...]
    answer: Answer


def read(folder: StudyFolder, answer: Answer | None = None) -> Source:
    """Reads a started study; its answer is made unless it has just been.

    Raises UserError for a damaged spec or ledger.
    """
    spec = folder.frozen()
    assert spec is not None  # its caller looked for the study
    ledger = folder.ledger
    trials, cases = tuple(ledger.trials()), tuple(ledger.cases())
    answer = answer or of_study(spec, trials, cases)
    return Source(spec=spec, folder=folder.path, trials=trials, cases=cases, answer=answer)
