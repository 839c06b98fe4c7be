"""The trainable without a network keeps the promises of the real one that tests of kills build on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from study import arms
from tests.ray.toy import CHECKPOINT, ORDERS, ToyTrainable
from trainables.store import Store


def test_a_trial_is_called_finished_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a kill at any moment leaves nothing out, which the next process would not make up for."""
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path / "ray"))
    (tmp_path / ORDERS).write_text(json.dumps({"samples": 100}))
    written: list[str] = []
    monkeypatch.setattr(Store, "write", lambda store, name, content: written.append(name))
    protocol = dataclasses.asdict(arms.short_protocol(12, reports=1))
    config: dict[str, Any] = {
        "trial": {"protocol": protocol, "settings": {}, "seed": 1, "test": True},
        "job": ("an arm", "search", 0),
        "key": "0" * 20,
        "folder": str(tmp_path / "trial"),
        "cache": str(tmp_path / "cache"),
        "metric": "dice",
        "start": None,
        "network": str(tmp_path / "network.pt"),
    }
    running = ToyTrainable(config)
    assert running.train()["done"]
    assert written == ["samples.png", "network.json", "network.pt", CHECKPOINT]
