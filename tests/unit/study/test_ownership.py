"""A study of one name from two folders on the same servers: the second is refused and changes nothing."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import mlflow
import optuna
import pytest
from optuna.trial import TrialState

from search_spaces import Float, UserError
from search_spaces.to_optuna import distributions
from study import ownership
from study.home import IDENTITY, Home
from study.ownership import OWNER, PLACE, Claims, Owner
from study.proposals import Attempt
from study.storage import ArmStore, open_storage
from tests.unit.study import tracked
from tests.unit.study.tracked import STUDY, trial

SPACE = distributions({"rate": Float(1e-4, 1e-1, log=True)})
ARMS = ["one", "two"]
REFUSED = r"^Study 'pixels' in .* must be that of the folder .*/b, but was begun in .*/a, and .*--fork NAME"


def owner(letter: str, *keys: tuple[str, int, str], begun: bool = False) -> Owner:
    """A folder whose ledger has these trials of the search."""
    known = frozenset((arm, "search", number, key) for arm, number, key in keys)
    return Owner(study=STUDY, identity=letter * 32, place=f"host:/{letter}", begun=begun, known=lambda: known)


# -- Optuna -------------------------------------------------------------------------------------------------


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'shared.db'}"


def claims(url: str, who: Owner, arms: list[str] = ARMS) -> Claims:
    return Claims(open_storage(Path(), url), who, arms)


def taken(url: str, who: Owner) -> None:
    one = claims(url, who)
    one.check()
    one.make(greater_is_better=True)


def content(url: str) -> dict[str, Any]:
    """Everything that another folder may not change."""
    studies = [optuna.load_study(study_name=name, storage=url) for name in optuna.get_all_study_names(url)]
    return {s.study_name: (s.user_attrs, [(t.state, t.params) for t in s.trials]) for s in studies}


def legacy(url: str, *keys: str, arm: str = "one") -> ArmStore:
    """As an earlier version left it: trials, and no word of whose they are."""
    store = ArmStore(open_storage(Path(), url), f"{STUDY}/{arm}", greater_is_better=True)
    for number, key in enumerate(keys):
        store.add(Attempt(number, {"rate": 0.01}), SPACE, key)
    return store


def test_a_study_is_its_first_folders(url: str) -> None:
    taken(url, owner("a"))
    before = content(url)
    assert set(before) == {"pixels/one", "pixels/two"}
    assert all(attrs == {OWNER: "a" * 32, PLACE: "host:/a"} for attrs, _ in before.values())
    with pytest.raises(UserError, match=REFUSED) as refusal:
        claims(url, owner("b")).check()
    assert "\n" not in str(refusal.value)
    with pytest.raises(UserError, match=REFUSED):
        claims(url, owner("b")).make(greater_is_better=True)
    assert content(url) == before
    taken(url, owner("a", begun=True))  # the same folder goes on
    assert content(url) == before


def test_a_study_is_maximised_or_minimised_as_the_board_will(url: str) -> None:
    claims(url, owner("a")).make(greater_is_better=False)
    study = optuna.load_study(study_name="pixels/one", storage=url)
    assert study.direction == optuna.study.StudyDirection.MINIMIZE
    assert ArmStore(open_storage(Path(), url), "pixels/one", greater_is_better=False).load() == []


def test_the_password_of_the_database_is_in_no_refusal(url: str) -> None:
    taken(url, owner("a"))
    one = claims(url, owner("b"))
    assert one.service == f"Optuna's database {url}"


def test_a_folder_that_was_moved_is_the_same(url: str) -> None:
    taken(url, owner("a"))
    moved = Owner(study=STUDY, identity="a" * 32, place="other:/new", begun=True, known=frozenset)
    taken(url, moved)
    assert {attrs[PLACE] for attrs, _ in content(url).values()} == {"other:/new"}


def test_an_emptied_database_is_whoevers_comes_first(url: str, tmp_path: Path) -> None:
    taken(url, owner("a"))
    (tmp_path / "shared.db").unlink()
    taken(url, owner("b"))
    with pytest.raises(UserError, match="must be that of the folder host:/a, but was begun in host:/b"):
        claims(url, owner("a", ("one", 0, "key"), begun=True)).check()


def test_what_an_earlier_version_began_is_that_folders_whose_ledger_agrees(url: str) -> None:
    """The newest trial may be in the database only: it is written there first."""
    legacy(url, "k0", "k1", "k2")
    with pytest.raises(UserError, match="holds trials that its ledger does not know"):
        claims(url, owner("b")).check()
    with pytest.raises(UserError, match="holds trials that its ledger does not know"):
        claims(url, owner("b", ("one", 0, "other"), begun=True)).check()
    assert all(attrs == {} for attrs, _ in content(url).values())
    taken(url, owner("a", ("one", 0, "k0"), ("one", 1, "k1"), ("two", 0, "other"), begun=True))
    assert {attrs[OWNER] for attrs, _ in content(url).values()} == {"a" * 32}


def test_what_a_dead_driver_left_empty_can_be_taken(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "TOLD_WITHIN", 0.1)
    legacy(url)
    taken(url, owner("b"))
    assert {attrs[OWNER] for attrs, _ in content(url).values()} == {"b" * 32}


def test_of_two_that_begin_at_once_one_gets_it(url: str) -> None:
    """Both have looked and found nothing; the slower one waits for the name of the faster."""
    first, second = claims(url, owner("a")), claims(url, owner("b"))
    first.check()
    second.check()
    made, go_on = threading.Event(), threading.Event()
    tell = first.storage.set_study_user_attr

    def later(*arguments: Any) -> None:
        made.set()
        assert go_on.wait(30)
        tell(*arguments)

    first.storage.set_study_user_attr = later  # type: ignore[method-assign]
    winner = threading.Thread(target=first.make, kwargs={"greater_is_better": True})
    winner.start()
    assert made.wait(30)
    threading.Timer(0.5, go_on.set).start()
    with pytest.raises(UserError, match="but was begun in host:/a"):
        second.make(greater_is_better=True)
    winner.join(30)
    assert {attrs[OWNER] for attrs, _ in content(url).values()} == {"a" * 32}


# -- MLflow -------------------------------------------------------------------------------------------------


@pytest.fixture
def shared(tmp_path: Path, schema: Path) -> str:
    shutil.copy(schema, tmp_path / "shared_mlflow.db")
    return f"sqlite:///{tmp_path / 'shared_mlflow.db'}"


def start(home: Path, who: Owner, uri: str | None) -> Any:
    home.mkdir(exist_ok=True)
    target = tracked.tracker(home, tracking_uri=uri, owner=who)
    target.start(["points"])
    return target


def runs(uri: str) -> tuple[dict[str, str], list[tuple[str, str]]]:
    client: Any = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(STUDY)
    found = client.search_runs([experiment.experiment_id])
    return dict(experiment.tags), sorted((run.info.run_name, run.info.status) for run in found)


def test_an_experiment_is_its_first_folders(tmp_path: Path, shared: str) -> None:
    first = start(tmp_path / "a", owner("a"), shared)
    first.trial_ended(trial(0, "finished"))
    first.answered({}, {})
    first.close(30)
    before = runs(shared)
    assert (before[0][OWNER], before[0][PLACE]) == ("a" * 32, "host:/a")
    with pytest.raises(UserError, match=REFUSED.replace(".*/b", "host:/b").replace(".*/a", "host:/a")):
        start(tmp_path / "b", owner("b"), shared)
    assert runs(shared) == before  # no arm set running again
    start(tmp_path / "a", owner("a", begun=True), shared).close(30)


def test_an_experiment_of_an_earlier_version(tmp_path: Path, shared: str) -> None:
    client: Any = mlflow.MlflowClient(tracking_uri=shared)
    first = start(tmp_path / "a", owner("a"), shared)
    first.trial_ended(trial(0, "finished"))
    first.close(30)
    experiment = client.get_experiment_by_name(STUDY)
    for name in (OWNER, PLACE):
        client.delete_experiment_tag(experiment.experiment_id, name)
    with pytest.raises(UserError, match="holds trials that its ledger does not know"):
        start(tmp_path / "b", owner("b", ("points", 0, "other"), begun=True), shared)
    start(tmp_path / "a", owner("a", ("points", 0, "key0"), begun=True), shared).close(30)
    assert runs(shared)[0][OWNER] == "a" * 32


def test_the_database_of_a_home_is_its_own(
    tmp_path: Path, shared: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A study's folder that was deleted to begin again finds its old experiment there."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "home").mkdir()
    shutil.copy(tmp_path / "shared_mlflow.db", tmp_path / "home" / "mlflow.db")
    start(tmp_path / "home", owner("a"), None).close(30)
    start(tmp_path / "home", owner("b"), None).close(30)
    assert runs(f"sqlite:///{tmp_path / 'home' / 'mlflow.db'}")[0][OWNER] == "b" * 32


# -- the folder ---------------------------------------------------------------------------------------------


def test_a_folder_keeps_its_identity_wherever_it_goes(tmp_path: Path) -> None:
    folders = [Home(tmp_path / letter).study("toy") for letter in "ab"]
    for folder in folders:
        folder.path.mkdir(parents=True)
    mine, other = (folder.identity() for folder in folders)
    assert mine != other
    assert folders[0].identity() == mine
    shutil.move(folders[0].path, tmp_path / "moved")
    assert type(folders[0])(tmp_path / "moved").identity() == mine
    assert [path.name for path in folders[1].path.iterdir()] == [IDENTITY]
    (folders[1].path / IDENTITY).write_text("")
    with pytest.raises(
        UserError, match=r"identity must hold 32 hexadecimal digits, but is damaged; restore it"
    ):
        folders[1].identity()


def test_states_of_trials_are_not_touched_by_a_claim(url: str) -> None:
    store = legacy(url, "k0")
    store.tell(Attempt(0, {"rate": 0.01}, "finished", 0.5))
    taken(url, owner("a", ("one", 0, "k0"), begun=True))
    assert [t.state for t in store.study.get_trials()] == [TrialState.COMPLETE]
