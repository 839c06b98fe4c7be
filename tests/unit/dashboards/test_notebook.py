"""The example notebook: it runs from its first cell to its last on a finished study and shows the answer."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from study import discovery
from tests.finished import finish

ROOT = Path(__file__).parents[3]
NOTEBOOK = ROOT / "dashboards" / "examples" / "read_a_study.ipynb"


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Executed where Jupyter would, in the notebook's folder."""
    home = tmp_path_factory.mktemp("home")
    study = discovery.load("ablation_pixels")
    finish(home, dataclasses.replace(study, protocol=dataclasses.replace(study.protocol, iterations=60)))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    path = os.pathsep.join([str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    client = NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(NOTEBOOK.parent)}}
    )
    client.execute(env={**os.environ, "PYTHONPATH": path, "STUDY_HOME": str(home), "MPLBACKEND": ""})
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cells: list[Any], kind: str) -> list[str]:
    """Everything of one MIME type that the cells display."""
    return [out.data[kind] for cell in cells for out in cell.outputs if kind in out.get("data", {})]


@pytest.mark.timeout(300)
def test_shows_answer_arms_pictures_and_tables(cells: list[Any]) -> None:
    assert len(shown(cells, "image/png")) == 3
    tables = shown(cells, "text/html")
    assert "<b>ablation_pixels</b>" in tables[0]
    for arm in discovery.load("ablation_pixels").arms:
        assert all(arm.name in table for table in tables[:3])
    words = "full supervision is better than 5 pixels only"
    assert any(words in text for text in shown(cells, "text/plain"))
    assert [out for cell in cells for out in cell.outputs if out.output_type in ("stream", "error")] == []


def test_what_is_kept_of_it_is_small_and_of_no_machine() -> None:
    text = NOTEBOOK.read_text()
    assert len(text) < 200_000
    assert "/tmp/" not in text
    assert "/home/" not in text
    outputs = [out for cell in json.loads(text)["cells"] for out in cell.get("outputs", [])]
    assert {out["output_type"] for out in outputs} <= {"execute_result", "display_data"}
