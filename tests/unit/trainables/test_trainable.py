"""A trial under Ray Tune, driven without a Ray runtime: reports, continuation, failures, reuse."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.trainables.toy_data import WEAK, protocol, trial_on
from trainables import gallery, pictures
from trainables.data.dataset import Dataset
from trainables.left import CHECKPOINT, SAMPLES
from trainables.loop import Training
from trainables.method import IGNORE
from trainables.stopping import EVERYBODY, LOOK_EVERY, read_note
from trainables.store import Store
from trainables.trainable import StudyTrainable
from trainables.trial import Trial

FIELDS = {
    "key", "state", "seconds", "curve", "cases", "host", "machine", "reason", "failure", "micro_batches",
    "trace", "memory", "gpu_memory",
}  # fmt: skip


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """A trial sets the number of threads of its process, which is the tests' process here."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def sigterm() -> Iterator[None]:
    """A trial takes SIGTERM over, which is the tests' process's here."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


class Place:
    """Where trials run: the toy data, a folder of trials, the decoded cache."""

    def __init__(self, folder: Path, data_folder: Path, dataset: Dataset) -> None:
        self.folder, self.data_folder, self.dataset = folder, data_folder, dataset

    def trial(self, **changes: Any) -> Trial:
        return trial_on(self.dataset, self.data_folder / "toy.parquet", **changes)

    def folder_of(self, trial: Trial) -> Path:
        return self.folder / trial.key()

    def store_of(self, trial: Trial) -> Store:
        return Store.at(self.folder_of(trial))

    def config(self, trial: Trial, **changes: Any) -> dict[str, Any]:
        values = {
            "trial": json.loads(json.dumps(trial.to_dict())),
            "key": trial.key(),
            "folder": str(self.folder_of(trial)),
            "cache": str(self.data_folder / "cache"),
            "metric": "dice",
            "watch": [],
            "start": None,
            "network": None,
            "threads": 1,
            "gpus": 0.0,
        }
        return {**values, **changes}

    def start(self, trial: Trial, **changes: Any) -> StudyTrainable:
        return StudyTrainable(self.config(trial, **changes))


@pytest.fixture
def place(tmp_path: Path, toy_folder: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> Place:
    # Without a running Tune, Ray gives every trainable a folder in the home directory.
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path / "ray"))
    return Place(tmp_path, toy_folder, dataset)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What would be drawn, which takes a second."""
    drawn: list[tuple[Any, ...]] = []

    def draw(path: Path, *arguments: Any) -> None:
        path.write_bytes(b"drawn")
        drawn.append(arguments)

    monkeypatch.setattr(pictures, "samples", draw)
    return drawn


def report(running: StudyTrainable) -> dict[str, Any]:
    """The payload of one step, as the driver hears it."""
    result = running.train()
    payload: dict[str, Any] = json.loads(result["payload"])
    assert result["done"] == (payload["state"] != "running")
    assert payload.keys() == FIELDS
    return payload


def to_its_end(running: StudyTrainable) -> list[dict[str, Any]]:
    reports = [report(running)]
    while reports[-1]["state"] == "running":
        reports.append(report(running))
    return reports


def dice(payload: dict[str, Any]) -> list[float]:
    return [point["dice"] for point in payload["curve"]]


def without_time(payload: dict[str, Any]) -> dict[str, Any]:
    times = ("reported", "seconds", "training_seconds")
    curve = [{k: v for k, v in point.items() if k not in times} for point in payload["curve"]]
    return {**payload, "curve": curve, "seconds": 0.0, "memory": 0}


def test_reports_until_finished(place: Place) -> None:
    trial = place.trial()
    reports = to_its_end(place.start(trial))
    assert [r["state"] for r in reports] == ["running", "running", "finished"]
    assert [[p["iteration"] for p in r["curve"]] for r in reports] == [[2], [2, 4], [2, 4, 6]]
    assert {r["key"] for r in reports} == {trial.key()}
    last = reports[-1]
    assert last["curve"][0].keys() == {
        "iteration", "reported", "seconds", "training_seconds",
        "dice", "loss_total", "loss_cross_entropy", "loss_dice",
    }  # fmt: skip
    moments = [p["reported"] for p in last["curve"]]
    assert time.time() - 60 < moments[0] < moments[1] < moments[2] < time.time()
    seconds = [p["seconds"] for p in last["curve"]]
    assert 0 < seconds[0] < seconds[1] < seconds[2] == last["seconds"]
    assert last["cases"] == []
    assert (last["reason"], last["trace"]) == ("", "")
    assert [path.name for path in place.folder_of(trial).iterdir()] == [CHECKPOINT]  # a search shows nothing


def test_reports_what_the_loop_gives(place: Place) -> None:
    trial = place.trial()
    last = to_its_end(place.start(trial, metric="iou"))[-1]
    training = Training(trial, place.dataset, torch.device("cpu"))
    for point in last["curve"]:
        terms = training.advance(point["iteration"])
        assert point["loss_total"] == terms["total"]
        assert point["iou"] == training.validate(["iou"])["iou"]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("stops", [(1,), (2,), (1, 1)])
def test_another_process_continues(place: Place, stops: tuple[int, ...], tmp_path: Path) -> None:
    trial = place.trial(test=True)
    elsewhere = Place(tmp_path / "elsewhere", place.data_folder, place.dataset)
    expected = to_its_end(elsewhere.start(trial))[-1]
    for steps in stops:
        interrupted = place.start(trial)
        for _ in range(steps):
            assert report(interrupted)["state"] == "running"
        torch.manual_seed(1)  # another process has another past
    reports = to_its_end(place.start(trial))
    assert len(reports) == 3 - sum(stops)
    assert without_time(reports[-1]) == without_time(expected)
    seconds = [point["seconds"] for point in reports[-1]["curve"]]
    assert seconds == sorted(seconds)  # they add up over the processes


@pytest.mark.usefixtures("undrawn")
def test_what_ended_before_the_driver_heard_is_not_trained_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = place.trial(test=True)
    last = to_its_end(place.start(trial))[-1]

    def never(*_: object) -> None:
        raise AssertionError("it is trained already")

    monkeypatch.setattr(Training, "advance", never)
    monkeypatch.setattr(Training, "predict", never)
    again = place.start(trial)
    assert report(again) == last
    assert report(again) == last  # and a second call of Tune changes nothing


def test_a_kill_while_saving_leaves_the_old_checkpoint(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = place.trial()
    running = place.start(trial)
    report(running)
    checkpoint = place.folder_of(trial) / CHECKPOINT
    before = checkpoint.read_bytes()

    def killed(file: int) -> None:
        raise KeyboardInterrupt  # nothing inside may catch what ends a process

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", killed)
        with pytest.raises(KeyboardInterrupt):
            running.step()
    assert checkpoint.read_bytes() == before
    reports = to_its_end(place.start(trial))
    assert len(reports) == 2
    assert reports[-1]["state"] == "finished"


def test_a_full_disk_is_no_bug_of_the_trial(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the new checkpoint takes space, the old one is whole, and from there it goes on."""
    trial = place.trial()
    expected = without_time(to_its_end(place.start(trial))[-1])
    checkpoint = place.folder_of(trial) / CHECKPOINT
    checkpoint.unlink()
    running = place.start(trial)
    report(running)
    before = checkpoint.read_bytes()

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        last = report(running)
    assert (last["failure"], last["reason"]) == ("disk_full", "[Errno 28] No space left on device")
    assert checkpoint.read_bytes() == before
    assert list(place.folder_of(trial).iterdir()) == [checkpoint]
    reports = to_its_end(place.start(trial))
    assert len(reports) == 2
    assert without_time(reports[-1]) == expected


def test_a_checkpoint_is_replaced_not_overwritten(place: Place) -> None:
    """Whoever has the old file open reads the old file, and nothing else is left in the folder."""
    trial = place.trial()
    running = place.start(trial)
    report(running)
    checkpoint = place.folder_of(trial) / CHECKPOINT
    content = checkpoint.read_bytes()
    with checkpoint.open("rb") as old:
        report(running)
        assert old.read() == content != checkpoint.read_bytes()
    assert list(place.folder_of(trial).iterdir()) == [checkpoint]


def test_divergence_is_a_result(place: Place) -> None:
    running = place.start(place.trial(protocol=protocol(learning_rate=1e30)))
    last = to_its_end(running)[-1]
    assert (last["state"], last["failure"]) == ("diverged", "not_finite")
    assert "The loss or a weight is not finite between iterations" in last["reason"]
    assert last["trace"] == ""
    assert report(running) == last


def test_a_bug_is_a_result_with_its_trace(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    running = place.start(place.trial())
    first = report(running)

    def broken(*_: object) -> float:
        raise ZeroDivisionError("a bug in the metric")

    monkeypatch.setattr(Training, "validate", broken)
    last = report(running)
    assert last["state"] == "failed"
    assert (last["failure"], last["reason"]) == ("bug", "ZeroDivisionError: a bug in the metric")
    assert "in broken" in last["trace"]
    assert last["curve"] == first["curve"]
    assert report(running) == last


def test_another_data_set_under_the_same_path(place: Place) -> None:
    trial = place.trial()
    stale = dataclasses.replace(trial, data=dataclasses.replace(trial.data, fingerprint="older"))
    last = report(place.start(stale))
    assert last["state"] == "failed"
    assert last["failure"] == "data"
    assert "toy.parquet changed while the study ran: its fingerprint differs" in last["reason"]
    assert last["curve"] == []


@pytest.mark.parametrize("content", [None, b"no parquet"])
def test_data_that_cannot_be_read_is_named(place: Place, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "gone.parquet"
    if content is not None:
        path.write_bytes(content)
    trial = place.trial()
    moved = dataclasses.replace(trial, data=dataclasses.replace(trial.data, path=str(path)))
    last = report(place.start(moved))
    assert (last["state"], last["failure"]) == ("failed", "data")
    assert last["reason"].startswith(f"{path} cannot be read: ")


def test_reuse_forgets_the_trial_before(place: Place) -> None:
    one, other = place.trial(), place.trial(seed=1, method="partial_cross_entropy", annotation=WEAK)
    diverging = place.trial(protocol=protocol(learning_rate=1e30))
    expected = without_time(to_its_end(place.start(other))[-1])
    (place.folder_of(other) / CHECKPOINT).unlink()

    reused = place.start(one)
    report(reused)
    before = weakref.ref(reused.training)
    assert reused.reset(place.config(diverging))
    assert before() is None  # its memory is free for the next
    assert to_its_end(reused)[-1]["state"] == "diverged"
    assert reused.training is None  # while it waits for the next, too
    assert reused.reset(place.config(other))
    reports = to_its_end(reused)
    assert len(reports) == 3
    assert without_time(reports[-1]) == expected
    assert reports[0]["seconds"] == reports[0]["curve"][0]["seconds"]


def test_reuse_sets_the_threads(place: Place) -> None:
    running = place.start(place.trial(), threads=2)
    assert torch.get_num_threads() == 2
    running.reset(place.config(place.trial(seed=1)))
    assert torch.get_num_threads() == 1


def test_the_test_split_is_scored_at_the_end(place: Place) -> None:
    trial = place.trial(test=True)
    reports = to_its_end(place.start(trial))
    assert [len(r["cases"]) for r in reports[:-1]] == [0, 0]
    cases = reports[-1]["cases"]
    rows = place.dataset.folds[0].test
    volumes = sorted({place.dataset.volume_ids[r] for r in rows})
    assert [(c["volume_id"], c["class_id"]) for c in cases] == [(v, k) for v in volumes for k in (1, 2)]

    training = Training(trial, place.dataset, torch.device("cpu"))
    training.advance(6)
    scores = [dataclasses.asdict(score) for score in training.score(rows)]
    np.testing.assert_equal(cases, scores)  # NaN equals NaN
    picture = (place.folder_of(trial) / SAMPLES).read_bytes()
    assert picture.startswith(b"\x89PNG")
    shown = gallery.read(place.folder_of(trial) / gallery.GALLERY)
    dice = gallery.case_values(training.score(rows), "dice")
    assert [dice[p.case_id] for p in shown[:3]] == [
        max(dice.values()),
        np.median(list(dice.values())),
        min(dice.values()),
    ]
    assert [p.role for p in shown] == ["best", "median", "worst", "train", "train"]


@pytest.mark.parametrize("steps", [1, 2])
def test_a_continued_trial_leaves_the_same_gallery(place: Place, steps: int, tmp_path: Path) -> None:
    trial = place.trial(test=True, method="partial_cross_entropy", annotation=WEAK)
    elsewhere = Place(tmp_path / "elsewhere", place.data_folder, place.dataset)
    to_its_end(elsewhere.start(trial))
    interrupted = place.start(trial)
    for _ in range(steps):
        report(interrupted)
    to_its_end(place.start(trial))
    left, expected = (at.folder_of(trial) / gallery.GALLERY for at in (place, elsewhere))
    assert left.read_bytes() == expected.read_bytes()


def test_what_is_drawn(place: Place, undrawn: list[tuple[Any, ...]]) -> None:
    trial = place.trial(test=True, method="partial_cross_entropy", annotation=WEAK)
    to_its_end(place.start(trial))
    ((images, masks, labels, predictions, names, titles),) = undrawn
    assert (place.folder_of(trial) / SAMPLES).read_bytes() == b"drawn"
    data, split = place.dataset, place.dataset.folds[0]
    rows = [data.image_ids.index(title.split(maxsplit=1)[1]) for title in titles]
    assert [title.split()[0] for title in titles] == ["train"] * 4 + ["test"] * 4
    assert set(rows[:4]) <= set(split.train)
    assert set(rows[4:]) <= set(split.test)
    assert len(set(rows)) == 8
    np.testing.assert_array_equal(images, data.images_NHW[rows])
    np.testing.assert_array_equal(masks, data.masks_NHW[rows])
    clicks = labels[:4] != IGNORE
    np.testing.assert_array_equal(labels[:4][clicks], masks[:4][clicks])
    assert 0 < clicks.sum() <= 4 * 3 * WEAK.pixel_budget
    assert (labels[4:] == IGNORE).all()  # nobody annotates a test image
    training = Training(trial, data, torch.device("cpu"))
    training.advance(6)
    np.testing.assert_array_equal(predictions, training.predict(np.array(rows)))
    assert names == data.class_names


def test_a_network_is_left_behind_and_started_from(place: Place) -> None:
    stage = place.trial()
    left = place.folder / "pretrained" / stage.key() / "network.pt"
    reports = to_its_end(place.start(stage, network=str(left)))
    assert json.loads(left.with_suffix(".json").read_text()) == reports[-1]
    assert {path.name for path in left.parent.iterdir()} == {"network.pt", "network.json"}
    trained = Training(stage, place.dataset, torch.device("cpu"))
    trained.advance(6)
    weights = torch.load(left, weights_only=True)
    assert all(torch.equal(value, weights[name]) for name, value in trained.net.state_dict().items())

    as_it_is = place.trial(protocol=protocol(iterations=0), pretraining=stage, test=True, seed=3)
    (only,) = to_its_end(place.start(as_it_is, start=str(left)))
    assert only["state"] == "finished"
    assert only["curve"][0]["dice"] == reports[-1]["curve"][-1]["dice"]
    assert len(only["cases"]) > 0


def test_what_a_killed_process_left_half_written_is_deleted(place: Place) -> None:
    trial = place.trial()
    place.folder_of(trial).mkdir(parents=True)
    left = place.folder_of(trial) / f"{CHECKPOINT}.4711"
    left.write_bytes(b"half")
    assert report(place.start(trial))["state"] == "running"
    assert not left.exists()


def test_what_is_kept_is_what_is_reported_and_tested(place: Place) -> None:
    trial = place.trial(protocol=protocol(keep="best_iou", learning_rate=0.05), test=True)
    last = to_its_end(place.start(trial, watch=["size_error"]))[-1]
    kept, now = ([p[name] for p in last["curve"]] for name in ("iou", "last_iou"))
    assert kept == list(np.maximum.accumulate(now))
    assert {"size_error", "last_size_error", "last_dice"} <= last["curve"][0].keys()
    saved = torch.load(place.folder_of(trial) / CHECKPOINT, weights_only=True)
    training = Training(trial, place.dataset, torch.device("cpu"))
    training.load_state_dict(saved["training"])
    assert training.validate(["iou"])["iou"] == kept[-1]


def stopped_after(running: StudyTrainable, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real SIGTERM in the middle of step number `steps` of a call of Tune."""
    taken = []
    step = Training._step

    def counted(self: Training) -> dict[str, torch.Tensor]:
        taken.append(self.iteration)
        if len(taken) == steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_step", counted)
        with pytest.raises(SystemExit):
            running.train()
    assert len(taken) == steps  # the step that it came in was the last


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_sigterm_leaves_a_checkpoint_of_the_last_step(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, steps: int
) -> None:
    trial = place.trial(protocol=protocol(iterations=8, reports=2), test=True)
    elsewhere = Place(tmp_path / "elsewhere", place.data_folder, place.dataset)
    expected = to_its_end(elsewhere.start(trial))
    stopped_after(place.start(trial), steps, monkeypatch)
    note = read_note(place.store_of(trial))
    assert note == {"iteration": steps, "reason": "its process was sent SIGTERM"}
    saved = torch.load(place.folder_of(trial) / CHECKPOINT, weights_only=True)
    assert saved["training"]["iteration"] == steps
    assert saved["training_seconds"] > 0
    again = to_its_end(place.start(trial))
    assert [without_time(r) for r in again] == [without_time(r) for r in expected]
    assert again[0]["curve"][0]["training_seconds"] > saved["training_seconds"]
    assert read_note(place.store_of(trial)) is None


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("call", [1, 4, 5])  # of `predict`: the first validation, the last, the test
def test_sigterm_while_it_predicts(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, call: int
) -> None:
    trial = place.trial(
        protocol=protocol(iterations=8, reports=4, keep="best_dice", learning_rate=0.05), test=True
    )
    elsewhere = Place(tmp_path / "elsewhere", place.data_folder, place.dataset)
    expected = to_its_end(elsewhere.start(trial))
    calls, predict = [], Training.predict

    def disturbed(self: Training, rows: np.ndarray) -> np.ndarray:
        calls.append(self.iteration)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGTERM)
        return predict(self, rows)

    running = place.start(trial)
    with monkeypatch.context() as patch:
        patch.setattr(Training, "predict", disturbed)
        with pytest.raises(SystemExit):
            to_its_end(running)
    reason = "its process was sent SIGTERM"
    assert read_note(place.store_of(trial)) == {"iteration": min(2 * call, 8), "reason": reason}
    assert without_time(to_its_end(place.start(trial))[-1]) == without_time(expected[-1])


def test_the_driver_may_ask_to_stop(place: Place, tmp_path: Path) -> None:
    orders = tmp_path / "orders"
    orders.write_text("")
    trial = place.trial()
    running = place.start(trial, orders=str(orders))
    report(running)
    orders.write_text(f"{EVERYBODY}\n")
    running.requests._looked = -LOOK_EVERY  # it looks twice a second only
    with pytest.raises(SystemExit):
        running.train()
    note = read_note(place.store_of(trial))
    assert note == {"iteration": 2, "reason": "its driver was asked to stop"}


CE = {"method": "full_supervision", "settings": {"loss": "ce"}}


def without_memory(monkeypatch: pytest.MonkeyPatch, *, largest: int, from_step: int = 0) -> None:
    """From a step on the machine has memory for batches of `largest` images."""
    from trainables.methods.full_supervision import FullSupervision

    losses = FullSupervision.losses

    def limited(self: FullSupervision, net: Any, batch: Any, state: Any, progress: float) -> Any:
        if len(batch.image_BCHW) > largest and progress >= from_step / 6:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return losses(self, net, batch, state, progress)

    monkeypatch.setattr(FullSupervision, "losses", limited)


def test_out_of_memory_goes_on_with_half_the_micro_batch(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """From the last checkpoint, as a training that computes its steps in two parts from there on."""
    trial = place.trial(**CE)
    size = trial.protocol.batch_size
    training = Training(trial, place.dataset, torch.device("cpu"))
    expected = [training.advance(2)["total"]]
    training.parts = 2
    expected += [training.advance(until)["total"] for until in (4, 6)]

    without_memory(monkeypatch, largest=(size + 1) // 2, from_step=3)
    running = place.start(trial)
    reports = [report(running), report(running)]
    reports += to_its_end(place.start(trial))  # and another process knows that it must
    assert [p["loss_total"] for p in reports[-1]["curve"]] == expected
    assert [r["micro_batches"] for r in reports] == [1, 2, 2]
    assert (reports[-1]["state"], reports[-1]["failure"]) == ("finished", "")


def test_out_of_memory_once_more_only(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    without_memory(monkeypatch, largest=1)
    trial = place.trial(**CE, protocol=protocol(batch_size=6))
    last = report(place.start(trial))
    assert (last["state"], last["failure"], last["micro_batches"]) == ("failed", "out_of_memory", 2)
    assert last["reason"] == "also in two micro-batches: CUDA out of memory. Tried to allocate 2 GiB."
    assert "OutOfMemoryError" in last["trace"]


def test_out_of_memory_of_an_indivisible_loss(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    without_memory(monkeypatch, largest=1)
    last = report(place.start(place.trial()))  # with Dice, a ratio of sums over the batch
    assert (last["state"], last["failure"], last["micro_batches"]) == ("failed", "out_of_memory", 1)
    assert last["reason"].startswith("full_supervision cannot compute its loss in micro-batches: CUDA out of")


def test_the_time_limit_ends_a_trial_with_its_checkpoint(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = place.trial()
    running = place.start(trial, time_limit=1000.0)
    first = report(running)
    running.settings["time_limit"] = 1e-9
    last = report(running)
    assert (last["state"], last["failure"]) == ("failed", "timeout")
    assert last["reason"] == "it took longer than its limit of 1e-09 s"
    assert last["curve"] == first["curve"]
    assert torch.load(place.folder_of(trial) / CHECKPOINT, weights_only=True)["training"]["iteration"] == 2
    assert report(place.start(trial, time_limit=1e-9))["failure"] == "timeout"  # it counts over processes
    assert to_its_end(place.start(trial))[-1]["state"] == "finished"  # and with more time it goes on
