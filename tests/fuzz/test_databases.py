"""Optuna's database: damaged it is named, and without it the same search is made again from the ledger."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import optuna
import pytest

from study.storage import open_storage
from tests.fuzz.mutations import ROUNDS, damaged, outcome
from tests.unit.study.conftest import World, a_study

STUDY = a_study(trials=6, rungs=(1 / 6,))


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, World]:
    """A finished study: its database in one file, and its ledger."""
    folder = tmp_path_factory.mktemp("finished")
    world = World()
    world.storage = open_storage(folder, None)
    world.run(STUDY)
    world.storage.engine.dispose()
    with closing(sqlite3.connect(folder / "optuna.db")) as database:
        database.execute("PRAGMA journal_mode=DELETE")
    return (folder / "optuna.db").read_bytes(), world


def resumed(folder: Path, finished: World) -> set[tuple[object, ...]]:
    """The same command once more: nothing is trained, the outcome is the ledger's."""
    world = World(finished.ledger)
    world.networks, world.storage = finished.networks, open_storage(folder, None)
    try:
        board = world.board(STUDY)
        assert board.finished()
    finally:
        world.storage.engine.dispose()
    return world.outcome()


@pytest.mark.parametrize("rounds", ROUNDS)
def test_a_damaged_database(tmp_path: Path, content: tuple[bytes, World], rounds: int) -> None:
    whole, finished = content
    refused = 0
    for copy in damaged(whole, max(12, rounds // 10)):
        for file in tmp_path.glob("optuna.db*"):
            file.unlink()
        (tmp_path / "optuna.db").write_bytes(copy)
        found, sentence = outcome(lambda: resumed(tmp_path, finished), tmp_path)
        assert sentence is not None or found == finished.outcome()
        refused += sentence is not None
    assert refused


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_a_database_cut_short(tmp_path: Path, content: tuple[bytes, World], share: float) -> None:
    whole, finished = content
    file = tmp_path / "optuna.db"
    file.write_bytes(whole[: int(share * len(whole))])
    found, sentence = outcome(lambda: resumed(tmp_path, finished), tmp_path)
    if share:
        assert "move it away with its -wal and -shm, and the same command makes it again" in (sentence or "")
        for left in tmp_path.glob("optuna.db*"):
            left.unlink()
        found, sentence = outcome(lambda: resumed(tmp_path, finished), tmp_path)
    assert found == finished.outcome()
