"""Dataset files and the decoded cache: damaged, mistyped, hostile metadata, splits that lead elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.fuzz.mutations import ROUNDS, damaged, outcome
from trainables.data.dataset import Dataset, open_dataset
from trainables.data.parquet import Row, write_dataset


def row(case: int, case_id: str | None = None) -> Row:
    rng = np.random.default_rng(case)
    mask = (rng.random((8, 9)) < 0.3).astype(np.uint8)
    image = rng.integers(0, 255, (8, 9)).astype(np.uint8)
    scribble = np.where(rng.random((8, 9)) < 0.1, mask, 255).astype(np.uint8)
    name = f"c{case}" if case_id is None else case_id
    return Row(
        case_id=name, slice_index=0, image=image, mask=mask, scribble=scribble, spacing_mm=(1.0, 1.0, 2.0)
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "home" / "datasets" / "toy.parquet"
    write_dataset(file, map(row, range(6)), name="toy", class_names=("background", "one"), splits=None)
    return file


def opened(path: Path, **options: Any) -> tuple[Dataset | None, str | None]:
    """Through a fresh cache, every pixel looked at."""

    def work() -> Dataset:
        dataset = open_dataset(path, cache=path.parents[1] / "cache", **options)
        dataset.images_NHW.sum(), dataset.masks_NHW.sum()
        dataset.truths(np.arange(dataset.num_images))
        return dataset

    return outcome(work, path.parents[1])


@pytest.mark.parametrize("rounds", ROUNDS)
def test_damaged_files(path: Path, rounds: int) -> None:
    content, refused = path.read_bytes(), 0
    for copy in damaged(content, 2 * rounds):
        path.write_bytes(copy)
        refused += opened(path)[1] is not None
    assert refused > rounds / 2


def rewritten(
    path: Path, change: dict[str, Any] | None = None, metadata: dict[str, Any] | None = None
) -> None:
    """The file with columns replaced (None: left out) and metadata entries replaced."""
    table = pq.read_table(path)
    kept = {**table.schema.metadata, **{k.encode(): v for k, v in (metadata or {}).items()}}
    for name, values in (change or {}).items():
        position = table.schema.get_field_index(name)
        table = table.remove_column(position)
        if values is not None:
            table = table.add_column(position, name, values)
    pq.write_table(table.replace_schema_metadata(kept), path)


def binary(*lengths: int) -> pa.Array:
    return pa.array([bytes(range(length)) for length in lengths], pa.binary())


COLUMNS: dict[str, dict[str, Any]] = {
    "an image too short": {"image": binary(72, 72, 72, 72, 72, 71)},
    "no image": {"image": None},
    "an image of text": {"image": pa.array(["x" * 72] * 6)},
    "a size of zero": {"height": pa.array([0] * 6, pa.int32())},
    "a size below zero": {"height": pa.array([-8] * 6, pa.int32()), "width": pa.array([-9] * 6, pa.int32())},
    "an absurd size": {"height": pa.array([2**31 - 1] * 6, pa.int32())},
    "numbers of 64 bit": {"height": pa.array([8] * 6, pa.int64())},
    "no cases": {"case_id": pa.array([None] * 6, pa.string())},
    "one case": {"case_id": pa.array(["x"] * 6)},
    "spacing of two": {"spacing_mm": pa.array([[1.0, 1.0]] * 6, pa.list_(pa.float32()))},
    "spacing of nothing": {"spacing_mm": pa.array([[None, None, None]] * 6, pa.list_(pa.float32()))},
    "a scribble too long": {"scribble": binary(*[99] * 6)},
    "a class too many": {"mask": pa.array([bytes([7]) * 72] * 6, pa.binary())},
    "one colour": {"image": pa.array([bytes(72)] * 6, pa.binary())},
    "a group of nobody": {"duplicate_group": pa.array(["g"] * 6)},
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_wrong_columns(path: Path, kind: str) -> None:
    rewritten(path, COLUMNS[kind])
    assert opened(path)[1] is not None


METADATA = {
    "class_names": ["3", "[]", "{}", '{"0": 1, "1": 2}', '{"0": "a"}', "[" * 100_000, "\0",
                    '{"0":"a","1":null}',
                    json.dumps({str(k): "x" for k in range(300)})],
    "splits": ["../../../etc/passwd", "/etc/passwd", "..", ".", "", "a\0b", "no.json", "[1]", '{"split": 3}',
               '{"split": {"train": 3}}', '{"folds": []}', '{"folds": {"x": 1}}', "{" * 100_000,
               '{"a":' * 100_000, '{"split": {"train": ["c0"], "val": ["c1"], "test": [["c2"]]}}',
               '{"same_images": 3}', '{"same_images": [3]}', '{"same_images": [[{}]]}',
               '{"x": {"folds": 3}}'],
    "unlabelled_id": ["²", "-1", "9" * 5000, "x", "99999999999999999999"],
    "schema_version": ["2", "", "\0"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text"), [(name, text) for name, texts in METADATA.items() for text in texts]
)
def test_hostile_metadata(path: Path, name: str, text: str) -> None:
    rewritten(path, metadata={name: text.encode()})
    _, sentence = opened(path)
    if name != "unlabelled_id":
        assert sentence is not None
        assert "root:" not in sentence  # of /etc/passwd


@pytest.mark.parametrize("text", [b"\xff\xfe", b"\x80"])
def test_metadata_that_is_no_text(path: Path, text: bytes) -> None:
    rewritten(path, metadata={"source": text})
    assert "must be UTF-8" in (opened(path)[1] or "")


def test_splits_in_a_file_beside(path: Path) -> None:
    rewritten(path, metadata={"splits": b"mine.json"})
    split = {"train": ["c0", "c1"], "val": ["c2"], "test": ["c3"]}
    beside = path.with_name("mine.json")
    beside.write_text(json.dumps({"split": split}))
    assert opened(path)[1] is None
    for content in (b"\xff", b"[" * 100_000, b"", b"3"):
        beside.write_bytes(content)
        assert "mine.json" in (opened(path)[1] or "")
    beside.unlink()
    beside.mkdir()
    assert "put that file beside it" in (opened(path)[1] or "")


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "..", "a/b", "a\0b", "x" * 5000, "\n", "con:", "é"])
def test_names_of_cases_are_no_paths(tmp_path: Path, name: str) -> None:
    path = tmp_path / "home" / "datasets" / "toy.parquet"
    rows = [row(case, f"{name}{case}") for case in range(6)]
    write_dataset(path, rows, name=name, class_names=("background", "one"), splits=None)
    dataset, sentence = opened(path)
    assert sentence is None
    assert dataset is not None
    assert set(dataset.case_ids) == {f"{name}{case}" for case in range(6)}
    names = {file.name for file in (tmp_path / "home").rglob("*")}
    receipts = [file.name for file in (tmp_path / "home/cache/receipts").iterdir()]
    assert names <= {
        "datasets", "toy.parquet", "cache", "receipts", dataset.fingerprint, "index.json", "images.npy",
        "masks.npy", "scribbles.npy", "spacing_mm.npy", *receipts,
    }  # fmt: skip
    assert [file.name for file in tmp_path.iterdir()] == ["home"]


@pytest.mark.parametrize("size", [(0, 8), (-1, 8), (10**9, 10**9), (16_385, 8)])
def test_absurd_sizes(path: Path, size: tuple[int, int]) -> None:
    assert "A size must be height x width of 1 to 16384 pixels" in (opened(path, size=size)[1] or "")


# -- the cache ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize("name", ["receipt", "index.json", "images.npy", "spacing_mm.npy"])
def test_a_damaged_cache(path: Path, name: str, rounds: int) -> None:
    from trainables.data import dataset as module

    whole, _ = opened(path)
    assert whole is not None
    cache = path.parents[1] / "cache"
    (receipt,) = (cache / "receipts").iterdir()
    file = receipt if name == "receipt" else cache / whole.fingerprint / name
    content = file.read_bytes()
    for copy in damaged(content[:200], rounds):
        file.unlink()  # what is mapped keeps the old one
        file.write_bytes(copy + content[200:])
        module._load.cache_clear()
        opened(path)
    file.unlink()
    module._load.cache_clear()
    found, sentence = opened(path)
    assert (found is None) == (name != "receipt")
    assert name == "receipt" or "delete that folder" in (sentence or "")
