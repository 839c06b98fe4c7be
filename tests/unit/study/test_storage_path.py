"""Where a study's trials lie: remembered without secrets, refused where it contradicts or cannot be used."""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from search_spaces import UserError
from study import pretraining, storage_path
from study.engine import BoardError
from study.home import SPEC, Home, StudyFolder
from study.pretraining import NETWORK, RESULT, Networks
from study.ray_adapters import BoardSearcher
from study.stopping import Orders
from tests.unit.study.conftest import a_study
from trainables import saved
from trainables import store as stores
from trainables.store import Store

SECRET = "s3://KEY:ge%2Fheim@bucket/runs?endpoint_override=privat:9000"


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return Home(tmp_path).study("toy")


@pytest.fixture
def far() -> Store:
    return Store.at(f"mock:///{uuid.uuid4().hex}")


def start(folder: StudyFolder, given: str | None) -> Store:
    store = storage_path.of(folder, given)
    folder.path.mkdir(exist_ok=True)
    storage_path.remember(folder, store)
    folder.freeze(a_study())
    return store


def refusal(folder: StudyFolder, given: str | None) -> str:
    with pytest.raises(UserError) as error:
        storage_path.of(folder, given)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_without_the_option_it_is_the_home(folder: StudyFolder, tmp_path: Path) -> None:
    assert start(folder, None) == start(folder, None) == Store.at(tmp_path)
    assert start(folder, str(tmp_path)) == Store.at(tmp_path)
    assert storage_path.witness(folder, Store.at(tmp_path)) == (Store.at(folder.path), SPEC)
    assert {path.name for path in folder.path.iterdir()} == {SPEC}


@pytest.mark.parametrize("given", ["s3://bucket/runs", "file:///shared/my%20runs", "/shared/runs/"])
def test_it_is_remembered(folder: StudyFolder, given: str) -> None:
    store = start(folder, given)
    assert storage_path.of(folder, None) == storage_path.of(folder, given) == store
    assert f"lie in {store.shown()}, but --storage-path names /other; give the first" in refusal(
        folder, "/other"
    )


@pytest.mark.parametrize("given", ["runs", "s3:/bucket/runs"])
def test_a_path_that_is_not_absolute_is_refused(folder: StudyFolder, given: str) -> None:
    assert f"must be an absolute path or an address such as s3://BUCKET/PREFIX, but got '{given}'" in refusal(
        folder, given
    )


def test_a_study_that_began_in_its_home_stays_there(folder: StudyFolder, tmp_path: Path) -> None:
    start(folder, None)
    sentence = refusal(folder, SECRET)
    assert f"lie in {tmp_path}, but --storage-path names s3://***@bucket/runs?***" in sentence


def test_what_another_driver_began_meanwhile_counts(folder: StudyFolder) -> None:
    early = storage_path.of(folder, "/one")
    start(folder, "/other")
    with pytest.raises(UserError, match="lie in /other, but --storage-path names /one"):
        storage_path.remember(folder, early)


def test_a_start_that_went_no_further_binds_to_nothing(folder: StudyFolder, tmp_path: Path) -> None:
    folder.path.mkdir()
    storage_path.remember(folder, Store.at("/one"))
    assert start(folder, None) == Store.at(tmp_path)
    assert storage_path.of(folder, None) == Store.at(tmp_path)


def test_secrets_are_not_kept_and_must_be_given_again(folder: StudyFolder) -> None:
    store = start(folder, SECRET)
    kept = "".join(path.read_text() for path in folder.path.iterdir())
    assert not any(secret in kept for secret in ("heim", "privat", "KEY"))
    assert storage_path.of(folder, SECRET) == store
    assert storage_path.of(folder, "s3://bucket/runs").shown() == store.shown()  # the same, by other keys
    assert "lie in s3://***@bucket/runs?***, whose secrets are not kept" in refusal(folder, None)


def test_the_nodes_of_a_cluster_find_the_definition_there(folder: StudyFolder, far: Store) -> None:
    start(folder, far.uri)
    place, name = storage_path.witness(folder, far)
    assert place == far.child("toy")
    assert place.read(name) == (folder.path / SPEC).read_bytes()


def test_a_probe_leaves_nothing(far: Store) -> None:
    storage_path.require_usable(far)
    assert far.names() == []


@pytest.mark.parametrize(
    "uri", [SECRET.replace("s3:", "s4:"), f"{SECRET}&no=thing", "s3://u:ge%2Fheim@b c/d"]
)
def test_what_is_no_address_is_one_sentence_without_secrets(uri: str) -> None:
    with pytest.raises(UserError, match=r"pyarrow's filesystems take.*but got s\d://\*\*\*@b") as error:
        storage_path.require_usable(Store.at(uri))
    assert not any(secret in str(error.value) for secret in ("heim", "privat", "\n"))


def test_what_does_not_answer_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(uri: str) -> None:
        raise OSError(f"AWS Error NO_SUCH_BUCKET for {uri} with ge/heim\nand more")

    monkeypatch.setattr(stores, "_connected", away)
    with pytest.raises(UserError) as error:
        storage_path.require_usable(Store.at(SECRET))
    sentence = str(error.value)
    assert sentence.startswith("Trials must be able to write, read and delete files in s3://***@bucket/runs?")
    assert ", but: AWS Error NO_SUCH_BUCKET for s3://" in sentence
    assert not any(secret in str(error.value) for secret in ("heim", "privat", "\n"))


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match=r"delete files in .*/file/x, but: .*; check --storage-path"):
        storage_path.require_usable(Store.at(tmp_path / "file" / "x"))


def test_networks_in_a_store_are_shared_by_homes(
    tmp_path: Path, far: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drivers of one home take turns; those of two may train at once, and the later, equal file stays."""
    one, same, other = (Networks(tmp_path / name, far) for name in ("a", "a", "b"))
    monkeypatch.setattr(pretraining, "ASK_EVERY", 3600.0)
    assert not one.has("key")
    assert one.claim("key")
    assert not same.claim("key")
    assert other.claim("key")
    assert not other.has("key")
    for _ in range(2):
        one.folder("key").write(RESULT, json.dumps({"key": "key", "curve": [1]}).encode())
        saved.write(one.folder("key"), NETWORK, {}, "key")
    assert not other.has("key")  # it asked a moment ago
    other.release("key")
    assert other.has("key")
    assert other.result("key")["curve"] == [1]
    one.folder("key").write(NETWORK, b"half")
    assert not Networks(tmp_path / "a", far).has("key")
    assert one.folder("key").names() == ["damaged.pt", RESULT]


def test_a_store_that_stays_away_ends_the_run_and_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver hears of a lost process and asks the store for the note of it, for as long as it may."""
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    def away(uri: str) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(stores, "time", SimpleNamespace(monotonic=lambda: now, sleep=sleep))
    monkeypatch.setattr(stores, "_connected", away)
    board: Any = SimpleNamespace(stopping=False)
    searcher = BoardSearcher(board, lambda job: {"folder": SECRET}, lambda: 1)
    job: Any = SimpleNamespace()
    searcher.jobs["trial"] = job
    with pytest.raises(BoardError) as error:
        searcher.on_trial_complete("trial", None, error=True)
    assert isinstance(error.value.error, UserError)
    assert str(error.value.error) == (
        "s3://bucket/runs must answer, but did not for 10 minutes (no route to host); every finished trial "
        "is in the ledger, so bring it back and give the same command again."
    )
    assert now > stores.PATIENCE_SECONDS


def test_orders_reach_those_who_do_not_see_the_home(tmp_path: Path, far: Store) -> None:
    orders = Orders(tmp_path / "orders", copied_to=far)
    folder, name = Store.of(orders.address)
    assert folder.read(name) is None  # nobody orders anything
    for node in ("one", "two"):
        orders.give(node)
    until = time.monotonic() + 10
    while folder.read(name) != b"one\ntwo\n":
        assert time.monotonic() < until
    orders.end()
    assert far.names() == []
