"""A study that runs, as Prometheus and Ray's own dashboard see it: metrics, processes and calls by name."""

from __future__ import annotations

import dataclasses
import re
import threading
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from study import engine, live, service
from study.engine import Machine
from study.gauges import GAUGES
from study.home import Home
from study.spec import Study
from tests.infra.test_grafana import OF_TRIALS, ON_GPUS, expressions, selectors
from tests.ray import driver
from tests.ray.conftest import ROOT, Runner
from tests.ray.recorded import RecordedTrainable

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(240)]

REPORT_MS = 1000
"""Milliseconds between two exports of Ray's processes; its default is ten seconds."""


@pytest.fixture(scope="module")
def one_ray() -> Iterator[None]:
    """As `conftest.one_ray`, with the dashboard and quick exports."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("RAY_metrics_report_interval_ms", str(REPORT_MS))
        engine.connect(Machine(dashboard=True))
        import ray

        patch.setattr(ray, "init", lambda **options: None)
        disconnect = engine.disconnect
        patch.setattr(engine, "disconnect", lambda: None)
        yield
        disconnect()


class Watcher:
    """Looks again and again while a study runs."""

    def __init__(self, look: Callable[[], None]) -> None:
        self.look, self.ended = look, threading.Event()
        self.thread = threading.Thread(target=self._loop, daemon=True)

    def _loop(self) -> None:
        while not self.ended.wait(1.0):
            self.look()

    def __enter__(self) -> Watcher:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()


def scraped() -> list[tuple[str, dict[str, str]]]:
    """(metric, labels) of every sample that Prometheus would read now."""
    import ray

    port = ray.nodes()[0]["MetricsExportPort"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
        text = reply.read().decode()
    samples = (re.match(r"(\w+)(?:\{(.*)\})? \S+$", line) for line in text.splitlines())
    return [(s[1], dict(re.findall(r'(\w+)="([^"]*)"', s[2] or ""))) for s in samples if s]


def test_every_query_of_the_dashboard_is_exported_while_a_study_runs(runner: Runner) -> None:
    seen: dict[str, set[str]] = {}
    trials: set[tuple[str, ...]] = set()
    told: list[live.Live] = []
    folder = Home(runner.home).study(driver.NAME).path

    def look() -> None:
        for metric, labels in scraped():
            seen.setdefault(metric, set()).update(labels)
            if metric in OF_TRIALS:
                trials.add(tuple(labels[name] for name in ("study", "arm", "phase", "trial")))
        if (found := live.read(folder)) is not None:
            told.append(found)

    runner.orders(sleep=0.5, kill={"statistic/search/0": 1})
    with Watcher(look):
        study = runner.study(trials=1, rungs=())
        assert runner.run(dataclasses.replace(study, replicates=driver.Replicates(seeds=(1001,)))).complete
    asked = [(metric, labels) for one in expressions() for metric, labels in selectors(one)]
    assert {metric for metric, _ in asked} - ON_GPUS - set(seen) == set()
    for metric, labels in asked:
        if metric not in ON_GPUS:
            assert labels - {"instance"} <= seen[metric], metric  # Prometheus adds the instance
    rows = {(driver.NAME, row.arm, row.phase, str(row.number)) for row in runner.rows().values()}
    assert trials
    assert trials <= rows
    assert any(one.iterations for shot in told for one in shot.running)
    assert not (folder / live.FILE).exists()


def test_of_a_trial_that_has_ended_nothing_is_exported_any_more() -> None:
    """After the study above; Ray forgets what is not told again within two of its exports."""
    gone = threading.Event()
    for _ in range(60):
        if not any(metric in OF_TRIALS for metric, _ in scraped()):
            return
        gone.wait(0.5)
    raise AssertionError([found for found in scraped() if found[0] in OF_TRIALS])


def test_processes_carry_the_names_of_their_trials(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.util.state import list_actors

    monkeypatch.setattr(driver, "ITERATIONS", 1000)
    study: Study = dataclasses.replace(
        driver.define_one(str(runner.dataset)), replicates=driver.Replicates(seeds=(1001, 1002))
    )
    titles: set[str] = set()

    def look() -> None:
        for process in psutil.Process().children(recursive=True):
            try:
                titles.add(process.cmdline()[0].replace("\N{NO-BREAK SPACE}", " "))
            except (psutil.Error, IndexError):
                continue

    prepared = service.prepare(study, Home(runner.home))
    with Watcher(look):
        service.run(prepared, Machine(max_concurrent=1), runner.console, trainable=RecordedTrainable)
    names = [f"full supervision · confirm {n} · seed {1001 + n}" for n in range(2)]
    assert {f"ray::{name}" for name in names} <= titles
    actors: list[Any] = list_actors(detail=True)
    assert f"trials of {driver.NAME}" in {actor.repr_name for actor in actors}


def test_the_names_are_those_that_the_dashboard_asks() -> None:
    assert set(OF_TRIALS) == {f"ray_{name}" for name in GAUGES}
