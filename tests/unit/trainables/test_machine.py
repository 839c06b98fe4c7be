"""What a trial says of where it ran: a share of a GPU only where it was given one and there is one."""

import platform

import pytest
import torch

from trainables import machine
from trainables.trial import NUMERICS


@pytest.mark.parametrize("gpus", [0.0, 0.5])
def test_without_a_gpu_a_trial_runs_on_its_threads(monkeypatch, gpus):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = machine.facts(gpus=gpus, threads=3)
    assert (found["device"], found["gpus"], found["threads"]) == ("cpu", 0.0, 3)


@pytest.mark.parametrize(("gpus", "device"), [(0.5, "a GPU"), (0.0, "cpu")])
def test_a_gpu_counts_for_the_trial_that_was_given_a_share(monkeypatch, gpus, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    found = machine.facts(gpus=gpus, threads=1)
    assert (found["device"], found["gpus"]) == (device, gpus)


def test_versions_of_what_computes():
    found = machine.versions()
    assert (found["python"], found["numerics"]) == (platform.python_version(), str(NUMERICS))
    assert found["torch"] == torch.__version__.partition("+")[0] or found["torch"] == torch.__version__
