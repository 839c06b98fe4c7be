"""The loop on a GPU: steps that never wait for it, and the numbers of a CPU. For `pytest -m gpu`."""

from __future__ import annotations

import dataclasses
import gc
from pathlib import Path

import pytest
import torch

from tests.tiny import plain_methods
from tests.unit.trainables.test_trainable import Place, report, to_its_end
from tests.unit.trainables.toy_data import DENSE, NETWORK, protocol, trial_on
from trainables import discovery
from trainables.annotations import Annotation
from trainables.data.dataset import Dataset
from trainables.loop import Training
from trainables.probe import Probe
from trainables.trial import Trial

pytestmark = pytest.mark.gpu

ALL = Annotation(
    pixels="points", pixel_budget=2, several_objects="thickest",
    statistics=("area", "centroid", "mean_intensity", "perimeter", "presence", "size", "size_closed"),
)  # fmt: skip


def trial_of(method: str, dataset: Dataset) -> Trial:
    needs = discovery.load(method).needs
    annotation = DENSE if "dense" in needs else ALL
    settings = protocol(precision="float32", batch_size=6, iterations=12)
    return trial_on(
        dataset, method=method, annotation=annotation, network_settings=NETWORK, protocol=settings
    )


@pytest.mark.parametrize("method", discovery.names())
def test_a_step_never_waits_for_the_gpu(method: str, dataset: Dataset) -> None:
    with plain_methods():
        training = Training(trial_of(method, dataset), dataset, torch.device("cuda"))
        training.advance(7)  # beyond every warm-up of the memory and of the method
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            training._step()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("method", discovery.names())
def test_the_first_loss_is_the_cpu_s(method: str, dataset: Dataset) -> None:
    """In evaluation mode, since dropout draws other numbers on each device."""
    trial = trial_of(method, dataset)
    losses = []
    for device in ("cpu", "cuda"):
        training = Training(trial, dataset, torch.device(device))
        training.net.eval()
        training.state.eval()
        terms = training.method.losses(training.net, training.batches.batch(0), training.state, 0.6)
        losses.append(terms["partial_cross_entropy" if "partial_cross_entropy" in terms else "total"])
    # float32 sums in another order; size_gradient draws masks, so only its labelled part could be equal
    if method != "size_gradient":
        torch.testing.assert_close(losses[1].cpu(), losses[0], rtol=1e-4, atol=1e-5)


def test_half_precision_trains_to_the_same_end(dataset: Dataset) -> None:
    ends = []
    for precision in ("float32", "auto"):
        trial = trial_of("full_supervision", dataset)
        settings = dataclasses.replace(
            trial.protocol, precision=precision, iterations=60, optimiser="adam", learning_rate=0.01
        )
        training = Training(dataclasses.replace(trial, protocol=settings), dataset, torch.device("cuda"))
        training.advance(60)
        ends.append(training.validate(["dice"])["dice"])
    assert abs(ends[0] - ends[1]) < 0.1  # bfloat16 has 8 bits; the toy's Dice ends above 0.5 on the CPU


def test_what_a_trial_is_said_to_take_of_a_gpu(toy_folder: Path, dataset: Dataset) -> None:
    """The probe with CUDA's own counters: something of the memory, not all, the larger batch more."""
    one = Probe(str(toy_folder / "cache"), 1)
    assert one.has_gpu()
    footprints = []
    for size in (4, 512):
        settings = protocol(precision="float32", batch_size=size)
        path = toy_folder / "toy.parquet"
        trial = trial_on(dataset, path, annotation=DENSE, network_settings=NETWORK, protocol=settings)
        footprints.append(one.load(trial.to_dict()))
        assert one.train(0.5).steps_per_second > 0
    small, large = footprints
    assert small.fits
    assert large.fits
    assert 0 < small.peak_bytes < large.peak_bytes < large.total_bytes
    assert 50 * 2**20 < small.outside_bytes < small.total_bytes  # a context alone takes hundreds of MiB
    assert one.counter.busy() is None or 0 <= one.counter.busy() <= 1


def test_no_gpu_memory_stays_behind_a_trial(
    toy_folder: Path, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one that has ended, of one that is broken off for the next, and of one that failed."""
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path / "ray"))
    place = Place(tmp_path, toy_folder, dataset)
    gc.collect()
    before = torch.cuda.memory_allocated()
    running = place.start(place.trial(seed=1), gpus=1.0)
    to_its_end(running)
    assert torch.cuda.memory_allocated() == before
    running.reset(place.config(place.trial(seed=2), gpus=1.0))
    report(running)
    assert torch.cuda.memory_allocated() > before
    running.reset(place.config(place.trial(seed=3), gpus=1.0))
    assert torch.cuda.memory_allocated() == before
    monkeypatch.setattr(Training, "predict", lambda *_: 1 / 0)
    assert report(running)["failure"] == "bug"
    assert torch.cuda.memory_allocated() == before
