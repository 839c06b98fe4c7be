"""The contact sheet: spread over cases, an empty image included, outlines where the masks are."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainables.data.contact_sheet import COLOURS, _inner_edge, choose, contact_sheet
from trainables.data.dataset import Dataset, open_dataset
from trainables.data.parquet import Row, write_dataset


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Ten cases of five slices with a square of class 1 or 2, except for one empty slice in all."""
    rows = []
    for case in range(10):
        for s in range(5):
            mask = np.zeros((24, 16), np.uint8)
            if (case, s) != (7, 2):
                mask[4:12, 4:12] = 1 + case % 2
            image = np.random.default_rng([case, s]).integers(0, 200, (24, 16), np.uint8)
            rows.append(
                Row(case_id=f"a-long-hospital-name-and-case{case}", slice_index=s, image=image, mask=mask)
            )
    path = tmp_path / "toy.parquet"
    write_dataset(path, rows, name="toy", class_names=("background", "one", "two"), splits=None)
    return open_dataset(path, cache=tmp_path / "cache")


@pytest.mark.parametrize("seed", range(5))
def test_every_case_is_shown_before_any_case_twice(dataset: Dataset, seed: int) -> None:
    rows = choose(dataset, 25, seed)
    assert len(set(rows)) == 25
    assert rows == sorted(rows)
    shown = np.unique([dataset.case_ids[row] for row in rows], return_counts=True)[1]
    assert len(shown) == 10
    assert shown.min() >= 1
    assert shown.max() <= 4  # 2 or 3 each, and one place given to the empty slice


@pytest.mark.parametrize("images", [1, 6, 24, 50])
def test_the_only_empty_slice_is_shown(dataset: Dataset, images: int) -> None:
    rows = choose(dataset, images, seed=0)
    assert len(rows) == images
    assert 7 * 5 + 2 in rows


def test_a_dataset_smaller_than_the_sheet_is_shown_whole(dataset: Dataset) -> None:
    assert choose(dataset, 1000, seed=3) == list(range(50))


def test_the_picture_holds_each_class_colour_and_is_reproducible(dataset: Dataset, tmp_path: Path) -> None:
    contact_sheet(dataset, tmp_path / "new" / "a.png", images=6)
    contact_sheet(dataset, tmp_path / "b.png", images=6)
    assert (tmp_path / "new" / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    contact_sheet(dataset, tmp_path / "c.png", images=6, seed=1)
    assert (tmp_path / "c.png").read_bytes() != (tmp_path / "b.png").read_bytes()
    pixels = np.asarray(Image.open(tmp_path / "b.png"))
    below_the_head = pixels[64:]
    for colour in COLOURS[:2]:
        assert (below_the_head == colour).all(axis=-1).sum() > 300  # outlines: 4 x 80 pixels a square
    assert not (below_the_head == COLOURS[2]).all(axis=-1).any()


def test_the_outline_is_the_regions_own_rim() -> None:
    region = np.zeros((5, 6), bool)
    region[1:5, 1:5] = True
    expected = region.copy()
    expected[2:4, 2:4] = False
    np.testing.assert_array_equal(_inner_edge(region), expected)
