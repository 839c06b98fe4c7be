"""How far a study is, from its ledger and its frozen spec alone."""

from __future__ import annotations

import json
from collections import Counter
from statistics import fmean
from typing import Any

from rich.table import Table
from rich.text import Text

from study.home import StudyFolder
from study.results import TrialRow
from study.spec import Study, search_trials

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
    best = _best(study, search)
    return search + [r for r in confirm if best is not None and r.parameters == best.parameters]


def _best(study: Study, search: list[TrialRow]) -> TrialRow | None:
    sign = 1 if study.greater_is_better else -1
    full = [r for r in search if r.state == "finished" and r.value is not None]
    return max(full, key=lambda r: (sign * (r.value or 0.0), -r.number), default=None)


def _value(study: Study, rows: list[TrialRow]) -> float | None:
    """Of the best searched trial; of an arm without a search the mean of its replicates."""
    search = [r for r in rows if r.phase == "search"]
    if search:
        best = _best(study, search)
        return None if best is None else best.value
    values = [r.value for r in rows if r.state == "finished" and r.value is not None]
    return fmean(values) if values else None


def _arm_cells(study: Study, rows: list[TrialRow]) -> list[str]:
    search = [r for r in rows if r.phase == "search"]
    value = _value(study, rows)
    confirmed = sum(r.state == "finished" for r in rows if r.phase == "confirm")
    return [
        *(str(sum(r.state == state for r in search) or "") for state in STATES[:-1]),
        "-" if value is None else f"{value:.3f}",
        f"{confirmed}/{study.num_replicates}",
    ]


def _failures(by_arm: ByArm) -> list[str]:
    """For each arm with failures their classes: "two clicks: 2 out_of_memory, 1 bug"."""
    lines = []
    for arm, rows in by_arm.items():
        classes = Counter(row.failure for row in rows if row.failure)
        if classes:
            lines.append(f"{arm}: {', '.join(f'{n} {failure}' for failure, n in classes.most_common())}")
    return lines


def headers(study: Study) -> list[str]:
    return ["arm", *STATES[:-1], f"best {study.metric} (val)", "confirmed"]


def to_markdown(study: Study, folder: StudyFolder) -> str:
    names, by_arm = headers(study), _by_arm(study, folder)
    lines = [" | ".join(names), " | ".join("---" for _ in names)]
    lines += [" | ".join(cell.replace("|", "\\|") for cell in cells) for cells in _cells(study, by_arm)]
    table = "\n".join(f"| {line} |" for line in lines) + "\n"
    return table + "".join(f"\n- {line}" for line in _failures(by_arm))


def to_table(study: Study, folder: StudyFolder) -> Table:
    by_arm = _by_arm(study, folder)
    total = _counts(study, by_arm, alive=folder.is_running())
    done = total["finished"] + total["pruned"] + total["failed"]
    state = f"{total['running']} running" if total["running"] else "no driver runs"
    title = Text(f"{study.name}: {done} of {total['planned']} trials ended, {state}")
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, collapse_padding=True)
    for index, name in enumerate(headers(study)):
        table.add_column(name, justify="left" if index == 0 else "right", no_wrap=index == 0)
    for cells in _cells(study, by_arm):
        table.add_row(*(Text(c) for c in cells))
    failed = _failures(by_arm)
    if failed:
        table.caption, table.caption_justify = Text("\n".join(failed)), "left"
    return table
