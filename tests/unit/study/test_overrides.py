"""`--set key=value`: what it changes, and the sentence for each way to get it wrong."""

import dataclasses

import pytest

from search_spaces import UserError
from study import overrides
from study.discovery import load
from study.spec import Arm
from tests.unit.study.conftest import DISCRETE, SEARCHED, a_study, discrete_arm
from trainables.annotations import Annotation


def one(*settings, study=None):
    return overrides.apply(study or a_study(), settings)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("protocol.iterations=30", lambda s: s.protocol.iterations == 30),
        ("iterations=30", lambda s: s.protocol.iterations == 30),
        (" iterations = 30 ", lambda s: s.protocol.iterations == 30),
        ("weight_decay=0.001", lambda s: s.protocol.weight_decay == 0.001),
        ("momentum=0", lambda s: s.protocol.momentum == 0.0 and type(s.protocol.momentum) is float),
        ("optimiser=sgd", lambda s: s.protocol.optimiser == "sgd"),
        ("metric=iou", lambda s: s.metric == "iou"),
        ("search.trials=7", lambda s: s.search.trials == 7),
        ("sampler=tpe", lambda s: s.search.sampler == "tpe"),
        ("rungs=0.25,0.5", lambda s: s.search.rungs == (0.25, 0.5)),
        ("rungs=0.25", lambda s: s.search.rungs == (0.25,)),
        ("rungs=()", lambda s: s.search.rungs == ()),
        ("replicates.seeds=7,8", lambda s: s.replicates.seeds == (7, 8)),
        ("folds=[0,1]", lambda s: s.replicates.folds == (0, 1)),
        ("data.size=64x48", lambda s: s.data.size == (64, 48)),
        ("size=NONE", lambda s: s.data.size is None),
        ("data.merge_foreground=True", lambda s: s.data.merge_foreground is True),
        ("merge_foreground=false", lambda s: s.data.merge_foreground is False),
        ("dataset=/some/file=1.parquet", lambda s: s.data.dataset == "/some/file=1.parquet"),
        ("network.width=4", lambda s: s.network_settings == {"width": 4}),
        ("width=4", lambda s: s.network_settings == {"width": 4}),
    ],
)
def test_a_value_is_read_as_the_kind_of_the_one_before(text, read):
    before = a_study()
    assert read(one(text))
    assert before == a_study()


def test_settings_are_applied_in_turn():
    assert one("iterations=10", "iterations=20").protocol.iterations == 20


def test_another_network_starts_from_its_own_defaults():
    study = one("network.width=4")
    assert one("network=timm_unet", study=study).network_settings == {}
    assert one("network=timm_unet", study=study).network == "timm_unet"
    with pytest.raises(UserError, match="Did you mean 'unet'"):
        one("network=unett")


def test_a_method_setting_is_fixed_in_its_arms_and_no_longer_searched():
    study = one("summary_statistics.statistic_weight=5")
    arm, other = study.arm(SEARCHED), study.arm(DISCRETE)
    assert arm.settings == {"statistic_weight": 5.0}
    assert type(arm.settings["statistic_weight"]) is float
    assert list(arm.search) == ["confidence_weight", "learning_rate"]
    assert other == a_study().arm(DISCRETE)
    assert one("statistic_weight=5") == study


def test_a_switched_off_term():
    assert one("confidence_weight=0").arm(SEARCHED).settings == {"confidence_weight": 0.0}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("iterations", "--set takes key=value, but got 'iterations'; for instance --set iterations=300."),
        ("iteration=3", "--set knows no key 'iteration'. Did you mean 'iterations'?"),
        ("serach.trials=3", "--set knows no key 'serach.trials'. Did you mean 'search.trials'?"),
        ("iterations=many", "--set protocol.iterations= takes a value like 60, but got 'many'."),
        ("iterations=1.5", "--set protocol.iterations= takes a value like 60, but got '1.5'."),
        ("iterations=True", "--set protocol.iterations= takes a value like 60, but got 'True'."),
        ("iterations={[]:1}", "--set protocol.iterations= takes a value like 60, but got '{[]:1}'."),
        ("iterations=", "--set protocol.iterations= takes a value like 60, but got ''."),
        ("iterations=-1", "the protocol: iterations must lie in 0 .. 1000000, but got -1;"),
        ("momentum=nan", "--set protocol.momentum= takes a value like 0.9, but got 'nan'."),
        ("momentum=1e999", "the protocol: momentum must lie in 0 .. 0.999, but got inf; its default is 0.9."),
        ("momentum=false", "--set protocol.momentum= takes a value like 0.9, but got 'false'."),
        ("optimiser=lion", "the protocol: optimiser must lie in sgd | adam, but got 'lion'"),
        ("merge_foreground=1", "--set data.merge_foreground= takes true or false, but got '1'."),
        ("size=64", "--set data.size= takes HEIGHTxWIDTH in pixels, such as 128x128, but got '64'."),
        ("size=0x64", "--set data.size= takes HEIGHTxWIDTH in pixels, such as 128x128, but got '0x64'."),
        ("size=²x64", "--set data.size= takes HEIGHTxWIDTH in pixels, such as 128x128, but got '²x64'."),
        ("rungs=half", "--set search.rungs= takes numbers such as 0.25,0.5, but got 'half'."),
        ("seeds=1.5,2", "--set replicates.seeds= takes numbers such as 1,2,3, but got '1.5,2'."),
        ("seeds=True", "--set replicates.seeds= takes numbers such as 1,2,3, but got 'True'."),
        ("sampler=bayes", "search.sampler must be one of auto, gp, tpe, random, but got 'bayes'."),
        ("width=0", "network unet: width must lie in"),
        ("statistic_weight=1000", "method summary_statistics: statistic_weight must lie in 0.1 .. 100"),
        ("learning_rate=0.1", "Arm 'statistic' starts at learning_rate = 0.1, which its search"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(text, sentence):
    with pytest.raises(UserError) as error:
        one(text)
    assert str(error.value).startswith(sentence)


def test_a_short_key_with_two_meanings_must_be_written_out():
    assert {k for k in overrides.keys(a_study()) if k.endswith(".fold")} == {"data.fold"}
    known = {"a.rate": 1, "b.rate": 2}
    with pytest.raises(UserError) as error:
        overrides._full_name("rate", known)
    assert str(error.value) == "--set rate= could mean a.rate or b.rate; write it out."
    assert overrides._full_name("a.rate", known) == "a.rate"


@pytest.mark.parametrize("name", ["toy", "smoke", "ablation_statistic_terms"])
def test_every_key_that_is_shown_can_be_given_back(name):
    study = a_study() if name == "toy" else load(name)
    study = one("data.size=32x64", "rungs=()", study=study)
    for key, value in overrides.keys(study).items():
        text = overrides.text_of(value)
        again = one(f"{key}={text or '()'}", study=study)
        if key.partition(".")[0] in ("protocol", "search", "data", "replicates", "metric"):
            assert again == study, key


def test_keys_show_the_values_of_now():
    known = overrides.keys(one("width=4", "iterations=30", "size=8x9"))
    assert (known["network.width"], known["protocol.iterations"], known["data.size"]) == (4, 30, "8x9")
    assert "full_supervision.dice_weight" in known
    only = dataclasses.replace(a_study(), arms=(discrete_arm(),))
    assert "full_supervision.dice_weight" not in overrides.keys(only)


def test_an_arm_of_another_method_is_left_alone():
    plain = Arm(name="dense", method="full_supervision", annotation=Annotation(pixels="dense"))
    study = dataclasses.replace(a_study(), arms=(*a_study().arms[:2], plain))
    assert one("dice_weight=0.25", study=study).arm("dense").settings == {"dice_weight": 0.25}
    assert one("dice_weight=0.25", study=study).arms[:2] == study.arms[:2]
