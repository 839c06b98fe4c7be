"""The memory of the search: one Optuna study per arm in one database, written by the driver alone."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState, create_trial

from search_spaces import UserError
from study.proposals import Attempt

_STATES = {
    "finished": TrialState.COMPLETE,
    "diverged": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


_UNREADABLE = (sqlalchemy.exc.DatabaseError, StorageInternalError, ValueError, LookupError, TypeError)
"""What reading a damaged database raises."""


def open_storage(folder: Path, url: str | None) -> optuna.storages.BaseStorage:
    """SQLite in the study's folder, or the database at `url`. Raises UserError when it does not open."""
    address = url or f"sqlite:///{folder / 'optuna.db'}"
    if url is None:
        _require_sound(folder / "optuna.db")
    try:
        storage = optuna.storages.RDBStorage(address)
    except (sqlalchemy.exc.SQLAlchemyError, ImportError, ValueError, RuntimeError) as error:
        shown = _without_password(address)
        reason = str(error).splitlines()[0].replace(address, shown).rstrip(".")
        raise UserError(
            f"Optuna's database {shown} must open, but: {reason}; "
            "check --optuna-storage (STUDY_OPTUNA_STORAGE)."
        ) from error
    if address.startswith("sqlite"):
        sqlalchemy.event.listen(storage.engine, "connect", _quick_and_safe)
        storage.engine.dispose()  # connections opened before the listener lack its settings
    return storage


def _require_sound(path: Path) -> None:
    """Raises UserError for a damaged file, in which Optuna would find its tables and fail in the middle."""
    if not path.exists():
        return
    try:
        with closing(sqlite3.connect(path)) as database:
            (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        found = str(error)
    if found != "ok":
        raise UserError(_damaged(path, found))


def _damaged(place: Path | str, reason: str) -> str:
    reason = " ".join(reason.split())[:200]
    return (
        f"Optuna's database {place} must open, but: {reason}; move it away with its -wal and -shm, and the "
        "same command makes it again from the ledger."
    )


def _without_password(address: str) -> str:
    return re.sub(r"^([\w+]+://)?.*@", r"\1***@", address)


def _quick_and_safe(connection: sqlite3.Connection, _record: object) -> None:
    """Write-ahead log: a commit costs 1 ms instead of 10 and survives the death of every process.

    Only a power cut can lose the last commits, and those trials are in the ledger, which is synchronised.
    """
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


class ArmStore:
    """The trials of one arm as they lie in the database."""

    def __init__(self, storage: optuna.storages.BaseStorage, name: str, *, greater_is_better: bool) -> None:
        self.storage = storage
        self.study = optuna.create_study(
            study_name=name,
            storage=storage,
            direction="maximize" if greater_is_better else "minimize",
            load_if_exists=True,
        )
        self.worst = 0.0 if greater_is_better else float("inf")
        self.ids: dict[int, int] = {}

    def load(self) -> list[Attempt]:
        """All trials in the order of their numbers. Raises UserError for a damaged database."""
        try:
            trials = self.study.get_trials(deepcopy=False)
            self.ids = {t.number: t._trial_id for t in trials}
            attempts = [_attempt(t) for t in trials]
            if [a.number for a in attempts] != list(range(len(attempts))):
                raise ValueError("trials are missing")
        except (
            sqlalchemy.exc.DatabaseError,
            StorageInternalError,
            ValueError,
            LookupError,
            TypeError,
        ) as error:
            raise UserError(_damaged(f"of {self.study.study_name!r}", str(error))) from error
        return attempts

    def add(self, attempt: Attempt, distributions: Mapping[str, BaseDistribution], key: str) -> None:
        """Writes a proposed trial as RUNNING."""
        frozen = create_trial(
            state=TrialState.RUNNING,
            params=attempt.parameters,
            distributions=dict(distributions),
            user_attrs={"key": key},
        )
        trial_id = self.storage.create_new_trial(self.study._study_id, template_trial=frozen)
        number = self.storage.get_trial_number_from_id(trial_id)
        if number != attempt.number:
            raise RuntimeError(f"Another program writes to Optuna study {self.study.study_name!r}.")
        self.ids[number] = trial_id

    def report(self, number: int, iteration: int, value: float) -> None:
        self.storage.set_trial_intermediate_value(self.ids[number], iteration, value)

    def tell(self, attempt: Attempt) -> None:
        """COMPLETE at full length, with the worst value without one of its own; PRUNED; FAIL. Idempotent."""
        trial_id = self.ids[attempt.number]
        if self.storage.get_trial(trial_id).state.is_finished():
            return
        self.storage.set_trial_user_attr(trial_id, "state", attempt.state)
        if attempt.state == "pruned":
            self.storage.set_trial_user_attr(trial_id, "last_value", attempt.value)
        state = _STATES[attempt.state]
        value = None if attempt.state == "diverged" else attempt.value
        values = [self.worst if value is None else value] if state == TrialState.COMPLETE else None
        self.storage.set_trial_state_values(trial_id, state, values)


def _attempt(trial: FrozenTrial) -> Attempt:
    attributes: dict[str, Any] = trial.user_attrs
    attempt = Attempt(trial.number, dict(trial.params), rungs=dict(trial.intermediate_values))
    if trial.state.is_finished():
        attempt.state = attributes["state"]
        attempt.value = attributes.get("last_value", trial.value if attempt.state == "finished" else None)
    return attempt
