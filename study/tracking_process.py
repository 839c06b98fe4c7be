"""MLflow's tracker in a process of its own, for its client needs more of Python's one lock than all else.

The driver tells and goes on. The process ends with the driver, however that ends. One that is lost is
replaced, and the ledger tells its successor what MLflow lacks.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from search_spaces import UserError
from study.results import TrialRow
from study.run_format import Identity
from study.tracked_runs import Artifacts
from study.tracking import Tracker

LOG = "mlflow.log"
"""In the study's folder: what MLflow prints."""

SUCCESSORS = 3
"""How many processes may follow the first one; where all are lost, it is for no passing reason."""

ASKED = ("start", "close")
"""The calls that the driver waits for."""

_END_WITHIN = 5.0
_log = logging.getLogger(__name__)


class TrackingProcess:
    """What a driver calls of `Tracker`, which is elsewhere and does the work.

    Args:
        make: builds the tracker; called in the process too.
        folder: of the study, for what MLflow prints.
        rows: reads the trials of the ledger.
    """

    def __init__(self, make: partial[Tracker], folder: Path, rows: Callable[[], Sequence[TrialRow]]) -> None:
        here = make()
        self.uri, self.elsewhere = here.uri, here.elsewhere
        self._make, self._folder, self._rows = make, folder, rows
        self._arms: Sequence[str] = ()
        self._artifacts: Callable[[TrialRow], Artifacts] | None = None
        self._running: dict[Identity, TrialRow] = {}
        self._last: list[tuple[Any, ...]] = []
        """Calls that the ledger does not know of."""
        self._successors = SUCCESSORS
        self._line = _Line(folder)  # it starts while the driver does other things

    def __enter__(self) -> TrackingProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._line.end()

    def start(self, arms: Sequence[str] = ()) -> None:
        """As `Tracker.start`. Raises UserError."""
        self._arms = tuple(arms)
        try:
            self._line.begin(self._make, self._arms)
        except OSError as error:
            if not self._succeeded():
                raise UserError(
                    f"The process that tells MLflow must start, but {SUCCESSORS + 1} of them ended at once; "
                    f"{self._folder / LOG} says what they printed."
                ) from error

    def reconcile(self, rows: Sequence[TrialRow], artifacts: Callable[[TrialRow], Artifacts]) -> None:
        """As `Tracker.reconcile`; `artifacts` is called in the process."""
        self._artifacts = artifacts
        self._tell("reconcile", rows, artifacts)

    def trial_started(self, row: TrialRow) -> None:
        """As `Tracker.trial_started`."""
        self._running[row.identity] = row
        self._tell("trial_started", row)

    def trial_reported(self, key: str, iteration: int, metrics: Mapping[str, float]) -> None:
        """As `Tracker.trial_reported`."""
        self._tell("trial_reported", key, iteration, metrics)

    def trial_ended(self, row: TrialRow, artifacts: Artifacts = ()) -> None:
        """As `Tracker.trial_ended`."""
        self._running.pop(row.identity, None)
        self._tell("trial_ended", row, artifacts)

    def arm_selected(self, arm: str, row: TrialRow, artifacts: Artifacts = ()) -> None:
        """As `Tracker.arm_selected`."""
        self._tell_last("arm_selected", arm, row, artifacts)

    def answered(self, texts: Mapping[str, str], arm_metrics: Mapping[str, Mapping[str, float]]) -> None:
        """As `Tracker.answered`."""
        self._tell_last("answered", texts, arm_metrics)

    def interrupted(self) -> None:
        """As `Tracker.interrupted`."""
        self._tell_last("interrupted")

    def close(self, timeout: float) -> None:
        """As `Tracker.close`."""
        try:
            self._line.ask("close", timeout)
        except OSError:
            if self._succeeded():
                with contextlib.suppress(OSError):
                    self._line.ask("close", timeout)

    def _tell_last(self, *call: Any) -> None:
        self._last.append(call)
        self._tell(*call)

    def _tell(self, *call: Any) -> None:
        try:
            self._line.send(*call)
        except OSError:
            # What was lost, this call among it, is in the ledger, or among the calls that are told again.
            self._succeeded()

    def _succeeded(self) -> bool:
        """Puts another process in the lost one's place; False when there may be no more."""
        while self._successors:
            self._successors -= 1
            ended = self._line.how_it_ended()
            _log.warning("The process that tells MLflow was lost (%s); another goes on.", ended)
            self._line.end()
            try:
                self._begin_again()
            except (OSError, UserError) as error:
                if not self._successors:
                    _log.warning(
                        "MLflow is told no more (%s); the next run of the study completes it.", error
                    )
            else:
                return True
        return False

    def _begin_again(self) -> None:
        self._line = _Line(self._folder)
        self._line.begin(self._make, self._arms)
        if self._artifacts is not None:
            self._line.send("reconcile", self._rows(), self._artifacts)
        for row in self._running.values():
            self._line.send("trial_started", row)
        for call in self._last:
            self._line.send(*call)


class _Line:
    """One process, and the pair of sockets that it shares with the driver alone: what comes is unpickled."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / LOG
        self._socket, theirs = socket.socketpair()
        with theirs, self._log.open("ab") as sink:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        self._connection = Connection(os.dup(self._socket.fileno()))
        self._replies: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        threading.Thread(target=self._listen, name="from MLflow's process", daemon=True).start()

    def begin(self, make: partial[Tracker], arms: Sequence[str]) -> None:
        """Has the tracker built there and started. Raises UserError, and OSError when the process is gone."""
        self.send(make)
        self.ask("start", arms)

    def send(self, *call: Any) -> None:
        """Raises OSError when the process is gone."""
        self._connection.send(call)

    def ask(self, *call: Any) -> None:
        """`send`, and wait until it is done. Raises what the call raises."""
        self.send(*call)
        if (error := self._replies.get()) is not None:
            raise error

    def _listen(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            while True:
                kind, *content = self._connection.recv()
                if kind == "reply":
                    self._replies.put(*content)
                else:
                    name, level, text = content
                    logging.getLogger(name).log(level, "%s", text)
        self._replies.put(ConnectionResetError("the process ended"))

    def how_it_ended(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(_END_WITHIN)
            return signal.Signals(-code).name if code < 0 else f"exit {code}"
        return "it does not listen"

    def end(self) -> None:
        """It leaves when the line is closed. May be called again."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        try:
            self._process.wait(_END_WITHIN)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._connection.close()
        if self._log.exists() and not self._log.stat().st_size:
            self._log.unlink()


class _Driver(logging.Handler):
    """As the process sees it: waits for replies, and shows what is logged beside its picture of the study."""

    def __init__(self, line: Connection) -> None:
        super().__init__()
        self._line, self._one_at_a_time = line, threading.Lock()

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):
            self._send("log", record.name, record.levelno, record.getMessage())

    def reply(self, error: UserError | None) -> None:
        self._send("reply", error)

    def _send(self, *content: Any) -> None:
        with self._one_at_a_time:
            self._line.send(content)


def serve(line: Connection) -> None:
    """Carries out what the driver says until it has gone; what is not delivered then is in its ledger."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # sent to the whole group: the driver has last words to tell
    driver = _Driver(line)
    logging.basicConfig(level=logging.WARNING, handlers=[driver])
    code = 0
    try:
        _work(line, driver)
    except (EOFError, ConnectionError):
        pass
    except Exception:
        _log.error("%s", traceback.format_exc())
        code = 1
    os._exit(code)  # a thread of the tracker may be in the middle of a request


def _work(line: Connection, driver: _Driver) -> None:
    (make,) = line.recv()
    tracker: Tracker = make()
    while True:
        name, *arguments = line.recv()
        error = None
        try:
            getattr(tracker, name)(*arguments)
        except UserError as mistake:
            error = mistake
        if name in ASKED:
            driver.reply(error)


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
