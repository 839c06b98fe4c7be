"""The ledger: what is read back, what a crash at any point leaves, and what many readers see meanwhile."""

import dataclasses
import logging
import math
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from search_spaces import UserError
from study import segments
from study.results import CaseRow, Ledger, TrialRow
from study.segments import GROUP, DiskFullError


def trial(number: int = 0, state: str = "finished", **changes: Any) -> TrialRow:
    row = TrialRow(
        key=f"key{number}",
        arm="dense",
        phase="search",
        number=number,
        state=state,
        value=0.5 + number,
        seed=7,
        fold=0,
        parameters={"learning_rate": 1e-3, "kind": "points", "channels": [8, 16], "augment": True},
        iterations=1000,
        seconds=12.5,
        annotation_seconds=30.0,
        reason="",
        curve=[{"iteration": 500, "val_dice": 0.25}, {"iteration": 1000, "val_dice": 0.5}],
        started=1_700_000_000.25,
        finished=1_700_000_012.75,
        details={"host": "a", "torch": "2.15"},
    )
    return dataclasses.replace(row, **changes)


def case(number: int = 0, case_id: str = "patient1", **changes: Any) -> CaseRow:
    row = CaseRow(
        key=f"key{number}",
        arm="dense",
        phase="search",
        replicate=number,
        seed=7,
        fold=0,
        split="val",
        case_id=case_id,
        volume_id=f"{case_id}/ed",
        class_id=1,
        class_name="left ventricle",
        dice=0.875,
        iou=0.75,
        hd95=2.5,
        hd95_max=90.0,
        distance_unit="mm",
        area_error=-3.0,
        relative_area_error=-0.25,
        size_error=0.125,
        missed=False,
        false_alarm=True,
        both_empty=False,
    )
    return dataclasses.replace(row, **changes)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_row_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written, score = trial(), case()
    Ledger(tmp_path / "ledger").append(written, [score])
    assert Ledger(tmp_path / "ledger").trials() == [written]
    assert Ledger(tmp_path / "ledger").cases() == [score]


def test_missing_and_undefined_numbers_stay_what_they_are(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.append(trial(0, "failed", value=None, curve=[{"iteration": 1, "loss": math.nan}], reason="no GPU"))
    ledger.append(trial(1, value=math.nan), [case(1, hd95=math.nan)])
    failed, undefined = ledger.trials()
    assert failed.value is None
    assert failed.reason == "no GPU"
    assert math.isnan(failed.curve[0]["loss"])
    assert undefined.value is not None
    assert math.isnan(undefined.value)
    assert math.isnan(ledger.cases()[0].hd95)


def test_a_folder_that_does_not_exist_is_an_empty_ledger_and_reading_creates_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "absent")
    assert ledger.trials() == []
    assert ledger.cases() == []
    assert names(tmp_path) == set()


def test_the_last_row_of_a_trial_wins_and_the_order_is_that_of_the_first_rows(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for row in (trial(0, "running"), trial(1, "running"), trial(1, "pruned"), trial(0, "failed"), trial(0)):
        ledger.append(row)
    assert [(row.number, row.state) for row in ledger.trials()] == [(0, "finished"), (1, "pruned")]


def test_running_never_overrides_an_end(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.append(trial(0, "diverged"))
    ledger.append(trial(0, "running"))
    assert [row.state for row in ledger.trials()] == ["diverged"]


@pytest.mark.parametrize("other", [{"arm": "points"}, {"phase": "confirm"}, {"number": 3}, {"key": "other"}])
def test_each_part_of_the_identity_separates_trials(tmp_path: Path, other: dict[str, Any]) -> None:
    ledger = Ledger(tmp_path)
    ledger.append(trial())
    ledger.append(trial(**other))
    assert len(ledger.trials()) == 2


def test_cases_count_once_and_only_when_their_trial_has_ended(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.append(trial(0, "running"), [case(0)])
    assert ledger.cases() == []
    ledger.append(trial(0), [case(0, dice=0.25), case(0, "patient2")])
    ledger.append(trial(0), [case(0, dice=0.75)])
    ledger.append(trial(0))  # a repair of the trial's row alone keeps its scores
    assert {(row.case_id, row.dice) for row in ledger.cases()} == {("patient1", 0.75), ("patient2", 0.875)}


@pytest.mark.parametrize("count", [GROUP - 1, GROUP, GROUP + 1])
def test_compaction_keeps_every_row_and_bounds_the_files(tmp_path: Path, count: int) -> None:
    ledger = Ledger(tmp_path)
    for number in range(count):
        ledger.append(trial(number), [case(number)])
    assert [row.number for row in Ledger(tmp_path).trials()] == list(range(count))
    assert sorted(row.replicate for row in Ledger(tmp_path).cases()) == list(range(count))
    assert len(names(tmp_path)) == 2 * (count // GROUP + count % GROUP)


def test_merged_segments_are_merged_again_on_the_next_level(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "GROUP", 3)
    for number in range(9):  # a new writer each time: its knowledge comes from the folder alone
        Ledger(tmp_path).append(trial(number))
    assert names(tmp_path) == {"segment-0000000001-0000000009-2-trials.parquet"}
    assert [row.number for row in Ledger(tmp_path).trials()] == list(range(9))


def test_the_sequence_and_not_the_file_name_orders_rows_across_compaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "GROUP", 2)
    ledger = Ledger(tmp_path)
    for value in (1.0, 2.0, 3.0, 4.0, 5.0):
        ledger.append(trial(value=value), [case(dice=value)])
    assert [row.value for row in ledger.trials()] == [5.0]
    assert [row.dice for row in ledger.cases()] == [5.0]


def test_a_crash_between_merging_and_deleting_loses_and_doubles_nothing(tmp_path: Path) -> None:
    ledger, parts = Ledger(tmp_path / "ledger"), tmp_path / "parts"
    for number in range(GROUP - 1):
        ledger.append(trial(number), [case(number)])
    shutil.copytree(tmp_path / "ledger", parts)
    ledger.append(trial(GROUP - 1), [case(GROUP - 1)])
    for part in sorted(parts.iterdir())[: GROUP // 2]:  # the merged files and 16 of their parts each
        shutil.copy(part, tmp_path / "ledger" / part.name)

    survivor = Ledger(tmp_path / "ledger")
    assert survivor._trials.read().num_rows == GROUP  # not doubled in the file and hidden by the last row
    assert len(survivor.trials()) == GROUP
    assert len(survivor.cases()) == GROUP
    survivor.append(trial(GROUP), [case(GROUP)])
    assert len(names(tmp_path / "ledger")) == 4  # the writer cleared the parts: two merged files, two new
    assert len(survivor.trials()) == len(survivor.cases()) == GROUP + 1


def test_a_crash_between_cases_and_trial_shows_neither_then_and_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(tmp_path)
    ledger.append(trial(0), [case(0)])
    monkeypatch.setattr(ledger._trials, "append", lambda *_: pytest.fail("killed"))
    with pytest.raises(pytest.fail.Exception, match="killed"):
        ledger.append(trial(1), [case(1)])
    assert sum("-cases" in name for name in names(tmp_path)) == 2
    assert [row.replicate for row in Ledger(tmp_path).cases()] == [0]
    Ledger(tmp_path).append(trial(2))  # must not adopt the orphan
    assert [row.replicate for row in Ledger(tmp_path).cases()] == [0]
    assert [row.number for row in Ledger(tmp_path).trials()] == [0, 2]


def test_left_over_temporary_and_foreign_files_are_ignored_and_only_ours_removed(tmp_path: Path) -> None:
    Ledger(tmp_path).append(trial(0))
    torn = tmp_path / ".segment-0000000002-0000000002-0-trials.parquet.tmp"
    torn.write_bytes(b"PAR1 half")
    (tmp_path / "notes.txt").write_text("mine")
    assert len(Ledger(tmp_path).trials()) == 1
    assert torn.exists()  # a reader must not take the file from under a living writer
    Ledger(tmp_path).append(trial(1))
    assert not torn.exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "flipped"])
def test_a_damaged_segment_is_named(tmp_path: Path, damage: str) -> None:
    Ledger(tmp_path).append(trial())
    (segment,) = tmp_path.iterdir()
    content = segment.read_bytes()
    flipped = bytearray(content)
    flipped[100] ^= 1  # within the page of the second column
    segment.write_bytes(
        {"truncated": content[:-20], "empty": b"", "text": b"not Parquet", "flipped": bytes(flipped)}[damage]
    )
    with pytest.raises(UserError, match=rf"{segment.name} is damaged"):
        Ledger(tmp_path).trials()


@pytest.mark.parametrize(("version", "shown"), [("0", "'0'"), (None, "none")])
def test_another_ledger_version_is_refused(tmp_path: Path, version: str | None, shown: str) -> None:
    Ledger(tmp_path).append(trial())
    (segment,) = tmp_path.iterdir()
    table = pq.read_table(segment)
    pq.write_table(
        table.replace_schema_metadata({} if version is None else {"ledger_version": version}), segment
    )
    with pytest.raises(UserError, match=rf"must have the ledger version '1' and has {shown}"):
        Ledger(tmp_path).trials()


@pytest.mark.parametrize("version", [b"\x00\xff" * 2000, b"", b"1\n"])
def test_a_ledger_version_that_is_none_is_damage_and_not_shown(tmp_path: Path, version: bytes) -> None:
    """One bit may turn the footer's next two thousand bytes into the version's."""
    Ledger(tmp_path).append(trial())
    (segment,) = tmp_path.iterdir()
    table = pq.read_table(segment)
    pq.write_table(table.replace_schema_metadata({b"ledger_version": version}), segment)
    with pytest.raises(UserError, match=rf"{segment.name} is damaged \(its version is no number\)"):
        Ledger(tmp_path).trials()


def test_a_full_disk_loses_nothing_that_had_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(tmp_path)
    ledger.append(trial(0), [case(0)])
    before = names(tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DiskFullError, match="No space is left"):
            ledger.append(trial(1), [case(1)])
    assert names(tmp_path) == before
    ledger.append(trial(2), [case(2)])
    assert [row.number for row in Ledger(tmp_path).trials()] == [0, 2]
    assert [row.replicate for row in Ledger(tmp_path).cases()] == [0, 2]


def test_a_disk_that_fills_while_compacting_keeps_the_new_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(segments, "GROUP", 2)
    ledger = Ledger(tmp_path)
    ledger.append(trial(0))
    write = ledger._trials._write

    def full_when_merging(first: int, last: int, level: int, table: pa.Table) -> segments.Segment:
        if level:
            raise DiskFullError("No space is left.")
        return write(first, last, level, table)

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(ledger._trials, "_write", full_when_merging)
        ledger.append(trial(1))
    assert "could not be compacted" in caplog.text
    assert len(ledger.trials()) == 2
    ledger.append(trial(2))
    assert [row.number for row in ledger.trials()] == [0, 1, 2]
    assert len(names(tmp_path)) == 1


def test_other_disk_errors_are_not_dressed_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output error"):
        Ledger(tmp_path).append(trial())
    assert names(tmp_path) == set()


def test_a_second_writer_is_noticed_before_it_overwrites(tmp_path: Path) -> None:
    first, second = Ledger(tmp_path), Ledger(tmp_path)
    first.append(trial(0))
    second.append(trial(1))
    with pytest.raises(RuntimeError, match="two processes write"):
        first.append(trial(2))
    assert [row.number for row in Ledger(tmp_path).trials()] == [0, 1]


def test_readers_never_see_a_gap_while_the_writer_compacts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows only ever grow, from the front, and a visible trial has its cases: 300 appends, merges every 4."""
    monkeypatch.setattr(segments, "GROUP", 4)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # speed alone: no power is cut here
    stop, problems, reads = threading.Event(), [], []

    def look() -> None:
        seen = 0
        while not stop.is_set():
            ledger = Ledger(tmp_path)
            numbers = [row.number for row in ledger.trials()]
            scored = {row.replicate for row in ledger.cases()}
            if numbers != list(range(len(numbers))) or len(numbers) < seen or not scored >= set(numbers):
                problems.append((seen, numbers, scored))
            seen = len(numbers)
            reads.append(seen)

    reader = threading.Thread(target=look)
    reader.start()
    ledger = Ledger(tmp_path)
    for number in range(300):
        ledger.append(trial(number), [case(number)])
    stop.set()
    reader.join()
    assert problems == []
    assert len(set(reads)) > 3  # it did look at different moments


def test_every_field_has_a_column_of_its_own_kind(tmp_path: Path) -> None:
    Ledger(tmp_path).append(trial(), [case()])
    (path,) = tmp_path.glob("*-cases.parquet")
    schema = pq.read_schema(path)
    assert schema.names == ["sequence", *(column.name for column in dataclasses.fields(CaseRow))]
    assert schema.field("dice").type == pa.float64()
    assert schema.field("missed").type == pa.bool_()
    assert schema.field("class_id").type == pa.int64()


def of_an_earlier_release(folder: Path) -> None:
    """Rewrites every segment of trials without the column that earlier releases did not have."""
    for path in folder.glob("*-trials.parquet"):
        table = pq.ParquetFile(path).read()
        pq.write_table(table.drop_columns("failure"), path)


def test_a_ledger_of_before_there_were_classes_of_failure_opens_and_grows(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for number in range(3):
        ledger.append(trial(number, "failed", reason="no GPU"))
    of_an_earlier_release(tmp_path)
    again = Ledger(tmp_path)
    assert [row.failure for row in again.trials()] == ["", "", ""]
    again.append(trial(3, "failed", failure="bug"))
    assert [row.failure for row in again.trials()] == ["", "", "", "bug"]
    assert [row.reason for row in again.trials()[:3]] == ["no GPU"] * 3
    assert len(again.case_table()) == 0


def test_segments_of_before_are_merged_with_new_ones(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for number in range(GROUP - 2):
        ledger.append(trial(number, "failed"))
    of_an_earlier_release(tmp_path)
    again = Ledger(tmp_path)
    for number in range(GROUP - 2, GROUP):
        again.append(trial(number, "failed", failure="bug"))
    assert len(list(tmp_path.glob("*-trials.parquet"))) == 1
    assert [row.failure for row in again.trials()] == [""] * (GROUP - 2) + ["bug", "bug"]


def test_a_segment_without_another_column_is_damaged(tmp_path: Path) -> None:
    Ledger(tmp_path).append(trial())
    (path,) = tmp_path.glob("*-trials.parquet")
    pq.write_table(pq.ParquetFile(path).read().drop_columns("reason"), path)
    with pytest.raises(UserError, match=r"is damaged \(its columns are others\)"):
        Ledger(tmp_path).trials()
