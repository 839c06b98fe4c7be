"""Segmentation networks, found by file name (`unet`, `timm_unet`); no loss in here."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from search_spaces import UserError, nearest
from search_spaces.fields import check_values

if TYPE_CHECKING:
    from trainables.method import Network

_SHARED_PARTS = {"decoder", "heads"}


def names() -> list[str]:
    """All networks, alphabetically. Does not import them."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in _SHARED_PARTS)


@functools.cache  # asked once for every trial of a study, and a look into the folder is slow
def config_of(name: str) -> type[Any]:
    """The settings class of a network. Raises UserError for an unknown name."""
    if name not in names():
        raise UserError(
            f"There is no network {name!r}.{nearest(name, names())} Networks: {', '.join(names())}."
        )
    config: type[Any] = importlib.import_module(f"trainables.networks.{name}").Config
    return config


def check(name: str, settings: Mapping[str, Any]) -> None:
    """Raises UserError unless `settings` fit the network."""
    check_values(config_of(name), settings, owner=f"network {name}")


def build(name: str, settings: Mapping[str, Any], num_classes: int) -> Network:
    """A network with fresh weights from torch's current seed. Raises UserError as `check`."""
    check(name, settings)
    network: Network = config_of(name)(**settings).build(num_classes)
    return network
