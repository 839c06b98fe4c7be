"""The rules of the on-disk format; a broken one is a sentence with the file, the value and the way out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from search_spaces import UserError, nearest

UNLABELLED = 255
"""The scribble value of a pixel that nobody drew on."""
SCHEMA_VERSION = "1"
SCHEMA = pa.schema(
    [
        pa.field("case_id", pa.string(), nullable=False),
        pa.field("frame", pa.string()),
        pa.field("slice_index", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),
        pa.field("mask", pa.binary(), nullable=False),
        pa.field("scribble", pa.binary()),
        pa.field("spacing_mm", pa.list_(pa.float32())),
        pa.field("duplicate_group", pa.string()),
    ]
)
_OPTIONAL = frozenset({"duplicate_group"})
PIXELS = ("image", "mask", "scribble")
"""The columns that hold arrays; everything else is small."""


class Pixels(NamedTuple):
    """The arrays of one row, uint8 [H, W] each, checked; read-only views. Scribble: class id or 255."""

    image: np.ndarray
    mask: np.ndarray
    scribble: np.ndarray | None


LONGEST_PART, LONGEST_PATH = 255, 4000
"""Bytes, as Linux has them."""


def require_possible(path: Path) -> None:
    """Raises UserError for what no file can be called."""
    parts = [len(part.encode(errors="replace")) for part in path.parts]
    if "\0" in str(path) or max(parts, default=0) > LONGEST_PART or sum(parts) > LONGEST_PATH:
        raise UserError(
            f"A path must have no null character and no part of more than {LONGEST_PART} bytes, but got "
            f"{str(path)!r:.120}; correct it."
        )


def require_regular(path: Path, what: str) -> None:
    """Raises UserError for a pipe, a device and the like, from which reading may never end."""
    if not path.is_file():
        raise UserError(f"{what} must be an ordinary file, and {path} is none; remove it or fetch it again.")


def require_file(path: Path) -> None:
    """Raises UserError, with the nearest name in that folder, where `path` is no file."""
    require_possible(path)
    if not path.is_file():
        beside = [other.name for other in path.parent.glob("*.parquet")]
        raise UserError(f"There is no dataset file {path}.{nearest(path.name, beside)}")


def refuse_wrong_array(where: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise UserError(f"{where} holds {np.isnan(array).sum()} NaN pixels; replace them before the import.")
    if array.dtype != np.uint8:
        raise UserError(f"{where} must be uint8, but is {array.dtype}; scale it to 0..255 and round.")
    if array.ndim != 2 or array.shape != shape or not array.size:
        raise UserError(f"{where} must be [height, width] like its image, but has shape {array.shape}.")


def checked_pixels(
    where: str, image: np.ndarray, mask: np.ndarray, scribble: np.ndarray | None, num_classes: int
) -> Pixels:
    if image.min() == image.max():
        raise UserError(
            f"{where} has one colour ({image.min()}) in every pixel; leave such slices out of the file."
        )
    if mask.max() >= num_classes:
        raise UserError(
            f"{where}: its mask holds class {mask.max()}, but the classes are 0..{num_classes - 1}; "
            "correct the mask or declare the class."
        )
    if scribble is not None and ((scribble >= num_classes) & (scribble != UNLABELLED)).any():
        wrong = scribble[(scribble >= num_classes) & (scribble != UNLABELLED)].max()
        raise UserError(
            f"{where}: its scribble holds {wrong}, but may hold the classes 0..{num_classes - 1} "
            f"and {UNLABELLED} for unlabelled; correct the scribble or declare 'unlabelled_id'."
        )
    return Pixels(image, mask, scribble)


def check_columns(path: Path, schema: pa.Schema) -> None:
    wrong = []
    for field in SCHEMA:
        if field.name not in schema.names:
            wrong += [] if field.name in _OPTIONAL else [f"{field.name!r} is missing"]
        elif schema.field(field.name).type != field.type:
            wrong.append(f"{field.name!r} is {schema.field(field.name).type} instead of {field.type}")
    if wrong:
        raise UserError(
            f"{path}: column {', column '.join(wrong)}; write it with `python -m study data import`."
        )


def check_nulls(path: Path, table: pa.Table) -> None:
    for field in SCHEMA:
        if not field.nullable and field.name in table.column_names and table[field.name].null_count:
            raise UserError(
                f"{path}: column {field.name!r} has {table[field.name].null_count} empty cells; fill them."
            )


def class_names_of(path: Path, metadata: Mapping[str, str]) -> tuple[str, ...]:
    if metadata.get("schema_version", SCHEMA_VERSION) != SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema version {metadata['schema_version']}, but this program reads "
            f"{SCHEMA_VERSION}; import the dataset again."
        )
    names = json_object(str(path), metadata.get("class_names", "{}"))
    good = all(isinstance(name, str) for name in names.values()) and 2 <= len(names) <= UNLABELLED
    if not good or set(names) != set(map(str, range(len(names)))):
        raise UserError(
            f"{path}: the metadata 'class_names' must name the classes 0, 1, ... with background at 0, "
            f"but holds {str(names or 'nothing')[:200]}; write the file with `python -m study data import`."
        )
    return tuple(names[str(index)] for index in range(len(names)))


def texts_of(path: Path, metadata: Mapping[bytes, bytes]) -> dict[str, str]:
    try:
        return {key.decode(): value.decode() for key, value in metadata.items()}
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: the metadata must be UTF-8, but {error}; import it again.") from error


def text_of_file(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as text ({error}); put the file there again.") from error


def json_object(where: str, text: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: this is no JSON ({error}): {text[:40]!r}; correct it.") from None
    if not isinstance(document, dict):
        raise UserError(f"{where}: expected a JSON object, but got {text[:40]!r}; correct it.")
    return document


def check_shapes(path: Path, shapes: np.ndarray) -> None:
    if shapes.min() < 1:
        row = int(np.flatnonzero((shapes < 1).any(axis=1))[0])
        height, width = shapes[row].tolist()
        raise UserError(
            f"{path}, row {row}: height and width must be positive, but are {height} and {width}."
        )


def spacing_of(path: Path, cells: list[list[float | None] | None]) -> np.ndarray:
    unknown = (np.nan,) * 3
    if any(cell is not None and (len(cell) != 3 or None in cell) for cell in cells):
        raise UserError(
            f"{path}: 'spacing_mm' must hold three numbers: row, column, between slices; or be null."
        )
    return np.array([unknown if cell is None else cell for cell in cells], np.float32)


def groups_of(where: str, pairs: Iterable[tuple[str, str | None]]) -> dict[str, str]:
    groups: dict[str, str] = {}
    for case, named in pairs:
        group = named or case
        if groups.setdefault(case, group) != group:
            raise UserError(
                f"{where}: case {case!r} lies in two groups, {groups[case]!r} and {group!r}; keep one."
            )
    return groups


def refuse_repeats(where: str, image_ids: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in image_ids:
        if name in seen:
            raise UserError(f"{where}: image {name!r} occurs twice; number its slices or frames differently.")
        seen.add(name)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except (pa.ArrowException, OSError, MemoryError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{path} is cut short or no Parquet file ({reason}); copy or import it again."
        ) from None
