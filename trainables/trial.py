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


AS_BEFORE: dict[str, Any] = {
    "pretraining": None,
    "labelled_images": None,
    "seconds_per_image": None,
    "several_objects": "refuse",
    "labelled_per_batch": 0,
    "keep": "last",
    "edge_filter": 0,
    "compiled": False,
    "depth": 5,
}
"""Settings that are younger than the first keys, and the value by which a trial is what it was without them:
with that value they are no part of a key, so that what was finished before is found again."""


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
    pretraining: Trial | None = None
    """The training whose network this one starts from; whole, so that its key finds it again."""

    def check(self) -> None:
        """Raises UserError for an unknown method, network or setting, or supervision the method lacks."""
        method = discovery.load(self.method)
        check_values(method, self.settings, owner=f"method {self.method}")
        networks.check(self.network, self.network_settings)
        check_values(Protocol, dataclasses.asdict(self.protocol), owner="the protocol")
        self._check_protocol()
        if self.protocol.batch_size < method.smallest_batch:
            raise UserError(
                f"Method {self.method} compares the images of a batch, so batch_size must be "
                f"{method.smallest_batch} or more, but got {self.protocol.batch_size}; raise it."
            )
        missing = method.needs - self.annotation.grants()
        if missing:
            raise UserError(
                f"Method {self.method} needs {' and '.join(sorted(missing))}, but its annotation "
                f"({self.annotation.pixels}, {self.annotation.pixel_budget} pixels, statistics "
                f"{list(self.annotation.statistics)}) grants {sorted(self.annotation.grants())}; "
                "give the arm that annotation or another method."
            )

    def _check_protocol(self) -> None:
        protocol = self.protocol
        if self.pretraining is not None:
            self.pretraining.check()
        elif protocol.iterations == 0:
            raise UserError(
                "iterations = 0 scores a pre-trained network, but this trial has none; train 1 or more."
            )
        if protocol.labelled_per_batch > protocol.batch_size:
            raise UserError(
                f"labelled_per_batch must not exceed batch_size, but got {protocol.labelled_per_batch} of "
                f"{protocol.batch_size}; lower it."
            )
        if protocol.labelled_per_batch and "pixels" not in self.annotation.grants():
            raise UserError(
                f"labelled_per_batch = {protocol.labelled_per_batch} needs images with labelled pixels, but "
                f"the annotation has none (pixels = {self.annotation.pixels!r}); set it to 0."
            )
        if protocol.augmentation == "heavy" and self.annotation.statistics:
            raise UserError(
                "augmentation = 'heavy' warps images, so that no statistic of theirs stays true, but the "
                f"annotation has {list(self.annotation.statistics)}; use 'flips_turns' or leave them out."
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
            "pretraining": None if self.pretraining is None else self.pretraining.to_dict(),
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
                "pretraining": None if raw["pretraining"] is None else cls.from_dict(raw["pretraining"]),
            }
        )

    def key(self) -> str:
        """Twenty hex digits: equal exactly when the outcome must be equal."""
        identity = {**_fields(self), "data": self.data.fingerprint, "numerics": NUMERICS}
        identity["pretraining"] = None if self.pretraining is None else self.pretraining.key()
        identity["annotation"] = _in_one_form(self.annotation)
        identity["annotation"]["statistics"] = sorted(self.annotation.statistics)  # their order means nothing
        identity["protocol"] = _in_one_form(self.protocol)
        identity["settings"] = _in_one_form(discovery.load(self.method)(**self.settings))
        config = networks.config_of(self.network)
        identity["network_settings"] = _in_one_form(config(**self.network_settings))
        identity = {name: _older(value) for name, value in _older(identity).items()}
        canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(canonical.encode(), digest_size=10).hexdigest()


def _older(values: Any) -> Any:
    if not isinstance(values, dict):
        return values
    return {name: v for name, v in values.items() if name not in AS_BEFORE or v != AS_BEFORE[name]}


def _fields(value: Any) -> dict[str, Any]:
    """As `dataclasses.asdict`, but without its copies: a study of ten thousand trials has as many keys."""
    return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}


def _in_one_form(settings: Any) -> dict[str, Any]:
    """All settings spelled out and numbers in one form, so that naming a default changes no key."""
    floats = {f.name for f in dataclasses.fields(settings) if isinstance(f.default, float)}
    return {name: float(v) if name in floats else v for name, v in _fields(settings).items()}
