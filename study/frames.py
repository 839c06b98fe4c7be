"""Rows of the ledger and of the answer as tidy pandas tables, with the same columns when empty. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa

from study.answer import summary_sentences
from study.conclusion import BACKGROUND, Answer, ArmAnswer, confirmations
from study.results import FINAL_STATES, TrialRow
from study.spec import Arm, Study, search_trials
from study.stats import Interval

Row = Mapping[str, Any]
Standing = frozenset[tuple[str, int, str]]
"""(arm, number, key) of the trials that an answer stands on."""

TEXT, COUNT, REAL, FLAG, TIME = "str", "int64", "float64", "bool", "datetime64[ns, UTC]"

ANSWER = {
    "arm": TEXT, "metric": TEXT, "mean": REAL, "low": REAL, "high": REAL, "replicates": COUNT,
    "planned": COUNT, "cases": COUNT, "missed_rate": REAL, "seed_sd": REAL, "hd95": REAL, "hd95_unit": TEXT,
    "hd95_undefined": COUNT, "area_error": REAL, "annotation_seconds": REAL, "seconds": REAL,
    "step_seconds": REAL,
}  # fmt: skip
STRUCTURES = {
    "arm": TEXT, "structure": TEXT, "metric": TEXT, "mean": REAL, "low": REAL, "high": REAL, "hd95": REAL,
    "hd95_low": REAL, "hd95_high": REAL, "cases": COUNT,
}  # fmt: skip
PAIRS = {
    "a": TEXT, "b": TEXT, "metric": TEXT, "difference": REAL, "low": REAL, "high": REAL, "p": REAL,
    "effect": REAL, "cases": COUNT, "verdict": TEXT, "sentence": TEXT,
}  # fmt: skip
ARMS = {
    "arm": TEXT, "method": TEXT, "pixels": TEXT, "pixel_budget": COUNT, "labelled_images": REAL,
    "statistics": TEXT, "pretraining": TEXT, "searched": TEXT, "planned_trials": COUNT,
    **{f"search_{state}": COUNT for state in FINAL_STATES}, "best_validation": REAL,
}  # fmt: skip
TRIALS = {
    "arm": TEXT, "phase": TEXT, "number": COUNT, "state": TEXT, "in_answer": FLAG, "value": REAL,
    "seed": COUNT, "fold": COUNT, "iterations": COUNT, "seconds": REAL, "annotation_seconds": REAL,
    "started": TIME, "finished": TIME, "failure": TEXT, "reason": TEXT, "key": TEXT,
}  # fmt: skip
CURVES = {
    "arm": TEXT, "phase": TEXT, "number": COUNT, "state": TEXT, "in_answer": FLAG, "seed": COUNT, "key": TEXT,
    "iteration": COUNT, "reported": TIME,
}  # fmt: skip


def answer(made: Answer) -> pd.DataFrame:
    """One row an arm: what it reached on the test cases."""
    rows = ({**_fields(arm), "metric": made.metric, **_watched(arm)} for arm in made.arms)
    return _frame(rows, ANSWER)


def _fields(arm: ArmAnswer) -> dict[str, Any]:
    return {"arm": arm.name} | {name: getattr(arm, name) for name in ANSWER if hasattr(arm, name)}


def _watched(arm: ArmAnswer) -> dict[str, float]:
    return {key: v for name, interval in arm.watched.items() for key, v in _interval(interval, name).items()}


def _interval(interval: Interval, name: str) -> dict[str, float]:
    return {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}


def structures(made: Answer) -> pd.DataFrame:
    """One row an arm and structure."""
    rows = (
        {
            "arm": arm.name, "structure": structure.name, "metric": made.metric, "cases": structure.score.n,
            "mean": structure.score.mean, "low": structure.score.low, "high": structure.score.high,
            **_interval(structure.hd95, "hd95"),
        }
        for arm in made.arms for structure in arm.structures
    )  # fmt: skip
    return _frame(rows, STRUCTURES)


def pairs(made: Answer) -> pd.DataFrame:
    """One row a pair of arms that the study compares."""
    sentences = summary_sentences(made)[: len(made.pairs)]
    rows = (
        {**{name: getattr(pair, name) for name in PAIRS if hasattr(pair, name)}, "metric": made.metric,
         "sentence": sentence}
        for pair, sentence in zip(made.pairs, sentences, strict=True)
    )  # fmt: skip
    return _frame(rows, PAIRS)


def arms(study: Study, rows: Sequence[TrialRow]) -> pd.DataFrame:
    """One row an arm: what it is, how its search went, and the configuration that was confirmed."""
    return _frame((_arm(study, arm, rows) for arm in study.arms), ARMS)


def _arm(study: Study, arm: Arm, rows: Sequence[TrialRow]) -> dict[str, Any]:
    search = [row for row in rows if row.arm == arm.name and row.phase == "search"]
    states = Counter(row.state for row in search)
    values = [row.value for row in search if row.state == "finished" and row.value is not None]
    confirmed = confirmations(arm.name, rows)
    return {
        "arm": arm.name,
        "method": arm.method,
        "pixels": arm.annotation.pixels,
        "pixel_budget": arm.annotation.pixel_budget,
        "labelled_images": arm.annotation.labelled_images,
        "statistics": ", ".join(arm.annotation.statistics),
        "pretraining": "" if arm.pretraining is None else arm.pretraining.method,
        "searched": ", ".join(arm.search),
        "planned_trials": search_trials(study, arm),
        **{f"search_{state}": states[state] for state in FINAL_STATES},
        "best_validation": (max if study.greater_is_better else min)(values, default=None),
        **_parameters(confirmed[-1].parameters if confirmed else {}),
    }


def _parameters(values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"params_{name}": value for name, value in values.items()}


def standing(study: Study, rows: Sequence[TrialRow]) -> Standing:
    """The finished confirmations of the configuration that each arm confirmed last."""
    return frozenset(
        (row.arm, row.number, row.key)
        for arm in study.arms for row in confirmations(arm.name, rows) if row.state == "finished"
    )  # fmt: skip


def trials(rows: Sequence[TrialRow], stands: Standing) -> pd.DataFrame:
    """One row a trial."""
    listed = ({**_trial(row, stands, TRIALS), **_parameters(row.parameters)} for row in rows)
    return _frame(listed, TRIALS)


def curves(rows: Sequence[TrialRow], stands: Standing) -> pd.DataFrame:
    """One row a report of a trial, with whatever was measured as columns."""
    points = ({**_trial(row, stands, CURVES), **point} for row in rows for point in row.curve)
    return _frame(points, CURVES)


def _trial(row: TrialRow, stands: Standing, columns: Mapping[str, str]) -> dict[str, Any]:
    own = {name: getattr(row, name) for name in columns if hasattr(row, name)}
    return own | {"in_answer": (row.arm, row.number, row.key) in stands}


def cases(table: pa.Table, stands: Standing) -> pd.DataFrame:
    """One row a trial, volume and structure, columns as `study.results.CaseRow` plus `in_answer`."""
    frame = table.to_pandas()
    identity = zip(frame["arm"], frame["replicate"], frame["key"], strict=True)
    own = pd.Series([one in stands for one in identity], index=frame.index, dtype=bool)
    structure = (frame["split"] == "test") & (frame["class_id"] != BACKGROUND) & (frame["phase"] == "confirm")
    frame.insert(0, "in_answer", own & structure)
    return frame


def _frame(rows: Iterable[Row], columns: Mapping[str, str]) -> pd.DataFrame:
    """The named columns with their types, then those that only some rows have, in order of appearance."""
    listed = list(rows)
    further = dict.fromkeys(name for row in listed for name in row if name not in columns)
    frame = pd.DataFrame({name: [row.get(name) for row in listed] for name in (*columns, *further)})
    for name in (name for name, kind in columns.items() if kind == TIME):
        unix = frame[name].astype(REAL)
        frame[name] = pd.to_datetime(unix.where(unix > 0), unit="s", utc=True)  # 0: it has not come yet
    return frame.astype(dict(columns))
