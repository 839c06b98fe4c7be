"""Whose a study is, in a real PostgreSQL: of drivers that begin at the same moment one gets it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import optuna
import pytest

from search_spaces import UserError
from study.ownership import OWNER, Claims, Owner
from study.storage import open_storage
from tests.servers.servers import SECRETS

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]

ARMS = ["one", "two", "three"]


def claims(url: str, number: int) -> Claims:
    place = f"host{number}:/runs/toy"
    owner = Owner(study="toy", identity=f"{number:032x}", place=place, begun=False, known=frozenset)
    return Claims(open_storage(Path(), url), owner, ARMS)


def test_of_six_that_begin_at_once_one_gets_the_study(optuna_url: str) -> None:
    open_storage(Path(), optuna_url)  # its tables
    everybody = [claims(optuna_url, number) for number in range(6)]
    for one in everybody:
        one.check()  # nothing is there yet
    start = Barrier(len(everybody))

    def begin(one: Claims) -> str:
        start.wait()
        try:
            one.make(greater_is_better=True)
        except UserError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(len(everybody)) as pool:
        told = list(pool.map(begin, everybody))
    assert told.count("") == 1, told
    winner = told.index("")
    for number, sentence in enumerate(told):
        if number != winner:
            assert (
                f"of the folder host{number}:/runs/toy, but was begun in host{winner}:/runs/toy" in sentence
            )
            assert not any(secret in sentence for secret in SECRETS)
    names = optuna.get_all_study_names(optuna_url)
    assert sorted(names) == sorted(f"toy/{arm}" for arm in ARMS)
    for name in names:
        study = optuna.load_study(study_name=name, storage=optuna_url)
        assert study.user_attrs[OWNER] == f"{winner:032x}"
    everybody[winner].check()
