"""The board by hand: what starts when, what is copied, what a second driver or a lost memory does."""

import dataclasses
import math

import optuna
import pytest

from search_spaces import UserError
from study import arms as shared
from study.losses import RETRIES
from study.results import Ledger
from study.schedule import rung_iterations
from study.spec import Replicates
from study.storage import open_storage
from tests.unit.study.conftest import DISCRETE, DIVERGING, SEARCHED, World, a_study, discrete_arm


def one_arm(**search):
    return a_study(arms=[shared.statistic(SEARCHED, 5)], **search)


def grown(study, *, trials=None, seeds=None):
    search = dataclasses.replace(study.search, trials=trials or study.search.trials)
    return dataclasses.replace(
        study, search=search, replicates=Replicates(seeds=seeds or study.replicates.seeds)
    )


def rows_of(world, phase="search"):
    return sorted((r for r in world.ledger.trials() if r.phase == phase), key=lambda r: (r.number, r.started))


def finish(board, world, job):
    """Trains one job to its end."""
    while job.id in board.running:
        result = world.workers.step(job)
        if not board.report(job, result):
            board.end(job, result, "pruned")
        elif result["state"] != "running":
            board.end(job, result, result["state"])


def test_rungs_are_report_points_and_never_the_end():
    study = one_arm(rungs=(1 / 6, 0.5, 0.99))
    assert study.protocol.report_points() == (10, 20, 30, 40, 50, 60)
    assert rung_iterations(study.protocol, study.search.rungs) == (10, 30, 50)
    once = dataclasses.replace(study.protocol, reports=1)
    assert rung_iterations(once, study.search.rungs) == ()


def test_at_most_lookahead_trials_of_an_arm_run_and_the_oldest_is_waited_for():
    world = World()
    board = world.board(one_arm(lookahead=3))
    first, second, third = (board.suggest() for _ in range(3))
    assert [j.number for j in (first, second, third)] == [0, 1, 2]
    assert board.suggest() is None
    finish(board, world, second)
    assert board.suggest() is None  # trial 3 is proposed from the result of trial 0
    finish(board, world, first)
    assert [board.suggest().number for _ in range(2)] == [3, 4]
    assert board.suggest() is None


def test_nothing_starts_once_it_shall_stop():
    board = World().board(one_arm())
    board.stopping = True
    assert board.suggest() is None


def test_the_first_trial_is_the_published_configuration():
    board = World().board(one_arm())
    job = board.suggest()
    assert job.row.parameters == {"statistic_weight": 1.0, "confidence_weight": 0.1, "learning_rate": 3e-3}
    assert job.row.state == "running"
    assert board.ledger.trials() == [job.row]
    assert (job.trial.seed, job.trial.test) == (0, False)


def test_an_arm_that_searches_nothing_is_confirmed_as_it_stands():
    world = World()
    fixed = dataclasses.replace(discrete_arm(), search={})
    world.run(a_study(arms=[fixed], trials=6))
    rows = world.ledger.trials()
    assert {r.phase for r in rows} == {"confirm"}
    assert sorted(r.number for r in rows if r.is_final) == list(range(a_study().num_replicates))
    assert world.board(a_study(arms=[fixed], trials=6)).finished()


def test_an_arm_may_train_longer_than_the_others():
    study = a_study(arms=[dataclasses.replace(discrete_arm(), longer=3)])
    board = World().board(study)
    job = board.suggest()
    assert job.trial.protocol.iterations == 3 * study.protocol.iterations
    assert board.arms[DISCRETE].protocol.iterations == 3 * study.protocol.iterations
    assert min(board.arms[DISCRETE].rungs) == 3 * min(World().board(a_study()).arms[DISCRETE].rungs)


def test_arms_take_turns():
    board = World().board(a_study())
    assert [board.suggest().arm for _ in range(4)] == [SEARCHED, DISCRETE, DIVERGING, SEARCHED]


def test_a_repeated_configuration_waits_for_its_twin_and_takes_its_result():
    world = World()
    board = world.board(a_study(arms=[discrete_arm()], trials=6, lookahead=6))
    jobs = []
    while (job := board.suggest()) is not None:
        jobs.append(job)
    keys = [job.row.key for job in jobs]
    assert len(set(keys)) == len(keys) < 6
    assert board.suggest() is None  # asked again and again: the same answer, no other proposal
    for job in reversed(jobs):
        finish(board, world, job)
    world.run(board.study, seed=1)
    copies = [r for r in rows_of(world) if "same_as" in r.details]
    assert copies
    by_number = {r.number: r for r in rows_of(world)}
    for copy in copies:
        twin = by_number[copy.details["same_as"]]
        assert twin.number < copy.number
        assert (copy.key, copy.state, copy.value, copy.curve) == (
            twin.key,
            twin.state,
            twin.value,
            twin.curve,
        )
        assert copy.seconds == 0.0
    assert max(world.workers.trained.values()) == 1


def test_a_failed_configuration_is_tried_again_when_it_comes_again_but_never_twice_at_once():
    board = World().board(a_study(arms=[discrete_arm()], trials=12, lookahead=12))
    running, base_tried = [], 0
    while True:
        while (job := board.suggest()) is not None and job.phase == "search":
            running.append(job)
        assert len({j.row.key for j in running}) == len(running)
        if not running:
            break
        job = running.pop()
        fails = job.row.parameters["learning_rate"] == 3e-3
        base_tried += fails
        curve = [{"iteration": 60, "seconds": 1.0, "dice": 0.5}]
        board.end(job, {"curve": curve}, "failed" if fails else "finished")
    repeats = [a for a in board.arms[DISCRETE].attempts if a.parameters["learning_rate"] == 3e-3]
    assert base_tried == len(repeats) > 1
    assert {a.state for a in repeats} == {"failed"}


def test_confirmation_uses_the_selected_configuration_and_fresh_seeds():
    world = World()
    board = world.run(one_arm())
    best = board.arms[SEARCHED].selected()
    full = [r for r in rows_of(world) if r.state == "finished"]
    assert best.value == max(r.value for r in full)
    confirmed = rows_of(world, "confirm")
    assert [(r.number, r.seed, r.fold) for r in confirmed] == [(0, 1001, 0), (1, 1002, 0)]
    assert all(r.parameters == best.parameters for r in confirmed)
    assert [c.replicate for c in world.ledger.case_rows] == [0, 1]
    assert {(c.split, c.class_name, c.phase) for c in world.ledger.case_rows} == {
        ("test", "lesion", "confirm")
    }


def test_the_earliest_of_equals_is_selected_and_a_smaller_value_where_smaller_is_better():
    world = World()
    board = world.board(dataclasses.replace(one_arm(trials=4, lookahead=4, rungs=()), metric="area_error"))
    jobs = [board.suggest() for _ in range(4)]
    for job, value in zip(jobs, (0.5, 0.2, 0.2, math.nan), strict=True):
        curve = [{"iteration": 60, "seconds": 1.0, "area_error": value}]
        assert board.report(job, {"curve": curve, "state": "finished"})
        board.end(job, {"curve": curve, "state": "finished"}, "finished")
    assert board.arms[SEARCHED].selected().number == 1
    assert rows_of(world)[3].value is None
    again = world.board(board.study)
    assert again.arms[SEARCHED].selected().number == 1
    assert [a.value for a in again.arms[SEARCHED].attempts] == [0.5, 0.2, 0.2, None]


def test_an_undefined_value_at_a_rung_is_the_worst_not_the_best():
    study = dataclasses.replace(one_arm(lookahead=1, rungs=(0.5,), reduction=2), metric="hd95")
    board = World().board(study)
    for value, goes_on in ((5.0, True), (math.nan, False), (4.0, True)):
        job = board.suggest()
        curve = [{"iteration": 30, "seconds": 1.0, "hd95": value}]
        assert board.report(job, {"curve": curve, "state": "running"}) is goes_on
        board.end(job, {"curve": curve, "state": "running"}, "finished" if goes_on else "pruned")


def test_an_arm_whose_every_trial_diverged_ends_without_confirmation():
    world = World()
    arms = [a for a in a_study().arms if a.name == DIVERGING]
    board = world.run(a_study(arms=arms, rungs=()))
    assert board.finished()
    assert {r.state for r in rows_of(world)} == {"diverged"}
    assert {r.value for r in rows_of(world)} == {None}
    assert rows_of(world, "confirm") == []


def test_a_failed_confirmation_ends_this_run_and_is_tried_again_by_the_next():
    world = World()
    study = one_arm(trials=1)
    board = world.board(study)
    finish(board, world, board.suggest())
    broken, good = board.suggest(), board.suggest()
    board.end(broken, {}, "failed", reason="lost")
    finish(board, world, good)
    assert board.finished()
    again = world.board(study)
    assert not again.finished()
    job = again.suggest()
    assert (job.phase, job.number, job.row.key) == ("confirm", 0, broken.row.key)
    finish(again, world, job)
    assert again.finished()
    assert [r.state for r in rows_of(world, "confirm")] == ["finished", "finished"]


def test_a_diverged_confirmation_is_final():
    world = World()
    board = world.board(one_arm(trials=1, seeds=(1001,)))
    finish(board, world, board.suggest())
    board.end(board.suggest(), {"reason": "NaN"}, "diverged")
    assert world.board(board.study).finished()
    assert rows_of(world, "confirm")[0].reason == "NaN"


def test_a_finished_study_starts_nothing():
    world = World()
    world.run(a_study())
    board = world.board(a_study())
    assert board.finished()
    assert board.suggest() is None


def test_what_ran_when_the_driver_died_is_continued_first():
    world = World()
    board = world.board(one_arm())
    jobs = [board.suggest() for _ in range(3)]
    finish(board, world, jobs[1])
    again = world.board(one_arm())
    assert [again.suggest().row.key for _ in range(2)] == [jobs[0].row.key, jobs[2].row.key]


@pytest.mark.parametrize("end", ["finished", "diverged", "failed"])
def test_a_trial_that_is_heard_of_only_beyond_a_rung_ends_as_it_would_have_there(end):
    world = World()
    board = world.board(one_arm(lookahead=1, rungs=(0.5,), reduction=2))
    finish(board, world, board.suggest())
    job = board.suggest()
    curve = [{"iteration": i, "seconds": 1.0, "dice": i / 1e4} for i in (10, 20, 30, 40)]
    assert not board.report(job, {"curve": curve, "state": end})
    board.end(job, {}, "pruned")
    assert (rows_of(world)[1].iterations, rows_of(world)[1].value) == (30, 30 / 1e4)
    assert world.workers.told[job.row.identity] == [30]  # 40 was trained, but is no part of the study


def test_more_trials_go_on_from_the_same_search_and_keep_the_replicates_of_the_same_choice():
    world, at_once = World(), World()
    small, large = one_arm(trials=6, seed=1), one_arm(trials=9, seed=1)
    before = world.run(small).arms[SEARCHED].selected()
    after = world.run(large, seed=4, concurrency=3).arms[SEARCHED].selected()
    at_once.run(large)
    assert before.number == after.number
    assert world.outcome() == at_once.outcome()
    assert max(world.workers.trained.values()) == 1


def test_more_trials_that_change_the_choice_replace_its_replicates():
    world = World()
    small, large = one_arm(trials=2, seed=2), one_arm(trials=12, seed=2)
    old = world.run(small).arms[SEARCHED].selected()
    board = world.run(large)
    new = board.arms[SEARCHED].selected()
    assert old.number != new.number
    assert len(rows_of(world, "confirm")) == 4
    assert all(r.parameters == new.parameters for r in board.arms[SEARCHED].confirmed.values())
    assert world.board(large).finished()


def test_more_replicates_train_only_what_is_missing():
    world = World()
    world.run(one_arm(trials=2))
    study = grown(one_arm(trials=2), seeds=(1001, 1002, 1003))
    board = world.board(study)
    job = board.suggest()
    assert (job.phase, job.number, job.trial.seed) == ("confirm", 2, 1003)
    assert board.suggest() is None
    finish(board, world, job)
    assert board.finished()
    assert max(world.workers.trained.values()) == 1


def test_more_seeds_keep_the_numbers_of_replicates_on_several_folds():
    few, more = Replicates(seeds=(1, 2), folds=(0, 1)), Replicates(seeds=(1, 2, 3), folds=(0, 1))
    assert more.pairs()[: len(few.pairs())] == few.pairs()


@pytest.mark.parametrize("lost", ["all", "last commits", "running trials"])
def test_a_lost_database_is_built_again_from_the_ledger(lost):
    world, calm = World(), World()
    study = a_study(trials=6)
    calm.run(study)
    board = world.board(study)
    for _ in range(7):
        finish(board, world, board.suggest())
    left_running = [board.suggest() for _ in range(2)]
    assert all(left_running)
    if lost == "all":
        world.storage = optuna.storages.InMemoryStorage()
    elif lost == "last commits":
        world.storage = optuna.storages.InMemoryStorage()
        partly = World()
        partly.storage, partly.ledger.rows = world.storage, world.ledger.rows[:6]
        partly.board(study)
    else:  # the ledger knows only what ended
        world.storage = optuna.storages.InMemoryStorage()
        world.ledger.rows = [r for r in world.ledger.rows if r.is_final]
    world.run(study, seed=3, concurrency=2)
    assert world.outcome() == calm.outcome()
    assert [a.state for a in world.board(study).arms[SEARCHED].store.load()] == [
        r.state for r in rows_of(calm) if r.arm == SEARCHED
    ]


def test_a_hole_in_both_memories_is_proposed_again():
    """The database is lost, and so is the ledger's file with one trial."""
    world, calm = World(), World()
    calm.run(one_arm(trials=6))
    world.run(one_arm(trials=6))
    world.storage = optuna.storages.InMemoryStorage()
    world.ledger.rows = [r for r in world.ledger.rows if (r.phase, r.number) != ("search", 2)]
    assert len(world.board(one_arm(trials=6)).arms[SEARCHED].attempts) == 2
    world.run(one_arm(trials=6))
    assert world.outcome() == calm.outcome()


def test_a_lost_ledger_is_filled_again():
    """Also another --home with the same --optuna-storage."""
    world, calm = World(), World()
    calm.run(a_study(trials=4))
    world.run(a_study(trials=4))
    world.ledger.rows.clear()
    world.workers.checkpoints.clear()
    world.run(a_study(trials=4))
    assert world.outcome() == calm.outcome()


def test_other_data_under_the_same_name_are_refused():
    world = World()
    world.run(one_arm(trials=2))
    world.ledger.rows = [dataclasses.replace(r, key=r.key[::-1]) for r in world.ledger.rows]
    with pytest.raises(
        UserError, match=r"Trial 0 of arm 'statistic' must be the one that was started.*--fork"
    ):
        world.board(one_arm(trials=2))


def test_the_ledger_and_the_database_of_a_real_run(tmp_path):
    """The same on the disk: SQLite, Parquet, deaths."""
    study, calm = a_study(trials=4), World()
    calm.run(study)
    world = World(Ledger(tmp_path / "ledger"))
    world.storage = open_storage(tmp_path, None)
    board = world.run(study, seed=5, concurrency=3)
    assert world.outcome() == calm.outcome()
    assert board.finished()
    world.ledger, world.storage = Ledger(tmp_path / "ledger"), open_storage(tmp_path, None)
    assert world.board(study).finished()
    assert {c.case_id for c in world.ledger.cases()} == {"c1"}


def test_what_a_trial_reported_before_its_process_was_lost_stays_in_its_row():
    world = World()
    board = world.board(one_arm(trials=1))
    job = board.suggest()
    curve = world.workers.step(job)["curve"]
    board.report(job, {"curve": curve})
    for _ in range(1 + RETRIES):
        board.lost(job, "worker_lost")
        job = board.suggest() or job
    (row,) = world.ledger.trials()
    assert (row.state, row.curve, row.iterations, row.value) == ("failed", curve, 10, curve[-1]["dice"])
    assert world.workers.told[row.identity] == [10]


def test_an_error_at_the_start_of_a_process_is_a_bug_and_is_not_tried_again():
    world = World()
    board = world.board(one_arm(trials=3))
    job = board.suggest()
    board.lost(job, "bug", message="Traceback\n  File x\nKeyError: 'y'\n")
    (row,) = [r for r in world.ledger.trials() if r.number == job.number]
    assert (row.state, row.failure, row.reason) == ("failed", "bug", "KeyError: 'y'")
    assert "File x" in row.details["trace"]
    assert board.suggest().number != job.number
