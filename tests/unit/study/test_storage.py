"""What is written into Optuna's database, and that it is read back as it was."""

import sqlite3

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState

from search_spaces import Float, UserError
from search_spaces.to_optuna import distributions
from study import waiting
from study.proposals import Attempt
from study.segments import DiskFullError
from study.storage import ArmStore, DatabaseAwayError, open_storage

SPACE = distributions({"rate": Float(1e-4, 1e-1, log=True)})


def a_store(storage, *, greater=True):
    return ArmStore(storage, "study/arm", greater_is_better=greater)


def ended(number, state, value):
    return Attempt(number, {"rate": 0.1 / (number + 1)}, state, value)


EVERY_END = [
    (ended(0, "finished", 0.75), TrialState.COMPLETE, 0.75),
    (ended(1, "pruned", 0.25), TrialState.PRUNED, None),
    (ended(2, "diverged", None), TrialState.COMPLETE, 0.0),
    (ended(3, "failed", None), TrialState.FAIL, None),
    (ended(4, "finished", None), TrialState.COMPLETE, 0.0),
]


@pytest.fixture(params=["sqlite", "memory"])
def storage(request, tmp_path):
    return open_storage(tmp_path, None) if request.param == "sqlite" else optuna.storages.InMemoryStorage()


def test_every_end_is_written_as_optuna_knows_it_and_comes_back(storage):
    store = a_store(storage)
    for attempt, _, _ in EVERY_END:
        store.add(Attempt(attempt.number, attempt.parameters), SPACE, f"key{attempt.number}")
        store.report(attempt.number, 10, 0.1 * attempt.number)
        store.tell(attempt)
    trials = a_store(storage).study.get_trials()
    assert [(t.state, t.values and t.values[0]) for t in trials] == [(s, v) for _, s, v in EVERY_END]
    assert [t.user_attrs["key"] for t in trials] == [f"key{n}" for n in range(5)]
    for (attempt, _, _), back in zip(EVERY_END[:4], a_store(storage).load()[:4], strict=True):
        assert back == Attempt(
            attempt.number, attempt.parameters, attempt.state, attempt.value, {10: 0.1 * attempt.number}
        )


@pytest.mark.parametrize(("greater", "worst"), [(True, 0.0), (False, float("inf"))])
def test_a_diverged_trial_is_told_the_worst_value(storage, greater, worst):
    store = a_store(storage, greater=greater)
    store.add(ended(0, "diverged", None), SPACE, "key")
    store.tell(ended(0, "diverged", 0.5))
    assert store.study.trials[0].value == worst
    assert store.load()[0].value is None


def test_a_running_trial_comes_back_as_running(storage):
    store = a_store(storage)
    store.add(Attempt(0, {"rate": 0.02}), SPACE, "key")
    store.report(0, 10, float("inf"))
    assert a_store(storage).load() == [Attempt(0, {"rate": 0.02}, rungs={10: float("inf")})]
    assert store.study.trials[0].state == TrialState.RUNNING


def test_telling_twice_changes_nothing(storage):
    store = a_store(storage)
    store.add(ended(0, "finished", 0.5), SPACE, "key")
    store.tell(ended(0, "finished", 0.5))
    store.tell(ended(0, "failed", None))
    assert a_store(storage).load() == [ended(0, "finished", 0.5)]


def test_a_trial_that_another_program_wrote_is_noticed(storage):
    mine, other = a_store(storage), a_store(storage)
    other.add(Attempt(0, {"rate": 0.02}), SPACE, "key")
    with pytest.raises(RuntimeError, match="Another program writes to Optuna study 'study/arm'"):
        mine.add(Attempt(0, {"rate": 0.02}), SPACE, "key")


@pytest.mark.parametrize("written", [True, False])
def test_an_outage_while_a_trial_is_written_leaves_it_there_once(storage, monkeypatch, written):
    """Also when it was written and only that was not heard."""
    monkeypatch.setattr(waiting, "_FIRST_PAUSE_SECONDS", 0.0)
    store, create, outages = a_store(storage), storage.create_new_trial, [DatabaseAwayError("gone")]

    def cut_off(*arguments, **named):
        if outages and not written:
            raise outages.pop()
        result = create(*arguments, **named)
        if outages:
            raise outages.pop()
        return result

    monkeypatch.setattr(storage, "create_new_trial", cut_off)
    store.add(Attempt(0, {"rate": 0.02}), SPACE, "key")
    store.add(Attempt(1, {"rate": 0.02}), SPACE, "next")
    assert [t.user_attrs["key"] for t in store.study.get_trials()] == ["key", "next"]
    assert not outages


def test_the_database_lies_in_the_study_and_writes_ahead(tmp_path):
    storage = open_storage(tmp_path, None)
    a_store(storage)
    with storage.engine.connect() as connection:
        raw = connection.connection.dbapi_connection
        assert raw.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert raw.execute("PRAGMA synchronous").fetchone() == (1,)  # NORMAL
    with sqlite3.connect(tmp_path / "optuna.db") as connection:
        assert connection.execute("SELECT study_name FROM studies").fetchall() == [("study/arm",)]
    assert not (tmp_path / "elsewhere.db").exists()
    open_storage(tmp_path, f"sqlite:///{tmp_path / 'elsewhere.db'}")
    assert (tmp_path / "elsewhere.db").exists()


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////no/such/folder/x.db",
        "no url at all",
        "bob:secret@host",
        "nosuch://bob:secret@host/x",
        "nosuch://bob:se@secret/x@host/x",
        "postgresql+nosuch://bob:secret@localhost/x",
        "postgresql://bob:secret@localhost:port/x",
    ],
)
def test_a_database_that_does_not_open_is_one_sentence_without_its_password(tmp_path, url):
    with pytest.raises(UserError) as error:
        open_storage(tmp_path, url)
    sentence = str(error.value)
    assert sentence.startswith("Optuna's database ")
    assert sentence.endswith("; check --optuna-storage (STUDY_OPTUNA_STORAGE).")
    assert "\n" not in sentence
    assert "secret" not in sentence


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "optuna.db").write_text("this is no database, it only has its name" * 100)
    with pytest.raises(UserError, match=r"must open, but: .*not a database"):
        open_storage(tmp_path, None)


def fill(store):
    for number in range(1, 100):
        store.add(ended(number, "finished", 0.5), SPACE, "a long key" * 20)


def test_a_full_disk_is_told_in_a_sentence_and_loses_nothing(tmp_path):
    storage = open_storage(tmp_path, None)
    store = a_store(storage)
    store.add(ended(0, "finished", 0.75), SPACE, "key0")
    with storage.engine.connect() as connection:
        (pages,) = connection.exec_driver_sql("PRAGMA page_count").fetchone()

    def small(connection, _record):
        connection.execute(f"PRAGMA max_page_count={pages}")

    sqlalchemy.event.listen(storage.engine, "connect", small)
    storage.engine.dispose()
    with pytest.raises(DiskFullError, match=r"^No space is left for Optuna's database: .* the same command"):
        fill(store)
    sqlalchemy.event.remove(storage.engine, "connect", small)
    storage.engine.dispose()
    assert a_store(storage).load()[0].parameters == {"rate": 0.1}
