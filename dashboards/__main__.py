"""`python -m dashboards NAME`: draws the figure of a study from its ledger. Reads only, at any moment."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from dashboards import tables
from dashboards.figures import budget_curve
from search_spaces import UserError, nearest
from study.conclusion import Answer, of_study
from study.home import StudyFolder
from study.results import Ledger
from study.spec import Study

SUFFIXES = (".png", ".svg", ".pdf")
HOME = Path("runs")
_SPEC = "spec.json"

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def figure(
    name: Annotated[str, typer.Argument(help="A study that has been run.")],
    home: Annotated[Path, typer.Option(envvar="STUDY_HOME", help="Folder of the studies.")] = HOME,
    output: Annotated[
        Path | None, typer.Option(help="A .png, .svg or .pdf file; HOME/NAME/figure.png if not given.")
    ] = None,
) -> None:
    """Draws quality against annotation time, or one interval per arm where the times do not differ.

    \b
    Example:
      python -m dashboards ablation_pixels --output pixels.svg
    """
    spec = _spec(home, name)
    target = _target(output or home / name / "figure.png")
    draw(spec, answer_of(spec, Ledger(home / name / "ledger")), target)
    typer.echo(target)


def answer_of(spec: Study, ledger: Ledger) -> Answer:
    """The answer as far as the ledger goes."""
    return of_study(spec, ledger.trials(), ledger.cases())


def draw(spec: Study, answer: Answer, path: Path) -> None:
    """Writes the study's figure. Raises UserError when nothing is confirmed yet."""
    if all(arm.cases == 0 for arm in answer.arms):
        raise UserError(
            f"Study {spec.name} has no confirmed arm to draw: go on with `python -m study run {spec.name}` "
            "until its first confirmation has finished."
        )
    title = spec.name if answer.complete else f"{spec.name} (provisional)"
    quality = tables.quality_label(answer)
    points = tables.budget_rows(answer, spec.arms)
    if tables.has_curve(points):
        budget_curve.draw(points, path, quality=quality, title=title)
    else:
        budget_curve.interval_plot(tables.arm_rows(answer), path, quality=quality, title=title)


def _spec(home: Path, name: str) -> Study:
    """The frozen spec of a study's folder. Raises UserError where there is none."""
    known = sorted(path.parent.name for path in home.glob(f"*/{_SPEC}"))
    if name not in known:
        listed = f" Studies there: {', '.join(known)}." if known else " No study has been run there."
        raise UserError(f"There is no study {name!r} in {home}.{nearest(name, known)}{listed}")
    study = StudyFolder(home / name).frozen()
    assert study is not None  # its spec.json was just listed
    return study


def _target(path: Path) -> Path:
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"--output must end in {', '.join(SUFFIXES)}, but got {str(path)!r}.")
    if not path.parent.is_dir():
        raise UserError(f"--output must lie in an existing folder, but there is no {str(path.parent)!r}.")
    return path


def main() -> None:
    """Runs the command line; a user's mistake is one sentence and exit code 2."""
    try:
        app()
    except UserError as error:
        typer.echo(str(error), err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
