"""A method is found by the name of its file. There is no registry to edit."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING

from search_spaces import UserError, nearest
from trainables import methods

if TYPE_CHECKING:  # listing the methods must not load torch
    from trainables.method import AbstractMethod


def names() -> list[str]:
    """All methods, alphabetically. Does not import them."""
    return sorted(m.name for m in pkgutil.iter_modules(methods.__path__) if not m.ispkg)


def load(name: str) -> type[AbstractMethod]:
    """The one class defined in `trainables/methods/<name>.py`. Raises UserError for an unknown name."""
    loaded = sys.modules.get(f"trainables.methods.{name}")
    if loaded is None:  # the folder is not listed again for every trial of a study
        known = names()
        if name not in known:
            raise UserError(
                f"There is no method {name!r}.{nearest(name, known)} Methods: {', '.join(known)}."
            )
        loaded = importlib.import_module(f"trainables.methods.{name}")
    return _method_in(loaded)


@cache
def _method_in(module: ModuleType) -> type[AbstractMethod]:
    base: type[AbstractMethod] = importlib.import_module("trainables.method").AbstractMethod
    found = [
        cls
        for _, cls in inspect.getmembers(module, inspect.isclass)
        if cls.__module__ == module.__name__ and issubclass(cls, base)
    ]
    if len(found) != 1:
        raise TypeError(
            f"{module.__name__.replace('.', '/')}.py must define exactly one method, found {found}."
        )
    return found[0]
