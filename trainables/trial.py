"""One trial as a value: everything that decides its outcome, and the key that is the hash of exactly that."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from search_spaces import UserError
from search_spaces.fields import check_values
from trainables import discovery, networks
from trainables.annotations import Annotation
from trainables.protocol import Protocol

NUMERICS = 1
"""Raised by every change after which the same trial would give another number; part of every key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSource:
    """Where a data set lies and how it is read. The path is not identity, the fingerprint is."""

    path: str
    fingerprint: str
    size: tuple[int, int] | None = None
    merge_foreground: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Method, supervision, network, protocol, data and seed of one training."""

    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Hyper-parameters of the method that differ from its defaults."""
    annotation: Annotation
    network: str = "unet"
    network_settings: Mapping[str, Any] = field(default_factory=dict)
    protocol: Protocol = field(default_factory=Protocol)
    data: DataSource
    fold: int = 0
    seed: int = 0
    """Initial weights, batches and the annotator's clicks."""
    test: bool = False
    """Score the test split at the end (the confirmation phase)."""

    def check(self) -> None:
        """Raises UserError for an unknown method, network or setting, or supervision the method lacks."""
        method = discovery.load(self.method)
        check_values(method, self.settings, owner=f"method {self.method}")
        networks.check(self.network, self.network_settings)
        check_values(Protocol, dataclasses.asdict(self.protocol), owner="the protocol")
        missing = method.needs - self.annotation.grants()
        if missing:
            raise UserError(
                f"Method {self.method} needs {' and '.join(sorted(missing))}, but its annotation "
                f"({self.annotation.pixels}, {self.annotation.pixel_budget} pixels, statistics "
                f"{list(self.annotation.statistics)}) grants {sorted(self.annotation.grants())}; "
                "give the arm that annotation or another method."
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `from_dict` reads it back."""
        return {
            **{f.name: getattr(self, f.name) for f in dataclasses.fields(self)},
            "settings": dict(self.settings),
            "network_settings": dict(self.network_settings),
            "annotation": self.annotation.to_dict(),
            "protocol": dataclasses.asdict(self.protocol),
            "data": dataclasses.asdict(self.data),
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Trial:
        data = dict(raw["data"])
        data["size"] = tuple(data["size"]) if data["size"] else None
        return cls(
            **{
                **raw,
                "annotation": Annotation.from_dict(raw["annotation"]),
                "protocol": Protocol(**raw["protocol"]),
                "data": DataSource(**data),
            }
        )

    def key(self) -> str:
        """Twenty hex digits: equal exactly when the outcome must be equal."""
        identity = {**self.to_dict(), "data": self.data.fingerprint, "numerics": NUMERICS}
        identity["annotation"] = _with_defaults(Annotation, dataclasses.asdict(self.annotation))
        identity["protocol"] = _with_defaults(Protocol, dataclasses.asdict(self.protocol))
        identity["settings"] = _with_defaults(discovery.load(self.method), self.settings)
        identity["network_settings"] = _with_defaults(networks.config_of(self.network), self.network_settings)
        canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(canonical.encode(), digest_size=10).hexdigest()


def _with_defaults(cls: type[Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """All settings spelled out and numbers in one form, so that naming a default changes no key."""
    values = dataclasses.asdict(cls(**settings))
    floats = {f.name for f in dataclasses.fields(cls) if isinstance(f.default, float)}
    return {name: float(v) if name in floats else v for name, v in values.items()}
