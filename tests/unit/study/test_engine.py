"""What the engine checks before Ray starts."""

from __future__ import annotations

import json
import socket
import time

import pytest
import ray

from search_spaces import UserError
from study import engine
from study.capacity import slots_of
from study.engine import Machine
from study.segments import DiskFullError


def test_an_address_where_nothing_listens_is_refused_at_once() -> None:
    """Ray itself was seen to try for more than ten minutes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"  # bound but not listening
        started = time.monotonic()
        with pytest.raises(UserError, match=r"must answer at .* but: .*refused.*--address"):
            engine.connect(Machine(address=address))
    assert time.monotonic() - started < 5


def test_a_machine_that_is_too_busy_for_ray_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen on two cores with thirty programs; any other error of Ray's start is a bug and keeps its trace."""

    def init(**options: object) -> None:
        raise Exception(reason)

    monkeypatch.setattr(ray, "init", init)
    reason = "The current node timed out during startup. This could happen because"
    with pytest.raises(UserError, match=r"^Ray must start within 30 seconds, .* the same command again"):
        engine.connect(Machine())
    reason = "something else"
    with pytest.raises(Exception, match=r"^something else$"):
        engine.connect(Machine())


def test_a_trial_that_could_not_be_written_ends_the_run_and_not_the_trial() -> None:
    result = {"payload": json.dumps({"state": "failed", "failure": "disk_full", "reason": "[Errno 28] full"})}
    with pytest.raises(
        DiskFullError, match=r"^A trial could not be written \(\[Errno 28\] full\): .*again to"
    ):
        engine.payload_of(result)


def test_a_trial_that_fits_nowhere_is_refused() -> None:
    with pytest.raises(UserError, match="asks for 4 CPUs and 0 GPUs, but the machine has 2 and 0"):
        slots_of([{"CPU": 2.0}], Machine(cpus_per_trial=4.0, gpus_per_trial=0.0))


def test_a_trial_does_not_span_two_nodes() -> None:
    """Four CPUs in all, and yet Ray would wait for ever."""
    two = [{"CPU": 2.0}, {"CPU": 2.0}, {}]
    with pytest.raises(UserError, match="no node of the cluster has more than 2 and 0"):
        slots_of(two, Machine(cpus_per_trial=4.0))
    assert slots_of([{"CPU": 3.0}, {"CPU": 3.0}, {}], Machine(cpus_per_trial=2.0)) == 2


def test_slots_are_what_the_scarcest_resource_allows() -> None:
    machine = Machine(cpus_per_trial=1.0, gpus_per_trial=0.25)
    assert slots_of([{"CPU": 8.0, "GPU": 1.0}], machine) == 4
    limited = Machine(cpus_per_trial=1.0, gpus_per_trial=0.0, max_concurrent=3)
    assert slots_of([{"CPU": 8.0}], limited) == 3


def test_a_share_does_not_span_two_gpus() -> None:
    """Two fifths fit twice on each of two GPUs, not five times on both."""
    assert slots_of([{"CPU": 8.0, "GPU": 2.0}], Machine(gpus_per_trial=0.4)) == 4
    assert slots_of([{"CPU": 8.0, "GPU": 5.0}], Machine(gpus_per_trial=2.0)) == 2
