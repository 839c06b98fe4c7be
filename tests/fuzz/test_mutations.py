"""The harness itself: what it must catch, it catches."""

from __future__ import annotations

import pickle
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.fuzz.mutations import damaged, guarded, outcome


@pytest.mark.parametrize("how", ["write", "rename", "mkdir", "unlink"])
def test_a_write_outside_is_caught(tmp_path: Path, how: str) -> None:
    home, outside = tmp_path / "home", tmp_path / "outside"
    home.mkdir()
    (home / "mine").touch()
    (tmp_path / "theirs").touch()
    deeds = {
        "write": lambda: outside.write_text(""),
        "rename": lambda: (home / "mine").rename(outside),
        "mkdir": lambda: (home / ".." / "outside").mkdir(),
        "unlink": lambda: (tmp_path / "theirs").unlink(),
    }
    with pytest.raises(AssertionError, match="outside"), guarded(home):
        deeds[how]()
    assert not outside.exists()
    with guarded(home):
        (home / "new").write_text("")
        (home / "new").rename(home / "renamed")
        (tmp_path / "theirs").read_text()


def test_a_program_a_pickle_and_gigabytes_are_caught(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="subprocess"), guarded(tmp_path):
        subprocess.run(["true"], check=False)
    with pytest.raises(AssertionError, match="find_class"), guarded(tmp_path):
        pickle.loads(pickle.dumps(Path))
    with pytest.raises(MemoryError), guarded(tmp_path):
        np.zeros(2**33, np.uint8)
    np.zeros(2**33, np.uint8)  # the limit is gone


def test_an_error_of_another_kind_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        outcome(lambda: 1 / 0, tmp_path)


def test_damage_is_repeatable_and_is_damage() -> None:
    content = bytes(range(256)) * 8
    once, again = (list(damaged(content, 200, seed=3)) for _ in range(2))
    assert once == again
    assert sum(copy == content for copy in once) == 0
    assert {len(copy) < len(content) for copy in once} == {True, False}
