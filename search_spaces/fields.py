"""`hp(...)`: one line per hyper-parameter: default, bounds, unit and source together."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

from search_spaces.domains import Domain
from search_spaces.errors import UserError, nearest

Space = Mapping[str, Domain]
_KEY = "search_spaces.hp"


@dataclasses.dataclass(frozen=True, slots=True)
class HyperParameter:
    """One line of a method's table: what `describe` prints and what a search may vary."""

    name: str
    default: Any
    allowed: Domain | None
    searched: bool
    unit: str
    source: str
    off: float | None = None

    def accepts(self, value: object) -> bool:
        """Whether a study may fix this value: in range or `off`; without a range, like the default."""
        if self.allowed is None:
            return _same_kind(value, self.default)
        return value in self.allowed or (
            self.off is not None and _same_kind(value, self.off) and value == self.off
        )

    def rule(self) -> str:
        """What `accepts` demands, for a sentence: "must ..."."""
        if self.allowed is None:
            return f"be like its default {self.default!r}"
        return f"lie in {self.allowed}" + ("" if self.off is None else f" or be {self.off:g} (off)")


@dataclasses.dataclass(frozen=True, slots=True)
class _Hp:
    allowed: Domain | None
    searched: bool
    source: str
    unit: str
    off: float | None


def hp(
    default: Any,
    allowed: Domain | None = None,
    *,
    source: str,
    unit: str = "1",
    search: bool = True,
    off: float | None = None,
) -> Any:
    """A dataclass field that carries its range, unit and citation.

    `allowed` bounds every value; with `search=False` it is checked but never searched (a named
    choice that a study compares). `off` is one more value that a study may fix but a search never
    draws: the 0 of a weight that is searched on a logarithmic scale. Raises ValueError at class
    creation, not in the middle of a study, when the default lies outside or `off` inside.
    """
    if allowed is not None and default not in allowed:
        raise ValueError(f"published default {default!r} is not reachable in {allowed}.")
    if off is not None and (allowed is None or off in allowed):
        raise ValueError(f"`off` must lie outside the range it extends, but got {off!r} and {allowed}.")
    meta = _Hp(allowed, search and allowed is not None, source, unit, off)
    return dataclasses.field(default=default, metadata={_KEY: meta})


def hyper_parameters(cls: type) -> list[HyperParameter]:
    """All `hp` fields of a class in field order. Raises TypeError for a field declared without `hp`."""
    out = []
    for field in dataclasses.fields(cls):
        meta = field.metadata.get(_KEY)
        if meta is None:
            raise TypeError(f"{cls.__name__}.{field.name} must be declared with `hp(...)`.")
        out.append(
            HyperParameter(
                field.name, field.default, meta.allowed, meta.searched, meta.unit, meta.source, meta.off
            )
        )
    return out


def space_of(cls: type) -> Space:
    """The dimensions of a class that a search varies, in field order."""
    return {p.name: p.allowed for p in hyper_parameters(cls) if p.searched and p.allowed is not None}


def check_values(cls: type, values: Mapping[str, Any], *, owner: str) -> None:
    """Raises UserError for a key that `cls` does not have or a value outside its range."""
    known = {p.name: p for p in hyper_parameters(cls)}
    for name, value in values.items():
        if name not in known:
            raise UserError(
                f"{owner} has no setting {name!r}.{nearest(name, known)} It has: {', '.join(known)}."
            )
        parameter = known[name]
        if not parameter.accepts(value):
            raise UserError(
                f"{owner}: {name} must {parameter.rule()}, but got {value!r}; "
                f"its default is {parameter.default!r}."
            )


def _same_kind(value: object, default: object) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, float):
        return isinstance(value, (int, float)) and abs(value) <= sys.float_info.max  # so neither NaN
    return isinstance(value, type(default))


__all__ = ["HyperParameter", "Space", "check_values", "hp", "hyper_parameters", "space_of"]
