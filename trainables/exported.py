"""A trained network as a folder that outlives its study: weights, all that prediction needs, a model card.

The folder holds no pickle: the weights are a safetensors file, whose digest stands in `model.json`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from search_spaces import UserError
from trainables import networks
from trainables.data.dataset import LONGEST_SIDE
from trainables.data.preparation import Preparation
from trainables.data.rules import UNLABELLED
from trainables.inference import Predictor
from trainables.method import Network

FORMAT = 1
"""Version of the folder; raised when a program that reads this one would misread another."""

WEIGHTS, DESCRIPTION, CARD = "model.safetensors", "model.json", "README.md"
PRECISIONS = ("auto", "float32")
_KINDS = {"str": str, "int": int, "bool": bool}


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What prediction needs, and where the network comes from."""

    study: str
    arm: str
    method: str
    replicate: int
    seed: int
    fold: int
    key: str
    """Of the trial whose weights these are."""
    network: str
    network_settings: Mapping[str, Any]
    image_channels: int = 1
    class_names: tuple[str, ...]
    """Index = class id, 0 = background."""
    size: tuple[int, int] | None
    """(height, width) that stored slices are resized to before the network."""
    trained_shape: tuple[int, int]
    """(height, width) of the images that the network saw."""
    spacing_mm: tuple[float, float, float] | None
    """Median of the stored slices, (row, column, between slices); None where unknown."""
    intensity: str = "uint8 / 255"
    edge_filter: int = 0
    precision: str = "auto"
    preparation: Preparation | None = None
    """How an owner's image becomes stored slices; None where the data set does not say."""
    image_scaling: str = "not stated"
    """The same in the data set's own words."""
    dataset: Mapping[str, str] = field(default_factory=dict)
    """Name, fingerprint, licence and the like."""
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def build(self) -> Network:
        """The network with fresh weights; nothing is downloaded. Raises UserError for unknown settings."""
        settings = {name: value for name, value in self.network_settings.items() if name != "pretrained"}
        return networks.build(self.network, settings, len(self.class_names))


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """An exported network with its weights, on the CPU."""

    path: Path
    description: Description
    net: Network

    @property
    def preparation(self) -> Preparation:
        return self.description.preparation or Preparation()

    def predictor(self, device: torch.device, batch: int | None = None) -> Predictor:
        about = self.description
        return Predictor(
            self.net, device,
            size=about.size, edge_filter=about.edge_filter, precision=about.precision, batch=batch,
        )  # fmt: skip


def write(
    folder: Path, description: Description, weights: Mapping[str, Tensor], card: str, **files: Any
) -> None:
    """Writes the three files into an existing empty folder; `files` are further entries of model.json."""
    content = safetensors.torch.save({name: value.cpu().contiguous() for name, value in weights.items()})
    (folder / WEIGHTS).write_bytes(content)
    raw = {"format": FORMAT, "weights": {"file": WEIGHTS, "blake2b": digest_of(content)}}
    text = json.dumps({**raw, **description.to_dict(), **files}, indent=1)
    (folder / DESCRIPTION).write_text(text + "\n")
    (folder / CARD).write_text(card)


def read(folder: Path) -> Model:
    """The model of an exported folder. Raises UserError for another folder, version, or changed files."""
    if not (folder / DESCRIPTION).is_file():
        raise UserError(
            f"A model must be a folder with {DESCRIPTION} and {WEIGHTS}, as `python -m study export` writes "
            f"it, and {folder} is none; check the path."
        )
    raw = _raw(folder / DESCRIPTION)
    description, digest = _described(folder / DESCRIPTION, raw)
    net = description.build()
    weights = _weights(folder / WEIGHTS, digest)
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{folder}: the weights must be of the network that {DESCRIPTION} describes, but are not "
            f"({reason}); export the model again."
        ) from error
    return Model(path=folder, description=description, net=net)


def digest_of(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=32).hexdigest()


def _raw(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}); export the model again.") from error
    found = raw.get("format") if isinstance(raw, dict) else None
    if found != FORMAT:
        raise UserError(
            f"{path} is of format {found!r:.60}, but this program reads format {FORMAT}; export the model "
            "again, or use the program's version that wrote it."
        )
    document: dict[str, Any] = raw
    return document


def _described(path: Path, raw: Mapping[str, Any]) -> tuple[Description, str]:
    try:
        names = {one.name for one in dataclasses.fields(Description)}
        values = {name: raw[name] for name in names}
        for one in dataclasses.fields(Description):
            wanted = _KINDS.get(str(one.type))
            if wanted is not None and type(values[one.name]) is not wanted:
                raise TypeError(f"{one.name} is {values[one.name]!r:.60}")
        for name in ("class_names", "size", "trained_shape", "spacing_mm"):
            values[name] = None if values[name] is None else tuple(values[name])
        if values["preparation"] is not None:
            values["preparation"] = Preparation.from_mapping(values["preparation"])
        description = Description(**values)
        _check(description)
        return description, str(raw["weights"]["blake2b"])
    except (UserError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is damaged ({reason}); export the model again.") from error


def _check(about: Description) -> None:
    if not (2 <= len(about.class_names) <= UNLABELLED and all(isinstance(n, str) for n in about.class_names)):
        raise ValueError(f"class_names are {about.class_names!r:.60}")
    for size in (about.size, about.trained_shape):
        sound = size is None or (
            len(size) == 2 and all(type(n) is int and 1 <= n <= LONGEST_SIDE for n in size)
        )
        if not sound:
            raise ValueError(f"a size is {size!r:.60}")
    if about.precision not in PRECISIONS or not 0 <= about.edge_filter < 128 or about.image_channels != 1:
        raise ValueError("precision, edge_filter or image_channels is impossible")
    if not isinstance(about.network_settings, dict):
        raise TypeError("network_settings is no object")


def _weights(path: Path, digest: str) -> dict[str, Tensor]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); export the model again.") from error
    if digest_of(content) != digest:
        raise UserError(
            f"{path} is not the file that {DESCRIPTION} was written with (its digest differs): it was "
            "changed or cut; export the model again."
        )
    try:
        weights: dict[str, Tensor] = safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise UserError(f"{path} is no safetensors file ({error}); export the model again.") from error
    return weights
