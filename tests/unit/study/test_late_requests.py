"""What MLflow carries out late, when its sender has given it up or is dead: no point stands twice."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from study import delivery
from study.results import TrialRow
from study.run_format import points_of
from study.tracking import Tracker
from tests.unit.study.tracked import PATIENCE, View, _own_environment, home, started, trial

__all__ = ["_own_environment", "home"]

FIRST, SECOND = (
    {"iteration": 100, "dice": 0.25, "reported": 1_700_000_004.125},
    {"iteration": 200, "dice": 0.5, "reported": 1_700_000_016.5},
)
ONCE = [(100, 0.25), (200, 0.5)]


def ended(**changes: Any) -> TrialRow:
    return trial(0, "finished", **{"curve": [dict(FIRST), dict(SECOND)], **changes})


def tell(target: Tracker, report: dict[str, float]) -> None:
    target.trial_reported("key0", int(report["iteration"]), {k: report[k] for k in ("dice", "reported")})


def delivered(target: Tracker) -> None:
    """Everything that was told so far is with MLflow."""
    done = threading.Event()
    target._put("a look", done.set)
    assert done.wait(PATIENCE)


class Late:
    """A tracker's line to MLflow on which the next points get stuck; `arrive` lets them through."""

    def __init__(self, target: Tracker, error: type[Exception] = ConnectionError, times: int = 1) -> None:
        """times: how often the sender hears nothing but `error`; the first request is still under way."""
        self.target, self.error, self.times = target, error, times
        self.stuck: list[Callable[[], None]] = []
        runs: Any = target._arms._runs
        self.client, runs._client = runs._client, self

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    def log_batch(self, run_id: str, metrics: Any = (), **others: Any) -> None:
        if not metrics or not self.times:
            self.client.log_batch(run_id, metrics=metrics, **others)
            return
        self.times -= 1
        self.stuck.append(lambda: self.client.log_batch(run_id, metrics=metrics, **others))
        raise self.error("timed out")

    def die(self) -> None:
        """Its driver is killed once the request is under way."""
        end = time.monotonic() + PATIENCE
        while not self.stuck and time.monotonic() < end:
            time.sleep(0.01)
        self.target._delivery.close(0.0)  # type: ignore[union-attr]

    def arrive(self) -> None:
        self.stuck[0]()


def test_a_report_of_a_killed_driver_arrives_when_the_next_has_looked(home: Path) -> None:
    killed = started(home)
    killed.trial_started(trial(0))
    late = Late(killed)
    tell(killed, FIRST)
    late.die()
    resumed = started(home)
    resumed.reconcile([trial(0)])
    resumed.trial_started(trial(0, started=1_700_000_009.0))
    tell(resumed, SECOND)
    delivered(resumed)
    late.arrive()
    resumed.trial_ended(ended(started=1_700_000_009.0))
    resumed.answered({}, {})
    resumed.close(PATIENCE)
    assert View(home).points(View(home).trial()) == ONCE


@pytest.mark.parametrize("heard", [True, False])
def test_a_request_of_a_killed_driver_arrives_when_all_is_done(home: Path, heard: bool) -> None:
    """Its last report, or the end of the trial, which is in the ledger."""
    killed = started(home)
    killed.trial_started(trial(0))
    late = Late(killed)
    if heard:
        tell(killed, FIRST)
    else:
        killed.trial_ended(ended())
    late.die()
    resumed = started(home)
    resumed.reconcile([ended()])
    resumed.answered({}, {})
    resumed.close(PATIENCE)
    late.arrive()
    view = View(home)
    assert view.points(view.trial()) == ONCE
    assert len(view.points(view.trial(), "annotation_seconds")) == 1


@pytest.mark.parametrize(("error", "times"), [(ConnectionError, 1), (ValueError, delivery.ATTEMPTS)])
def test_a_report_whose_answer_was_lost_arrives_after_its_repetition(
    home: Path, error: type[Exception], times: int
) -> None:
    """It is sent again, or given up and sent with the end."""
    target = started(home)
    target.trial_started(trial(0))
    late = Late(target, error, times)
    tell(target, FIRST)
    tell(target, SECOND)
    target.trial_ended(ended())
    delivered(target)
    late.arrive()
    target.answered({}, {})
    target.close(PATIENCE)
    assert View(home).points(View(home).trial()) == ONCE


@pytest.mark.parametrize("killed", [True, False])
def test_an_answer_arrives_after_its_repetition(home: Path, killed: bool) -> None:
    first = started(home)
    first.trial_ended(ended())
    delivered(first)
    late = Late(first)
    first.answered({}, {"points": {"test_dice": 0.5}})
    if killed:
        late.die()
    second = started(home) if killed else first
    second.reconcile([ended()])
    second.answered({}, {"points": {"test_dice": 0.5}})
    second.close(PATIENCE)
    late.arrive()
    view = View(home)
    (point,) = view.client.get_metric_history(view.arm("points").info.run_id, "test_dice")
    assert (point.step, point.value, point.timestamp) == (0, 0.5, 1_700_000_020_000)


def test_mlflow_shows_when_a_report_was_made_whether_or_not_it_was_heard_live(home: Path) -> None:
    target = started(home)
    target.trial_started(trial(0))
    tell(target, FIRST)
    target.trial_ended(ended())
    target.close(PATIENCE)
    view = View(home)
    history = view.client.get_metric_history(view.trial().info.run_id, "dice")
    assert [(p.step, p.timestamp) for p in history] == [(100, 1_700_000_004_125), (200, 1_700_000_016_500)]
    assert "reported" not in view.trial().data.metrics


def test_reports_of_earlier_versions_are_spread_over_the_trial() -> None:
    moments = {(p.metric, p.step): p.milliseconds for p in points_of(trial(0, "finished"), "dice")}
    assert moments["dice", 100] == 1_700_000_010_000
    assert moments["dice", 200] == 1_700_000_020_000
