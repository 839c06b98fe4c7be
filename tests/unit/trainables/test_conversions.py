"""Conversions give the network's outputs and hold no pickle; else they are left out, with a reason."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from search_spaces import UserError
from tests.tiny import TinyNetwork
from trainables import conversions, networks
from trainables.conversions import FORMATS, ONNX, TORCH_EXPORT

SHAPE = (18, 13)


def test_a_missing_package_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversions.importlib.util, "find_spec", lambda name: None if name == "onnx" else 1)
    conversions.require([TORCH_EXPORT])
    with pytest.raises(UserError, match=r"model.onnx needs onnx, which is not installed; .*\[onnx\]"):
        conversions.require(FORMATS)


@pytest.mark.parametrize(
    ("member", "content"),
    [
        ("m/data/sample_inputs/model.pt", b"PK\x03\x04 as torch.save writes"),
        ("m/data/constants/x", b"PK\x03\x04"),
        ("m/model_weights_config.json", b'{"config": {"w": {"use_pickle": true}}}'),
        ("m/data.pkl", b""),
    ],
)
def test_an_archive_with_a_pickle_is_refused(tmp_path: Path, member: str, content: bytes) -> None:
    path = tmp_path / "model.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/model_weights_config.json", b'{"config": {"w": {"use_pickle": false}}}')
        archive.writestr("m/data/weights/weight_0", b"\x80raw")
    conversions.refuse_pickles(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"n/{member}", content)
    with pytest.raises(ValueError, match="it would hold a pickle"):
        conversions.refuse_pickles(path)


def test_what_does_not_work_or_differs_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> float:
        raise RuntimeError("no such operator\nand a long trace")

    def other(logits: Any, example: Any, path: Path) -> float:
        path.write_bytes(b"other numbers")
        return 0.5

    monkeypatch.setattr(conversions, "_WRITERS", {TORCH_EXPORT: broken, ONNX: other})
    done = conversions.convert(TinyNetwork(), SHAPE, tmp_path, FORMATS)
    assert done.files == {}
    assert done.left_out == {
        TORCH_EXPORT: "this network cannot be converted (RuntimeError: no such operator).",
        ONNX: "its outputs differ from the network's by 0.5.",
    }
    assert list(tmp_path.iterdir()) == []


def test_torch_export_pickles_its_example_inputs_unless_told_not_to(tmp_path: Path) -> None:
    """Why they are taken out: torch.export.load would unpickle what stands there, whatever it is."""
    logits = conversions.Logits(TinyNetwork()).eval()
    program = torch.export.export(logits, (torch.zeros(1, 1, *SHAPE),))
    torch.export.save(program, tmp_path / "with.pt2")
    with pytest.raises(ValueError, match="sample_inputs"):
        conversions.refuse_pickles(tmp_path / "with.pt2")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "settings"),
    [("unet", {"width": 2, "levels": 3}), ("timm_unet", {"encoder": "resnet18", "depth": 2})],
)
def test_every_network_is_converted_to_the_same_outputs(
    tmp_path: Path, name: str, settings: dict[str, Any]
) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    net = networks.build(name, settings, 3)
    done = conversions.convert(net, SHAPE, tmp_path, FORMATS)
    assert done.left_out == {}
    assert list(done.files) == list(FORMATS)
    for facts in done.files.values():
        assert facts["greatest_difference"] < 1e-5  # rounding of float32 logits of about 1
