"""A discrete statistic, with its value after every one-pixel flip, is found by the name of its file."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable
from typing import TYPE_CHECKING

from search_spaces import UserError, nearest

if TYPE_CHECKING:  # listing the statistics must not load torch
    from torch import Tensor

    from trainables.discrete import Flips


@functools.cache
def _known() -> tuple[str, ...]:
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.ispkg))


def names() -> list[str]:
    """All statistics, alphabetically. Does not import them."""
    return list(_known())


def load(name: str) -> Callable[[Tensor], Flips]:
    """The function `flips` of `trainables/flips/<name>.py`. Raises UserError for an unknown name."""
    if name not in _known():
        raise UserError(
            f"There is no statistic {name!r} whose flips are known.{nearest(name, names())} "
            f"Statistics: {', '.join(names())}."
        )
    flips: Callable[[Tensor], Flips] = importlib.import_module(f"trainables.flips.{name}").flips
    return flips


def load_value(name: str) -> Callable[[Tensor], Tensor]:
    """Masks [B,H,W] to the statistic alone [B]: by the file's `value`, a shortcut, where it has one.

    Raises UserError for an unknown name.
    """
    flips = load(name)
    shortcut: Callable[[Tensor], Tensor] | None = getattr(
        importlib.import_module(f"trainables.flips.{name}"), "value", None
    )
    return (lambda mask_BHW: flips(mask_BHW).value_B) if shortcut is None else shortcut
