"""Ledgers: no damage to a segment passes for rows; what is whole stays readable, and the way out works."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from study.results import CaseRow, Ledger, TrialRow
from tests.fuzz.mutations import ROUNDS, damaged, flipped, outcome

Rows = tuple[list[TrialRow], list[CaseRow]]


def trial(number: int, state: str = "finished") -> TrialRow:
    return TrialRow(
        key=f"key{number}", arm="dense", phase="search", number=number, state=state, value=0.5 + number,
        seed=7, fold=0, parameters={"learning_rate": 1e-3, "kind": "points"}, iterations=1000, seconds=12.5,
        annotation_seconds=30.0, curve=[{"iteration": 500, "dice": 0.25}, {"iteration": 1000, "dice": 0.5}],
        started=1.7e9, finished=1.7e9 + 12,
    )  # fmt: skip


def case(number: int, class_id: int) -> CaseRow:
    return CaseRow(
        key=f"key{number}", arm="dense", phase="search", replicate=number, seed=7, fold=0, split="test",
        case_id="c1", volume_id="c1", class_id=class_id, class_name="lesion", dice=0.5, iou=0.4, hd95=3.0,
        hd95_max=9.0, distance_unit="px", area_error=0.1, relative_area_error=0.1, size_error=1.0,
        missed=False, false_alarm=False, both_empty=False,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three finished trials with two cases each, and a running one."""
    path = tmp_path / "home" / "ledger"
    ledger = Ledger(path)
    for number in range(3):
        ledger.append(trial(number, "running"))
        ledger.append(trial(number), [case(number, 1), case(number, 2)])
    ledger.append(trial(3, "running"))
    return path


def read(folder: Path) -> Rows:
    ledger = Ledger(folder)
    return ledger.trials(), ledger.cases()


def segment(folder: Path, kind: str, which: int = 3) -> Path:
    return sorted(folder.glob(f"segment-*-{kind}.parquet"))[which % 3]


@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize("kind", ["trials", "cases"])
def test_damage_is_named_or_harmless(folder: Path, kind: str, rounds: int) -> None:
    whole, path = read(folder), segment(folder, kind)
    content = path.read_bytes()
    named = 0
    for copy in damaged(content, 3 * rounds):
        path.write_bytes(copy)
        rows, sentence = outcome(lambda: read(folder), folder)
        assert sentence is not None or rows == whole
        if sentence is not None:
            assert path.name in sentence
            named += 1
    assert named > rounds


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["trials", "cases"])
def test_every_single_bit(folder: Path, kind: str) -> None:
    """A merge of many segments would hide nothing else: each is written by the same few lines."""
    whole, path = read(folder), segment(folder, kind)
    content = path.read_bytes()
    for bit in range(8 * len(content)):
        path.write_bytes(flipped(content, bit))
        rows, sentence = outcome(lambda: read(folder), folder)
        assert sentence is not None or rows == whole, bit


def test_the_way_out_loses_one_segment_and_no_other(folder: Path) -> None:
    whole, path = read(folder), segment(folder, "trials", 1)
    path.write_bytes(path.read_bytes()[:-20])
    _, sentence = outcome(lambda: read(folder), folder)
    assert f"{path} is damaged" in (sentence or "")
    assert "move it away to do without the trials in it" in (sentence or "")
    path.rename(folder.parent / path.name)
    trials, cases = read(folder)
    assert [row.number for row in trials] == [0, 1, 2, 3]
    assert sum(row.is_final for row in trials) >= 2
    assert set(map(str, cases)) <= set(map(str, whole[1]))
    Ledger(folder).append(trial(4))
    assert len(read(folder)[0]) == 5


def test_a_writer_refuses_nothing_that_is_whole(folder: Path) -> None:
    """A damaged segment does not stop the next append, and is still named by the next reader."""
    path = segment(folder, "trials", 0)
    path.write_bytes(b"")
    Ledger(folder).append(trial(5))
    _, sentence = outcome(lambda: read(folder), folder)
    assert path.name in (sentence or "")


def test_a_copy_under_another_number_is_named(folder: Path) -> None:
    path = segment(folder, "trials", 0)
    copy = folder / path.name.replace(path.name[8:29], "0000000050-0000000050")
    shutil.copy(path, copy)
    _, sentence = outcome(lambda: read(folder), folder)
    assert copy.name in (sentence or "")
    assert "it holds the rows 1 to 1" in (sentence or "")


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt", "segment-0000000001-0000000001-0-trials (copy).parquet", ".segment-x-trials.parquet.tmp",
        "segment-1-1-0-trials.parquet", "segment-0000000001-0000000001-0-other.parquet", "-rf", "a\nb",
    ],
)  # fmt: skip
def test_foreign_files_are_left_alone(folder: Path, name: str) -> None:
    whole = read(folder)
    (folder / name).write_bytes(b"not mine")
    assert read(folder) == whole
    Ledger(folder).append(dataclasses.replace(trial(3), state="failed"))
    assert len(read(folder)[0]) == 4
    assert (folder / name).exists() or name.endswith(".tmp")


@pytest.mark.parametrize("kind", ["folder", "another", "empty"])
def test_something_else_under_a_segments_name(folder: Path, kind: str) -> None:
    path = segment(folder, "trials", 0)
    content = segment(folder, "cases", 0).read_bytes()
    path.unlink()
    if kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(content if kind == "another" else b"")
    _, sentence = outcome(lambda: read(folder), folder)
    assert path.name in (sentence or "")
