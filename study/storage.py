"""The memory of the search: one Optuna study per arm in one database, written by the driver alone."""

from __future__ import annotations

import bisect
import contextlib
import itertools
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState, create_trial

from search_spaces import UserError
from study.masking import masked, scrubbed
from study.proposals import Attempt
from study.segments import CONTINUES, DiskFullError
from study.waiting import Result, until_answered

_STATES = {
    "running": TrialState.RUNNING,
    "finished": TrialState.COMPLETE,
    "diverged": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}
_UNFINISHED = tuple(state for state in TrialState if not state.is_finished())

OPENINGS = 3
"""How often a new database is tried that another study may be filling."""

_LIBPQ = {"connect_timeout": 5, "tcp_user_timeout": 30_000, "keepalives_idle": 30, "keepalives_interval": 10}
"""Seconds and milliseconds after which a host that vanished without a word counts as away."""

_OUTAGES = ("08", "53", "57")
"""Classes of SQLSTATE: connection, resources (too many clients, no disk), shutdown and start."""


_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)


class DatabaseAwayError(ConnectionError):
    """The database did not answer; what it was asked to do may be done or not."""


_UNREADABLE = (sqlalchemy.exc.DatabaseError, StorageInternalError, ValueError, LookupError, TypeError)
"""What reading a damaged database raises."""


def open_storage(folder: Path, url: str | None) -> optuna.storages.BaseStorage:
    """SQLite in the study's folder, or the database at `url`. Raises UserError when it does not open.

    Later an outage of a database with a server is raised as DatabaseAwayError.
    """
    address = url or f"sqlite:///{folder / 'optuna.db'}"
    if url is None:
        _require_sound(folder / "optuna.db")
    try:
        storage = _opened(address)
    except (sqlalchemy.exc.SQLAlchemyError, ImportError, ValueError, RuntimeError) as error:
        reason = scrubbed((str(error).strip() or type(error).__name__).splitlines()[0], address).rstrip(".")
        raise UserError(
            f"Optuna's database {masked(address)} must open, but: {reason}; "
            "check --optuna-storage (STUDY_OPTUNA_STORAGE)."
        ) from error
    if address.startswith("sqlite"):
        sqlalchemy.event.listen(storage.engine, "connect", _quick_and_safe)
        sqlalchemy.event.listen(storage.engine, "handle_error", _tell_a_full_disk)
        storage.engine.dispose()  # connections opened before the listener lack its settings
    else:
        sqlalchemy.event.listen(storage.engine, "handle_error", _tell_outages_apart)
    return storage


def described(storage: optuna.storages.BaseStorage) -> str:
    """As messages name it, without the password."""
    return f"Optuna's database {masked(getattr(storage, 'url', 'in memory'))}"


def _opened(address: str) -> optuna.storages.RDBStorage:
    options = {"connect_args": _LIBPQ} if _speaks_libpq(address) else {}
    for _ in range(OPENINGS - 1):
        # Two studies that make the tables of a new database at once: the later one finds them half made.
        with contextlib.suppress(sqlalchemy.exc.ProgrammingError, sqlalchemy.exc.IntegrityError):
            return optuna.storages.RDBStorage(address, engine_kwargs=dict(options))
        time.sleep(0.5)
    return optuna.storages.RDBStorage(address, engine_kwargs=dict(options))


def _speaks_libpq(address: str) -> bool:
    return address.partition("://")[0] in ("postgresql", "postgresql+psycopg", "postgresql+psycopg2")


def _tell_outages_apart(context: sqlalchemy.engine.ExceptionContext) -> None:
    """Raises DatabaseAwayError in place of SQLAlchemy's error for a lost or refused connection.

    Optuna repeats what failed with SQLAlchemy's own error, a creation too of which only the answer was lost:
    the trial would be there twice.
    """
    error = context.original_exception
    connecting = context.connection is None
    if connecting or context.is_disconnect or (getattr(error, "sqlstate", None) or "")[:2] in _OUTAGES:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        address = "" if context.engine is None else context.engine.url.render_as_string(hide_password=False)
        raise DatabaseAwayError(scrubbed(reason, address))


def _tell_a_full_disk(context: sqlalchemy.engine.ExceptionContext) -> None:
    """Raises DiskFullError in place of SQLAlchemy's error: the ledger has what was not told."""
    if getattr(context.original_exception, "sqlite_errorcode", None) in _FULL:
        raise DiskFullError(f"No space is left for Optuna's database: {CONTINUES}")


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


def _quick_and_safe(connection: sqlite3.Connection, _record: object) -> None:
    """Write-ahead log: a commit costs 1 ms instead of 10 and survives the death of every process.

    Only a power cut can lose the last commits, and those trials are in the ledger, which is synchronised.
    """
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


class ArmStore:
    """The trials of one arm as they lie in the database. Every call waits out an outage of it."""

    def __init__(self, storage: optuna.storages.BaseStorage, name: str, *, greater_is_better: bool) -> None:
        self.storage = storage
        self.service = described(storage)
        self.study = self._waited(
            lambda: optuna.create_study(
                study_name=name,
                storage=storage,
                direction="maximize" if greater_is_better else "minimize",
                load_if_exists=True,
            )
        )
        self.worst = 0.0 if greater_is_better else float("inf")
        self.ids: dict[int, int] = {}
        self.told: set[int] = set()
        """Numbers of the trials that the database holds as ended."""

    def _waited(self, call: Callable[[], Result]) -> Result:
        return until_answered(call, self.service, DatabaseAwayError)

    def load(self, ended: Mapping[int, Attempt] | None = None) -> list[Attempt]:
        """All trials in the order of their numbers. Raises UserError for a damaged database.

        ended: by number, trials known from elsewhere to have ended. Where the database says so of no others,
        it is asked for the unfinished ones alone: reading thousands back takes it seconds.
        """
        try:
            attempts = self._waited(lambda: self._load(ended or {}))
            if [a.number for a in attempts] != list(range(len(attempts))):
                raise ValueError("trials are missing")
        except DiskFullError:
            raise
        except _UNREADABLE as error:
            raise UserError(_damaged(f"of {self.study.study_name!r}", str(error))) from error
        return attempts

    def _load(self, ended: Mapping[int, Attempt]) -> list[Attempt]:
        study = self.study._study_id
        trials = self.storage.get_all_trials(study, deepcopy=False, states=_UNFINISHED)
        unfinished = {trial.number for trial in trials}
        covered = next(n for n in itertools.count() if n not in ended and n not in unfinished)
        if self._id_of(covered) is None:  # trials have consecutive numbers, so no other one is there either
            count = bisect.bisect_left(range(covered), True, key=lambda n: self._id_of(n) is None)
            self.told = set(range(count)) - unfinished
        else:
            trials, ended = self.storage.get_all_trials(study, deepcopy=False), {}
            self.told = {trial.number for trial in trials if trial.state.is_finished()}
        self.ids = {trial.number: trial._trial_id for trial in trials}
        found = {n: ended[n] for n in self.told & ended.keys()}
        found |= {trial.number: _attempt(trial) for trial in trials}
        return [found[number] for number in sorted(found)]

    def add(self, attempt: Attempt, distributions: Mapping[str, BaseDistribution], key: str) -> None:
        """Writes a proposed trial as it stands, once, also when its writing was not heard of."""
        attributes = {"key": key, **(_attributes(attempt) if attempt.ended else {})}
        frozen = create_trial(
            state=self._state(attempt),
            values=self._values(attempt),
            params=attempt.parameters,
            distributions=dict(distributions),
            user_attrs=attributes,
            intermediate_values=dict(attempt.rungs),
        )
        unheard = [False]

        def write() -> int:
            found = self._find(attempt.number, key) if unheard[0] else None
            unheard[0] = True
            return self._create(frozen) if found is None else found

        trial_id = self._waited(write)
        if self._waited(lambda: self._id_of(attempt.number)) != trial_id:
            raise RuntimeError(f"Another program writes to Optuna study {self.study.study_name!r}.")
        self.ids[attempt.number] = trial_id
        if attempt.ended:
            self.told.add(attempt.number)

    def _create(self, frozen: FrozenTrial) -> int:
        return self.storage.create_new_trial(self.study._study_id, template_trial=frozen)

    def _id_of(self, number: int) -> int | None:
        try:
            return self.storage.get_trial_id_from_study_id_trial_number(self.study._study_id, number)
        except KeyError:
            return None

    def _find(self, number: int, key: str) -> int | None:
        """The trial with this number, if it is there and this one."""
        found = self._id_of(number)
        if found is None or self.storage.get_trial(found).user_attrs.get("key") != key:
            return None
        return found

    def report(self, number: int, iteration: int, value: float) -> None:
        """Writes a value at a rung. Idempotent."""
        self._waited(lambda: self.storage.set_trial_intermediate_value(self.ids[number], iteration, value))

    def tell(self, attempt: Attempt) -> None:
        """COMPLETE at full length, with the worst value without one of its own; PRUNED; FAIL. Idempotent."""
        if attempt.number not in self.told:
            self._waited(lambda: self._tell(attempt))
            self.told.add(attempt.number)

    def _tell(self, attempt: Attempt) -> None:
        trial_id = self.ids[attempt.number]
        try:
            for name, value in _attributes(attempt).items():
                self.storage.set_trial_user_attr(trial_id, name, value)
            self.storage.set_trial_state_values(trial_id, self._state(attempt), self._values(attempt))
        except UpdateFinishedTrialError:
            return  # it was done, and only that was not heard of

    def _state(self, attempt: Attempt) -> TrialState:
        return _STATES[attempt.state]

    def _values(self, attempt: Attempt) -> list[float] | None:
        if self._state(attempt) != TrialState.COMPLETE:
            return None
        value = None if attempt.state == "diverged" else attempt.value
        return [self.worst if value is None else value]


def _attributes(attempt: Attempt) -> dict[str, Any]:
    """What Optuna's own states cannot tell of a trial that has ended."""
    last = {"last_value": attempt.value} if attempt.state == "pruned" else {}
    return {"state": attempt.state, **last}


def _attempt(trial: FrozenTrial) -> Attempt:
    attributes: dict[str, Any] = trial.user_attrs
    attempt = Attempt(trial.number, dict(trial.params), rungs=dict(trial.intermediate_values))
    if trial.state.is_finished():
        attempt.state = attributes["state"]
        attempt.value = attributes.get("last_value", trial.value if attempt.state == "finished" else None)
    return attempt
