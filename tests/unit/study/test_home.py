"""The folders of a study: one driver at a time, whatever way it dies, and a definition that may not drift."""

import dataclasses
import errno
import fcntl
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from search_spaces import UserError
from study.home import LOCK, SPEC, Home, agree
from study.spec import Replicates
from tests.unit.study.conftest import SEARCHED, a_study

DRIVER = """
import sys, time
from pathlib import Path
from study.home import StudyFolder
with StudyFolder(Path(sys.argv[1])).locked():
    print("locked", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path):
    return Home(tmp_path).study("toy")


@pytest.fixture
def driver(folder):
    """Another process that holds the study."""
    command = [sys.executable, "-c", DRIVER, str(folder.path)]
    root = Path(__file__).parents[3]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_a_study_is_locked_while_its_driver_lives_and_free_once_it_was_killed(folder, driver):
    assert folder.is_running()
    sentence = (
        f"Study 'toy' is being run by process {driver.pid}; wait for it, stop it, or use another --home."
    )
    with pytest.raises(UserError, match=re.escape(sentence)), folder.locked():
        pass
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert not folder.is_running()
    with folder.locked():
        assert (folder.path / LOCK).read_text() == str(os.getpid())
        assert folder.is_running()
    assert not folder.is_running()


def test_a_study_is_free_after_an_error_and_without_a_folder(folder):
    assert not folder.is_running()
    with pytest.raises(ValueError, match="a bug"), folder.locked():
        raise ValueError("a bug")
    with folder.locked():
        pass


def test_looking_needs_no_right_to_write(folder, monkeypatch):
    with folder.locked():
        pass
    opened = []
    original = Path.open

    def watched(self, mode="r", *rest, **named):
        opened.append(mode)
        return original(self, mode, *rest, **named)

    monkeypatch.setattr(Path, "open", watched)
    assert not folder.is_running()
    assert opened == ["r"]


def test_two_that_look_do_not_take_each_other_for_a_driver(folder):
    with folder.locked():
        pass
    with (folder.path / LOCK).open() as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        assert not folder.is_running()


def test_a_study_comes_back_as_it_was_frozen(folder):
    assert folder.frozen() is None
    folder.freeze(a_study())
    folder.freeze(a_study(trials=20))
    assert folder.frozen() == a_study(trials=20)
    assert [p.name for p in folder.path.iterdir()] == [SPEC]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"format": 1, "name"', "must be JSON, but it is damaged"),
        ("", "must be JSON, but it is damaged"),
        ("\x00\x01", "must be JSON, but it is damaged"),
        ("[]", "was written in format None, this program reads format 1"),
        ('{"format": 2}', "was written in format 2, this program reads format 1"),
        ('{"format": 1}', "must hold name, question, arms"),
    ],
)
def test_a_damaged_or_foreign_definition_is_refused(folder, text, sentence):
    folder.freeze(a_study())
    (folder.path / SPEC).write_text(text)
    with pytest.raises(UserError, match=sentence):
        folder.frozen()


def test_a_definition_with_damaged_parts_is_refused(folder):
    folder.freeze(a_study())
    whole = (folder.path / SPEC).read_text()
    for part in ('"low"', '"annotation"', '"method"'):
        assert part in whole
        (folder.path / SPEC).write_text(whole.replace(part, '"lost"'))
        with pytest.raises(UserError):
            folder.frozen()


def test_the_studies_of_a_home_are_those_that_were_started(tmp_path):
    home = Home(tmp_path / "runs")
    assert home.studies() == []
    assert Home(Path(__file__) / "below").studies() == []
    home.study("b").freeze(a_study())
    home.study("a").freeze(a_study())
    home.datasets.mkdir()
    assert home.studies() == ["a", "b"]
    assert home.existing("a") == home.study("a")
    with pytest.raises(UserError, match=r"No study 'c' was started in .* Started there: a, b; start it with"):
        home.existing("c")
    with pytest.raises(UserError, match=r"Started there: none;"):
        Home(tmp_path / "other").existing("a")


def test_a_home_is_made_and_nothing_is_left_by_the_check(tmp_path):
    home = Home(tmp_path / "new" / "runs")
    home.check_writable()
    assert list(home.path.iterdir()) == []


def test_a_home_that_is_no_folder_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "runs", Path("/proc/runs")):
        with pytest.raises(UserError) as error:
            Home(path).check_writable()
        assert str(error.value).startswith(f"The home folder {path} must be writable, but: ")
        assert str(error.value).endswith("; make it writable or name another with --home (STUDY_HOME).")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named(tmp_path, monkeypatch, number):
    def full(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", full)
    with pytest.raises(
        UserError, match=f"{os.strerror(number)}; free some space or name another with --home"
    ):
        Home(tmp_path).check_writable()


def test_the_same_definition_agrees_and_targets_may_grow():
    agree(a_study(), a_study())
    agree(a_study(), a_study(trials=50, seeds=(1001, 1002, 1003)))
    agree(a_study(), dataclasses.replace(a_study(), question="Better said?"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"metric": "iou"}, "metric: 'dice' -> 'iou'"),
        (
            {"network_settings": {"width": 4}},
            "network_settings: {} -> None; network_settings.width: None -> 4",
        ),
        ({"replicates": Replicates(seeds=(1001, 1002), folds=(1,))}, "replicates.folds: [0] -> [1]"),
        ({"pairs": (("statistic", "two clicks"),)}, "pairs: [] -> [['statistic', 'two clicks']]"),
    ],
)
def test_another_definition_is_refused_and_the_difference_named(change, named):
    with pytest.raises(UserError) as error:
        agree(a_study(), dataclasses.replace(a_study(), **change))
    assert str(error.value) == (
        f"Study 'toy' was started with another definition ({named}); give the same settings, or run the new "
        "ones beside it with --fork NAME or another --home."
    )


def test_many_differences_are_counted():
    protocol = dataclasses.replace(
        a_study().protocol, iterations=1, batch_size=1, momentum=0.5, schedule="cosine", reports=1
    )
    with pytest.raises(UserError, match=r"protocol\.batch_size: 4 -> 1; .* and 2 more\)"):
        agree(a_study(), dataclasses.replace(a_study(), protocol=protocol))


def test_a_difference_inside_an_arm_names_the_arm():
    study = a_study()
    arm = dataclasses.replace(study.arm(SEARCHED), settings={"overlap_weight": 2.0})
    changed = dataclasses.replace(study, arms=(arm, *study.arms[1:]))
    with pytest.raises(UserError, match=r"arms\[statistic\]\.settings\.overlap_weight: None -> 2\.0"):
        agree(study, changed)
    with pytest.raises(UserError, match=r"arms\[two clicks\]\.annotation"):
        agree(study, dataclasses.replace(study, arms=(study.arms[0], study.arms[2])))


def test_a_path_is_made_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Home.at("runs").path == tmp_path / "runs"
    assert Home.at("~/runs").path == tmp_path / "runs"
    assert Home.at("runs").cache == tmp_path / "runs" / "cache"
