"""Export: the right weights with all that prediction needs, a card that tells the truth, nothing half."""

from __future__ import annotations

import dataclasses
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from search_spaces import UserError
from study import ending, model_card
from study import export as exporting
from study.home import Home
from study.spec import Replicates
from tests.unit.study.exporting import CLICKS, FULL, make_home, one_arm
from tests.unit.trainables.toy_data import protocol
from trainables import exported, saved
from trainables.exported import CARD, DESCRIPTION, WEIGHTS
from trainables.left import CHECKPOINT
from trainables.store import Store


@pytest.fixture
def home(trained_home: Home) -> Home:
    """Not to be changed."""
    return trained_home


@pytest.fixture
def copy(home: Home, tmp_path: Path) -> Home:
    """A home whose files may be changed."""
    return Home(shutil.copytree(home.path, tmp_path / "home"))


def checkpoint_of(home: Home, key: str) -> Path:
    return home.path / "toy" / "trials" / key / CHECKPOINT


def test_takes_the_kept_weights_of_the_best_arms_first_replicate(home: Home, tmp_path: Path) -> None:
    done = exporting.export(home, "toy", tmp_path / "model")
    answer = ending.answer_of(home.study("toy").frozen(), home.study("toy"))
    best = max(answer.arms, key=lambda arm: arm.mean)
    assert (done.row.arm, done.row.number, done.ranked) == (best.name, 0, True)
    assert "the arm that the answer ranks best" in exporting.sentences(done)[0]
    training = saved.read(*Store.of(checkpoint_of(home, done.row.key)), "cpu", done.row.key)["training"]
    weights = safetensors.torch.load_file(tmp_path / "model" / WEIGHTS)
    assert weights.keys() == training["kept"]["weights"].keys()
    for name, value in training["kept"]["weights"].items():
        assert torch.equal(weights[name], value), name


def test_the_last_weights_where_none_are_kept(tmp_path: Path) -> None:
    changes = {"arms": (one_arm(),), "replicates": Replicates(seeds=(7,)), "protocol": protocol(iterations=2)}
    place = make_home(tmp_path, **changes)
    done = exporting.export(place, "toy", tmp_path / "model", arm=FULL, replicate=0)
    assert (done.row.arm, done.row.number, done.ranked) == (FULL, 0, False)
    training = saved.read(*Store.of(checkpoint_of(place, done.row.key)), "cpu", done.row.key)["training"]
    weights = safetensors.torch.load_file(tmp_path / "model" / WEIGHTS)
    assert all(torch.equal(weights[name], value) for name, value in training["net"].items())


def test_description_and_card(home: Home, tmp_path: Path) -> None:
    done = exporting.export(home, "toy", tmp_path / "model", arm=CLICKS)
    raw = json.loads((tmp_path / "model" / DESCRIPTION).read_text())
    about = exported.read(tmp_path / "model").description
    assert raw["format"] == exported.FORMAT
    assert (about.study, about.arm, about.key) == ("toy", CLICKS, done.row.key)
    assert (about.class_names, about.trained_shape, about.size) == (
        ("background", "square", "bar"), (16, 16), None,
    )  # fmt: skip
    assert about.spacing_mm == (1.0, 1.0, 5.0)
    assert about.dataset["licence"] == "not stated"
    assert len(about.dataset["fingerprint"]) == 32
    card = (tmp_path / "model" / CARD).read_text()
    assert "Do exported models do what was scored?" in card
    assert "| licence of the data | not stated |" in card
    assert "pixels points; pixel\\_budget 2" in card
    assert "clicks \\| \\<b\\>two\\</b\\>" in card  # a name is no markup
    assert "<b>" not in card.replace("\\<b\\>", "")
    own = [c for c in home.study("toy").ledger.cases() if c.key == done.row.key and c.class_name == "square"]
    mean = sum({c.case_id: c.dice for c in own}.values()) / len({c.case_id for c in own})
    (line,) = [line for line in card.splitlines() if line.startswith("| these weights, square |")]
    assert abs(float(line.split("|")[2].split()[0]) - mean) < 0.01
    assert "%" in next(line for line in card.splitlines() if "these weights, all structures" in line)
    assert "No medical device" in card


def test_several_citations_are_a_sentence_and_one_that_is_none_stays() -> None:
    assert model_card._listed('["A, 2019", "B, 2022"]') == "A, 2019; B, 2022"
    assert model_card._listed("[A, 2019]") == "[A, 2019]"
    assert model_card._listed("2019") == "2019"


def test_only_safe_files_are_in_the_folder(home: Home, tmp_path: Path) -> None:
    exporting.export(home, "toy", tmp_path / "model")
    assert {path.name for path in (tmp_path / "model").iterdir()} == {WEIGHTS, DESCRIPTION, CARD}
    assert not zipfile.is_zipfile(tmp_path / "model" / WEIGHTS)  # which is what torch.save writes
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def refused(match: str, *arguments: Any, **options: Any) -> None:
    with pytest.raises(UserError, match=match) as raised:
        exporting.export(*arguments, **options)
    assert "\n" not in str(raised.value)


def test_refusals_leave_nothing(home: Home, tmp_path: Path) -> None:
    new = tmp_path / "new"
    refused("No study 'tox' was started.*Did you mean 'toy'", home, "tox", new)
    refused("has no arm 'ful'. Did you mean 'full'", home, "toy", new, arm="ful")
    refused("finished are|these are: 0, 1; --replicate 5", home, "toy", new, arm=FULL, replicate=5)
    (tmp_path / "there").mkdir()
    refused("exists already", home, "toy", tmp_path / "there")
    (tmp_path / "file").write_text("")
    refused("cannot be written|exists already", home, "toy", tmp_path / "file" / "model")
    assert {path.name for path in tmp_path.iterdir()} == {"there", "file"}


def test_a_checkpoint_that_is_gone_damaged_or_foreign(copy: Home, tmp_path: Path) -> None:
    key = exporting.export(copy, "toy", tmp_path / "first", arm=FULL).row.key
    path = checkpoint_of(copy, key)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    refused("is damaged, or is not of trial", copy, "toy", tmp_path / "new", arm=FULL)
    torch.save({"training": {}}, path)  # as earlier versions wrote it, without a seal
    refused("an earlier version without seals", copy, "toy", tmp_path / "new", arm=FULL)
    path.unlink()
    refused("are gone", copy, "toy", tmp_path / "new", arm=FULL)
    assert not (tmp_path / "new").exists()
    assert exporting.export(copy, "toy", tmp_path / "other", arm=FULL, replicate=1).row.number == 1


def test_an_unfinished_study(tmp_path: Path, home: Home) -> None:
    study = home.study("toy").frozen()
    assert study is not None
    fresh = Home(tmp_path / "fresh")
    fresh.study("toy").freeze(study)
    refused("A model comes from a finished confirmation.*has none", fresh, "toy", tmp_path / "new")
    refused("these are: none", fresh, "toy", tmp_path / "new", arm=FULL)


def test_another_data_set_under_the_old_name(copy: Home, tmp_path: Path) -> None:
    study = copy.study("toy").frozen()
    assert study is not None
    data = dataclasses.replace(study.data, size=(8, 8))
    copy.study("toy").freeze(dataclasses.replace(study, data=data))
    refused("must be the data set that the study was trained on", copy, "toy", tmp_path / "new")
