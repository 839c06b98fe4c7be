"""Studies whose checkpoints, pictures and networks lie in an object store, and not in a shared folder."""

from __future__ import annotations

import importlib.util
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import mlflow
import pytest

from study.home import Home
from study.results import TrialRow
from tests.chaos import harness
from tests.chaos.harness import essence, trace_lines, wait_for
from tests.ray import driver
from tests.ray.test_sigterm import without_time
from tests.ray.toy import ORDERS, picture
from tests.servers.conftest import Start
from tests.servers.objects import BUCKET, ObjectStore

pytestmark = [
    pytest.mark.servers,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(importlib.util.find_spec("moto") is None, reason="pip install 'moto[server]'"),
]

SIZE = 300_000
"""Bytes of a picture."""

PATIENCE = 400.0
"""Seconds that anything may take on a busy machine."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    one = ObjectStore(tmp_path_factory.mktemp("moto"))
    yield one
    one.end()


@pytest.fixture
def store(service: ObjectStore) -> Iterator[ObjectStore]:
    yield service
    service.go_on()


@pytest.fixture
def prefix() -> str:
    """A part of the bucket that no other test uses."""
    return f"lab {uuid.uuid4().hex[:8]}"


def address(prefix: str) -> str:
    return f"s3://{BUCKET}/{quote(prefix)}"


def rows(home: Path) -> list[TrialRow]:
    return Home(home).study(driver.NAME).ledger.trials()


def orders(home: Path, text: str) -> None:
    (home / ORDERS).write_text(text)


def ended(one: harness.Driver) -> None:
    """Waits for a driver that must succeed."""
    assert one.wait(PATIENCE) == 0, one.errors()


def refused(one: harness.Driver) -> str:
    """The sentence with which a command ends that starts nothing."""
    assert one.wait(PATIENCE) == 2, one.errors()
    said = one.errors()
    assert said.count("\n") == 1, said
    return said


def test_a_study_is_the_same_with_its_files_in_the_store(
    home: Path, start: Start, store: ObjectStore, prefix: str, undisturbed: list[tuple[Any, ...]]
) -> None:
    """Its address holds the secret; afterwards nothing that it left does, and it must be given again."""
    orders(home, f'{{"samples": {SIZE}}}')
    ended(start("run", driver.NAME, STUDY_STORAGE_PATH=store.uri(quote(prefix))))
    found = rows(home)
    assert essence(found) == undisturbed
    harness.assert_mlflow_agrees(home, found)

    objects = store.objects(prefix)
    confirmed = [row for row in found if row.phase == "confirm"]
    for row in confirmed:
        name = f"{prefix}/{driver.NAME}/trials/{row.key}/samples.png"
        assert objects[name] == picture(row.key, SIZE)
    assert not any("orders/" in name or "probe" in name for name in objects)
    here = {path.name for path in (home / driver.NAME / "trials").glob("*/*")}
    assert here == {"trace"}, "a trial left something in the home"

    client: Any = mlflow.MlflowClient(tracking_uri=f"sqlite:///{home / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(driver.NAME).experiment_id
    runs = client.search_runs([experiment], "tags.`study.phase` = 'confirm'")
    assert len(runs) == len(confirmed)
    for run in runs:
        (picture_there,) = client.list_artifacts(run.info.run_id, "samples")
        assert picture_there.file_size == SIZE

    for path in filter(Path.is_file, home.rglob("*")):
        content = path.read_bytes()
        assert store.secret.encode() not in content, path
        assert quote(store.secret, safe="").encode() not in content, path
    said = refused(start("run", driver.NAME))
    assert f"lie in s3://***@{BUCKET}/" in said
    assert "give that address again with --storage-path" in said


def test_it_is_remembered_and_another_place_is_refused(
    home: Path, start: Start, store: ObjectStore, prefix: str, undisturbed: list[tuple[Any, ...]]
) -> None:
    known = store.environment()
    one = start("run", driver.NAME, "--storage-path", address(prefix), **known)
    wait_for(lambda: trace_lines(Home(home).study(driver.NAME)) >= 10, PATIENCE, "progress")
    one.finish()  # kill -9 to all of it
    said = refused(start("run", driver.NAME, "--storage-path", str(home / "elsewhere"), **known))
    assert f"lie in {address(prefix)}, but --storage-path names {home / 'elsewhere'}" in said
    ended(start("run", driver.NAME, **known))
    assert essence(rows(home)) == undisturbed
    harness.assert_few_repeats(Home(home).study(driver.NAME), harness.Counter(all=1))


def test_a_worker_that_is_killed_goes_on_from_its_object(
    home: Path, start: Start, store: ObjectStore, prefix: str, tmp_path: Path
) -> None:
    """A network is trained; every row is equal, bit for bit, to those of a home of its own."""
    alone = tmp_path / "alone"
    alone.mkdir()
    ended(start("run", driver.NAME, "--home", str(alone), **{driver.REAL: "yes"}))
    known = store.environment(**{driver.REAL: "yes"})
    one = start("run", driver.NAME, "--storage-path", address(prefix), **known)
    half = driver.ITERATIONS // 2
    wait_for(lambda: len(steps(home)) > half + 10, PATIENCE, "a report and some steps")
    for worker in one.workers():
        worker.kill()
    ended(one)
    (row,), (expected,) = rows(home), rows(alone)
    assert without_time(row) == without_time(expected)
    assert row.details["losses"] == ["worker_lost"]
    taken = steps(home)
    again = len(taken) - driver.ITERATIONS
    assert taken == [*range(half + again), *range(half, driver.ITERATIONS)]
    assert 10 <= again < half
    names = {name.rpartition("/")[2] for name in store.objects(f"{prefix}/{driver.NAME}/trials")}
    assert names == {"checkpoint.pt", "gallery.npz", "samples.png"}


def steps(home: Path) -> list[int]:
    texts = [path.read_text() for path in (home / driver.NAME).glob("trials/*/steps")]
    return [int(line.split()[0]) for text in texts for line in text.splitlines()]


def test_a_store_that_hangs_for_a_while_is_waited_for(
    home: Path, start: Start, store: ObjectStore, prefix: str, undisturbed: list[tuple[Any, ...]]
) -> None:
    orders(home, '{"sleep": 0.2}')
    one = start("run", driver.NAME, "--storage-path", address(prefix), **store.environment())
    folder = Home(home).study(driver.NAME)
    wait_for(lambda: trace_lines(folder) >= 20, PATIENCE, "progress")
    store.pause()
    before = trace_lines(folder)
    time.sleep(25)
    assert one.process.poll() is None
    assert trace_lines(folder) - before < 10  # each trial comes to its next checkpoint, no further
    store.go_on()
    ended(one)
    assert essence(rows(home)) == undisturbed
    assert not any(row.details.get("losses") for row in rows(home))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("bucket", "NO_SUCH_BUCKET"),
        ("secret", "SIGNATURE_DOES_NOT_MATCH"),
        ("nobody", "Could not connect to server"),
        ("option", "Unexpected query parameter"),
        ("scheme", "Unrecognized filesystem type"),
    ],
)
def test_what_cannot_be_used_is_refused_before_the_start(
    home: Path, start: Start, store: ObjectStore, kind: str, reason: str
) -> None:
    wrong = "falsch-geheim-Wort"
    uri = {
        "bucket": store.uri("x").replace(f"@{BUCKET}/", "@nowhere/"),
        "secret": store.uri("x", wrong),
        "nobody": store.uri("x", wrong).replace(f":{store.port}", ":9"),
        "option": f"{store.uri('x', wrong)}&no=thing",
        "scheme": store.uri("x", wrong).replace("s3://", "s4://"),
    }[kind]
    said = refused(start("run", driver.NAME, "--storage-path", uri))
    assert reason in said
    assert "--storage-path" in said
    assert not any(secret in said for secret in (wrong, store.secret, quote(store.secret, safe="")))
    assert not (home / driver.NAME).exists()
