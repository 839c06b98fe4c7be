"""What signals to a driver do, with real signals and a board that only knows what runs."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from study import stopping
from study.stopping import Orders, stop_on_signal
from trainables.stopping import EVERYBODY


def board(*, running: bool = True) -> Any:
    return SimpleNamespace(running={"job": 1} if running else {}, stopping=False)


def tell(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.01)  # the handler runs before the next line


def told(one: Any, orders: Orders | None, *numbers: int, then: float = 0.0) -> int:
    """How many of the signals a run survives; all of them if nothing has ended it `then` seconds later."""
    survived = 0
    with contextlib.suppress(KeyboardInterrupt), stop_on_signal(one, orders):
        for number in numbers:
            tell(number)
            survived += 1
        time.sleep(then)
        return survived
    return survived if survived < len(numbers) else -1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_ends(tmp_path: Path, number: int) -> None:
    orders, one = Orders(tmp_path / "ray" / "orders"), board()
    before = signal.getsignal(number)
    assert orders.path.read_text() == ""
    assert told(one, orders, number) == 1
    assert one.stopping
    assert orders.path.read_text().split() == [EVERYBODY]
    assert told(board(), orders, number, number) == 1
    assert signal.getsignal(number) == before


def test_patience_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "GRACE", 0.1)
    started = time.monotonic()
    assert told(board(), Orders(tmp_path / "orders"), signal.SIGTERM, then=10.0) == -1
    assert time.monotonic() - started < 8


def test_what_cannot_wait_ends_at_once(tmp_path: Path) -> None:
    orders = Orders(tmp_path / "orders")
    with pytest.raises(KeyboardInterrupt), stop_on_signal(board(), orders):
        stopping.end_now()
    assert orders.path.read_text() == ""


def test_tune_does_not_take_that_signal_over(tmp_path: Path) -> None:
    """It installs handlers of its own after ours, and by them a run ends as if it had finished."""
    from ray.tune import tune

    def lost() -> None:
        tune._setup_signal_catching()
        stopping.end_now()

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)}
    try:
        with pytest.raises(KeyboardInterrupt), stop_on_signal(board(), Orders(tmp_path / "orders")):
            lost()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("case", ["nothing runs", "no workers yet", "no disk"])
def test_ends_at_once_where_nobody_can_be_asked(tmp_path: Path, case: str) -> None:
    orders = Orders(tmp_path / "folder" / "orders")
    if case == "no disk":
        orders.path.unlink()
        orders.path.parent.rmdir()
    one = board(running=case != "nothing runs")
    assert told(one, None if case == "no workers yet" else orders, signal.SIGTERM) == 0
    assert one.stopping
