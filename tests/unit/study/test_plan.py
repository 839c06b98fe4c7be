"""A plan counts what the board will do; arms that could not be trained are refused before anything starts."""

import dataclasses

import numpy as np
import pytest

from search_spaces import UserError
from study import arms as shared
from study import plan
from study.spec import Arm, Replicates
from tests.unit.study.conftest import DATA, DISCRETE, SEARCHED, World, a_study
from trainables.annotations import Annotation, cost_seconds
from trainables.data.dataset import Dataset, Split


def a_plan(study, *, rungs=(10, 30), concurrency=2, speed=None):
    seconds = {arm.name: 7.0 for arm in study.arms}
    return plan.make(study, annotation_seconds=seconds, rungs=rungs, concurrency=concurrency, speed=speed)


@pytest.fixture
def dataset():
    """Eight images of 8 x 8 with nine lesion pixels each; the fingerprint is theirs."""
    images = np.arange(8 * 64, dtype=np.uint8).reshape(8, 8, 8)
    masks = np.zeros((8, 8, 8), np.uint8)
    masks[:, 2:5, 2:5] = 1
    split = Split(train=np.arange(4), val=np.arange(4, 6), test=np.arange(6, 8))
    return Dataset(
        name="toy", fingerprint="test_plan", class_names=("background", "lesion"), images_NHW=images,
        masks_NHW=masks, scribbles_NHW=None, image_ids=tuple(f"i{n}" for n in range(8)),
        case_ids=tuple(f"c{n}" for n in range(8)), volume_ids=tuple(f"c{n}" for n in range(8)),
        slice_index=np.zeros(8, np.int32), spacing_mm=np.full((8, 3), np.nan, np.float32), folds=(split,),
        fold_names=("split",), metadata={},
    )  # fmt: skip


def test_a_plan_counts_every_trial_once():
    fixed = Arm(name="fixed", method="full_supervision", annotation=Annotation(pixels="dense"))
    study = a_study(arms=[shared.statistic(SEARCHED, 5), fixed], seeds=(1, 2, 3))
    made = a_plan(study)
    searched, published = made.arms
    assert (searched.search_trials, searched.confirm_trials, searched.trials) == (12, 3, 15)
    assert (published.search_trials, published.confirm_trials, published.trials) == (0, 3, 3)
    assert made.trials == 18
    assert (searched.iterations, published.iterations) == (15 * 60, 3 * 60)
    assert (searched.sampler, published.sampler) == ("random", "published configuration")
    assert searched.searched == ("statistic_weight", "confidence_weight", "learning_rate")
    assert a_plan(a_study(trials=1)).arms[0].sampler == "published configuration"


def test_a_plan_counts_what_the_board_then_does():
    study = a_study(arms=[a for a in a_study().arms if a.name in (SEARCHED, DISCRETE)], seed=6, trials=9)
    world = World()
    world.run(study)
    assert len(world.ledger.trials()) == a_plan(study).trials


def test_the_time_of_a_plan_is_a_range():
    study = a_study(arms=[shared.statistic(SEARCHED, 5)], trials=4)
    assert a_plan(study).training_seconds is None
    assert a_plan(study).wall_seconds is None
    made = a_plan(study, speed={SEARCHED: 0.5})
    assert made.training_seconds == (4 + 2) * 60 * 0.5
    # three whole trainings (the best and two replicates), three stopped at iteration 10, two at once
    assert made.wall_seconds == ((3 * 60 + 3 * 10) * 0.5 / 2, 6 * 60 * 0.5 / 2)
    never_stopped = a_plan(study, rungs=(), speed={SEARCHED: 0.5}).wall_seconds
    assert never_stopped[0] == never_stopped[1]


def test_parameters_go_where_they_belong():
    study = a_study()
    arm = dataclasses.replace(study.arm(SEARCHED), settings={"overlap_weight": 2.0, "statistic_weight": 9.0})
    study = dataclasses.replace(study, arms=(arm,), network_settings={"width": 4})
    parameters = {"statistic_weight": 3.0, "learning_rate": 0.005}
    trial = plan.trial_of(study, arm, parameters, DATA, seed=7, fold=2, test=True)
    assert trial.settings == {"overlap_weight": 2.0, "statistic_weight": 3.0}
    assert trial.protocol == dataclasses.replace(study.protocol, learning_rate=0.005)
    assert (trial.seed, trial.fold, trial.test, trial.data) == (7, 2, True, DATA)
    assert (trial.network, trial.network_settings) == ("unet", {"width": 4})
    assert (trial.method, trial.annotation) == ("summary_statistics", arm.annotation)


def test_the_annotators_seconds_are_those_of_the_training_images(dataset):
    study = a_study()
    seconds = plan.check_arms(study, dataset, DATA)
    train = dataset.masks_NHW[:4]
    assert list(seconds) == [arm.name for arm in study.arms]
    for arm in study.arms:
        assert seconds[arm.name] == float(cost_seconds(arm.annotation, train, np.ones(4, bool), 2).sum()) > 0


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"annotation": Annotation(statistics=("area",), **shared.clicks(5))}, "2 and the budget is 5"),
        ({"annotation": Annotation(pixels="scribble", statistics=("area",))}, "needs a data set with"),
        ({"annotation": Annotation(**shared.clicks(2))}, "Method summary_statistics needs statistics, but"),
        ({"settings": {"statistic_wait": 1.0}}, "Did you mean 'statistic_weight'"),
        ({"settings": {"statistic_weight": -1.0}}, "statistic_weight must lie in 0.1 .. 100"),
    ],
)  # fmt: skip
def test_an_arm_that_could_not_be_trained_is_refused(dataset, change, sentence):
    masks = dataset.masks_NHW.copy()
    masks[:, 2:5, 2:5] = 0
    masks[:, 2, 2:4] = 1  # two pixels an image
    few = dataclasses.replace(dataset, masks_NHW=masks, fingerprint="few")
    arm = dataclasses.replace(shared.statistic("arm", 2), search={}, **change)
    with pytest.raises(UserError, match=sentence.replace(".. ", r"\.\. ")):
        plan.check_arms(a_study(arms=[arm]), few, DATA)


def test_settings_of_the_network_and_the_protocol_are_checked(dataset):
    study = dataclasses.replace(a_study(), network_settings={"widht": 4})
    with pytest.raises(UserError, match="Did you mean 'width'"):
        plan.check_arms(study, dataset, DATA)
    protocol = dataclasses.replace(study.protocol, batch_size=0)
    with pytest.raises(UserError, match="batch_size must lie in"):
        plan.check_arms(dataclasses.replace(a_study(), protocol=protocol), dataset, DATA)


def test_replicates_on_other_folds_are_planned():
    study = dataclasses.replace(a_study(), replicates=Replicates(seeds=(1, 2), folds=(0, 1, 2)))
    assert a_plan(study).arms[0].confirm_trials == 6


def test_the_labels_of_every_fold_are_tried_out(dataset):
    """Fold 1 trains on an image of one class alone: its scribbles would teach nothing about the other."""
    masks = np.array(dataset.masks_NHW)
    masks[7] = 0
    split = Split(train=np.array([7]), val=np.array([4]), test=np.array([5]))
    folds = dataclasses.replace(
        dataset,
        masks_NHW=masks,
        folds=(*dataset.folds, split),
        fold_names=("0", "1"),
        fingerprint="two folds",
    )
    arm = Arm(name="dense", method="full_supervision", annotation=Annotation(pixels="dense"))
    study = dataclasses.replace(a_study(arms=[arm]), replicates=Replicates(seeds=(1,), folds=(0,)))
    plan.check_arms(study, folds, DATA)
    study = dataclasses.replace(study, replicates=Replicates(seeds=(1,), folds=(0, 1)))
    with pytest.raises(UserError, match=r"1 labelled images \(dense\) hold none of class 1"):
        plan.check_arms(study, folds, DATA)
