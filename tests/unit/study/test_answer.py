"""From ledger rows to the answer, by hand; what is left out; and the renderings as they are read."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from study.answer import Answer, PairAnswer, build, summary_sentences, to_json, to_markdown, to_table
from study.results import CaseRow, TrialRow


def trial(arm, number, state="finished", phase="confirm", **changes):
    settings = {
        "key": f"{arm}-{phase}-{number}",
        "value": 0.5,
        "seed": 1000 + number,
        "fold": 0,
        "parameters": {"weight": 0.1},
        "iterations": 100,
        "seconds": 60.0,
        "annotation_seconds": 5.8,
    }
    return TrialRow(arm=arm, phase=phase, number=number, state=state, **{**settings, **changes})


def case(arm, number, case_id, dice, **changes):
    settings = {
        "key": f"{arm}-confirm-{number}",
        "phase": "confirm",
        "seed": 1000 + number,
        "fold": 0,
        "split": "test",
        "volume_id": case_id,
        "class_id": 1,
        "class_name": "lesion",
        "iou": dice / (2 - dice),
        "hd95": 10 * (1 - dice),
        "hd95_max": 10 * (1 - dice),
        "distance_unit": "mm",
        "area_error": 1 - dice,
        "relative_area_error": 1 - dice,
        "size_error": 1 - dice,
        "missed": False,
        "false_alarm": False,
        "both_empty": False,
    }
    return CaseRow(arm=arm, replicate=number, case_id=case_id, dice=dice, **{**settings, **changes})


def answer_of(trials, cases, arms=("A",), pairs=(), metric="dice", replicates=1):
    return build("toy", metric, arms, pairs, replicates, trials, cases)


@pytest.fixture(scope="module")
def separated():
    """Two arms, two replicates, ten cases, the second better by about 0.2; names that need escaping."""
    rng = np.random.default_rng(0)
    trials, cases = [], []
    for arm, level in (("5 pixels [only]", 0.5), ("statistic | 5 *px*", 0.7)):
        for number in range(2):
            trials.append(trial(arm, number))
            cases += [case(arm, number, f"p{i}", level + rng.normal(0, 0.03)) for i in range(10)]
    arms = ("5 pixels [only]", "statistic | 5 *px*")
    return answer_of(trials, cases, arms, [arms], replicates=2)


def test_case_is_the_unit():
    # p0 has two classes in replicate 0 (0.2, 0.4 -> 0.3) and one of 0.5 in replicate 1 -> 0.4; p1 has 0.8.
    cases = [
        case("A", 0, "p0", 0.2),
        case("A", 0, "p0", 0.4, class_id=2),
        case("A", 1, "p0", 0.5),
        case("A", 0, "p1", 0.8),
    ]
    arm = answer_of([trial("A", 0), trial("A", 1)], cases, replicates=2).arms[0]
    assert arm.mean == pytest.approx(0.6, rel=1e-12)
    assert (arm.cases, arm.replicates, arm.planned) == (2, 2, 2)
    assert arm.low < 0.6 < arm.high
    # Replicate means: (0.3 + 0.8) / 2 = 0.55 and 0.5; their standard deviation is 0.05 / sqrt(2).
    assert arm.seed_sd == pytest.approx(0.05 / math.sqrt(2), rel=1e-12)


@pytest.mark.parametrize(
    "changes",
    [{"phase": "search"}, {"split": "val"}, {"class_id": 0}, {"key": "of another trial"}, {"arm": "B"}],
)
def test_rows_that_carry_no_conclusion(changes):
    good = case("A", 0, "p0", 0.5)
    arm = answer_of([trial("A", 0)], [good, replace(good, dice=1.0, case_id="p1", **changes)]).arms[0]
    assert (arm.mean, arm.cases) == (0.5, 1)


@pytest.mark.parametrize("state", ["running", "diverged", "failed"])
def test_trials_that_did_not_finish_carry_no_conclusion(state):
    rows = [case("A", 0, "p0", 0.5), case("A", 1, "p0", 1.0)]
    arm = answer_of([trial("A", 0), trial("A", 1, state)], rows, replicates=2).arms[0]
    assert (arm.mean, arm.replicates) == (0.5, 1)


def test_only_the_selection_confirmed_last_counts():
    old = [trial("A", n, started=1.0, key=f"old{n}") for n in range(3)]
    new = [trial("A", n, started=2.0, parameters={"weight": 0.9}) for n in range(2)]
    rows = [case("A", n, "p0", 0.1, key=f"old{n}") for n in range(3)] + [
        case("A", n, "p0", 0.7) for n in range(2)
    ]
    answer = answer_of([*new, *old], rows, replicates=3)
    arm = answer.arms[0]
    assert (arm.mean, arm.replicates, arm.parameters) == (0.7, 2, {"weight": 0.9})
    assert answer.problems == ("A: 2 of 3 confirmation replicates have finished, 1 not started.",)


def test_missed_rate_counts_structures_that_exist():
    rows = [
        case("A", 0, "p0", 0.0, missed=True),
        case("A", 0, "p1", 0.9),
        case("A", 0, "p2", 0.9),
        case("A", 0, "p3", 1.0, both_empty=True, hd95=math.nan),
        case("A", 0, "p4", 0.0, false_alarm=True),
    ]
    arm = answer_of([trial("A", 0)], rows).arms[0]
    assert arm.missed_rate == pytest.approx(1 / 3, rel=1e-12)
    assert arm.mean == pytest.approx((0 + 0.9 + 0.9 + 1 + 0) / 5, rel=1e-12)  # absent and not found: Dice 1
    assert arm.hd95 == pytest.approx((10 + 1 + 1 + 10) / 4, rel=1e-12)
    assert arm.hd95_undefined == 1


def test_costs_include_the_search():
    trials = [trial("A", 0, "pruned", "search", seconds=7.0), trial("A", 0, seconds=5.0), trial("B", 0)]
    arm = answer_of(trials, [case("A", 0, "p0", 0.5)], arms=("A", "B")).arms[0]
    assert (arm.seconds, arm.annotation_seconds) == (12.0, 5.8)


def test_an_empty_ledger_is_an_answer_too():
    answer = answer_of([], [], arms=("A", "B"), pairs=[("A", "B")], replicates=3)
    assert not answer.complete
    assert answer.problems[0] == "A: 0 of 3 confirmation replicates have finished, 3 not started."
    assert math.isnan(answer.arms[0].mean)
    assert answer.pairs[0].verdict == "too few cases"
    assert json.loads(to_json(answer))["arms"][0]["mean"] is None
    assert "A" in to_markdown(answer)


def test_problems_say_why():
    trials = [
        trial("A", 0),
        trial("A", 1, "failed", reason="CUDA out of memory.\nTraceback ..."),
        trial("A", 2, "diverged", reason="loss is NaN"),
        trial("B", 0, "failed", "search", reason="no GPU"),
    ]
    answer = answer_of(trials, [case("A", 0, "p0", 0.5)], arms=("A", "B"), replicates=4)
    assert answer.problems == (
        "A: 1 of 4 confirmation replicates have finished, 1 failed (CUDA out of memory), "
        "1 diverged (loss is NaN), 1 not started.",
        "B: 0 of 4 confirmation replicates have finished, 4 not started; in its search 1 failed (no GPU).",
    )


def test_finished_without_scores_is_a_problem():
    assert answer_of([trial("A", 0)], []).problems == (
        "A: its confirmation replicates scored no structure of a test case.",
    )
    assert answer_of([trial("A", 0)], [case("A", 0, "p0", 0.5)]).complete


def test_pairs_use_the_shared_cases():
    rows = [case("A", 0, f"p{i}", 0.5) for i in range(8)] + [
        case("B", 0, f"p{i}", 0.25) for i in range(4, 12)
    ]
    pair = answer_of([trial("A", 0), trial("B", 0)], rows, ("A", "B"), [("A", "B")]).pairs[0]
    assert (pair.difference, pair.cases, pair.verdict) == (0.25, 4, "too few cases")


def test_p_is_adjusted_over_the_pairs_of_the_study():
    # A beats B and C on all of 9 cases: p = 2 / 2^9 each, and twice that for two questions.
    rows = [
        case(arm, 0, f"p{i}", level + i / 100)
        for arm, level in (("A", 0.5), ("B", 0.2), ("C", 0.3))
        for i in range(9)
    ]
    trials = [trial(arm, 0) for arm in "ABC"]
    one = answer_of(trials, rows, "ABC", [("A", "B")]).pairs
    two = answer_of(trials, rows, "ABC", [("A", "B"), ("A", "C")]).pairs
    assert [pair.p for pair in one] == pytest.approx([2 / 2**9], rel=1e-12)
    assert [pair.p for pair in two] == pytest.approx([4 / 2**9, 4 / 2**9], rel=1e-12)


@pytest.mark.parametrize("metric", ["dice", "iou", "hd95", "area_error", "size_error"])
def test_direction_of_the_metric(metric):
    rng = np.random.default_rng(2)
    rows = [
        case(arm, 0, f"p{i}", level + rng.normal(0, 0.02))
        for arm, level in (("A", 0.8), ("B", 0.5))
        for i in range(10)
    ]
    answer = answer_of([trial("A", 0), trial("B", 0)], rows, ("A", "B"), [("B", "A")], metric)
    assert answer.pairs[0].verdict == "A better than B"
    assert (answer.pairs[0].difference < 0) == (metric in ("dice", "iou"))  # of B - A


def test_json_is_the_stable_form(separated):
    plain = json.loads(to_json(separated))
    assert list(plain) == ["study", "metric", "arms", "pairs"]
    assert list(plain["arms"][0]) == ["name", "mean", "low", "high", "replicates", "cases", "missed_rate"]
    assert list(plain["pairs"][0]) == ["a", "b", "difference", "low", "high", "p", "verdict"]
    assert plain["arms"][0]["name"] == "5 pixels [only]"
    assert plain["arms"][0]["mean"] == separated.arms[0].mean  # full precision
    assert plain["pairs"][0]["verdict"] == "statistic | 5 *px* better than 5 pixels [only]"


def sentence(pair, metric="dice"):
    return summary_sentences(Answer("toy", metric, (), (pair,), ()))[0]


PAIR = PairAnswer("statistic + 5 pixels", "5 pixels only", 0.21, 0.15, 0.27, 0.0003, 0.9, 20, "")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"verdict": "statistic + 5 pixels better than 5 pixels only"},
            "statistic + 5 pixels is better than 5 pixels only by 0.21 [0.15, 0.27], p = 0.0003 (Holm).",
        ),
        (
            {
                "verdict": "5 pixels only better than statistic + 5 pixels",
                "difference": -0.2,
                "low": -0.3,
                "high": -0.1,
            },
            "5 pixels only is better than statistic + 5 pixels by 0.20 [0.10, 0.30], p = 0.0003 (Holm).",
        ),
        (
            {"verdict": "not separated", "low": -0.0153, "high": 0.03, "difference": 0.01, "p": 0.4},
            "statistic + 5 pixels and 5 pixels only are not separated: difference 0.010 [-0.015, 0.030], "
            "p = 0.4 (Holm).",
        ),
        (
            {"verdict": "too few cases", "cases": 4},
            "statistic + 5 pixels and 5 pixels only share too few cases for a verdict "
            "(4, at least 6 are needed): difference 0.21 [0.15, 0.27].",
        ),
        (
            {"verdict": "statistic + 5 pixels better than 5 pixels only", "low": 0.0004, "p": 1e-9},
            "statistic + 5 pixels is better than 5 pixels only by 0.2100 [0.0004, 0.2700], "
            "p < 0.0001 (Holm).",
        ),
    ],
)
def test_sentences(changes, expected):
    assert sentence(replace(PAIR, **changes)) == expected


def test_sentence_with_a_unit():
    pair = replace(PAIR, difference=-31.2, low=-40.0, high=-20.0, verdict=f"{PAIR.a} better than {PAIR.b}")
    assert "by 31 [20, 40] px², p" in sentence(pair, "size_error")


@pytest.mark.parametrize("replicates", [1, 2])
def test_verdicts_of_single_trainings_say_so(replicates):
    numbers = range(replicates)
    trials = [trial(arm, n) for arm in ("A", "B") for n in numbers]
    cases = [
        case(arm, n, f"case{c}", dice + c / 100)
        for arm, dice in (("A", 0.5), ("B", 0.7))
        for n in numbers
        for c in range(8)
    ]
    answer = answer_of(trials, cases, ("A", "B"), (("A", "B"),), replicates=replicates)
    sentences = summary_sentences(answer)
    assert len(sentences) == (2 if replicates == 1 else 1)
    assert ("was trained once" in sentences[-1]) == (replicates == 1)


def test_structures_have_a_table_of_their_own_where_there_are_several():
    cases = [
        case("A", 0, f"case{n}", dice, class_id=class_id, class_name=name, hd95=hd95)
        for n in range(8)
        for class_id, name, dice, hd95 in ((2, "LV", 0.8 + n / 100, 3.0), (1, "RV|x", 0.25, 4.0 + n))
    ]
    answer = answer_of([trial("A", 0)], cases)
    right, left = answer.arms[0].structures
    assert (right.name, left.name) == ("RV|x", "LV")
    assert right.score.mean == 0.25
    assert left.score.mean == pytest.approx(0.835)
    assert left.score.low < 0.835 < left.score.high
    assert (left.hd95.mean, right.hd95.mean) == (3.0, 7.5)
    text = to_markdown(answer)
    assert "| arm | RV\\|x, dice | LV, dice | RV\\|x, HD95 | LV, HD95 |" in text
    alone = answer_of([trial("A", 0)], [c for c in cases if c.class_id == 1])
    assert "RV" not in to_markdown(alone)


def test_markdown_table_survives_any_name(separated):
    text = to_markdown(separated)
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 4
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1
    assert "statistic \\| 5 \\*px\\*" in text
    assert summary_sentences(separated)[0].startswith(
        "statistic | 5 *px* is better than 5 pixels [only] by 0."
    )


def render(answer):
    console = Console(width=80)
    with console.capture() as capture:
        console.print(to_table(answer))
    return capture.get()


def test_table_shows_names_as_they_are(separated):
    text = render(separated)
    assert "5 pixels [only]" in text
    assert "2/2" in text
    assert "is better than" in text
    assert "Provisional" not in text


def test_table_says_what_is_provisional():
    assert "Provisional. A: 0 of 3" in render(answer_of([], [], replicates=3))


def test_what_is_watched_stands_beside_the_metric_with_its_interval():
    def curve(seconds, error):
        point = {"iteration": 100, "seconds": 9.0, "training_seconds": seconds, "loss_noisy": error}
        return [{**point, "iteration": 50, "loss_noisy": 99.0}, point]

    trials = [
        trial("A", 0, curve=curve(4.0, 3.0)),
        trial("A", 1, curve=curve(6.0, 5.0)),
        trial("B", 0),
        trial("B", 1),
    ]
    cases = [
        case(arm, n, f"p{i}", 0.5, size_error=float(i)) for arm in "AB" for n in (0, 1) for i in range(5)
    ]
    watch = ("size_error", "loss_noisy")
    answer = build("toy", "dice", ("A", "B"), (), 2, trials, cases, watch)
    first, second = answer.arms
    assert first.step_seconds == pytest.approx(0.05)  # ten seconds for two hundred steps
    assert math.isnan(second.step_seconds)
    assert first.watched["size_error"].mean == 2.0
    assert first.watched["size_error"].low < 2.0 < first.watched["size_error"].high
    assert (first.watched["loss_noisy"].mean, first.watched["loss_noisy"].n) == (4.0, 2)
    assert math.isnan(second.watched["loss_noisy"].mean)
    header, _, one, other = to_markdown(answer).splitlines()[2:6]
    columns = [cell.strip() for cell in header.strip("|").split("|")]
    cells = [
        dict(zip(columns, (c.strip() for c in row.strip("|").split("|")), strict=True))
        for row in (one, other)
    ]
    assert cells[0]["a step"] == "50 ms"
    assert cells[1]["a step"] == cells[1]["noisy"] == "–"
    assert cells[0]["size error"].startswith("2.0 \\[")
    assert list(json.loads(to_json(answer))["arms"][0])[-1] == "missed_rate"  # the stable form stays


def test_a_study_whose_every_trial_failed_says_why_and_shows_no_table():
    why = {"reason": "CUDA out of memory.\nTrace", "failure": "out_of_memory"}
    trials = [trial("A", n, "failed", "search", **why) for n in range(3)]
    answer = answer_of(trials, [], arms=("A", "B"), pairs=[("A", "B")], replicates=2)
    sentence = "No trial of toy could finish: of 3, 3 out_of_memory (CUDA out of memory)."
    assert answer.all_failed.replace(answer.study, "toy") == sentence
    assert not answer.complete
    console = Console(record=True, width=200)
    console.print(to_table(answer))
    assert console.export_text().strip().replace(answer.study, "toy") == sentence
    assert to_markdown(answer).count("\n") == 3
    assert "|" not in to_markdown(answer)
    assert json.loads(to_json(answer))["arms"][0]["mean"] is None  # the machine's form keeps its shape


def test_the_class_of_a_failure_stands_before_its_reason():
    trials = [trial("A", 0), trial("A", 1, "failed", reason="KeyError: 'x'", failure="bug")]
    answer = answer_of(trials, [case("A", 0, "p0", 0.5)], replicates=2)
    sentence = "A: 1 of 2 confirmation replicates have finished, 1 failed (bug: KeyError: 'x')."
    assert answer.problems == (sentence,)
