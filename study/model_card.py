"""The model card of an exported network, as Markdown: what it is from, how good, for what not, how to use."""

from __future__ import annotations

import json
import math
from typing import Any

from study import answer as answers
from study import cards
from study.answer import Answer, ArmAnswer
from study.eta import duration
from study.spec import Study
from trainables.annotations import Annotation
from trainables.conversions import ONNX, TORCH_EXPORT, Converted
from trainables.exported import DESCRIPTION, WEIGHTS, Description
from trainables.metrics import METRICS

FEW_CASES = 50


def text(
    study: Study, about: Description, arm: ArmAnswer, own: ArmAnswer, answer: Answer, converted: Converted
) -> str:
    """arm: what the arm reached over all replicates; own: what the exported weights alone reached."""
    parts = [
        _head(study, about),
        _data(about),
        _annotation(study, about, arm),
        _metrics(study, arm, own, answer),
        _limits(study, about, own),
        _use(about, converted),
        _origin(about),
    ]
    return "\n".join(line for part in parts for line in part)


def _head(study: Study, about: Description) -> list[str]:
    structures = ", ".join(map(plain, about.class_names[1:]))
    return [
        f"# {plain(study.name)}: {plain(about.arm)}",
        "",
        f"A {about.network} that segments {structures} in single slices of one channel. It is the confirmed "
        f"network of one arm of a study that asked: *{plain(study.question)}*",
        "",
    ]


def _data(about: Description) -> list[str]:
    facts = about.dataset
    further = [name for name in ("redistribution", "source", "citation", "modality") if name in facts]
    height, width = about.trained_shape
    rows = [
        ("data set", facts["name"]),
        ("licence of the data", facts["licence"]),
        *((name, facts[name]) for name in further),
        ("classes", ", ".join(f"{index} {name}" for index, name in enumerate(about.class_names))),
        ("images", f"slices of {height} x {width} pixels{_resized(about)}, {_spacing(about)}"),
        ("intensities", f"{about.image_scaling}; the network gets {about.intensity}"),
        ("fingerprint", facts["fingerprint"]),
    ]
    return ["## Data", "", "| | |", "|---|---|", *(f"| {name} | {plain(text)} |" for name, text in rows), ""]


def _resized(about: Description) -> str:
    return "" if about.size is None else " (resized; masks come back at the size of the input)"


def _spacing(about: Description) -> str:
    if about.spacing_mm is None:
        return "of unknown spacing"
    row, column, between = about.spacing_mm
    return f"{row:g} x {column:g} mm a pixel and {between:g} mm between slices in the median"


def _annotation(study: Study, about: Description, arm: ArmAnswer) -> list[str]:
    given = study.arm(about.arm)
    return [
        "## Annotation and training",
        "",
        f"* Annotation of the training images: {plain(cards.annotation(given.annotation))}; "
        f"{duration(arm.annotation_seconds)} of an annotator's time by the study's price list. "
        + _annotator(given.annotation),
        f"* Method: `{about.method}`; selected on the validation split: {plain(_parameters(arm))}.",
        f"* These weights: replicate {about.replicate} (seed {about.seed}, fold {about.fold}) of "
        f"{arm.replicates}, "
        + (
            "the last ones of the training."
            if study.protocol.keep == "last"
            else "the best ones by validation."
        ),
        "",
    ]


def _annotator(annotation: Annotation) -> str:
    drawn = "The scribbles are those of the data set" if annotation.pixels == "scribble" else ""
    simulated = "an annotator is simulated from the data set's masks"
    if not drawn:
        return f"{simulated[0].upper()}{simulated[1:]}."
    return f"{drawn}; what else is given, {simulated} for." if annotation.statistics else f"{drawn}."


def _parameters(arm: ArmAnswer) -> str:
    chosen = (f"{name} = {_number(value)}" for name, value in arm.parameters.items())
    return ", ".join(chosen) or "nothing was searched"


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _metrics(study: Study, arm: ArmAnswer, own: ArmAnswer, answer: Answer) -> list[str]:
    metric = study.metric
    unit = f" [{arm.hd95_unit}]" if arm.hd95_unit else ""
    lines = [
        "## Metrics",
        "",
        f"On {own.cases} test cases that neither training nor selection saw; mean over cases with its 95 % "
        "interval (BCa bootstrap). *Missed* is the share of structures present of which no pixel was found.",
        "",
        f"| | {metric} | HD95{unit} | missed |",
        "|---|---|---|---|",
    ]
    of_arm = [(f"mean of {arm.replicates} replicates", arm)] if arm.replicates > 1 else []
    for who, one in [("these weights", own), *of_arm]:
        lines += [
            f"| {who}, {plain(part.name)} | {_interval(part.score)} | {_interval(part.hd95)} | |"
            for part in one.structures
        ]
        value = answers.estimate(one.mean, one.low, one.high)
        lines.append(f"| {who}, all structures | {value} | {_plain_number(one.hd95)} | {_share(one)} |")
    better = "higher is better" if METRICS[metric] else "lower is better"
    lines += ["", f"{metric}: {better}. Against the other arms of the study:", ""]
    sentences = answers.summary_sentences(answer)
    lines += [f"* {plain(sentence)}" for sentence in sentences] or ["* There is none."]
    if answer.problems:
        lines += ["", "The study is not complete: " + plain(" ".join(answer.problems))]
    return [*lines, ""]


def _interval(value: Any) -> str:
    return answers.estimate(value.mean, value.low, value.high)


def _plain_number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1f}"


def _share(arm: ArmAnswer) -> str:
    return "–" if math.isnan(arm.missed_rate) else f"{100 * arm.missed_rate:.1f} %"


def _limits(study: Study, about: Description, own: ArmAnswer) -> list[str]:
    few = f"; {own.cases} are few" if own.cases < FEW_CASES else ""
    lines = [
        "## What it is not for",
        "",
        "* No medical device: not for diagnosis, treatment or any decision about a patient.",
        "* Other scanners, protocols, populations or views than those of the data set: nothing was measured "
        "there, and such networks fail silently.",
        "* Images without the anatomy that it was trained on: it names one of its classes for every pixel.",
        f"* The intervals speak about the cases of one test split{few}, not about other hospitals.",
        "* It sees one slice at a time: masks of neighbouring slices need not fit together.",
    ]
    if about.preparation is None:
        lines.append(
            "* The data set does not record how volumes became slices: say it with `--intensities` and "
            "`--orientation`, else only 8-bit images are taken, as axial slices."
        )
    if "phantom" in about.dataset["name"].lower() or study.data.dataset.startswith("phantoms"):
        lines.append("* It was trained on generated phantoms: it knows nothing about real images.")
    return [*lines, ""]


def _use(about: Description, converted: Converted) -> list[str]:
    lines = [
        "## How to use it",
        "",
        "    python -m study predict THIS_FOLDER image.nii.gz mask.nii.gz",
        "    python -m study predict THIS_FOLDER folder_of_png masks",
        "    python -m study predict THIS_FOLDER slices.parquet predicted.parquet",
        "",
        f"`{WEIGHTS}` holds the weights (safetensors), `{DESCRIPTION}` all that prediction needs. There "
        "is no pickle in this folder.",
        "",
    ]
    shape = " x ".join(map(str, about.trained_shape))
    for name, facts in converted.files.items():
        lines += [
            f"`{name}`: intensities [B, 1, {shape}] in [0, 1] to logits "
            f"[B, {len(about.class_names)}, {shape}], without preparation, resizing and argmax; "
            f"greatest difference from the network "
            f"{facts['greatest_difference']:.2g}.{_warning(name)}",
            "",
        ]
    for name, why in converted.left_out.items():
        lines += [f"`{name}` was left out: {plain(why)}", ""]
    return lines


def _warning(name: str) -> str:
    if name == TORCH_EXPORT:
        return (
            f" It holds no pickle, but `torch.export.load` would run one that somebody put there: compare "
            f"its digest with `{DESCRIPTION}` first."
        )
    return " Any ONNX runtime reads it." if name == ONNX else ""


def _origin(about: Description) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in about.versions.items())
    settings = json.dumps(dict(about.network_settings))
    return [
        "## Origin",
        "",
        f"Study `{about.study}`, trial `{about.key}`; network `{about.network}` {plain(settings)}; "
        f"{versions}.",
        "",
    ]


def plain(text: str) -> str:
    """One line of Markdown in which nothing of the user's is a cell border, emphasis, link or tag."""
    return "".join(f"\\{c}" if c in "\\|`*_<>#[]" else c for c in " ".join(str(text).split()))
