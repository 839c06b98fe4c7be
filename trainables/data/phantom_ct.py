"""A CT-like abdomen phantom: volumes with liver, spleen and kidneys, and bones, vessels and bowel as well.

Everything is composed in Hounsfield units. The patient's right is at the left edge, the front at the top.
Organs are ellipsoids with wavy borders around typical positions, so that each is absent in some slices.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from trainables.data.phantom_shapes import (
    Blob,
    Ellipsoid,
    drawn_waves,
    fine_grid,
    pooled,
    smooth_noise,
    soft_step,
    stable_generator,
    to_uint8,
)

CLASS_NAMES = ("background", "liver", "spleen", "kidney")
SLICES = 6
SLICE_GAP_MM = 24.0
WINDOW_HU = (-140.0, 300.0)
"""Shown as 0 .. 255."""

_AIR, _FAT, _MUSCLE, _BONE, _MARROW, _GAS, _NERVE = -1000.0, -100.0, 45.0, 420.0, 190.0, -800.0, 25.0
_LOOPS = ((0.36, 0.42), (0.34, 0.54), (0.44, 0.55), (0.38, 0.68), (0.5, 0.68), (0.48, 0.36), (0.38, 0.29))
"""Rows and columns of the loops of bowel."""
_EDGE = 0.012
"""Width of a border: blur of the scanner."""


class Slice(NamedTuple):
    image: np.ndarray
    """uint8 [size, size]."""
    mask: np.ndarray
    """uint8 [size, size], ids as in CLASS_NAMES."""
    spacing_mm: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class _Canvas:
    """One slice while it is being painted, on the fine grid; painting works in place."""

    hu_HW: np.ndarray
    labels_HW: np.ndarray
    y_HW: np.ndarray
    x_HW: np.ndarray
    cavity_HW: np.ndarray
    """Distance inwards from the abdominal wall."""


@dataclass(frozen=True, slots=True)
class _Patient:
    body: Blob
    wall: float
    organs: tuple[tuple[int, Ellipsoid], ...]
    """(class id, shape), painted in this order."""
    bowel: tuple[Ellipsoid, ...]
    field_mm: float
    vessel_hu: float


def abdomen(key: tuple[str | int, ...], *, size: int) -> list[Slice]:
    """The slices of one volume, top to bottom. Depends on its arguments alone."""
    patient = _patient(stable_generator(*key, "geometry"))
    trunk = _empty_trunk(patient, *fine_grid(size))
    spacing_mm = (patient.field_mm / size, patient.field_mm / size, SLICE_GAP_MM)
    slices = []
    for index in range(SLICES):
        canvas = replace(trunk, hu_HW=trunk.hu_HW.copy(), labels_HW=trunk.labels_HW.copy())
        _paint_slice(canvas, patient, index / (SLICES - 1), stable_generator(*key, "slice", index))
        image = _scanned(canvas.hu_HW, stable_generator(*key, "noise", index, size), size)
        slices.append(Slice(image, _majority(canvas.labels_HW), spacing_mm))
    return slices


def _paint_slice(canvas: _Canvas, patient: _Patient, level: float, detail: np.random.Generator) -> None:
    """Spine and vessels first, then bowel, then organs: nothing that is labelled is ever hidden."""
    _paint_ribs(canvas, patient, level, detail)
    _paint_spine_and_vessels(canvas, patient, detail)
    for class_id, shape in (*((None, loop) for loop in patient.bowel), *patient.organs):
        section = shape.section(level)
        if section is not None:
            _paint_blob(canvas, section, shape.hu, inner=True, class_id=class_id)


def _around(generator: np.random.Generator, value: float, spread: float) -> float:
    return float(value + spread * generator.uniform(-1.0, 1.0))


def _organ(
    g: np.random.Generator,
    *,
    place: tuple[float, float],
    radius: float,
    aspect: float,
    angle: float,
    level: float,
    half_height: float,
    hu: float,
    drift: float = 0.0,
    wave: float = 0.06,
    jitter: float = 0.02,
) -> Ellipsoid:
    """An organ of one patient: everything typical, then varied by the patient."""
    blob = Blob(
        row=_around(g, place[0], jitter),
        column=_around(g, place[1], jitter),
        radius=radius * _around(g, 1.0, 0.12),
        aspect=aspect * _around(g, 1.0, 0.12),
        angle=_around(g, angle, 0.25),
        waves=drawn_waves(g, range(2, 6), wave),
    )
    return Ellipsoid(
        blob=blob,
        level=_around(g, level, 0.1),
        half_height=half_height * _around(g, 1.0, 0.15),
        drift=drift,
        hu=_around(g, hu, 10.0),
    )


def _patient(g: np.random.Generator) -> _Patient:
    body = Blob(
        row=_around(g, 0.5, 0.015),
        column=_around(g, 0.5, 0.015),
        radius=_around(g, 0.385, 0.015),
        aspect=_around(g, 1.32, 0.07),
        angle=np.pi / 2.0,
        waves=((4.0, 0.02, 0.0),),
    )
    enhancement = g.uniform(0.0, 1.0)  # contrast agent: kidneys and vessels brighten together
    liver = _organ(
        g,
        place=(0.45, 0.295),
        radius=0.155,
        aspect=1.45,
        angle=0.5,
        level=0.2,
        half_height=0.62,
        hu=85.0,
        wave=0.09,
    )
    spleen = _organ(
        g, place=(0.53, 0.765), radius=0.105, aspect=1.6, angle=-0.35, level=0.2, half_height=0.42, hu=150.0
    )
    kidneys = [
        _organ(
            g, place=(0.635, column), radius=0.073, aspect=1.35, angle=tilt, level=level, half_height=0.45,
            hu=200.0 + 40.0 * enhancement, drift=drift,
        )
        for column, tilt, level, drift in ((0.335, 0.5, 0.72, -0.03), (0.665, -0.5, 0.66, 0.03))
    ]  # fmt: skip
    return _Patient(
        body=body,
        wall=_around(g, 0.05, 0.015),
        organs=((1, liver), (2, spleen), *((3, kidney) for kidney in kidneys)),
        bowel=_bowel(g),
        field_mm=float(g.uniform(340.0, 410.0)),
        vessel_hu=float(150.0 + 60.0 * enhancement),
    )


def _bowel(g: np.random.Generator) -> tuple[Ellipsoid, ...]:
    """Stomach with a gas bubble in the upper slices, loops of bowel in the lower ones."""
    stomach = _organ(
        g, place=(0.37, 0.63), radius=0.1, aspect=1.4, angle=1.0, level=0.2, half_height=0.5, hu=40.0
    )
    gas = _organ(
        g, place=(stomach.blob.row - 0.05, stomach.blob.column), radius=0.05, aspect=1.5, angle=np.pi / 2.0,
        level=stomach.level, half_height=0.35, hu=_GAS, wave=0.02, jitter=0.01,
    )  # fmt: skip
    loops = tuple(
        _organ(
            g, place=place, radius=0.055, aspect=1.3, angle=g.uniform(0.0, np.pi), level=0.85,
            half_height=0.5, hu=g.choice((25.0, 55.0, 110.0)), wave=0.1, jitter=0.03,
        )
        for place in _LOOPS
    )  # fmt: skip
    return (stomach, gas, *loops)


def _paint(hu_HW: np.ndarray, elevation_HW: np.ndarray, hu: float | np.ndarray) -> None:
    inside_HW = soft_step(elevation_HW, _EDGE)
    hu_HW += inside_HW * (hu - hu_HW)


def _paint_blob(
    canvas: _Canvas,
    blob: Blob,
    hu: float,
    rim: float = 0.0,
    *,
    inner: bool = False,
    class_id: int | None = None,
) -> None:
    """Paints the blob, less a rim, and labels it; `inner` ends it at the abdominal wall.

    Only the window that the blob reaches is computed.
    """
    side = canvas.hu_HW.shape[0]
    reach = blob.reach + 6.0 * _EDGE
    rows, columns = (
        slice(max(0, int((centre - reach) * side)), max(0, int((centre + reach) * side) + 1))
        for centre in (blob.row, blob.column)
    )
    elevation_HW = blob.elevation(canvas.y_HW[rows, columns], canvas.x_HW[rows, columns]) - rim
    if inner:
        elevation_HW = np.minimum(elevation_HW, canvas.cavity_HW[rows, columns])
    _paint(canvas.hu_HW[rows, columns], elevation_HW, hu)
    if class_id is not None:
        canvas.labels_HW[rows, columns][elevation_HW > 0.0] = class_id


def _empty_trunk(patient: _Patient, y_HW: np.ndarray, x_HW: np.ndarray) -> _Canvas:
    """What all slices share: table, body with its wall of fat and muscle, the muscles beside the spine."""
    depth_HW = patient.body.elevation(y_HW, x_HW) - patient.wall
    labels_HW = np.zeros(y_HW.shape, np.uint8)
    canvas = _Canvas(np.full_like(y_HW, _AIR), labels_HW, y_HW, x_HW, depth_HW - 0.03)
    _paint(canvas.hu_HW, 0.008 - np.abs(y_HW - 0.9 - 0.3 * (x_HW - 0.5) ** 2), -200.0)
    _paint(canvas.hu_HW, depth_HW + patient.wall, _FAT)
    _paint(canvas.hu_HW, depth_HW, _MUSCLE)
    _paint(canvas.hu_HW, depth_HW - 0.022, _FAT + 10.0)
    for column in (0.395, 0.605):
        muscle = Blob(row=0.735, column=column, radius=0.065, aspect=1.4, angle=np.pi / 2.0)
        _paint_blob(canvas, muscle, _MUSCLE + 8.0)
    return canvas


def _paint_ribs(canvas: _Canvas, patient: _Patient, level: float, detail: np.random.Generator) -> None:
    """Sections of the ribs in the muscle wall; they turn with the level, and fade towards the pelvis."""
    y_HW, x_HW = canvas.y_HW, canvas.x_HW
    theta_HW = np.arctan2(y_HW - patient.body.row, x_HW - patient.body.column)
    turn = 7.0 * level + detail.uniform(-0.6, 0.6)
    on_wall_HW = 0.012 - np.abs(patient.body.elevation(y_HW, x_HW) - patient.wall - 0.012)
    along_HW = 0.04 * (np.cos(14.0 * theta_HW + turn) - 0.55)
    _paint(canvas.hu_HW, np.minimum(on_wall_HW, along_HW), _MARROW + 60.0 * (1.0 - level))


def _paint_spine_and_vessels(canvas: _Canvas, patient: _Patient, detail: np.random.Generator) -> None:
    vertebra = Blob(
        row=0.685, column=0.5, radius=_around(detail, 0.058, 0.004), aspect=1.25, angle=np.pi / 2.0
    )
    process = Blob(row=0.8, column=0.5, radius=0.03, aspect=2.6)
    for bone, rim in ((vertebra, 0.012), (process, 0.008)):
        _paint_blob(canvas, bone, _BONE)
        _paint_blob(canvas, bone, _MARROW, rim)
    _paint_blob(canvas, Blob(row=0.752, column=0.5, radius=0.02), _NERVE)
    for place, radius in (((0.6, 0.525), 0.026), ((0.595, 0.455), 0.03)):  # aorta, vena cava
        row, column = (_around(detail, value, 0.006) for value in place)
        _paint_blob(canvas, Blob(row=row, column=column, radius=radius), patient.vessel_hu)


def _scanned(hu_HW: np.ndarray, noise: np.random.Generator, size: int) -> np.ndarray:
    """Parenchyma texture, quantum noise with a reconstruction kernel's grain, faint rings, window."""
    side = hu_HW.shape[0]
    soft_HW = (hu_HW > -20.0) & (hu_HW < 250.0)
    hu_HW = hu_HW + 6.0 * soft_HW * smooth_noise(noise, size, (0.02, 0.02))
    hu_HW = hu_HW + noise.uniform(16.0, 28.0) * smooth_noise(noise, size, (0.006, 0.006))
    axis = np.arange(side) - (side - 1) / 2.0
    radius_HW = np.hypot(axis[:, None], axis[None, :])
    rings = ndimage.gaussian_filter1d(noise.standard_normal(side), 0.7)
    hu_HW = hu_HW + 7.0 * rings[np.rint(radius_HW).astype(np.int64)]
    low, high = WINDOW_HU
    return to_uint8(pooled(np.clip((hu_HW - low) / (high - low), 0.0, 1.0)))


def _majority(labels_HW: np.ndarray) -> np.ndarray:
    """The class with most fine pixels of each stored pixel; the lower id in a tie."""
    shares = np.stack([pooled((labels_HW == k).astype(np.float64)) for k in range(len(CLASS_NAMES))])
    return shares.argmax(axis=0).astype(np.uint8)
