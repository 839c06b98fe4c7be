"""The door from the command line up to the dashboards: the one import that goes up, for `report` and `run`.

Whoever asks a study for its report should not have to know another command. Nothing else of this floor knows
the floor above, and no module of it is imported before a report is wanted.
"""

from __future__ import annotations

from pathlib import Path

import typer

from search_spaces import UserError
from study.answer import Answer
from study.home import StudyFolder


class Report:
    """The report of a study as it stands at this moment. Raises UserError for a damaged ledger."""

    def __init__(self, folder: StudyFolder, answer: Answer | None = None) -> None:
        from dashboards import source

        self._default = folder.path / "report"
        self._source = source.read(folder, answer)

    @property
    def answer(self) -> Answer:
        return self._source.answer

    def publish(self, output: Path | None = None) -> None:
        """Writes the page and its tables into `output`, or the study's own folder; names the page on stderr.

        Raises UserError when `output` cannot be written to. The study's own folder may be somebody else's, to
        be looked at and not written to: there it is a remark.
        """
        from dashboards import publication

        try:
            page = publication.publish(self._source, output or self._default)
        except UserError as error:
            if output is not None:
                raise
            typer.echo(str(error), err=True)
        else:
            typer.echo(f"Report: {page}", err=True)
