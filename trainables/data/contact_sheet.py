"""One picture of a dataset: slices with the outlines of their masks, to be looked at before training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from trainables.data.dataset import Dataset

CELL = 240
"""Longest side of a picture, in pixels of the sheet."""
MARGIN = 10
CAPTION = 22
HEADER = 64
BACKDROP = (250, 250, 250)
INK = (30, 30, 30)
FAINT = (110, 110, 110)
COLOURS = (
    (255, 160, 0), (60, 170, 255), (240, 70, 180), (0, 200, 120),
    (213, 94, 0), (150, 100, 255), (240, 228, 66),
)  # fmt: skip
"""Class 1, 2, ...: neighbours differ in hue and lightness, so that touching outlines stay apart for
colour-blind readers too; yellow, lost on bright tissue, comes last."""


def contact_sheet(dataset: Dataset, path: Path, images: int = 24, seed: int = 0) -> None:
    """Writes a PNG with up to `images` slices, chosen by `seed` and spread over the cases.

    Every class has its colour, named in the head; each slice carries its image id. Where the dataset has
    slices without any structure, at least one is shown.
    """
    rows = choose(dataset, images, seed)
    width, height = _cell_size(dataset.shape)
    columns = min(len(rows), max(1, 1500 // (width + MARGIN)))
    lines = -(-len(rows) // columns)
    grid_width = columns * (width + MARGIN)
    sheet_size = (
        MARGIN + max(grid_width, _header_width(dataset, len(rows))),
        HEADER + lines * (height + CAPTION + MARGIN),
    )
    sheet = Image.new("RGB", sheet_size, BACKDROP)
    _draw_header(ImageDraw.Draw(sheet), dataset, len(rows))
    for place, row in enumerate(rows):
        line, column = divmod(place, columns)
        corner = (MARGIN + column * (width + MARGIN), HEADER + line * (height + CAPTION + MARGIN))
        sheet.paste(_outlined(dataset.images_NHW[row], dataset.masks_NHW[row], (width, height)), corner)
        _draw_caption(ImageDraw.Draw(sheet), dataset, row, (corner[0], corner[1] + height + 3), width)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, format="PNG")


def choose(dataset: Dataset, images: int, seed: int) -> list[int]:
    """Row indices, sorted: every case once before any case twice, and an empty image where there is one."""
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(dataset.num_images)
    visits: dict[str, int] = {}
    rounds = []
    for row in shuffled:
        case = dataset.case_ids[row]
        rounds.append(visits.get(case, 0))
        visits[case] = rounds[-1] + 1
    chosen = shuffled[np.argsort(rounds, kind="stable")][:images]
    empty = [row for row in shuffled if not dataset.masks_NHW[row].any()]
    if empty and not np.isin(chosen, empty).any():
        chosen[-1] = empty[0]
    return sorted(map(int, chosen))


def _cell_size(shape: tuple[int, int]) -> tuple[int, int]:
    scale = CELL / max(shape)
    return max(1, round(shape[1] * scale)), max(1, round(shape[0] * scale))


def _outlined(image_HW: np.ndarray, mask_HW: np.ndarray, size: tuple[int, int]) -> Image.Image:
    picture = Image.fromarray(np.asarray(image_HW)).resize(size, Image.Resampling.BICUBIC).convert("RGB")
    mask = np.asarray(Image.fromarray(np.asarray(mask_HW)).resize(size, Image.Resampling.NEAREST))
    pixels = np.array(picture)
    for class_id in np.unique(mask[mask > 0]):
        pixels[_inner_edge(mask == class_id)] = _colour(int(class_id))
    return Image.fromarray(pixels)


def _inner_edge(region_HW: np.ndarray) -> np.ndarray:
    """The region's pixels with a 4-neighbour outside of it; one pixel thick, on the region's own side."""
    padded = np.pad(region_HW, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return region_HW & ~inside


def _colour(class_id: int) -> tuple[int, int, int]:
    return COLOURS[(class_id - 1) % len(COLOURS)]


def _title(dataset: Dataset, shown: int) -> str:
    height, width = dataset.shape
    cases = len(set(dataset.case_ids))
    return f"{dataset.name}: {shown} of {dataset.num_images} images, {cases} cases, {height} x {width} pixels"


def _header_width(dataset: Dataset, shown: int) -> int:
    font = ImageFont.load_default(15)
    legend = sum(font.getlength(name) + 44 for name in dataset.class_names[1:])
    return int(max(ImageFont.load_default(20).getlength(_title(dataset, shown)), legend)) + MARGIN


def _draw_header(draw: ImageDraw.ImageDraw, dataset: Dataset, shown: int) -> None:
    draw.text((MARGIN, 8), _title(dataset, shown), INK, ImageFont.load_default(20))
    x = MARGIN
    font = ImageFont.load_default(15)
    for class_id, name in enumerate(dataset.class_names[1:], start=1):
        draw.rectangle((x, 40, x + 14, 52), outline=INK, fill=_colour(class_id))
        draw.text((x + 20, 37), name, INK, font)
        x += int(draw.textlength(name, font)) + 44


def _draw_caption(
    draw: ImageDraw.ImageDraw, dataset: Dataset, row: int, corner: tuple[int, int], width: int
) -> None:
    font = ImageFont.load_default(14)
    suffix = "" if dataset.masks_NHW[row].any() else " (empty)"
    name = dataset.image_ids[row]
    # The end of an id tells slices apart, so a long one loses its beginning.
    while len(name) > 1 and draw.textlength(name + suffix, font) > width:
        name = "…" + name[2:]
    draw.text(corner, name, INK, font)
    draw.text((corner[0] + draw.textlength(name, font), corner[1]), suffix, FAINT, font)
