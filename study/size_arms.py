"""What the studies of object sizes share: arms that start from a network pre-trained on m masks.

Every arm of one m and seed starts from the same network, and no study of a home trains it twice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from study import arms
from study.spec import Arm, Data, Replicates, Search, Stage, Study
from trainables.annotations import Annotation
from trainables.protocol import Protocol

MASKS = 85
"""Of the pre-training in the paper's study of n. Source: Barucic and Kybic 2022, section 4.1."""

PRETRAINING = Protocol(
    optimiser="adam", learning_rate=1e-3, schedule="cosine", weight_decay=1e-6, iterations=300,
    batch_size=16, augmentation="flips", reports=3,
)  # fmt: skip
"""Long enough that the validation IoU stands still. Optimiser, rate and batch are not published."""

FINE_TUNING = dataclasses.replace(PRETRAINING, learning_rate=1e-4, schedule="constant", reports=6)
"""Constant, because the paper goes on until the size error stops falling. Its images are not flipped here;
ours are, in every arm, so that arms with masks and arms without differ in nothing else."""

LABELLED_PER_BATCH = 8
"""Half of a batch, where masks stay in the loss."""


def masks(count: int | None) -> str:
    return "all masks" if count is None else f"{count} masks"


def _dense(count: int | None, **granted: Any) -> Annotation:
    return Annotation(pixels="dense", labelled_images=count, several_objects="thickest", **granted)


def stage(count: int | None) -> Stage:
    """Cross-entropy on `count` masks; None is every training image's."""
    return Stage(method="full_supervision", annotation=_dense(count), settings={"loss": "ce"})


def before(count: int | None) -> Arm:
    """The pre-trained network as it is."""
    return Arm(
        name=f"{masks(count)}, as pre-trained",
        method="full_supervision",
        annotation=_dense(count),
        settings={"loss": "ce"},
        protocol={"iterations": 0},
        pretraining=stage(count),
    )


def masks_only(count: int | None) -> Arm:
    """The control: as many further steps on the same masks."""
    return dataclasses.replace(before(count), name=f"{masks(count)}, trained on", protocol={})


def sizes_alone(count: int | None, name: str, keep: str = "last", **settings: Any) -> Arm:
    """The paper's second stage: nothing but sizes."""
    return Arm(
        name=name,
        method="size_gradient",
        annotation=Annotation(statistics=("size",), several_objects="thickest"),
        settings={"overlap_weight": 0.0, **settings},
        protocol={"keep": keep},
        pretraining=stage(count),
    )


def sizes_and_masks(count: int | None, name: str, **settings: Any) -> Arm:
    """The sizes of all images, and the masks of the pre-training in every step."""
    return Arm(
        name=name,
        method="size_gradient",
        annotation=_dense(count, statistics=("size",)),
        settings=settings,
        protocol={"labelled_per_batch": LABELLED_PER_BATCH},
        pretraining=stage(count),
    )


def sizes_and_clicks(count: int | None, budget: int) -> Arm:
    """Sizes, and `budget` clicked pixels of each class of every image instead of the masks."""
    annotation = Annotation(
        pixels="points", pixel_budget=budget, statistics=("size",), several_objects="thickest"
    )
    return Arm(
        name=f"sizes + {arms.pixels(budget)}",
        method="size_gradient",
        annotation=annotation,
        pretraining=stage(count),
    )


def study(
    name: str, question: str, compared: tuple[Arm, ...], pairs: tuple[tuple[str, str], ...], **changes: Any
) -> Study:
    """On phantoms with one lesion an image; nothing is searched, three fresh seeds judge."""
    values: Mapping[str, Any] = {
        "metric": "iou",
        "watch": ("size_error", "loss_noisy_squared_error"),
        "data": Data(dataset="phantoms-sizes"),
        "search": Search(trials=1, lookahead=1, rungs=()),
        "replicates": Replicates(seeds=(1001, 1002, 1003)),
        "network_settings": arms.SMALL_NETWORK,
        "protocol": FINE_TUNING,
        "pretraining": PRETRAINING,
    }
    return Study(name=name, question=question, arms=compared, pairs=pairs, **{**values, **changes})
