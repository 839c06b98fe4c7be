"""An ultrasound-like phantom: layered tissue, speckle, shadows, one lesion or none, and its look-alikes.

Everything is composed in decibels of echo amplitude. The lesion (target) is hypo-echoic, elongated, mixed
inside, with a wavy border inside a bright halo. Look-alikes of similar area share one of its properties each:
cysts and shadows are dark, fat lobules are as grey but smooth and capsuled, nodules are as large but bright.

Calibrated with a small U-Net (8-16-32-64 channels, 400 steps of 12 images at 64 x 64) so that the area alone
finds nothing, a few lesion pixels alone cover everything, and both together come near full supervision but do
not reach it: a few pixels do not tell the mixed inside from cysts and nodules, a full mask does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from trainables.data.phantom_shapes import (
    Blob,
    drawn_waves,
    fine_grid,
    free_place,
    pooled,
    smooth_noise,
    soft_step,
    stable_generator,
    to_uint8,
)

LESION_AREA = (0.03, 0.15)
"""Bounds of the lesion's fraction of the image."""
DYNAMIC_RANGE_DB = 55.0
NOISE_FLOOR_DB = -56.0

_LOBULE, _CYST, _NODULE, _CALCIFICATION = range(4)


@dataclass(slots=True)
class _Scene:
    """The tissue while it is being composed, on the fine grid."""

    y_HW: np.ndarray
    x_HW: np.ndarray
    echo_dB_HW: np.ndarray
    loss_dB_HW: np.ndarray
    """Attenuation per image depth; summed along the beam."""

    def paint(self, inside_HW: np.ndarray, echo_dB: float | np.ndarray, loss_dB: float = 0.0) -> None:
        self.echo_dB_HW = self.echo_dB_HW * (1.0 - inside_HW) + echo_dB * inside_HW
        self.loss_dB_HW = self.loss_dB_HW * (1.0 - inside_HW) + loss_dB * inside_HW

    def outline(self, elevation_HW: np.ndarray, width: float, gain_dB: float) -> None:
        self.echo_dB_HW = self.echo_dB_HW + gain_dB * np.exp(-((elevation_HW / width) ** 2))


def breast(key: tuple[str | int, ...], *, size: int, with_lesion: bool) -> tuple[np.ndarray, np.ndarray]:
    """One image and its mask, uint8 [size, size] each; mask 1 = lesion. Depends on its arguments alone."""
    geometry = stable_generator(*key, "geometry")
    texture = stable_generator(*key, "texture", size)
    scene = _layers(geometry, texture, size)
    taken = [_lesion_shape(geometry)] if with_lesion else []
    # An image without lesion gets one look-alike more, so that the number of structures tells nothing.
    _look_alikes(scene, geometry, texture, taken, size, extra=0 if with_lesion else 1)
    mask = np.zeros((size, size), np.uint8)
    if with_lesion:
        elevation_HW = taken[0].elevation(scene.y_HW, scene.x_HW)
        _paint_lesion(scene, geometry, texture, taken[0], elevation_HW, size)
        mask = (pooled((elevation_HW > 0.0).astype(np.float64)) >= 0.5).astype(np.uint8)
    return _b_mode(scene, geometry, texture, size), mask


def _layers(geometry: np.random.Generator, texture: np.random.Generator, size: int) -> _Scene:
    """Skin, subcutaneous fat with septa, glandular tissue and muscle under its fascia, from top to bottom."""
    y_HW, x_HW = fine_grid(size)
    waves = geometry.uniform(0.0, 2.0 * np.pi, (2, 3))
    swell = geometry.uniform(0.005, 0.03, (2, 3)) / np.arange(1, 4)
    fat_end, gland_end = (
        depth + sum(swell[i, k] * np.cos(2.0 * np.pi * (k + 1) * 0.6 * x_HW + waves[i, k]) for k in range(3))
        for i, depth in enumerate((geometry.uniform(0.14, 0.26), geometry.uniform(0.74, 0.9)))
    )
    septa_HW = np.exp(-((smooth_noise(texture, size, (0.03, 0.06)) / 0.25) ** 2))
    fibres_HW = smooth_noise(texture, size, (0.012, 0.05))
    clouds_HW = smooth_noise(texture, size, (0.06, 0.1))
    striae_HW = smooth_noise(texture, size, (0.01, 0.15))
    gland_dB = geometry.uniform(-17.0, -13.0)
    scene = _Scene(y_HW, x_HW, -22.0 + 9.0 * septa_HW, np.zeros_like(y_HW))
    scene.paint(soft_step(y_HW - fat_end, 0.02), gland_dB + 3.0 * fibres_HW + 3.0 * clouds_HW)
    scene.paint(soft_step(y_HW - gland_end, 0.015), -19.0 + 3.5 * striae_HW)
    scene.outline(y_HW - gland_end, 0.012, 8.0)
    scene.paint(soft_step(geometry.uniform(0.03, 0.06) - y_HW, 0.015), -6.0)
    return scene


def _lesion_shape(geometry: np.random.Generator) -> Blob:
    low, high = LESION_AREA
    # Uniform in the radius; off the bounds, since a border on a pixel grid has some pixels more or fewer.
    radius = (geometry.uniform((1.1 * low) ** 0.5, (0.95 * high) ** 0.5) ** 2 / np.pi) ** 0.5
    aspect = geometry.uniform(1.25, 1.9)
    # Wider than tall on average, as the breast's planes are; up to 50 degrees off the horizontal.
    angle = np.pi / 2.0 + geometry.uniform(-0.9, 0.9)
    margin = radius * 1.25
    return Blob(
        row=geometry.uniform(0.14 + margin, 0.92 - margin),
        column=geometry.uniform(0.02 + margin, 0.98 - margin),
        radius=radius,
        aspect=aspect,
        angle=angle,
        waves=drawn_waves(geometry, range(3, 8), 0.11),
    )


def _paint_lesion(
    scene: _Scene,
    geometry: np.random.Generator,
    texture: np.random.Generator,
    shape: Blob,
    elevation_HW: np.ndarray,
    size: int,
) -> None:
    inner_dB_HW = geometry.uniform(-32.0, -28.0) + 3.5 * smooth_noise(texture, size, (0.02, 0.025))
    loss_dB = geometry.uniform(15.0, 45.0) if geometry.uniform() < 0.5 else geometry.uniform(-8.0, 8.0)
    # The echogenic halo is measured as part of the lesion, though its grey values are those of tissue.
    halo = shape.radius * geometry.uniform(0.08, 0.18)
    scene.outline(elevation_HW - 0.5 * halo, 0.5 * halo, geometry.uniform(5.0, 8.0))
    inside_HW = soft_step(elevation_HW - halo, 0.02)
    scene.paint(inside_HW, inner_dB_HW, loss_dB)
    # Lesions are mixed: a part is as black as a cyst, another as bright as fibrous tissue. Both stay inside.
    black = (geometry.uniform(0.35, 0.65), geometry.uniform(-52.0, -42.0))
    bright = (geometry.uniform(0.15, 0.5), geometry.uniform(-13.0, -7.0))
    for share, echo_dB in (black, bright):
        turn, way = geometry.uniform(0.0, 2.0 * np.pi), 0.5 * shape.radius
        part = Blob(
            row=shape.row + way * np.sin(turn),
            column=shape.column + way * np.cos(turn),
            radius=share * shape.radius,
            waves=drawn_waves(geometry, range(2, 5), 0.15),
        )
        scene.paint(inside_HW * soft_step(part.elevation(scene.y_HW, scene.x_HW), 0.02), echo_dB)


def _look_alikes(
    scene: _Scene,
    geometry: np.random.Generator,
    texture: np.random.Generator,
    taken: list[Blob],
    size: int,
    extra: int,
) -> None:
    """Adds structures that are not the target where there is room; `taken` grows."""
    order = [_LOBULE, _CYST, *geometry.choice(4, size=2 + extra, p=(0.2, 0.2, 0.35, 0.25))]
    for kind in order:
        area = 0.015 * (0.09 / 0.015) ** geometry.uniform()
        radius = (area / np.pi) ** 0.5 if kind != _CALCIFICATION else geometry.uniform(0.015, 0.035)
        if kind == _CYST:
            radius *= 0.75
        aspect = geometry.uniform(1.1, 1.7)
        reach = radius * aspect**0.5
        place = free_place(geometry, taken, reach, (0.12 + reach, 0.9 - 0.5 * reach), (0.03, 0.97))
        if place is None:
            continue
        waves = drawn_waves(geometry, range(2, 4), 0.05)
        angle = np.pi / 2.0 + geometry.uniform(-0.5, 0.5)
        blob = Blob(row=place[0], column=place[1], radius=radius, aspect=aspect, angle=angle, waves=waves)
        taken.append(blob)
        _PAINTERS[kind](scene, geometry, texture, blob.elevation(scene.y_HW, scene.x_HW), size)


def _fat_lobule(
    scene: _Scene, geometry: np.random.Generator, texture: np.random.Generator, e_HW: np.ndarray, size: int
) -> None:
    """As hypo-echoic as some lesions, but homogeneous, smooth and inside a bright capsule."""
    scene.paint(soft_step(e_HW, 0.015), geometry.uniform(-27.0, -22.0))
    scene.outline(e_HW, 0.012, geometry.uniform(6.0, 11.0))


def _cyst(
    scene: _Scene, geometry: np.random.Generator, texture: np.random.Generator, e_HW: np.ndarray, size: int
) -> None:
    """Without echoes, smooth, and brighter tissue behind it since fluid does not attenuate."""
    scene.outline(e_HW, 0.012, 4.0)
    scene.paint(soft_step(e_HW, 0.012), geometry.uniform(-55.0, -46.0), geometry.uniform(-50.0, -20.0))


def _bright_nodule(
    scene: _Scene, geometry: np.random.Generator, texture: np.random.Generator, e_HW: np.ndarray, size: int
) -> None:
    """Hyper-echoic: fibrous or fatty nodule."""
    echo_dB_HW = geometry.uniform(-7.0, -3.0) + 1.5 * smooth_noise(texture, size, (0.02, 0.03))
    scene.paint(soft_step(e_HW, 0.03), echo_dB_HW)


def _calcification(
    scene: _Scene, geometry: np.random.Generator, texture: np.random.Generator, e_HW: np.ndarray, size: int
) -> None:
    """A small, very bright reflector that stops the beam: the shadow below it is a look-alike of its own."""
    scene.paint(soft_step(e_HW, 0.015), 4.0, geometry.uniform(500.0, 900.0))


_PAINTERS = {_LOBULE: _fat_lobule, _CYST: _cyst, _NODULE: _bright_nodule, _CALCIFICATION: _calcification}


def _b_mode(
    scene: _Scene, geometry: np.random.Generator, texture: np.random.Generator, size: int
) -> np.ndarray:
    """Beam loss, Rayleigh speckle as wide as the point spread, noise floor, log compression, averaging."""
    side = scene.y_HW.shape[0]
    lost_HW = np.cumsum(scene.loss_dB_HW, axis=0) / side
    # A beam has a width: shadows blur sideways.
    lost_HW = np.clip(ndimage.gaussian_filter1d(lost_HW, 0.01 * side, axis=1), -9.0, 30.0)
    depth_loss_HW = geometry.uniform(3.0, 13.0) * scene.y_HW
    signal_HW = 10.0 ** ((scene.echo_dB_HW - lost_HW - depth_loss_HW) / 20.0)
    point_spread = (0.005, 0.01)
    real_HW, imaginary_HW = (smooth_noise(texture, size, point_spread) * 0.5**0.5 for _ in range(2))
    floor_HW = 10.0 ** (NOISE_FLOOR_DB / 20.0) * np.abs(texture.standard_normal((side, side)))
    amplitude_dB_HW = 20.0 * np.log10(np.hypot(real_HW, imaginary_HW) * signal_HW + floor_HW + 1e-6)
    gain_dB = geometry.uniform(-2.0, 4.0)
    return to_uint8(pooled(np.clip(1.0 + (amplitude_dB_HW + gain_dB) / DYNAMIC_RANGE_DB, 0.0, 1.0)))
