"""The terminal while a study runs: arms, trials by state, best so far, time left; lines in a file or pipe."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from statistics import fmean

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from study.board import ArmBoard, Board, Job
from study.results import TrialRow
from study.spec import Study

MOST_ARMS = 6
"""Arms up to which a line names the best value of each."""

LINE_EVERY = 20.0
"""Seconds between lines when the output is a file or a pipe."""


class Screen:
    """Draws the board at most twice a second, on the terminal that the run was started from."""

    def __init__(self, console: Console, board: Board, slots: Callable[[], int]) -> None:
        self.console, self.board, self.slots = console, board, slots
        self.progress = Progress(board)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="screen", daemon=True)

    def __enter__(self) -> Screen:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _loop(self) -> None:
        if self.console.is_terminal:
            with Live(
                self._view(), console=self.console, refresh_per_second=2, transient=True,
                redirect_stdout=False, redirect_stderr=False,  # Ray's output has its own file
            ) as live:  # fmt: skip
                while not self._stop.wait(0.5):
                    live.update(self._view())
            self.console.print(self._view())
            return
        while not self._stop.wait(LINE_EVERY):
            self.console.print(self._line(), soft_wrap=True)
        self.console.print(self._line(), soft_wrap=True)

    def _line(self) -> Text:
        done, planned = self.progress.trials()
        return Text(f"{done}/{planned} trials · {self.progress.eta(self.slots())} · best {self._leaders()}")

    def _leaders(self) -> str:
        """The best value of each arm; of many arms, those of the leading ones."""
        known = [(name, arm) for name, arm in self.board.arms.items() if _best_value(arm) is not None]
        if len(self.board.arms) > MOST_ARMS:
            sign = -1 if self.board.study.greater_is_better else 1
            known.sort(key=lambda pair: sign * (_best_value(pair[1]) or 0.0))
            shown = ", ".join(f"{name} {_best(arm)}" for name, arm in known[:3])
            return f"{shown or '-'} ({len(known)} of {len(self.board.arms)} arms have one)"
        return ", ".join(f"{name} {_best(arm)}" for name, arm in self.board.arms.items())

    def _view(self) -> Group:
        done, planned = self.progress.trials()
        table = Table(box=None, pad_edge=False, collapse_padding=True)
        table.add_column("arm", no_wrap=True)
        best = f"best {self.board.study.metric} (val)"
        for header in ("searched", "stopped", "diverged", "failed", best, "confirmed"):
            table.add_column(header, justify="right")
        for name, arm in self.board.arms.items():
            table.add_row(Text(name), *self._cells(arm))
        state = Text(f"{done} of {planned} trials done · {self.progress.eta(self.slots())}", style="bold")
        running = Text(self._running(), style="dim", no_wrap=True, overflow="ellipsis")
        return Group(table, state, running)

    def _cells(self, arm: ArmBoard) -> list[str]:
        states = [a.state for a in list(arm.attempts)]
        return [
            f"{sum(s != 'running' for s in states)}/{arm.target}",
            *(str(states.count(s) or "") for s in ("pruned", "diverged", "failed")),
            _best(arm),
            f"{len(arm.confirmed)}/{self.board.study.num_replicates}",
        ]

    def _running(self) -> str:
        """One line whatever runs, so that the picture keeps its height."""
        jobs = list(self.board.running.values())
        shown = (f"{j.arm} {j.phase} {j.number} {_percent(j)} %" for j in jobs)
        return f"{len(jobs)} running: {' · '.join(shown)}" if jobs else "nothing runs"


def _percent(job: Job) -> int:
    return 100 * job.row.iterations // max(1, job.trial.protocol.iterations)


def _best_value(arm: ArmBoard) -> float | None:
    """Of the selected trial; of an arm without a search the mean of its replicates."""
    if not arm.arm.search:
        values = [row.value for row in list(arm.confirmed.values()) if row.value is not None]
        return fmean(values) if values else None
    best = arm.selected()
    return None if best is None else best.value


def _best(arm: ArmBoard) -> str:
    value = _best_value(arm)
    return "-" if value is None else f"{value:.3f}"


class Progress:
    """How much is done and how long the rest takes, judged by what was measured so far."""

    def __init__(self, board: Board, clock: Callable[[], float] = time.time) -> None:
        self.board, self.clock, self.started = board, clock, clock()
        self.at_start = self._rows()

    def _rows(self) -> list[TrialRow]:
        ended = [row for arm in self.board.arms.values() for row in list(arm.rows.values())]
        return ended + [row for arm in self.board.arms.values() for row in list(arm.confirmed.values())]

    def trials(self) -> tuple[int, int]:
        """Ended, planned."""
        planned = sum(arm.target + self.board.study.num_replicates for arm in self.board.arms.values())
        return len(self._rows()), planned

    def remaining_iterations(self) -> float:
        """Expected optimiser steps left: a searched trial counts as long as its arm's were on average."""
        study = self.board.study
        total = float(sum(trial.protocol.iterations for _, trial in self.board.pretraining.missing()))
        for arm in self.board.arms.values():
            full = arm.protocol.iterations
            lengths = [row.iterations for row in list(arm.rows.values())]
            typical = sum(lengths) / len(lengths) if lengths else full
            total += typical * max(0, arm.target - len(lengths))
            total += full * max(0, study.num_replicates - len(arm.confirmed))
        under_way = sum(job.row.iterations for job in list(self.board.running.values()))
        return max(0.0, total - under_way)

    def eta(self, slots: int) -> str:
        """Time left in words."""
        before = {(row.arm, row.phase, row.number) for row in self.at_start}
        rows = [row for row in self._rows() if "same_as" not in row.details]  # a copy took no time
        mine = [row for row in rows if (row.arm, row.phase, row.number) not in before]
        mine += [job.row for job in list(self.board.running.values())]
        steps, seconds = sum(r.iterations for r in mine), sum(r.seconds for r in mine)
        elapsed = self.clock() - self.started
        if not steps:
            return f"{duration(elapsed)} so far, measuring the speed"
        left = self.remaining_iterations() * seconds / steps / slots
        return f"{duration(elapsed)} so far, about {duration(left)} left"


def duration(seconds: float) -> str:
    """8 s, 3 min 20 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def introduction(study: Study, folder: str, tracking: str) -> Text:
    """What is about to happen, in three lines."""
    arms = ", ".join(arm.name for arm in study.arms)
    return Text(f"{study.question}\nArms: {arms}.\nResults: {folder} · MLflow: {tracking}")
