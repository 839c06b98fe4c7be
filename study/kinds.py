"""Values of another kind than the program writes, in a study that was read from a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from search_spaces import UserError

_KINDS: dict[str, Any] = {
    "str": str,
    "int": int,
    "bool": bool,
    "Mapping[str, Any]": Mapping,
    "tuple[int, ...]": int,
    "tuple[str, ...]": str,
    "tuple[int, int] | None": int,
}
"""By the annotation of a field; of a tuple the kind of its parts."""


def check(*parts: Any) -> None:
    """Raises UserError for a field of these dataclasses that holds what its annotation does not allow."""
    for part in parts:
        for field in dataclasses.fields(part):
            text = str(field.type)
            if text in _KINDS and not all(
                _is(v, _KINDS[text]) for v in _values(getattr(part, field.name), text)
            ):
                raise UserError(
                    f"A study's {type(part).__name__.lower()}.{field.name} must be {text}, but is "
                    f"{getattr(part, field.name)!r:.60}; restore it."
                )


def _values(value: Any, text: str) -> Iterator[Any]:
    if not text.startswith("tuple"):
        yield value
    elif isinstance(value, tuple):
        yield from value
    elif value is not None or not text.endswith("None"):
        yield _Wrong()


class _Wrong:
    """Of no kind."""


def _is(value: object, kind: Any) -> bool:
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
