"""What is refused before a cluster is asked, and the shell that looks for the home first."""

from __future__ import annotations

import json
import shlex
import socket
import subprocess
from pathlib import Path

import pytest

from search_spaces import UserError
from study import jobs
from study.home import Home


@pytest.mark.parametrize("address", ["HEAD:8265", "127.0.0.1:6379", "ray://HEAD:10001", "http://", ""])
def test_an_address_that_is_no_dashboard_is_refused(address: str) -> None:
    with pytest.raises(UserError, match=r"must be that of the dashboard .* http://HEAD:8265, but got"):
        jobs.check_address(address)


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://me:word@host/o",
        "postgresql+psycopg://:word@host/o",
        "postgresql://host/o?password=word@",
    ],
)
@pytest.mark.parametrize("option", ["--optuna-storage", "--tracking-uri"])
def test_a_password_is_refused_and_not_repeated(option: str, uri: str) -> None:
    uris = {"--optuna-storage": None, "--tracking-uri": None, "--storage-path": None, option: uri}
    with pytest.raises(UserError, match=f"^{option} .* must hold no password") as refused:
        jobs.check_secrets(uris)
    assert "word@" not in str(refused.value)


def test_uris_without_a_password_are_taken() -> None:
    uris = {
        "--optuna-storage": "postgresql://me@host:5432/o",
        "--tracking-uri": "http://host:5000/mlflow",
        "--storage-path": "s3://bucket/prefix",
    }
    jobs.check_secrets(uris)


def test_nothing_is_written_where_no_dashboard_answers(tmp_path: Path) -> None:
    folder = Home(tmp_path).study("mine")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound but not listening
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(UserError, match=f"must answer at {address}, but: Connection refused; start"):
            jobs.submit(folder, address, ["mine"])
    assert not folder.path.exists()


def test_a_study_that_was_not_submitted(tmp_path: Path) -> None:
    folder = Home(tmp_path).study("mine")
    assert jobs.state(folder) is None
    with pytest.raises(UserError, match=r"'mine' must have been submitted .* study submit mine"):
        jobs.stop(folder)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"address": "http://h"}', '{"address": "h", "tok'])
def test_a_damaged_record(text: str, tmp_path: Path) -> None:
    folder = Home(tmp_path).study("mine")
    folder.path.mkdir()
    (folder.path / jobs.RECORD).write_text(text)
    with pytest.raises(UserError, match="is damaged; remove it and submit again"):
        jobs.logs(folder, print, follow=False)
    assert "is damaged" in str(jobs.state(folder))


def test_the_driver_starts_only_where_this_very_home_is(tmp_path: Path) -> None:
    """A folder of the same name on another disk has another token, or none."""
    folder = Home(tmp_path / "it's a home").study("mine")
    folder.path.mkdir(parents=True)
    mine = jobs.Submission("http://h", "1234")
    line = jobs._entrypoint(folder, mine, ["echo", "begun", "a b"])

    def shell() -> tuple[int, str]:
        done = subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True)
        return done.returncode, done.stdout

    blind = (2, "the head node does not see the folder\n")
    assert shell() == blind
    jobs._remember(folder, jobs.Submission("http://h", "5678"))
    assert shell() == blind
    jobs._remember(folder, mine)
    assert shell() == (0, "begun a b\n")
    assert json.loads((folder.path / jobs.RECORD).read_text())["token"] == "1234"
    assert shlex.split(line)[-3:] == ["echo", "begun", "a b"]
