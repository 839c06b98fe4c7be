"""How a study ends: its answer is written, and MLflow hears it and what each arm selected."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from study import answer as answers
from study import conclusion
from study.answer import Answer
from study.arm_board import ArmBoard
from study.board import Board
from study.home import StudyFolder
from study.listeners import Listeners
from study.pictures import learning_curves
from study.results import TrialRow
from study.spec import Study
from trainables.left import CHECKPOINT, SAMPLES

TRACKING_PATIENCE = 60.0
"""Seconds that the end of a run waits for MLflow; what it has not taken by then is delivered next time."""


def answer_of(study: Study, folder: StudyFolder) -> Answer:
    """The answer as far as the ledger goes. Reads nothing else."""
    return conclusion.of_study(study, folder.ledger.trials(), folder.ledger.cases())


def conclude(board: Board, listeners: Listeners, folder: StudyFolder, console: Console) -> Answer:
    """Writes and shows the answer of a finished board."""
    study, tracker = board.study, listeners.tracker
    answer = answer_of(study, folder)
    report = folder.path / "report"
    report.mkdir(exist_ok=True)
    texts = {"answer.json": answers.to_json(answer), "answer.md": answers.to_markdown(answer)}
    for name, text in texts.items():
        (report / name).write_text(text)
    for name, arm in board.arms.items():
        row = _row_of_selection(arm)
        if row is not None:
            _log_selected(name, row, board, listeners, folder.path)
    tracker.answered(texts, {arm.name: _metrics(arm, study.metric) for arm in answer.arms})
    tracker.close(TRACKING_PATIENCE)
    console.print(answers.to_table(answer))
    return answer


def _row_of_selection(arm: ArmBoard) -> TrialRow | None:
    """The trial that an arm's configuration was selected by: of the search, or else its first replicate."""
    best = arm.selected()
    if best is None:
        return None
    return arm.rows.get(best.number) or arm.confirmed.get(0)


def _log_selected(name: str, row: TrialRow, board: Board, listeners: Listeners, folder: Path) -> None:
    """The arm's selected configuration: its curve beside its rivals', its checkpoint, its pictures."""
    arm = board.arms[name]
    curves = folder / "report" / f"{arm.arm.method}-{row.key}-curves.png"
    learning_curves(curves, [*arm.rows.values(), *arm.confirmed.values()], board.study.metric)
    first = next((r for _, r in sorted(arm.confirmed.items()) if r.state == "finished"), None)
    left = ((CHECKPOINT, "model"), (SAMPLES, "samples"))
    files = [] if first is None else listeners.files.of(first.key, *left)
    listeners.tracker.arm_selected(name, row, [(curves, "curves"), *files])


def _metrics(arm: answers.ArmAnswer, metric: str) -> dict[str, float]:
    values = {
        f"test_{metric}": arm.mean,
        f"test_{metric}_low": arm.low,
        f"test_{metric}_high": arm.high,
        "test_missed_rate": arm.missed_rate,
    }
    return {k: float(v) for k, v in values.items() if v is not None and v == v}
