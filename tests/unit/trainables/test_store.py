"""Files that appear whole or not at all, on every kind of filesystem, whatever dies meanwhile."""

from __future__ import annotations

import logging
import os
import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import fs

from trainables import store as stores
from trainables.store import Store, StoreAwayError

SECRET = "s3://KEY:ge%2Fheim@bucket/my%20runs/toy?endpoint_override=host:9000&scheme=http"


class Death(BaseException):
    """The process ends here."""


class Stream:
    """A file that is written to through the handler; what it holds is there when it is closed."""

    def __init__(self, handler: Mortal, file: Any) -> None:
        self.handler, self.file = handler, file
        self.closed = False

    def write(self, content: bytes) -> int:
        half = len(content) // 2
        self.file.write(content[:half])
        self.handler.act("write")
        self.file.write(content[half:])
        return len(content)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.handler.act("close")
            self.file.close()

    def flush(self) -> None:
        """Nothing."""


class Mortal(fs.FSSpecHandler):  # type: ignore[misc]
    """A folder as a foreign filesystem, whose user dies at its `last` change."""

    def __init__(self, folder: Path) -> None:
        super().__init__(None)
        self.system = fs.SubTreeFileSystem(str(folder), fs.LocalFileSystem())
        self.acts: list[str] = []
        self.last = 0

    def act(self, what: str) -> None:
        self.acts.append(what)
        if len(self.acts) == self.last:
            raise Death(what)

    def get_type_name(self) -> str:
        return "mortal"

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        return self.system.get_file_info(paths)  # type: ignore[no-any-return]

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        return self.system.get_file_info(selector)  # type: ignore[no-any-return]

    def create_dir(self, path: str, recursive: bool) -> None:
        self.act("create_dir")
        self.system.create_dir(path, recursive=recursive)

    def open_input_stream(self, path: str) -> Any:
        return self.system.open_input_stream(path)

    def open_output_stream(self, path: str, metadata: Any) -> Any:
        self.act("open")
        return pa.PythonFile(Stream(self, self.system.open_output_stream(path)), mode="w")

    def move(self, path: str, other: str) -> None:
        self.act("move")
        self.system.move(path, other)

    def delete_file(self, path: str) -> None:
        self.system.delete_file(path)


@pytest.fixture
def mortal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mortal:
    handler = Mortal(tmp_path)
    monkeypatch.setattr(stores, "_connected", lambda uri: (fs.PyFileSystem(handler), ""))
    return handler


@pytest.fixture(params=["folder", "mock", "subtree"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    system = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    if request.param == "subtree":
        monkeypatch.setattr(stores, "_connected", lambda uri: (system, ""))
    yield Store.at(tmp_path / "a b" if request.param == "folder" else "mock:///a%20b")
    stores._connected.cache_clear() if request.param == "mock" else None


def test_what_is_written_is_read(store: Store) -> None:
    trial = store.child("toy", "trials")
    assert trial.read("x.gz") is None
    assert trial.names() == []
    assert not trial.exists("x.gz")
    trial.write("x.gz", b"one")  # no name means anything here: nothing is unpacked
    trial.write("x.gz", memoryview(b"another"))
    assert pickle.loads(pickle.dumps(trial)).read("x.gz") == b"another"
    assert trial.exists("x.gz")
    assert not store.child("toy").exists("trials")  # a folder is no file
    trial.write("empty", b"")
    assert trial.read("empty") == b""
    trial.move("x.gz", "empty")
    assert (trial.read("x.gz"), trial.read("empty")) == (None, b"another")
    for _ in range(2):
        trial.delete("empty")
    assert trial.names() == []
    assert store.names() == ["toy"]
    assert Store.of(trial.file("network.pt")) == (trial, "network.pt")


@pytest.mark.parametrize("last", range(1, 6))
def test_a_death_in_any_moment_of_a_write_leaves_the_old_file(mortal: Mortal, last: int) -> None:
    store = Store.at("mortal:///toy")
    store.write("checkpoint.pt", b"old")
    assert mortal.acts == ["create_dir", "open", "write", "close", "move"]
    mortal.acts.clear()
    mortal.last = last
    with pytest.raises(Death):
        store.write("checkpoint.pt", b"new content")
    mortal.last = 0
    assert store.read("checkpoint.pt") == b"old"
    store.write("checkpoint.pt.bak.mine", b"x")
    store.write("other", b"y")
    store.sweep("checkpoint.pt")
    assert store.names() == ["checkpoint.pt", "other"]


@pytest.mark.parametrize("moment", ["open", "fsync", "replace"])
def test_a_death_in_any_moment_of_a_write_to_a_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    store = Store.at(tmp_path)
    store.write("checkpoint.pt", b"old")

    def die(*_: object, **__: object) -> None:
        raise Death

    with monkeypatch.context() as patch:
        patch.setattr(*((os, "fsync") if moment == "fsync" else (Path, moment)), die)
        with pytest.raises(Death):
            store.write("checkpoint.pt", b"new")
    assert store.read("checkpoint.pt") == b"old"
    store.sweep("checkpoint.pt")
    assert store.names() == ["checkpoint.pt"]


def test_a_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda file: (order.append("fsync"), fsync(file)))
    monkeypatch.setattr(Path, "replace", lambda a, b: (order.append("replace"), replace(a, b)))
    Store.at(tmp_path).write("x", b"content")
    assert order == ["fsync", "replace"]


def test_an_object_that_an_error_cut_off_is_not_published(
    mortal: Mortal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing an upload is what makes it an object, and `with` closes whatever happens."""
    monkeypatch.setattr(stores, "_WHOLE_OBJECTS", ("py::mortal",))
    (tmp_path / "toy").mkdir()
    Store.at("mortal:///toy").write("x", b"old")
    assert mortal.acts == ["open", "write", "close"]  # nothing is moved
    closed = mortal.acts.count("close")
    mortal.last = 5
    with pytest.raises(Death):
        Store.at("mortal:///toy").write("x", b"new content")
    assert mortal.acts.count("close") == closed


@pytest.mark.parametrize(
    ("uri", "child", "file", "shown"),
    [
        ("/a/b c", "/a/b c/t", "/a/b c/t/n?.pt", "/a/b c/t/n?.pt"),
        ("file:///a/b%20c", "/a/b c/t", "/a/b c/t/n?.pt", "/a/b c/t/n?.pt"),
        ("s3://b/p/", "s3://b/p/t", "s3://b/p/t/n%3F.pt", "s3://b/p/t/n?.pt"),
        ("s3://b", "s3://b/t", "s3://b/t/n%3F.pt", "s3://b/t/n?.pt"),
        ("s3://u:p@b/p?x=y", "s3://u:p@b/p/t?x=y", "s3://u:p@b/p/t/n%3F.pt?x=y", "s3://b/p/t/n?.pt"),
    ],
)
def test_addresses(uri: str, child: str, file: str, shown: str) -> None:
    store = Store.at(uri)
    assert store.child("t").uri == child
    assert store.child("t").file("n?.pt") == file
    assert store.child("t").shown("n?.pt") == shown
    assert Store.of(file) == (store.child("t"), "n?.pt")
    assert store.child("t").name == "t"


def test_bucket_and_prefix_reach_the_client() -> None:
    system, path = stores._place(Store.at(SECRET).child("t").uri)
    assert (system.type_name, path) == ("s3", "bucket/my runs/toy/t")
    assert stores._place(SECRET)[0] is system  # one client for all folders
    assert system.__reduce__()[1][0]["secret_key"] == "ge/heim"


def test_a_service_that_is_away_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers = iter([OSError(f"no route to {SECRET} (Request ID: abc)"), OSError("again"), None])

    def connect(uri: str) -> tuple[fs.FileSystem, str]:
        answer = next(answers)
        if answer is not None:
            raise answer
        return fs._MockFileSystem(), ""

    monkeypatch.setattr(stores, "_connected", connect)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with caplog.at_level(logging.WARNING):
        assert Store.at(SECRET).read("x") is None
    told = [record.getMessage() for record in caplog.records]
    assert told[0] == (
        "s3://bucket/my runs/toy does not answer (no route to s3://bucket/my runs/toy); it is waited for."
    )
    assert told[1].startswith("s3://bucket/my runs/toy answers again after")
    assert len(told) == 2


def test_patience_ends_in_one_sentence_that_survives_a_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(uri: str) -> tuple[fs.FileSystem, str]:
        raise OSError("no route\nand more")

    monkeypatch.setattr(stores, "_connected", away)
    started = time.monotonic()
    with pytest.raises(StoreAwayError) as error:
        Store.at(SECRET).hasty().write("x", b"")
    assert time.monotonic() - started < 5
    copy = pickle.loads(pickle.dumps(error.value))
    assert str(copy) == str(error.value)
    assert (copy.reason, "\n" in str(copy), "heim" in str(copy)) == ("no route", False, False)


def test_a_disk_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match="non-directory entry exists"):
        Store.at(tmp_path / "file").write("x", b"")


def test_its_text_shows_no_secret() -> None:
    assert "heim" not in repr(Store.at(SECRET)) + Store.at(SECRET).shown("x")
