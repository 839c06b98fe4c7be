"""Prediction gives the masks that were scored, in the format that came in, or one sentence and nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from search_spaces import UserError
from study import export as exporting
from study import predict as predicting
from study.home import Home
from study.predict import predict
from study.spec import Data, Replicates
from tests.unit.study.exporting import FULL, make_home, one_arm
from trainables import exported, metrics
from trainables.data.dataset import open_dataset
from trainables.exported import DESCRIPTION, WEIGHTS, Model
from trainables.inference import Predictor


@pytest.fixture(scope="session")
def resized_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A study whose network works at another size than that of the stored slices."""
    folder = tmp_path_factory.mktemp("resized")
    data = Data(dataset=str(folder / "toy.parquet"), size=(12, 20))
    return make_home(folder, data=data, arms=(one_arm(),), replicates=Replicates(seeds=(7,)))


@pytest.fixture(scope="session")
def model_folder(trained_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    exporting.export(trained_home, "toy", folder, arm=FULL)
    return folder


@pytest.fixture
def toy(trained_home: Home) -> Path:
    """The data set of both studies."""
    return trained_home.path.parent / "toy.parquet"


@pytest.fixture
def model(model_folder: Path) -> Model:
    return exported.read(model_folder)


def on_cpu(model: Model, batch: int | None = None) -> Predictor:
    return model.predictor(torch.device("cpu"), batch)


def predicted(model_folder: Path, toy: Path, target: Path) -> list[np.ndarray]:
    predict(exported.read(model_folder), toy, target, device="cpu")
    table = pq.read_table(target)
    columns = (table["prediction"].to_pylist(), table["height"].to_pylist(), table["width"].to_pylist())
    return [np.frombuffer(cell, np.uint8).reshape(h, w) for cell, h, w in zip(*columns, strict=True)]


@pytest.mark.parametrize("name", ["trained_home", "resized_home"])
def test_predictions_score_as_the_ledger_says(
    name: str, toy: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Bit for bit; volumes of several slices, on stored slices and on resized ones, with an edge filter."""
    home = request.getfixturevalue(name)
    folder = tmp_path / "model"
    exporting.export(home, "toy", folder, arm=FULL)
    masks = predicted(folder, toy, tmp_path / "answer.parquet")
    data = open_dataset(toy, cache=tmp_path / "cache")
    rows = data.folds[0].test
    key = exported.read(folder).description.key
    scores = metrics.score_volumes(
        [masks[row] for row in rows],
        data.masks_NHW[rows],
        case_ids=[data.case_ids[row] for row in rows],
        volume_ids=[data.volume_ids[row] for row in rows],
        slice_index=data.slice_index[rows],
        spacing_mm=data.spacing_mm[rows],
        num_classes=data.num_classes,
    )
    written = {(c.volume_id, c.class_id): c for c in home.study("toy").ledger.cases() if c.key == key}
    assert len(scores) == len(written) > 10
    assert len({score.dice for score in scores}) > 3
    for score in scores:
        row = written[score.volume_id, score.class_id]
        for name in metrics.CaseScore.__dataclass_fields__:
            mine, theirs = getattr(score, name), getattr(row, name)
            assert mine == theirs or (mine != mine and theirs != theirs), (name, score, row)


def test_parquet_keeps_rows_columns_and_metadata(
    model: Model, model_folder: Path, toy: Path, tmp_path: Path
) -> None:
    masks = predicted(model_folder, toy, tmp_path / "answer.parquet")
    before, after = pq.read_table(toy), pq.read_table(tmp_path / "answer.parquet")
    assert after.drop_columns(["prediction"]).equals(before.replace_schema_metadata(after.schema.metadata))
    assert {**after.schema.metadata, **before.schema.metadata} == after.schema.metadata
    assert model.description.key in after.schema.metadata[b"prediction_model"].decode()
    assert {value for mask in masks for value in np.unique(mask)} == {0, 1, 2}
    open_dataset(tmp_path / "answer.parquet", cache=tmp_path / "cache")  # and it is still a data set


AFFINE = np.array([[0, 0, 5.0, 3], [0, -1.0, 0, 7], [1.0, 0, 0, -2], [0, 0, 0, 1]], float)
"""Array axes run superior, posterior, right; the grid is 1 x 1 x 5 mm."""


def volume(dtype: type = np.int16) -> nib.Nifti1Image:
    """Like the toy images; three axial slices of 16 x 16 in an awkward orientation."""
    rng = np.random.default_rng(3)
    planes_ZHW = rng.normal(20, 8, (16, 16, 3))
    planes_ZHW[4:10, 5:11] += 180
    image = nib.Nifti1Image(np.clip(planes_ZHW, 0, 255).astype(dtype), AFFINE)
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(AFFINE, code=1)
    image.set_qform(AFFINE, code=1)
    image.header["descrip"] = b"a scanner"
    image.header["cal_max"] = 255
    return image


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_nifti_keeps_shape_affine_and_header(model: Model, tmp_path: Path, name: str) -> None:
    nib.save(volume(), tmp_path / name)
    done = predict(model, tmp_path / name, tmp_path / f"mask_{name}", device="cpu")
    answer, image = nib.load(tmp_path / f"mask_{name}"), nib.load(tmp_path / name)
    assert answer.shape == image.shape == (16, 16, 3)
    assert answer.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(answer.affine, image.affine)
    for field in ("pixdim", "xyzt_units", "sform_code", "qform_code", "descrip"):
        np.testing.assert_array_equal(answer.header[field], image.header[field])
    assert answer.header["cal_max"] == 0
    assert np.isnan(answer.dataobj.slope) or answer.dataobj.slope == 1
    assert done.slices == 16
    assert done.off_size == 16  # its axial slices are 16 x 3


def test_nifti_is_cut_into_the_slices_that_were_trained_on(model: Model, tmp_path: Path, toy: Path) -> None:
    """A volume of stored slices, turned to another orientation, gets the masks of those slices."""
    data = open_dataset(toy, cache=tmp_path / "cache")
    rows = np.flatnonzero(np.array(data.case_ids) == data.case_ids[-1])[:2]
    images = data.images_NHW[rows]
    expected = np.stack(list(on_cpu(model).masks(list(images))))
    axial = nib.Nifti1Image(np.array(images.transpose(2, 1, 0)[::-1, ::-1]), np.diag([1.0, 1, 5, 1]))
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt("SPL")
    )
    nib.save(axial.as_reoriented(turn), tmp_path / "turned.nii")
    done = predict(model, tmp_path / "turned.nii", tmp_path / "mask.nii")
    assert (done.slices, done.off_size) == (2, 0)
    back = nib.as_closest_canonical(nib.load(tmp_path / "mask.nii")).get_fdata()
    np.testing.assert_array_equal(back[::-1, ::-1].transpose(2, 1, 0), expected)
    assert expected.any()


def test_png_of_every_kind_in_a_folder(model: Model, tmp_path: Path, toy: Path) -> None:
    data = open_dataset(toy, cache=tmp_path / "cache")
    source = tmp_path / "pictures"
    source.mkdir()
    grey = [Image.fromarray(np.array(image)) for image in data.images_NHW[:3]]
    for name, picture in zip("abc", (grey[0], grey[1].convert("RGB"), grey[2].convert("P")), strict=True):
        picture.save(source / f"{name}.png")
    grey[0].resize((40, 30)).save(source / "large.PNG")
    (source / "notes.txt").write_text("no image")
    done = predict(model, source, tmp_path / "masks")
    assert (done.files, done.slices, done.others, done.off_size) == (4, 4, 1, 1)
    expected = list(on_cpu(model).masks(list(data.images_NHW[:3])))
    for name, ids in zip("abc", expected, strict=True):
        with Image.open(tmp_path / "masks" / f"{name}.png") as mask:
            assert mask.mode == "P"
            np.testing.assert_array_equal(np.asarray(mask), ids)
    with Image.open(tmp_path / "masks" / "large.PNG") as mask:
        assert mask.size == (40, 30)
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == [
        "a.png", "b.png", "c.png", "large.PNG",
    ]  # fmt: skip


def test_batches_change_nothing(model: Model, tmp_path: Path, toy: Path) -> None:
    data = open_dataset(toy, cache=tmp_path / "cache")
    images = [*data.images_NHW[:7], np.zeros((5, 9), np.uint8), *data.images_NHW[7:9]]
    one, many = (list(on_cpu(model, batch).masks(images)) for batch in (1, 4))
    assert [mask.shape for mask in many] == [image.shape for image in images]
    for a, b in zip(one, many, strict=True):
        np.testing.assert_array_equal(a, b)


# --- what is refused


def png(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)
    return path


def cut_nifti(folder: Path) -> Path:
    nib.save(volume(), folder / "a.nii")
    (folder / "a.nii").write_bytes((folder / "a.nii").read_bytes()[:600])
    return folder / "a.nii"


def channels(folder: Path) -> Path:
    nib.save(nib.Nifti1Image(np.ones((4, 4, 2, 3), np.uint8), np.eye(4)), folder / "a.nii")
    return folder / "a.nii"


def hounsfield(folder: Path) -> Path:
    nib.save(nib.Nifti1Image(np.full((4, 4, 2), -1000, np.int16), np.eye(4)), folder / "ct.nii.gz")
    return folder / "ct.nii.gz"


def coloured(folder: Path) -> Path:
    return png(folder / "a.png", np.random.default_rng(0).integers(256, size=(8, 8, 3)))


def cut_png(folder: Path) -> Path:
    path = png(folder / "a.png", np.zeros((64, 64)))
    path.write_bytes(path.read_bytes()[:40])
    return path


def one_bad_of_three(folder: Path) -> Path:
    for name in "abc":
        png(folder / "pictures" / f"{name}.png", np.eye(16) * 200)
    (folder / "pictures" / "b.png").write_bytes(b"nothing")
    return folder / "pictures"


def empty_folder(folder: Path) -> Path:
    (folder / "empty").mkdir()
    (folder / "empty" / ".hidden.png").write_bytes(b"")
    return folder / "empty"


def other_columns(folder: Path) -> Path:
    pq.write_table(pa.table({"image": ["text"], "height": [1]}), folder / "a.parquet")
    return folder / "a.parquet"


def three_channels(folder: Path) -> Path:
    cells = {"image": [b"1" * 12], "height": pa.array([2], pa.int32()), "width": pa.array([2], pa.int32())}
    pq.write_table(pa.table(cells), folder / "a.parquet")
    return folder / "a.parquet"


def cut_parquet(folder: Path) -> Path:
    (folder / "a.parquet").write_bytes(b"PAR1 and no more")
    return folder / "a.parquet"


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (cut_nifti, r"a\.nii cannot be read as NIfTI"),
        (channels, r"takes images of 1 channel, but .*a\.nii has 3"),
        (hounsfield, r"ct\.nii\.gz holds intensities from -1000 .*--intensities"),
        (coloured, r"takes images of 1 channel, but .*a\.png is coloured"),
        (cut_png, r"a\.png cannot be read as an image"),
        (one_bad_of_three, r"b\.png cannot be read as an image"),
        (empty_folder, r"A folder must hold images .* holds none"),
        (other_columns, r"a\.parquet must hold the columns image \(binary\)"),
        (three_channels, r"must hold height x width bytes of 1 channel, but one of 2 x 2 holds 12"),
        (cut_parquet, r"a\.parquet is cut short or no Parquet"),
        (lambda folder: folder / "absent.png", "There is no file or folder"),
        (lambda folder: png(folder / "a.png", np.eye(3)).rename(folder / "a.bmp"), "is none of these"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(
    model: Model, tmp_path: Path, build: Callable[[Path], Path], match: str
) -> None:
    source = build(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    target = tmp_path / "out" / ("masks" if source.is_dir() else f"mask{''.join(source.suffixes)}")
    with pytest.raises(UserError, match=match) as raised:
        predict(model, source, target)
    assert "\n" not in str(raised.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_options_and_targets_that_mean_nothing(model: Model, tmp_path: Path, toy: Path) -> None:
    source = png(tmp_path / "a.png", np.eye(16) * 200)
    with pytest.raises(UserError, match=r"OUTPUT must end in \.png"):
        predict(model, source, tmp_path / "mask.nii")
    with pytest.raises(UserError, match="exists already"):
        predict(model, source, source)
    with pytest.raises(UserError, match="--device must be one of"):
        predict(model, source, tmp_path / "b.png", device="tpu")
    with pytest.raises(UserError, match="--batch-size must be 1"):
        predict(model, source, tmp_path / "b.png", batch=0)
    with pytest.raises(UserError, match="An orientation must be one of"):
        predict(model, source, tmp_path / "b.png", orientation="coronal")
    predict(model, source, tmp_path / "b.png")
    answer = tmp_path / "answer.parquet"
    predicted(model.path, toy, answer)
    with pytest.raises(UserError, match="holds a column 'prediction' already"):
        predict(model, answer, tmp_path / "again.parquet")


def test_told_intensities_are_used(model: Model, tmp_path: Path) -> None:
    """A CT of the same look as the 8-bit images, with its window, gets their mask."""
    grey = volume(np.uint8)
    nib.save(grey, tmp_path / "grey.nii")
    units = np.asarray(grey.dataobj).astype(np.int16) * 2 - 160
    nib.save(nib.Nifti1Image(units, AFFINE), tmp_path / "ct.nii")
    predict(model, tmp_path / "grey.nii", tmp_path / "expected.nii")
    predict(model, tmp_path / "ct.nii", tmp_path / "mask.nii", intensities="window:-160:350")
    masks = [np.asarray(nib.load(tmp_path / name).dataobj) for name in ("expected.nii", "mask.nii")]
    np.testing.assert_array_equal(*masks)


def test_ctrl_c_leaves_nothing(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "pictures"
    for number in range(5):
        png(source / f"{number}.png", np.eye(16) * 200)

    masks, seen = Predictor.masks, []

    def interrupted(self: Predictor, images: list[np.ndarray]) -> object:
        for ids in masks(self, images):
            seen.append(ids)
            if len(seen) == 3:
                assert list((tmp_path / "out").iterdir()) != []  # it was under way
                raise KeyboardInterrupt
            yield ids

    monkeypatch.setattr(Predictor, "masks", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict(model, source, tmp_path / "out" / "masks")
    assert list((tmp_path / "out").iterdir()) == []


# --- model folders


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_folder, tmp_path / "model"))


def changed(folder: Path, **values: object) -> Path:
    raw = json.loads((folder / DESCRIPTION).read_text())
    (folder / DESCRIPTION).write_text(json.dumps({**raw, **values}))
    return folder


def flipped(folder: Path) -> Path:
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS).write_bytes(content)
    return folder


def no_safetensors(folder: Path) -> Path:
    (folder / WEIGHTS).write_bytes(b"other")
    return changed(folder, weights={"blake2b": exported.digest_of(b"other")})


def without(folder: Path, name: str) -> Path:
    (folder / name).unlink()
    return folder


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda f: changed(f, format=2), "is of format 2, but this program reads format 1"),
        (flipped, "its digest differs"),
        (no_safetensors, "is no safetensors file"),
        (lambda f: changed(f, network_settings={"width": 8, "levels": 2}), "must be of the network"),
        (lambda f: changed(f, network="unett"), "no network 'unett'"),
        (lambda f: changed(f, class_names=[]), "is damaged"),
        (lambda f: changed(f, size=[0, 4]), "is damaged"),
        (lambda f: changed(f, image_channels=3), "is damaged"),
        (lambda f: changed(f, preparation={"crop": 1}), "is damaged"),
        (lambda f: changed(f, trained_shape=None), "is damaged"),
        (lambda f: without(f, WEIGHTS), "cannot be read"),
        (lambda f: without(f, DESCRIPTION), "A model must be a folder with"),
        (lambda f: f / "absent", "A model must be a folder with"),
    ],
)
def test_a_model_folder_that_is_not_what_was_exported(
    folder: Path, spoil: Callable[[Path], Path], match: str
) -> None:
    with pytest.raises(UserError, match=match) as raised:
        exported.read(spoil(folder))
    assert "\n" not in str(raised.value)


def test_what_the_terminal_says(model: Model, tmp_path: Path) -> None:
    done = predicting.Done(files=1, slices=3, device="cpu", seconds=1.0, others=2, off_size=3)
    first, second, third = predicting.sentences(done, tmp_path / "x.nii", model)
    assert "3 slices of 1 file, on cpu" in first
    assert "16 x 16" in second
    assert "2 other files" in third
