"""The answer in words: how it stands, who is ahead of whom, and what is missing."""

from dataclasses import replace

from dashboards.summary import headline, measured, status
from study.stats import NOT_SEPARATED, TOO_FEW_CASES
from tests.unit.dashboards.studies import a_source


def test_status():
    answer = a_source({"a": 0.2, "b": 0.7}).answer
    assert status(answer).startswith("Complete")
    assert status(a_source({"a": 0.2, "b": -1}).answer).startswith("Provisional")
    assert status(a_source({"a": -1, "b": -1}).answer).startswith("There is no answer yet")
    failed = replace(answer, problems=("a",), all_failed="No trial could finish.")
    assert status(failed) == "There is no answer: no trial could finish."


def test_headline_names_the_best_arm_and_its_pairs():
    answer = a_source({"a": 0.2, "b": 0.7}).answer
    assert headline(answer).startswith("b has the highest mean Dice of 2 arms, 0.7")
    assert headline(answer).endswith("It is better than a.")
    assert headline(replace(answer, metric="hd95")).startswith("a has the lowest mean HD95")


def test_headline_tells_every_kind_of_verdict():
    answer = a_source({"best": 0.7, "a": 0.2, "b": 0.2, "c": 0.2, "d": 0.2}, cases=12).answer
    own = answer.pairs[:4]
    verdicts = ("best better than a", "b better than best", NOT_SEPARATED, TOO_FEW_CASES)
    pairs = tuple(replace(pair, verdict=v) for pair, v in zip(own, verdicts, strict=True))
    assert headline(replace(answer, pairs=pairs)).endswith(
        "It is better than a and worse than b and not separated from c and not yet to be compared with d."
    )
    assert headline(answer).endswith("It is better than all 4 arms that it is compared with.")
    assert headline(replace(answer, pairs=())).endswith("; the study compares it with no other.")


def test_headline_of_one_arm_and_of_none():
    assert headline(a_source({"a": 0.2, "b": -1}).answer).startswith("a has a mean Dice of 0.2")
    assert headline(a_source({"a": -1}).answer) == ""


def test_what_was_measured():
    source = a_source({"a": 0.2, "b": 0.7})
    said = measured(source.spec, source.answer)
    assert "2 fresh seeds" in said
    assert "Dice per case (7), greater is better" in said
