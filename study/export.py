"""`study export`: the network of one arm as a folder of weights, description and model card."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from search_spaces import UserError, nearest
from study import answer as answers
from study import datasets, ending, model_card, storage_path
from study.answer import Answer, ArmAnswer
from study.conclusion import confirmations
from study.home import Home, StudyFolder
from study.places import appear, draft_for, refuse_existing
from study.results import TrialRow
from study.spec import Study
from study.trial_files import trial_folder
from trainables import conversions, exported, saved
from trainables.data import preparation
from trainables.data.dataset import Dataset
from trainables.exported import Description
from trainables.left import CHECKPOINT
from trainables.metrics import is_better
from trainables.store import Store, StoreAwayError
from trainables.trial import NUMERICS, Trial

DATASET_FACTS = ("licence", "redistribution", "source", "citation", "modality", "orientation", "resize")


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What was written, and why this."""

    path: Path
    study: Study
    arm: ArmAnswer
    row: TrialRow
    ranked: bool
    """Whether the arm was chosen by the answer, rather than by the user."""
    differences: dict[str, float]
    """Greatest difference of the outputs of each converted file from the network's."""
    left_out: dict[str, str]
    """Conversions that do not work for this network, and why."""


def export(
    home: Home,
    name: str,
    destination: Path,
    *,
    arm: str | None = None,
    replicate: int | None = None,
    formats: Sequence[str] = (),
    location: str | None = None,
) -> Export:
    """Writes the folder `destination`, whole or not at all.

    formats: of `conversions.FORMATS`. location: of the study's trials, where it holds secrets and so must be
    named again (`study.storage_path`). Raises UserError, before anything is written, where there is no such
    study, arm or finished replicate, where its weights are not there any more, where the data set is another
    one now, or where `destination` exists.
    """
    refuse_existing(destination)
    conversions.require(formats)
    folder = home.existing(name)
    study = folder.frozen()
    assert study is not None
    answer = ending.answer_of(study, folder)
    chosen = _arm(study, answer, arm)
    row = _replicate(chosen.name, folder, replicate)
    place = storage_path.of(folder, location).child(name)
    weights = _weights(trial_folder(place, row.key), row.key)
    dataset = _data(study, home, row)
    about = describe(study, row, dataset)
    own = _of_replicate(study, folder, row)
    with draft_for(destination) as draft:
        converted = _convert(about, weights, draft, formats)
        card = model_card.text(study, about, chosen, own, answer, converted)
        exported.write(draft, about, weights, card, conversions=converted.files)
        appear(draft, destination)
    return Export(
        path=destination, study=study, arm=chosen, row=row, ranked=arm is None,
        differences={name: facts["greatest_difference"] for name, facts in converted.files.items()},
        left_out=converted.left_out,
    )  # fmt: skip


def _arm(study: Study, answer: Answer, name: str | None) -> ArmAnswer:
    arms = {arm.name: arm for arm in answer.arms}
    if name is not None:
        if name not in arms:
            known = ", ".join(arms)
            raise UserError(f"Study {study.name} has no arm {name!r}.{nearest(name, arms)} Arms: {known}.")
        return arms[name]
    best: ArmAnswer | None = None
    for arm in answer.arms:
        if arm.replicates and (best is None or is_better(arm.mean, best.mean, study.metric)):
            best = arm
    if best is None:
        problem = answer.all_failed or " ".join(answer.problems)
        raise UserError(
            f"A model comes from a finished confirmation, and study {study.name} has none ({problem}); run "
            f"`python -m study run {study.name}` to its answer."
        )
    return best


def _replicate(arm: str, folder: StudyFolder, number: int | None) -> TrialRow:
    """The first finished replicate of the arm's configuration, or the one of that number."""
    rows = [row for row in confirmations(arm, folder.ledger.trials()) if row.state == "finished"]
    finished = {row.number: row for row in sorted(rows, key=lambda row: row.number)}
    listed = ", ".join(map(str, finished)) or "none"
    if number is None and finished:
        return next(iter(finished.values()))
    if number is None or number not in finished:
        raise UserError(
            f"A model comes from a finished replicate, and of arm {arm!r} these are: {listed}; "
            + ("run the study to its end." if number is None else f"--replicate {number} is none of them.")
        )
    return finished[number]


def _weights(folder: Store, key: str) -> dict[str, Tensor]:
    """Those that were tested: the kept ones, where the protocol keeps the best by validation."""
    way_out = "name another --replicate, or train more with `python -m study extend`"
    shown = folder.shown(CHECKPOINT)
    try:
        checkpoint = saved.read(folder.hasty(), CHECKPOINT, "cpu", key)
    except OSError as error:
        raise UserError(f"{shown} cannot be read ({error.strerror or error}); {way_out}.") from error
    except StoreAwayError as error:
        raise UserError(f"{shown} cannot be read ({error.reason}); {way_out}.") from error
    except saved.DamagedError as error:
        raise UserError(f"{error}, or an earlier version without seals wrote it; {way_out}.") from error
    if checkpoint is None:
        raise UserError(f"The weights of trial {key} are gone: there is no {shown}; {way_out}.")
    training = checkpoint["training"]
    weights: dict[str, Tensor] = training["net"] if training["kept"] is None else training["kept"]["weights"]
    return weights


def _data(study: Study, home: Home, row: TrialRow) -> Dataset:
    """The data set of a trial: its classes, its licence, and how its images were prepared."""
    dataset, _ = datasets.open_data(study.data, home)
    trained_on = _trial(row).data.fingerprint
    if dataset.fingerprint != trained_on:
        raise UserError(
            f"{study.data.dataset} must be the data set that the study was trained on, but its fingerprint "
            f"is {dataset.fingerprint}, not {trained_on}; put the old file back."
        )
    return dataset


def _trial(row: TrialRow) -> Trial:
    try:
        return Trial.from_dict(row.details["trial"])
    except (LookupError, TypeError) as error:
        raise UserError(
            f"Trial {row.key} of arm {row.arm!r} was written down by another version of the program "
            f"({error}); export it with that one, or run the study again in another --home."
        ) from error


def describe(study: Study, row: TrialRow, dataset: Dataset) -> Description:
    """Everything that prediction needs, of one trial."""
    trial, metadata = _trial(row), dataset.metadata
    facts = {name: metadata[name] for name in DATASET_FACTS if name in metadata}
    return Description(
        study=study.name,
        arm=row.arm,
        method=trial.method,
        replicate=row.number,
        seed=row.seed,
        fold=row.fold,
        key=row.key,
        network=trial.network,
        network_settings=dict(trial.network_settings),
        class_names=dataset.class_names,
        size=trial.data.size,
        trained_shape=dataset.shape,
        spacing_mm=_spacing(dataset),
        edge_filter=trial.protocol.edge_filter,
        precision=trial.protocol.precision,
        preparation=preparation.recorded(metadata),
        image_scaling=metadata.get("image_scaling", "not stated"),
        dataset={
            "name": metadata.get("dataset", dataset.name),
            "fingerprint": dataset.fingerprint,
            "merge_foreground": str(trial.data.merge_foreground),
            "licence": "not stated",
            **facts,
        },
        versions={"numerics": str(NUMERICS), "torch": torch.__version__, "python": platform.python_version()},
    )


def _spacing(dataset: Dataset) -> tuple[float, float, float] | None:
    """Median of the stored slices, in mm."""
    spacing = dataset.spacing_mm if dataset.stored is None else dataset.stored.spacing_mm
    known = spacing[~np.isnan(spacing).any(axis=1)]
    if not len(known):
        return None
    row, column, between = (round(float(value), 4) for value in np.median(known, axis=0))
    return row, column, between


def _of_replicate(study: Study, folder: StudyFolder, row: TrialRow) -> ArmAnswer:
    """The answer of this one training alone: what these very weights reached on the test cases."""
    cases = [
        c for c in folder.ledger.cases() if (c.key, c.replicate, c.arm) == (row.key, row.number, row.arm)
    ]
    alone = answers.build(study.name, study.metric, [row.arm], [], 1, [row], cases)
    return alone.arms[0]


def _convert(
    about: Description, weights: dict[str, Tensor], folder: Path, formats: Sequence[str]
) -> conversions.Converted:
    if not formats:
        return conversions.Converted({}, {})
    net = about.build()
    net.load_state_dict(weights)
    return conversions.convert(net, about.trained_shape, folder, formats)


def facts_of(done: Export) -> dict[str, Any]:
    """For tags of the registry."""
    return {
        "study.name": done.study.name, "study.arm": done.row.arm, "study.key": done.row.key,
        "study.replicate": done.row.number,
    }  # fmt: skip


def sentences(done: Export) -> list[str]:
    """What the terminal says of an export."""
    study, arm = done.study, done.arm
    value = answers.estimate(arm.mean, arm.low, arm.high)
    times = f"{arm.replicates} replicates" if arm.replicates > 1 else "1 replicate"
    why = "the arm that the answer ranks best" if done.ranked else "as asked"
    out = [
        f"Exported {arm.name!r} ({why}: test {study.metric} {value} over {times}), "
        f"replicate {done.row.number}, to {done.path}."
    ]
    out += [
        f"{name}: its outputs differ from the network's by {difference:.2g} at most."
        for name, difference in done.differences.items()
    ]
    out += [f"{name} was left out: {why}" for name, why in done.left_out.items()]
    return out
