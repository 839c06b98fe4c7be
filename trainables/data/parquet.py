"""The on-disk format: Parquet, one row a 2-D slice. Written whole or not at all, read checked."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from search_spaces import UserError
from trainables.data import rules
from trainables.data import splits as case_splits
from trainables.data.rules import PIXELS, SCHEMA, SCHEMA_VERSION, UNLABELLED, Pixels

ROW_GROUP = 128


@dataclass(frozen=True, kw_only=True)
class Row:
    """One slice. `spacing_mm` is (row, column, between slices); cases of one `group` are never separated."""

    case_id: str
    slice_index: int
    image: np.ndarray
    """uint8 [H, W]; value / 255 is the intensity in [0, 1]."""
    mask: np.ndarray
    """uint8 [H, W], class ids."""
    frame: str | None = None
    scribble: np.ndarray | None = None
    """uint8 [H, W], class id or 255 where nobody drew."""
    spacing_mm: tuple[float, float, float] | None = None
    group: str | None = None

    @property
    def image_id(self) -> str:
        return image_id(self.case_id, self.frame, self.slice_index)


def volume_id(case: str, frame: str | None) -> str:
    return case if frame is None else f"{case}/{frame}"


def image_id(case: str, frame: str | None, slice_index: int) -> str:
    return f"{volume_id(case, frame)}/{slice_index}"


class ParquetDataset:
    """An opened file: everything but the pixels is read and checked at once, `pixels()` streams the rest.

    Raises UserError, one sentence with the file, the rule and the value, for: a missing or truncated file,
    missing or mistyped columns, missing or malformed metadata, null cells, an image id that occurs twice.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        rules.require_file(path)
        with rules.readable(path), pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            rules.check_columns(path, schema)
            columns = [name for name in SCHEMA.names if name not in PIXELS and name in schema.names]
            table = file.read(columns=columns)
        self.metadata = rules.texts_of(path, schema.metadata or {})
        self.class_names = rules.class_names_of(path, self.metadata)
        rules.check_nulls(path, table)
        if not len(table):
            raise UserError(f"{path} holds no image; import the dataset again.")
        frames = table["frame"].to_pylist()
        self.case_ids: tuple[str, ...] = tuple(table["case_id"].to_pylist())
        self.volume_ids = tuple(map(volume_id, self.case_ids, frames))
        self.slice_index = table["slice_index"].to_numpy().astype(np.int32)
        self.image_ids = tuple(f"{v}/{s}" for v, s in zip(self.volume_ids, self.slice_index, strict=True))
        self.shapes = np.stack([table["height"].to_numpy(), table["width"].to_numpy()], axis=1)
        """int32 [N, 2]: height and width of each row."""
        rules.check_shapes(path, self.shapes)
        self.spacing_mm = rules.spacing_of(path, table["spacing_mm"].to_pylist())
        """float32 [N, 3]: row, column, between slices; NaN where unknown."""
        duplicates = table["duplicate_group"].to_pylist() if "duplicate_group" in columns else self.case_ids
        self.groups = rules.groups_of(str(path), zip(self.case_ids, duplicates, strict=True))
        """Group of each case; the case itself where the file names none."""
        rules.refuse_repeats(str(path), self.image_ids)

    def sizes(self) -> dict[tuple[int, int], int]:
        """Number of images by (height, width), the commonest first."""
        counts = Counter((int(height), int(width)) for height, width in self.shapes)
        return dict(counts.most_common())

    @cached_property
    def split_file(self) -> Path | None:
        """The JSON file beside this one with its splits; None where the metadata hold them, or nobody."""
        text = self.metadata.get("splits", "{")
        if text.startswith("{"):
            return None
        if text != Path(text).name or not text.isprintable():  # it would lead out of the folder
            raise UserError(
                f"{self.path}: the metadata 'splits' must be JSON or name a file beside it, but is "
                f"{text[:60]!r}; write the file with `python -m study data import`."
            )
        file = self.path.parent / text
        if not file.is_file():
            raise UserError(f"{self.path} takes its splits from {file.name}; put that file beside it.")
        return file

    def folds(self) -> dict[str, case_splits.Parts]:
        """Case ids by part of each fold, by its name. Raises UserError, see `splits.folds_of`."""
        where, text = self.path, self.metadata.get("splits")
        if self.split_file is not None:
            where, text = self.split_file, rules.text_of_file(self.split_file)
        document = None if text is None else rules.json_object(str(where), text)
        return case_splits.folds_of(document, self.groups, str(where))

    def pixels(self) -> Iterator[Pixels]:
        """The arrays of each row, in file order; a row that breaks a rule is a UserError naming it."""
        with rules.readable(self.path), pq.ParquetFile(self.path) as file:
            row = 0
            for batch in file.iter_batches(batch_size=ROW_GROUP, columns=list(PIXELS)):
                for image, mask, scribble in zip(*(batch[name] for name in PIXELS), strict=True):
                    if row == len(self.image_ids):
                        raise UserError(f"{self.path} holds more pixels than rows; copy or import it again.")
                    yield rules.checked_pixels(
                        f"{self.path}, row {row}, image {self.image_ids[row]!r}",
                        self._array(row, "image", image),
                        self._array(row, "mask", mask),
                        self._scribble(row, scribble) if scribble.is_valid else None,
                        len(self.class_names),
                    )
                    row += 1
        if row != len(self.image_ids):
            raise UserError(f"{self.path} holds the pixels of {row} rows only; copy or import it again.")

    def _scribble(self, row: int, cell: Any) -> np.ndarray:
        scribble = self._array(row, "scribble", cell)
        own_id = self.metadata.get("unlabelled_id", "")
        return np.where(scribble == int(own_id), UNLABELLED, scribble) if own_id.isdecimal() else scribble

    def _array(self, row: int, name: str, cell: Any) -> np.ndarray:
        height, width = self.shapes[row].tolist()
        length = len(cell.as_buffer()) if cell.is_valid else 0
        if length != height * width:
            raise UserError(
                f"{self.path}, row {row}, image {self.image_ids[row]!r}: column {name!r} must hold "
                f"height x width = {height} x {width} = {height * width} bytes, but holds {length}; "
                "write uint8 in C order."
            )
        return np.frombuffer(cell.as_buffer(), np.uint8).reshape(height, width)


def write_dataset(
    path: Path,
    rows: Iterable[Row],
    *,
    name: str,
    class_names: Sequence[str],
    splits: Mapping[str, Any] | None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes one dataset file, streaming and atomic: it is complete and passes every rule, or absent.

    `splits`: {"train": [case ids], "val": ..., "test": ...}, or {"folds": {name: such a mapping}}, or None
    for `splits.by_case`. `metadata` adds strings (source, licence, citation). Raises UserError where `path`
    exists, where arrays are not uint8, hold NaN, differ in shape, or break a rule of reading.
    """
    if path.exists():
        raise UserError(
            f"{path} exists already, and datasets are never overwritten; delete it or choose another name."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    spool, complete = (path.with_name(f".{path.name}.{uuid.uuid4().hex}.{end}") for end in ("spool", "tmp"))
    try:
        image_ids, groups = _spool(spool, rows, name, len(class_names))
        rules.refuse_repeats(name, image_ids)
        case_groups = rules.groups_of(name, groups)
        document = _split_document(splits, case_groups)
        case_splits.folds_of(document, case_groups, name)
        schema = SCHEMA.with_metadata(
            dict(metadata or {})
            | _standard_metadata(name, class_names)
            | {"splits": json.dumps(document), "rows": str(len(image_ids)), "cases": str(len(case_groups))}
        )
        _copy(spool, complete, schema)
        complete.rename(path)
    finally:
        spool.unlink(missing_ok=True)
        complete.unlink(missing_ok=True)


def _spool(
    path: Path, rows: Iterable[Row], name: str, num_classes: int
) -> tuple[list[str], list[tuple[str, str | None]]]:
    """Splits and counts stand at the head of the file but are known last, so the rows are spooled first."""
    image_ids, groups, pending = [], [], []
    with pq.ParquetWriter(path, SCHEMA, compression="none") as writer:
        for row in rows:
            pending.append(_cells(row, name, num_classes))
            image_ids.append(row.image_id)
            groups.append((row.case_id, row.group))
            if len(pending) == ROW_GROUP:
                writer.write_table(pa.Table.from_pylist(pending, SCHEMA))
                pending.clear()
        if pending:
            writer.write_table(pa.Table.from_pylist(pending, SCHEMA))
    if not image_ids:
        raise UserError(f"{name}: there is no image to write; check the source folder.")
    return image_ids, groups


def _copy(spool: Path, path: Path, schema: pa.Schema) -> None:
    with pq.ParquetFile(spool) as file, pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for index in range(file.num_row_groups):
            table = file.read_row_group(index)
            writer.write_table(table.replace_schema_metadata(schema.metadata))


def _cells(row: Row, name: str, num_classes: int) -> dict[str, Any]:
    where = f"{name}, image {row.image_id!r}"
    arrays = {"image": row.image, "mask": row.mask, "scribble": row.scribble}
    for column, array in arrays.items():
        if array is not None:
            rules.refuse_wrong_array(f"{where}: {column}", array, row.image.shape)
    pixels = rules.checked_pixels(where, row.image, row.mask, row.scribble, num_classes)
    height, width = row.image.shape
    return {
        "case_id": row.case_id, "frame": row.frame, "slice_index": row.slice_index,
        "height": height, "width": width, "spacing_mm": row.spacing_mm, "duplicate_group": row.group,
        **{column: None if a is None else a.tobytes() for column, a in pixels._asdict().items()},
    }  # fmt: skip


def _standard_metadata(name: str, class_names: Sequence[str]) -> dict[str, str]:
    return {
        "schema_version": SCHEMA_VERSION,
        "dataset": name,
        "class_names": json.dumps({str(index): text for index, text in enumerate(class_names)}),
        "num_classes": str(len(class_names)),
        "unlabelled_id": str(UNLABELLED),
        "image_dtype": "uint8",
        "image_range": "0..255 encodes [0, 1] (value / 255)",
        "mask_dtype": "uint8",
        "array_layout": "C order, shape (height, width), one channel",
        "spacing_order": "[row, column, between slices] in mm of the stored grid; null where unknown",
    }


def _split_document(splits: Mapping[str, Any] | None, groups: Mapping[str, str]) -> dict[str, Any]:
    if splits is None:
        return {"unit": "group", "split": case_splits.by_case(groups)}
    lists = dict(splits) if {"folds", "split"} & splits.keys() else {"split": dict(splits)}
    return {"unit": "case", **lists}
