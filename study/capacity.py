"""How many trials may run at once: what the nodes hold that are there now, looked at again and again.

A node counts once it was asked and said that it has this package and sees the home folder: elsewhere a trial
would fail for no fault of its own.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from search_spaces import UserError
from trainables.store import Store

if TYPE_CHECKING:
    from study.engine import Machine

SEEN_WITHIN = 10.0
"""Seconds that a file may take to show on another node of a cluster."""

log = logging.getLogger(__name__)


def fits(resources: Mapping[str, float], machine: Machine) -> int:
    """Trials that fit on one node: a trial never spans two, nor its share of a GPU two GPUs."""
    counts = [int(resources.get("CPU", 0.0) / machine.cpus_per_trial + 1e-9)]
    if share := machine.gpus_per_trial:
        gpus = resources.get("GPU", 0.0)
        counts.append(int(gpus) * int(1 / share + 1e-9) if share < 1 else int(gpus / share + 1e-9))
    return min(counts)


def slots_of(nodes: Sequence[Mapping[str, float]], machine: Machine) -> int:
    """Trials that fit at once. Raises UserError when not even one does: Ray would wait for ever."""
    slots = sum(fits(resources, machine) for resources in nodes)
    if slots < 1:
        largest = [max((node.get(kind, 0.0) for node in nodes), default=0.0) for kind in ("CPU", "GPU")]
        where = "the machine has" if len(nodes) == 1 else "no node of the cluster has more than"
        raise UserError(
            f"A trial asks for {machine.cpus_per_trial:g} CPUs and {machine.gpus_per_trial or 0:g} GPUs, but "
            f"{where} {largest[0]:g} and {largest[1]:g}; lower --cpus-per-trial or --gpus-per-trial."
        )
    return min(slots, machine.max_concurrent or slots)


class Capacity:
    """How many trials may be asked for, told by calling it; `look` brings it up to date.

    That is what fits. On a cluster it is as many as `max_concurrent` says, where it says anything: those that
    wait for a place are what makes an autoscaler bring machines.
    """

    def __init__(self, machine: Machine, witness: tuple[Store, str] | None = None) -> None:
        """witness: folder and name of a file that every node of a cluster must see; None on one machine.

        Raises UserError when no trial fits anywhere, or when a node has another file there, or none.
        """
        self.machine, self.witness = machine, witness
        self._content = None if witness is None else witness[0].read(witness[1])
        self.here = 0
        """Trials that fit at once on the nodes that are there."""
        self._questions: dict[str, Any] = {}
        self._troubles: dict[str, str] = {}
        """By node that has answered; "" where there is none."""
        nodes = _alive()
        slots_of([node["Resources"] for node in nodes.values()], machine)
        self._ask(nodes)
        self._hear(None)
        for name, trouble in self._troubles.items():
            if trouble:
                raise UserError(_blind(nodes[name]["NodeManagerHostname"], trouble))
        self._count(nodes)

    def __call__(self) -> int:
        wanted = None if self.machine.address is None else self.machine.max_concurrent
        return wanted or self.here

    def look(self) -> None:
        """Takes in which nodes have come and gone. Waits for no node's answer."""
        nodes = _alive()
        self._ask(nodes)
        for name in self._hear(0):
            if self._troubles[name]:
                host = nodes[name]["NodeManagerHostname"] if name in nodes else name
                log.warning("A node that joined is not counted. %s", _blind(host, self._troubles[name]))
        self._count(nodes)

    def _count(self, nodes: Mapping[str, Mapping[str, Any]]) -> None:
        good = [node["Resources"] for name, node in nodes.items() if self._troubles.get(name) == ""]
        slots = max(1, sum(fits(resources, self.machine) for resources in good))
        self.here = min(slots, self.machine.max_concurrent or slots)

    def _ask(self, nodes: Mapping[str, Mapping[str, Any]]) -> None:
        """Those nodes that could run a trial and were not asked before."""
        for name, node in nodes.items():
            if name in self._questions or name in self._troubles or not fits(node["Resources"], self.machine):
                continue
            if self.witness is None:
                self._troubles[name] = ""
            else:
                self._questions[name] = _question(name, *self.witness, self._content)

    def _hear(self, seconds: float | None) -> list[str]:
        """The nodes that have answered since; one that died meanwhile is forgotten."""
        import ray

        waiting = {reference: name for name, reference in self._questions.items()}
        if not waiting:
            return []
        answered, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=seconds)
        heard = []
        for reference in answered:
            name = waiting[reference]
            del self._questions[name]
            with contextlib.suppress(ray.exceptions.RayError):
                self._troubles[name] = ray.get(reference)
                heard.append(name)
        return heard


def _alive() -> dict[str, dict[str, Any]]:
    import ray

    return {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}


def _blind(host: str, trouble: str) -> str:
    return (
        f"Every node of the cluster must have this package and see the folder of the trials, but {host} "
        f"{trouble}; install it there, or name another --home (STUDY_HOME) or an object store with "
        "--storage-path."
    )


def _question(node: str, store: Store, name: str, content: bytes | None) -> Any:
    """Asks one node; the answer "" says that all is well there."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def trouble(uri: str, name: str, content: bytes | None, patience: float) -> str:
        """Sent as it is, so that a node without this package can tell."""
        import importlib.util
        import time

        if importlib.util.find_spec("trainables") is None:
            return "does not have this package installed"
        from trainables.store import Store, StoreAwayError

        store = Store(uri).hasty()
        end = time.monotonic() + patience  # a network file system may show a new file late
        while True:
            try:
                if store.read(name) == content:
                    return ""
                reason = ""
            except (OSError, StoreAwayError) as error:
                reason = f" ({getattr(error, 'reason', error)})"
            if time.monotonic() > end:
                return f"does not see {store.shown()}{reason}"
            time.sleep(0.2)

    task = ray.remote(num_cpus=0, max_retries=0)(trouble)
    strategy = NodeAffinitySchedulingStrategy(node, soft=False)
    return task.options(scheduling_strategy=strategy).remote(store.uri, name, content, SEEN_WITHIN)
