"""Waiting for a service: repeated until it answers, told once, bounded."""

import pytest

from search_spaces import UserError
from study import waiting
from study.waiting import until_answered


class AwayError(Exception):
    pass


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """The pauses that were made; time stands still but for them."""
    made = []
    monkeypatch.setattr(waiting.time, "sleep", made.append)
    monkeypatch.setattr(waiting.time, "monotonic", lambda: sum(made))
    return made


def failing(times):
    left = [times]

    def call():
        if left[0]:
            left[0] -= 1
            raise AwayError("refused")
        return "answer"

    return call


def test_an_answer_is_passed_on_without_a_word(pauses, caplog):
    assert until_answered(failing(0), "The database", AwayError) == "answer"
    assert (pauses, caplog.text) == ([], "")


def test_an_outage_is_told_once_and_waited_for_with_growing_pauses(pauses, caplog):
    assert until_answered(failing(8), "The database", AwayError) == "answer"
    assert pauses == [0.5, 1, 2, 4, 8, 15, 15, 15]
    assert [record.getMessage() for record in caplog.records] == [
        "The database does not answer (refused); the study waits for it.",
        "The database answers again after 60 s.",
    ]


def test_patience_ends_in_one_sentence(pauses):
    with pytest.raises(
        UserError, match=r"^The database must answer, but did not for 10 minutes \(refused\); "
    ):
        until_answered(failing(10**6), "The database", AwayError)
    assert 600 < sum(pauses) < 620


def test_another_error_is_not_waited_for(pauses):
    with pytest.raises(ZeroDivisionError):
        until_answered(lambda: 1 / 0, "The database", AwayError)
    assert pauses == []
