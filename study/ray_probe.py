"""Measures on the cluster's own GPUs how many trials should share one (`--gpus-per-trial auto`).

A probe holds a whole GPU of each kind for a minute or so, and the CPUs that its trials will have.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from search_spaces import UserError
from study.engine import Machine
from study.gpu_sharing import MOST, Measured, Sharing, counts, decide, fitting
from trainables.probe import Counter, Footprint, Probe, Speed
from trainables.trial import Trial

SECONDS = 2.0
"""For which every number of trials at once is timed."""

PATIENCE = 120.0
"""Seconds that a probe waits for a GPU that others hold."""

log = logging.getLogger(__name__)


def settle(
    machine: Machine, trials: Mapping[str, Trial], cache: Path, wanted: int, *, counter: Counter | None = None
) -> tuple[Machine, str]:
    """The machine with its share of a GPU, and a sentence that says why. Ray must run.

    trials: what is tried, by arm; wanted: how many can run at once. Raises UserError where no GPU is free.
    """
    kinds = _kinds()
    gpus = sum(int(node["GPU"]) for nodes in kinds.values() for node in nodes)
    if not gpus:
        return _on_cpus(machine, "there is no GPU")
    wanted = min(wanted, machine.max_concurrent or wanted)
    chosen: list[Sharing] = []
    for kind, nodes in kinds.items():
        cores = min(int(node.get("CPU", 0.0) / node["GPU"] / machine.cpus_per_trial + 1e-9) for node in nodes)
        most = max(1, min(cores, -(-wanted // gpus), MOST))
        measured = _measure(machine, trials, cache, kind, most, counter)
        if measured is None:
            return _on_cpus(machine, "PyTorch cannot use the GPU here")
        chosen.append(decide(measured, cores=cores, wanted=-(-wanted // gpus)))
    sharing = min(chosen, key=lambda one: one.trials)
    return dataclasses.replace(machine, gpus_per_trial=sharing.share, measure_gpus=False), sharing.reason


def _on_cpus(machine: Machine, why: str) -> tuple[Machine, str]:
    machine = dataclasses.replace(machine, gpus_per_trial=0.0, measure_gpus=False)
    return machine, f"Trials run on CPUs (--gpus-per-trial 0), because {why}."


def _kinds() -> dict[str, list[dict[str, float]]]:
    """The living nodes that have a GPU, by the name under which Ray knows its kind, "" for none."""
    import ray

    kinds: dict[str, list[dict[str, float]]] = {}
    for node in ray.nodes():
        resources: dict[str, float] = node["Resources"] if node["Alive"] else {}
        if resources.get("GPU", 0.0) >= 1:
            kind = next((name for name in resources if name.startswith("accelerator_type:")), "")
            kinds.setdefault(kind, []).append(resources)
    return kinds


def _measure(
    machine: Machine, trials: Mapping[str, Trial], cache: Path, kind: str, most: int, counter: Counter | None
) -> Measured | None:
    """None where PyTorch does not see the GPU that Ray gives."""
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    bundle = {"GPU": 1.0, "CPU": most * machine.cpus_per_trial, **({kind: 0.001} if kind else {})}
    place = placement_group([bundle])
    try:
        if not place.wait(PATIENCE):
            raise UserError(
                f"The probe of --gpus-per-trial auto needs a whole GPU with {bundle['CPU']:g} CPUs, but none "
                f"was free for {PATIENCE:g} s; wait for the other studies, or give the share as a number."
            )
        crew = _Crew(machine, cache, place, most, counter)
        if not ray.get(crew.member(0).has_gpu.remote()):
            return None
        return crew.measure({name: trial.to_dict() for name, trial in trials.items()})
    finally:
        remove_placement_group(place)  # which ends its processes


class _Crew:
    """Up to `most` processes on one GPU, started as they are needed."""

    def __init__(self, machine: Machine, cache: Path, place: Any, most: int, counter: Counter | None) -> None:
        self.machine, self.cache, self.place, self.most, self.counter = machine, cache, place, most, counter
        self.members: list[Any] = []

    def member(self, index: int) -> Any:
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        while len(self.members) <= index:
            options = {
                "num_cpus": self.machine.cpus_per_trial,
                "num_gpus": int(10_000 / self.most) / 10_000,
                "scheduling_strategy": PlacementGroupSchedulingStrategy(self.place),
            }
            arguments = (str(self.cache), self.machine.threads, self.counter)
            self.members.append(ray.remote(Probe).options(**options).remote(*arguments))
        return self.members[index]

    def measure(self, trials: Mapping[str, dict[str, Any]]) -> Measured:
        import ray

        first = self.member(0)
        footprints: dict[str, Footprint] = {}
        alone: dict[str, Speed] = {}
        for name, raw in trials.items():
            footprints[name] = ray.get(first.load.remote(raw))
            alone[name] = ray.get(first.train.remote(SECONDS))
        peaks = {name: one.peak_bytes for name, one in footprints.items()}
        heaviest = sorted(peaks, key=lambda name: -peaks[name])
        largest = footprints[heaviest[0]]
        context = max(one.outside_bytes for one in footprints.values())
        memory = fitting(largest.peak_bytes, context, largest.total_bytes)
        told = [speed.busy for speed in alone.values() if speed.busy is not None]
        return Measured(
            gpu=largest.name,
            total_bytes=largest.total_bytes,
            context_bytes=context,
            peaks=peaks,
            busy=max(told, default=None),
            speedups=self._speedups(trials, heaviest, alone, min(self.most, max(1, memory))),
        )

    def _speedups(
        self,
        trials: Mapping[str, dict[str, Any]],
        names: Sequence[str],
        alone: Mapping[str, Speed],
        most: int,
    ) -> dict[int, float]:
        """Of 1, 2, 4 ... trials of the arms in turn, until one does not find the memory after all."""
        import ray

        speedups = {1: 1.0}
        for count in counts(most)[1:]:
            crew = [(self.member(i), names[i % len(names)]) for i in range(count)]
            loaded = ray.get([member.load.remote(trials[name]) for member, name in crew])
            if not all(one.fits for one in loaded):
                break
            told: list[Speed] = ray.get([member.train.remote(SECONDS) for member, _ in crew])
            rates = zip(told, crew, strict=True)
            speedups[count] = sum(
                speed.steps_per_second / alone[name].steps_per_second for speed, (_, name) in rates
            )
        return speedups
