"""Damaged checkpoints and pre-trained networks: seen, set aside, trained again; never garbage weights."""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from study.pretraining import NETWORK, Networks
from tests.fuzz.mutations import ROUNDS, damaged, flipped, guarded
from tests.unit.trainables import toy_data
from tests.unit.trainables.test_trainable import Place, report, to_its_end, without_time
from trainables import saved
from trainables.data.dataset import Dataset
from trainables.left import CHECKPOINT, SET_ASIDE
from trainables.store import Store
from trainables.trainable import StudyTrainable
from trainables.trial import Trial


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def dataset(data_folder: Path) -> Dataset:
    return toy_data.opened(data_folder)


@pytest.fixture
def place(
    tmp_path: Path, data_folder: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path / "ray"))
    threads = torch.get_num_threads()
    yield Place(tmp_path / "home", data_folder, dataset)
    torch.set_num_threads(threads)


class System:
    """What a hostile pickle would do."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch hacked",)


def interrupted(place: Place, trial: Trial) -> Path:
    report(place.start(trial))
    return place.folder_of(trial) / CHECKPOINT


def pickled() -> bytes:
    file = io.BytesIO()
    torch.save({"training": System(), "result": {}}, file)
    return file.getvalue()


def other_trials(place: Place) -> bytes:
    return interrupted(place, place.trial(seed=9)).read_bytes()


def weights_flipped(place: Place) -> bytes:
    """One bit of a weight, which torch loads without a word."""
    path = interrupted(place, place.trial())
    content = path.read_bytes()
    path.unlink()
    net = torch.load(io.BytesIO(content), weights_only=True)["training"]["net"]
    longest = max((value for value in net.values() if value.is_floating_point()), key=torch.numel)
    return flipped(content, 8 * content.index(longest.numpy().tobytes()) + 30)


REPLACED = {
    "a bit of a weight": weights_flipped,
    "cut": lambda place: pickled()[:300],
    "empty": lambda place: b"",
    "no file of torch": lambda place: b"PK\x03\x04 nothing of the kind",
    "a pickle that runs a program": lambda place: pickled(),
    "another trial's": other_trials,
    "without a seal": lambda place: torch_bytes({"training": {}, "result": {}}),
}


def torch_bytes(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


@pytest.mark.parametrize("kind", REPLACED)
def test_a_trial_whose_checkpoint_is_damaged_starts_again(
    place: Place, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    trial = place.trial()
    expected = to_its_end(place.start(trial))[-1]
    path = place.folder_of(trial) / CHECKPOINT
    path.unlink()
    content = REPLACED[kind](place)
    path.write_bytes(content)
    running = place.start(trial)
    with caplog.at_level(logging.WARNING), guarded(place.folder):
        reports = to_its_end(running)
    assert len(reports) == 3  # from the beginning
    assert without_time(reports[-1]) == without_time(expected)
    assert "set aside as damaged.pt, and the trial starts again" in caplog.text
    assert path.with_name(SET_ASIDE).read_bytes() == content
    assert not Path("hacked").exists()


@pytest.mark.parametrize("rounds", ROUNDS)
def test_damaged_weights_are_never_loaded(place: Place, rounds: int) -> None:
    """Not one copy gets through: the seal covers every byte, those that hold nothing, too."""
    path = interrupted(place, place.trial())
    content = path.read_bytes()
    key = place.trial().key()
    saved.read(*Store.of(path), "cpu", key)
    for copy in damaged(content, 5 * rounds):
        path.write_bytes(copy)
        with pytest.raises(saved.DamagedError, match="is damaged, or is not of trial"):
            saved.read(*Store.of(path), "cpu", key)


def assert_equal(one: Any, other: Any) -> None:
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            assert_equal(one[name], other[name])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_equal(left, right)
    else:
        assert one == other


# -- networks that trials start from ---------------------------------------------------------------------


@pytest.fixture
def left(place: Place) -> tuple[Networks, Trial]:
    """A home in which one network was left behind."""
    networks, stage = Networks(place.folder / "pretrained"), place.trial()
    to_its_end(place.start(stage, network=file_of(networks, stage)))
    assert networks.has(stage.key())
    return Networks(networks.path), stage


def file_of(networks: Networks, stage: Trial) -> str:
    return networks.folder(stage.key()).file(NETWORK)


def change(network: Path, kind: str) -> None:
    content = network.read_bytes()
    match kind:
        case "flipped":
            network.write_bytes(flipped(content, 4 * len(content)))
        case "cut":
            network.write_bytes(content[:-100])
        case "without a seal":
            network.write_bytes(torch_bytes({"weight": torch.zeros(3)}))
        case "another one":
            folder, name = Store.of(network)
            content = saved.read(folder, name, "cpu", folder.name)
            assert content is not None
            saved.write(folder, name, content, "another")
        case "result lost":
            network.with_suffix(".json").unlink()
        case "result of another":
            told = json.loads(network.with_suffix(".json").read_text())
            network.with_suffix(".json").write_text(json.dumps({**told, "key": "another"}))
        case "result nested":
            network.with_suffix(".json").write_text("[" * 100_000)
        case "result a list":
            network.with_suffix(".json").write_text("[]")
        case "result cut":
            network.with_suffix(".json").write_bytes(network.with_suffix(".json").read_bytes()[:50])


@pytest.mark.parametrize(
    "kind",
    [
        "flipped", "cut", "without a seal", "another one", "result lost", "result of another",
        "result nested", "result a list", "result cut",
    ],
)  # fmt: skip
def test_a_damaged_network_is_trained_again(
    place: Place, left: tuple[Networks, Trial], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    networks, stage = left
    file = Path(file_of(networks, stage))
    before = file.read_bytes()
    change(file, kind)
    with caplog.at_level(logging.WARNING), guarded(place.folder):
        assert not networks.has(stage.key())
    assert "set aside, and its training is repeated" in caplog.text
    assert not file.exists()
    (place.folder_of(stage) / CHECKPOINT).unlink()  # as the driver does when a training has ended
    to_its_end(place.start(stage, network=str(file)))
    assert Networks(networks.path).has(stage.key())
    assert_equal(
        saved.read(*Store.of(file), "cpu", stage.key()), torch.load(io.BytesIO(before), weights_only=True)
    )


def test_a_network_that_breaks_after_the_driver_looked_fails_the_trial(
    place: Place, left: tuple[Networks, Trial]
) -> None:
    networks, stage = left
    file = Path(file_of(networks, stage))
    change(file, "flipped")
    trial = place.trial(pretraining=stage, seed=3)
    last = report(place.start(trial, start=str(file)))
    assert last["state"] == "failed"
    assert last["reason"].startswith(f"DamagedError: {file} is damaged, or is not of trial {stage.key()}")
    assert last["curve"] == []


def test_checkpoints_are_readable_by_torch_alone(place: Place) -> None:
    """The checks read the ordinary format; they add nothing to it."""
    path = interrupted(place, place.trial())
    assert_equal(saved.read(*Store.of(path), "cpu", place.trial().key()), torch.load(path, weights_only=True))
    shutil.rmtree(path.parent)
    assert isinstance(place.start(place.trial()), StudyTrainable)
