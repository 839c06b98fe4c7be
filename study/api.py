"""What `study.load` returns: one study that was run, as tidy tables for notebooks and scripts."""

from __future__ import annotations

import dataclasses
import functools
import html
import os
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike

import pandas as pd
import pyarrow as pa

from study import conclusion, frames
from study.answer import estimate, summary_sentences
from study.conclusion import Answer, ArmAnswer
from study.home import Home
from study.results import CaseRow, TrialRow
from study.spec import Study

DEFAULT_HOME = "runs"


def load(name: str, home: str | PathLike[str] | None = None) -> StoredStudy:
    """See `study.load`."""
    given = os.environ.get("STUDY_HOME", DEFAULT_HOME) if home is None else os.fspath(home)
    folder = Home.at(given).existing(name)
    spec = folder.frozen()
    assert spec is not None  # `existing` has seen it
    return StoredStudy(spec, tuple(folder.ledger.trials()), folder.ledger.case_table())


@dataclass(frozen=True, eq=False, repr=False)
class StoredStudy:
    """A study as it was when it was loaded; load it again to see what a running one has added.

    Every table is a new pandas DataFrame, one row an observation. Where nothing was measured yet, numbers are
    NaN, and tables of what has not happened have no rows, but all their columns. Validation scores are of the
    metric `spec.metric`; Dice and IoU lie in [0, 1].
    """

    spec: Study
    """The frozen definition: arms, search, replicates, protocol, data."""
    _trials: Sequence[TrialRow]
    _cases: pa.Table

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def question(self) -> str:
        """What the study asks, in a sentence."""
        return self.spec.question

    @property
    def complete(self) -> bool:
        """Whether every arm has all its replicates; the answer is provisional before that."""
        return self._answer.complete

    @property
    def problems(self) -> tuple[str, ...]:
        """What is missing of the answer, a sentence for each arm that lacks replicates."""
        return self._answer.problems

    @property
    def sentences(self) -> tuple[str, ...]:
        """The answer in words: one for each row of `pairs()`, and one more where arms were trained once."""
        return summary_sentences(self._answer)

    def answer(self) -> pd.DataFrame:
        """What each arm reached on the test split: the table that `python -m study report` prints.

        One row an arm, in the study's order. Columns:
            arm: its name.
            metric: the study's metric, of which are
            mean, low, high: mean over test cases with its 95 % BCa bootstrap interval; a case's value is the
                mean over its structures and volumes, then over replicates.
            replicates, planned: finished trainings of the confirmation, and how many there shall be.
            cases: test cases behind the mean.
            missed_rate: share, in [0, 1], of structures in the truth of which no pixel was predicted.
            seed_sd: standard deviation of the metric over replicates; NaN below two.
            hd95: mean 95th percentile of the surface distance, in
            hd95_unit: "mm", or "px" where the spacing is unknown.
            hd95_undefined: structures without an HD95 (both masks empty), which are not in its mean.
            area_error: mean of |predicted - true| area as a fraction of all pixels.
            annotation_seconds: annotator's time in seconds for the whole training set.
            seconds: training time of all trials of the arm in seconds, search included.
            step_seconds: seconds of one training step, without validation and test.
        and NAME, NAME_low, NAME_high for each NAME in `spec.watch`.
        """
        return frames.answer(self._answer)

    def pairs(self) -> pd.DataFrame:
        """The comparisons that the study asks for, over the test cases that both arms scored.

        One row a pair, once both arms were tested. Columns:
            a, b: names of the arms.
            metric: the study's metric.
            difference, low, high: mean paired difference a - b with its 95 % interval, in the metric's unit.
            p: of Wilcoxon's signed-rank test, after Holm's correction over the pairs of the study.
            effect: matched-pairs rank-biserial correlation, in [-1, 1].
            cases: shared test cases.
            verdict: "A better than B", "not separated" or "too few cases".
            sentence: the same in a sentence with its numbers.
        """
        return frames.pairs(self._answer)

    def structures(self) -> pd.DataFrame:
        """What each arm reached on each structure (class) of the test cases.

        One row an arm and structure. Columns:
            arm, structure: names.
            metric: the study's metric, of which are
            mean, low, high: mean over cases with its 95 % interval.
            hd95, hd95_low, hd95_high: the same of the HD95, in the unit that `answer()` names.
            cases: test cases behind the mean.
        """
        return frames.structures(self._answer)

    def arms(self) -> pd.DataFrame:
        """What each arm is, how its search went, and the configuration that was confirmed.

        One row an arm, in the study's order; merge it with `answer()` on "arm" for what it reached. Columns:
            arm: its name.
            method: file of `trainables/methods`.
            pixels: what is labelled: "none", "points", "fg_points", "scribble" or "dense".
            pixel_budget: labelled pixels per class and image, of points.
            labelled_images: training images with labelled pixels; NaN means every one.
            statistics: names of the numbers known of every image, joined by ", ".
            pretraining: method of the training that its trials start from, or "".
            searched: names of the searched hyper-parameters, joined by ", ".
            planned_trials: trials that its search shall have.
            search_finished, search_pruned, search_diverged, search_failed: trials of its search by how they
                ended.
            best_validation: best validation value of a trial that reached full length.
        and params_NAME for each searched hyper-parameter NAME: the confirmed value, missing where the arm
        does not search it or nothing is confirmed yet.
        """
        return frames.arms(self.spec, self._trials)

    def trials(self) -> pd.DataFrame:
        """Every training of the study.

        One row a trial, in the order of their first appearance. Columns:
            arm: its name; "pre-training" for the trainings that arms start from.
            phase: "search" (judged on the validation split), "confirm" (fresh seeds, test split) or
                "pretrain".
            number: of the trial in its arm's search, or of the replicate.
            state: "finished", "pruned" (stopped early), "diverged", "failed" or "running"; of a study whose
                driver was killed, "running" means that the same command continues it.
            in_answer: whether the answer stands on it: a finished replicate of the arm's configuration.
            value: validation metric at its end.
            seed, fold: of the training.
            iterations: training steps done.
            seconds: training time, validation and test included; 0 where the search proposed a configuration
                again, whose row has the key of the first.
            annotation_seconds: annotator's time in seconds for the training images.
            started, finished: UTC.
            failure: class of the failure, such as "out_of_memory", or "".
            reason: why it was pruned, diverged or failed, or "".
            key: hash of everything that decides the outcome; names the folder of its checkpoint and pictures.
        and params_NAME for each searched hyper-parameter NAME.
        """
        return frames.trials(self._trials, self._standing)

    def curves(self) -> pd.DataFrame:
        """The learning curves.

        One row a report of a trial. Columns:
            arm, phase, number, state, in_answer, seed, key: as in `trials()`.
            iteration: training steps done at the report.
            reported: UTC; NaT in ledgers of before that was kept.
        and what was measured there: the validation metric under its name, seconds and training_seconds since
        the start of the trial, loss_total and the terms of the loss (means since the last report).
        """
        return frames.curves(self._trials, self._standing)

    def cases(self) -> pd.DataFrame:
        """The test scores of every case.

        One row a trial, volume and structure. Columns:
            in_answer: whether the answer counts it: of a finished replicate of the arm's configuration.
            key, arm, phase, replicate, seed, fold: of the trial (replicate is its number).
            split: "test".
            case_id: patient or volume, the unit of all tests.
            volume_id: equal to case_id where a case has one volume.
            class_id, class_name: the structure.
            dice, iou: in [0, 1]; 1 where truth and prediction are both empty.
            hd95, hd95_max: 95th percentile of the surface distances, pooled and the larger of both
                directions, in
            distance_unit: "mm", or "px" where the spacing is unknown.
            area_error: |predicted - true| as a fraction of the volume's pixels.
            relative_area_error: |predicted - true| / true; NaN where the truth is empty.
            size_error: squared error of the object's size in px², mean over slices.
            missed: the truth is not empty, the prediction is.
            false_alarm: the prediction is not empty, the truth is.
            both_empty: neither holds a pixel.
        """
        return frames.cases(self._cases, self._standing)

    def __repr__(self) -> str:
        state = "complete" if self.complete else "provisional"
        return f"<study {self.name!r}: {len(self.spec.arms)} arms, {len(self._trials)} trials, {state}>"

    def _repr_html_(self) -> str:
        """Question, arms, verdicts and what is missing, for a notebook; every name is escaped."""
        heads = ("arm", f"{self.spec.metric} [95 %]", "runs", "cases", "missed")
        rows = ["".join(f"<td>{html.escape(cell)}</td>" for cell in _cells(arm)) for arm in self._answer.arms]
        missing = [f"Provisional. {problem}" for problem in self.problems]
        notes = [self._answer.all_failed] if self._answer.all_failed else [*missing, *self.sentences]
        return (
            f"<p><b>{html.escape(self.name)}</b>: {html.escape(self.question)}</p><table><thead><tr>"
            + "".join(f"<th>{html.escape(head)}</th>" for head in heads)
            + "</tr></thead><tbody>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</tbody></table><ul>"
            + "".join(f"<li>{html.escape(note)}</li>" for note in notes) + "</ul>"
        )  # fmt: skip

    @functools.cached_property
    def _answer(self) -> Answer:
        cases = [CaseRow(**record) for record in self._cases.to_pylist()]
        made = conclusion.of_study(self.spec, self._trials, cases)
        return dataclasses.replace(made, pairs=tuple(pair for pair in made.pairs if pair.cases))

    @functools.cached_property
    def _standing(self) -> frames.Standing:
        return frames.standing(self.spec, self._trials)


def _cells(arm: ArmAnswer) -> tuple[str, ...]:
    missed = "–" if arm.missed_rate != arm.missed_rate else f"{100 * arm.missed_rate:.1f} %"
    runs = f"{arm.replicates}/{arm.planned}"
    return arm.name, estimate(arm.mean, arm.low, arm.high), runs, str(arm.cases), missed
