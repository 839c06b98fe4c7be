"""What happens to trials within one second is written to Optuna's database together, and all of it."""

from __future__ import annotations

from types import SimpleNamespace

import optuna
import pytest
from optuna.trial import TrialState

from search_spaces import Float
from search_spaces.to_optuna import distributions
from study import late_store
from study.late_store import LateStore
from study.proposals import Attempt
from study.storage import ArmStore, open_storage

SPACE = distributions({"rate": Float(1e-4, 1e-1, log=True)})


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    time = SimpleNamespace(now=100.0)
    monkeypatch.setattr(late_store, "time", SimpleNamespace(monotonic=lambda: time.now))
    return time


@pytest.fixture
def store(tmp_path, clock: SimpleNamespace) -> LateStore:
    return LateStore(ArmStore(open_storage(tmp_path, None), "study/arm", greater_is_better=True))


def attempt(number: int) -> Attempt:
    return Attempt(number, {"rate": 0.1 / (number + 1)})


def in_database(store: LateStore) -> list[optuna.trial.FrozenTrial]:
    return store.store.study.get_trials()


def test_a_trial_is_written_at_once_when_little_happens_and_later_when_much_does(store, clock):
    first, second = attempt(0), attempt(1)
    store.add(first, SPACE, "a")
    assert [t.state for t in in_database(store)] == [TrialState.RUNNING]
    clock.now += 0.5
    store.add(second, SPACE, "b")
    first.state, first.value = "finished", 0.5
    store.changed(first)
    assert [t.state for t in in_database(store)] == [TrialState.RUNNING]
    clock.now += 0.5
    store.write_when_due()
    assert [t.state for t in in_database(store)] == [TrialState.COMPLETE, TrialState.RUNNING]


@pytest.mark.parametrize(
    ("state", "value", "optunas", "optunas_value"),
    [
        ("finished", 0.75, TrialState.COMPLETE, 0.75),
        ("finished", None, TrialState.COMPLETE, 0.0),
        ("diverged", None, TrialState.COMPLETE, 0.0),
        ("pruned", 0.25, TrialState.PRUNED, None),
        ("failed", None, TrialState.FAIL, None),
    ],
)
def test_a_trial_that_began_and_ended_meanwhile_is_one_write(
    store, monkeypatch, state, value, optunas, optunas_value
):
    store.add(attempt(0), SPACE, "a")
    monkeypatch.setattr(store.store, "tell", lambda _: pytest.fail("a second write"))
    monkeypatch.setattr(store.store, "report", lambda *_: pytest.fail("a second write"))
    short = attempt(1)
    store.add(short, SPACE, "b")
    short.rungs[10] = 0.125
    store.changed(short)
    short.state, short.value = state, value
    store.changed(short)
    store.write()
    written = in_database(store)[1]
    assert (written.state, written.values and written.values[0]) == (optunas, optunas_value)
    assert written.intermediate_values == {10: 0.125}
    (_, back) = ArmStore(store.store.storage, "study/arm", greater_is_better=True).load()
    expected = Attempt(1, short.parameters, state, value, {10: 0.125})
    if (state, value) == ("finished", None):
        expected.value = 0.0  # Optuna knows no trial that is complete without a value
    assert back == expected


def test_a_rung_is_reported_once(store, monkeypatch):
    running, reported = attempt(0), []
    store.add(running, SPACE, "a")
    monkeypatch.setattr(store.store, "report", lambda *report: reported.append(report))
    for iteration in (10, 20):
        running.rungs[iteration] = iteration / 100
        store.changed(running)
        store.write()
    store.changed(running)
    store.write()
    assert reported == [(0, 10, 0.1), (0, 20, 0.2)]


def test_an_outage_loses_nothing_that_waits(store, monkeypatch):
    one, two = attempt(0), attempt(1)
    store.add(one, SPACE, "a")
    store.add(two, SPACE, "b")
    one.state, one.value = "finished", 0.5
    store.changed(one)
    tell, add = store.store.tell, store.store.add

    def away(*_):
        raise ConnectionError

    monkeypatch.setattr(store.store, "add", away)
    with pytest.raises(ConnectionError):
        store.write()
    monkeypatch.setattr(store.store, "add", add)
    told = []
    monkeypatch.setattr(store.store, "tell", lambda a: (told.append(a.number), tell(a)))
    store.write()
    store.write()
    assert [t.state for t in in_database(store)] == [TrialState.COMPLETE, TrialState.RUNNING]
    assert told == [0]
