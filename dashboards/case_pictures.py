"""One case as an SVG strip: image, truth, prediction, errors; each pixel of the image is stored once."""

from __future__ import annotations

import base64
import hashlib
import io

import numpy as np
from PIL import Image

from dashboards.drawing import escape
from trainables.annotations import UNLABELLED
from trainables.gallery import Picture
from trainables.legend import CLASS_COLOURS, ERROR_COLOURS, class_colour, error_maps

PANEL, GAP, HEAD = 160, 6, 16
"""Width of a panel, space between two, and height of the line of names, in units of the drawing."""
MOST_CIRCLES = 80
"""Labelled pixels that are drawn as circles; more of them as small squares, most of an image as areas."""
MOSTLY = 0.2
_FILL, _EDGE, _ERROR = 95, 255, 215
"""Opacity, of 255."""
_TEST = ("image", "truth", "prediction", "errors")
_TRAIN = ("annotation", "truth", "prediction", "errors")


def strip(picture: Picture, title: str, *, side: int) -> str:
    """The case as <svg>, its longer side of `side` pixels; `title` is what a screen reader says."""
    height, width = picture.truth_HW.shape
    tall = round(PANEL * height / width)
    shape = _within((height, width), side)
    frame = f'width="{PANEL}" height="{tall}" preserveAspectRatio="none"'
    photo = _image_uri(picture.image_HW, shape)
    name = f"i{hashlib.blake2b((title + photo).encode(), digest_size=6).hexdigest()}"
    overlays = [
        "" if picture.labels_HW is None else _annotation(picture.labels_HW, shape, tall, frame),
        _overlay(_areas(picture.truth_HW, shape), frame),
        _overlay(_areas(picture.prediction_HW, shape), frame),
        _overlay(_errors(picture, shape), frame),
    ]
    names = _TEST if picture.labels_HW is None else _TRAIN
    panels = "".join(
        f'<g transform="translate({place * (PANEL + GAP)} {HEAD})"><text y="-4">{what}</text>'
        f'<use href="#{name}"/>{overlay}</g>'
        for place, (what, overlay) in enumerate(zip(names, overlays, strict=True))
    )
    whole = 4 * PANEL + 3 * GAP
    return (
        f'<svg viewBox="0 0 {whole} {HEAD + tall}" role="img" aria-label="{escape(title)}" '
        f'style="width:100%;max-width:{whole}px;min-width:0" font-size="11" fill="currentColor">'
        f'<defs><image id="{name}" {frame} href="{photo}"/></defs>{panels}</svg>'
    )


def thumbnail(content: bytes, longest: int) -> str:
    """A picture as a data URI, made smaller. Raises ValueError for what is no picture."""
    try:
        picture = Image.open(io.BytesIO(content)).convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"it is no picture: {error}") from error
    picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return _uri(picture, "webp", quality=60, method=4)


def _image_uri(image: np.ndarray, shape: tuple[int, int]) -> str:
    picture = Image.fromarray(image)
    picture = picture.resize(shape[::-1], Image.Resampling.BILINEAR)
    return _uri(picture, "webp", quality=70, method=4)


def _uri(picture: Image.Image, kind: str, **options: object) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _within(shape: tuple[int, int], longest: int) -> tuple[int, int]:
    scale = longest / max(shape)
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def _resized(ids: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(ids).resize(shape[::-1], Image.Resampling.NEAREST))


def _areas(ids: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Palette index per pixel: even inside a class, odd on its edge, 0 in the background."""
    ids = _resized(ids, shape)
    shown = np.zeros(shape, np.uint8)
    for k in np.unique(ids[ids > 0]):
        region = ids == k
        shown[region] = 2 * _slot(k)
        shown[region & ~_eroded(_eroded(region))] = 2 * _slot(k) + 1
    return shown


def _slot(k: int) -> int:
    """The class, 0 .. 7, that has the colour of class k: colours come round again, and so may indices."""
    return 0 if k == 0 else 1 + (int(k) - 1) % (len(CLASS_COLOURS) - 1)


def _eroded(region: np.ndarray) -> np.ndarray:
    framed = np.pad(region, 1)
    inside: np.ndarray = framed[:-2, 1:-1] & framed[2:, 1:-1] & framed[1:-1, :-2] & framed[1:-1, 2:]
    return region & inside


def _errors(picture: Picture, shape: tuple[int, int]) -> np.ndarray:
    """Palette index per pixel: from 256 down, one for each kind of error."""
    shown = np.zeros(picture.truth_HW.shape, np.uint8)
    for number, wrong in enumerate(error_maps(picture.truth_HW, picture.prediction_HW).values()):
        shown[wrong] = 255 - number
    return _resized(shown, shape)


def _annotation(labels: np.ndarray, shape: tuple[int, int], tall: int, frame: str) -> str:
    rows, columns = np.nonzero(labels != UNLABELLED)
    if not len(rows):
        style = 'fill="#fff" stroke="#000" stroke-width="2.5" paint-order="stroke"'
        return f'<text x="6" y="{tall - 7}" {style}>no pixel labelled</text>'
    if len(rows) <= MOST_CIRCLES:
        height, width = labels.shape
        return "".join(
            f'<circle cx="{PANEL * (column + 0.5) / width:.1f}" cy="{tall * (row + 0.5) / height:.1f}" '
            f'r="3.2" fill="{class_colour(int(labels[row, column]))}" stroke="#000" stroke-width="0.8"/>'
            for row, column in zip(rows, columns, strict=True)
        )
    if len(rows) > MOSTLY * labels.size:
        return _overlay(_areas(np.where(labels == UNLABELLED, 0, labels).astype(np.uint8), shape), frame)
    return _overlay(_squares(labels, rows, columns, shape), frame)


def _squares(labels: np.ndarray, rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Each labelled pixel as a square of three: scribbles stay visible at any size."""
    shown = np.zeros((shape[0] + 2, shape[1] + 2), np.uint8)
    down = (rows + 0.5) * shape[0] / labels.shape[0]
    across = (columns + 0.5) * shape[1] / labels.shape[1]
    indices = [2 * _slot(k) + 1 for k in labels[rows, columns]]
    for row_shift in range(3):
        for column_shift in range(3):
            shown[down.astype(int) + row_shift, across.astype(int) + column_shift] = indices
    return shown[1:-1, 1:-1]


def _overlay(shown: np.ndarray, frame: str) -> str:
    """Palette indices as a transparent PNG; nothing where there is nothing to show."""
    if not shown.any():
        return ""
    used = [0, *(int(index) for index in np.unique(shown) if index)]
    compact = np.zeros(256, np.uint8)
    compact[used] = range(len(used))  # a short palette is a small file
    picture = Image.fromarray(compact[shown]).convert("P")
    picture.putpalette([channel for index in used for channel in _rgb(index)])
    uri = _uri(picture, "png", optimize=True, transparency=bytes(_opacity(index) for index in used))
    return f'<image {frame} href="{uri}"/>'


def _rgb(index: int) -> tuple[int, int, int]:
    errors = list(ERROR_COLOURS.values())
    colour = errors[255 - index] if index > 255 - len(errors) else class_colour(index // 2)
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _opacity(index: int) -> int:
    if index == 0:
        return 0
    if index > 255 - len(ERROR_COLOURS):
        return _ERROR
    return _EDGE if index % 2 else _FILL
