"""The importers of Synapse (both layouts) and WSL4MIS, on tiny copies in their owners' layouts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from typer.testing import CliRunner

from search_spaces import UserError
from study.data_commands import data_app
from trainables.data.dataset import Dataset, open_dataset
from trainables.data.importers import acdc, base, synapse, wsl4mis
from trainables.data.parquet import write_dataset


def grey(seed: int, *shape: int) -> np.ndarray:
    """In [0, 1], its ends included, as TransUNet and WSL4MIS store it."""
    values = np.random.default_rng(seed).random(shape, np.float32)
    values.flat[:2] = 0, 1
    return values


def ids(seed: int, *shape: int, count: int = 9) -> np.ndarray:
    return np.random.default_rng([seed, 1]).integers(0, count, shape, np.uint8)


def save_npz(path: Path, **arrays: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)


def save_h5(path: Path, **arrays: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values


def written(imported: base.ImportedDataset, folder: Path) -> Dataset:
    path = folder / f"{imported.name}.parquet"
    write_dataset(
        path,
        imported.rows,
        name=imported.name,
        class_names=imported.class_names,
        splits=imported.splits,
        metadata=imported.metadata,
    )
    return open_dataset(path, cache=folder / "cache")


def cases_of(dataset: Dataset, fold: int, *parts: str) -> set[str]:
    return {dataset.case_ids[row] for part in parts for row in getattr(dataset.folds[fold], part)}


# --- Synapse, TransUNet's copy ------------------------------------------------------------------------


def transunet(root: Path, train: tuple[int, ...] = (5, 6, 7), test: tuple[int, ...] = (1, 2)) -> Path:
    for case in train:
        for z in range(3):
            save_npz(
                root / "train_npz" / f"case{case:04d}_slice{z:03d}.npz",
                image=grey(10 * case + z, 8, 6),
                label=ids(10 * case + z, 8, 6).astype(np.float32),
            )
    for case in test:
        path = root / "test_vol_h5" / f"case{case:04d}.npy.h5"
        label = ids(case, 4, 8, 6).astype(np.float32)
        label[:3] = 0  # slices without an organ, of which other CT importers keep each tenth
        save_h5(path, image=grey(case, 4, 8, 6), label=label)
    return root


@pytest.mark.parametrize("below", ["", "Synapse"])
def test_synapse_of_transunet_keeps_every_slice_as_stored(tmp_path: Path, below: str) -> None:
    transunet(tmp_path / below)
    dataset = synapse.read(tmp_path)
    assert dataset.class_names == (
        "background", "aorta", "gallbladder", "left kidney", "right kidney", "liver", "pancreas", "spleen",
        "stomach",
    )  # fmt: skip
    rows = {(row.case_id, row.slice_index): row for row in dataset.rows}
    assert list(rows) == [
        *((f"case{case:04d}", z) for case in (1, 2) for z in range(4)),
        *((f"case{case:04d}", z) for case in (5, 6, 7) for z in range(3)),
    ]
    np.testing.assert_array_equal(rows["case0006", 2].mask, ids(62, 8, 6))
    np.testing.assert_array_equal(rows["case0002", 3].mask, ids(2, 4, 8, 6)[3])
    for row, values in ((rows["case0006", 2], grey(62, 8, 6)), (rows["case0002", 3], grey(2, 4, 8, 6)[3])):
        np.testing.assert_array_equal(row.image, np.rint(values * 255))
        assert row.spacing_mm is None
    assert {row.image.shape for row in synapse.read(tmp_path, size=(4, 3)).rows} == {(4, 3)}


def test_synapse_validates_on_training_cases_and_tests_on_the_published_ones(tmp_path: Path) -> None:
    dataset = written(synapse.read(transunet(tmp_path / "data")), tmp_path)
    assert cases_of(dataset, 0, "test") == {"case0001", "case0002"}
    assert cases_of(dataset, 0, "train", "val") == {"case0005", "case0006", "case0007"}
    assert len(cases_of(dataset, 0, "val")) == 1  # TransUNet has none, and test cases select nothing
    assert np.isnan(dataset.spacing_mm).all()
    assert dataset.metadata["image_scaling"] == "window -125 to 275 HU"
    assert "as stored" in dataset.metadata["orientation"]


@pytest.mark.parametrize(("train", "test"), [((5, 6, 7), ()), ((), (1, 2, 3)), ((5,), (1, 2))])
def test_synapse_is_split_by_case_where_a_part_would_be_empty(
    tmp_path: Path, train: tuple[int, ...], test: tuple[int, ...]
) -> None:
    imported = synapse.read(transunet(tmp_path / "data", train, test))
    assert imported.splits is None
    dataset = written(imported, tmp_path)
    assert all(len(part) for part in vars(dataset.folds[0]).values())


def test_synapse_by_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transunet(tmp_path / "data")
    monkeypatch.setenv("STUDY_HOME", str(tmp_path / "home"))
    arguments = ["import", "synapse", str(tmp_path / "data"), "ct", "--size", "4x4"]
    result = CliRunner().invoke(data_app, arguments, catch_exceptions=False)
    assert "17 images of 5 cases" in result.output
    dataset = open_dataset(tmp_path / "home" / "datasets" / "ct.parquet", cache=tmp_path / "cache")
    assert (dataset.shape, dataset.num_classes) == ((4, 4), 9)


SLICE = Path("train_npz") / "case0006_slice001.npz"
VOLUME = Path("test_vol_h5") / "case0002.npy.h5"


def absent_slice(root: Path) -> None:
    (root / SLICE).unlink()


def case_in_both_parts(root: Path) -> None:
    (root / VOLUME).rename(root / "test_vol_h5" / "case0006.npy.h5")


def odd_slice_name(root: Path) -> None:
    (root / SLICE).rename(root / "train_npz" / "case0006_1.npz")


def odd_volume_name(root: Path) -> None:
    (root / VOLUME).rename(root / "test_vol_h5" / "case2.h5")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (absent_slice, r"without gaps, but case0006 of .*train_npz lacks 1; fetch"),
        (
            case_in_both_parts,
            r"must train or test, but case0006 of .* in train_npz and in test_vol_h5; remove",
        ),
        (odd_slice_name, r"named like case0005_slice000\.npz, and .*case0006_1\.npz is not; rename"),
        (odd_volume_name, r"named like case0001\.npy\.h5, and .*case2\.h5 is not; rename"),
    ],
)
def test_synapse_refuses_spoiled_folders(tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(transunet(tmp_path))
    with pytest.raises(UserError, match=message):
        synapse.read(tmp_path)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def changed(**changes: Any) -> Callable[[Path], None]:
    """Writes the file again with other arrays; None leaves one out."""

    def spoil(path: Path) -> None:
        shape = (8, 6) if path.suffix == ".npz" else (4, 8, 6)
        arrays = {"image": grey(0, *shape), "label": ids(0, *shape)} | changes
        path.unlink()
        save = save_npz if path.suffix == ".npz" else save_h5
        save(path, **{name: values for name, values in arrays.items() if values is not None})

    return spoil


def pickled(path: Path) -> None:
    np.savez(path, image=np.array([print], dtype=object), label=ids(0, 8, 6))


def group_for_dataset(path: Path) -> None:
    path.unlink()
    with h5py.File(path, "w") as file:
        file["image"] = grey(0, 4, 8, 6)
        file.create_group("label")


@pytest.mark.parametrize(
    ("file", "spoil", "message"),
    [
        (SLICE, cut, r"slice001\.npz cannot be read as NPZ \(.+\); fetch"),
        (SLICE, empty, r"slice001\.npz cannot be read as NPZ \(.+\); fetch"),
        (SLICE, pickled, r"slice001\.npz cannot be read as NPZ \(Object arrays cannot be loaded.*; fetch"),
        (VOLUME, cut, r"case0002\.npy\.h5 cannot be read as HDF5 \(.+\); fetch"),
        (VOLUME, empty, r"case0002\.npy\.h5 cannot be read as HDF5 \(.+\); fetch"),
        (SLICE, changed(label=None), r"arrays image, label, but .*slice001\.npz lacks label; check"),
        (VOLUME, changed(image=None, label=None), r"but .*case0002\.npy\.h5 lacks image, label; check"),
        (VOLUME, group_for_dataset, r"case0002\.npy\.h5 lacks label; check"),
        (SLICE, changed(label=ids(0, 8, 5)), r"2 axes, but .* has image \(8, 6\), label \(8, 5\); fetch"),
        (VOLUME, changed(label=ids(0, 8, 6)), r"3 axes, but .* has image \(4, 8, 6\), label \(8, 6\); fetch"),
        (
            SLICE,
            changed(image=grey(0, 1, 8, 6), label=ids(0, 1, 8, 6)),
            r"of 2 axes, but .*image \(1, 8, 6\)",
        ),
        (SLICE, changed(image=grey(0, 0, 6), label=ids(0, 0, 6)), r"has image \(0, 6\), label \(0, 6\)"),
        (SLICE, changed(label=np.full((8, 6), "a")), r"must hold numbers, but .* has label of <U1; fetch"),
        (
            SLICE,
            changed(label=np.full((8, 6), 13.0)),
            r"0 to 8, but the label of .*slice001\.npz also holds 13;",
        ),
        (VOLUME, changed(label=np.full((4, 8, 6), 9)), r"ids 0 to 8, but the label of .*\.h5 also holds 9;"),
        (SLICE, changed(label=np.full((8, 6), 0.5)), r"also holds 0\.5;"),
        (SLICE, changed(image=grey(0, 8, 6) * 400 - 125), r"\[0, 1\], but the image .* -125 to 275; import"),
        (VOLUME, changed(image=np.full((4, 8, 6), np.nan)), r"\[0, 1\], but .* from nan to nan; import"),
    ],
)
def test_synapse_names_broken_files(
    tmp_path: Path, file: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(transunet(tmp_path) / file)
    with pytest.raises(UserError, match=message) as error:
        list(synapse.read(tmp_path).rows)
    assert "\n" not in str(error.value)
    assert file.name in str(error.value)


def test_synapse_rounding_of_a_float32_scaling_is_no_error(tmp_path: Path) -> None:
    root = transunet(tmp_path)
    changed(image=grey(0, 8, 6) * np.float32(1.000001))(root / SLICE)
    image = next(row.image for row in synapse.read(root).rows if row.image_id == "case0006/1")
    assert (image.min(), image.max()) == (0, 255)


def test_synapse_slices_of_two_sizes_need_a_size(tmp_path: Path) -> None:
    changed(image=grey(0, 8, 8), label=ids(0, 8, 8))(transunet(tmp_path) / SLICE)
    with pytest.raises(
        UserError, match=r"case0006 has 8x8, those before it 8x6; resize them all with --size"
    ):
        list(synapse.read(tmp_path).rows)


# --- Synapse, the owners' NIfTI -----------------------------------------------------------------------

SHAPE = (6, 8, 4)
HU = np.arange(-200, -200 + 192 * 3, 3, dtype=np.float32).reshape(SHAPE)
"""[X,Y,Z], running right, anterior, superior; below and above the window."""
RAW = (np.arange(192) % 14).astype(np.uint8).reshape(SHAPE)
"""All 13 raw labels and the background."""


def save_nifti(path: Path, values_RAS: np.ndarray, axes: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    ras = nib.Nifti1Image(values_RAS, np.diag([0.75, 0.5, 3.0, 1.0]))
    codes = nib.orientations.axcodes2ornt
    nib.save(ras.as_reoriented(nib.orientations.ornt_transform(codes("RAS"), codes(axes))), path)


def nifti(root: Path, *numbers: int, axes: str = "LAS", raw: np.ndarray = RAW) -> Path:
    for number in numbers:
        save_nifti(root / "img" / f"img{number:04d}.nii.gz", HU, axes)
        save_nifti(root / "label" / f"label{number:04d}.nii.gz", raw, axes)
    return root


def radiological(values_RAS: np.ndarray, z: int) -> np.ndarray:
    """Anterior first, the patient's right first."""
    return values_RAS[::-1, ::-1, z].T


@pytest.mark.parametrize("axes", ["RAS", "LAS", "LPS", "SAR"])
@pytest.mark.parametrize("below", ["", "RawData/Training", "Training"])
def test_synapse_nifti_is_axial_windowed_and_has_eight_organs(tmp_path: Path, below: str, axes: str) -> None:
    nifti(tmp_path / below, 7, axes=axes)
    dataset = synapse.read(tmp_path)
    rows = list(dataset.rows)
    assert [(row.case_id, row.slice_index) for row in rows] == [("case0007", z) for z in range(4)]
    assert "axial" in dataset.metadata["orientation"]
    # By hand, from the owners' list: 1 spleen, 2 right and 3 left kidney, 4 gallbladder, 5 oesophagus,
    # 6 liver, 7 stomach, 8 aorta, 9 vena cava, 10 portal vein, 11 pancreas, 12 and 13 adrenal glands.
    organ = np.array([0, 7, 4, 3, 2, 0, 5, 8, 1, 0, 0, 6, 0, 0], np.uint8)
    for z, row in enumerate(rows):
        np.testing.assert_array_equal(row.mask, radiological(organ[RAW], z))
        expected = np.rint((np.clip(radiological(HU, z), -125, 275) + 125) / 400 * 255)
        # float32 against float64 may round one grey level apart
        np.testing.assert_allclose(row.image.astype(float), expected, atol=1)
        assert row.spacing_mm == (0.5, 0.75, 3.0)
    assert {int(value) for row in rows for value in (row.image.min(), row.image.max())} >= {0, 255}
    names = dict(enumerate(dataset.class_names))
    assert (names[1], names[3], names[7]) == ("aorta", "left kidney", "spleen")


def test_synapse_nifti_has_the_published_split_of_the_cases_that_are_there(tmp_path: Path) -> None:
    everyone = [*range(1, 11), *range(21, 41)]
    assert sorted(synapse.TRAIN + synapse.TEST) == everyone
    assert (len(synapse.TRAIN), len(synapse.TEST)) == (18, 12)
    root = nifti(tmp_path / "data", 1, 5, 6, 38)
    dataset = written(synapse.read(root), tmp_path)
    assert cases_of(dataset, 0, "test") == {"case0001", "case0038"}
    assert cases_of(dataset, 0, "train", "val") == {"case0005", "case0006"}
    (root / "img" / "img0005.nii.gz").unlink()
    (root / "label" / "label0005.nii.gz").unlink()
    assert synapse.read(root).splits is None
    assert [row.image.shape for row in synapse.read(root, size=(4, 4)).rows] == [(4, 4)] * 12


def test_synapse_nifti_refusals(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must be an existing folder"):
        synapse.read(tmp_path / "absent")
    with pytest.raises(UserError, match=r"must hold train_npz/ .* has neither; give"):
        synapse.read(tmp_path)
    nifti(tmp_path, 5, raw=RAW + np.uint8(1))
    with pytest.raises(UserError, match=r"0 to 13, but .*label0005\.nii\.gz also holds 14;"):
        list(synapse.read(tmp_path).rows)
    save_nifti(tmp_path / "label" / "label0005.nii.gz", RAW[:-1], "LAS")
    with pytest.raises(UserError, match=r"must have one shape, but .*\(6, 8, 4\) and .*\(5, 8, 4\)"):
        list(synapse.read(tmp_path).rows)
    (tmp_path / "label" / "label0005.nii.gz").rename(tmp_path / "label" / "label0006.nii.gz")
    with pytest.raises(UserError, match=r"stand alone: img0005\.nii\.gz, label0006\.nii\.gz; fetch"):
        synapse.read(tmp_path)
    (tmp_path / "img" / "img0005.nii.gz").rename(tmp_path / "img" / "img5.nii.gz")
    with pytest.raises(UserError, match=r"named like img0001\.nii\.gz, and .*img5\.nii\.gz is not"):
        synapse.read(tmp_path)


# --- WSL4MIS ------------------------------------------------------------------------------------------


def scribbled(seed: int) -> dict[str, np.ndarray]:
    """A slice with every class and, unlabelled, 4 in its scribble."""
    label = ids(seed, 7, 9, count=4)
    drawn = np.random.default_rng([seed, 2]).random(label.shape) < 0.3
    return {
        "image": grey(seed, 7, 9),
        "label": label,
        "scribble": np.where(drawn, label, 4).astype(np.uint16),
    }


def packed(root: Path, *numbers: int, slices: int = 11) -> Path:
    for number in numbers:
        for frame in (1, 12):
            for z in range(slices):
                name = f"patient{number:03d}_frame{frame:02d}_slice_{z}.h5"
                save_h5(root / name, **scribbled(1000 * number + 100 * frame + z))
    return root


@pytest.mark.parametrize("below", ["", "ACDC_training_slices"])
def test_wsl4mis_keeps_every_slice_and_its_scribbles(tmp_path: Path, below: str) -> None:
    packed(tmp_path / below, 7)
    dataset = wsl4mis.read(tmp_path, size=(14, 9))
    assert dataset.class_names == acdc.CLASS_NAMES
    rows = list(dataset.rows)
    # by number, not by name: "slice_10" is the last, not the third
    assert [(row.frame, row.slice_index) for row in rows] == [
        (frame, z) for frame in ("frame01", "frame12") for z in range(11)
    ]
    stored = scribbled(7000 + 1200 + 10)
    zoomed = {name: ndimage.zoom(values, (2, 1), order=0) for name, values in stored.items()}
    np.testing.assert_array_equal(rows[-1].image, np.rint(zoomed["image"] * 255))
    np.testing.assert_array_equal(rows[-1].mask, zoomed["label"])
    np.testing.assert_array_equal(
        rows[-1].scribble, np.where(zoomed["scribble"] == 4, 255, zoomed["scribble"])
    )
    assert {row.spacing_mm for row in rows} == {None}
    assert dataset.splits is None  # one patient


def test_wsl4mis_default_size_is_256_by_nearest_neighbour(tmp_path: Path) -> None:
    row = next(wsl4mis.read(packed(tmp_path, 1)).rows)
    assert row.scribble is not None
    assert row.image.shape == row.mask.shape == row.scribble.shape == (256, 256)
    assert len(np.unique(row.image)) <= 63  # nothing interpolated between the 7 x 9 values
    assert 255 in row.scribble
    assert 4 not in row.scribble


def test_wsl4mis_round_trip_with_the_folds_of_acdc(tmp_path: Path) -> None:
    numbers = (1, 2, 21, 22, 74, 76, 100)
    root = packed(tmp_path / "data", *numbers, slices=1)
    dataset = written(wsl4mis.read(root, size=(8, 8)), tmp_path)
    assert dataset.fold_names == ("wsl4mis1", "wsl4mis2", "wsl4mis4", "wsl4mis5")
    assert [cases_of(dataset, fold, "test") for fold in range(4)] == [
        {"patient001", "patient002"}, {"patient021", "patient022"}, {"patient074", "patient076"},
        {"patient100"},
    ]  # fmt: skip
    assert len(cases_of(dataset, 0, "train", "val")) == 5
    for fold in dataset.folds:  # the same images, annotated twice
        twins = {dataset.case_ids.index("patient074"), dataset.case_ids.index("patient076")}
        assert [len(twins & set(part.tolist())) for part in vars(fold).values()].count(2) == 1
    assert dataset.scribbles_NHW is not None
    assert 4 not in dataset.scribbles_NHW
    assert np.isnan(dataset.spacing_mm).all()


def test_wsl4mis_and_acdc_give_the_same_ten_folds(tmp_path: Path) -> None:
    for number in range(1, 101):  # only the names are read
        save_h5(tmp_path / f"patient{number:03d}_frame01_slice_0.h5")
    pathologies = ("DCM", "HCM", "MINF", "NOR", "RV")
    expected = acdc.folds({f"patient{n:03d}": pathologies[(n - 1) // 20] for n in range(1, 101)})
    assert expected is not None
    assert len(expected["folds"]) == 10
    assert wsl4mis.read(tmp_path).splits == expected


def test_wsl4mis_by_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed(tmp_path / "ACDC_training_slices", 1, 30, 50, slices=2)
    monkeypatch.setenv("STUDY_HOME", str(tmp_path / "home"))
    arguments = ["import", "wsl4mis", str(tmp_path), "hearts", "--size", "16x16"]
    result = CliRunner().invoke(data_app, arguments, catch_exceptions=False)
    assert "12 images of 3 cases" in result.output
    arguments = ["inspect", "hearts", "--sheet", str(tmp_path / "sheet.png")]
    shown = CliRunner().invoke(data_app, arguments, catch_exceptions=False).output
    assert all(name in shown for name in ("wsl4mis1", "wsl4mis2", "wsl4mis3"))


SCRIBBLED = "patient001_frame12_slice_1.h5"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scribble": None}, r"image, label, scribble, but .* lacks scribble; check"),
        ({"scribble": np.full((7, 9), 7, np.uint16)}, r"scribble \(4 = unlabelled\) of .* also holds 7;"),
        ({"label": np.full((7, 9), 4, np.uint8)}, r"ids 0 to 3, but the label of .* also holds 4;"),
        ({"label": np.zeros((7, 8), np.uint8)}, r"image \(7, 9\), label \(7, 8\), scribble \(7, 9\); fetch"),
        ({"image": np.full((7, 9), 255.0)}, r"in \[0, 1\], but the image of .* from 255 to 255; import"),
    ],
)
def test_wsl4mis_names_broken_files(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = packed(tmp_path, 1, slices=2) / SCRIBBLED
    path.unlink()
    arrays = scribbled(0) | changes
    save_h5(path, **{name: values for name, values in arrays.items() if values is not None})
    with pytest.raises(UserError, match=message) as error:
        list(wsl4mis.read(tmp_path).rows)
    assert path.name in str(error.value)
    cut(path)
    with pytest.raises(UserError, match=r"slice_1\.h5 cannot be read as HDF5"):
        list(wsl4mis.read(tmp_path).rows)


def test_wsl4mis_refusals(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must hold patient001_frame01_slice_0\.h5, .* has none; give"):
        wsl4mis.read(tmp_path)
    packed(tmp_path, 3, slices=4)
    (tmp_path / "patient003_frame12_slice_0.h5").unlink()
    (tmp_path / "patient003_frame12_slice_2.h5").unlink()
    with pytest.raises(UserError, match=r"without gaps, but patient003 frame12 of .* lacks 0, 2; fetch"):
        wsl4mis.read(tmp_path)
    (tmp_path / "patient003_frame12_slice_1.h5").rename(tmp_path / "patient003_slice_1.h5")
    with pytest.raises(UserError, match=r"named like patient001_frame01_.*patient003_slice_1\.h5 is not"):
        wsl4mis.read(tmp_path)
