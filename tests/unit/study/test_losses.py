"""What becomes of a trial whose process was lost, by hand; the texts are Ray 2.60's own."""

from __future__ import annotations

import pytest

from study.losses import RETRIES, Losses, class_of

KILLED = (
    "The actor died unexpectedly before finishing this task.\n\tclass_name: ImplicitFunc\n"
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit "
    "detail: Worker unexpectedly exits with a connection error code 2. End of file."
)
NODE = (
    "The actor died unexpectedly before finishing this task.\n"
    "The actor died because its node has died. Node Id: 1f\n\tthe actor's node was terminated unexpectedly: "
    "health check failed due to missing too many heartbeats"
)
DRAINED = "The actor died because its node has died. Node Id: 1f\n\tthe actor's node was preempted: spot"
RAISED = (
    "The actor died because of an error raised in its creation task, ray::Resource.__init__() (pid=1)\n"
    '  File "trainable.py", line 60, in setup\n    self._begin(config)\n'
    "AttributeError: no such thing"
)
JOB = ("arm", "search", 0)


@pytest.mark.parametrize(
    ("message", "note", "expected"),
    [
        (KILLED, None, "worker_lost"),
        ("", None, "worker_lost"),
        (KILLED, {"iteration": 3}, "preempted"),
        (NODE, None, "node_lost"),
        (NODE, {"iteration": 3}, "preempted"),
        (DRAINED, None, "preempted"),
        (RAISED, None, "bug"),
        (RAISED.replace("AttributeError: no", "StoreAwayError: no"), None, "worker_lost"),
    ],
)
def test_class_of_a_loss(message: str, note: dict[str, int] | None, expected: str) -> None:
    assert class_of(message, note) == expected


def test_losses_in_the_same_place_end_a_trial() -> None:
    losses = Losses()
    again = [losses.note(JOB, "worker_lost", 4) for _ in range(RETRIES + 1)]
    assert again == [True] * RETRIES + [False]
    assert losses.reason(JOB) == "its process was lost 4 times without getting further"
    assert losses.history[JOB] == ["worker_lost"] * 4


def test_losses_before_any_checkpoint_count_too() -> None:
    losses = Losses()
    assert [losses.note(JOB, "preempted", 0) for _ in range(RETRIES + 1)][-1] is False
    assert losses.reason(JOB) == "its process was stopped from outside 4 times without getting further"


def test_a_trial_that_gets_further_each_time_never_ends() -> None:
    losses = Losses()
    assert all(losses.note(JOB, "preempted", iteration) for iteration in range(1, 100))


def test_losses_of_another_trial_are_its_own() -> None:
    losses = Losses()
    for _ in range(RETRIES):
        losses.note(JOB, "node_lost", 0)
    assert losses.note(("arm", "search", 1), "node_lost", 0)
    assert not losses.note(JOB, "node_lost", 0)
    assert losses.reason(JOB) == "its process was lost with its node 4 times without getting further"


def test_work_done_since_forgives_what_was_lost_before() -> None:
    losses = Losses()
    for _ in range(RETRIES):
        losses.note(JOB, "worker_lost", 2)
    assert losses.note(JOB, "worker_lost", 3)
    assert [losses.note(JOB, "worker_lost", 3) for _ in range(RETRIES)] == [True, True, False]
