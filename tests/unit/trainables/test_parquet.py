"""The format: what is written comes back, and each broken rule is one sentence with its place."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from search_spaces import UserError
from trainables.data.parquet import ParquetDataset, Row, write_dataset

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
CLASSES = ("background", "head", "tail")


def make_row(case: int, slice_index: int = 0, **changes: Any) -> Row:
    generator = np.random.default_rng([case, slice_index])
    values = {
        "case_id": f"case{case}",
        "slice_index": slice_index,
        "image": generator.integers(0, 256, (6, 5), np.uint8),
        "mask": generator.integers(0, 3, (6, 5), np.uint8),
    }
    return Row(**(values | changes))


def write(path: Path, rows: list[Row] | Iterator[Row], **changes: Any) -> Path:
    values = {"name": "toy", "class_names": CLASSES, "splits": None}
    write_dataset(path, rows, **(values | changes))
    return path


def rewrite(path: Path, metadata: dict[str, str] | None = None, **columns: list | pa.Array) -> Path:
    """The file with columns or metadata replaced: what a stranger's writer might have made."""
    table = pq.read_table(path)
    for name, values in columns.items():
        array = pa.array(values, table.schema.field(name).type) if isinstance(values, list) else values
        table = table.set_column(table.schema.get_field_index(name), name, array)
    old = pq.read_schema(path).metadata
    new = old | {k.encode(): v.encode() for k, v in (metadata or {}).items()}
    pq.write_table(table.replace_schema_metadata(new), path)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "toy.parquet", [make_row(case, s) for case in range(4) for s in range(2)])


def test_rows_come_back_as_written(tmp_path: Path) -> None:
    scribble = np.full((6, 5), 255, np.uint8)
    scribble[2, 3] = 1
    rows = [make_row(c, frame="ed", spacing_mm=(1.5, 0.5, 8.0), group=f"g{c}") for c in range(3)]
    rows.append(make_row(3, 7, scribble=scribble))
    source = ParquetDataset(write(tmp_path / "a" / "toy.parquet", iter(rows), metadata={"licence": "mine"}))
    assert source.image_ids == ("case0/ed/0", "case1/ed/0", "case2/ed/0", "case3/7")
    assert source.volume_ids == ("case0/ed", "case1/ed", "case2/ed", "case3")
    assert source.groups == {"case0": "g0", "case1": "g1", "case2": "g2", "case3": "case3"}
    assert source.class_names == CLASSES
    assert source.metadata["licence"] == "mine"
    assert source.sizes() == {(6, 5): 4}
    np.testing.assert_array_equal(source.spacing_mm[0], [1.5, 0.5, 8.0])
    assert np.isnan(source.spacing_mm[3]).all()
    for row, pixels in zip(rows, source.pixels(), strict=True):
        np.testing.assert_array_equal(pixels.image, row.image)
        np.testing.assert_array_equal(pixels.mask, row.mask)
        assert (pixels.scribble is None) == (row.scribble is None)
    np.testing.assert_array_equal(pixels.scribble, scribble)


def test_the_layout_on_disk_is_the_shared_one(tmp_path: Path) -> None:
    path = write(tmp_path / "toy.parquet", (make_row(c % 5, c // 5) for c in range(130)))
    file = pq.ParquetFile(path)
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [128, 2]
    assert file.metadata.row_group(0).column(5).compression == "ZSTD"
    metadata = {k.decode(): v.decode() for k, v in file.schema_arrow.metadata.items()}
    assert json.loads(metadata["class_names"]) == {"0": "background", "1": "head", "2": "tail"}
    wanted = {"schema_version": "1", "dataset": "toy", "num_classes": "3", "rows": "130", "cases": "5"}
    assert wanted.items() <= metadata.items()
    assert metadata["image_dtype"] == metadata["mask_dtype"] == "uint8"
    assert sorted(json.loads(metadata["splits"])["split"]) == ["test", "train", "val"]


def test_given_splits_and_folds_are_kept(tmp_path: Path) -> None:
    rows = [make_row(c) for c in range(4)]
    split = {"train": ["case0", "case3"], "val": ["case1"], "test": ["case2"]}
    assert ParquetDataset(write(tmp_path / "a.parquet", rows, splits=split)).folds() == {"split": split}
    folds = {"folds": {"one": split, "two": split | {"val": ["case2"], "test": ["case1"]}}}
    assert ParquetDataset(write(tmp_path / "b.parquet", rows, splits=folds)).folds()["two"]["val"] == [
        "case2"
    ]


def test_splits_may_lie_in_a_file_beside(file: Path) -> None:
    rewrite(file, {"splits": "toy_split.json"})
    with pytest.raises(UserError, match=r"takes its splits from toy_split\.json; put that file beside it"):
        ParquetDataset(file).folds()
    split = {"train": ["case0", "elsewhere"], "val": ["case1"], "test": ["case2"]}
    file.with_name("toy_split.json").write_text(json.dumps({"split": split}))
    assert ParquetDataset(file).folds() == {"split": split | {"train": ["case0"]}}


def test_an_own_unlabelled_id_becomes_255(tmp_path: Path) -> None:
    scribble = np.full((6, 5), 255, np.uint8)
    scribble[0] = 2
    path = write(tmp_path / "toy.parquet", [make_row(c, scribble=scribble) for c in range(3)])
    foreign = np.where(scribble == 255, np.uint8(4), scribble).tobytes()
    rewrite(path, {"unlabelled_id": "4"}, scribble=[foreign, None, foreign])
    first, second, third = ParquetDataset(path).pixels()
    np.testing.assert_array_equal(first.scribble, scribble)
    np.testing.assert_array_equal(third.scribble, scribble)
    assert second.scribble is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": np.full((6, 5), 0.5)}, r"toy, image 'case9/0': image must be uint8, but is float64"),
        ({"image": np.full((6, 5), np.nan)}, r"image 'case9/0': image holds 30 NaN pixels"),
        ({"mask": np.zeros((6, 5), np.int64)}, r"mask must be uint8, but is int64"),
        ({"mask": np.zeros((5, 6), np.uint8)}, r"mask must be \[height, width\] like its image"),
        ({"image": np.zeros((6, 5, 3), np.uint8)}, r"image must be \[height, width\]"),
        ({"image": np.full((6, 5), 7, np.uint8)}, r"image 'case9/0' has one colour \(7\)"),
        ({"mask": np.full((6, 5), 3, np.uint8)}, r"mask holds class 3, but the classes are 0\.\.2"),
        ({"scribble": np.full((6, 5), 4, np.uint8)}, r"scribble holds 4"),
        ({"case_id": "case0"}, r"image 'case0/0' occurs twice"),
        ({"case_id": "case0", "slice_index": 1, "group": "x"}, r"case 'case0' lies in two groups"),
    ],
)
def test_unusable_rows_are_not_written(tmp_path: Path, changes: dict, message: str) -> None:
    path = tmp_path / "toy.parquet"
    with pytest.raises(UserError, match=message):
        write(path, [make_row(0), make_row(1), make_row(2), make_row(9, **changes)])
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_when_the_source_fails_half_way(tmp_path: Path) -> None:
    def rows() -> Iterator[Row]:
        yield make_row(0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "toy.parquet", rows())
    assert list(tmp_path.iterdir()) == []


def test_empty_sources_and_leaking_splits_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no image to write"):
        write(tmp_path / "toy.parquet", [])
    split = {"train": ["case0"], "val": ["case1"], "test": ["case2"]}
    rows = [make_row(0, group="twins"), make_row(1), make_row(2, group="twins")]
    with pytest.raises(
        UserError, match=r"'case0' and 'case2' \(same images\) are in both 'train' and 'test'"
    ):
        write(tmp_path / "toy.parquet", rows, splits=split)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_never_overwritten(file: Path) -> None:
    before = file.read_bytes()
    with pytest.raises(UserError, match="exists already"):
        write(file, [make_row(c) for c in range(3)])
    assert file.read_bytes() == before


def test_missing_and_truncated_files(file: Path) -> None:
    with pytest.raises(UserError, match=r"no dataset file .*tony\.parquet\. Did you mean 'toy\.parquet'"):
        ParquetDataset(file.with_name("tony.parquet"))
    whole = file.read_bytes()
    for length in (0, 3, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"toy\.parquet is cut short or no Parquet file"):
            ParquetDataset(file)


def test_damage_in_the_pixels_is_found_while_reading_them(file: Path) -> None:
    column = pq.ParquetFile(file).metadata.row_group(0).column(5)
    content = bytearray(file.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    content[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    file.write_bytes(content)
    with pytest.raises(UserError, match="is cut short or no Parquet file"):
        list(ParquetDataset(file).pixels())


def test_missing_and_mistyped_columns_are_named(file: Path) -> None:
    table = pq.read_table(file)
    height = table["height"].cast(pa.int64())
    place = table.schema.get_field_index("height")
    pq.write_table(table.set_column(place, "height", height).drop_columns(["mask"]), file)
    with pytest.raises(UserError, match=r"'height' is int64 instead of int32, column 'mask' is missing"):
        ParquetDataset(file)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"class_names": '{"1": "head"}'}, "must name the classes 0, 1"),
        ({"class_names": "{}"}, "holds nothing"),
        ({"class_names": "head, tail"}, "this is no JSON"),
        ({"schema_version": "2"}, "schema version 2, but this program reads 1"),
    ],
)
def test_bad_metadata(file: Path, metadata: dict[str, str], message: str) -> None:
    rewrite(file, metadata)
    with pytest.raises(UserError, match=message):
        ParquetDataset(file)


def test_bad_cells_name_row_and_image(file: Path) -> None:
    masks = pq.read_table(file)["mask"].to_pylist()
    rewrite(file, mask=[*masks[:5], b"short", *masks[6:]])
    with pytest.raises(
        UserError, match=r"row 5, image 'case2/1': column 'mask' .* 6 x 5 = 30 bytes, but holds 5"
    ):
        list(ParquetDataset(file).pixels())
    rewrite(file, mask=[*masks[:5], bytes([9] * 30), *masks[6:]])
    with pytest.raises(UserError, match=r"row 5, image 'case2/1': its mask holds class 9"):
        list(ParquetDataset(file).pixels())
    rewrite(file, mask=masks, image=[bytes(30)] * 8)
    with pytest.raises(UserError, match=r"row 0, image 'case0/0' has one colour \(0\)"):
        list(ParquetDataset(file).pixels())


def test_bad_small_columns(file: Path) -> None:
    rewrite(file, height=[6] * 7 + [0])
    with pytest.raises(UserError, match="row 7: height and width must be positive, but are 0 and 5"):
        ParquetDataset(file)
    rewrite(file, height=[6] * 8, slice_index=[0] * 8)
    with pytest.raises(UserError, match="image 'case0/0' occurs twice"):
        ParquetDataset(file)
    rewrite(file, slice_index=list(range(8)), spacing_mm=[[1.0, 2.0]] * 8)
    with pytest.raises(UserError, match="must hold three numbers"):
        ParquetDataset(file)
    table = pq.read_table(file)
    names = pa.array([None, *table["case_id"].to_pylist()[1:]])
    nullable = table.set_column(0, pa.field("case_id", pa.string()), names)
    pq.write_table(nullable, file)
    with pytest.raises(UserError, match="'case_id' has 1 empty cells"):
        ParquetDataset(file)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not on this machine")
@pytest.mark.parametrize("path", sorted(SHARED.glob("*.parquet")), ids=lambda path: path.stem)
def test_the_shared_files_have_folds_without_leaks(path: Path) -> None:
    folds = ParquetDataset(path).folds()
    numbered = [f"fold{number}" for number in range(1, 6)]
    acdc = [*numbered, *(f"stratified5/{name}" for name in numbered)]
    assert list(folds) == (acdc if path.stem.startswith("acdc") else ["split"])
    assert all(part for fold in folds.values() for part in fold.values())


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not on this machine")
def test_patients_with_the_same_images_stay_together_in_every_acdc_fold() -> None:
    for fold in ParquetDataset(SHARED / "acdc_256.parquet").folds().values():
        assert len(fold["val"]) in (10, 11)  # of 80 patients in 79 groups, every eighth group
        assert len({part for part, cases in fold.items() if {"patient074", "patient076"} & set(cases)}) == 1
