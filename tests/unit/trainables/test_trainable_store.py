"""A trial whose files lie in a store that is no folder: continued, damaged, stopped, and away."""

from __future__ import annotations

import json
import logging
import uuid
from typing import Any

import pytest
from pyarrow import fs

from tests.unit.trainables.test_trainable import (
    Place,
    place,
    report,
    sigterm,
    stopped_after,
    threads,
    to_its_end,
    undrawn,
    without_time,
)
from trainables import saved
from trainables import store as stores
from trainables.gallery import GALLERY
from trainables.left import CHECKPOINT, SAMPLES, SET_ASIDE
from trainables.protocol import Protocol
from trainables.stopping import EVERYBODY, read_note
from trainables.store import Store, StoreAwayError
from trainables.trial import Trial

__all__ = ["place", "sigterm", "threads", "undrawn"]


@pytest.fixture
def far() -> Store:
    """In this process's memory."""
    return Store.at(f"mock:///{uuid.uuid4().hex}/toy/trials")


def expected(place: Place, trial: Trial) -> dict[str, Any]:
    return without_time(to_its_end(place.start(trial))[-1])


@pytest.mark.usefixtures("undrawn")
def test_another_process_continues(place: Place, far: Store) -> None:
    trial = place.trial(test=True)
    folder = far.child(trial.key())
    first = place.start(trial, folder=folder.uri)
    report(first)
    folder.write(f"{CHECKPOINT}.elsewhere-4711", b"half")
    reports = to_its_end(place.start(trial, folder=folder.uri))
    assert len(reports) == 2
    assert folder.names() == [CHECKPOINT, GALLERY, SAMPLES]
    assert folder.read(SAMPLES) == b"drawn"
    assert not place.folder_of(trial).exists()
    assert without_time(reports[-1]) == expected(place, trial)


@pytest.mark.parametrize("kind", ["half", "a bit", "empty", "another trial's"])
def test_a_damaged_object_is_as_good_as_none(
    place: Place, far: Store, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    trial = place.trial()
    folder = far.child(trial.key())
    report(place.start(trial, folder=folder.uri))
    content = folder.read(CHECKPOINT)
    assert content is not None
    if kind == "another trial's":
        saved.write(folder, CHECKPOINT, {}, "another")
    else:
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        folder.write(CHECKPOINT, {"half": content[:middle], "a bit": flipped, "empty": b""}[kind])
    bad = folder.read(CHECKPOINT)
    with caplog.at_level(logging.WARNING):
        reports = to_its_end(place.start(trial, folder=folder.uri))
    assert len(reports) == 3
    assert without_time(reports[-1]) == expected(place, trial)
    assert f"{folder.shown(CHECKPOINT)} is damaged" in caplog.text
    assert folder.read(SET_ASIDE) == bad


def test_a_network_is_left_behind_and_started_from(place: Place, far: Store) -> None:
    stage = place.trial()
    home = far.child("pretrained", stage.key())
    last = to_its_end(place.start(stage, folder=far.child("one").uri, network=home.file("network.pt")))[-1]
    assert json.loads(home.read("network.json") or b"") == last
    trial = place.trial(protocol=Protocol(iterations=0, reports=1), pretraining=stage, seed=3)
    (only,) = to_its_end(place.start(trial, start=home.file("network.pt")))
    assert only["curve"][0]["dice"] == last["curve"][-1]["dice"]
    lost = report(place.start(place.trial(pretraining=stage, seed=4), start=far.file("network.pt")))
    assert lost["state"] == "failed"
    assert f"There is no {far.shown('network.pt')}" in lost["reason"]


@pytest.mark.usefixtures("undrawn")
def test_a_trial_is_called_finished_last(place: Place, far: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a kill at any moment leaves nothing out: the next process trains the last interval again."""
    written: list[str] = []
    write = Store.write

    def remembered(store: Store, name: str, content: bytes | memoryview) -> None:
        written.append(name)
        write(store, name, content)

    monkeypatch.setattr(Store, "write", remembered)
    trial = place.trial(test=True, protocol=Protocol(iterations=2, reports=1))
    to_its_end(place.start(trial, folder=far.child(trial.key()).uri, network=far.file("network.pt")))
    assert written == [SAMPLES, GALLERY, "network.json", "network.pt", CHECKPOINT]


def test_sigterm_and_orders(place: Place, far: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = place.trial()
    folder = far.child(trial.key())
    stopped_after(place.start(trial, folder=folder.uri), 1, monkeypatch)
    assert read_note(folder) == {"iteration": 1, "reason": "its process was sent SIGTERM"}
    far.write("orders", EVERYBODY.encode())
    with pytest.raises(SystemExit):
        place.start(trial, folder=folder.uri, orders=far.file("orders")).train()
    assert read_note(folder) == {"iteration": 1, "reason": "its driver was asked to stop"}
    far.delete("orders")
    last = to_its_end(place.start(trial, folder=folder.uri, orders=far.file("orders")))[-1]
    assert without_time(last) == expected(place, trial)
    assert read_note(folder) is None


def test_a_store_that_stays_away_is_no_failure_of_the_trial(
    place: Place, far: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray hears an error, so the driver hands the trial out again; it goes on from its checkpoint."""
    trial = place.trial()
    folder = far.child(trial.key())
    running = place.start(trial, folder=folder.uri)
    report(running)
    running.store = folder.hasty()

    def away(uri: str) -> tuple[fs.FileSystem, str]:
        raise OSError("no route to host")

    with monkeypatch.context() as patch:
        patch.setattr(stores, "_connected", away)
        with pytest.raises(StoreAwayError, match=r"must answer, but did not .*no route to host"):
            running.train()
    again = to_its_end(place.start(trial, folder=folder.uri))
    assert len(again) == 2
    assert without_time(again[-1]) == expected(place, trial)
