"""Sample pictures: the right pixels carry the right colours, and odd inputs are drawn."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from trainables.legend import CLASS_COLOURS, ERROR_COLOURS, class_colour, error_maps
from trainables.pictures import samples

NAMES = ("background", "left ventricle", "myocardium")


def squares(count: int = 2, size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Dark images, and masks with class 1 inside class 2."""
    masks_NHW = np.zeros((count, size, size), np.uint8)
    masks_NHW[:, 8:24, 8:24] = 2
    masks_NHW[:, 12:20, 12:20] = 1
    return np.full((count, size, size), 40, np.uint8), masks_NHW


def share(path: Path, colour: str) -> float:
    """Share of pixels within 0.2 of this colour per channel: 80 % opacity over dark grey moves it so far."""
    pixels = imread(path)[..., :3]
    return float((np.abs(pixels - np.array(to_rgb(colour))).max(axis=-1) < 0.2).mean())


def test_errors_are_told_apart_pixel_by_pixel() -> None:
    mask = np.array([[0, 0, 1, 1, 2, 2]])
    prediction = np.array([[0, 1, 0, 1, 1, 2]])
    maps = error_maps(mask, prediction)
    assert {kind: np.flatnonzero(wrong).tolist() for kind, wrong in maps.items()} == {
        "false positive": [1],
        "false negative": [2],
        "wrong class": [4],
    }


def test_error_colours_appear_for_errors_only(tmp_path: Path) -> None:
    images, masks = squares()
    nothing = np.full_like(masks, 255)
    missed = np.zeros_like(masks)
    samples(tmp_path / "right.png", images, masks, nothing, masks, NAMES, ["a", "b"])
    samples(tmp_path / "missed.png", images, masks, nothing, missed, NAMES, ["a", "b"])
    blue = ERROR_COLOURS["false negative"]
    # a quarter of one of five columns, less margins and legend; without errors only the legend's patch
    assert share(tmp_path / "missed.png", blue) > 0.02
    assert share(tmp_path / "right.png", blue) < 0.005


def test_clicks_are_drawn_where_there_are_any(tmp_path: Path) -> None:
    images, masks = squares(1)
    labels = np.full_like(masks, 255)
    flat = np.zeros_like(masks)
    samples(tmp_path / "without.png", images, flat, labels, flat, NAMES, ["a"])
    labels[0, 12:20:2, 12:20:2] = 1
    samples(tmp_path / "with.png", images, flat, labels, flat, NAMES, ["a"])
    orange = class_colour(1)
    assert share(tmp_path / "with.png", orange) > 3 * share(tmp_path / "without.png", orange)


@pytest.mark.parametrize("shape", [(32, 32), (16, 64), (96, 24)])
@pytest.mark.parametrize("dense", [False, True])
def test_any_shape_and_annotation_gives_a_picture_and_nothing_else(
    tmp_path: Path, shape: tuple[int, int], dense: bool
) -> None:
    generator = np.random.default_rng(0)
    masks = generator.integers(0, 3, (1, *shape)).astype(np.uint8)
    labels = masks if dense else np.full_like(masks, 255)
    images = generator.integers(0, 256, (1, *shape)).astype(np.uint8)
    path = tmp_path / "new folder" / "samples.png"
    samples(path, images, masks, labels, masks.astype(np.int64), NAMES, ["a rather long title " * 4])
    assert [found.name for found in path.parent.iterdir()] == ["samples.png"]
    assert imread(path).shape[1] > 1000  # five readable columns


def test_the_same_input_gives_the_same_file(tmp_path: Path) -> None:
    images, masks = squares()
    for name in ("a.png", "b.png"):
        samples(tmp_path / name, images, masks, masks, masks, NAMES, ["x", "y"])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_seven_classes_have_colours_of_their_own_and_background_never_shares_one() -> None:
    assert len({class_colour(index) for index in range(8)}) == 8
    assert class_colour(8) == class_colour(1)
    assert CLASS_COLOURS[0] not in {class_colour(index) for index in range(1, 30)}
