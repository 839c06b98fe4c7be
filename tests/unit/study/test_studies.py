"""The shipped studies: found by file name, well formed, and each arm trainable on paper."""

import dataclasses
import sys
import types

import pytest

from search_spaces import UserError
from study import click_arms, datasets, discovery, plan, studies
from study.home import Home
from study.plan import trial_of
from study.schedule import rung_iterations
from study.spec import base_point
from tests.unit.study.conftest import DATA, a_study
from trainables import discovery as methods
from trainables.batches import weak_labels

ALL = discovery.names()


def test_the_studies_are_the_files():
    assert {"smoke", "ablation_pixels", "ablation_pixel_budget"} <= set(ALL)
    assert sorted(ALL) == ALL


@pytest.mark.parametrize("name", ALL)
def test_a_shipped_study_is_well_formed(name):
    study = discovery.load(name)
    assert study.question.endswith(("?", "."))
    assert len(study.arms) >= 2
    assert study.num_replicates >= 2
    if any(arm.search for arm in study.arms):
        rungs = rung_iterations(study.protocol, study.search.rungs)
        assert rungs, "no trial would ever be stopped early"
    assert len({frozenset(pair) for pair in study.compared()}) == len(study.compared())


@pytest.mark.parametrize("name", ALL)
def test_each_arm_may_be_trained_and_differs_from_the_others(name):
    study = discovery.load(name)
    keys = set()
    for arm in study.arms:
        trial = trial_of(study, arm, base_point(study, arm), DATA, seed=0, fold=0, test=False)
        trial.check()
        keys.add(trial.key())
    assert len(keys) == len(study.arms)


def test_every_weak_method_is_compared_on_points_and_on_scribbles():
    """A method of pixels that is in no study would be one that nobody ever sees the worth of."""
    of_pixels = {name for name in methods.names() if methods.load(name).needs == frozenset({"pixels"})}
    assert set(click_arms.METHODS.values()) == of_pixels
    for name in ("methods_acdc", "methods_scribble"):
        arms = discovery.load(name).arms
        assert {arm.method for arm in arms} == of_pixels | {"full_supervision"}
        assert sum(arm.longer > 1 and arm.protocol == {"augmentation": "heavy"} for arm in arms) == 1


def test_the_methods_are_compared_at_one_budget_of_time():
    study = discovery.load("annotation_cost")
    budgets = {arm.annotation.seconds_per_image for arm in study.arms}
    assert budgets == {2.5, 10.0, 40.0}
    equal = [arm for arm in study.arms if arm.annotation.seconds_per_image == 10.0]
    assert {arm.method for arm in equal} >= set(click_arms.METHODS.values())


def test_the_edge_filter_is_the_only_difference_within_a_pair():
    study = discovery.load("ablation_edge_filter")
    for filtered, plain in study.pairs:
        one, other = (
            trial_of(study, study.arm(name), {}, DATA, seed=1, fold=0, test=True)
            for name in (filtered, plain)
        )
        assert one.pretraining.key() == other.pretraining.key()
        assert (one.protocol.edge_filter, other.protocol.edge_filter) == (50, 0)
        assert dataclasses.replace(one, protocol=other.protocol) == other


@pytest.mark.slow
@pytest.mark.parametrize("name", ["annotation_cost", "ablation_points", "ablation_point_placement"])
def test_the_phantoms_hold_what_every_arm_asks_of_them(name, tmp_path):
    """A budget that pays for too few masks leaves a class without any."""
    study = discovery.load(name)
    home = Home(tmp_path)
    dataset, data = datasets.open_data(study.data, home)
    for seed in study.replicates.seeds:
        for arm in study.arms:
            weak_labels(trial_of(study, arm, {}, data, seed=seed, fold=0, test=False), dataset)
    assert set(plan.check_arms(study, dataset, data)) == {arm.name for arm in study.arms}


def test_an_unknown_study_is_named_with_the_near_one():
    with pytest.raises(
        UserError, match=r"There is no study 'smok'. Did you mean 'smoke'\? Studies: ablation"
    ):
        discovery.load("smok")


def test_a_file_must_define_a_study_of_its_name(monkeypatch, tmp_path):
    (tmp_path / "other.py").write_text("")
    monkeypatch.setattr(studies, "__path__", [*studies.__path__, str(tmp_path)])
    module = types.ModuleType("study.studies.other")
    module.define = a_study
    monkeypatch.setitem(sys.modules, "study.studies.other", module)
    with pytest.raises(TypeError, match=r"other\.py must define a study of its own name, not 'toy'"):
        discovery.load("other")
