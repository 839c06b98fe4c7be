"""How a trial is trained: optimiser, learning rate, length, batch, augmentation. One line a setting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from search_spaces import Choice, Float, Int, hp

WSL = "methods.md 1.4: En and Guo 2022; WSL4MIS a594da8"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """The WSL protocol of the point and scribble literature by default; a study states what it changes."""

    optimiser: str = hp("sgd", Choice(("sgd", "adam")), source=WSL, search=False)
    learning_rate: float = hp(0.01, Float(1e-5, 0.1, log=True), source=WSL, unit="1/step")
    momentum: float = hp(0.9, Float(0.0, 0.999), source=WSL, unit="1 (Adam: beta 1)", search=False)
    weight_decay: float = hp(1e-4, Float(1e-6, 1e-2, log=True), source=WSL, search=False)
    schedule: str = hp("poly", Choice(("poly", "cosine", "constant")), source=WSL, search=False)
    iterations: int = hp(60_000, Int(0, 1_000_000), source=WSL, unit="optimiser steps", search=False)
    batch_size: int = hp(12, Int(1, 1024), source=WSL, unit="images", search=False)
    labelled_per_batch: int = hp(
        0, Int(0, 1024), source="0: drawn like the others", unit="images with labelled pixels", search=False
    )
    augmentation: str = hp(
        "flips_turns", Choice(("flips_turns", "flips", "none", "heavy")),
        source="area-preserving, except heavy (warps, intensities): no statistics", search=False,
    )  # fmt: skip
    precision: str = hp(
        "auto", Choice(("auto", "float32")), source="bf16 autocast on GPUs that have it", search=False
    )
    compiled: bool = hp(
        False, Choice((False, True)), source="torch.compile of the network: a minute at the start of a trial",
        search=False,
    )  # fmt: skip
    keep: str = hp(
        "last", Choice(("last", "best_dice", "best_iou", "best_size_error")), source=WSL,
        unit="weights that are scored, by validation", search=False,
    )  # fmt: skip
    edge_filter: int = hp(
        0, Int(0, 127), source="arXiv:2212.08774: 50 (Synapse), 0 else; their resolution is derived",
        unit="columns of 256 at each side, predicted as background", search=False,
    )  # fmt: skip
    reports: int = hp(10, Int(1, 1000), source="ours", unit="validations in a whole trial", search=False)

    @property
    def kept_by(self) -> str | None:
        """The metric whose best validation decides which weights are scored; None for the last ones."""
        return self.keep.removeprefix("best_") if self.keep != "last" else None

    def report_points(self) -> tuple[int, ...]:
        """The iterations after which a trial validates, checkpoints and reports; the last is `iterations`."""
        least = min(1, self.iterations)
        points = {max(least, round(self.iterations * i / self.reports)) for i in range(1, self.reports + 1)}
        return tuple(sorted(points))

    def learning_rate_at(self, iteration: int) -> float:
        """The rate of step `iteration` (from 0): poly power 0.9, half cosine, or constant."""
        from trainables import schedules

        progress = iteration / self.iterations
        if self.schedule == "constant":
            return self.learning_rate
        factor = schedules.poly(progress) if self.schedule == "poly" else schedules.cosine(progress)
        return self.learning_rate * factor
