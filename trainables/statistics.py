"""Summary statistics of class masks: what a report may say about an image without any pixel of a mask.

Shapes as in `trainables.method`. Sizes and areas of background (class 0) are computed like any other class's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage

from search_spaces import UserError
from trainables import flips

Box = tuple[slice, ...]


def pixel_counts(masks_NHW: np.ndarray, num_classes: int) -> np.ndarray:
    """Pixels of each class in each image, int64 [N,K]. Raises ValueError for a class id >= num_classes."""
    counts_NK = np.zeros((len(masks_NHW), num_classes), np.int64)
    for row, mask_HW in enumerate(masks_NHW):
        counts_NK[row] = np.bincount(mask_HW.ravel(), minlength=num_classes)
    return counts_NK


def bounding_box(mask: np.ndarray, margin: int = 0) -> Box:
    """The smallest box around the true elements of a mask of any dimension, widened by `margin` inside the
    array; an empty box for an empty mask."""
    box = []
    for axis, length in enumerate(mask.shape):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        held = np.flatnonzero(mask.any(axis=others))
        if not held.size:
            return (slice(0, 0),) * mask.ndim
        box.append(slice(max(int(held[0]) - margin, 0), min(int(held[-1]) + 1 + margin, length)))
    return tuple(box)


def object_size(mask_HW: np.ndarray) -> int:
    """Twice the largest Chebyshev distance of an object pixel to the nearest pixel outside, in pixels.

    The image border is open: what lies beyond it does not count as outside. An empty mask has size 0; a mask
    without any outside pixel has 2 * max(H, W), the smallest even value above every other mask's.
    Source: Barucic and Kybic, "Learning to segment from object sizes" (2022), equations 3-5; the value of the
    full mask is ours.
    """
    # The nearest outside pixel always lies within one pixel of the object's box, so the crop is exact.
    crop = mask_HW[bounding_box(mask_HW, margin=1)]
    if not crop.size:
        return 0
    if crop.all():
        return 2 * max(mask_HW.shape)
    return 2 * int(ndimage.distance_transform_cdt(crop, metric="chessboard").max())


def _area(image_HW: np.ndarray, mask_HW: np.ndarray, num_classes: int) -> np.ndarray:
    return np.bincount(mask_HW.ravel(), minlength=num_classes) / mask_HW.size


def _presence(image_HW: np.ndarray, mask_HW: np.ndarray, num_classes: int) -> np.ndarray:
    return np.bincount(mask_HW.ravel(), minlength=num_classes) > 0


def _class_means(values_HW: np.ndarray, mask_HW: np.ndarray, num_classes: int) -> np.ndarray:
    """Mean of float64 values over each class's pixels [K]; NaN for an absent class."""
    labels = mask_HW.ravel()
    counts_K = np.bincount(labels, minlength=num_classes)
    sums_K = np.bincount(labels, weights=values_HW.ravel(), minlength=num_classes)
    return np.divide(sums_K, counts_K, out=np.full(len(counts_K), np.nan), where=counts_K > 0)


def _mean_intensity(image_HW: np.ndarray, mask_HW: np.ndarray, num_classes: int) -> np.ndarray:
    return _class_means(image_HW / 255.0, mask_HW, num_classes)


def _centroid(image_HW: np.ndarray, mask_HW: np.ndarray, num_classes: int) -> np.ndarray:
    rows_HW, columns_HW = np.indices(mask_HW.shape)
    height, width = mask_HW.shape
    row_K = _class_means((rows_HW + 0.5) / height, mask_HW, num_classes)
    column_K = _class_means((columns_HW + 0.5) / width, mask_HW, num_classes)
    return np.stack([row_K, column_K], axis=-1)


def _perimeter(image_HW: np.ndarray, mask_HW: np.ndarray, num_classes: int) -> np.ndarray:
    neighbours = ((mask_HW[1:], mask_HW[:-1]), (mask_HW[:, 1:], mask_HW[:, :-1]))
    # A pair of unlike classes belongs to the boundary of both.
    ends = [end[one != other] for one, other in neighbours for end in (one, other)]
    return np.bincount(np.concatenate(ends), minlength=num_classes) / mask_HW.size


def _size(image_HW: np.ndarray, mask_HW: np.ndarray, num_classes: int) -> np.ndarray:
    return np.array([object_size(mask_HW == class_id) for class_id in range(num_classes)])


_OF_ONE_IMAGE: dict[str, Callable[[np.ndarray, np.ndarray, int], np.ndarray]] = {
    "area": _area,
    "mean_intensity": _mean_intensity,
    "perimeter": _perimeter,
    "centroid": _centroid,
    "presence": _presence,
    "size": _size,
}

OBJECT_SIZES = ("size", "size_closed", "size_mm")
"""The statistics that speak of one object an image."""

STATISTICS: tuple[str, ...] = tuple(dict.fromkeys((*_OF_ONE_IMAGE, "volume_area", "size_mm", *flips.names())))
"""Names of all statistics; `summary_statistics` says what each means."""


def summary_statistics(
    names: Sequence[str],
    *,
    images_NHW: np.ndarray,
    masks_NHW: np.ndarray,
    volume_ids: Sequence[str],
    spacing_mm: np.ndarray,
    num_classes: int,
) -> dict[str, np.ndarray]:
    """The named statistics of every image and class, float32 [N,K] ([N,K,2] for "centroid").

    area: fraction of the image's pixels. volume_area: mean of `area` over the given slices of the image's
    volume, the same for each of them. mean_intensity: mean of image/255 inside the class. perimeter: pairs of
    horizontal or vertical neighbours of which exactly one is in the class, divided by H*W (anisotropic total
    variation of the mask; pairs across the image border do not exist). centroid: (row, column) with pixel
    centres at +0.5, divided by (H, W). presence: 0 or 1. size: `object_size`, in pixels; size_mm: times the
    pixel's side. Every other name is a file of `trainables.flips` (size_closed, components, width), which
    says what it counts.
    mean_intensity and centroid are NaN where the class is absent; the others are 0.

    Raises UserError for size_mm where a pixel's side is unknown or its two sides differ by over 1 %.
    """
    return {
        name: _statistic(name, images_NHW, masks_NHW, volume_ids, spacing_mm, num_classes).astype(np.float32)
        for name in names
    }


def _statistic(
    name: str,
    images_NHW: np.ndarray,
    masks_NHW: np.ndarray,
    volume_ids: Sequence[str],
    spacing_mm: np.ndarray,
    num_classes: int,
) -> np.ndarray:
    source = {"volume_area": "area", "size_mm": "size"}.get(name, name)
    if source not in _OF_ONE_IMAGE:
        return _counted(source, masks_NHW, num_classes)
    of_one_image = _OF_ONE_IMAGE[source]
    pairs = zip(images_NHW, masks_NHW, strict=True)
    values = np.stack([of_one_image(image_HW, mask_HW, num_classes) for image_HW, mask_HW in pairs])
    if name == "volume_area":
        return _volume_mean(values, volume_ids)
    return values * pixel_side_mm(spacing_mm)[:, None] if name == "size_mm" else values


def _counted(name: str, masks_NHW: np.ndarray, num_classes: int, piece: int = 256) -> np.ndarray:
    """A statistic of `trainables.flips`, by the one function that its gradients come from, too [N,K]."""
    import torch  # here, because who only lists statistics must not wait for it

    counted = flips.load_value(name)
    classes_K = np.arange(num_classes)[:, None, None]
    values = []
    for start in range(0, len(masks_NHW), piece):
        is_class_NKHW = torch.from_numpy(masks_NHW[start : start + piece, None] == classes_K)
        values.append(counted(is_class_NKHW.flatten(0, 1)).view(-1, num_classes).numpy())
    return np.concatenate(values)


def pixel_side_mm(spacing_mm: np.ndarray) -> np.ndarray:
    """The side of each image's square pixels in mm, float64 [N], from (row, column, slice) spacings [N,3].

    Raises UserError where it is unknown, or the two sides differ by over 1 %.
    """
    row_N, column_N = np.asarray(spacing_mm, np.float64)[:, :2].T
    usable_N = np.abs(row_N - column_N) <= 0.01 * row_N  # False for NaN
    if not usable_N.all():
        bad = int(np.argmin(usable_N))
        raise UserError(
            f"A size in mm needs square pixels of known side, but image {bad} has {row_N[bad]:g} x "
            f"{column_N[bad]:g} mm; use the statistic 'size', in pixels."
        )
    return (row_N + column_N) / 2


def _volume_mean(values_NK: np.ndarray, volume_ids: Sequence[str]) -> np.ndarray:
    _, volume_N, slices_V = np.unique(np.asarray(volume_ids), return_inverse=True, return_counts=True)
    sums_VK = np.zeros((len(slices_V), values_NK.shape[1]))
    np.add.at(sums_VK, volume_N, values_NK)
    return (sums_VK / slices_V[:, None])[volume_N]
