"""`--gpus-per-trial auto` through Ray: its processes and places are real, the GPU is made up."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

from search_spaces import UserError
from study import engine, ray_probe, service
from study.capacity import Capacity
from study.engine import Machine
from study.gpu_sharing import samples
from study.home import Home
from tests.ray.conftest import ROOT, Runner
from tests.ray.made_up_gpu import MadeUpGpu

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

AUTO = Machine(measure_gpus=True)
CORES = 2


@pytest.fixture(scope="module")
def gpu_ray() -> Iterator[None]:
    """A Ray that believes in a GPU and in two cores."""
    with pytest.MonkeyPatch.context() as patch:
        import ray

        init = ray.init
        believed = {"num_gpus": 1, "num_cpus": CORES}
        patch.setattr(ray, "init", lambda **options: init(**{**options, **believed}))
        patch.setenv("PYTHONPATH", str(ROOT))
        engine.connect(AUTO)
        patch.setattr(ray, "init", lambda **options: None)
        disconnect = engine.disconnect
        patch.setattr(engine, "disconnect", lambda: None)
        yield
        disconnect()


@pytest.fixture
def prepared(home: Path, dataset: Path) -> service.Prepared:
    runner = Runner(home, dataset)
    return service.prepare(runner.study(), Home(home))


def settle(
    prepared: service.Prepared, machine: Machine, gpu: MadeUpGpu, wanted: int = 8
) -> tuple[Machine, str]:
    trials = samples(prepared.study, prepared.data)
    return ray_probe.settle(machine, trials, prepared.home.cache, wanted, counter=gpu)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_probe, "SECONDS", 1.0)
    monkeypatch.setattr(ray_probe, "PATIENCE", 5.0)


@pytest.mark.slow
@pytest.mark.usefixtures("gpu_ray")
class TestOnAGpu:
    def test_memory_that_side_by_side_is_not_enough(self, prepared: service.Prepared, tmp_path: Path) -> None:
        """Many would fit by what one took; the second finds none."""
        machine, reason = settle(prepared, AUTO, MadeUpGpu(peak=50, folder=tmp_path, room=1))
        assert (machine.gpus_per_trial, machine.measure_gpus) == (1.0, False)
        assert reason.startswith("A trial takes a whole GPU (--gpus-per-trial 1), because more would not fit")

    def test_a_gpu_that_is_full_is_not_shared(self, prepared: service.Prepared, tmp_path: Path) -> None:
        machine, reason = settle(prepared, AUTO, MadeUpGpu(peak=50, folder=tmp_path, alone=True))
        assert machine.gpus_per_trial == 1.0
        assert "because more would not train faster in all" in reason

    def test_a_gpu_that_pytorch_cannot_use(self, prepared: service.Prepared) -> None:
        trials = samples(prepared.study, prepared.data)
        machine, reason = ray_probe.settle(AUTO, trials, prepared.home.cache, 8)
        assert (machine.gpus_per_trial, Capacity(machine).here) == (0.0, CORES)
        assert reason == "Trials run on CPUs (--gpus-per-trial 0), because PyTorch cannot use the GPU here."

    def test_a_gpu_that_others_hold(self, prepared: service.Prepared) -> None:
        import ray
        from ray.util import placement_group, remove_placement_group

        held = placement_group([{"GPU": 0.5}])
        ray.get(held.ready())
        try:
            with pytest.raises(
                UserError, match=r"^The probe of --gpus-per-trial auto needs a whole GPU with"
            ):
                settle(prepared, AUTO, MadeUpGpu(peak=10))
        finally:
            remove_placement_group(held)

    def test_a_study_says_what_was_chosen_and_runs_so(
        self, home: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gpu = MadeUpGpu(peak=350)
        monkeypatch.setattr(ray_probe, "settle", functools.partial(ray_probe.settle, counter=gpu))
        runner = Runner(home, dataset)
        assert runner.run(runner.study(trials=2), AUTO).complete
        shown = runner.console.file.getvalue()  # type: ignore[attr-defined]
        assert shown.count("2 trials share a GPU (--gpus-per-trial 0.5), because") == 1
        rows = list(runner.rows().values())
        at_once = [sum(b.started <= a.started < b.finished for b in rows) for a in rows]
        assert max(at_once) == 2


def test_a_machine_without_a_gpu_says_that_trials_run_on_cpus(runner: Runner) -> None:
    assert runner.run(runner.study(trials=1), AUTO).complete
    shown = runner.console.file.getvalue()  # type: ignore[attr-defined]
    assert "Trials run on CPUs (--gpus-per-trial 0), because there is no GPU." in shown
