"""Definitions of studies: frozen files, `--set`, names. A study or one sentence, nothing outside the home."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from search_spaces import UserError
from study import cli, commands, discovery, overrides
from study.home import SPEC, Home, StudyFolder, agree
from study.spec import Study
from tests.fuzz.mutations import ROUNDS, damaged, outcome, require_sentence
from tests.unit.study.conftest import a_study

HOSTILE: list[Any] = [
    None, True, -1, 0, 1.5, 10**30, float("nan"), float("inf"), "", "x", "../../x", "a\0b", "é" * 300, [], {},
    [[]], [1, "x"], {"x": None}, [None] * 3,
]  # fmt: skip


def start(folder: StudyFolder, name: str = "smoke") -> str:
    folder.freeze(discovery.load(name))
    return (folder.path / SPEC).read_text()


def used(folder: StudyFolder) -> Study | None:
    """What a run does with a frozen study before it opens the data."""
    study = folder.frozen()
    if study is not None:
        agree(study, study)
        assert Study.from_json(study.to_json()) == study
        assert Home(folder.path.parent).study(study.name) == folder
        overrides.keys(study)
    return study


@pytest.mark.parametrize("rounds", ROUNDS)
def test_damaged_files(tmp_path: Path, rounds: int) -> None:
    folder = Home(tmp_path / "home").study("smoke")
    content = start(folder).encode()
    for copy in damaged(content, rounds):
        (folder.path / SPEC).write_bytes(copy)
        study, sentence = outcome(lambda: used(folder), folder.path)
        assert (study is None) == (sentence is not None)


@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize("name", ["smoke", "ablation_pretraining_size"])
def test_every_value_replaced_by_hostile_ones(tmp_path: Path, name: str, rounds: int) -> None:
    folder = Home(tmp_path / "home").study(name)
    whole, chance = start(folder, name), Random(0)
    for _ in range(5 * rounds):
        raw = json.loads(whole)
        place, key = chance.choice(list(places(raw)))
        place[key] = chance.choice(HOSTILE)
        (folder.path / SPEC).write_text(json.dumps(raw))
        outcome(lambda: used(folder), folder.path)


def places(raw: Any) -> Any:
    """Every container with every key that it has."""
    for key in raw if isinstance(raw, dict) else range(len(raw)):
        yield raw, key
        if isinstance(raw[key], dict | list):
            yield from places(raw[key])


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "{}", "[]", "3", '"x"', '{"format": 1e999}', '{"format":1,"arms":' + "[" * 9999]
)
def test_files_that_are_something_else(tmp_path: Path, text: str) -> None:
    folder = Home(tmp_path / "home").study("smoke")
    start(folder)
    (folder.path / SPEC).write_text(text)
    study, sentence = outcome(lambda: used(folder), folder.path)
    assert study is None
    assert sentence is not None
    assert str(folder.path) in sentence


def test_a_folder_in_the_place_of_the_file(tmp_path: Path) -> None:
    folder = Home(tmp_path / "home").study("smoke")
    (folder.path / SPEC).mkdir(parents=True)
    assert outcome(lambda: used(folder), folder.path)[0] is None


# -- names, and where they lead -------------------------------------------------------------------------

NAMES = [
    "../x", "..", ".", "", "/tmp/x", "a/b", "a\\b", "a\0b", "a\nb", "-x", ".hidden", "x" * 101, "x y", "a\n",
    "cache", "datasets", "Pretrained", "mlartifacts", "$HOME", "~", "a;b", "a:b", "*",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_no_study_is_called_so(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="--fork takes a name of letters") as error:
        commands.definition("smoke", None, None, None, [], str(tmp_path), fork=name)
    require_sentence(str(error.value))
    raw = {**discovery.load("smoke").to_dict(), "name": name}
    with pytest.raises(UserError, match="A study's name must be letters"):
        Study.from_dict(json.loads(json.dumps(raw)))


@pytest.mark.parametrize("name", ["smoke", "a-b_c", "Übung2", "x" * 100])
def test_a_study_may_be_called_so(tmp_path: Path, name: str) -> None:
    study = commands.definition("smoke", None, None, None, [], str(tmp_path), fork=name)
    assert Home(tmp_path).study(study.name).path.parent == tmp_path


def test_a_frozen_study_of_another_name_leads_nowhere(tmp_path: Path) -> None:
    folder = Home(tmp_path / "home").study("mine")
    start(folder)
    study, sentence = outcome(folder.frozen, folder.path)
    assert study is None
    assert "must be of the study 'mine', but is of 'smoke'" in (sentence or "")
    with pytest.raises(UserError, match=r"No study '\.\./other' was started"):
        Home(tmp_path / "home").existing("../other")


@pytest.mark.parametrize("name", ["../../x", "a/b", "<b>", "a|b", "x" * 100])
def test_names_of_arms_are_no_paths(tmp_path: Path, name: str) -> None:
    """They may hold slashes: every file of a study is named by keys and by what the program calls things."""
    plain = a_study()
    arms = (dataclasses.replace(plain.arms[0], name=name), *plain.arms[1:])
    study = dataclasses.replace(plain, arms=arms)
    folder = Home(tmp_path / "home").study("toy")
    folder.freeze(study)
    assert folder.frozen() == study


@pytest.mark.parametrize("name", ["", "a\nb", "a\0b", "x" * 101, "\x1b[31m"])
def test_no_arm_is_called_so(name: str) -> None:
    plain = a_study()
    with pytest.raises(UserError, match="An arm's name must be 1 to 100 printable characters"):
        dataclasses.replace(plain, arms=(dataclasses.replace(plain.arms[0], name=name), *plain.arms[1:]))


# -- the command line -----------------------------------------------------------------------------------

STUDIES = [discovery.load(name) for name in ("smoke", "ablation_pretraining_size")]
VALUES = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        [
            "(" * 5000, "[" * 300, "1e999", "-1e999", "nan", "9" * 5000, "1" + "0" * 400, "0x" + "f" * 400,
            "None", "1,2,None", "1j", "b'x'", "{}", "''", "True", "1_000", "-1", "1e-400", "__import__('os')",
            "\0", "1,,2", "2**99", "../x", "1000000x1000000", "0x0",
        ]
    ),
    st.integers().map(str),
    st.floats().map(str),
    st.lists(st.integers(), max_size=4).map(lambda v: ",".join(map(str, v))),
)  # fmt: skip


def set_and_freeze(study: Study, texts: list[str]) -> None:
    with contextlib.suppress(UserError):
        try:
            changed = overrides.apply(study, texts)
        except UserError as error:
            require_sentence(str(error).replace("\n", " "))
            raise
        assert Study.from_json(changed.to_json()) == changed


def check_settings(examples: int) -> None:
    @settings(max_examples=examples, deadline=None, database=None, derandomize=True)
    @given(
        study=st.sampled_from(STUDIES),
        position=st.integers(0, 200),
        key=st.none() | st.text(max_size=20),
        value=VALUES,
    )
    def run(study: Study, position: int, key: str | None, value: str) -> None:
        known = list(overrides.keys(study))
        set_and_freeze(study, [f"{known[position % len(known)] if key is None else key}={value}"])

    run()


@pytest.mark.parametrize("rounds", ROUNDS)
def test_settings(rounds: int) -> None:
    check_settings(3 * rounds)


@pytest.mark.parametrize(
    "words",
    [
        ["status", "../x"],
        ["report", "a\0b"],
        ["show", "../../x"],
        ["describe", "os.path"],
        ["extend", "/etc"],
        ["run", "smoke", "--dry-run", "--dataset", "a\0b.parquet"],
        ["run", "smoke", "--dry-run", "--dataset", "x" * 300],
        ["run", "smoke", "--dry-run", "--dataset", "/dev/zero"],
        ["run", "smoke", "--dry-run", "--trials", "9" * 30],
        ["run", "smoke", "--dry-run", "--replicates", "9" * 12],
        ["run", "smoke", "--fork", "../x"],
        ["data", "inspect", "x" * 5000],
        ["data", "import", "../x", ".", "y"],
        ["data", "import", "msd", "/dev/zero", "y"],
        ["data", "import", "folder", ".", "../../z/"],
        ["data", "import", "folder", "a\0b", "y"],
    ],
)
def test_commands(tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDY_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    def give() -> None:
        result = CliRunner().invoke(cli.app, words, standalone_mode=False)
        if isinstance(result.exception, cli._UsageError):
            raise UserError(f"{result.exception.format_message().splitlines()[0]}.")
        if result.exception is not None:
            raise result.exception
        raise AssertionError(f"accepted: {result.output}")

    _, sentence = outcome(give, tmp_path)
    assert sentence is not None
    assert [path.name for path in tmp_path.parent.iterdir() if path.name == "z"] == []
