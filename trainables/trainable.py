"""The one Ray file of this floor: a trial as a Ray Tune trainable, continued by its key, reused by the next.

Ray moves trials between processes; what a trial has learned lies in its own folder, found by its key, so it
survives Ray, the driver and the machine's power. Only a lost process and a store that stays away are errors
to Ray (the driver then hands the trial out again); a loss that is not finite and a bug are results, because
trying them again would end the same way. A process that is asked to stop (`trainables.stopping`) leaves a
checkpoint between two steps, and a note beside it, by which the driver knows that nothing was wrong.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import logging
import platform
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import psutil
import ray
import torch
from ray import tune

from search_spaces import UserError
from trainables import failures, machine, samples, saved
from trainables.data.dataset import Dataset, open_dataset
from trainables.failures import DataError, NotFiniteError, TimeLimitError
from trainables.gallery import GALLERY
from trainables.left import CHECKPOINT, SAMPLES, SET_ASIDE
from trainables.loop import InterruptionError, Training
from trainables.stopping import StopRequests, leave_note, remove_note
from trainables.store import Store, StoreAwayError
from trainables.titles import title
from trainables.trial import Trial

log = logging.getLogger(__name__)


class StudyTrainable(tune.Trainable):
    """A step trains to the next report.

    Config: study, trial (dict), job (arm, phase, number), key, folder, cache, metric, watch, threads, gpus;
    start and network: files of the network to start from and to leave behind, None where there is none;
    orders: the driver's file of `trainables.stopping`, if it has one; time_limit: seconds that the trial may
    take in all, if any. The folder and these files are named by path or URI (`trainables.store`); cache is a
    path of the worker's own.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self.requests = StopRequests(ray.get_runtime_context().get_node_id() if ray.is_initialized() else "")
        self.requests.listen()
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config)
        self._free()
        return True

    def _free(self) -> None:
        """Nothing of the training before stays on the GPU."""
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _begin(self, config: dict[str, Any]) -> None:
        self.settings = config
        self.store = Store.at(config["folder"])
        orders = config.get("orders")
        self.requests.orders = None if orders is None else Store.of(orders)
        self.training: Training | None = None
        self.parts = 1
        """Micro-batches of a step."""
        self.seconds = 0.0
        self.training_seconds = 0.0
        """Of `seconds`, those without validation and test."""
        self.curve: list[dict[str, float]] = []
        self.last: dict[str, Any] | None = None
        torch.set_num_threads(config["threads"])
        self._show_title()

    def step(self) -> dict[str, Any]:
        if self.last is not None:
            return _packed(self.last)
        self._show_title()
        with self.requests.busy():
            result = self._attempt()
            if result.get("failure") == failures.OUT_OF_MEMORY:
                result = self._with_less_memory(result)
        if result["state"] != "running":
            self.last, self.training = result, None
            self._free()  # while it waits for another trial
        return _packed(result)

    def _show_title(self) -> None:
        """The process is named like its trial: in Ray's dashboard, `top` and `nvidia-smi`.

        An actor keeps the name that it was made with, but trains many trials. Ray puts its own title back
        after every call, and of a title with spaces its dashboard shows the first word.
        """
        if ray.is_initialized():
            name = title(self.settings["job"], self.settings["trial"]["seed"])
            ray._raylet.setproctitle(f"ray::{name}".replace(" ", "\N{NO-BREAK SPACE}"))

    def __repr__(self) -> str:
        """What Ray's list of actors shows, once and for all."""
        return f"trials of {self.settings['study']}"

    def _attempt(self) -> dict[str, Any]:
        """`_advance`, what went wrong being a result, too. Raises SystemExit when the process is to stop, and
        StoreAwayError: the trial is not to blame, and goes on elsewhere or later."""
        try:
            return self._advance()
        except InterruptionError:
            return self._interrupted()
        except NotFiniteError as error:
            return self._ended("diverged", error)
        except StoreAwayError:
            raise
        except Exception as error:  # a bug in one trial must not end the study; it is shown with its trace
            log.exception("trial %s failed", self.settings["key"])
            return self._ended("failed", error)

    def _with_less_memory(self, failed: dict[str, Any]) -> dict[str, Any]:
        """Once more from the last checkpoint, in two micro-batches, where the loss can be divided."""
        if self.parts > 1:
            how = "also in two micro-batches"
        elif self.training is None or not self.training.divisible:
            how = f"{self.settings['trial']['method']} cannot compute its loss in micro-batches"
        else:
            self._begin(self.settings)
            self._free()
            self.parts = 2
            again = self._attempt()
            return self._with_less_memory(again) if again["failure"] == failures.OUT_OF_MEMORY else again
        return {**failed, "reason": f"{how}: {failed['reason']}"}

    def _stop_now(self) -> bool:
        return self.requests.asked() or self._late()

    def _late(self) -> bool:
        limit = self.settings.get("time_limit")
        return limit is not None and self.seconds + time.perf_counter() - self.started > limit

    def _interrupted(self) -> dict[str, Any]:
        """A checkpoint of what was trained since the last report; the end of the trial, or of the process.

        Raises SystemExit when the process was asked to stop, with a note to the driver.
        """
        assert self.training is not None
        self.seconds += time.perf_counter() - self.started
        self._save(self._result("running"))
        if not self.requests.reason:
            limit = self.settings["time_limit"]
            return self._ended("failed", TimeLimitError(f"it took longer than its limit of {limit:g} s"))
        leave_note(self.store, self.training.iteration, self.requests.reason)
        raise SystemExit(1)

    def _advance(self) -> dict[str, Any]:
        if self.training is None:
            last = self._open()
            if last is not None and last["state"] != "running":
                return last  # trained to its end before the driver could hear of it
        training = self.training
        assert training is not None
        points = training.trial.protocol.report_points()
        reported = self.curve[-1]["iteration"] if self.curve else -1
        until = next(p for p in points if p > reported)
        terms = self._train(training, until)
        values = self._validate(training)
        final = until == points[-1]
        cases = self._finish(training) if final else []
        self.seconds += time.perf_counter() - self.started
        times = {"seconds": self.seconds, "training_seconds": self.training_seconds}
        losses = {f"loss_{name}": term for name, term in terms.items()}
        self.curve.append({"iteration": until, "reported": time.time(), **times, **values, **losses})
        result = {**self._result("finished" if final else "running"), "cases": cases}
        if final and self.settings["network"] is not None:
            self._leave_network(training, result)
        self._save(result)
        return result

    def _train(self, training: Training, until: int) -> dict[str, float]:
        self.started = time.perf_counter()
        try:
            return training.advance(until)
        finally:
            self.training_seconds += time.perf_counter() - self.started

    def _finish(self, training: Training) -> list[dict[str, Any]]:
        with training.kept_weights():
            return self._test(training) if training.trial.test else []

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
        dataset = self._open_data(trial)
        device = torch.device("cuda" if torch.cuda.is_available() and self._has_gpu() else "cpu")
        start = self.settings["start"]
        network = None if start is None else saved.network(start)
        self.training = Training(trial, dataset, device, network=network, interrupted=self._stop_now)
        remove_note(self.store)
        self.store.sweep(CHECKPOINT)
        checkpoint = self._checkpoint(device)
        if checkpoint is not None:
            self.training.load_state_dict(checkpoint["training"])
        self.parts = self.training.parts = max(self.parts, self.training.parts)
        if checkpoint is None:
            return None
        result: dict[str, Any] = checkpoint["result"]
        self.seconds, self.curve = result["seconds"], result["curve"]
        self.training_seconds = checkpoint["training_seconds"]
        return result

    def _open_data(self, trial: Trial) -> Dataset:
        """Raises DataError."""
        try:
            dataset = open_dataset(
                Path(trial.data.path),
                cache=Path(self.settings["cache"]),
                size=trial.data.size,
                merge_foreground=trial.data.merge_foreground,
            )
        except (OSError, UserError) as error:
            raise DataError(f"{trial.data.path} cannot be read: {error}") from error
        if dataset.fingerprint != trial.data.fingerprint:
            raise DataError(f"{trial.data.path} changed while the study ran: its fingerprint differs.")
        return dataset

    def _checkpoint(self, device: torch.device) -> dict[str, Any] | None:
        """The trial's own and sound one; a damaged or foreign file is set aside, nothing of it is used."""
        try:
            return saved.read(self.store, CHECKPOINT, device, self.settings["key"])
        except saved.DamagedError as error:
            self.store.move(CHECKPOINT, SET_ASIDE)
            log.warning("%s: it was set aside as %s, and the trial starts again.", error, SET_ASIDE)
            return None

    def _has_gpu(self) -> bool:
        # Ray leaves all GPUs visible to a trial that asked for none.
        return bool(self.settings["gpus"])

    def _save(self, result: dict[str, Any]) -> None:
        assert self.training is not None
        content = {
            "training": self.training.state_dict(),
            "result": result,
            "training_seconds": self.training_seconds,
        }
        saved.write(self.store, CHECKPOINT, content, result["key"])

    def _leave_network(self, training: Training, result: dict[str, Any]) -> None:
        """First what it reports, then the network, then the checkpoint that calls the trial finished: where a
        later one is, the earlier ones are, too."""
        folder, name = Store.of(self.settings["network"])
        folder.write(Path(name).with_suffix(".json").name, json.dumps(result).encode())
        weights = {key: value.cpu() for key, value in training.net.state_dict().items()}
        saved.write(folder, name, weights, result["key"])

    def _test(self, training: Training) -> list[dict[str, Any]]:
        rows = training.split.test
        predictions = training.predict(rows)
        scores = training.scores_of(predictions, rows)
        with tempfile.TemporaryDirectory() as room:
            folder = Path(room)
            samples.draw(folder / SAMPLES, training, predictions)
            samples.leave(folder, training, predictions, scores, self.settings["metric"])
            for name in (SAMPLES, GALLERY):
                self.store.write(name, (folder / name).read_bytes())
        return [dataclasses.asdict(score) for score in scores]

    def _result(self, state: str) -> dict[str, Any]:
        return {
            "key": self.settings["key"],
            "state": state,
            "seconds": self.seconds,
            "curve": self.curve,
            "cases": [],
            "host": platform.node(),
            "machine": machine.facts(gpus=self.settings["gpus"] or 0.0, threads=self.settings["threads"]),
            "reason": "",
            "failure": "",
            "memory": psutil.Process().memory_info().rss,
            "gpu_memory": torch.cuda.memory_reserved()
            if self._has_gpu()
            else 0,  # a counter: no GPU is waited for
            "micro_batches": self.parts,
            "trace": "",
        }

    def _ended(self, state: str, error: Exception) -> dict[str, Any]:
        failure = failures.classify(error)
        bug = failure == failures.BUG
        return {
            **self._result(state),
            "reason": f"{type(error).__name__}: {error}" if bug else str(error),
            "failure": failure,
            "trace": traceback.format_exc() if state == "failed" else "",
        }

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing for Ray: the trial's own checkpoint lies in its folder."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing from Ray: `_open` continues from the trial's own checkpoint."""


def _packed(result: dict[str, Any]) -> dict[str, Any]:
    """One JSON text, which Tune passes on as it is (nested values it would flatten and copy)."""
    return {"payload": json.dumps(result), "done": result["state"] != "running"}
