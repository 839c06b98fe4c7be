"""`--set key=value`: changes a study before it starts; an unknown key is an error that names the near one."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from search_spaces import UserError, hyper_parameters, nearest
from search_spaces.fields import check_values
from study.spec import PARTS, Study
from trainables import discovery, networks
from trainables.protocol import Protocol


def apply(study: Study, settings: Iterable[str]) -> Study:
    """The study with each "key=value" applied in turn. Raises UserError."""
    for text in settings:
        key, separator, value = text.partition("=")
        if not separator:
            raise UserError(f"--set takes key=value, but got {text!r}; for instance --set iterations=300.")
        study = _set(study, key.strip(), value.strip())
    return study


def keys(study: Study) -> dict[str, Any]:
    """Every key that `--set` takes for this study, with its value now."""
    out: dict[str, Any] = {"metric": study.metric, "network": study.network}
    for part in PARTS:
        if getattr(study, part) is None:
            continue
        values = dataclasses.asdict(getattr(study, part))
        out.update({f"{part}.{name}": value for name, value in values.items()})
    if study.data.size is not None:
        out["data.size"] = "x".join(map(str, study.data.size))
    for parameter in hyper_parameters(networks.config_of(study.network)):
        value = study.network_settings.get(parameter.name, parameter.default)
        out[f"network.{parameter.name}"] = value
    for method in dict.fromkeys(arm.method for arm in study.arms):
        for parameter in hyper_parameters(discovery.load(method)):
            out[f"{method}.{parameter.name}"] = parameter.default
    return out


def text_of(value: Any) -> str:
    """A value as `--set` takes it: what `apply` makes of "key=" and this text is the value again."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _set(study: Study, key: str, text: str) -> Study:
    full = _full_name(key, keys(study))
    if full == "metric":
        return dataclasses.replace(study, metric=text)
    if full == "network":
        return dataclasses.replace(study, network=_network(text), network_settings={})
    part, _, name = full.partition(".")
    if part in PARTS:
        old = getattr(study, part)
        value = _size(text) if full == "data.size" else _value(text, full, getattr(old, name))
        if isinstance(old, Protocol):
            check_values(Protocol, {name: value}, owner=f"the {part}")
        return dataclasses.replace(study, **{part: dataclasses.replace(old, **{name: value})})
    if part == "network":
        current = dataclasses.asdict(networks.config_of(study.network)(**study.network_settings))
        settings = {**study.network_settings, name: _value(text, full, current[name])}
        networks.check(study.network, settings)
        return dataclasses.replace(study, network_settings=settings)
    return _set_method(study, part, name, text)


def _set_method(study: Study, method: str, name: str, text: str) -> Study:
    """Fixes one hyper-parameter of the arms with this method and takes it out of their search.

    An arm that fixes it itself keeps its value: that is what the study compares.
    """
    cls = discovery.load(method)
    value = _value(text, f"{method}.{name}", getattr(cls(), name))
    check_values(cls, {name: value}, owner=f"method {method}")
    arms = tuple(
        dataclasses.replace(
            arm,
            settings={**arm.settings, name: value},
            search={k: d for k, d in arm.search.items() if k != name},
        )
        if arm.method == method and name not in arm.settings
        else arm
        for arm in study.arms
    )
    return dataclasses.replace(study, arms=arms)


def _full_name(key: str, known: Mapping[str, Any]) -> str:
    """`iterations` for `protocol.iterations`, where only one key ends so."""
    if key in known:
        return key
    ends = [name for name in known if name.split(".", 1)[-1] == key]
    if len(ends) == 1:
        return ends[0]
    if ends:
        raise UserError(f"--set {key}= could mean {' or '.join(ends)}; write it out.")
    short = [*known, *(name.split(".", 1)[-1] for name in known)]
    raise UserError(f"--set knows no key {key!r}.{nearest(key, short)} Keys: {', '.join(known)}.")


def _network(text: str) -> str:
    networks.config_of(text)
    return text


def _size(text: str) -> tuple[int, int] | None:
    if text.lower() == "none":
        return None
    height, separator, width = text.lower().partition("x")
    if not (separator and height.isdecimal() and width.isdecimal() and int(height) > 0 and int(width) > 0):
        raise UserError(f"--set data.size= takes HEIGHTxWIDTH in pixels, such as 128x128, but got {text!r}.")
    return int(height), int(width)


def _value(text: str, key: str, like: Any) -> Any:
    """The text as a value of the kind of `like`. Raises UserError."""
    if isinstance(like, str):
        return text
    if isinstance(like, bool):
        if text.lower() not in ("true", "false"):
            raise UserError(f"--set {key}= takes true or false, but got {text!r}.")
        return text.lower() == "true"
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # the last two: ((((...
        value = text
    if isinstance(like, tuple):
        return _tuple(value, key, text)
    if isinstance(like, float) and isinstance(value, int) and not isinstance(value, bool):
        with suppress(OverflowError):  # of 400 digits, say
            value = float(value)
    if type(value) is not type(like):
        raise UserError(f"--set {key}= takes a value like {like!r}, but got {text!r:.120}.")
    return value


def _tuple(value: Any, key: str, text: str) -> tuple[Any, ...]:
    values = value if isinstance(value, (tuple, list)) else (value,)
    kinds, example = ((int, float), "0.25,0.5") if key == "search.rungs" else ((int,), "1,2,3")
    if not all(type(v) in kinds for v in values):
        raise UserError(f"--set {key}= takes numbers such as {example}, but got {text!r}.")
    return tuple(values)
