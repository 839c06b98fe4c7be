"""`study.load`: rows and columns of its tables, what is said about mistakes, and what its import costs."""

import dataclasses
import html
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pandas import NaT

import study
from search_spaces import UserError
from study import ending, frames
from study.api import StoredStudy
from study.home import Home
from study.results import CaseRow, TrialRow
from tests.finished import CASES, finish
from tests.unit.study.conftest import DISCRETE, DIVERGING, SEARCHED, a_study

TABLES = {
    "answer": frames.ANSWER,
    "pairs": frames.PAIRS,
    "structures": frames.STRUCTURES,
    "arms": frames.ARMS,
    "trials": frames.TRIALS,
    "curves": frames.CURVES,
    "cases": {"in_answer": "bool", **{field.name: None for field in dataclasses.fields(CaseRow)}},
}
TOY = a_study(trials=6)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    finish(folder, TOY)
    return folder


@pytest.fixture(scope="module")
def toy(home):
    return study.load("toy", home)


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """Frozen, and nothing has ended."""
    folder = tmp_path_factory.mktemp("empty")
    Home.at(str(folder)).study("toy").freeze(TOY)
    return study.load("toy", folder)


def test_answer_is_the_one_that_report_prints(home, toy):
    made = ending.answer_of(TOY, Home.at(str(home)).study("toy"))
    table = toy.answer().set_index("arm")
    for arm in made.arms:
        row = table.loc[arm.name]
        for name in ("mean", "low", "high", "replicates", "cases", "annotation_seconds", "seconds"):
            np.testing.assert_equal(row[name], getattr(arm, name))
    assert list(table.index) == [arm.name for arm in TOY.arms]
    assert toy.problems == made.problems
    assert not toy.complete  # one arm always diverges


def test_pairs_are_those_with_shared_cases_and_read_as_sentences(toy):
    (pair,) = toy.pairs().itertuples()
    assert (pair.a, pair.b, pair.cases) == (SEARCHED, DISCRETE, CASES)
    assert pair.verdict == f"{DISCRETE} better than {SEARCHED}"
    assert toy.sentences == (pair.sentence,)
    assert pair.sentence.startswith(f"{DISCRETE} is better than {SEARCHED} by 0.09")


def test_a_case_is_a_row_for_every_trial_and_averages_to_the_answer(toy):
    cases = toy.cases()
    assert len(cases) == 2 * 2 * CASES  # arms that were confirmed, replicates
    assert cases["in_answer"].all()
    means = cases.groupby(["arm", "case_id"])["dice"].mean().groupby("arm").mean()
    assert means[DISCRETE] == pytest.approx(toy.answer().set_index("arm").loc[DISCRETE, "mean"])


def test_a_trial_is_a_row_and_its_parameters_are_columns(toy):
    trials = toy.trials()
    assert trials.duplicated(["arm", "phase", "number"]).sum() == 0
    assert (trials["started"].dt.year >= 2024).all()
    searched = trials[trials["arm"] == SEARCHED]
    assert searched["params_statistic_weight"].notna().all()
    assert trials.loc[trials["arm"] == DISCRETE, "params_statistic_weight"].isna().all()
    standing = trials[trials["in_answer"]]
    assert set(standing["arm"]) == {SEARCHED, DISCRETE}
    assert set(standing["phase"]) == {"confirm"}
    assert sorted(set(standing["seed"])) == [1001, 1002]


def test_curves_are_reports_of_trials(toy):
    curves, trials = toy.curves(), toy.trials()
    last = curves.groupby(["arm", "phase", "number"]).last()
    finished = trials[trials["state"] == "finished"].set_index(["arm", "phase", "number"])
    assert set(finished.index) <= set(last.index)
    assert last.loc[finished.index, "dice"].to_numpy() == pytest.approx(finished["value"].to_numpy())


def test_arms_say_what_they_are_and_what_was_confirmed(toy):
    arms = toy.arms().set_index("arm")
    own = arms.loc[SEARCHED]
    assert (own["method"], own["pixels"], own["pixel_budget"]) == ("summary_statistics", "fg_points", 5)
    assert (own["statistics"], own["planned_trials"]) == ("area", 6)
    assert own["search_finished"] + own["search_pruned"] + own["search_diverged"] + own["search_failed"] == 6
    trials = toy.trials()
    full = trials[trials["arm"] == SEARCHED].query("phase == 'search' and state == 'finished'")
    assert own["best_validation"] == full["value"].max()
    best = full.loc[full["value"].idxmax()]
    assert own["params_learning_rate"] == best["params_learning_rate"]
    assert arms.loc[DIVERGING, "search_diverged"] >= 5  # a trial may be stopped before it diverges
    assert np.isnan(arms.loc[DIVERGING, "best_validation"])


def test_replicates_of_an_earlier_selection_are_not_in_the_answer(tmp_path):
    """As after `extend`, whose search found something better."""
    few = a_study(arms=TOY.arms[:1], trials=1)
    finish(tmp_path, few)
    folder = finish(tmp_path, dataclasses.replace(few, search=dataclasses.replace(few.search, trials=12)))
    loaded = study.load("toy", tmp_path)
    confirmed = loaded.trials().query("phase == 'confirm'")
    assert confirmed["in_answer"].value_counts().to_dict() == {True: 2, False: 2}
    cases = loaded.cases()
    assert cases.groupby("in_answer").size().to_dict() == {True: 2 * CASES, False: 2 * CASES}
    assert set(cases[cases["in_answer"]]["key"]) == set(confirmed[confirmed["in_answer"]]["key"])
    assert len(folder.ledger.cases()) == len(cases)


@pytest.mark.parametrize("table", TABLES)
def test_columns_and_types_are_the_same_without_rows(toy, empty, table):
    full, bare = getattr(toy, table)(), getattr(empty, table)()
    columns = list(TABLES[table])
    assert list(bare.columns) == columns
    assert list(full.columns[: len(columns)]) == columns
    assert [full[c].dtype for c in columns] == [bare[c].dtype for c in columns]
    assert len(bare) == (3 if table in ("answer", "arms") else 0)


@pytest.mark.parametrize("table", TABLES)
def test_every_column_is_documented(table):
    text = getattr(StoredStudy, table).__doc__
    documented = set(re.findall(r"\w+", text))
    assert set(TABLES[table]) - documented == set()


def test_a_study_with_nothing_finished_says_so(empty):
    assert not empty.complete
    assert empty.sentences == ()
    assert len(empty.problems) == 3
    assert repr(empty) == "<study 'toy': 3 arms, 0 trials, provisional>"
    assert "0 of 2 confirmation replicates have finished" in empty._repr_html_()
    assert empty.answer()["mean"].isna().all()


def test_notebook_shows_the_answer_and_escapes_names(tmp_path):
    name = "<img src=x onerror=alert(1)>"
    arms = (dataclasses.replace(TOY.arms[0], name=name), TOY.arms[1])
    finish(tmp_path, dataclasses.replace(a_study(arms=arms, trials=1), question="Is <b> bold?"))
    shown = study.load("toy", tmp_path)._repr_html_()
    assert name not in shown
    assert html.escape(name) in shown
    assert "Is &lt;b&gt; bold?" in shown
    assert "is better than" in shown
    assert "2/2" in shown


def test_watched_quantities_are_columns(tmp_path):
    finish(tmp_path, dataclasses.replace(a_study(arms=TOY.arms[:1], trials=1), watch=("iou",)))
    (row,) = study.load("toy", tmp_path).answer().itertuples()
    assert 0 < row.iou_low < row.iou < row.iou_high < row.mean


def test_home_is_the_environments(home, monkeypatch):
    monkeypatch.setenv("STUDY_HOME", str(home))
    assert study.load("toy").question == TOY.question
    assert study.load("toy").spec == TOY


def test_unknown_study(home):
    sentence = f"No study 'toi' was started in {home}. Did you mean 'toy'?"
    with pytest.raises(UserError, match=re.escape(sentence)):
        study.load("toi", home)


@pytest.mark.parametrize("kind", ["trials", "cases"])
def test_ledger_cut_in_half(tmp_path, kind):
    folder = finish(tmp_path, a_study(arms=TOY.arms[:1], trials=1))
    path = sorted((folder.path / "ledger").glob(f"*{kind}.parquet"))[-1]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=f"The ledger file {path} is damaged .* restore it from a copy"):
        study.load("toy", tmp_path)


def test_damaged_definition(tmp_path):
    folder = finish(tmp_path, a_study(arms=TOY.arms[:1], trials=1))
    (folder.path / "spec.json").write_text("{")
    with pytest.raises(UserError, match="A study must be JSON, but it is damaged"):
        study.load("toy", tmp_path)


def test_a_table_is_the_readers_own(toy):
    first = toy.trials()
    first["value"] = 0.0
    assert (toy.trials()["value"] != 0).any()


def test_import_is_light_and_reading_needs_neither_ray_nor_mlflow(home):
    code = (
        "import sys, study\n"
        "heavy = {'torch', 'ray', 'mlflow', 'optuna', 'pandas', 'numpy', 'pyarrow', 'scipy', 'trainables'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        f"study.load('toy', {str(home)!r}).answer()\n"
        "assert not {'ray', 'mlflow', 'optuna', 'matplotlib'} & set(sys.modules)\n"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_trial_that_runs_has_no_end(tmp_path):
    folder = Home.at(str(tmp_path)).study("toy")
    folder.freeze(TOY)
    folder.ledger.append(
        TrialRow(
            key="k", arm=SEARCHED, phase="search", number=0, state="running", value=None, seed=0, fold=0,
            parameters={}, iterations=0, seconds=0.0, annotation_seconds=5.0, started=1.8e9,
        )
    )  # fmt: skip
    (trial,) = study.load("toy", tmp_path).trials().itertuples()
    assert (trial.state, str(trial.started)) == ("running", "2027-01-15 08:00:00+00:00")
    assert trial.finished is NaT
    assert np.isnan(trial.value)
