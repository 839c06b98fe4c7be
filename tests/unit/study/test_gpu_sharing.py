"""How many trials share a GPU: by hand, and that no measurement leads beyond memory or cores."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces import Int
from study import arms as shared
from study import gpu_sharing
from study.gpu_sharing import GAIN, HEADROOM, MOST, Measured, counts, decide, fitting, share_of
from study.spec import PRETRAINING, Arm, Stage
from tests.unit.study.conftest import DATA, a_study
from trainables.annotations import Annotation

GIB = 1024**3


def measured(**changes) -> Measured:
    """80 GiB; one trial takes 3.5 GiB and its context 0.5; all scale well."""
    values = {
        "gpu": "A GPU", "total_bytes": 80 * GIB, "context_bytes": GIB // 2,
        "peaks": {"small": GIB, "large": 7 * GIB // 2}, "busy": 0.31,
        "speedups": {1: 1.0, 2: 1.9, 4: 3.5, 8: 6.0, 16: 9.0},
    }  # fmt: skip
    return Measured(**{**values, **changes})


SMALL = {"total_bytes": 24 * GIB, "speedups": {1: 1.0, 2: 1.9, 4: 3.5, 5: 4.2}}


def test_memory_by_hand():
    assert fitting(7 * GIB // 2, GIB // 2, 80 * GIB) == 18  # 72 GiB of 4 each
    assert fitting(80 * GIB, GIB, 80 * GIB) == 0
    assert fitting(71 * GIB, GIB, 80 * GIB) == 1


@pytest.mark.parametrize(
    ("changes", "cores", "wanted", "trials", "why"),
    [
        ({}, 64, 64, 16, "more than 16 are not tried"),
        ({}, 8, 64, 8, "there are no CPUs for more"),
        ({}, 64, 4, 4, "the study never runs more at once"),
        (SMALL, 64, 64, 5, "more would not fit its memory"),
        ({"peaks": {"a": 79 * GIB}}, 64, 64, 1, "more would not fit its memory"),
        ({"speedups": {1: 1.0, 2: 1.05}}, 64, 64, 1, "more would not train faster in all"),
        ({"speedups": {1: 1.0, 2: 1.9, 4: 2.0, 8: 8.0}}, 64, 64, 2, "more would not train faster in all"),
        ({"speedups": {1: 1.0, 2: 1.9, 4: 3.0}}, 64, 64, 4, "more would not fit its memory"),
        ({"speedups": {1: 1.0}}, 0, 64, 1, "there are no CPUs for more"),
    ],
)
def test_the_decision_by_hand(changes, cores, wanted, trials, why):
    chosen = decide(measured(**changes), cores=cores, wanted=wanted)
    assert chosen.trials == trials
    assert f", because {why}: " in chosen.reason


def test_the_reason_names_all_that_was_measured():
    told = decide(measured(speedups={1: 1.0, 2: 1.9, 4: 2.0}), cores=16, wanted=16)
    assert told.share == 0.5
    assert told.reason == (
        "2 trials share a GPU (--gpus-per-trial 0.5), because more would not train faster in all: one takes "
        "up to 4.0 of 80.0 GiB of A GPU (arm 'large') and keeps it 31 % busy; 2 together 1.9, 4 together 2 "
        "times as fast as one."
    )
    alone = decide(measured(speedups={1: 1.0}, busy=None), cores=1, wanted=16)
    assert alone.reason == (
        "A trial takes a whole GPU (--gpus-per-trial 1), because there are no CPUs for more: one takes up to "
        "4.0 of 80.0 GiB of A GPU (arm 'large')."
    )


@pytest.mark.parametrize(
    ("most", "tried"), [(0, [1]), (1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (16, [1, 2, 4, 8, 16])]
)
def test_what_is_tried(most, tried):
    assert counts(most) == tried


@pytest.mark.parametrize("trials", range(1, MOST + 1))
def test_as_many_shares_fit_as_were_meant(trials):
    """Also in Ray's own arithmetic, of ten-thousandths, where three thirds would be too much."""
    share = share_of(trials)
    assert round(share * 10_000) * trials <= 10_000
    assert int(1 / share + 1e-9) == trials


BYTES = st.integers(0, 200 * GIB)


@st.composite
def any_measurement(draw) -> Measured:
    speedups = draw(st.dictionaries(st.integers(2, MOST), st.floats(0, 20), max_size=6))
    return measured(
        total_bytes=draw(st.integers(1, 200 * GIB)),
        context_bytes=draw(BYTES),
        peaks=draw(st.dictionaries(st.sampled_from("abc"), BYTES, min_size=1)),
        busy=draw(st.none() | st.floats(0, 1)),
        speedups={1: 1.0, **speedups},
    )


@settings(max_examples=100, deadline=None, derandomize=True)
@given(one=any_measurement(), cores=st.integers(0, 64), wanted=st.integers(0, 64))
def test_never_beyond_memory_cores_or_what_was_measured(one, cores, wanted):
    chosen = decide(one, cores=cores, wanted=wanted)
    assert chosen.trials >= 1
    if chosen.trials > 1:
        each = max(one.peaks.values()) + one.context_bytes
        assert chosen.trials * each <= one.total_bytes * (1 - HEADROOM)
        assert chosen.trials <= min(cores, wanted, MOST)
        assert one.speedups[chosen.trials] >= 1 + GAIN
    assert chosen.reason.count(".") >= 1
    assert chosen.reason.endswith(".")


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    one=any_measurement(),
    speeds=st.lists(st.floats(1, 20), min_size=MOST - 1, max_size=MOST - 1),
    cores=st.integers(1, 32),
    more=st.integers(0, 32),
    bytes_more=BYTES,
)
def test_more_memory_or_cores_never_mean_fewer_trials(one, speeds, cores, more, bytes_more):
    """As long as more trials are never slower in all."""
    one = dataclasses.replace(one, speedups=dict(enumerate(sorted([1.0, *speeds]), 1)))
    few = decide(one, cores=cores, wanted=64).trials
    assert decide(one, cores=cores + more, wanted=64).trials >= few
    larger = dataclasses.replace(one, total_bytes=one.total_bytes + bytes_more)
    assert decide(larger, cores=cores, wanted=64).trials >= few
    heavier = dataclasses.replace(one, context_bytes=one.context_bytes + bytes_more)
    assert decide(heavier, cores=cores, wanted=64).trials <= few


def test_what_is_tried_of_a_study():
    """Every arm where it starts, what is counted at its most, and one pre-training."""
    stage = Stage(method="full_supervision", annotation=Annotation(pixels="dense", labelled_images=2))
    counted = Arm(
        name="counted", method="crf_refinement", annotation=Annotation(**shared.clicks(1)),
        search={"rounds": Int(1, 4)},
    )  # fmt: skip
    plain = shared.statistic("plain", 5)
    base = a_study(arms=[counted, plain])
    staged = dataclasses.replace(plain, pretraining=stage)
    study = dataclasses.replace(base, arms=(counted, staged), pretraining=base.protocol)
    tried = gpu_sharing.samples(study, DATA)
    assert set(tried) == {"counted", "plain", PRETRAINING}
    assert tried["counted"].settings["rounds"] == 4
    assert tried["plain"].settings["statistic_weight"] == 1.0
    assert tried[PRETRAINING].annotation == stage.annotation


def test_how_many_trials_a_study_can_run_at_once():
    fixed = Arm(name="fixed", method="full_supervision", annotation=Annotation(pixels="dense"))
    study = a_study(arms=[shared.statistic("searched", 5), fixed], lookahead=3, seeds=(1, 2))
    assert gpu_sharing.most_at_once(study) == 3 + 2
    assert gpu_sharing.most_at_once(a_study(arms=[fixed], seeds=(1, 2, 3, 4, 5))) == 5
