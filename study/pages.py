"""Programs that serve pages on this machine: started, waited for, and ended with all their children."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from search_spaces import UserError
from study.masking import scrubbed

HOST = "127.0.0.1"
READY_WITHIN, GONE_WITHIN = 120.0, 15.0
"""Seconds for a program to answer, and to end after it was told to."""


@dataclass(slots=True, kw_only=True)
class Page:
    """One program, in a session of its own."""

    name: str
    port: int
    command: Sequence[str]
    environment: Mapping[str, str]
    folder: Path
    """Where it works and its output goes."""
    secrets: Sequence[str] = ()
    """Addresses whose passwords no message may show."""
    process: subprocess.Popen[bytes] = field(init=False)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def _log(self) -> Path:
        return self.folder / f"{self.name}.log"

    def start(self) -> None:
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                self.command, env=self.environment, cwd=self.folder, stdin=subprocess.DEVNULL,
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def wait(self) -> None:
        """Until it answers. Raises UserError when it ends before, or takes too long."""
        end = time.monotonic() + READY_WITHIN
        while not self._answers():
            if not self.runs() or time.monotonic() > end:
                raise UserError(self.complaint())
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.url}/", timeout=5).close()
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True

    def runs(self) -> bool:
        return self.process.poll() is None

    def complaint(self) -> str:
        """Why it does not serve, in the last words that it said."""
        lines = [one.strip() for one in self._log.read_text(errors="replace").splitlines() if one.strip()]
        last = scrubbed(lines[-1].rstrip(".") if lines else "it did not answer", *self.secrets)
        return f"{self.name} must serve on port {self.port}, but: {last}; see its database."

    def stop(self) -> None:
        """The program and its children; what does not go is killed."""
        for number, patience in ((signal.SIGTERM, GONE_WITHIN), (signal.SIGKILL, 5.0)):
            end = time.monotonic() + patience
            with contextlib.suppress(ProcessLookupError):  # all are gone
                os.killpg(self.process.pid, number)
                while time.monotonic() < end:
                    self.process.poll()
                    os.killpg(self.process.pid, 0)
                    time.sleep(0.1)


@contextlib.contextmanager
def started(pages: Sequence[Page]) -> Iterator[None]:
    """All of them answer inside, and none is left afterwards. Raises UserError."""
    begun: list[Page] = []
    try:
        for page in pages:
            page.start()
            begun.append(page)
        for page in pages:
            page.wait()
        yield
    finally:
        for page in begun:
            page.stop()


def is_free(port: int) -> bool:
    """May a program listen there?"""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
