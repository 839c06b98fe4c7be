"""Optuna's memory in PostgreSQL: connections that are lost, and answers that are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from search_spaces import Float, UserError
from search_spaces.to_optuna import distributions
from study import waiting
from study.proposals import Attempt
from study.storage import ArmStore, DatabaseAwayError, open_storage
from tests.servers.line import DatabaseLine
from tests.servers.servers import SECRETS, Postgres

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]

SPACE = distributions({"rate": Float(1e-4, 1e-1, log=True)})


@pytest.fixture
def line(postgres: Postgres) -> Iterator[DatabaseLine]:
    one = DatabaseLine(postgres.port)
    yield one
    one.close()


def a_store(url: str) -> ArmStore:
    return ArmStore(open_storage(Path(), url), "study/arm", greater_is_better=True)


def trials(url: str) -> list[optuna.trial.FrozenTrial]:
    return a_store(url).study.get_trials()


def test_connections_that_the_database_ended_are_no_matter(postgres: Postgres, optuna_url: str) -> None:
    store = a_store(optuna_url)
    for number in range(3):
        with postgres.connect() as other:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid != pg_backend_pid()"
            )
        store.add(Attempt(number, {"rate": 0.02}), SPACE, f"key{number}")
    assert [trial.user_attrs["key"] for trial in trials(optuna_url)] == ["key0", "key1", "key2"]


def test_a_trial_whose_writing_was_not_heard_of_is_there_once(
    postgres: Postgres, optuna_url: str, line: DatabaseLine, caplog: pytest.LogCaptureFixture
) -> None:
    store = a_store(optuna_url.replace(f":{postgres.port}/", f":{line.own_port}/"))
    attempt = Attempt(0, {"rate": 0.02}, "finished", 0.5)
    for wanted, write in enumerate(
        (
            lambda: store.add(Attempt(0, {"rate": 0.02}), SPACE, "key"),
            lambda: store.report(0, 10, 0.25),
            lambda: store.tell(attempt),
        ),
        1,
    ):
        line.to_lose = wanted
        write()
        assert line.lost == wanted
    (trial,) = trials(optuna_url)
    assert (trial.state, trial.value, trial.intermediate_values) == (TrialState.COMPLETE, 0.5, {10: 0.25})
    assert caplog.text.count("the study waits for it") == caplog.text.count("answers again") == 3
    store.add(Attempt(1, {"rate": 0.03}), SPACE, "next")
    assert [t.number for t in trials(optuna_url)] == [0, 1]


def test_the_arms_own_study_is_made_once_although_that_was_not_heard_of(
    postgres: Postgres, optuna_url: str, line: DatabaseLine
) -> None:
    storage = open_storage(Path(), optuna_url.replace(f":{postgres.port}/", f":{line.own_port}/"))
    line.to_lose = 1
    ArmStore(storage, "study/arm", greater_is_better=True)
    assert line.lost == 1
    assert optuna.get_all_study_names(optuna_url) == ["study/arm"]


def test_an_outage_is_told_from_other_errors_and_names_no_password(
    postgres: Postgres, optuna_url: str
) -> None:
    storage = open_storage(Path(), optuna_url)
    with pytest.raises(optuna.exceptions.StorageInternalError):  # its own complaints stay what they are
        storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "longer than it takes" * 100)
    postgres.stop()
    with pytest.raises(DatabaseAwayError, match="terminating connection") as away:
        storage.get_all_studies()
    with pytest.raises(DatabaseAwayError, match="refused"):  # and so for as long as it takes
        storage.get_all_studies()
    assert not any(secret in str(away.value) for secret in SECRETS)


def test_patience_with_a_database_ends(
    postgres: Postgres, optuna_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = a_store(optuna_url)
    postgres.stop()
    monkeypatch.setattr(waiting, "PATIENCE_SECONDS", 2.0)
    with pytest.raises(UserError, match=r"^Optuna's database postgresql\+psycopg://\*\*\*@.* in the ledger"):
        store.add(Attempt(0, {"rate": 0.02}), SPACE, "key")
