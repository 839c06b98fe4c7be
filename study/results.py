"""The ledger: what every trial gave and what every case scored. `report` and `status` read nothing else."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from study.segments import DiskFullError, Segments

LEDGER_VERSION = "1"
RUNNING = "running"
FINAL_STATES = ("finished", "pruned", "diverged", "failed")

_log = logging.getLogger(__name__)
_JSON = ("parameters", "curve", "details")
_YOUNGER = {"failure": ""}
"""Columns of trials that the ledgers of earlier releases lack, and what their rows have there."""
_CASE_IDENTITY = ("arm", "phase", "replicate", "key", "split", "case_id", "volume_id", "class_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRow:
    """The state of one trial at one moment; the last row of a trial counts."""

    key: str
    """Hash of everything that decides the outcome."""
    arm: str
    phase: str
    """"search" or "confirm"."""
    number: int
    """Trial number in the search, index of the replicate in the confirmation."""
    state: str
    """"running" or one of FINAL_STATES."""
    value: float | None
    """Validation metric that the study selects by."""
    seed: int
    fold: int
    parameters: dict[str, Any]
    """Stored as JSON, as `curve` and `details`: a tuple comes back as a list."""
    iterations: int
    seconds: float
    annotation_seconds: float
    reason: str = ""
    """Why a trial was pruned, diverged or failed."""
    curve: list[dict[str, float]] = field(default_factory=list)
    """One mapping per report, each with "iteration" and "reported" (Unix time; not in early ledgers)."""
    started: float = 0.0
    """Unix time in seconds, as `finished`."""
    finished: float = 0.0
    details: dict[str, Any] = field(default_factory=dict)
    failure: str = ""
    """Of a trial that diverged or failed: one of `trainables.failures.CLASSES`."""

    @property
    def identity(self) -> tuple[str, str, int, str]:
        """What makes two rows speak of the same trial."""
        return self.arm, self.phase, self.number, self.key

    @property
    def is_final(self) -> bool:
        return self.state != RUNNING


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseRow:
    """The scores of one class in one case, predicted by one trial."""

    key: str
    arm: str
    phase: str
    replicate: int
    """`TrialRow.number` of the trial."""
    seed: int
    fold: int
    split: str
    case_id: str
    volume_id: str
    class_id: int
    class_name: str
    dice: float
    iou: float
    hd95: float
    hd95_max: float
    distance_unit: str
    area_error: float
    relative_area_error: float
    size_error: float
    missed: bool
    false_alarm: bool
    both_empty: bool


_ARROW = {
    "str": pa.string(),
    "int": pa.int64(),
    "float": pa.float64(),
    "float | None": pa.float64(),
    "bool": pa.bool_(),
}


def _schema(row: type) -> pa.Schema:
    """Column types from the annotations; what is not a scalar is stored as JSON text."""
    columns = [(column.name, _ARROW.get(str(column.type), pa.string())) for column in dataclasses.fields(row)]
    return pa.schema([("sequence", pa.int64()), *columns])


class Ledger:
    """Rows of trials and cases in a folder: one writer, any number of readers at any moment."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._trials = Segments(folder, "trials", _schema(TrialRow), LEDGER_VERSION, _YOUNGER)
        self._cases = Segments(folder, "cases", _schema(CaseRow), LEDGER_VERSION)
        self._sequence: int | None = None

    def append(self, trial: TrialRow, cases: Sequence[CaseRow] = ()) -> None:
        """Add a row; a reader sees it with all of its cases or not at all.

        Raises:
            DiskFullError: no space is left. The row is not in the ledger, all earlier ones are.
        """
        if self._sequence is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._sequence = max(self._trials.prepare(), self._cases.prepare())
        # Never used again, also when writing fails: cases without their trial row must not be adopted.
        self._sequence += 1
        if cases:
            self._cases.append(self._sequence, [dataclasses.asdict(case) for case in cases])
        self._trials.append(self._sequence, [_encode(trial)])
        try:
            self._trials.compact()
            self._cases.compact()
        except DiskFullError as error:  # the row itself is safe; the next append tries again
            _log.warning("The ledger could not be compacted. %s", error)

    def trials(self) -> list[TrialRow]:
        """The current row of every trial, in the order in which the trials first appeared.

        Raises:
            UserError: a file is damaged or of another ledger version.
        """
        names = [column.name for column in dataclasses.fields(TrialRow)]
        latest: dict[tuple[str, str, int, str], TrialRow] = {}
        for record in _records(self._trials.read(names)):
            row = TrialRow(
                **{name: json.loads(record[name]) if name in _JSON else record[name] for name in names}
            )
            known = latest.get(row.identity)
            if known is None or row.is_final or not known.is_final:
                latest[row.identity] = row
        return list(latest.values())

    def cases(self) -> list[CaseRow]:
        """The scores of every trial that has ended, each (trial, split, case, volume, class) once.

        Raises:
            UserError: a file is damaged or of another ledger version.
        """
        return [CaseRow(**record) for record in _records(self.case_table())]

    def case_table(self) -> pa.Table:
        """`cases()` as one Arrow table, columns named as the fields: for large studies.

        Raises:
            UserError: a file is damaged or of another ledger version.
        """
        # Trials first: their cases were written before them, so they are all there by now.
        trials = self._trials.read(["sequence", "state"])
        ended = trials.filter(pc.not_equal(trials["state"], RUNNING))["sequence"].combine_chunks()
        cases = self._cases.read()
        return _last_of_each(cases.filter(pc.is_in(cases["sequence"], value_set=ended))).drop_columns(
            "sequence"
        )


def _encode(row: TrialRow) -> dict[str, Any]:
    """NaN and infinity are written as Python's `json` does it (NaN, Infinity)."""
    record = {column.name: getattr(row, column.name) for column in dataclasses.fields(TrialRow)}
    return record | {name: json.dumps(record[name]) for name in _JSON}


def _records(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Rows as dictionaries, several times faster than `Table.to_pylist`."""
    names = table.column_names
    columns = [table[name].to_pylist() for name in names]
    return (dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True))


def _last_of_each(cases: pa.Table) -> pa.Table:
    """Of the rows with one identity the last."""
    numbered = cases.append_column("row", pa.array(range(len(cases)), pa.int64()))
    last = numbered.group_by(list(_CASE_IDENTITY)).aggregate([("row", "max")])["row_max"]
    return cases.take(last.combine_chunks().sort())
