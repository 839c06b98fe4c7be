"""Building blocks of the phantoms: stable generators, pixel grids, blobs with wavy borders, smooth noise.

Lengths are fractions of the image's side, so a shape does not depend on the number of pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from trainables.seeds import stable_seed

OVERSAMPLING = 2
"""Fine pixels per stored pixel and axis: borders get partial volume, speckle gets its averaging."""


def stable_generator(*key: str | int) -> np.random.Generator:
    """A generator that depends on `key` alone: the same on every machine and in every process."""
    return np.random.Generator(np.random.PCG64(stable_seed(*key)))


def fine_grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column coordinates in (0, 1) of the oversampled pixels' centres, each [H', W']."""
    axis = (np.arange(size * OVERSAMPLING) + 0.5) / (size * OVERSAMPLING)
    y_HW, x_HW = np.meshgrid(axis, axis, indexing="ij")
    return y_HW, x_HW


def pooled(fine_HW: np.ndarray) -> np.ndarray:
    """Means of the fine pixels of each stored pixel."""
    height, width = (side // OVERSAMPLING for side in fine_HW.shape)
    return fine_HW.reshape(height, OVERSAMPLING, width, OVERSAMPLING).mean(axis=(1, 3))


def to_uint8(unit_HW: np.ndarray) -> np.ndarray:
    """Intensities in [0, 1], others clipped, as grey values 0..255."""
    return np.rint(np.clip(unit_HW, 0.0, 1.0) * 255.0).astype(np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """An ellipse whose radius oscillates with the angle.

    `radius` is that of the disc of equal area (what the image's border cuts off counts), `aspect` the ratio
    of the half axes, `angle` (radians) turns the long axis from the row direction, `waves` are rows of
    (cycles per turn, relative amplitude, phase).
    """

    row: float
    column: float
    radius: float
    aspect: float = 1.0
    angle: float = 0.0
    waves: tuple[tuple[float, float, float], ...] = ()

    @property
    def reach(self) -> float:
        """Radius of a disc that holds the blob."""
        crest = 1.0 + sum(amplitude for _, amplitude, _ in self.waves)
        return self.radius * self.aspect**0.5 * crest

    def elevation(self, y_HW: np.ndarray, x_HW: np.ndarray) -> np.ndarray:
        """About the distance inwards from the border: positive inside, 0 on the border, negative outside."""
        down, right = y_HW - self.row, x_HW - self.column
        long_HW = (down * np.cos(self.angle) + right * np.sin(self.angle)) / self.aspect**0.5
        short_HW = (right * np.cos(self.angle) - down * np.sin(self.angle)) * self.aspect**0.5
        theta_HW = np.arctan2(short_HW, long_HW)
        border_HW = np.ones_like(theta_HW)
        for cycles, amplitude, phase in self.waves:
            border_HW += amplitude * np.cos(cycles * theta_HW + phase)
        # The disc's area is kept: the mean of (1 + sum a cos)^2 is 1 + sum a^2 / 2.
        area_factor = 1.0 + sum(amplitude**2 for _, amplitude, _ in self.waves) / 2.0
        return self.radius / area_factor**0.5 * border_HW - np.hypot(long_HW, short_HW)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ellipsoid:
    """A blob that shrinks with the distance of the slice from `level`, and is gone beyond `half_height`."""

    blob: Blob
    level: float
    """Of the centre, in slice positions 0 (top of the volume) .. 1."""
    half_height: float
    drift: float
    """Columns by which the centre moves over the volume's height."""
    hu: float
    """Hounsfield units."""

    def section(self, level: float) -> Blob | None:
        """The blob of the slice at `level`, None where the slice misses the ellipsoid."""
        inside = 1.0 - ((level - self.level) / self.half_height) ** 2
        if inside <= 0.02:
            return None
        b = self.blob
        column = b.column + self.drift * (level - self.level)
        return Blob(
            row=b.row,
            column=column,
            radius=b.radius * inside**0.5,
            aspect=b.aspect,
            angle=b.angle,
            waves=b.waves,
        )


def soft_step(elevation_HW: np.ndarray, width: float) -> np.ndarray:
    """0 outside, 1 inside, a logistic border of about `width`."""
    return 0.5 * (1.0 + np.tanh(elevation_HW / (0.5 * width)))


def drawn_waves(
    generator: np.random.Generator, cycles: range, strength: float
) -> tuple[tuple[float, float, float], ...]:
    """A random border: amplitudes up to `strength` that fall with the number of cycles."""
    return tuple(
        (
            float(k),
            float(strength * generator.uniform(0.4, 1.0) * (cycles.start / k) ** 0.7),
            float(generator.uniform(0.0, 2.0 * np.pi)),
        )
        for k in cycles
    )


def free_place(
    generator: np.random.Generator,
    taken: list[Blob],
    reach: float,
    rows: tuple[float, float],
    columns: tuple[float, float],
    overlap: float = 0.85,
) -> tuple[float, float] | None:
    """A random centre whose disc of radius `reach` keeps clear of `taken`; None when 40 draws fail."""
    for row, column in generator.uniform((rows[0], columns[0]), (rows[1], columns[1]), (40, 2)):
        gaps = (np.hypot(row - b.row, column - b.column) - overlap * (reach + b.reach) for b in taken)
        if all(gap > 0.0 for gap in gaps):
            return float(row), float(column)
    return None


def smooth_noise(generator: np.random.Generator, size: int, scale: tuple[float, float]) -> np.ndarray:
    """Gaussian noise on the fine grid, mean 0, standard deviation 1, smoothed by `scale` (rows, columns)."""
    side = size * OVERSAMPLING
    noise_HW = ndimage.gaussian_filter(
        generator.standard_normal((side, side)), (scale[0] * side, scale[1] * side), mode="wrap"
    )
    return (noise_HW - noise_HW.mean()) / noise_HW.std()
