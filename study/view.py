"""A study as a picture on a terminal, or as a line: arms, trials by state, rungs, time left. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from study import usage
from study.eta import Running, duration, estimate
from study.live import Live
from study.results import TrialRow
from study.schedule import rung_iterations
from study.spec import Study, protocol_of, search_trials

MOST_ARMS = 6
"""Arms up to which a line names the best value of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything that is shown."""

    study: Study
    rows: Mapping[str, Sequence[TrialRow]]
    """Trials that have ended and count, of every arm in the study's order."""
    running: Sequence[Running]
    live: Live | None
    """None: no driver runs, or it has told nothing yet."""
    alive: bool
    """Whether a driver runs."""
    now: float
    """Unix time."""

    @property
    def planned(self) -> int:
        study = self.study
        return sum(search_trials(study, arm) + study.num_replicates for arm in study.arms)

    @property
    def ended(self) -> int:
        return sum(map(len, self.rows.values()))


def picture(shot: Snapshot) -> Group:
    """At most eighty columns wide where the arms' names allow it."""
    parts: list[RenderableType] = [_headline(shot), _table(shot)]
    parts += [Text(line) for line in (time_left(shot), _machine(shot)) if line]
    parts += [Text(line, no_wrap=True, overflow="ellipsis") for line in _newest_failure(shot)]
    parts += [Text(line) for line in failures(shot.rows)]
    if shot.alive:  # one line whatever runs, so that the picture keeps its height
        parts.append(Text(_running(shot.running), style="dim", no_wrap=True, overflow="ellipsis"))
    return Group(*parts)


def line(shot: Snapshot) -> Text:
    """The same in one line, for files and pipes."""
    parts = [f"{shot.ended}/{shot.planned} trials", _state(shot), time_left(shot)]
    failed = sum(row.state == "failed" for rows in shot.rows.values() for row in rows)
    parts += [f"{failed} failed"] if failed else []
    parts += [f"best {_leaders(shot)}", _machine(shot)]
    return Text(" · ".join(part for part in parts if part))


def time_left(shot: Snapshot) -> str:
    """ "3 min 20 s so far, about 8 min 00 s left"; without a driver what one slot would take."""
    if shot.ended >= shot.planned and not shot.running:
        return ""
    live = shot.live
    if live is None:
        rest = estimate(shot.study, shot.rows, shot.running, slots=1)
        left = "" if rest.seconds is None else duration(rest.seconds)
        return f"{_about(rest.at_most)} {left} of training left, one trial at a time" if left else ""
    rest = estimate(
        shot.study, shot.rows, shot.running,
        slots=live.slots, since=live.started, pretraining_iterations=live.pretraining_iterations,
    )  # fmt: skip
    so_far = f"{duration(shot.now - live.started)} so far"
    if rest.seconds is None:
        return f"{so_far}, measuring the speed"
    return f"{so_far}, {_about(rest.at_most)} {duration(rest.seconds)} left"


def _about(at_most: bool) -> str:
    return "at most about" if at_most else "about"


def _headline(shot: Snapshot) -> Text:
    ended = f"{shot.ended} of {shot.planned} trials ended"
    return Text(f"{shot.study.name}: {ended}, {_state(shot)}", style="bold")


def _state(shot: Snapshot) -> str:
    return f"{len(shot.running)} running" if shot.alive else "no driver runs"


def _table(shot: Snapshot) -> Table:
    study = shot.study
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    table.add_column("arm", no_wrap=True)
    rungs = ["past rung" if len(study.search.rungs) == 1 else "past rungs"] if study.search.rungs else []
    for header in (
        "searched",
        "stopped",
        "diverged",
        "failed",
        *rungs,
        f"best {study.metric} (val)",
        "confirmed",
    ):
        table.add_column(header, justify="right")
    for name in shot.rows:
        table.add_row(Text(name), *_cells(shot, name, with_rungs=bool(rungs)))
    return table


def _cells(shot: Snapshot, name: str, *, with_rungs: bool) -> list[str]:
    study, rows = shot.study, shot.rows[name]
    search = [row for row in rows if row.phase == "search"]
    states = Counter(row.state for row in search)
    target = search_trials(study, study.arm(name))
    value = best_value(study, rows)
    confirmed = sum(row.state == "finished" for row in rows if row.phase == "confirm")
    return [
        f"{len(search)}/{target}" if target else "",
        *(str(states[state] or "") for state in ("pruned", "diverged", "failed")),
        *([_past_rungs(shot, name, search)] if with_rungs else []),
        "-" if value is None else f"{value:.3f}",
        f"{confirmed}/{study.num_replicates}",
    ]


def _past_rungs(shot: Snapshot, name: str, search: Sequence[TrialRow]) -> str:
    """For each rung, of the trials that were judged there those that went on: "3/8 1/3"."""
    study = shot.study
    rungs = rung_iterations(protocol_of(study, study.arm(name)), study.search.rungs)
    trained = [row for row in search if "same_as" not in row.details]
    under_way = [one.iterations for one in shot.running if (one.arm, one.phase) == (name, "search")]
    cells = []
    for rung in rungs:
        stopped = sum(row.state == "pruned" and row.iterations == rung for row in trained)
        went_on = sum(row.iterations >= rung for row in trained) - stopped
        went_on += sum(iterations >= rung for iterations in under_way)
        cells.append(f"{went_on}/{went_on + stopped}" if went_on + stopped else "-")
    return " ".join(cells) if search or under_way else ""


def best(study: Study, rows: Sequence[TrialRow]) -> TrialRow | None:
    """The best searched trial at full length, the earliest of equals."""
    sign = 1 if study.greater_is_better else -1
    full = [r for r in rows if r.phase == "search" and r.state == "finished" and r.value is not None]
    return max(full, key=lambda row: (sign * (row.value or 0.0), -row.number), default=None)


def best_value(study: Study, rows: Sequence[TrialRow]) -> float | None:
    """Of the best searched trial; of an arm without a search the mean of its replicates."""
    if any(row.phase == "search" for row in rows):
        found = best(study, rows)
        return None if found is None else found.value
    values = [row.value for row in rows if row.state == "finished" and row.value is not None]
    return fmean(values) if values else None


def _leaders(shot: Snapshot) -> str:
    """The best value of each arm; of many arms, those of the leading ones."""
    values = {name: best_value(shot.study, rows) for name, rows in shot.rows.items()}
    if len(values) <= MOST_ARMS:
        return ", ".join(f"{name} {'-' if v is None else f'{v:.3f}'}" for name, v in values.items())
    known = {name: value for name, value in values.items() if value is not None}
    order = sorted(known, key=lambda name: known[name], reverse=shot.study.greater_is_better)
    shown = ", ".join(f"{name} {known[name]:.3f}" for name in order[:3])
    return f"{shown or '-'} ({len(known)} of {len(values)} arms have one)"


def failures(rows: Mapping[str, Sequence[TrialRow]]) -> list[str]:
    """For each arm with failures their classes: "two clicks: 2 out_of_memory, 1 bug"."""
    lines = []
    for arm, own in rows.items():
        classes = Counter(row.failure for row in own if row.failure)
        if classes:
            lines.append(f"{arm}: {', '.join(f'{n} {failure}' for failure, n in classes.most_common())}")
    return lines


def _newest_failure(shot: Snapshot) -> list[str]:
    failed = [row for rows in shot.rows.values() for row in rows if row.failure and row.reason]
    if not failed:
        return []
    row = max(failed, key=lambda row: row.finished)
    reason = " ".join(row.reason.split())
    return [f"newest failure: {row.arm} · {row.phase} {row.number}: {row.failure}: {reason}"]


def _machine(shot: Snapshot) -> str:
    """Memory and GPUs of the driver's machine, and what the trials hold, on whatever machines they are."""
    if shot.live is None:
        return ""
    parts = [usage.words(shot.live.usage)]
    memory, gpu = (sum(getattr(one, name) for one in shot.running) for name in ("memory", "gpu_memory"))
    hosts = {one.host for one in shot.running if one.host}
    if memory:
        held = usage.gigabytes(memory) + (f" and {usage.gigabytes(gpu)} of GPU memory" if gpu else "")
        parts.append(f"trials {held}{f' on {len(hosts)} machines' if len(hosts) > 1 else ''}")
    return " · ".join(parts)


def _running(running: Sequence[Running]) -> str:
    shown = (f"{j.arm} {j.phase} {j.number} {100 * j.iterations // max(1, j.of)} %" for j in running)
    return f"{len(running)} running: {' · '.join(shown)}" if running else "nothing runs"
