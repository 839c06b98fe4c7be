"""Networks that trials start from: trained once, shared by arms and studies, whatever dies meanwhile."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path

import pytest

from search_spaces import UserError
from study import arms as shared
from study import plan
from study.pretraining import NETWORK, RESULT, Networks, PretrainingBoard
from study.spec import PRETRAINING, Arm, Stage, Study
from tests.unit.study.conftest import DATA, World, a_study
from trainables import saved
from trainables.annotations import Annotation
from trainables.protocol import Protocol

STAGE = Stage(method="full_supervision", annotation=Annotation(pixels="dense", labelled_images=3))
FEWER = Stage(method="full_supervision", annotation=Annotation(pixels="dense", labelled_images=2))


def starting(arm: Arm, stage: Stage | None = STAGE, **changes: object) -> Arm:
    return dataclasses.replace(arm, pretraining=stage, **changes)


def a_fixed_arm(name: str, stage: Stage | None = STAGE, **changes: object) -> Arm:
    arm = Arm(name=name, method="full_supervision", annotation=STAGE.annotation)
    return starting(arm, stage, **changes)


def of(*arms: Arm, trials: int = 5) -> Study:
    stages = Protocol(iterations=40, reports=2)
    return dataclasses.replace(a_study(trials=trials), arms=arms, pretraining=stages)


STUDY = of(
    starting(shared.statistic("searched", 5)),
    a_fixed_arm("as long"),
    a_fixed_arm("fewer masks", FEWER),
    a_fixed_arm("from nothing", None),
)


def pretrained(world: World) -> list[str]:
    return [r.key for r in world.ledger.trials() if r.phase == "pretrain" and r.is_final]


def test_two_stages_and_two_seeds_and_one_search_are_five_trainings():
    world = World()
    world.run(STUDY, concurrency=4)
    expected = plan.pretrainings(STUDY, DATA)
    assert len(expected) == 1 + 2 * len(STUDY.replicates.seeds)  # "fewer masks" has no search to start
    assert Counter(pretrained(world)) == Counter(list(expected))
    rows = [r for r in world.ledger.trials() if r.phase == "pretrain"]
    assert {r.arm for r in rows} == {PRETRAINING}
    assert sorted(r.number for r in rows) == list(range(5))
    assert {r.state for r in rows} == {"finished"}
    assert all(count == 1 for count in world.workers.trained.values())


def test_a_trial_starts_when_its_network_is_there():
    world = World()
    board = world.board(STUDY)
    first = board.suggest()
    assert first is not None
    assert (first.phase, first.trial.key()) == ("pretrain", first.row.key)
    others = list(iter(board.suggest, None))
    assert [job.phase for job in others] == ["pretrain"] * 4 + ["confirm"] * 2
    assert {job.arm for job in others[4:]} == {"from nothing"}
    world.networks.left.add(first.row.key)
    board.end(first, {"curve": [], "state": "finished"}, "finished")
    started = list(iter(board.suggest, None))
    assert {(job.arm, job.phase) for job in started} == {("searched", "search")}
    assert all(job.trial.pretraining is not None for job in started)
    assert {job.trial.pretraining.key() for job in started} == {first.row.key}


@pytest.mark.parametrize("seed", range(40))
def test_order_workers_and_deaths_change_nothing(seed: int):
    undisturbed, world = World(), World()
    undisturbed.run(STUDY)
    world.run(STUDY, seed=seed, concurrency=1 + seed % 5, deadly=0.02 * (seed % 4))
    assert world.outcome() == undisturbed.outcome()
    for key in plan.pretrainings(STUDY, DATA):
        assert max(count for (k, _), count in world.workers.trained.items() if k == key) <= 1 + world.deaths
    assert not [r for r in world.ledger.trials() if not r.is_final]


def test_another_study_of_the_home_trains_none_of_them_again():
    one, other = World(), World()
    one.run(STUDY)
    other.networks.left = set(one.networks.left)
    other.run(dataclasses.replace(STUDY, name="other"))
    assert pretrained(other) == []
    assert {r.state for r in other.ledger.trials() if r.arm == "as long"} == {"finished"}


def test_the_driver_that_died_before_it_heard_finds_its_row_finished():
    world = World()
    board = world.board(STUDY)
    job = board.suggest()
    assert job is not None
    while world.workers.step(job)["state"] == "running":
        pass
    again = world.board(STUDY)
    (row,) = (r for r in world.ledger.trials() if r.phase == "pretrain")
    assert (row.state, row.key) == ("finished", job.row.key)
    assert job.row.key not in {k for k, _ in again.pretraining.missing()}


def test_what_left_no_network_fails_the_trials_that_need_it_and_no_other():
    world = World()
    board = world.board(of(a_fixed_arm("broken"), a_fixed_arm("sound", FEWER)))
    job = board.suggest()
    assert job is not None
    board.end(job, {"curve": [], "state": "diverged"}, "diverged", reason="the loss is not finite")
    assert board.suggest() is not None  # the other stage
    (row,) = (r for r in world.ledger.trials() if r.arm == "broken")
    assert row.state == "failed"
    assert row.reason == "its pre-training diverged: the loss is not finite"
    assert world.board(board.study).pretraining.broken == {}  # the next run tries it again


def test_the_key_holds_what_it_starts_from():
    def key(stage: Stage | None, **protocol: object) -> str:
        study = dataclasses.replace(STUDY, pretraining=Protocol(iterations=40, **protocol))
        arm = a_fixed_arm("arm", stage)
        return plan.trial_of(study, arm, {}, DATA, seed=1, fold=0, test=False).key()

    keys = [key(STAGE), key(FEWER), key(None), key(STAGE, learning_rate=0.02)]
    assert len(set(keys)) == 4
    assert key(STAGE) == key(Stage(method="full_supervision", annotation=STAGE.annotation, settings={}))


def test_an_arm_without_iterations_scores_the_network_as_it_is():
    study = of(a_fixed_arm("before", protocol={"iterations": 0}))
    trial = plan.trial_of(study, study.arms[0], {}, DATA, seed=1, fold=0, test=True)
    trial.check()
    assert trial.protocol.report_points() == (0,)
    assert trial.pretraining is not None
    assert trial.pretraining.protocol.iterations == 40
    world = World()
    world.run(study)
    assert {r.state for r in world.ledger.trials()} == {"finished"}


def test_only_one_driver_trains_a_network(tmp_path: Path):
    one, other = (PretrainingBoard(STUDY, DATA, Networks(tmp_path)) for _ in range(2))
    (key, _), *_ = one.missing()
    assert one.start(key)
    assert not one.start(key)
    assert not other.start(key)
    one.end(key)  # it died or failed: the other may
    assert other.start(key)
    saved.write(other.networks.folder(key), NETWORK, {}, key)
    other.networks.folder(key).write(RESULT, json.dumps({"key": key}).encode())
    other.end(key)
    assert not one.start(key)  # it is there: nobody trains it again
    assert one.networks.has(key)
    assert key not in {k for k, _ in one.missing()}


def test_the_plan_counts_them_once_and_leaves_out_what_is_there():
    missing = list(plan.pretrainings(STUDY, DATA).values())
    seconds = {arm.name: 7.0 for arm in STUDY.arms}
    speed = {arm.name: 0.5 for arm in STUDY.arms}
    made = plan.make(
        STUDY, annotation_seconds=seconds, rungs=(), concurrency=1, missing=missing[:4], speed=speed
    )
    assert (made.pretrainings, made.pretraining_seconds) == (4, 4 * 40 * 0.5)
    without = plan.make(STUDY, annotation_seconds=seconds, rungs=(), concurrency=1, speed=speed)
    assert made.training_seconds is not None
    assert without.training_seconds is not None
    assert made.training_seconds - without.training_seconds == 80.0


def test_survives_the_frozen_spec():
    study = of(a_fixed_arm("before", protocol={"iterations": 0}), a_fixed_arm("fewer", FEWER))
    assert Study.from_json(study.to_json()) == study
    plain = a_study()
    assert Study.from_json(plain.to_json()) == plain


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"pretraining": None}, "Arm 'as long' starts from a pre-training, so the study needs `pretraining`"),
        ({"arms": (a_fixed_arm(PRETRAINING),)}, "No arm may be called 'pre-training'"),
        ({"arms": (a_fixed_arm("x", protocol={"iteration": 3}),)}, "Did you mean 'iterations'?"),
        (
            {"arms": (starting(shared.statistic("x", 5), protocol={"learning_rate": 0.01}),)},
            "Arm 'x' both fixes and searches learning_rate",
        ),
        ({"watch": ("size",)}, "There is no metric 'size'."),
    ],
    ids=["no protocol", "name", "key", "fixed and searched", "watch"],
)
def test_what_can_not_be_meant_is_refused(change: dict[str, object], sentence: str):
    with pytest.raises(UserError) as error:
        dataclasses.replace(of(a_fixed_arm("as long")), **change)
    assert sentence in str(error.value)
