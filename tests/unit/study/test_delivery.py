"""The delivery: order, outages, refusals and the end."""

import logging
import threading
import time
from collections.abc import Callable

import pytest

from study import delivery
from study.delivery import ATTEMPTS, DISTURBED_ATTEMPTS, Delivery


def failing(
    times: int, log: list[str], name: str, error: type[Exception] = ConnectionError
) -> Callable[[], None]:
    """A call that fails so often before it succeeds."""
    left = [times]

    def call() -> None:
        if left[0]:
            left[0] -= 1
            raise error("gone")
        log.append(name)

    return call


def test_calls_are_done_in_order_and_the_caller_does_not_wait() -> None:
    done: list[str] = []
    gate = threading.Event()
    target = Delivery("service", lambda: True)
    target.put("gate", lambda: [gate.wait(5), done.append("gate")][1])
    for name in "abc":
        target.put(name, failing(0, done, name))
    assert done == []
    gate.set()
    assert target.close(5) == 0
    assert done == ["gate", "a", "b", "c"]


def test_an_outage_is_waited_out_however_often_the_call_fails(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(delivery, "_FIRST_WAIT_SECONDS", 0.001)
    done: list[str] = []
    target = Delivery("service", lambda: False)
    target.put("first", failing(ATTEMPTS + 3, done, "first"))
    target.put("second", failing(0, done, "second"))
    assert target.close(5) == 0
    assert done == ["first", "second"]
    assert caplog.text.count("does not answer") == 1


def test_a_call_that_the_living_service_refuses_is_repeated_and_then_skipped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    done: list[str] = []
    target = Delivery("service", lambda: True)
    target.put("enough attempts", failing(ATTEMPTS - 1, done, "late", ValueError))
    target.put("hopeless", failing(ATTEMPTS, done, "never", ValueError))
    target.put("next", failing(0, done, "next"))
    assert target.close(5) == 0
    assert done == ["late", "next"]
    assert "did not accept hopeless (gone)" in caplog.text


def test_a_line_that_breaks_is_tried_more_often_than_a_call_that_is_refused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A service that dies and is back before it is asked: nothing was refused."""
    monkeypatch.setattr(delivery, "_FIRST_WAIT_SECONDS", 0.001)
    done: list[str] = []
    target = Delivery("service", lambda: True)
    target.put("flaps", failing(DISTURBED_ATTEMPTS - 1, done, "late"))
    target.put("hopeless", failing(DISTURBED_ATTEMPTS, done, "never"))
    target.put("next", failing(0, done, "next"))
    assert target.close(10) == 0
    assert done == ["late", "next"]
    assert "did not accept hopeless (gone)" in caplog.text


def test_an_outage_forgives_the_refusals_before_it() -> None:
    done: list[str] = []
    answers = iter([True] * (ATTEMPTS - 1) + [False] + [True] * (ATTEMPTS - 1))
    target = Delivery("service", lambda: next(answers))
    target.put("late", failing(2 * ATTEMPTS - 1, done, "late", ValueError))
    assert target.close(10) == 0
    assert done == ["late"]


def test_what_counts_as_a_broken_line_is_found_behind_a_library_s_own_error() -> None:
    wrapped = RuntimeError("API request failed")
    wrapped.__cause__ = ConnectionResetError("reset by peer")
    assert delivery.is_disturbance(wrapped)
    assert not delivery.is_disturbance(FileNotFoundError("no such picture"))


def test_closing_cuts_a_long_pause_short_and_counts_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "_FIRST_WAIT_SECONDS", 20.0)
    monkeypatch.setattr(delivery, "_CLOSING_WAIT_SECONDS", 0.02)
    done: list[str] = []
    target = Delivery("service", lambda: False)
    target.put("back by now", failing(1, done, "first"))
    target.put("still away", failing(10**9, done, "second"))
    target.put("behind", failing(0, done, "third"))
    began = time.monotonic()
    assert target.close(0.3) == 2
    assert time.monotonic() - began < 2
    assert done == ["first"]


def test_nothing_is_accepted_after_the_end_and_the_thread_is_gone(caplog: pytest.LogCaptureFixture) -> None:
    target = Delivery("service", lambda: True)
    with caplog.at_level(logging.WARNING):
        assert target.close(1) == 0
    with pytest.raises(RuntimeError, match="closed"):
        target.put("late", lambda: None)
    target._thread.join(5)
    assert not target._thread.is_alive()
    assert caplog.text == ""
