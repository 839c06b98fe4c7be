"""Whose a study is on servers that several homes share: that folder's in which it was begun.

Two folders with a study of one name would mix their trials there. So the folder has an identity, which goes
where the folder goes, and Optuna's studies and MLflow's experiment carry it from their first moment on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError
from optuna.study import StudyDirection

from search_spaces import UserError
from study.run_format import Identity
from study.storage import DatabaseAwayError, described
from study.waiting import until_answered

OWNER, PLACE = "study.folder", "study.place"
"""Attributes of a study on a server: the identity of its folder; where that lay last, for people."""

TOLD_WITHIN = 5.0
"""Seconds within which a driver that has just made a study says whose it is; else it died in between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A study's folder, as servers know it."""

    study: str
    identity: str
    place: str
    """"host:/path/of/the/folder"."""
    begun: bool
    """Whether the study was started here before."""
    known: Callable[[], frozenset[Identity]]
    """Reads the trials in its ledger."""

    @property
    def tags(self) -> dict[str, str]:
        return {OWNER: self.identity, PLACE: self.place}

    def check(self, attributes: Mapping[str, Any], service: str, others: bool) -> None:
        """Raises UserError for a study of another folder.

        attributes: what the server holds of the study; others: whether it has trials there that this folder
        does not know. Studies that earlier versions began carry no identity.
        """
        owner = attributes.get(OWNER)
        if owner == self.identity or (owner is None and not others):
            return
        where = f"was begun in {attributes.get(PLACE, 'another folder')}"
        held = where if owner is not None else "holds trials that its ledger does not know"
        raise UserError(
            f"Study {self.study!r} in {service} must be that of the folder {self.place}, but {held}, and "
            "their trials would mix: give yours another name with --fork NAME, name another server, or use "
            "the folder that it was begun in."
        )


class Claims:
    """The Optuna studies of one study in a database that others may share."""

    def __init__(self, storage: optuna.storages.BaseStorage, owner: Owner, arms: Sequence[str]) -> None:
        self.storage, self.owner = storage, owner
        self.service = described(storage)
        self.names = {arm: f"{owner.study}/{arm}" for arm in arms}

    def check(self) -> None:
        """Writes nothing. Raises UserError where an arm's study is another folder's."""
        for arm, name in self.names.items():
            self._waited(partial(self._look, arm, name))

    def make(self, *, greater_is_better: bool) -> None:
        """Makes what is missing, with this folder's identity. Raises UserError as `check`."""
        direction = StudyDirection.MAXIMIZE if greater_is_better else StudyDirection.MINIMIZE
        for arm, name in self.names.items():
            self._waited(partial(self._make, arm, name, direction))

    def _waited(self, call: Callable[[], object]) -> None:
        until_answered(call, self.service, DatabaseAwayError)

    def _look(self, arm: str, name: str) -> int | None:
        """The number of the arm's study, None where there is none."""
        try:
            study = self.storage.get_study_id_from_name(name)
        except KeyError:
            return None
        attributes = self.storage.get_study_user_attrs(study)
        self.owner.check(attributes, self.service, OWNER not in attributes and self._foreign(arm, study))
        return study

    def _foreign(self, arm: str, study: int) -> bool:
        """Whether trials lie there that another folder began."""
        trials = self.storage.get_all_trials(study, deepcopy=False)
        if not trials or not self.owner.begun:
            return bool(trials)
        keys = {
            number: key for name, phase, number, key in self.owner.known() if (name, phase) == (arm, "search")
        }
        return any(keys.get(t.number, t.user_attrs.get("key")) != t.user_attrs.get("key") for t in trials)

    def _make(self, arm: str, name: str, direction: StudyDirection) -> None:
        """Of two that begin at once the database lets one make the study; the other waits for its name."""
        try:
            study = self.storage.create_new_study([direction], name)
        except DuplicatedStudyError:
            end = time.monotonic() + TOLD_WITHIN
            study = self.storage.get_study_id_from_name(name)
            while OWNER not in self.storage.get_study_user_attrs(study) and time.monotonic() < end:
                if self.storage.get_all_trials(study, deepcopy=False):
                    break  # an earlier version's, which never tells
                time.sleep(0.2)
            self._look(arm, name)
        for key, value in self.owner.tags.items():
            self.storage.set_study_user_attr(study, key, value)
        self._look(arm, name)  # of two that took over what a dead driver left, the later one has it
