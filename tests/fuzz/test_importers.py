"""Importers' inputs: archives that lead elsewhere, bombs, absurd headers, damaged files, pipes, devices."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from tests.fuzz.mutations import ROUNDS, damaged, outcome
from tests.unit.trainables.test_importers_synapse_wsl4mis import packed
from trainables.data.importers import base, folder, msd, synapse
from trainables.data.parquet import ParquetDataset, write_dataset

Read = Callable[..., base.ImportedDataset]


def imported(read: Read, source: Path, home: Path) -> tuple[Any, str | None]:
    """What `data import` does; the file that it wrote is one that can be read."""
    target = home / "out.parquet"
    target.unlink(missing_ok=True)

    def work() -> None:
        found = read(source, size=(8, 8))
        write_dataset(
            target, found.rows, name=found.name, class_names=found.class_names,
            splits=found.splits, metadata=found.metadata,
        )  # fmt: skip

    result = outcome(work, home)
    assert [p.name for p in home.iterdir()] == (["out.parquet"] if result[1] is None else [])
    if result[1] is None:
        ParquetDataset(target).folds()
    return result


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def volume(seed: int, values: int) -> bytes:
    rng = np.random.default_rng(seed)
    return bytes(nib.Nifti1Image(rng.integers(0, values, (8, 9, 3)).astype(np.uint8), np.eye(4)).to_bytes())


def member(archive: tarfile.TarFile, name: str, content: bytes = b"", **fields: Any) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    archive.addfile(info, io.BytesIO(content))


def task(path: Path, more: Callable[[tarfile.TarFile], None] | None = None, **declared: Any) -> Path:
    """A Decathlon task of four cases as the owners' .tar, and whatever else `more` puts into it."""
    labels = {"0": "background", "1": "one"}
    with tarfile.open(path, "w") as archive:
        if more is not None:
            more(archive)
        document = {"name": "Toy", "labels": labels, "modality": {"0": "MRI"}, **declared}
        member(archive, "Task/dataset.json", json.dumps(document).encode())
        for case in range(4):
            member(archive, f"Task/imagesTr/c{case}.nii.gz", gzip.compress(volume(case, 200)))
            member(archive, f"Task/labelsTr/c{case}.nii.gz", gzip.compress(volume(case, 2)))
    return path


def links(archive: tarfile.TarFile) -> None:
    """What an unpacking would follow out of its folder."""
    member(archive, "../outside.nii.gz", b"x")
    member(archive, "/tmp/fuzz_outside", b"x")
    member(archive, "Task/imagesTr/../../../outside2", b"x")
    member(archive, "Task/imagesTr/link.nii.gz", type=tarfile.SYMTYPE, linkname="/etc/passwd")
    member(archive, "Task/imagesTr/hard.nii.gz", type=tarfile.LNKTYPE, linkname="../../etc/passwd")
    member(archive, "Task/imagesTr/device.nii.gz", type=tarfile.CHRTYPE, devmajor=1, devminor=5)
    member(archive, "Task/labelsTr/pipe.nii.gz", type=tarfile.FIFOTYPE)
    member(archive, "Task/" + "deep/" * 2000 + "x", b"x")
    member(archive, "Task/extracted", type=tarfile.DIRTYPE)


def test_an_archive_is_never_unpacked(tmp_path: Path, home: Path) -> None:
    source = task(tmp_path / "task.tar", links)
    before = sorted(tmp_path.iterdir())
    assert imported(msd.read, source, home)[1] is None
    assert sorted(tmp_path.iterdir()) == before
    assert not Path("/tmp/fuzz_outside").exists()
    cases = ParquetDataset(home / "out.parquet").case_ids
    assert set(cases) == {"c0", "c1", "c2", "c3"}  # neither links nor devices


@pytest.mark.parametrize(
    "declared",
    [
        {"modality": 3}, {"modality": []}, {"modality": {"0": {}}}, {"labels": []}, {"labels": {"0": "x"}},
        {"labels": {str(k): str(k) for k in range(300)}}, {"labels": {"0": None, "1": [1]}},
        {"name": {"x": 1}},
        {"name": "../../x"}, {"name": "a\0b\n"}, {"labels": {"1": "x", "٠": "y"}},
    ],
)  # fmt: skip
def test_hostile_declarations(tmp_path: Path, home: Path, declared: dict[str, Any]) -> None:
    imported(msd.read, task(tmp_path / "task.tar", **declared), home)


@pytest.mark.parametrize("text", [b"[" * 200_000, b"\xff\xfe", b"[]", b"3", b"", b'{"labels": ' + b"[" * 99])
def test_declarations_that_are_none(tmp_path: Path, home: Path, text: bytes) -> None:
    with tarfile.open(tmp_path / "task.tar", "w") as archive:
        member(archive, "Task/dataset.json", text)
    assert imported(msd.read, tmp_path / "task.tar", home)[1] is not None


@pytest.mark.parametrize("rounds", ROUNDS)
def test_damaged_archives(tmp_path: Path, home: Path, rounds: int) -> None:
    content = task(tmp_path / "task.tar").read_bytes()
    for copy in itertools.chain(damaged(content, rounds), damaged(content[:2048], rounds, seed=1)):
        (tmp_path / "task.tar").write_bytes(copy)
        imported(msd.read, tmp_path / "task.tar", home)


def test_an_archive_that_declares_gigabytes(tmp_path: Path, home: Path) -> None:
    """In a sparse member, in a header, and in a gzip stream of zeros."""

    def sparse(archive: tarfile.TarFile) -> None:
        pax = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.size": str(2**36),
               "GNU.sparse.map": "0,1", "GNU.sparse.name": "Task/imagesTr/bomb.nii.gz"}  # fmt: skip
        member(archive, "Task/imagesTr/bomb.nii.gz", b"x", pax_headers=pax)
        member(archive, "Task/labelsTr/bomb.nii.gz", b"x")

    _, sentence = imported(msd.read, task(tmp_path / "sparse.tar", sparse), home)
    assert "or is sparse" in (sentence or "")

    def long(archive: tarfile.TarFile) -> None:
        info = tarfile.TarInfo("Task/dataset.json")
        info.size = 2**40
        archive.fileobj.write(info.tobuf(tarfile.GNU_FORMAT))  # type: ignore[union-attr]
        archive.offset += 512

    assert imported(msd.read, task(tmp_path / "long.tar", long), home)[1] is not None

    def zeros(archive: tarfile.TarFile) -> None:
        header = bytearray(volume(0, 200))[:352]
        member(archive, "Task/imagesTr/bomb.nii.gz", gzip.compress(header + bytes(2**26)) * 20)
        member(archive, "Task/labelsTr/bomb.nii.gz", gzip.compress(volume(0, 2)))

    imported(msd.read, task(tmp_path / "zeros.tar", zeros), home)


# -- volumes and pictures in a folder --------------------------------------------------------------------


def pairs(root: Path, ending: str = ".nii") -> Path:
    for case in range(4):
        for name, values in (("images", 200), ("masks", 2)):
            path = root / name / f"c{case}{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            if ending == ".png":
                rng = np.random.default_rng(case)
                Image.fromarray(rng.integers(0, values, (9, 8)).astype(np.uint8)).save(path)
            else:
                content = volume(case, values)
                path.write_bytes(gzip.compress(content) if ending.endswith("gz") else content)
    return root


@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".png"])
def test_damaged_files_of_a_folder(tmp_path: Path, home: Path, ending: str, rounds: int) -> None:
    source = pairs(tmp_path / "in", ending)
    for name in ("images", "masks"):
        path = source / name / f"c1{ending}"
        content = path.read_bytes()
        for copy in damaged(content, rounds // 2):
            path.write_bytes(copy)
            imported(folder.read, source, home)
        for copy in damaged(content[:352], rounds // 2, seed=1):  # of a volume the header
            path.write_bytes(copy + content[352:])
            imported(folder.read, source, home)
        path.write_bytes(content)


SHAPES = [
    (32767, 32767, 32767), (-1, 8, 3), (0, 8, 3), (32767, 32767, 1), (8, 9, -3), (1, 1, 32767),
]  # fmt: skip


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("axes", [3, 4, 7, 0, -1, 32767])
def test_absurd_headers(tmp_path: Path, home: Path, ending: str, shape: tuple[int, ...], axes: int) -> None:
    source = pairs(tmp_path / "in", ending)
    header = bytearray(volume(1, 200))
    header[40:56] = struct.pack("<8h", axes, *shape, *([32767] * 4))
    path = source / "images" / f"c1{ending}"
    path.write_bytes(gzip.compress(header) if ending.endswith("gz") else header)
    assert imported(folder.read, source, home)[1] is not None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, 1e38])
def test_a_header_without_directions(tmp_path: Path, home: Path, value: float) -> None:
    """Found by the long version: one of the axes led nowhere."""
    source = pairs(tmp_path / "in")
    header = bytearray(volume(1, 200))
    header[280:296] = struct.pack("<4f", value, value, value, 0.0)  # a row of the affine
    header[254:256] = struct.pack("<h", 1)
    (source / "images" / "c1.nii").write_bytes(header)
    outcome = imported(folder.read, source, home)
    assert outcome[1] is not None


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@pytest.mark.parametrize("side", [100_000, 2**31 - 1, 11_000])
def test_a_picture_of_absurd_size(tmp_path: Path, home: Path, side: int) -> None:
    """Also one that Pillow only warns of: its pixels would be made room for."""
    source = pairs(tmp_path / "in", ".png")
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99)))
    (source / "images" / "c1.png").write_bytes(content + chunk(b"IEND", b""))
    sentence = imported(folder.read, source, home)[1]
    assert "c1.png cannot be read as an image" in (sentence or "")


def test_a_picture_whose_part_claims_gigabytes(tmp_path: Path, home: Path) -> None:
    """Found by the long version: Pillow asks for as much memory as the length of a chunk says."""
    source = pairs(tmp_path / "in", ".png")
    path = source / "images" / "c1.png"
    content = path.read_bytes()
    at = content.index(b"IDAT") - 4
    path.write_bytes(content[:at] + struct.pack(">I", 2**32 - 1) + content[at + 4 :])
    _, sentence = imported(folder.read, source, home)
    assert "c1.png cannot be read as an image (it asks for too much memory); export it" in (sentence or "")


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".png"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "zero"])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, home: Path, ending: str, kind: str) -> None:
    source = pairs(tmp_path / "in", ending)
    path = source / "images" / f"c2{ending}"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    assert "must be an ordinary file" in (imported(folder.read, source, home)[1] or "")


# -- arrays ---------------------------------------------------------------------------------------------


def prepared(root: Path) -> Path:
    """TransUNet's copy: three training cases of two slices, one test volume."""
    for case in (5, 6, 7):
        for number in range(2):
            rng = np.random.default_rng([case, number])
            path = root / "train_npz" / f"case{case:04d}_slice{number:03d}.npz"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(path, image=rng.random((9, 8)).astype(np.float32), label=rng.integers(0, 9, (9, 8)))
    path = root / "test_vol_h5" / "case0001.npy.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        rng = np.random.default_rng(0)
        file["image"], file["label"] = rng.random((3, 9, 8)), rng.integers(0, 9, (3, 9, 8))
    return root


SLICE, VOLUME = "train_npz/case0006_slice001.npz", "test_vol_h5/case0001.npy.h5"


def test_the_undamaged_is_imported(tmp_path: Path, home: Path) -> None:
    """Every refusal above and below is the damage's."""
    assert imported(synapse.read, prepared(tmp_path / "synapse"), home)[1] is None
    for ending in (".nii", ".nii.gz", ".png"):
        assert imported(folder.read, pairs(tmp_path / ending, ending), home)[1] is None


@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize("name", [SLICE, VOLUME])
def test_damaged_arrays(tmp_path: Path, home: Path, name: str, rounds: int) -> None:
    source = prepared(tmp_path / "in")
    for copy in damaged((source / name).read_bytes(), rounds):
        (source / name).write_bytes(copy)
        imported(synapse.read, source, home)


@pytest.mark.parametrize("rounds", ROUNDS)
def test_damaged_scribbles(tmp_path: Path, home: Path, rounds: int) -> None:
    from trainables.data.importers import wsl4mis

    source = packed(tmp_path / "in", 1, 30, 50, slices=1)
    path = source / "patient030_frame01_slice_0.h5"
    for copy in damaged(path.read_bytes(), rounds // 2):
        path.write_bytes(copy)
        imported(wsl4mis.read, source, home)


def _npy(shape: tuple[int, ...], kind: str = "<f4") -> bytes:
    text = repr({"descr": kind, "fortran_order": False, "shape": shape}).ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + bytes(64)


@pytest.mark.parametrize("content", [_npy((2**40, 2**20)), _npy((2**36,)), _npy((3,), "|O"), _npy((-1, 8))])
def test_arrays_of_absurd_size(tmp_path: Path, home: Path, content: bytes) -> None:
    source = prepared(tmp_path / "in")
    with zipfile.ZipFile(source / SLICE, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image.npy", content)
        archive.writestr("label.npy", content)
        archive.writestr("../../outside.npy", content)
    assert imported(synapse.read, source, home)[1] is not None
    assert not (tmp_path.parent / "outside.npy").exists()


def huge(file: h5py.File) -> None:
    file.create_dataset("image", (2**20, 2**20, 2**10), np.float64, chunks=(1, 1024, 1024))


def large(file: h5py.File) -> None:
    file.create_dataset("image", (2**13, 2**13, 2**7), np.uint8, chunks=(1024, 1024, 1), compression="gzip")


def external_link(file: h5py.File) -> None:
    other = Path(file.filename).with_name("other.hdf")
    with h5py.File(other, "w") as target:
        target["image"] = np.zeros((3, 9, 8))
    file["image"] = h5py.ExternalLink(str(other), "image")


def external_values(file: h5py.File) -> None:
    file.create_dataset("image", (3, 9, 8), np.uint8, external=[("/etc/passwd", 0, 216)])


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((3, 9, 8), np.float64)
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (3, 9, 8))
    file.create_virtual_dataset("image", layout)


def texts(file: h5py.File) -> None:
    file["image"] = [["a"]]


def loop(file: h5py.File) -> None:
    file["image"] = h5py.SoftLink("/image")


def nothing(file: h5py.File) -> None:
    file["image"] = h5py.Empty("f")


@pytest.mark.parametrize(
    "write", [huge, large, external_link, external_values, virtual, texts, loop, nothing]
)
def test_hostile_hdf5(tmp_path: Path, home: Path, write: Callable[[h5py.File], None]) -> None:
    source = prepared(tmp_path / "in")
    with h5py.File(source / VOLUME, "a") as file:
        del file["image"]
        write(file)
    assert imported(synapse.read, source, home)[1] is not None
