"""The best, the median and the worst test case of every arm, and what its training images were told."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dashboards import case_pictures, gallery_tables, markup
from dashboards.drawing import escape
from dashboards.gallery_tables import ShownCase, ShownTrial
from dashboards.source import Source
from dashboards.tables import quality_label
from study.results import CaseRow
from trainables import gallery
from trainables.gallery import GALLERY, GalleryError, Picture
from trainables.legend import ERROR_COLOURS, class_colour

ORDER = 800
TITLE = "Best, median and worst cases"

BUDGET = 2_000_000
"""Characters that the pictures may take, of a page of five million."""
FEW_ARMS = 16
SIDES = (224, 128)
"""Pixels of a picture's longer side, with few arms and with many."""
SAMPLES = "samples.png"
"""What trials of earlier releases left: evenly spaced images."""
SAMPLES_SIDE = 1000
_GRID = "display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,30rem),1fr));gap:0 1.6rem"


def html(source: Source) -> str:
    shown = gallery_tables.shown_trials(source.trials, source.cases, source.answer)
    if not shown:
        return ""
    metric = quality_label(source.answer).partition(",")[0]
    parts = [
        markup.paragraph(
            f"The test cases with the best, median and worst {metric} of each arm's first finished "
            "replicate; of a volume the slice with the most foreground in the truth, or else in the "
            "prediction. Truth and prediction as they were judged, over the image as the network saw it."
        ),
        _legend(source.cases),
    ]
    side = SIDES[len(shown) > FEW_ARMS]
    left_out, used = [], 0
    for trial in shown:
        body = _arm(trial, source.folder, metric, side)
        if used + len(body) > BUDGET:
            left_out.append(trial.arm)
            continue
        used += len(body)
        parts.append(body)
    if left_out:
        sentence = f"To keep the page small, the pictures of these arms are left out: {', '.join(left_out)}."
        parts.append(markup.paragraph(f"{sentence} They lie in the folders of their trials.", "note"))
    return "".join(parts)


def _legend(cases: Sequence[CaseRow]) -> str:
    names = dict(sorted({row.class_id: row.class_name for row in cases}.items()))
    marks = [(class_colour(class_id), name) for class_id, name in names.items()]
    marks += [(colour, f"error: {kind}") for kind, colour in ERROR_COLOURS.items()]
    return "<p>" + " ".join(_mark(colour, name) for colour, name in marks) + "</p>"


def _mark(colour: str, name: str) -> str:
    box = f'<rect width="10" height="10" fill="{colour}"/>'
    box = f'<svg viewBox="0 0 10 10" width="12" height="12" aria-hidden="true">{box}</svg>'
    return f'<span style="white-space:nowrap;margin-right:1.2em">{box} {escape(name)}</span>'


def _arm(trial: ShownTrial, folder: Path, metric: str, side: int) -> str:
    fold = f", fold {trial.fold}" if trial.fold else ""
    heading = f"<h3>{escape(trial.arm)}</h3>"
    which = f"Replicate {trial.number}, seed {trial.seed}{fold}."
    if trial.undefined:
        which += f" Not placed: {trial.undefined} cases without a defined {metric}."
    own = folder / "trials" / trial.key
    try:
        pictures = gallery.read(own / GALLERY)
    except FileNotFoundError:
        return heading + _as_text(trial, metric) + _older(own)
    except (GalleryError, OSError) as error:
        return heading + _as_text(trial, metric) + markup.paragraph(f"No pictures: {error}", "warning")
    tested = {picture.case_id: picture for picture in pictures if picture.role != gallery.TRAIN}
    figures = [_case(trial, case, tested.get(case.case_id), metric, side) for case in trial.shown]
    figures += [_taught(trial, picture, side) for picture in pictures if picture.role == gallery.TRAIN]
    return heading + markup.paragraph(which, "note") + f'<div style="{_GRID}">{"".join(figures)}</div>'


def _case(trial: ShownTrial, case: ShownCase, picture: Picture | None, metric: str, side: int) -> str:
    words = _words(trial, case, metric)
    if picture is None:
        return markup.paragraph(f"{words} The trial left no picture of this case.", "note")
    return markup.figure(
        case_pictures.strip(picture, f"{trial.arm}: {words}", side=side), f"{words} {_where(picture)}"
    )


def _words(trial: ShownTrial, case: ShownCase, metric: str) -> str:
    role = gallery_tables.role_name(case.role, trial.cases)
    scored = "; ".join(gallery_tables.structure_phrases(case.structures))
    return f"{role[0].upper()}{role[1:]}: {case.case_id}, {metric} {case.value:.3g} ({scored})."


def _where(picture: Picture) -> str:
    height, width = picture.judged
    size = f"judged at {height} × {width} pixels"
    if picture.slices == 1:
        return f"Image {picture.image_id}, {size}."
    return f"Slice number {picture.slice_index} of {picture.slices} slices ({picture.image_id}), {size}."


def _taught(trial: ShownTrial, picture: Picture, side: int) -> str:
    words = f"Training image {picture.image_id}: what was labelled, and what was learned of it."
    return markup.figure(case_pictures.strip(picture, f"{trial.arm}: {words}", side=side), words)


def _as_text(trial: ShownTrial, metric: str) -> str:
    return markup.items([_words(trial, case, metric) for case in trial.shown])


def _older(folder: Path) -> str:
    """Of a trial of an earlier release: what it left, or that it left nothing."""
    try:
        uri = case_pictures.thumbnail((folder / SAMPLES).read_bytes(), SAMPLES_SIDE)
    except (OSError, ValueError):
        sentence = f"No pictures: the folder of trial {folder.name} holds neither {GALLERY} nor {SAMPLES}."
        return markup.paragraph(sentence, "note")
    caption = (
        "Its trial is of an earlier release, which left evenly spaced images, not the cases named above."
    )
    return markup.details("Sample pictures", markup.figure(f'<img src="{uri}" alt="">', caption))
