"""One study from its definition to its answer: prepare, plan, run, answer."""

from __future__ import annotations

import logging
import platform
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage
from rich.console import Console
from rich.text import Text

from search_spaces import UserError
from study import (
    addresses,
    datasets,
    engine,
    gpu_sharing,
    notes,
    plan,
    ray_network,
    ray_probe,
    storage,
    storage_path,
)
from study.answer import Answer
from study.board import Board
from study.capacity import Capacity
from study.console import Screen, introduction
from study.ending import TRACKING_PATIENCE, conclude
from study.engine import Machine
from study.home import Home, StudyFolder, agree
from study.listeners import Listeners
from study.ownership import Claims, Owner
from study.pretraining import Networks
from study.run_format import Identity
from study.schedule import rung_iterations
from study.segments import full_disk_told
from study.spec import PRETRAINING, Study
from study.stopping import stop_on_signal
from study.tracking import Tracker
from study.tracking_process import TrackingProcess
from study.trial_files import TrialFiles
from trainables.data.dataset import Dataset
from trainables.store import Store
from trainables.trainable import StudyTrainable
from trainables.trial import DataSource

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A study that was checked against its data and may start."""

    study: Study
    home: Home
    dataset: Dataset
    data: DataSource
    annotation_seconds: Mapping[str, float]
    store: Store
    """Where trials and networks lie: the home itself, unless the user named another place."""

    @property
    def folder(self) -> StudyFolder:
        return self.home.study(self.study.name)

    @property
    def place(self) -> Store:
        """Of this study's trials."""
        return self.store.child(self.study.name)

    def networks(self) -> Networks:
        return Networks(self.home.networks, self.store.child(self.home.networks.name))

    def plan(
        self,
        *,
        slots: int = 1,
        speed: Mapping[str, float] | None = None,
        gpus: float = 0.0,
        sharing: str = "",
    ) -> plan.Plan:
        networks = self.networks()
        return plan.make(
            self.study,
            annotation_seconds=self.annotation_seconds,
            rungs=rung_iterations(self.study.protocol, self.study.search.rungs),
            concurrency=slots,
            missing=[
                t for key, t in plan.pretrainings(self.study, self.data).items() if not networks.has(key)
            ],
            speed=speed,
            gpus_per_trial=gpus,
            sharing=sharing,
        )


def prepare(study: Study, home: Home, location: str | None = None) -> Prepared:
    """Opens the data and checks every arm against them. Raises UserError; writes nothing into the study.

    location: the user's --storage-path; None: where the study has been, or the home.
    """
    home.check_writable()
    store = storage_path.of(home.study(study.name), location)
    if store.uri != str(home.path):
        storage_path.require_usable(store)
    dataset, data = datasets.open_data(study.data, home)
    for fold in study.replicates.folds:
        if not 0 <= fold < len(dataset.folds):
            raise UserError(
                f"replicates.folds must lie in 0 .. {len(dataset.folds) - 1}, the folds of {dataset.name}, "
                f"but got {fold}; use --set replicates.folds=0."
            )
    seconds = plan.check_arms(study, dataset, data)
    return Prepared(
        study=study, home=home, dataset=dataset, data=data, annotation_seconds=seconds, store=store
    )


def run(
    prepared: Prepared,
    machine: Machine,
    console: Console,
    *,
    tracking_uri: str | None = None,
    storage_url: str | None = None,
    trainable: type = StudyTrainable,
) -> Answer:
    """Runs what is missing of a study and returns its answer. Raises UserError; KeyboardInterrupt on Ctrl-C.

    Only one driver at a time; the same call again continues, after any end of the last one.
    """
    study, folder = prepared.study, prepared.folder
    with (
        full_disk_told(prepared.home.path),
        folder.locked(),
        tempfile.TemporaryDirectory(prefix="study-") as room,
    ):
        frozen = folder.frozen()
        if frozen is not None:
            agree(frozen, study)
        owner = _owner(folder, study, begun=frozen is not None)
        with _tracker(prepared, tracking_uri, owner) as tracker:
            memory = storage.open_storage(folder.path, storage_url)
            # A database in the folder is the folder's; of another nothing is taken before MLflow agrees, too.
            claims = Claims(memory, owner, [arm.name for arm in study.arms] if storage_url else [])
            claims.check()
            arms = [*([PRETRAINING] if study.pretraining else []), *(arm.name for arm in study.arms)]
            tracker.start(arms)
            try:
                storage_path.remember(folder, prepared.store)
                claims.make(greater_is_better=study.greater_is_better)
                folder.freeze(study)
                addresses.remember(folder.path, tracker.elsewhere, storage_url)
                _introduce(prepared, tracker, console)
                files = TrialFiles(prepared.place, Path(room))
                listeners = Listeners(tracker, files, Store.at(folder.path))
                board = _board(prepared, memory, listeners)
                tracker.reconcile(folder.ledger.trials(), files.artifacts)
                _work(prepared, board, machine, console, trainable)
            except BaseException:
                tracker.interrupted()
                tracker.close(TRACKING_PATIENCE)
                raise
            return conclude(board, listeners, folder, console)


def _introduce(prepared: Prepared, tracker: TrackingProcess, console: Console) -> None:
    console.print(introduction(prepared.study, str(prepared.folder.path), tracker.uri), soft_wrap=True)
    if prepared.store.uri != str(prepared.home.path):
        console.print(Text(f"Trials and networks: {prepared.store.shown()}"), soft_wrap=True)


def _board(prepared: Prepared, memory: BaseStorage, listeners: Listeners) -> Board:
    return Board(
        prepared.study,
        storage=memory,
        ledger=prepared.folder.ledger,
        data=prepared.data,
        class_names=prepared.dataset.class_names,
        annotation_seconds=prepared.annotation_seconds,
        listener=listeners,
        networks=prepared.networks(),
    )


def _work(prepared: Prepared, board: Board, machine: Machine, console: Console, trainable: type) -> None:
    if board.finished():
        return
    folder = prepared.folder
    with stop_on_signal(board):
        try:
            machine, slots = engine.connect(machine, storage_path.witness(folder, prepared.store))
            line = ray_network.reach(machine.address, dashboard=machine.dashboard)
            console.print(Text(line), soft_wrap=True)
            if machine.measure_gpus:
                machine, reason = share_gpus(prepared, machine)
                slots = Capacity(machine, slots.witness)
                console.print(Text(reason), soft_wrap=True)
            dashboard = ray_network.dashboard_url(expected=machine.dashboard or machine.address is not None)
            with Screen(console, board, lambda: slots.here, folder.path, dashboard=dashboard):
                engine.run(board, machine, slots, folder.path, place=prepared.place, trainable=trainable)
        finally:
            engine.disconnect()
    board.write()
    if not board.finished():
        raise RuntimeError(f"Ray Tune ended before the study did; see {folder.path / 'ray.log'}.")


def share_gpus(prepared: Prepared, machine: Machine) -> tuple[Machine, str]:
    """Measures what a trial takes of a GPU, with Ray running: the settled machine, and why."""
    study = prepared.study
    return ray_probe.settle(
        machine,
        gpu_sharing.samples(study, prepared.data),
        prepared.home.cache,
        gpu_sharing.most_at_once(study),
    )


def _owner(folder: StudyFolder, study: Study, *, begun: bool) -> Owner:
    return Owner(
        study=study.name,
        identity=folder.identity(),
        place=f"{platform.node()}:{folder.path}",
        begun=begun,
        known=partial(_identities, folder),
    )


def _identities(folder: StudyFolder) -> frozenset[Identity]:
    return frozenset(row.identity for row in folder.ledger.trials())


def _tracker(prepared: Prepared, uri: str | None, owner: Owner) -> TrackingProcess:
    study, dataset = prepared.study, prepared.dataset
    description: dict[str, Any] = {
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        "path": prepared.data.path,
        "num_images": dataset.num_images,
        "num_cases": len(set(dataset.case_ids)),
    }
    make = partial(
        Tracker,
        home=prepared.home.path,
        study=study.name,
        question=study.question,
        metric=study.metric,
        greater_is_better=study.greater_is_better,
        tracking_uri=uri,
        spec_json=study.to_json(),
        dataset=description,
        owner=owner,
        arms={arm.name: notes.of_arm(study, arm) for arm in study.arms},
    )
    return TrackingProcess(make, prepared.folder.path, prepared.folder.ledger.trials)
