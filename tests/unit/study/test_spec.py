"""A study as a value: what it refuses and why, and that its file brings it back."""

import dataclasses
import json
import re

import pytest

from search_spaces import Choice, Float, Int, UserError
from study import discovery
from study.spec import Arm, Data, Replicates, Search, Study, base_point, space
from tests.unit.study.conftest import SEARCHED, a_study
from trainables.annotations import Annotation
from trainables.protocol import Protocol


def changed(**values):
    return dataclasses.replace(a_study(), **values)


def an_arm(**values):
    defaults = {"name": "arm", "method": "summary_statistics", "annotation": Annotation(statistics=("area",))}
    return Arm(**{**defaults, **values})


@pytest.mark.parametrize("name", [*discovery.names(), "toy"])
def test_the_file_brings_a_study_back(name):
    study = a_study() if name == "toy" else discovery.load(name)
    text = study.to_json()
    assert Study.from_json(text) == study
    assert Study.from_json(text).to_json() == text


def test_every_kind_of_value_comes_back():
    study = a_study(
        arms=[
            an_arm(
                settings={"statistic_weight": 2.0, "reconstruction": "none"},
                search={
                    "learning_rate": Choice((1e-3, 3e-3)),
                    "confidence_weight": Float(0.01, 0.5, log=True),
                },
            )
        ],
        rungs=(),
    )
    study = dataclasses.replace(
        study, data=Data(dataset="x.parquet", size=(32, 48), merge_foreground=True, fold=1),
        network_settings={"width": 4}, metric="hd95",
    )  # fmt: skip
    back = Study.from_json(study.to_json())
    assert back == study
    assert type(back.data.size) is tuple
    assert back.search.rungs == ()
    assert type(back.arms[0].search["learning_rate"].options) is tuple


def test_a_whole_number_range_comes_back_as_one():
    raw = a_study().to_dict()
    raw["arms"][0]["search"] = {"learning_rate": {"low": 1, "high": 3, "step": 1}}
    with pytest.raises(UserError, match=re.escape("learning_rate in 1 .. 3 leaves")):
        Study.from_dict(json.loads(json.dumps(raw)))
    assert dataclasses.asdict(Int(1, 3)) == {"low": 1, "high": 3, "step": 1}


@pytest.mark.parametrize(
    ("path", "key", "sentence"),
    [
        ((), "metrics", "A study's study has no 'metrics'. Did you mean 'metric'?"),
        (("search",), "trails", "A study's search has no 'trails'. Did you mean 'trials'?"),
        (("data",), "folds", "A study's data has no 'folds'. Did you mean 'fold'?"),
        (("protocol",), "iteration", "A study's protocol has no 'iteration'. Did you mean 'iterations'?"),
        (("replicates",), "seed", "A study's replicates has no 'seed'. Did you mean 'seeds'?"),
        (("arms", 0), "metod", "A study's arm has no 'metod'. Did you mean 'method'?"),
    ],
)
def test_an_unknown_key_in_a_file_is_named_with_the_near_one(path, key, sentence):
    raw = a_study().to_dict()
    raw["arms"] = [dict(a) for a in raw["arms"]]
    part = raw
    for step in path:
        part = part[step]
    part[key] = 1
    with pytest.raises(UserError) as error:
        Study.from_dict(raw)
    assert str(error.value) == sentence


@pytest.mark.parametrize("written", [None, 0, 2, "1"])
def test_another_format_is_refused(written):
    with pytest.raises(
        UserError, match=re.escape(f"written in format {written!r}, this program reads format 1")
    ):
        Study.from_dict({**a_study().to_dict(), "format": written})


def test_a_file_that_lacks_something_is_refused():
    raw = a_study().to_dict()
    del raw["arms"], raw["search"]
    with pytest.raises(UserError, match="must hold arms, search"):
        Study.from_dict(raw)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"arms": ()}, "Study toy needs at least one arm."),
        ({"metric": "dise"}, "There is no metric 'dise'. Did you mean 'dice'? Metrics: dice, iou, hd95, "
                             "area_error, size_error."),
        ({"search": Search(trials=0)}, "--trials must be 1 or more, but got 0."),
        ({"search": Search(lookahead=0)}, "search.lookahead must be 1 or more, but got 0."),
        ({"search": Search(reduction=1)}, "search.reduction must be 2 or more, but got 1."),
        ({"search": Search(sampler="bayes")},
         "search.sampler must be one of auto, gp, tpe, random, but got 'bayes'."),
        ({"search": Search(rungs=(0.5, 1.0))}, "search.rungs must lie between 0 and 1, but got (0.5, 1.0)."),
        ({"search": Search(rungs=(0,))}, "search.rungs must lie between 0 and 1, but got (0,)."),
        ({"replicates": Replicates(seeds=())}, "--replicates must be 1 or more, but got 0."),
        ({"replicates": Replicates(folds=())}, "--replicates must be 1 or more, but got 0."),
        ({"replicates": Replicates(seeds=(1, 1))},
         "replicates.seeds must differ from each other, but got (1, 1): a repeated one is no evidence."),
        ({"replicates": Replicates(folds=(0, 0))},
         "replicates.folds must differ from each other, but got (0, 0): a repeated one is no evidence."),
        ({"replicates": Replicates(seeds=(7, 0))},
         "replicates.seeds (7, 0) must not hold the search's own seed 0: the confirmation needs fresh ones."),
        ({"pairs": (("statistic", "statistik"),)},
         "The pair ('statistic', 'statistik') names no arm 'statistik'. Did you mean 'statistic'?"),
        ({"protocol": Protocol(learning_rate=0.1)},
         "Arm 'statistic' starts at learning_rate = 0.1, which its search 0.001 .. 0.01 (log) cannot reach."),
        ({"arms": (an_arm(search={"lerning_rate": Float(0.1, 0.2)}),)},
         "Nothing to search is called 'lerning_rate' in summary_statistics. Did you mean 'learning_rate'?"),
        ({"arms": (an_arm(search={"statistic_weight": Float(0.1, 1e6)}),)},
         "A search may only narrow: statistic_weight in 0.1 .. 1e+06 leaves 0.1 .. 100 (log)."),
        ({"arms": (an_arm(settings={"statistic_weight": 50}, search={"statistic_weight": Float(0.1, 10)}),)},
         "Arm 'arm' starts at statistic_weight = 50, which its search 0.1 .. 10 cannot reach."),
    ],
)  # fmt: skip
def test_each_rule_says_what_is_wrong(change, sentence):
    with pytest.raises(UserError) as error:
        changed(**change)
    assert str(error.value) == sentence


def test_two_arms_of_one_name_are_refused():
    with pytest.raises(UserError, match="must have different names"):
        changed(arms=(an_arm(), an_arm()))


def test_an_unknown_method_is_named_with_the_near_one():
    with pytest.raises(UserError, match="Did you mean 'summary_statistics'"):
        changed(arms=(an_arm(method="summary_statistic", search={"learning_rate": Float(1e-3, 1e-2)}),))


def test_the_compared_pairs_are_those_given_or_all():
    names = [a.name for a in a_study().arms]
    assert a_study().compared() == ((names[0], names[1]), (names[0], names[2]), (names[1], names[2]))
    assert changed(pairs=((names[2], names[0]),)).compared() == ((names[2], names[0]),)
    assert a_study().arm(SEARCHED) is a_study().arm(SEARCHED) or a_study().arm(SEARCHED).name == SEARCHED


def test_replicates_are_every_seed_on_every_fold():
    study = changed(replicates=Replicates(seeds=(5, 6), folds=(0, 2)))
    assert study.replicates.pairs() == [(5, 0), (5, 2), (6, 0), (6, 2)]
    assert study.num_replicates == 4


@pytest.mark.parametrize(("metric", "greater", "worst"), [("dice", True, 0.0), ("hd95", False, float("inf"))])
def test_the_direction_of_a_metric(metric, greater, worst):
    study = changed(metric=metric)
    assert (study.greater_is_better, study.worst) == (greater, worst)


def test_a_space_is_as_declared_or_narrower():
    out = space("summary_statistics", "statistic_weight", learning_rate=Choice((1e-3, 1e-2)))
    assert out == {"statistic_weight": Float(0.1, 100, log=True), "learning_rate": Choice((1e-3, 1e-2))}
    assert list(out) == ["statistic_weight", "learning_rate"]


@pytest.mark.parametrize(
    ("names", "narrowed", "sentence"),
    [
        (("statistic_wait",), {}, "Did you mean 'statistic_weight'"),
        (("iterations",), {}, "Nothing to search is called 'iterations'"),
        ((), {"learning_rate": Float(1e-6, 1e-2)}, "may only narrow"),
        ((), {"learning_rate": Choice((1e-3, 1.0))}, "may only narrow"),
    ],
)
def test_a_space_refuses_what_is_not_searched_or_wider(names, narrowed, sentence):
    with pytest.raises(UserError, match=sentence):
        space("summary_statistics", *names, **narrowed)


def test_the_base_point_is_settings_then_protocol_then_published_defaults():
    arm = an_arm(
        settings={"confidence_weight": 0.5},
        search=space("summary_statistics", "confidence_weight", "statistic_weight", "learning_rate"),
    )
    study = changed(arms=(arm,))
    assert base_point(study, arm) == {
        "confidence_weight": 0.5,
        "statistic_weight": 1.0,
        "learning_rate": 3e-3,
    }
