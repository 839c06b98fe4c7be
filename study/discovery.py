"""A study is found by the name of its file in study/studies. There is no registry to edit."""

from __future__ import annotations

import importlib
import pkgutil

from search_spaces import UserError, nearest
from study import studies
from study.spec import Study


def names() -> list[str]:
    """All studies, alphabetically. Does not import them."""
    return sorted(m.name for m in pkgutil.iter_modules(studies.__path__))


def load(name: str) -> Study:
    """What `study/studies/<name>.py` defines. Raises UserError for an unknown name."""
    if name not in names():
        raise UserError(f"There is no study {name!r}.{nearest(name, names())} Studies: {', '.join(names())}.")
    module = importlib.import_module(f"study.studies.{name}")
    definition: Study = module.define()
    if definition.name != name:
        raise TypeError(
            f"study/studies/{name}.py must define a study of its own name, not {definition.name!r}."
        )
    return definition
