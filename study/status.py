"""How far a study is, from its ledger and its frozen spec; of a running one also from its live file."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import Any

from rich.console import Group

from study import live as live_file
from study import view
from study.eta import Running
from study.home import StudyFolder
from study.results import TrialRow
from study.spec import Study, protocol_of, search_trials
from study.view import Snapshot

STATES = ("finished", "pruned", "diverged", "failed", "running")


def counts(study: Study, folder: StudyFolder) -> dict[str, Any]:
    """Trials by state: {"study", "planned", "finished", "pruned", "failed", "running"}.

    A diverged trial has finished.
    """
    return _counts(study, _by_arm(study, folder), alive=folder.is_running())


ByArm = dict[str, list[TrialRow]]
"""The rows that count, of every arm in the study's order."""


def _by_arm(study: Study, folder: StudyFolder) -> ByArm:
    rows = folder.ledger.trials()
    return {arm.name: _current(study, rows, arm.name) for arm in study.arms}


def _counts(study: Study, by_arm: ByArm, *, alive: bool) -> dict[str, Any]:
    states = Counter(row.state for rows in by_arm.values() for row in rows)
    planned = sum(search_trials(study, arm) + study.num_replicates for arm in study.arms)
    return {
        "study": study.name,
        "planned": planned,
        "finished": states["finished"] + states["diverged"],
        "pruned": states["pruned"],
        "failed": states["failed"],
        # A row says "running" for ever when its driver was killed; without a driver nothing runs.
        "running": states["running"] if alive else 0,
    }


def to_json(study: Study, folder: StudyFolder, job: str | None = None) -> str:
    """The counts; of a submitted study also "job", a sentence."""
    return json.dumps({**counts(study, folder), **({} if job is None else {"job": job})}, indent=2)


def _cells(study: Study, by_arm: ByArm) -> list[list[str]]:
    return [[arm, *_arm_cells(study, rows)] for arm, rows in by_arm.items()]


def _current(study: Study, rows: list[TrialRow], arm: str) -> list[TrialRow]:
    """An arm's rows without the replicates of a configuration that is no longer its best (after `extend`)."""
    own = [r for r in rows if r.arm == arm]
    confirm = [r for r in own if r.phase == "confirm" and (r.seed, r.fold) in study.replicates.pairs()]
    if not study.arm(arm).search:
        return confirm
    search = [r for r in own if r.phase == "search"]
    best = view.best(study, search)
    return search + [r for r in confirm if best is not None and r.parameters == best.parameters]


def _arm_cells(study: Study, rows: list[TrialRow]) -> list[str]:
    search = [r for r in rows if r.phase == "search"]
    value = view.best_value(study, rows)
    confirmed = sum(r.state == "finished" for r in rows if r.phase == "confirm")
    return [
        *(str(sum(r.state == state for r in search) or "") for state in STATES[:-1]),
        "-" if value is None else f"{value:.3f}",
        f"{confirmed}/{study.num_replicates}",
    ]


def headers(study: Study) -> list[str]:
    return ["arm", *STATES[:-1], f"best {study.metric} (val)", "confirmed"]


def to_markdown(study: Study, folder: StudyFolder) -> str:
    names, by_arm = headers(study), _by_arm(study, folder)
    lines = [" | ".join(names), " | ".join("---" for _ in names)]
    lines += [" | ".join(cell.replace("|", "\\|") for cell in cells) for cells in _cells(study, by_arm)]
    table = "\n".join(f"| {line} |" for line in lines) + "\n"
    return table + "".join(f"\n- {line}" for line in view.failures(by_arm))


def snapshot(study: Study, folder: StudyFolder) -> Snapshot:
    """The study as it is shown, also while its driver runs elsewhere."""
    alive = folder.is_running()
    live = live_file.read(folder.path) if alive else None
    by_arm = _by_arm(study, folder)
    under_way = [row for rows in by_arm.values() for row in rows if not row.is_final] if alive else []
    return Snapshot(
        study=study,
        rows={arm: [row for row in rows if row.is_final] for arm, rows in by_arm.items()},
        running=[_running(study, row) for row in under_way] if live is None else live.running,
        live=live,
        alive=alive,
        now=time.time(),
    )


def _running(study: Study, row: TrialRow) -> Running:
    """What the ledger knows of a trial that runs: not how far it is."""
    full = protocol_of(study, study.arm(row.arm)).iterations
    return Running(
        arm=row.arm, phase=row.phase, number=row.number, seed=row.seed, iterations=0, of=full, seconds=0.0
    )


def to_table(study: Study, folder: StudyFolder) -> Group:
    return view.picture(snapshot(study, folder))
