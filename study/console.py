"""The terminal that a run was started from: the picture of the study; lines where it is a file or pipe."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live as Canvas
from rich.text import Text

from study import live, usage, view
from study.arm_board import Job
from study.board import Board
from study.eta import Running
from study.live import Live
from study.spec import Study
from study.view import Snapshot

LINE_EVERY = 20.0
"""Seconds between lines when the output is a file or a pipe."""

TELL_EVERY = 2.0
"""Seconds between two writings of what other processes are told."""


class Screen:
    """Draws the board at most twice a second, and tells `status` of other processes how it stands."""

    def __init__(
        self,
        console: Console,
        board: Board,
        slots: Callable[[], int],
        folder: Path,
        *,
        dashboard: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.console, self.board, self.slots, self.folder = console, board, slots, folder
        self.dashboard, self.clock, self.started = dashboard, clock, clock()
        self._usage = usage.now()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="screen", daemon=True)

    def __enter__(self) -> Screen:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _loop(self) -> None:
        with live.published(self.folder):
            if not self.console.is_terminal:
                self._lines()
                return
            with Canvas(
                self._view(), console=self.console, refresh_per_second=2, transient=True,
                redirect_stdout=False, redirect_stderr=False,  # Ray's output has its own file
            ) as canvas:  # fmt: skip
                told = 0.0
                while not self._stop.wait(0.5):
                    if self.clock() - told >= TELL_EVERY:
                        self._tell()
                        told = self.clock()
                    canvas.update(self._view())
            self.console.print(self._view())

    def _lines(self) -> None:
        printed = self.clock()
        while not self._stop.wait(TELL_EVERY):
            self._tell()
            if self.clock() - printed >= LINE_EVERY:
                self.console.print(self._line(), soft_wrap=True)
                printed = self.clock()
        self.console.print(self._line(), soft_wrap=True)

    def _tell(self) -> None:
        self._usage = usage.now()
        live.write(self.folder, self.live())

    def live(self) -> Live:
        """How the run stands now."""
        pretraining = self.board.pretraining
        running = tuple(_running(job) for job in list(self.board.running.values()))
        missing = sum(trial.protocol.iterations for _, trial in pretraining.missing())
        done = sum(one.iterations for one in running if one.phase == "pretrain")
        return Live(
            started=self.started,
            slots=self.slots(),
            running=running,
            usage=self._usage,
            pretraining_iterations=max(0, missing - done),
            dashboard=self.dashboard,
        )

    def snapshot(self) -> Snapshot:
        """The board as it is shown."""
        rows = {
            name: [*list(arm.rows.values()), *list(arm.confirmed.values())]
            for name, arm in self.board.arms.items()
        }
        now = self.live()
        return Snapshot(
            study=self.board.study, rows=rows, running=now.running, live=now, alive=True, now=self.clock()
        )

    def _view(self) -> Group:
        return view.picture(self.snapshot())

    def _line(self) -> Text:
        return view.line(self.snapshot())


def _running(job: Job) -> Running:
    row = job.row
    return Running(
        arm=job.arm, phase=job.phase, number=job.number, seed=row.seed, iterations=row.iterations,
        of=job.trial.protocol.iterations, seconds=row.seconds, value=row.value,
        host=job.host, memory=job.memory, gpu_memory=job.gpu_memory,
    )  # fmt: skip


def introduction(study: Study, folder: str, tracking: str) -> Text:
    """What is about to happen, in three lines."""
    arms = ", ".join(arm.name for arm in study.arms)
    return Text(f"{study.question}\nArms: {arms}.\nResults: {folder} · MLflow: {tracking}")
