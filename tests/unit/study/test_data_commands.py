"""The data commands: what they print, where they write, and which mistakes they refuse in a sentence."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import trainables.data
import trainables.data.importers
from search_spaces import UserError
from study.data_commands import data_app, parse_size
from trainables.data.dataset import open_dataset
from trainables.data.parquet import Row, write_dataset

CLASSES = ("background", "lesion [any]", "organ")


def toy_rows(shape: tuple[int, int] = (20, 12), cases: int = 5) -> Iterator[Row]:
    for case in range(cases):
        mask = np.zeros(shape, np.uint8)
        mask[:5] = 0 if case == 0 else 1
        mask[5:10] = 2 if case == 1 else 0
        image = np.random.default_rng(case).integers(0, 256, shape, np.uint8)
        yield Row(case_id=f"case{case}", slice_index=3, image=image, mask=mask, spacing_mm=(0.5, 0.25, 8))


def write_toy(path: Path, **options: Any) -> None:
    write_dataset(path, toy_rows(**options), name="Toy title", class_names=CLASSES, splits=None)


def write_phantom(kind: str, path: Path, *, cases: int | None, size: int | None, seed: int) -> None:
    assert (kind, seed) == ("phantom-blobs", 7)
    write_toy(path, cases=cases or 9, shape=(size or 16, size or 16))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home; phantoms and importers are stand-ins."""
    phantoms = SimpleNamespace(KINDS=("phantom-blobs", "phantom-organs"), write=write_phantom)
    base = SimpleNamespace(load=lambda kind: read_toy)
    monkeypatch.setattr(trainables.data, "phantoms", phantoms, raising=False)
    monkeypatch.setattr(trainables.data.importers, "base", base, raising=False)
    monkeypatch.setenv("STUDY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def read_toy(source: Path, *, size: tuple[int, int] | None) -> SimpleNamespace:
    rows = toy_rows(size or (20, 12))
    return SimpleNamespace(
        name=source.name, class_names=CLASSES, rows=rows, splits=None, metadata={"licence": "mine"}
    )


def run(*arguments: object) -> str:
    """The command's output on one line a row; re-raises what it raised."""
    result = CliRunner().invoke(data_app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def cells(output: str) -> dict[str, list[str]]:
    """Table rows by their first cell."""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.splitlines() if "│" in line]
    return {row[0]: row[1:] for row in rows}


def test_list_names_datasets_phantoms_and_broken_files(home: Path) -> None:
    write_toy(home / "datasets" / "toy.parquet")
    (home / "datasets" / "broken.parquet").write_bytes(b"PAR1")
    output = run("list")
    assert cells(output)["toy"] == ["5", "5", "lesion [any], organ", "20x12 (5)"]
    assert cells(output)["phantom-organs"][:2] == ["-", "-"]
    assert "broken" in output
    assert "cut short" in output


def test_list_of_an_empty_home_shows_the_phantoms(home: Path) -> None:
    assert "phantom-blobs" in cells(run("list"))


def test_inspect_counts_and_draws(home: Path, tmp_path: Path) -> None:
    write_toy(home / "datasets" / "toy.parquet")
    output = run("inspect", "toy")
    rows = cells(output)
    assert rows["images"] == ["5"]
    assert rows["empty images"] == ["1"]
    assert rows["dataset"] == ["Toy title"]
    assert rows["spacing in mm"] == ["rows 0.5 .. 0.5; columns 0.25 .. 0.25; slices 8 .. 8"]
    # 4 images of 5 hold 5 of 20 rows of class 1; one holds as many of class 2.
    assert rows["1"] == ["lesion [any]", "20.000", "4"]
    assert rows["2"] == ["organ", "5.000", "1"]
    fold = rows["0"]
    assert fold == ["split", "3 cases, 3 images", "1 cases, 1 images", "1 cases, 1 images"]
    with Image.open(tmp_path / "toy_sheet.png") as sheet:
        assert sheet.format == "PNG"


def test_inspect_numbers_and_names_the_folds(home: Path) -> None:
    first = {"train": ["case0", "case1", "case2"], "val": ["case3"], "test": ["case4"]}
    second = {"train": ["case4"], "val": ["case3", "case2"], "test": ["case0", "case1"]}
    path = home / "datasets" / "toy.parquet"
    splits = {"folds": {"wsl4mis1": first}, "other [five]": {"folds": {"second": second}}}
    write_dataset(path, toy_rows(), name="Toy", class_names=CLASSES, splits=splits)
    rows = [line.split("│")[1:-1] for line in run("inspect", "toy").splitlines() if "cases," in line]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["0", "wsl4mis1", "3 cases, 3 images", "1 cases, 1 images", "1 cases, 1 images"],
        ["1", "other [five]/second", "1 cases, 1 images", "2 cases, 2 images", "2 cases, 2 images"],
    ]


def test_inspect_takes_a_path_and_shows_every_size(home: Path, tmp_path: Path) -> None:
    rows = [*toy_rows(), *toy_rows((10, 10), cases=7)][3:]
    rows = [Row(**(vars(row) | {"slice_index": index})) for index, row in enumerate(rows)]
    write_dataset(tmp_path / "mixed.parquet", rows, name="mixed", class_names=CLASSES, splits=None)
    output = cells(run("inspect", tmp_path / "mixed.parquet", "--sheet", tmp_path / "s.png"))
    assert output["sizes in the file"] == ["10x10 (7), 20x12 (2)"]
    assert output["size read"] == ["10x10"]
    assert (tmp_path / "s.png").is_file()
    assert cells(run("inspect", tmp_path / "mixed.parquet", "--size", "8x6"))["size read"] == ["8x6"]


def test_inspect_of_an_unknown_name_suggests_one(home: Path) -> None:
    write_toy(home / "datasets" / "lesions.parquet")
    with pytest.raises(UserError, match=r"neither a file lesion nor .* Did you mean 'lesions'"):
        run("inspect", "lesion")


def test_import_writes_to_home_or_to_a_path(home: Path, tmp_path: Path) -> None:
    output = run("import", "toy-kind", tmp_path, "mine", "--size", "10x8")
    assert "5 images of 5 cases" in output
    opened = open_dataset(home / "datasets" / "mine.parquet", cache=tmp_path / "cache")
    assert opened.shape == (10, 8)
    assert opened.metadata["licence"] == "mine"
    run("import", "toy-kind", tmp_path, tmp_path / "here.parquet")
    assert (tmp_path / "here.parquet").is_file()


def test_import_refuses_an_existing_or_odd_destination_before_reading(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_toy(home / "datasets" / "mine.parquet")

    def read_nothing(source: Path, *, size: object) -> None:
        pytest.fail("the source was read")

    monkeypatch.setattr(trainables.data.importers.base, "load", lambda kind: read_nothing)
    with pytest.raises(UserError, match="exists already"):
        run("import", "toy-kind", tmp_path, "mine")
    with pytest.raises(UserError, match=r"try folder/mine\.parquet"):
        run("import", "toy-kind", tmp_path, "folder/mine")


def test_phantoms_pass_their_options_on(home: Path, tmp_path: Path) -> None:
    run("phantoms", "phantom-blobs", "blobs", "--cases", 6, "--size", 18, "--seed", 7)
    opened = open_dataset(home / "datasets" / "blobs.parquet", cache=tmp_path / "cache")
    assert (opened.num_images, opened.shape) == (6, (18, 18))
    with pytest.raises(UserError, match="Did you mean 'phantom-blobs'"):
        run("phantoms", "phantom-blob", "other")


def test_home_may_be_given_by_option(home: Path, tmp_path: Path) -> None:
    write_toy(tmp_path / "other" / "datasets" / "there.parquet")
    assert "there" in cells(run("list", "--home", tmp_path / "other"))
    assert "there" not in cells(run("list"))


@pytest.mark.parametrize("command", ["list", "inspect", "import", "phantoms"])
def test_help_shows_an_example(command: str) -> None:
    assert f"python -m study data {command}" in run(command, "--help")


def test_sizes() -> None:
    assert parse_size(None) is None
    assert parse_size("256X192") == (256, 192)
    for text in ("256", "0x4", "4x", "axb", "-3x4"):
        with pytest.raises(UserError, match="for example 256x256"):
            parse_size(text)
