"""Append-only Parquet segments in one folder: crash-safe writes, compaction, and readers that never block."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from search_spaces import UserError
from trainables.failures import is_full

GROUP = 64
"""So many segments of one level are merged into one segment of the next level."""

VERSION_KEY = b"ledger_version"
_VERSION = re.compile(rb"\d{1,9}")
_NAME = re.compile(r"segment-(\d{10})-(\d{10})-(\d)-([a-z]+)\.parquet")
_READ_ATTEMPTS = 200
CONTINUES = (
    "every row written before is intact, so free some space and give the same command again to continue."
)


class DiskFullError(UserError):
    """No space is left; everything that was written before is intact."""


@contextlib.contextmanager
def full_disk_told(folder: Path) -> Iterator[None]:
    """Raises DiskFullError in place of the system's own error, which is nobody's bug."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise DiskFullError(f"No space is left in {folder}: {CONTINUES}") from error
        raise


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """One immutable file that holds every row of its kind with first <= sequence <= last."""

    first: int
    last: int
    level: int
    path: Path


class Segments:
    """All segments of one kind. One process appends; any number may read at any moment.

    A segment is written to a hidden temporary file, synchronised and renamed, so a name that a reader
    sees always stands for complete rows. A merged segment is in place before its parts are deleted;
    while both exist the range in the name tells a reader to ignore the parts.
    """

    def __init__(
        self,
        folder: Path,
        kind: str,
        schema: pa.Schema,
        version: str,
        younger: Mapping[str, Any] | None = None,
    ) -> None:
        """younger: columns that the first segments of this version lack, and what is read there instead."""
        self._younger = younger or {}
        self._folder = folder
        self._kind = kind
        self._schema = schema.with_metadata({VERSION_KEY: version.encode()})
        self._version = version.encode()
        self._mine: list[Segment] = []
        self._unmerged: dict[Segment, pa.Table] = {}
        """What this writer appended and has not merged: merging need not read it again."""

    # -- the writer ------------------------------------------------------------------------------------

    def prepare(self) -> int:
        """Remove what a killed writer left behind; the highest sequence in use, 0 for none."""
        for leftover in self._folder.glob(f".segment-*-{self._kind}.parquet.tmp"):
            leftover.unlink()
        everything = self._listing()
        self._mine = _uncovered(everything)
        for segment in set(everything) - set(self._mine):
            segment.path.unlink()
        return max((segment.last for segment in self._mine), default=0)

    def append(self, sequence: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows as one new segment, atomically. Raises DiskFullError."""
        table = pa.Table.from_pylist([{"sequence": sequence, **row} for row in rows], schema=self._schema)
        segment = self._write(sequence, sequence, 0, table)
        self._mine.append(segment)
        self._unmerged[segment] = table

    def compact(self) -> None:
        """Merge every level that has GROUP segments. Raises DiskFullError, and then nothing has changed."""
        level = 0
        while len(group := [segment for segment in self._mine if segment.level == level]) >= GROUP:
            tables = [self._unmerged.get(segment) or self._table(segment, None) for segment in group]
            table = pa.concat_tables(tables)
            merged = self._write(group[0].first, group[-1].last, level + 1, table)
            self._mine = sorted([*(segment for segment in self._mine if segment not in group), merged])
            for segment in group:
                segment.path.unlink()
                self._unmerged.pop(segment, None)
            level += 1

    def _write(self, first: int, last: int, level: int, table: pa.Table) -> Segment:
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer, compression="zstd", write_statistics=False, write_page_checksum=True)
        name = f"segment-{first:010d}-{last:010d}-{level}-{self._kind}.parquet"
        temporary, path = self._folder / f".{name}.tmp", self._folder / name
        if path.exists():
            raise RuntimeError(f"{path} exists already: two processes write to one ledger")
        with full_disk_told(self._folder):
            try:
                with temporary.open("wb") as file:
                    file.write(buffer.getvalue())
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(path)
                _synchronise(self._folder)
            except OSError:
                for unfinished in (temporary, path):
                    with contextlib.suppress(OSError):
                        unfinished.unlink(missing_ok=True)
                raise
        return Segment(first, last, level, path)

    # -- readers ---------------------------------------------------------------------------------------

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows in the order in which they were appended.

        Raises:
            UserError: a segment is damaged, foreign or of another version.
        """
        return self._retried(lambda: self._read_once(columns))

    def _read_once(self, columns: Sequence[str] | None) -> pa.Table:
        tables = [self._table(segment, columns) for segment in _uncovered(self._settled())]
        if tables:
            return pa.concat_tables(tables)
        empty = self._schema.empty_table()
        return empty if columns is None else empty.select(list(columns))

    @staticmethod
    def _retried(read: Callable[[], pa.Table]) -> pa.Table:
        for _ in range(_READ_ATTEMPTS):
            # compaction removed a part between the listing and the opening: the merged file has its rows
            with contextlib.suppress(FileNotFoundError):
                return read()
        raise RuntimeError(f"segments vanished {_READ_ATTEMPTS} times in a row")

    def _settled(self) -> list[Segment]:
        """A listing that did not race a compaction, which could hide both a merged file and its parts."""
        before = self._listing()
        while (after := self._listing()) != before:
            before = after
        return after

    def _listing(self) -> list[Segment]:
        if not self._folder.is_dir():
            return []
        found = []
        for path in self._folder.iterdir():
            match = _NAME.fullmatch(path.name)
            if match is not None and match[4] == self._kind:
                found.append(Segment(int(match[1]), int(match[2]), int(match[3]), path))
        return sorted(found)

    def _table(self, segment: Segment, columns: Sequence[str] | None) -> pa.Table:
        try:
            content = segment.path.read_bytes()
            # On this thread alone: Arrow's threads may hold a reference to these Python bytes beyond the
            # read, and to let go of it while the interpreter shuts down aborts the process.
            file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True, pre_buffer=False)
            version = (file.schema_arrow.metadata or {}).get(VERSION_KEY)
            if version == self._version:
                return self._checked(segment, file, columns)
            if version is not None and not _VERSION.fullmatch(version):
                raise ValueError("its version is no number")
        except FileNotFoundError:
            raise
        except (pa.ArrowException, OSError, ValueError, LookupError, OverflowError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(
                f"The ledger file {segment.path} is damaged ({reason}): restore it from a copy, or move it "
                "away to do without the trials in it."
            ) from error
        found = "none" if version is None else repr(version.decode())
        raise UserError(
            f"The ledger file {segment.path} must have the ledger version {self._version.decode()!r} and has "
            f"{found}: read this study with the release that wrote it, or run it again under another name."
        )

    def _checked(self, segment: Segment, file: pq.ParquetFile, columns: Sequence[str] | None) -> pa.Table:
        """The wanted columns in their order. Raises ValueError for what was not written under this name: a
        footer has no checksum."""
        schema = file.schema_arrow
        expected = [f for f in self._schema if f.name in schema.names or f.name not in self._younger]
        if schema.names != [f.name for f in expected] or schema.types != [f.type for f in expected]:
            raise ValueError("its columns are others")
        wanted = self._schema.names if columns is None else list(columns)
        stored = [name for name in schema.names if name in wanted or name == "sequence"]
        table = file.read(columns=stored, use_threads=False)
        table.validate(full=True)
        found = pc.min_max(table["sequence"]).as_py()
        if table["sequence"].null_count or found != {"min": segment.first, "max": segment.last}:
            raise ValueError(f"it holds the rows {found['min']} to {found['max']}")
        return self._completed(table, wanted)

    def _completed(self, table: pa.Table, wanted: Sequence[str]) -> pa.Table:
        """The wanted columns in their order, with the younger ones that a segment of before lacks."""
        for name in (name for name in wanted if name not in table.column_names):
            field = self._schema.field(name)
            value = pa.scalar(self._younger[name], field.type)
            table = table.append_column(field, pa.repeat(value, len(table)))
        return table.select(wanted)


def _uncovered(segments: Sequence[Segment]) -> list[Segment]:
    """Without the parts that a merged segment already contains."""
    merged = [segment for segment in segments if segment.level > 0]

    def is_part(segment: Segment) -> bool:
        return any(
            whole.level > segment.level and whole.first <= segment.first and segment.last <= whole.last
            for whole in merged
        )

    return [segment for segment in segments if not is_part(segment)]


def _synchronise(folder: Path) -> None:
    """Make a rename durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
