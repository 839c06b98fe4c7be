"""How a run is ended from outside: signals to the driver, and its orders to the workers of any node."""

from __future__ import annotations

import contextlib
import signal
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from study.board import Board
from trainables.stopping import EVERYBODY
from trainables.store import Store, StoreAwayError

GRACE = 10.0
"""Seconds that running trials have to leave a checkpoint when the driver is asked to stop."""


COPIED_WITHIN = 5.0
"""Seconds that a copy of the orders may take."""

NOW = signal.SIGUSR2
"""Ends the run without waiting: what a thread sends to the main one.

Tune takes SIGUSR1 over when it starts (2.60), and then ends as if the study had; timers with SIGALRM may be
others'.
"""


def end_now() -> None:
    """Called by any thread."""
    signal.pthread_kill(threading.main_thread().ident or 0, NOW)


class Orders:
    """The file by which workers on any node are told to stop; it is there, and empty, before they are.

    Where they do not see it, a copy of it in a store of this driver's own.
    """

    def __init__(self, path: Path, copied_to: Store | None = None) -> None:
        self.path, self.copied_to = path, copied_to
        self._copying = threading.Lock()
        self._copies: list[threading.Thread] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")

    @property
    def address(self) -> str:
        """Under which workers read it."""
        return str(self.path) if self.copied_to is None else self.copied_to.file(self.path.name)

    def give(self, whom: str) -> None:
        """whom: EVERYBODY, or the name of a node. Raises OSError."""
        with self.path.open("a") as file:  # the same file: network file systems show what is added at once
            file.write(f"{whom}\n")
        if self.copied_to is not None:
            # Apart: this may be a signal's handler, which must not wait for a service.
            self._copies.append(threading.Thread(target=self._copy, name="orders", daemon=True))
            self._copies[-1].start()

    def _copy(self) -> None:
        assert self.copied_to is not None
        # Should it fail, the workers are stopped without being asked.
        with self._copying, contextlib.suppress(OSError, StoreAwayError):
            self.copied_to.hasty().write(self.path.name, self.path.read_bytes())

    def end(self) -> None:
        """Nobody reads them any more."""
        for copy in self._copies:
            copy.join(COPIED_WITHIN)
        if self.copied_to is not None and self._copies:
            with contextlib.suppress(OSError, StoreAwayError):
                self.copied_to.hasty().delete(self.path.name)


@contextlib.contextmanager
def stop_on_signal(board: Board, orders: Orders | None = None) -> Iterator[None]:
    """Ctrl-C and SIGTERM raise KeyboardInterrupt; what runs is continued from its checkpoint next time.

    With orders, the first signal only asks the workers for a checkpoint of their last step. The searcher
    raises once they have left it; so does a second signal, and the end of GRACE seconds.
    """
    patience = threading.Timer(GRACE, end_now)
    patience.daemon = True

    def stop(number: int, frame: types.FrameType | None) -> None:
        patient = board.running and not board.stopping and number != NOW
        board.stopping = True
        if orders is not None and patient:
            patience.start()
            with contextlib.suppress(OSError):  # a full disk: there can be no checkpoint either
                orders.give(EVERYBODY)
                return
        raise KeyboardInterrupt(signal.Signals(number).name)

    before: dict[int, Callable[..., Any] | int | None] = {
        number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, NOW)
    }
    try:
        yield
    finally:
        patience.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
