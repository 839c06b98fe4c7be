"""Importers on tiny trees in the owners' layouts: arrays, classes, spacing, orientation, refusals."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from search_spaces import UserError
from trainables.data.dataset import open_dataset
from trainables.data.importers import acdc, base, busi, folder, kits, msd, msd_hippocampus
from trainables.data.parquet import write_dataset
from trainables.data.splits import folds_of

RAMP = np.arange(6 * 8 * 5, dtype=np.float32).reshape(6, 8, 5)
"""[X,Y,Z], running right, anterior, superior; every voxel differs."""


def block(shape: Sequence[int] = RAMP.shape, z: Sequence[int] = (1, 2), value: int = 1) -> np.ndarray:
    """A mask with the rightmost, most anterior 2 x 3 voxels of the slices `z`."""
    mask = np.zeros(shape, np.uint8)
    for index in z:
        mask[-2:, -3:, index] = value
    return mask


def save(
    path: Path,
    values_RAS: np.ndarray,
    axes: str = "RAS",
    spacing: Sequence[float] = (1.0, 2.0, 3.0),
) -> None:
    """Writes RAS values on a grid whose axes run to `axes`; spacing along x, y, z."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ras = nib.Nifti1Image(values_RAS, np.diag([*spacing, 1.0]))
    moves = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(axes)
    )
    nib.save(ras.as_reoriented(moves), path)


def radiological(values_RAS: np.ndarray, z: int) -> np.ndarray:
    """Row by row: anterior first, the patient's right first."""
    x_size, y_size = values_RAS.shape[:2]
    return np.array(
        [[values_RAS[x_size - 1 - c, y_size - 1 - r, z] for c in range(x_size)] for r in range(y_size)]
    )


# --- shared steps -------------------------------------------------------------------------------------


def test_names_are_the_files_and_unknown_ones_get_the_nearest() -> None:
    assert base.names() == ["acdc", "busi", "folder", "kits", "msd", "msd-hippocampus", "synapse", "wsl4mis"]
    assert base.load("msd-hippocampus") is msd_hippocampus.read
    with pytest.raises(UserError, match=r"no importer 'adcd'\. Did you mean 'acdc'\?"):
        base.load("adcd")


def test_scaling_to_uint8_by_hand() -> None:
    values = np.array([-200.0, -160.0, 40.0, 240.0, 999.0], np.float32)
    assert base.to_uint8(values, *base.CT_WINDOW_HU).tolist() == [0, 0, 128, 255, 255]  # 127.5 rounds to even
    assert base.to_uint8(values, 3.0, 3.0).tolist() == [0] * 5


def test_volume_scaling_ignores_one_hot_voxel() -> None:
    values = np.append(np.linspace(0, 100, 10_000, dtype=np.float32), np.float32(1e6))
    scaled = base.scale_volume(values, 99.0)
    assert scaled[5000] == 129  # 50 of 99
    assert scaled[-1] == 255


def test_centre_crop_and_pad_put_odd_voxels_at_the_high_end() -> None:
    line = np.arange(1, 6).reshape(5, 1)
    assert base.centre_crop(line, (2, 1)).ravel().tolist() == [2, 3]
    assert base.centre_crop(line, (8, 1)).ravel().tolist() == [0, 1, 2, 3, 4, 5, 0, 0]


def test_resizing_averages_areas_and_keeps_ids() -> None:
    image = np.array([[0, 100, 8, 8], [100, 200, 8, 8]], np.uint8)
    assert base.resize_image(image, (1, 2)).tolist() == [[100, 8]]
    mask = np.array([[0, 3], [1, 0]], np.uint8)
    assert base.resize_mask(mask, (2, 4)).tolist() == [[0, 0, 3, 3], [1, 1, 0, 0]]
    assert base.resized_spacing((1.0, 2.0, 5.0), (10, 20), (20, 5)) == (0.5, 8.0, 5.0)


def test_kept_slices_are_the_labelled_ones_and_each_tenth_empty_one() -> None:
    mask_ZHW = np.zeros((25, 2, 2), np.uint8)
    mask_ZHW[[3, 4], 0, 1] = 1
    assert base.kept_slices(mask_ZHW) == [0, 3, 4, 12, 22]


# --- Medical Segmentation Decathlon -------------------------------------------------------------------


def decathlon(
    root: Path, *, modality: str = "MRI", labels: Sequence[str] = ("background", "Anterior")
) -> Path:
    """A task folder with one case "h_001" in an awkward orientation."""
    root.mkdir(parents=True)
    declared = {
        "name": "Toy",
        "modality": {"0": modality},
        "labels": {str(i): n for i, n in enumerate(labels)},
    }
    (root / "dataset.json").write_text(json.dumps(declared))
    save(root / "imagesTr" / "h_001.nii.gz", RAMP, axes="LPS")
    save(root / "labelsTr" / "h_001.nii.gz", block(), axes="LPS")
    save(root / "imagesTs" / "h_002.nii.gz", RAMP)
    return root


def packed(folder: Path, archive: Path) -> Path:
    """The owners' .tar: one top folder, and the twins that macOS adds."""
    with tarfile.open(archive, "w") as tar:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                name = f"./Task99_Toy/{path.relative_to(folder)}"
                tar.add(path, name)
                twin = tarfile.TarInfo(str(Path(name).with_name(f"._{path.name}")))
                twin.size = 4
                tar.addfile(twin, io.BytesIO(b"\0\5\x16\7"))
    return archive


@pytest.mark.parametrize("as_tar", [False, True])
def test_msd_slices_are_radiological_and_scaled_per_volume(tmp_path: Path, as_tar: bool) -> None:
    task = decathlon(tmp_path / "Task99_Toy")
    dataset = msd.read(packed(task, tmp_path / "Task99_Toy.tar") if as_tar else task)
    assert (dataset.name, dataset.class_names) == ("msd-toy", ("background", "Anterior"))
    rows = list(dataset.rows)
    assert [(row.case_id, row.slice_index) for row in rows] == [("h_001", 0), ("h_001", 1), ("h_001", 2)]
    upper = np.percentile(RAMP, 99.9)
    expected = np.rint(np.clip(radiological(RAMP, 1) / upper, 0, 1) * 255)
    # float32 against float64 may round one grey level apart
    np.testing.assert_allclose(rows[1].image.astype(float), expected, atol=1)
    assert rows[1].image[0, 0] == rows[1].image.max()  # the ramp is highest at the right, anterior corner
    assert np.argwhere(rows[1].mask).max(axis=0).tolist() == [2, 1]
    assert rows[1].mask[:3, :2].all()
    assert not rows[0].mask.any()
    assert rows[0].spacing_mm == (2.0, 1.0, 3.0)
    assert {row.image.dtype for row in rows} == {np.dtype(np.uint8)}


@pytest.mark.parametrize("axes", ["RAS", "LPS", "IPL", "SAR", "PIR"])
def test_msd_orientation_of_the_file_changes_nothing(tmp_path: Path, axes: str) -> None:
    task = decathlon(tmp_path / "task")
    reference = list(msd.read(task).rows)
    save(task / "imagesTr" / "h_001.nii.gz", RAMP, axes=axes)
    save(task / "labelsTr" / "h_001.nii.gz", block(), axes=axes)
    for row, other in zip(msd.read(task).rows, reference, strict=True):
        np.testing.assert_array_equal(row.image, other.image)
        np.testing.assert_array_equal(row.mask, other.mask)
        assert row.spacing_mm == other.spacing_mm


def test_msd_ct_uses_the_window_and_the_first_of_several_channels(tmp_path: Path) -> None:
    task = decathlon(tmp_path / "task", modality="CT")
    channels = np.stack([np.full(RAMP.shape, 40.0), np.full(RAMP.shape, 900.0)], axis=-1).astype(np.float32)
    nib.save(nib.Nifti1Image(channels, np.eye(4)), task / "imagesTr" / "h_001.nii.gz")
    nib.save(nib.Nifti1Image(block(), np.eye(4)), task / "labelsTr" / "h_001.nii.gz")
    rows = list(msd.read(task).rows)
    assert {int(value) for row in rows for value in np.unique(row.image)} == {128}


def test_msd_volumes_of_two_sizes_need_a_size(tmp_path: Path) -> None:
    task = decathlon(tmp_path / "task")
    save(task / "imagesTr" / "h_002.nii.gz", RAMP[:, :6])
    save(task / "labelsTr" / "h_002.nii.gz", block()[:, 2:])
    with pytest.raises(UserError, match=r"h_002 has 6x6, those before it 8x6; resize them all with --size"):
        list(msd.read(task).rows)
    rows = list(msd.read(task, size=(4, 3)).rows)
    assert {row.image.shape for row in rows} == {row.mask.shape for row in rows} == {(4, 3)}
    assert {row.case_id: row.spacing_mm for row in rows} == {
        "h_001": (4.0, 2.0, 3.0),
        "h_002": (3.0, 2.0, 3.0),
    }


def test_msd_refuses_what_is_no_task(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        msd.read(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"must hold dataset\.json"):
        msd.read(tmp_path / "empty")
    (tmp_path / "text.tar").write_text("no archive " * 100)
    with pytest.raises(UserError, match=r"whole, uncompressed \.tar"):
        msd.read(tmp_path / "text.tar")
    task = decathlon(tmp_path / "tasks" / "a")
    decathlon(tmp_path / "tasks" / "b")
    with pytest.raises(UserError, match="One task is imported at a time"):
        msd.read(tmp_path / "tasks")
    (task / "dataset.json").write_text("{")
    with pytest.raises(UserError, match="must be JSON"):
        msd.read(task)
    (task / "dataset.json").write_text("{}")
    with pytest.raises(UserError, match='must declare "labels"'):
        msd.read(task)
    (task / "dataset.json").write_text('{"labels": {"0": "background", "2": "x"}}')
    with pytest.raises(UserError, match=r"without gaps"):
        msd.read(task)


def test_msd_cut_archive_is_refused(tmp_path: Path) -> None:
    archive = packed(decathlon(tmp_path / "task"), tmp_path / "task.tar")
    archive.write_bytes(archive.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"whole, uncompressed \.tar"):
        msd.read(archive)


def test_msd_missing_labels_and_images_are_named_at_once(tmp_path: Path) -> None:
    task = decathlon(tmp_path / "task")
    save(task / "imagesTr" / "h_003.nii.gz", RAMP)
    save(task / "labelsTr" / "h_004.nii.gz", block())
    with pytest.raises(UserError, match=r"stand alone: imagesTr/h_003, labelsTr/h_004"):
        msd.read(task)
    for path in [*task.glob("imagesTr/*"), *task.glob("labelsTr/*")]:
        path.unlink()
    with pytest.raises(UserError, match=r"must hold imagesTr"):
        msd.read(task)


def nan_image(task: Path) -> None:
    save(task / "imagesTr" / "h_001.nii.gz", np.where(RAMP == 7, np.nan, RAMP).astype(np.float32), axes="LPS")


def undeclared_id(task: Path) -> None:
    save(task / "labelsTr" / "h_001.nii.gz", block(value=2), axes="LPS")


def fractional_id(task: Path) -> None:
    save(task / "labelsTr" / "h_001.nii.gz", block().astype(np.float32) / 2, axes="LPS")


def other_shape(task: Path) -> None:
    save(task / "labelsTr" / "h_001.nii.gz", block()[:-1], axes="LPS")


def other_orientation(task: Path) -> None:
    save(task / "labelsTr" / "h_001.nii.gz", block(), axes="RPS")


def cut_plain_file(task: Path) -> None:
    """A whole gzip stream of half a volume: nibabel's own message has two lines."""
    path = task / "imagesTr" / "h_001.nii.gz"
    nib.save(nib.Nifti1Image(RAMP, np.eye(4)), task / "whole.nii")
    path.write_bytes(gzip.compress((task / "whole.nii").read_bytes()[:-40]))


def no_nifti(task: Path) -> None:
    (task / "imagesTr" / "h_001.nii.gz").write_bytes(b"not a volume")


def cut_file(task: Path) -> None:
    path = task / "imagesTr" / "h_001.nii.gz"
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize("as_tar", [False, True])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (nan_image, r"must be finite, but .*imagesTr/h_001\.nii\.gz has 1 NaN"),
        (undeclared_id, r"class ids 0 to 1, but .*labelsTr/h_001\.nii\.gz also holds 2;"),
        (fractional_id, r"also holds 0\.5;"),
        (other_shape, r"must have one shape, but .*\(6, 8, 5\) and .*\(5, 8, 5\)"),
        (other_orientation, r"oriented alike, but .* runs LPS and .* RPS"),
        (no_nifti, r"imagesTr/h_001\.nii\.gz cannot be read as NIfTI"),
        (cut_plain_file, r"imagesTr/h_001\.nii\.gz cannot be read as NIfTI \(Expected 960 bytes"),
        (cut_file, r"imagesTr/h_001\.nii\.gz cannot be read as NIfTI"),
    ],
)
def test_msd_broken_volumes_are_named(
    tmp_path: Path, spoil: Callable[[Path], None], message: str, as_tar: bool
) -> None:
    task = decathlon(tmp_path / "task")
    spoil(task)
    rows = msd.read(packed(task, tmp_path / "task.tar") if as_tar else task).rows
    with pytest.raises(UserError, match=message) as error:
        list(rows)
    assert "\n" not in str(error.value)


# --- hippocampus --------------------------------------------------------------------------------------


def hippocampus(root: Path) -> Path:
    """One volume of 35 x 45 x 3 voxels: the right, anterior voxel of the crop is marked in image and mask."""
    decathlon(root, labels=("background", "Anterior", "Posterior"))
    image = np.zeros((35, 45, 3), np.float32)
    image[0, 0, :] = 50  # left, posterior: cut away in x
    image[32, 44, :] = 100  # right, anterior: the last column that stays
    mask = np.zeros(image.shape, np.uint8)
    mask[28:33, 40:45, 0] = 1  # 25 voxels; 1 % of 48 x 32 is 15.36
    mask[28:33, 40:43, 1] = 2  # 15 voxels: below
    mask[28:32, 40:44, 2] = 2  # 16 voxels: just enough
    save(root / "imagesTr" / "h_001.nii.gz", image, spacing=(1.0, 1.0, 1.0))
    save(root / "labelsTr" / "h_001.nii.gz", mask, spacing=(1.0, 1.0, 1.0))
    return root


def test_hippocampus_crops_pads_and_selects(tmp_path: Path) -> None:
    dataset = msd_hippocampus.read(hippocampus(tmp_path / "task"))
    rows = list(dataset.rows)
    assert dataset.class_names == ("background", "Anterior", "Posterior")
    assert [row.slice_index for row in rows] == [0, 2]
    assert {row.image.shape for row in rows} == {(48, 32)}
    # x: 35 -> 32 drops 1 low and 2 high, so x = 32 is column 0;
    # y: 45 -> 48 pads 1 low and 2 high, so y = 44 is row 2
    assert np.argwhere(rows[0].image).tolist() == [[2, 0]]
    assert rows[0].image[2, 0] == 255
    assert np.argwhere(rows[0].mask).min(axis=0).tolist() == [2, 0]
    assert int((rows[0].mask == 1).sum()) == 25
    assert int((rows[1].mask == 2).sum()) == 16
    assert rows[0].spacing_mm == (1.0, 1.0, 1.0)


def test_hippocampus_may_be_resized_after_the_crop(tmp_path: Path) -> None:
    rows = list(msd_hippocampus.read(hippocampus(tmp_path / "task"), size=(24, 16)).rows)
    assert {row.image.shape for row in rows} == {(24, 16)}
    assert rows[0].spacing_mm == (2.0, 2.0, 1.0)


@pytest.mark.parametrize(
    ("source", "url"),
    [
        ("download", msd_hippocampus.URL),
        (Path("download"), msd_hippocampus.URL),
        ("https://mirror.example/Task04.tar", "https://mirror.example/Task04.tar"),
        (Path("https://mirror.example/Task04.tar"), "https://mirror.example/Task04.tar"),
    ],
)
def test_hippocampus_download_goes_through_fetch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: Path | str, url: str
) -> None:
    archive = packed(hippocampus(tmp_path / "task"), tmp_path / "task.tar")
    asked = []

    def fetch(url: str, target: Path, *, md5: str, limit_bytes: int, timeout: float) -> Path:
        asked.append((url, target, md5))
        return archive

    monkeypatch.setattr(msd_hippocampus, "fetch", fetch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert len(list(msd_hippocampus.read(source).rows)) == 2
    target = tmp_path / "cache" / "weak-supervision-study" / "Task04_Hippocampus.tar"
    assert asked == [(url, target, "9d24dba78a72977dbd1d2e110310f31b")]


# --- ACDC ---------------------------------------------------------------------------------------------


def patient(root: Path, name: str, group: str = "NOR", frames: tuple[int, int] = (1, 12)) -> Path:
    """The image is RAMP as stored, the mask 3 at the first stored voxel of slices 1 and 2."""
    folder = root / name
    folder.mkdir(parents=True)
    info = f"ED: {frames[0]}\nES: {frames[1]}\nGroup: {group}\nHeight: 184.0\nNbFrame: 30\nWeight: 95.0\n"
    (folder / "Info.cfg").write_text(info)
    mask = np.zeros(RAMP.shape, np.uint8)
    mask[0, 0, 1:3] = 3
    affine = np.diag([-1.5, -1.5, 10.0, 1.0])
    for frame in frames:
        nib.save(nib.Nifti1Image(RAMP, affine), folder / f"{name}_frame{frame:02d}.nii.gz")
        nib.save(nib.Nifti1Image(mask, affine), folder / f"{name}_frame{frame:02d}_gt.nii.gz")
    return folder


@pytest.mark.parametrize("below", ["", "training", "database/training"])
def test_acdc_keeps_every_slice_as_stored(tmp_path: Path, below: str) -> None:
    patient(tmp_path / below, "patient007", frames=(4, 11))
    dataset = acdc.read(tmp_path, size=(8, 6))
    assert dataset.class_names == ("background", "right ventricle", "myocardium", "left ventricle")
    assert "licence" in dataset.metadata
    rows = list(dataset.rows)
    assert [(row.frame, row.slice_index) for row in rows] == [
        (frame, z) for frame in ("frame04", "frame11") for z in range(5)
    ]
    upper = np.percentile(RAMP, 99)
    expected = np.rint(np.clip(RAMP[:, :, 1].T / upper, 0, 1) * 255)  # rows = y, columns = x
    np.testing.assert_allclose(rows[1].image.astype(float), expected, atol=1)
    assert np.argwhere(rows[1].mask == 3).tolist() == [[0, 0]]
    assert not rows[0].mask.any()
    assert rows[0].spacing_mm == (1.5, 1.5, 10.0)
    assert dataset.splits is None  # one patient cannot be stratified


def test_acdc_default_size_is_256_by_nearest_neighbour(tmp_path: Path) -> None:
    patient(tmp_path, "patient001")
    row = next(acdc.read(tmp_path).rows)
    assert row.image.shape == row.mask.shape == (256, 256)
    assert len(np.unique(row.image)) <= 48  # nothing interpolated between the 6 x 8 values
    assert row.spacing_mm == (1.5 * 8 / 256, 1.5 * 6 / 256, 10.0)


def pathologies(numbers: Sequence[int] = range(1, 101)) -> dict[str, str]:
    """As in the owners' training set: twenty patients each, in blocks."""
    groups = ("DCM", "HCM", "MINF", "NOR", "RV")
    return {f"patient{n:03d}": groups[(n - 1) // 20 % 5] for n in numbers}


def folds_of_acdc(pathology: dict[str, str]) -> dict[str, dict[str, list[str]]]:
    document = acdc.folds(pathology)
    assert document is not None
    return document["folds"]


def test_acdc_folds_are_first_those_of_wsl4mis_then_the_stratified_ones() -> None:
    folds = folds_of_acdc(pathologies())
    assert list(folds) == [f"{kind}{n}" for kind in ("wsl4mis", "stratified") for n in range(1, 6)]
    for number in range(5):
        fold = folds[f"wsl4mis{number + 1}"]
        test = [f"patient{n:03d}" for n in range(20 * number + 1, 20 * number + 21)]
        assert fold == {"test": test, "train": sorted(pathologies().keys() - set(test))}  # and no "val"


def test_acdc_stratified_folds_take_four_of_each_pathology_and_each_patient_tests_once() -> None:
    pathology = pathologies()
    folds = [fold for name, fold in folds_of_acdc(pathology).items() if name.startswith("stratified")]
    tested = Counter(case for fold in folds for case in fold["test"])
    assert tested == dict.fromkeys(pathology, 1)
    for fold in folds:
        assert sorted(case for part in fold.values() for case in part) == sorted(pathology)
        assert Counter(pathology[case] for case in fold["test"]) == dict.fromkeys(pathology.values(), 4)
        validating = Counter(pathology[case] for case in fold["val"])
        assert set(validating) == set(pathology.values())
        assert set(validating.values()) <= {2, 3}  # 3 where the two patients of one image lie
        part_of = {case: part for part, cases in fold.items() for case in cases}
        assert part_of["patient074"] == part_of["patient076"]  # the same images


def test_acdc_stratified_folds_test_the_patients_that_the_shared_split_tests() -> None:
    path = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "acdc_folds.json"
    if not path.exists():
        pytest.skip("the shared ACDC folds are not on this machine")
    shared = json.loads(path.read_text())
    folds = folds_of_acdc(pathologies())
    for number in range(1, 6):
        assert folds[f"wsl4mis{number}"] == shared["folds"][f"fold{number}"]
        assert folds[f"stratified{number}"]["test"] == shared["stratified5"]["folds"][f"fold{number}"]["test"]


def test_acdc_folds_do_not_depend_on_the_order_of_patients() -> None:
    forward = pathologies()
    assert folds_of_acdc(dict(reversed(forward.items()))) == folds_of_acdc(forward)


@pytest.mark.parametrize(
    ("numbers", "names"),
    [
        (range(1, 11), [f"stratified{n}" for n in range(1, 6)]),  # nobody left to train on in wsl4mis1
        ([1, 2, 21, 22, 61], ["wsl4mis1", "wsl4mis2", "wsl4mis4"]),
        ([61, 62, 74, 76, 81], ["wsl4mis4", "wsl4mis5"][1:]),  # one patient cannot train and validate
        ([74, 76, 81], []),  # nor can two with the same images
        ([74, 76, 81, 82], ["wsl4mis4", "wsl4mis5"][:1]),
        (range(101, 111), [f"stratified{n}" for n in range(1, 6)]),  # the owners' test set
    ],
)
def test_acdc_folds_of_some_patients_are_those_without_an_empty_part(
    numbers: Sequence[int], names: list[str]
) -> None:
    pathology = pathologies(numbers)
    document = acdc.folds(pathology)
    assert list((document or {"folds": {}})["folds"]) == names
    if document is not None:  # none leaks, none has an empty part
        assert list(folds_of(document, {case: acdc.group(case) for case in pathology}, "acdc")) == names


def test_acdc_twins_share_a_group(tmp_path: Path) -> None:
    for name in ("patient074", "patient075", "patient076"):
        patient(tmp_path, name)
    groups = {row.case_id: row.group for row in acdc.read(tmp_path, size=(8, 6)).rows}
    assert groups == {"patient074": "patient074", "patient075": "patient075", "patient076": "patient074"}


def test_acdc_refusals(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must hold folders patient001"):
        acdc.read(tmp_path)
    with pytest.raises(UserError, match="must be an existing folder"):
        acdc.read(tmp_path / "absent")
    folder = patient(tmp_path, "patient001")
    (folder / "patient001_frame12_gt.nii.gz").unlink()
    with pytest.raises(UserError, match=r"of its ES frame, but patient001_frame12_gt\.nii\.gz is missing"):
        acdc.read(tmp_path)
    (folder / "Info.cfg").write_text("ED: one\nGroup: NOR\n")
    with pytest.raises(UserError, match="must give ED and ES"):
        acdc.read(tmp_path)
    (folder / "Info.cfg").unlink()
    with pytest.raises(UserError, match=r"Info\.cfg is missing"):
        acdc.read(tmp_path)


def test_acdc_undeclared_id_and_nan(tmp_path: Path) -> None:
    folder = patient(tmp_path, "patient001")
    label = folder / "patient001_frame01_gt.nii.gz"
    nib.save(nib.Nifti1Image(np.full(RAMP.shape, 4, np.uint8), np.diag([-1.5, -1.5, 10, 1])), label)
    with pytest.raises(UserError, match="also holds 4"):
        list(acdc.read(tmp_path).rows)
    nib.save(nib.Nifti1Image(np.full(RAMP.shape, np.inf, np.float32), np.eye(4)), label)
    with pytest.raises(UserError, match=r"frame01_gt\.nii\.gz has 240 NaN or infinite"):
        list(acdc.read(tmp_path).rows)


# --- BUSI ---------------------------------------------------------------------------------------------


def picture(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def noise(seed: int, shape: tuple[int, ...] = (64, 96)) -> np.ndarray:
    """Smooth blobs, so that a thumbnail still shows them."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 12), dtype=np.uint8)
    return np.kron(coarse, np.ones((shape[0] // 8, shape[1] // 12), np.uint8))


def ultrasound(root: Path) -> Path:
    """benign 1 with two masks, malignant 1 nearly the same image, normal 1 and 12 with empty masks."""
    top = np.zeros((64, 96), np.uint8)
    top[:16, :24] = 255
    bottom = np.zeros((64, 96), np.uint8)
    bottom[48:, 72:] = 255
    first = noise(0)
    picture(root / "benign" / "benign (1).png", np.stack([first] * 3, axis=-1))
    picture(root / "benign" / "benign (1)_mask.png", top)
    picture(root / "benign" / "benign (1)_mask_1.png", bottom)
    picture(root / "malignant" / "malignant (1).png", first // 2 + 20)
    picture(root / "malignant" / "malignant (1)_mask.png", top)
    for number in (1, 12):
        picture(root / "normal" / f"normal ({number}).png", noise(number))
        picture(root / "normal" / f"normal ({number})_mask.png", np.zeros((64, 96), bool))
    return root


@pytest.mark.parametrize("below", ["", "Dataset_BUSI_with_GT"])
def test_busi_unites_masks_and_groups_near_duplicates(tmp_path: Path, below: str) -> None:
    ultrasound(tmp_path / below)
    dataset = busi.read(tmp_path, size=(32, 48))
    rows = {row.case_id: row for row in dataset.rows}
    assert list(rows) == ["benign_001", "malignant_001", "normal_001", "normal_012"]
    assert dataset.class_names == ("background", "lesion")
    assert dataset.splits is None
    expected = np.zeros((32, 48), np.uint8)
    expected[:8, :12] = expected[24:, 36:] = 1
    np.testing.assert_array_equal(rows["benign_001"].mask, expected)
    np.testing.assert_array_equal(rows["benign_001"].image, noise(0)[::2, ::2])  # blobs of 8 x 8 pixels stay
    assert not rows["normal_001"].mask.any()
    assert {case: row.group for case, row in rows.items()} == {
        "benign_001": "benign_001",
        "malignant_001": "benign_001",
        "normal_001": "normal_001",
        "normal_012": "normal_012",
    }


def test_busi_default_size(tmp_path: Path) -> None:
    row = next(busi.read(ultrasound(tmp_path)).rows)
    assert row.image.shape == row.mask.shape == (256, 256)


def test_duplicates_chain_and_constant_images_match_nothing() -> None:
    rng = np.random.default_rng(0)
    a, step = rng.normal(size=(2, 32, 32))
    chain = [a, a + 0.35 * step, a + 0.75 * step]  # neighbours correlate above 0.92, the ends below
    images = {f"c{i}": np.clip(image * 20 + 128, 0, 255).astype(np.uint8) for i, image in enumerate(chain)}
    ends = np.corrcoef(images["c0"].ravel(), images["c2"].ravel())[0, 1]
    assert ends < busi.LEAST_CORRELATION
    flat = np.full((32, 32), 7, np.uint8)
    groups = busi.duplicate_groups({**images, "flat1": flat, "flat2": flat})
    assert groups == {"c0": "c0", "c1": "c0", "c2": "c0", "flat1": "flat1", "flat2": "flat2"}


def test_busi_groups_of_the_whole_dataset() -> None:
    """780 images make 593 groups, as another implementation found on the originals."""
    path = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "busi_256.parquet"
    if not path.exists():
        pytest.skip("the shared BUSI file is not on this machine")
    table = pq.read_table(path, columns=["case_id", "image", "duplicate_group"])
    images = {
        case: base.resize_image(np.frombuffer(image, np.uint8).reshape(256, 256), busi.THUMBNAIL)
        for case, image in zip(table["case_id"].to_pylist(), table["image"].to_pylist(), strict=True)
    }
    groups = busi.duplicate_groups(images)
    published = table["duplicate_group"].to_pylist()
    assert len(set(groups.values())) == len(set(published)) == 593
    assert len(set(zip(groups.values(), published, strict=True))) == 593  # one to one


def test_busi_refusals(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must hold benign/, malignant/ and normal/"):
        busi.read(tmp_path)
    ultrasound(tmp_path)
    (tmp_path / "malignant" / "malignant (1)_mask.png").unlink()
    picture(tmp_path / "normal" / "normal (3)_mask.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(UserError, match=r"stand alone: malignant/malignant \(1\), normal/normal \(3\)"):
        busi.read(tmp_path)
    (tmp_path / "normal" / "normal (3)_mask.png").unlink()
    picture(tmp_path / "malignant" / "malignant (1)_mask.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(
        UserError, match=r"one shape, but .*malignant \(1\)\.png has \(64, 96\) and .*\(4, 4\)"
    ):
        list(busi.read(tmp_path).rows)
    (tmp_path / "malignant" / "malignant (1).png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"malignant \(1\)\.png cannot be read as an image"):
        list(busi.read(tmp_path).rows)
    picture(tmp_path / "benign" / "lesion.png", noise(1))
    picture(tmp_path / "benign" / "lesion_mask.png", noise(1))
    with pytest.raises(UserError, match=r"must be named like 'benign \(7\)\.png'"):
        busi.read(tmp_path)


# --- KiTS ---------------------------------------------------------------------------------------------


def scan(folder: Path, *, label: str = "segmentation.nii.gz", value: int = 2, axes: str = "IPL") -> None:
    """A CT whose first array axis is axial, as the owners store it."""
    save(folder / "imaging.nii.gz", RAMP * 2 - 160, axes=axes, spacing=(0.8, 0.7, 5.0))
    save(folder / label, block(value=value), axes=axes, spacing=(0.8, 0.7, 5.0))


@pytest.mark.parametrize("below", ["", "data", "dataset"])
def test_kits_finds_the_axial_axis_in_the_header(tmp_path: Path, below: str) -> None:
    scan(tmp_path / below / "case_00000")
    dataset = kits.read(tmp_path, size=(8, 6))
    assert dataset.class_names == ("background", "kidney", "tumour")
    rows = list(dataset.rows)
    assert [row.slice_index for row in rows] == [0, 1, 2]
    expected = np.rint(np.clip(radiological(RAMP * 2, 2) / 400, 0, 1) * 255)
    np.testing.assert_allclose(rows[2].image.astype(float), expected, atol=1)
    assert (rows[2].mask[:3, :2] == 2).all()
    assert rows[2].mask.sum() == 12
    assert rows[0].spacing_mm == pytest.approx((0.7, 0.8, 5.0))  # header fields are float32
    assert rows[0].case_id == "case_00000"


def test_kits_cyst_is_a_class_where_it_occurs(tmp_path: Path) -> None:
    scan(tmp_path / "case_00000", label="aggregated_MAJ_seg.nii.gz")
    scan(tmp_path / "case_00001", label="aggregated_MAJ_seg.nii.gz", value=3)
    dataset = kits.read(tmp_path)
    assert dataset.class_names == ("background", "kidney", "tumour", "cyst")
    rows = list(dataset.rows)
    assert {row.image.shape for row in rows} == {(256, 256)}
    assert {row.case_id for row in rows} == {"case_00000", "case_00001"}


def test_kits_test_cases_of_2019_are_left_out(tmp_path: Path) -> None:
    scan(tmp_path / "case_00000")
    scan(tmp_path / "case_00210")
    (tmp_path / "case_00210" / "segmentation.nii.gz").unlink()
    assert {row.case_id for row in kits.read(tmp_path).rows} == {"case_00000"}
    (tmp_path / "case_00000").rename(tmp_path / "other")
    with pytest.raises(UserError, match="only unlabelled test cases"):
        kits.read(tmp_path)


def test_kits_refusals(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must hold folders case_00000"):
        kits.read(tmp_path)
    scan(tmp_path / "case_00000", value=4)
    with pytest.raises(UserError, match="also holds 4"):
        list(kits.read(tmp_path).rows)
    (tmp_path / "case_00000" / "imaging.nii.gz").unlink()
    with pytest.raises(UserError, match=r"must hold imaging\.nii\.gz.*download script"):
        kits.read(tmp_path)
    (tmp_path / "case_00000" / "segmentation.nii.gz").unlink()
    with pytest.raises(UserError, match=r"must hold its label segmentation\.nii\.gz"):
        kits.read(tmp_path)


# --- a plain folder -----------------------------------------------------------------------------------

GREY = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
IDS = (np.arange(48).reshape(6, 8) % 3).astype(np.uint8)


@pytest.mark.parametrize("flat", [False, True])
def test_folder_of_png_pairs_with_class_ids(tmp_path: Path, flat: bool) -> None:
    for stem in ("a_slice003", "a_slice010", "b"):
        picture(tmp_path / ("" if flat else "images") / f"{stem}.png", GREY)
        picture(tmp_path / ("" if flat else "masks") / f"{stem}{'_mask' if flat else ''}.png", IDS)
    (tmp_path / "notes.txt").write_text("not an image")
    dataset = folder.read(tmp_path)
    assert dataset.name == tmp_path.name
    assert dataset.class_names == ("background", "class 1", "class 2")
    rows = list(dataset.rows)
    assert [(row.case_id, row.slice_index) for row in rows] == [("a", 3), ("a", 10), ("b", 0)]
    np.testing.assert_array_equal(rows[0].image, GREY)
    np.testing.assert_array_equal(rows[0].mask, IDS)
    assert rows[0].spacing_mm is None


def test_folder_binary_masks_16_bit_and_size(tmp_path: Path) -> None:
    deep = np.arange(48, dtype=np.uint16).reshape(6, 8) * 1000
    picture(tmp_path / "x.png", deep)
    picture(tmp_path / "x_mask.png", (IDS > 0).astype(np.uint8) * 255)
    picture(tmp_path / "y.png", np.stack([GREY[:4]] * 3, axis=-1))
    picture(tmp_path / "y_mask.png", np.zeros((4, 8), np.uint8))
    dataset = folder.read(tmp_path)
    assert dataset.class_names == ("background", "class 1")
    first = next(dataset.rows)
    upper = np.percentile(deep, 99.9)
    np.testing.assert_allclose(first.image.astype(float), np.rint(np.clip(deep / upper, 0, 1) * 255), atol=1)
    np.testing.assert_array_equal(first.mask, IDS > 0)
    with pytest.raises(UserError, match="y has 4x8, those before it 6x8"):
        list(folder.read(tmp_path).rows)
    assert {row.image.shape for row in folder.read(tmp_path, size=(3, 4)).rows} == {(3, 4)}


def test_folder_of_volumes_and_planes(tmp_path: Path) -> None:
    save(tmp_path / "images" / "v.nii.gz", RAMP, axes="LPS")
    save(tmp_path / "masks" / "v.nii.gz", block(), axes="LPS")
    nib.save(nib.Nifti1Image(RAMP[:, :, 0], np.eye(4)), tmp_path / "images" / "p.nii")
    nib.save(nib.Nifti1Image(block()[:, :, 1], np.eye(4)), tmp_path / "masks" / "p.nii")
    rows = list(folder.read(tmp_path).rows)
    assert [(row.case_id, row.slice_index) for row in rows] == [("p", 0), *(("v", z) for z in range(5))]
    assert rows[0].spacing_mm == (1.0, 1.0, 1.0)
    assert rows[2].spacing_mm == (2.0, 1.0, 3.0)
    np.testing.assert_array_equal(rows[0].mask, radiological(block(), 1))
    np.testing.assert_array_equal(rows[2].mask, radiological(block(), 1))
    assert rows[2].image[0, 0] == rows[2].image.max()


def test_folder_names_all_that_stand_alone(tmp_path: Path) -> None:
    for name in ("a.png", "a_mask.png", "b.png", "c_mask.png"):
        picture(tmp_path / name, IDS)
    save(tmp_path / "b_mask.nii.gz", block())
    with pytest.raises(UserError, match=r"stand alone: b\.png, b_mask\.nii\.gz, c_mask\.png;"):
        folder.read(tmp_path)


def test_folder_refuses_what_is_no_pair_of_image_and_mask(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no pair"):
        folder.read(tmp_path)
    picture(tmp_path / "a.png", GREY)
    picture(tmp_path / "a_mask.png", np.zeros_like(IDS))
    with pytest.raises(UserError, match=r"all masks .* are empty"):
        folder.read(tmp_path)
    picture(tmp_path / "a_mask.png", np.where(IDS == 2, 255, IDS).astype(np.uint8))
    with pytest.raises(UserError, match=r"0 to 254, or only 0 and 255, but those of .* hold 255, 1, 0;"):
        folder.read(tmp_path)
    picture(tmp_path / "a_mask.png", np.stack([IDS] * 3, axis=-1))
    with pytest.raises(UserError, match="is coloured"):
        folder.read(tmp_path)
    picture(tmp_path / "a_mask.png", IDS[:5])
    with pytest.raises(UserError, match=r"one shape, but .*a\.png has \(6, 8\) and a_mask\.png \(5, 8\)"):
        list(folder.read(tmp_path).rows)
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"a\.png cannot be read as an image"):
        list(folder.read(tmp_path).rows)


def test_folder_refuses_nan_and_shared_stems(tmp_path: Path) -> None:
    save(tmp_path / "v.nii", np.where(RAMP == 3, np.nan, RAMP).astype(np.float32))
    save(tmp_path / "v_mask.nii", block())
    with pytest.raises(UserError, match=r"v\.nii has 1 NaN"):
        list(folder.read(tmp_path).rows)
    picture(tmp_path / "v.png", GREY)
    picture(tmp_path / "v_mask.png", IDS)
    with pytest.raises(UserError, match="several formats share: v"):
        folder.read(tmp_path)


# --- to the project's own file ------------------------------------------------------------------------


def written(dataset: base.ImportedDataset, path: Path) -> Path:
    write_dataset(
        path,
        dataset.rows,
        name=dataset.name,
        class_names=dataset.class_names,
        splits=dataset.splits,
        metadata=dataset.metadata,
    )
    return path


def test_acdc_round_trip_keeps_pixels_classes_spacing_and_folds(tmp_path: Path) -> None:
    for number in range(1, 11):
        patient(tmp_path / "acdc", f"patient{number:03d}", group="NOR" if number < 6 else "RV")
    imported = acdc.read(tmp_path / "acdc", size=(8, 6))
    dataset = open_dataset(written(imported, tmp_path / "acdc.parquet"), cache=tmp_path / "cache")
    rows = list(acdc.read(tmp_path / "acdc", size=(8, 6)).rows)
    assert dataset.class_names == acdc.CLASS_NAMES
    assert dataset.image_ids[:2] == ("patient001/frame01/0", "patient001/frame01/1")
    np.testing.assert_array_equal(dataset.images_NHW, np.stack([row.image for row in rows]))
    np.testing.assert_array_equal(dataset.masks_NHW, np.stack([row.mask for row in rows]))
    assert dataset.spacing_mm[0].tolist() == [1.5, 1.5, 10.0]
    assert dataset.fold_names == tuple(f"stratified{n}" for n in range(1, 6))
    assert all(len(fold.test) == 20 for fold in dataset.folds)  # two patients, two frames, five slices
    assert "CC BY-NC-SA" in dataset.metadata["licence"]


def test_busi_round_trip_splits_groups_together(tmp_path: Path) -> None:
    path = written(busi.read(ultrasound(tmp_path / "busi"), size=(32, 48)), tmp_path / "busi.parquet")
    dataset = open_dataset(path, cache=tmp_path / "cache")
    twins = {dataset.case_ids.index("benign_001"), dataset.case_ids.index("malignant_001")}
    parts = (dataset.folds[0].train, dataset.folds[0].val, dataset.folds[0].test)
    assert [len(twins & set(part.tolist())) for part in parts].count(2) == 1
    assert np.isnan(dataset.spacing_mm).all()


def test_a_failed_import_leaves_no_file(tmp_path: Path) -> None:
    task = decathlon(tmp_path / "task")
    nan_image(task)
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="must be finite"):
        written(msd.read(task), tmp_path / "out" / "task.parquet")
    assert list((tmp_path / "out").iterdir()) == []
