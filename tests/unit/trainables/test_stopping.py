"""What a worker makes of SIGTERM and of its driver's orders."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainables.stopping import EVERYBODY, StopRequests, leave_note, read_note, remove_note
from trainables.store import Store


@pytest.fixture(autouse=True)
def sigterm() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_a_busy_process_remembers_and_an_idle_one_ends() -> None:
    heard: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    requests = StopRequests()
    requests.listen()
    with requests.busy():
        os.kill(os.getpid(), signal.SIGTERM)
        assert requests.asked()
    assert heard == []
    with pytest.raises(SystemExit):
        os.kill(os.getpid(), signal.SIGTERM)
    assert heard == [signal.SIGTERM]  # whoever listened before, Ray, has its say


@pytest.mark.parametrize(
    ("ordered", "reason"),
    [
        ("", ""),
        ("b\n", ""),
        ("b\na\n", "its node is about to go"),
        (f"b\n{EVERYBODY}\n", "its driver was asked to stop"),
        ("aa\n", ""),
    ],
)
def test_orders(tmp_path: Path, ordered: str, reason: str) -> None:
    requests = StopRequests("a")
    orders = tmp_path / "orders"
    requests.orders = Store.of(orders)
    assert not requests.asked()  # there is no such file: the driver is gone
    requests._looked -= 10
    orders.write_text(ordered)
    assert requests.asked() == bool(reason)
    assert requests.reason == reason


def test_the_file_is_read_twice_a_second_at_most(tmp_path: Path) -> None:
    requests = StopRequests()
    orders = tmp_path / "orders"
    requests.orders = Store.of(orders)
    assert not requests.asked()
    orders.write_text(EVERYBODY)
    assert not requests.asked()


def test_notes(tmp_path: Path) -> None:
    folder = Store.at(tmp_path)
    assert read_note(folder) is None
    leave_note(folder, 7, "because")
    assert read_note(folder) == {"iteration": 7, "reason": "because"}
    (tmp_path / "preempted.json").write_text('{"iter')
    assert read_note(folder) is None
    remove_note(folder)
    remove_note(folder)
    assert list(tmp_path.iterdir()) == []
