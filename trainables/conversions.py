"""The network alone in the formats of other programs: torch.export's archive and ONNX, compared with itself.

Both map intensities [B,1,H,W] in [0, 1] to logits [B,K,H,W], at the size that the network was trained at and
for any B. Neither holds a pickle: of torch.export's archive, which usually holds its example inputs as one,
that is looked up after writing.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from search_spaces import UserError
from trainables.exported import digest_of
from trainables.method import Network

TORCH_EXPORT, ONNX = "model.pt2", "model.onnx"
FORMATS = (TORCH_EXPORT, ONNX)
_NEEDS = {TORCH_EXPORT: (), ONNX: ("onnx", "onnxscript", "onnxruntime")}
TOLERANCE = 1e-3
"""Of logits: far above the rounding of a reordered sum, far below what moves a boundary by a pixel."""

COMPARED = 3
"""Images of noise; another number than the example's, so that a fixed batch would be seen."""


@dataclass(frozen=True, slots=True)
class Converted:
    files: dict[str, dict[str, Any]]
    """By file: greatest_difference (of the logits) and blake2b."""
    left_out: dict[str, str]
    """By file: why it is not there."""


class Logits(nn.Module):
    """A network without what only methods look at."""

    def __init__(self, net: Network) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.net(image).logits_BKHW
        return logits


def require(formats: Sequence[str]) -> None:
    """Raises UserError where a format needs a package that is not installed."""
    for name in formats:
        absent = [package for package in _NEEDS[name] if importlib.util.find_spec(package) is None]
        if absent:
            raise UserError(
                f"{name} needs {', '.join(absent)}, which {'is' if len(absent) == 1 else 'are'} not "
                "installed; `pip install '.[onnx]'`, or leave that option out."
            )


def convert(net: Network, shape: tuple[int, int], folder: Path, formats: Sequence[str]) -> Converted:
    """Writes the formats that work for this network into `folder`."""
    logits = Logits(net).eval()
    example = _noise(2, shape, seed=0)
    done = Converted({}, {})
    for name in formats:
        path = folder / name
        try:
            difference = _WRITERS[name](logits, example, path)
        except Exception as error:  # torch.export raises whatever the network's operators raise
            done.left_out[name] = f"this network cannot be converted ({_first_line(error)})."
        else:
            if difference <= TOLERANCE:
                done.files[name] = {
                    "greatest_difference": difference,
                    "blake2b": digest_of(path.read_bytes()),
                }
                continue
            done.left_out[name] = f"its outputs differ from the network's by {difference:.2g}."
        path.unlink(missing_ok=True)
    return done


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"


def _noise(count: int, shape: tuple[int, int], seed: int) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(256, size=(count, 1, *shape)).astype(np.float32) / 255)


def _greatest_difference(logits: Logits, other: Callable[[Tensor], Tensor], shape: Sequence[int]) -> float:
    image = _noise(COMPARED, (shape[-2], shape[-1]), seed=1)
    with torch.no_grad():
        return float((logits(image) - other(image)).abs().max())


def _exported(logits: Logits, example: Tensor) -> torch.export.ExportedProgram:
    with torch.no_grad():
        return torch.export.export(
            logits, (example,), dynamic_shapes={"image": {0: torch.export.Dim("batch")}}
        )


def _torch_export(logits: Logits, example: Tensor, path: Path) -> float:
    program = _exported(logits, example)
    program.example_inputs = None  # they are all that torch.export.save pickles
    torch.export.save(program, path)
    refuse_pickles(path)
    # The file that this call wrote, a line above, without a pickle in it.
    loaded = torch.export.load(path).module()
    return _greatest_difference(logits, loaded, example.shape)


def refuse_pickles(path: Path) -> None:
    """Raises ValueError for an archive with a member that torch.export.load would unpickle."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            content = archive.read(member)
            # torch.save writes a zip archive, pickle a protocol byte; raw weights may start with any byte.
            config = member.endswith("_config.json") and b'"use_pickle": true' in content
            if config or content[:4] == b"PK\x03\x04" or member.endswith(".pkl"):
                raise ValueError(f"it would hold a pickle, {member}")


def _onnx(logits: Logits, example: Tensor, path: Path) -> float:
    import onnxruntime

    with warnings.catch_warnings(), _silent("torch.onnx"):
        warnings.simplefilter("ignore")  # about operators that nobody here uses
        torch.onnx.export(_exported(logits, example), (), path, external_data=False, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0].name

    def run(image: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {entry: image.numpy()})[0])

    return _greatest_difference(logits, run, example.shape)


class _silent:  # noqa: N801
    """Keeps a logger of a library quiet."""

    def __init__(self, name: str) -> None:
        self.logger = logging.getLogger(name)

    def __enter__(self) -> None:
        self.level = self.logger.level
        self.logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        self.logger.setLevel(self.level)


_WRITERS: dict[str, Callable[[Logits, Tensor, Path], float]] = {TORCH_EXPORT: _torch_export, ONNX: _onnx}
