"""Weak labels from full masks: which pixels and which summary statistics an annotator would have given."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from search_spaces import UserError, nearest
from trainables.statistics import OBJECT_SIZES, STATISTICS, bounding_box, pixel_counts, summary_statistics

PIXELS = ("none", "points", "fg_points", "scribble", "dense")
PLACEMENTS = ("uniform", "center", "boundary", "extreme_intensity")
SEVERAL_OBJECTS = ("refuse", "thickest")

UNLABELLED = 255
"""Equal to `trainables.method.IGNORE`, which would load torch (a test holds the two together)."""

EXTENTS = ("area", "volume_area", "perimeter", *OBJECT_SIZES)
"""The statistics that measure how large something is: those that `statistic_error` distorts."""

TAG_SECONDS = 1.0
POINT_SECONDS = 2.4
SCRIBBLE_SECONDS = 17.0
DENSE_SECONDS = 239.0
"""Annotator seconds per presence tag of an image, per point, per scribbled image and per densely labelled
image. Source: Bearman et al., "What's the point: semantic segmentation with point supervision" (2016), as
the specification of this project quotes it; measured on photographs, so only their ratios carry over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """What is asked of the annotators of a training set. Raises UserError for settings that cannot be meant.

    pixels: "none"; "points" (`pixel_budget` pixels of each class present in an image, background included);
    "fg_points" (the same without background); "scribble" (as stored in the data set); "dense" (full masks).
    pixel_budget: pixels per class and image; 0 is the level without any labelled pixel.
    placement: of points: "uniform" over the class, "center" (farthest from the class's boundary first),
    "boundary" (nearest to it first), or "extreme_intensity" (farthest from the class's mean intensity first).
    labelled_images: how many training images have labelled pixels at all; None means every one. A larger
    number's images contain a smaller one's; statistics are given for every image either way.
    seconds_per_image: or what may be spent on pixels, in annotator seconds for each training image: as many
    images are labelled, in the same order, as that pays for.
    statistics: names out of STATISTICS.
    several_objects: what a size means in an image that holds several objects of a class: "refuse" the data
    set, or the size of the "thickest" object.
    statistic_error: relative standard deviation of the reported EXTENTS, in [0, 2].
    """

    pixels: str = "none"
    pixel_budget: int = 0
    placement: str = "uniform"
    labelled_images: int | None = None
    seconds_per_image: float | None = None
    statistics: tuple[str, ...] = ()
    several_objects: str = "refuse"
    statistic_error: float = 0.0

    def __post_init__(self) -> None:
        _check_name("pixels", self.pixels, PIXELS)
        _check_name("placement", self.placement, PLACEMENTS)
        _check_name("several_objects", self.several_objects, SEVERAL_OBJECTS)
        for name in self.statistics:
            _check_name("statistics", name, STATISTICS)
        if len(set(self.statistics)) != len(self.statistics):
            raise UserError(f"Each statistic may be named once, but got {list(self.statistics)}.")
        if self.pixel_budget < 0:
            raise UserError(
                f"pixel_budget must be 0 or more, but got {self.pixel_budget}; 0 means no labelled pixel."
            )
        if self.pixel_budget and not self.has_points:
            raise UserError(
                f"pixel_budget goes with pixels = 'points' or 'fg_points', but got {self.pixel_budget} with "
                f"pixels = {self.pixels!r}; leave it out."
            )
        if self.labelled_images is not None and self.labelled_images < 1:
            raise UserError(
                f"labelled_images must be 1 or more, but got {self.labelled_images}; use pixels = 'none' to "
                "label no image."
            )
        if self.seconds_per_image is not None:
            if self.labelled_images is not None:
                raise UserError(
                    f"labelled_images and seconds_per_image both say how many images are labelled, but got "
                    f"{self.labelled_images} and {self.seconds_per_image:g}; leave one out."
                )
            if not self.seconds_per_image > 0.0:
                raise UserError(
                    f"seconds_per_image must be above 0, but got {self.seconds_per_image:g}; use "
                    "pixels = 'none' to label no image."
                )
        if not 0.0 <= self.statistic_error <= 2.0:
            raise UserError(
                f"statistic_error must lie in [0, 2], but got {self.statistic_error}; 0.2 means 20 %."
            )

    @property
    def has_points(self) -> bool:
        """Whether single pixels are asked for, rather than strokes or masks."""
        return self.pixels in ("points", "fg_points")

    def grants(self) -> frozenset[str]:
        """What a method may count on: of "pixels", "dense", "statistics"."""
        granted = set()
        if self.pixels in ("scribble", "dense") or self.pixel_budget > 0:
            granted.add("pixels")
        if self.pixels == "dense":
            granted.add("dense")
        if self.statistics:
            granted.add("statistics")
        return frozenset(granted)

    def point_classes(self, num_classes: int) -> range:
        """The classes of which single pixels are labelled; empty without a budget of points."""
        if self.pixel_budget == 0:
            return range(0)
        return range(1 if self.pixels == "fg_points" else 0, num_classes)

    def to_dict(self) -> dict[str, Any]:
        """All settings as JSON has them; `from_dict` is the inverse."""
        return dataclasses.asdict(self) | {"statistics": list(self.statistics)}

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Annotation:
        """From `to_dict` or a configuration file. Raises UserError for an unknown setting or a wrong kind."""
        defaults = cls().to_dict()
        for name, value in settings.items():
            if name not in defaults:
                raise UserError(
                    f"An annotation has no setting {name!r}.{nearest(name, defaults)} "
                    f"It has: {', '.join(defaults)}."
                )
            like = _LIKE.get(name, defaults[name])
            if not (_same_kind(value, like) or value is defaults[name] is None):
                raise UserError(f"annotation: {name} must be like {like!r}, but got {value!r}.")
        return cls(**{**settings, "statistics": tuple(settings.get("statistics", ()))})


_LIKE = {"labelled_images": 100, "seconds_per_image": 10.0}
"""Examples of the settings that are None by default."""


def _check_name(setting: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise UserError(
            f"annotation: {setting} must be one of {', '.join(known)}, but got {value!r}."
            f"{nearest(value, known)}"
        )


def _same_kind(value: object, default: object) -> bool:
    if isinstance(value, bool):
        return False
    if isinstance(default, float):
        return isinstance(value, (int, float))
    if isinstance(default, list):
        return isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value)
    return isinstance(value, type(default))


@dataclass(frozen=True)
class WeakLabels:
    """What was annotated, row by row as the images that were given."""

    labels_NHW: np.ndarray
    """uint8 class ids, UNLABELLED where nobody annotated."""
    statistics: dict[str, np.ndarray]
    """float32 [N,K] by name ([N,K,2] for "centroid"), see `trainables.statistics.summary_statistics`."""
    labelled_N: np.ndarray
    """True for the images of which pixels were labelled."""


def annotate(
    annotation: Annotation,
    *,
    images_NHW: np.ndarray,
    masks_NHW: np.ndarray,
    scribbles_NHW: np.ndarray | None,
    image_ids: Sequence[str],
    volume_ids: Sequence[str],
    spacing_mm: np.ndarray,
    num_classes: int,
    seed: int,
) -> WeakLabels:
    """The weak labels of a training set, derived from its uint8 images and full masks.

    Everything random is drawn from (image id, seed) alone (volume id for "volume_area"): neither the order
    of the images, nor the other images, nor the budget matters, and a larger budget's points contain a
    smaller one's. An image in which a class has fewer pixels than the budget has them all labelled.

    spacing_mm [N,3] is needed for sizes in millimetres only; NaN where unknown.

    Raises UserError where scribbles are asked for but absent, where no pixel of a class is labelled in any
    image, where the budget exceeds a class's pixels in every image, where more images are to
    be labelled than there are, where a size is asked of several objects, or millimetres of pixels that have
    no one side.
    """
    labels_NHW = _labels(annotation, images_NHW, masks_NHW, scribbles_NHW, image_ids, num_classes, seed)
    labelled_N = _labelled(annotation, masks_NHW, image_ids, num_classes, seed)
    labels_NHW[~labelled_N] = UNLABELLED
    if labelled_N.any():
        _require_every_class(annotation, labels_NHW, int(labelled_N.sum()), num_classes)
    if annotation.several_objects == "refuse" and set(annotation.statistics) & set(OBJECT_SIZES):
        _require_one_object(masks_NHW, num_classes)
    statistics = summary_statistics(
        annotation.statistics,
        images_NHW=images_NHW,
        masks_NHW=masks_NHW,
        volume_ids=volume_ids,
        spacing_mm=spacing_mm,
        num_classes=num_classes,
    )
    if annotation.statistic_error > 0.0:
        for name in statistics.keys() & set(EXTENTS):
            ids = volume_ids if name == "volume_area" else image_ids
            reported_NK = statistics[name] * _error_factors(annotation, name, ids, num_classes, seed)
            # Nobody reports more than the whole image.
            ceiling = 1.0 if name in ("area", "volume_area") else np.inf
            statistics[name] = np.minimum(reported_NK, ceiling).astype(np.float32)
    return WeakLabels(labels_NHW, statistics, labelled_N)


def _labelled(
    annotation: Annotation, masks_NHW: np.ndarray, image_ids: Sequence[str], num_classes: int, seed: int
) -> np.ndarray:
    """Which images the annotator of pixels is given, bool [N]."""
    count = annotation.labelled_images
    if annotation.pixels == "none" or (annotation.has_points and not annotation.pixel_budget):
        return np.zeros(len(image_ids), bool)
    if count is None and annotation.seconds_per_image is None:
        return np.ones(len(image_ids), bool)
    if count is not None and count > len(image_ids):
        raise UserError(
            f"labelled_images must not exceed the training images, but got {count} of {len(image_ids)}; use "
            "fewer, or leave it out to label all."
        )
    places_N = [_generator("labelled", image_id, seed).random() for image_id in image_ids]
    order_N = np.argsort(places_N)
    if count is None:
        count = _affordable(annotation, _pixel_seconds(annotation, masks_NHW, num_classes)[order_N])
    labelled_N = np.zeros(len(image_ids), bool)
    labelled_N[order_N[:count]] = True
    return labelled_N


def _affordable(annotation: Annotation, seconds_N: np.ndarray) -> int:
    """How many images, in this order, the budget pays for."""
    assert annotation.seconds_per_image is not None
    budget = annotation.seconds_per_image * len(seconds_N)
    count = int(np.searchsorted(seconds_N.cumsum(), budget, side="right"))
    if not count:
        raise UserError(
            f"seconds_per_image must pay for one labelled image at least, but {budget:.4g} s for "
            f"{len(seconds_N)} images do not pay for the first, which takes {seconds_N[0]:.4g} s; raise it."
        )
    return count


def _require_every_class(
    annotation: Annotation, labels_NHW: np.ndarray, labelled: int, num_classes: int
) -> None:
    """A class that nobody labelled would never be predicted, and its score would say nothing."""
    asked = range(1 if annotation.pixels == "fg_points" else 0, num_classes)
    counts = np.bincount(labels_NHW.ravel(), minlength=UNLABELLED + 1)
    missing = [class_id for class_id in asked if not counts[class_id]]
    if missing:
        raise UserError(
            f"Every class needs a labelled pixel in the training set, but {labelled} labelled images "
            f"({annotation.pixels}) hold none of class {missing[0]}; label more images, use another split or "
            "merge the foreground classes."
        )


def _require_one_object(masks_NHW: np.ndarray, num_classes: int) -> None:
    for class_id in range(1, num_classes):
        several = sum(ndimage.label(mask_HW == class_id, np.ones((3, 3)))[1] > 1 for mask_HW in masks_NHW)
        if several:
            raise UserError(
                f"A size is that of one object, but {several} of {len(masks_NHW)} training images hold "
                f"several objects of class {class_id}; set several_objects = 'thickest' in the annotation to "
                "take the thickest one's, or leave those images out."
            )


def _labels(
    annotation: Annotation,
    images_NHW: np.ndarray,
    masks_NHW: np.ndarray,
    scribbles_NHW: np.ndarray | None,
    image_ids: Sequence[str],
    num_classes: int,
    seed: int,
) -> np.ndarray:
    if annotation.pixels == "dense":
        return np.array(masks_NHW, np.uint8)
    if annotation.pixels == "scribble":
        if scribbles_NHW is None:
            raise UserError(
                "pixels = 'scribble' needs a data set with scribbles, but this one has none; "
                "use pixels = 'points' with a pixel_budget."
            )
        return np.array(scribbles_NHW, np.uint8)
    labels_NHW = np.full(masks_NHW.shape, UNLABELLED, np.uint8)
    classes = annotation.point_classes(num_classes)
    if classes:
        _check_budget(pixel_counts(masks_NHW, num_classes), classes, annotation.pixel_budget)
    rows = zip(labels_NHW, images_NHW, masks_NHW, image_ids, strict=True)
    for labels_HW, image_HW, mask_HW, image_id in rows:
        for class_id in classes:
            generator = _generator("pixels", image_id, class_id, seed)
            order = _pixel_order(image_HW, mask_HW == class_id, annotation.placement, generator)
            labels_HW.reshape(-1)[order[: annotation.pixel_budget]] = class_id
    return labels_NHW


def _check_budget(counts_NK: np.ndarray, classes: range, budget: int) -> None:
    largest_K = counts_NK.max(axis=0, initial=0)
    for class_id in classes:
        largest = int(largest_K[class_id])
        if largest == 0:
            raise UserError(
                f"Every class needs an image to be pointed at, but no image of the training set holds class "
                f"{class_id}; use another split or merge the foreground classes."
            )
        if largest < budget:
            raise UserError(
                f"pixel_budget must not exceed a class's pixels in every image, but class {class_id} has at "
                f"most {largest} and the budget is {budget}; use {largest} or less, or pixels = 'dense'."
            )


def _pixel_order(
    image_HW: np.ndarray, class_HW: np.ndarray, placement: str, generator: np.random.Generator
) -> np.ndarray:
    """Flat indices of all of a class's pixels in the order in which they would be labelled."""
    order = generator.permutation(np.count_nonzero(class_HW))
    if placement != "uniform" and len(order):
        rank = _ranks(image_HW, class_HW, placement)
        order = order[np.argsort(rank[order], kind="stable")]  # ties keep the permutation's order
    return np.flatnonzero(class_HW)[order]


def _ranks(image_HW: np.ndarray, class_HW: np.ndarray, placement: str) -> np.ndarray:
    """What a placement labels in ascending order, for each class pixel in row-major order."""
    if placement == "extreme_intensity":
        intensity = image_HW[class_HW].astype(np.float64)
        return -np.abs(intensity - intensity.mean())
    depth = _depths(class_HW)
    return depth if placement == "boundary" else -depth


def _depths(class_HW: np.ndarray) -> np.ndarray:
    """Euclidean distance of each class pixel, in row-major order, to the nearest pixel outside the class.

    Beyond the image border counts as outside (unlike in `object_size`): who points at the middle of a region
    that the image cuts off points at the middle of what is visible, not at the border.
    """
    crop = class_HW[bounding_box(class_HW)]
    framed = np.zeros((crop.shape[0] + 2, crop.shape[1] + 2), bool)
    framed[1:-1, 1:-1] = crop
    return ndimage.distance_transform_edt(framed)[1:-1, 1:-1][crop]


def _error_factors(
    annotation: Annotation, name: str, ids: Sequence[str], num_classes: int, seed: int
) -> np.ndarray:
    """Log-normal factors with mean 1 and standard deviation `statistic_error`, float64 [N,K]."""
    variance = math.log1p(annotation.statistic_error**2)  # of the factor's logarithm
    normal = {
        owner: _generator("statistic", name, owner, seed).standard_normal(num_classes) for owner in set(ids)
    }
    return np.exp(math.sqrt(variance) * np.stack([normal[owner] for owner in ids]) - variance / 2)


def _generator(*key: str | int) -> np.random.Generator:
    digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def cost_seconds(
    annotation: Annotation, masks_NHW: np.ndarray, labelled_N: np.ndarray, num_classes: int
) -> np.ndarray:
    """Annotator seconds per image, float64 [N]; points by the number really placed.

    labelled_N: `WeakLabels.labelled_N`, the images of which pixels were asked. Statistics cost nothing
    because the report holds them anyway; only "presence" is charged as a tag.
    """
    seconds_N = np.where(labelled_N, _pixel_seconds(annotation, masks_NHW, num_classes), 0.0)
    if "presence" in annotation.statistics:
        seconds_N += TAG_SECONDS
    return seconds_N


def _pixel_seconds(annotation: Annotation, masks_NHW: np.ndarray, num_classes: int) -> np.ndarray:
    """What the pixels of each image take to label, if they are, float64 [N]."""
    classes = annotation.point_classes(num_classes)
    if classes:
        asked_NK = pixel_counts(masks_NHW, num_classes)[:, classes.start :]
        return POINT_SECONDS * np.minimum(asked_NK, annotation.pixel_budget).sum(axis=1)
    of_image = {"scribble": SCRIBBLE_SECONDS, "dense": DENSE_SECONDS}.get(annotation.pixels, 0.0)
    return np.full(len(masks_NHW), of_image)
