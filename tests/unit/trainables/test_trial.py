"""A trial's key is exactly its outcome's identity; what cannot be trained is refused in a sentence."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from search_spaces import UserError
from trainables.annotations import Annotation
from trainables.protocol import Protocol
from trainables.trial import DataSource, Trial

DATA = DataSource(path="/somewhere/acdc.parquet", fingerprint="0123abcd", size=(256, 256))
POINTS = Annotation(pixels="points", pixel_budget=5)
TRIAL = Trial(
    method="summary_statistics",
    settings={"statistic_weight": 2.5, "reconstruction": "gated"},
    annotation=Annotation(pixels="fg_points", pixel_budget=1, statistics=("area",)),
    network_settings={"width": 8},
    protocol=Protocol(iterations=1000),
    data=DATA,
    fold=2,
    seed=7,
)
KEY = "93138c0110dc89523c07"


def changed(**changes: Any) -> Trial:
    return dataclasses.replace(TRIAL, **changes)


def test_a_method_that_compares_images_needs_two_in_a_batch() -> None:
    trial = Trial(
        method="contrastive_variance", annotation=POINTS, protocol=Protocol(batch_size=1), data=DATA
    )
    with pytest.raises(UserError, match=r"so batch_size must be 2 or more, but got 1; raise it"):
        trial.check()
    dataclasses.replace(trial, protocol=Protocol(batch_size=2)).check()


def test_the_key_is_frozen() -> None:
    """A study is continued by its keys: whoever has to change this literal has to raise `trial.NUMERICS`."""
    assert TRIAL.key() == KEY


@pytest.mark.parametrize(
    "same",
    [
        changed(data=dataclasses.replace(DATA, path="/elsewhere/b.parquet")),
        changed(settings=dict(reversed(list(TRIAL.settings.items())))),
        changed(settings={**TRIAL.settings, "overlap_weight": 1.0, "overlap": "ce"}),
        changed(protocol=dataclasses.replace(TRIAL.protocol, labelled_per_batch=0, keep="last")),
        changed(network_settings={"levels": 5, "width": 8}),
        changed(protocol=Protocol(iterations=1000, momentum=0.9)),
    ],
    ids=["path", "order", "default", "as before", "network default", "protocol default"],
)
def test_what_does_not_matter_changes_no_key(same: Trial) -> None:
    assert same.key() == TRIAL.key()


def test_a_whole_number_is_the_same_as_its_float() -> None:
    """A study's file says `1` where the default is 1.0, Optuna says 1.0."""

    def key(number: float) -> str:
        annotation = dataclasses.replace(TRIAL.annotation, statistic_error=number)
        protocol = Protocol(momentum=0 * number, learning_rate=number)
        return changed(settings={"statistic_weight": number}, annotation=annotation, protocol=protocol).key()

    assert key(1) == key(1.0) != key(2.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 8},
        {"fold": 1},
        {"test": True},
        {"settings": {**TRIAL.settings, "statistic_weight": 2.6}},
        {"settings": {"statistic_weight": 2.5}},
        {"annotation": POINTS},
        {"annotation": dataclasses.replace(TRIAL.annotation, pixel_budget=2)},
        {"annotation": dataclasses.replace(TRIAL.annotation, placement="center")},
        {"annotation": dataclasses.replace(TRIAL.annotation, statistic_error=0.1)},
        {"protocol": Protocol(iterations=1001)},
        {"protocol": Protocol(iterations=1000, augmentation="none")},
        {"protocol": Protocol(iterations=1000, augmentation="heavy")},
        {"network_settings": {"width": 16}},
        {"network": "timm_unet", "network_settings": {}},
        {"method": "partial_cross_entropy", "settings": {}},
        {"data": dataclasses.replace(DATA, fingerprint="0123abce")},
    ],
    ids=str,
)
def test_what_matters_changes_the_key(changes: dict[str, Any]) -> None:
    assert changed(**changes).key() != TRIAL.key()


@pytest.mark.parametrize("trial", [TRIAL, changed(data=dataclasses.replace(DATA, size=None), test=True)])
def test_json_and_back(trial: Trial) -> None:
    again = Trial.from_dict(json.loads(json.dumps(trial.to_dict())))
    assert again == trial
    assert again.key() == trial.key()


def test_the_order_of_the_statistics_means_nothing() -> None:
    one, other = (
        changed(annotation=dataclasses.replace(TRIAL.annotation, statistics=names))
        for names in (("area", "centroid"), ("centroid", "area"))
    )
    assert one.key() == other.key() != TRIAL.key()


def test_a_good_trial_passes() -> None:
    TRIAL.check()
    changed(settings={"statistic_weight": 0.0}).check()  # switched off
    heavy = Protocol(augmentation="heavy")
    changed(method="partial_cross_entropy", settings={}, annotation=POINTS, protocol=heavy).check()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"annotation": POINTS},
            r"needs statistics, but .* \(points, 5 pixels, statistics \[\]\) grants \['pixels'\]; give",
        ),
        (
            {"method": "full_supervision", "settings": {}},
            r"full_supervision needs dense, but .* grants \['pixels', 'statistics'\]; give the arm",
        ),
        ({"method": "summary_statistic"}, r"no method '\w+'\. Did you mean 'summary_statistics'\?"),
        (
            {"settings": {"statistics_weight": 1.0}},
            r"summary_statistics has no setting '\w+'\. Did you mean 'statistic_weight'\?",
        ),
        (
            {"settings": {"statistic_weight": 1000.0}},
            r"statistic_weight must lie in 0\.1 \.\. 100 \(log\) or be 0 \(off\), but got 1000\.0",
        ),
        ({"settings": {"reconstruction": "gate"}}, r"reconstruction must lie in none \| .*, but got 'gate'"),
        ({"network": "unett"}, r"no network 'unett'\. Did you mean 'unet'\?"),
        ({"network_settings": {"depth": 3}}, r"network unet has no setting 'depth'"),
        ({"protocol": Protocol(learning_rate=1.0)}, r"protocol: learning_rate must lie in .*, but got 1\.0"),
        ({"protocol": Protocol(iterations=0)}, "iterations = 0 scores a pre-trained .* has none"),
        ({"protocol": Protocol(iterations=-1)}, r"protocol: iterations must lie in 0 \.\. .*, but got -1"),
        ({"protocol": Protocol(labelled_per_batch=13)}, "must not exceed batch_size, but got 13 of 12"),
        (
            {"protocol": Protocol(labelled_per_batch=2), "annotation": Annotation(statistics=("area",))},
            r"labelled_per_batch = 2 needs images .*, but the annotation has none \(pixels = 'none'\)",
        ),
        (
            {"protocol": Protocol(augmentation="heavy")},
            r"'heavy' warps images.* but the annotation has \['area'\]; use 'flips_turns' or leave them out",
        ),
        (
            {
                "protocol": Protocol(augmentation="heavy"),
                "annotation": dataclasses.replace(POINTS, statistics=("presence",)),
            },
            r"but the annotation has \['presence'\]; use",
        ),
        (
            {"pretraining": changed(protocol=Protocol(augmentation="heavy"))},
            r"'heavy' warps images.* but the annotation has \['area'\]",
        ),
    ],
    ids=[
        "no statistics", "not dense", "method", "setting", "range", "choice", "network", "network setting",
        "learning rate", "no iteration", "less than none", "more labelled than drawn", "nothing labelled",
        "warped areas", "warped tags", "a warped first stage",
    ],
)  # fmt: skip
def test_what_can_not_be_trained_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        changed(**changes).check()
