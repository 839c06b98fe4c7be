"""How many trials may run at once while nodes come, answer, and go; Ray's own answers are made up."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import ray

from search_spaces import UserError
from study import capacity
from study.capacity import Capacity
from study.engine import Machine
from trainables.store import Store


class Cluster:
    """What `ray.nodes` tells, and what nodes answer once they do; a node's number is its host's."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.nodes: dict[str, dict[str, float]] = {}
        self.answers: dict[str, str | Exception] = {}
        self.asked: list[str] = []
        patch.setattr(ray, "nodes", self.listed)
        patch.setattr(ray, "wait", self.wait)
        patch.setattr(ray, "get", self.get)
        patch.setattr(capacity, "_question", self.question)

    def listed(self) -> list[dict[str, Any]]:
        return [
            {"NodeID": name, "Alive": True, "Resources": resources, "NodeManagerHostname": f"host {name}"}
            for name, resources in self.nodes.items()
        ] + [{"NodeID": "gone", "Alive": False, "Resources": {}, "NodeManagerHostname": "host gone"}]

    def join(self, name: str, answer: str | Exception | None = "", **resources: float) -> None:
        self.nodes[name] = resources or {"CPU": 2.0}
        if answer is not None:
            self.answers[name] = answer

    def question(self, node: str, store: Store, name: str, content: bytes) -> str:
        assert content == b"the study"
        self.asked.append(node)
        return node

    def wait(
        self, references: Iterable[str], num_returns: int, timeout: float | None
    ) -> tuple[list[str], list[str]]:
        references = list(references)
        ready = [one for one in references if one in self.answers]
        assert timeout == 0 or ready == references, "the test would wait for ever"
        return ready, [one for one in references if one not in ready]

    def get(self, reference: str) -> str:
        answer = self.answers.pop(reference)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made = Cluster(monkeypatch)
    made.join("head", CPU=0.0)
    made.join("a")
    return made


@pytest.fixture
def witness(tmp_path: Path) -> tuple[Store, str]:
    (tmp_path / "spec.json").write_text("the study")
    return Store.at(tmp_path), "spec.json"


ANYWHERE = Machine(address="host:6379", gpus_per_trial=0.0)


def test_a_node_that_joins_counts_once_it_has_answered(cluster: Cluster, witness: tuple[Store, str]) -> None:
    slots = Capacity(ANYWHERE, witness)
    assert (slots(), slots.here) == (2, 2)
    cluster.join("b", None, CPU=3.0)
    slots.look()
    assert slots() == 2  # it was asked and has not told
    cluster.answers["b"] = ""
    slots.look()
    assert slots() == 5
    slots.look()
    assert cluster.asked == ["a", "b"]  # each once, and never the head, where no trial fits


def test_a_node_that_goes_counts_no_more(cluster: Cluster, witness: tuple[Store, str]) -> None:
    cluster.join("b")
    slots = Capacity(ANYWHERE, witness)
    assert slots() == 4
    del cluster.nodes["b"]
    slots.look()
    assert slots() == 2
    del cluster.nodes["a"]
    slots.look()
    assert slots() == 1  # what waits for another node


def test_a_node_that_sees_another_home_is_told_of_once_and_not_counted(
    cluster: Cluster, witness: tuple[Store, str], caplog: pytest.LogCaptureFixture
) -> None:
    slots = Capacity(ANYWHERE, witness)
    cluster.join("b", "does not see /home")
    with caplog.at_level(logging.WARNING):
        slots.look()
        slots.look()
    assert slots() == 2
    assert caplog.messages == [
        "A node that joined is not counted. Every node of the cluster must have this package and see the "
        "folder of the trials, but host b does not see /home; install it there, or name another --home "
        "(STUDY_HOME) or an object store with --storage-path."
    ]


def test_at_the_start_such_a_node_is_refused(cluster: Cluster, witness: tuple[Store, str]) -> None:
    cluster.join("b", "does not have this package installed")
    with pytest.raises(UserError, match=r"^Every node .* but host b does not have this package installed; "):
        Capacity(ANYWHERE, witness)


def test_a_node_that_dies_instead_of_answering_is_asked_again(
    cluster: Cluster, witness: tuple[Store, str]
) -> None:
    slots = Capacity(ANYWHERE, witness)
    cluster.join("b", ray.exceptions.RayError("lost"))
    slots.look()
    assert slots() == 2
    cluster.answers["b"] = ""
    slots.look()
    slots.look()
    assert slots() == 4


def test_on_a_cluster_the_cap_is_asked_for_and_elsewhere_it_only_caps(
    cluster: Cluster, witness: tuple[Store, str]
) -> None:
    """Trials that wait make an autoscaler bring machines; one machine does not grow."""
    capped = Machine(address="host:6379", gpus_per_trial=0.0, max_concurrent=5)
    slots = Capacity(capped, witness)
    assert (slots(), slots.here) == (5, 2)
    cluster.join("b", CPU=16.0)
    slots.look()
    assert (slots(), slots.here) == (5, 5)
    here = Capacity(Machine(gpus_per_trial=0.0, max_concurrent=3))
    assert (here(), here.here) == (3, 3)
    assert Capacity(Machine(gpus_per_trial=0.0, max_concurrent=30))() == 18


def test_nothing_fits(cluster: Cluster) -> None:
    with pytest.raises(UserError, match="asks for 4 CPUs and 0 GPUs, but no node of the cluster has more"):
        Capacity(Machine(cpus_per_trial=4.0, gpus_per_trial=0.0))
