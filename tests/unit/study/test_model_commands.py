"""`study export` and `study predict` as a user calls them, and MLflow's registry between them."""

from __future__ import annotations

import io
import pickletools
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pytest
from PIL import Image

from study import cli, model_commands, registry
from study import export as exporting
from study.home import Home
from study.mlflow_runs import ENVIRONMENT, Registry
from study.ownership import Owner
from study.tracking import Tracker
from tests.unit.study.exporting import CLICKS, FULL

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], trained_home: Home) -> Call:
    """Calls the program as `python -m study WORDS` in this process: exit code, stdout, stderr."""
    for name in (*ENVIRONMENT, "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("STUDY_HOME", str(trained_home.path))

    def called(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["study", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        code = end.value.code or 0
        assert isinstance(code, int)
        return code, *capsys.readouterr()

    return called


def test_export_then_predict(call: Call, tmp_path: Path) -> None:
    code, out, err = call("export", "toy", tmp_path / "model")
    assert (code, err) == (0, "")
    assert out.startswith("Exported ")
    assert "the arm that the answer ranks best" in out
    Image.fromarray(np.eye(16, dtype=np.uint8) * 200).save(tmp_path / "a.png")
    code, out, err = call("predict", tmp_path / "model", tmp_path / "a.png", tmp_path / "b.png")
    assert (code, err) == (0, "")  # no progress bar: this is no terminal
    assert out.startswith(f"Wrote {tmp_path / 'b.png'}: 1 slice of 1 file")
    assert (tmp_path / "b.png").is_file()


def test_mistakes_are_one_sentence(call: Call, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for words, part in (
        (("export", "tox", tmp_path / "new"), "Did you mean 'toy'?"),
        (("export", "toy", tmp_path / "there"), "exists already"),
        (("export", "toy", tmp_path / "new", "--arm", "ful"), "Did you mean 'full'?"),
        (("export", "toy", tmp_path / "new", "--replicate", "9"), "--replicate 9 is none of them"),
        (("predict", tmp_path / "there", tmp_path / "a.png", tmp_path / "b.png"), "A model must be a folder"),
        (("predict", "models:/x", tmp_path / "a.png", tmp_path / "b.png"), "named models:/NAME/VERSION"),
        (("predict", "models:/x/1", tmp_path / "a.png", tmp_path / "b.png"), "MLflow at sqlite:"),
        (("export", "toy", "x" * 300), "no part of more than 255 bytes"),
    ):
        code, out, err = call(*words)
        assert (code, out) == (2, "")
        assert err.count("\n") == 1
        assert part in err
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_ctrl_c_says_so(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call("export", "toy", tmp_path / "model")

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(model_commands.predicting, "predict", interrupted)
    code, out, err = call("predict", tmp_path / "model", tmp_path / "a.png", tmp_path / "b.png")
    assert (code, out, err) == (1, "", "Stopped. Nothing was written.\n")


def test_a_missing_package_is_named_before_anything_is_written(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainables.conversions.importlib.util.find_spec", lambda _: None)
    code, _, err = call("export", "toy", tmp_path / "model", "--onnx")
    assert code == 2
    assert "model.onnx needs onnx, onnxscript, onnxruntime, which are not installed" in err
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def tracked(trained_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The trained study in a home of its own, with MLflow's runs of its arms."""
    folder = tmp_path_factory.mktemp("tracked") / "my home"
    home = Home(Path(shutil.copytree(trained_home.path, folder)))
    dataset = {"name": "toy", "fingerprint": "f", "path": "toy.parquet", "num_images": 1, "num_cases": 1}
    tracker = Tracker(
        home=home.path, study="toy", question="?", metric="dice", greater_is_better=True,
        tracking_uri=None, spec_json="{}", dataset=dataset,
        owner=Owner(study="toy", identity="toy", place=str(folder), begun=True, known=frozenset),
    )  # fmt: skip
    tracker.start([CLICKS, FULL])
    tracker.close(30)
    return home


def holds_a_pickle(path: Path) -> bool:
    """Whether the file is one, or an archive like torch.save's."""
    if zipfile.is_zipfile(path):
        return True
    try:
        pickletools.dis(path.read_bytes(), out=io.StringIO())
    except Exception:  # whatever it says of bytes that are none
        return False
    return True


def test_the_registry_holds_plain_files_that_predict_takes(call: Call, tracked: Home, tmp_path: Path) -> None:
    words = ("export", "toy", tmp_path / "model", "--arm", CLICKS, "--home", tracked.path)
    code, out, err = call(*words, "--register")
    assert (code, err) == (0, "")
    assert "Registered as models:/toy.clicks____b_two__b_/1." in out
    client = mlflow.MlflowClient(f"sqlite:///{tracked.path / 'mlflow.db'}")
    (version,) = client.search_model_versions("")
    run = client.get_run(version.run_id)
    assert run.data.tags["study.arm"] == CLICKS
    files = client.list_artifacts(version.run_id, version.tags["study.folder"])
    assert sorted(Path(f.path).name for f in files) == ["README.md", "model.json", "model.safetensors"]
    place = Path(client.download_artifacts(version.run_id, version.tags["study.folder"], str(tmp_path)))
    assert not any(holds_a_pickle(path) for path in place.iterdir())
    Image.fromarray(np.eye(16, dtype=np.uint8) * 200).save(tmp_path / "a.png")
    uri = f"models:/{version.name}/1"
    code, _, err = call("predict", uri, tmp_path / "a.png", tmp_path / "b.png", "--home", tracked.path)
    assert (code, err) == (0, "")
    call("predict", tmp_path / "model", tmp_path / "a.png", tmp_path / "c.png")
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "c.png").read_bytes()
    done = exporting.export(tracked, "toy", tmp_path / "again", arm=CLICKS)
    assert registry.register(done, tracked, None, None) == f"models:/{version.name}/2"


def test_an_arm_that_mlflow_never_heard_of(
    call: Call, tracked: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Registry, "arm_run", lambda *_: None)
    words = ("export", "toy", tmp_path / "model", "--register-as", "good", "--home", tracked.path)
    code, out, err = call(*words)
    assert code == 2
    assert out.startswith("Exported ")  # which stays
    assert "MLflow must have the run of arm" in err
