"""What MLflow's UI says about studies and arms, within what it can hold."""

import pytest

from study import discovery, notes
from study.run_format import LONGEST_TAG


@pytest.mark.parametrize("name", discovery.names())
def test_every_arm_of_every_study_says_what_it_is(name):
    study = discovery.load(name)
    for arm in study.arms:
        note = notes.of_arm(study, arm)
        assert f"`{arm.method}`" in note
        assert len(note) <= LONGEST_TAG
        for searched in arm.search:
            assert f"* Searched: `{searched}` in " in note
        for fixed in arm.settings:
            assert f"* Fixed: `{fixed}` = " in note


def test_the_note_of_a_study_names_the_metrics_as_mlflow_does():
    note = notes.of_study("Why?", "hd95", greater_is_better=False)
    assert note.startswith("**Why?**\n")
    assert "`test_hd95_low` to `test_hd95_high`" in note
    assert "`hd95` is their validation value (lowest is best)" in " ".join(note.split())
