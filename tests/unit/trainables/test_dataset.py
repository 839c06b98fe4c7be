"""Opening: decoded once, shared by memory map, identified by content, resized without inventing classes."""

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search_spaces import UserError
from trainables.data import dataset as dataset_module
from trainables.data.dataset import Dataset, open_dataset
from trainables.data.parquet import Row, write_dataset

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"


def toy_rows(shape: tuple[int, int] = (8, 6), cases: int = 4, **changes: Any) -> list[Row]:
    rows = []
    for case in range(cases):
        for s in range(2):
            generator = np.random.default_rng([case, s])
            mask = generator.integers(0, 3, shape, np.uint8)
            values = {
                "case_id": f"case{case}", "frame": "ed", "slice_index": s, "mask": mask,
                "image": generator.integers(0, 256, shape, np.uint8), "spacing_mm": (2.0, 3.0, 5.0),
                "scribble": np.where(generator.random(shape) < 0.3, mask, np.uint8(255)),
            }  # fmt: skip
            rows.append(Row(**(values | changes)))
    return rows


def write(path: Path, rows: list[Row], **changes: Any) -> Path:
    values = {"name": "toy", "class_names": ("background", "head", "tail"), "splits": None}
    write_dataset(path, rows, **(values | changes))
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "toy.parquet", toy_rows(), metadata={"licence": "mine"})


def test_a_dataset_holds_what_was_written(file: Path, tmp_path: Path) -> None:
    rows = toy_rows()
    opened = open_dataset(file, cache=tmp_path / "cache")
    assert (opened.name, opened.num_images, opened.num_classes, opened.shape) == ("toy", 8, 3, (8, 6))
    np.testing.assert_array_equal(opened.images_NHW, [row.image for row in rows])
    np.testing.assert_array_equal(opened.masks_NHW, [row.mask for row in rows])
    np.testing.assert_array_equal(opened.scribbles_NHW, [row.scribble for row in rows])
    assert opened.image_ids[:3] == ("case0/ed/0", "case0/ed/1", "case1/ed/0")
    assert opened.case_ids[:3] == ("case0", "case0", "case1")
    assert opened.volume_ids[:3] == ("case0/ed", "case0/ed", "case1/ed")
    np.testing.assert_array_equal(opened.slice_index, [0, 1] * 4)
    np.testing.assert_array_equal(opened.spacing_mm, [[2.0, 3.0, 5.0]] * 8)
    assert opened.slice_index.dtype == np.int32
    assert opened.spacing_mm.dtype == np.float32
    assert opened.metadata["licence"] == "mine"


def test_folds_are_sorted_rows_that_cover_every_case_once(file: Path, tmp_path: Path) -> None:
    (fold,) = open_dataset(file, cache=tmp_path / "cache").folds
    parts = [fold.train, fold.val, fold.test]
    assert all(part.dtype == np.int64 and (np.diff(part) > 0).all() for part in parts)
    assert sorted(np.concatenate(parts)) == list(range(8))
    assert [len(set(part // 2)) for part in parts] == [2, 1, 1]  # both slices of a case on one side


def test_arrays_are_read_only_memory_maps(file: Path, tmp_path: Path) -> None:
    opened = open_dataset(file, cache=tmp_path / "cache")
    for array in (opened.images_NHW, opened.masks_NHW, opened.scribbles_NHW):
        assert isinstance(array, np.memmap)
        assert array.dtype == np.uint8
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0, 0] = 1


def test_scribbles_are_absent_or_unlabelled_where_rows_have_none(tmp_path: Path) -> None:
    rows = toy_rows(scribble=None)
    none = open_dataset(write(tmp_path / "none.parquet", rows), cache=tmp_path / "cache")
    assert none.scribbles_NHW is None
    rows[3] = toy_rows()[3]
    some = open_dataset(write(tmp_path / "some.parquet", rows), cache=tmp_path / "cache")
    assert some.scribbles_NHW is not None
    np.testing.assert_array_equal(some.scribbles_NHW[3], rows[3].scribble)
    assert (np.delete(some.scribbles_NHW, 3, axis=0) == 255).all()


def test_the_second_opening_decodes_nothing(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_dataset(file, cache=tmp_path / "cache")
    monkeypatch.setattr(dataset_module, "ParquetDataset", None)
    dataset_module._load.cache_clear()  # as another process would find it
    second = open_dataset(file, cache=tmp_path / "cache")
    assert second.fingerprint == first.fingerprint
    assert second.metadata == first.metadata
    np.testing.assert_array_equal(second.images_NHW, first.images_NHW)


def test_the_fingerprint_is_of_the_content_alone(file: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = open_dataset(file, cache=cache).fingerprint
    copy = tmp_path / "elsewhere" / "renamed.parquet"
    copy.parent.mkdir()
    shutil.copyfile(file, copy)
    renamed = open_dataset(copy, cache=cache)
    assert renamed.fingerprint == first
    assert renamed.name == "renamed"
    assert open_dataset(copy, cache=tmp_path / "other cache").fingerprint == first


@pytest.mark.parametrize("what", ["image", "mask", "scribble", "spacing_mm", "frame", "classes", "splits"])
def test_the_fingerprint_changes_with(what: str, file: Path, tmp_path: Path) -> None:
    rows, changes = toy_rows(), {}
    if what in ("image", "mask", "scribble"):
        array = getattr(rows[5], what).copy()
        array[3, 3] = 1 if array[3, 3] == 0 else 0
        rows[5] = toy_rows(**{what: array})[5]
    elif what == "classes":
        changes = {"class_names": ("background", "head", "body")}
    elif what == "splits":
        changes = {"splits": {"train": ["case0", "case1"], "val": ["case2"], "test": ["case3"]}}
        assert changes["splits"]["test"] != ["case0"]
    else:
        rows = toy_rows(**{what: {"spacing_mm": (2.0, 3.0, 6.0), "frame": "es"}[what]})
    first = open_dataset(file, cache=tmp_path / "cache")
    second = open_dataset(write(tmp_path / "b.parquet", rows, **changes), cache=tmp_path / "cache")
    assert second.fingerprint != first.fingerprint


def named_folds(*names: str) -> dict[str, Any]:
    fold = {"train": ["case0", "case1"], "val": ["case2"], "test": ["case3"]}
    return {"folds": dict.fromkeys(names, fold)}


def test_names_of_folds_are_the_files_own_and_no_part_of_the_fingerprint(tmp_path: Path) -> None:
    one = write(tmp_path / "one.parquet", toy_rows(), splits=named_folds("a", "b"))
    two = write(tmp_path / "two.parquet", toy_rows(), splits=named_folds("x", "y"))
    three = write(tmp_path / "three.parquet", toy_rows(), splits=named_folds("a", "b", "c"))
    for _ in range(2):  # decoded, then from the cache
        opened = [open_dataset(file, cache=tmp_path / "cache") for file in (one, two, three)]
        assert [data.fold_names for data in opened] == [("a", "b"), ("x", "y"), ("a", "b", "c")]
        assert opened[0].fingerprint == opened[1].fingerprint != opened[2].fingerprint
        dataset_module._load.cache_clear()


def test_the_fingerprint_is_what_it_was_before_folds_had_names(tmp_path: Path) -> None:
    # Frozen: another value would give every trial of every study a new key.
    image = np.arange(48, dtype=np.uint8).reshape(8, 6)
    rows = toy_rows(image=image, mask=image // np.uint8(16), scribble=None)
    path = write(tmp_path / "toy.parquet", rows, splits=named_folds("a", "b"))
    assert open_dataset(path, cache=tmp_path / "cache").fingerprint == "e1bd19093f466b1ba127c9c6b8364f74"


def test_a_receipt_from_before_folds_had_names_is_written_anew(tmp_path: Path) -> None:
    # It may also stand for fewer folds than are read today.
    file = write(tmp_path / "toy.parquet", toy_rows(), splits=named_folds("a", "b"))
    first = open_dataset(file, cache=tmp_path / "cache")
    (receipt,) = (tmp_path / "cache" / "receipts").iterdir()
    before = json.loads(receipt.read_text())
    del before["fold_names"]
    receipt.write_text(json.dumps(before))
    again = open_dataset(file, cache=tmp_path / "cache")
    assert again.fold_names == ("a", "b")
    assert again.fingerprint == first.fingerprint
    assert json.loads(receipt.read_text()) == before | {"fold_names": ["a", "b"]}


def test_options_have_their_own_fingerprints(file: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    opened = [
        open_dataset(file, cache=cache),
        open_dataset(file, cache=cache, size=(4, 3)),
        open_dataset(file, cache=cache, size=(3, 4)),
        open_dataset(file, cache=cache, merge_foreground=True),
    ]
    assert len({each.fingerprint for each in opened}) == 4


def test_a_changed_file_and_a_changed_split_file_are_noticed(file: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    before = open_dataset(file, cache=cache)
    file.unlink()
    write(file, toy_rows(cases=5))
    assert open_dataset(file, cache=cache).num_images == before.num_images + 2
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="cut short"):
        open_dataset(file, cache=cache)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not on this machine")
def test_a_changed_split_file_is_noticed(tmp_path: Path) -> None:
    for name in ("kits19_mini.parquet", "busi_256_sample.parquet", "busi_split.json"):
        shutil.copyfile(SHARED / name, tmp_path / name)
    path, split = tmp_path / "busi_256_sample.parquet", tmp_path / "busi_split.json"
    before = open_dataset(path, cache=tmp_path / "cache")
    text = split.read_text()
    split.write_text(text.replace('"val"', '"swap"').replace('"test"', '"val"').replace('"swap"', '"test"'))
    after = open_dataset(path, cache=tmp_path / "cache")
    assert after.fingerprint != before.fingerprint
    np.testing.assert_array_equal(after.folds[0].val, before.folds[0].test)


def test_a_lost_cache_is_decoded_again(file: Path, tmp_path: Path) -> None:
    first = open_dataset(file, cache=tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache" / first.fingerprint)
    dataset_module._load.cache_clear()
    np.testing.assert_array_equal(open_dataset(file, cache=tmp_path / "cache").images_NHW, first.images_NHW)


def test_racing_processes_share_one_result_and_leave_no_rubbish(file: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with ThreadPoolExecutor(6) as pool:
        opened = list(pool.map(lambda _: open_dataset(file, cache=cache), range(12)))
    assert len({each.fingerprint for each in opened}) == 1
    assert {path.name for path in cache.iterdir()} == {"receipts", opened[0].fingerprint}


def test_a_broken_file_leaves_no_half_cache(file: Path, tmp_path: Path, monkeypatch: Any) -> None:
    def fail(*_: object) -> None:
        raise UserError("row 3 is broken")

    monkeypatch.setattr(dataset_module, "_transformed", fail)
    with pytest.raises(UserError, match="row 3"):
        open_dataset(file, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_resizing_averages_areas_and_scales_the_spacing(file: Path, tmp_path: Path) -> None:
    full = open_dataset(file, cache=tmp_path / "cache")
    half = open_dataset(file, cache=tmp_path / "cache", size=(4, 3))
    blocks = np.asarray(full.images_NHW, np.float64).reshape(8, 4, 2, 3, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(half.images_NHW, blocks, atol=0.5)  # rounding to whole grey values
    np.testing.assert_array_equal(half.spacing_mm, [[4.0, 6.0, 5.0]] * 8)
    for small, large in ((half.masks_NHW, full.masks_NHW), (half.scribbles_NHW, full.scribbles_NHW)):
        assert small is not None
        assert large is not None
        candidates = np.asarray(large).reshape(8, 4, 2, 3, 2).transpose(0, 1, 3, 2, 4).reshape(8, 4, 3, 4)
        assert (np.asarray(small)[..., None] == candidates).any(axis=-1).all()


@pytest.mark.parametrize("merge", [False, True])
def test_a_resized_data_set_keeps_the_masks_that_it_is_judged_by(
    merge: bool, file: Path, tmp_path: Path
) -> None:
    full = open_dataset(file, cache=tmp_path / "cache", merge_foreground=merge)
    half = open_dataset(file, cache=tmp_path / "cache", size=(4, 3), merge_foreground=merge)
    rows = np.array([5, 0, 2])
    for opened in (full, half):
        truths, spacing_mm = opened.truths(rows)
        np.testing.assert_array_equal(np.stack(truths), full.masks_NHW[rows])
        np.testing.assert_array_equal(spacing_mm, full.spacing_mm[rows])


def test_masks_of_several_sizes_are_kept_as_they_are(tmp_path: Path) -> None:
    rows = [*toy_rows((8, 6)), *toy_rows((10, 4), case_id="other")[:2]]
    opened = open_dataset(write(tmp_path / "mixed.parquet", rows), cache=tmp_path / "cache", size=(5, 5))
    truths, _ = opened.truths(np.arange(len(rows)))
    for row, truth_HW in zip(rows, truths, strict=True):
        np.testing.assert_array_equal(truth_HW, row.mask)


def test_enlarging_repeats_mask_pixels_in_place(file: Path, tmp_path: Path) -> None:
    full = open_dataset(file, cache=tmp_path / "cache")
    large = open_dataset(file, cache=tmp_path / "cache", size=(16, 18))
    np.testing.assert_array_equal(large.masks_NHW, np.asarray(full.masks_NHW).repeat(2, 1).repeat(3, 2))


def test_files_of_several_sizes_need_a_size(tmp_path: Path) -> None:
    rows = toy_rows((8, 6)) + toy_rows((10, 6), cases=1, case_id="big")
    path = write(tmp_path / "mixed.parquet", rows)
    with pytest.raises(UserError, match=r"8x6 \(8 images\), 10x6 \(2 images\); .* --set size=8x6"):
        open_dataset(path, cache=tmp_path / "cache")
    opened = open_dataset(path, cache=tmp_path / "cache", size=(8, 6))
    assert opened.images_NHW.shape == (10, 8, 6)
    np.testing.assert_allclose(opened.spacing_mm[[0, 9]], [[2.0, 3.0, 5.0], [2.5, 3.0, 5.0]])
    np.testing.assert_array_equal(opened.images_NHW[0], rows[0].image)


def test_merging_makes_one_foreground(file: Path, tmp_path: Path) -> None:
    full = open_dataset(file, cache=tmp_path / "cache")
    merged = open_dataset(file, cache=tmp_path / "cache", merge_foreground=True)
    assert merged.class_names == ("background", "foreground")
    np.testing.assert_array_equal(merged.masks_NHW, np.asarray(full.masks_NHW) > 0)
    assert merged.scribbles_NHW is not None
    assert full.scribbles_NHW is not None
    np.testing.assert_array_equal(
        np.asarray(merged.scribbles_NHW) == 255, np.asarray(full.scribbles_NHW) == 255
    )
    np.testing.assert_array_equal(np.asarray(merged.scribbles_NHW) == 0, np.asarray(full.scribbles_NHW) == 0)
    assert set(np.unique(merged.scribbles_NHW)) == {0, 1, 255}


def test_mistakes_are_sentences(file: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no dataset file"):
        open_dataset(tmp_path / "absent.parquet", cache=tmp_path / "cache")
    with pytest.raises(UserError, match="of 1 to 16384 pixels each, but got 0x4"):
        open_dataset(file, cache=tmp_path / "cache", size=(0, 4))


def opened_shared(name: str, cache: Path, **options: Any) -> Dataset:
    return open_dataset(SHARED / f"{name}.parquet", cache=cache, **options)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not on this machine")
def test_shared_samples_open(tmp_path: Path) -> None:
    acdc = opened_shared("acdc_256_sample", tmp_path)
    assert (acdc.num_images, acdc.num_classes, acdc.shape, len(acdc.folds)) == (72, 4, (256, 256), 10)
    assert set(np.unique(acdc.scribbles_NHW)) == {0, 1, 2, 3, 255}
    assert len(set(acdc.volume_ids)) == 24
    assert opened_shared("busi_256_sample", tmp_path, size=(64, 64)).masks_NHW.max() == 1
    assert opened_shared("kits19_mini", tmp_path).scribbles_NHW is None


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not on this machine")
def test_reopening_six_thousand_slices_is_instant(tmp_path: Path) -> None:
    first = opened_shared("hippocampus_48x32", tmp_path, merge_foreground=True)
    assert [len(part) for part in vars(first.folds[0]).values()] == [4285, 600, 1218]
    seconds = []
    for _ in range(3):
        dataset_module._load.cache_clear()
        start = time.perf_counter()
        opened_shared("hippocampus_48x32", tmp_path, merge_foreground=True)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.05  # measured: 0.003; the best of three shrugs off a busy machine
