"""The one Ray file of this floor: a trial as a Ray Tune trainable, continued by its key, reused by the next.

Ray moves trials between processes; what a trial has learned lies in its own folder, found by its key, so it
survives Ray, the driver and the machine's power. Only a lost process is an error to Ray (which starts it
again); a loss that is not finite and a bug are results, because trying them again would end the same way.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import logging
import platform
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray import tune

from trainables import pictures, saved
from trainables.batches import weak_labels
from trainables.data.dataset import open_dataset
from trainables.loop import NotFiniteError, Training
from trainables.trial import Trial

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"
SAMPLES = "samples.png"
SET_ASIDE = "damaged.pt"
"""Where a checkpoint goes that cannot be believed; the next one replaces it."""


class StudyTrainable(tune.Trainable):
    """A step trains to the next report.

    Config: trial (dict), key, folder, cache, metric, watch, threads, gpus; start and network: files of the
    network to start from and to leave behind, None where there is none.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # nothing of the trial before stays on the GPU
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        self.settings = config
        self.training: Training | None = None
        self.seconds = 0.0
        self.training_seconds = 0.0
        """Of `seconds`, those without validation and test."""
        self.curve: list[dict[str, float]] = []
        self.last: dict[str, Any] | None = None
        torch.set_num_threads(config["threads"])

    def step(self) -> dict[str, Any]:
        if self.last is not None:
            return _packed(self.last)
        try:
            self.last = self._advance()
        except NotFiniteError as error:
            self.last = self._ended("diverged", str(error))
        except Exception as error:  # a bug in one trial must not end the study; it is shown with its trace
            log.exception("trial %s failed", self.settings["key"])
            self.last = self._ended("failed", f"{type(error).__name__}: {error}", traceback.format_exc())
        result = self.last
        if result["state"] == "running":
            self.last = None
        return _packed(result)

    def _advance(self) -> dict[str, Any]:
        if self.training is None:
            last = self._open()
            if last is not None and last["state"] != "running":
                return last  # trained to its end before the driver could hear of it
        training = self.training
        assert training is not None
        started = time.perf_counter()
        points = training.trial.protocol.report_points()
        until = next((p for p in points if p > training.iteration), points[-1])
        terms = training.advance(until)
        self.training_seconds += time.perf_counter() - started
        values = self._validate(training)
        final = until == points[-1]
        if final:
            training.restore_kept()
        cases = self._test(training) if final and training.trial.test else []
        self.seconds += time.perf_counter() - started
        times = {"seconds": self.seconds, "training_seconds": self.training_seconds}
        losses = {f"loss_{name}": term for name, term in terms.items()}
        self.curve.append({"iteration": until, **times, **values, **losses})
        result = {**self._result("finished" if final else "running"), "cases": cases}
        if final and self.settings["network"] is not None:
            self._leave_network(Path(self.settings["network"]), training, result)
        self._save(result)
        return result

    def _validate(self, training: Training) -> dict[str, float]:
        """The metrics of the weights that are kept so far, and of the last ones where those are others."""
        kept_by = training.trial.protocol.kept_by
        names = dict.fromkeys(
            [self.settings["metric"], *self.settings["watch"], *([kept_by] if kept_by else [])]
        )
        last = training.validate(list(names))
        kept = training.keep(last)
        return {**kept, **({f"last_{name}": value for name, value in last.items()} if kept_by else {})}

    def _open(self) -> dict[str, Any] | None:
        """Builds the training and loads its checkpoint, if any; returns the result saved with it."""
        trial = Trial.from_dict(self.settings["trial"])
        dataset = open_dataset(
            Path(trial.data.path),
            cache=Path(self.settings["cache"]),
            size=trial.data.size,
            merge_foreground=trial.data.merge_foreground,
        )
        if dataset.fingerprint != trial.data.fingerprint:
            raise RuntimeError(f"{trial.data.path} changed while the study ran: its fingerprint differs.")
        device = torch.device("cuda" if torch.cuda.is_available() and self._has_gpu() else "cpu")
        start = self.settings["start"]
        network = None if start is None else saved.read(Path(start), "cpu", Path(start).parent.name)
        self.training = Training(trial, dataset, device, network=network)
        path = self._folder() / CHECKPOINT
        for unfinished in path.parent.glob(f"{CHECKPOINT}.*"):
            unfinished.unlink(missing_ok=True)  # of a process that was killed while it wrote
        checkpoint = self._checkpoint(path, device)
        if checkpoint is None:
            return None
        self.training.load_state_dict(checkpoint["training"])
        result: dict[str, Any] = checkpoint["result"]
        self.seconds, self.curve = result["seconds"], result["curve"]
        self.training_seconds = self.curve[-1]["training_seconds"]
        return result

    def _checkpoint(self, path: Path, device: torch.device) -> dict[str, Any] | None:
        """The trial's own and sound one; a damaged or foreign file is set aside, nothing of it is used."""
        if not path.exists():
            return None
        try:
            return saved.read(path, device, self.settings["key"])
        except saved.DamagedError as error:
            path.replace(path.with_name(SET_ASIDE))
            log.warning("%s: it was set aside as %s, and the trial starts again.", error, SET_ASIDE)
            return None

    def _has_gpu(self) -> bool:
        # Ray leaves all GPUs visible to a trial that asked for none.
        return bool(self.settings["gpus"])

    def _folder(self) -> Path:
        folder = Path(self.settings["folder"])
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _save(self, result: dict[str, Any]) -> None:
        assert self.training is not None
        content = {"training": self.training.state_dict(), "result": result}
        saved.write(self._folder() / CHECKPOINT, content, result["key"])

    def _leave_network(self, path: Path, training: Training, result: dict[str, Any]) -> None:
        """First what it reports, then the network, then the checkpoint that calls the trial finished: where a
        later one is, the earlier ones are, too."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".json").write_text(json.dumps(result))
        weights = {name: value.cpu() for name, value in training.net.state_dict().items()}
        saved.write(path, weights, result["key"])

    def _test(self, training: Training) -> list[dict[str, Any]]:
        rows = training.split.test
        predictions = training.predict(rows)
        scores = training.scores_of(predictions, rows)
        self._draw(training, predictions)
        return [dataclasses.asdict(score) for score in scores]

    def _draw(self, training: Training, test_predictions: np.ndarray, count: int = 4) -> None:
        """Training images with their clicks, and test images, both with prediction and error."""
        data, split = training.dataset, training.split
        labels = weak_labels(training.trial, data).labels_NHW
        shown = np.unique(np.linspace(0, len(split.train) - 1, count).astype(int))
        tested = np.unique(np.linspace(0, len(split.test) - 1, count).astype(int))
        rows = np.concatenate([split.train[shown], split.test[tested]])
        nothing = np.full((len(tested), *data.shape), 255, np.uint8)
        pictures.samples(
            self._folder() / SAMPLES,
            data.images_NHW[rows],
            data.masks_NHW[rows],
            np.concatenate([labels[shown], nothing]),
            np.concatenate([training.predict(split.train[shown]), test_predictions[tested]]),
            data.class_names,
            [f"train {data.image_ids[r]}" for r in split.train[shown]]
            + [f"test {data.image_ids[r]}" for r in split.test[tested]],
        )

    def _result(self, state: str) -> dict[str, Any]:
        return {
            "key": self.settings["key"],
            "state": state,
            "seconds": self.seconds,
            "curve": self.curve,
            "cases": [],
            "host": platform.node(),
            "reason": "",
            "trace": "",
        }

    def _ended(self, state: str, reason: str, trace: str = "") -> dict[str, Any]:
        return {**self._result(state), "reason": reason, "trace": trace}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing for Ray: the trial's own checkpoint lies in its folder."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing from Ray: `_open` continues from the trial's own checkpoint."""


def _packed(result: dict[str, Any]) -> dict[str, Any]:
    """One JSON text, which Tune passes on as it is (nested values it would flatten and copy)."""
    return {"payload": json.dumps(result), "done": result["state"] != "running"}
