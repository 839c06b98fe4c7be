"""The command that a report names gives the same definition; facts come from the ledger."""

import dataclasses
import shlex

from dashboards.reproduction import command, facts
from study import discovery, overrides, targets
from study.home import agree
from tests.unit.dashboards.studies import MACHINE, a_source, a_trial


def values(table):
    return {row[0].text: row[1].text for row in table.rows}


def test_a_study_as_its_file_has_it():
    assert command(discovery.load("smoke")) == "python -m study.run smoke"


def test_a_changed_study_is_given_by_its_options():
    study = overrides.apply(
        discovery.load("ablation_pixels"),
        ["iterations=77", "data.size=32x32", "network.width=4", "replicates.seeds=5,6"],
    )
    study = dataclasses.replace(
        targets.asked_for(study, trials=3, replicates=None),
        name="mine",
        data=dataclasses.replace(study.data, dataset="a file.parquet"),
    )
    words = shlex.split(command(study))
    assert words[:4] == ["python", "-m", "study.run", "ablation_pixels"]
    options = dict(zip(words[4::2], words[5::2], strict=True))
    assert (options["--dataset"], options["--fork"], options["--trials"]) == ("a file.parquet", "mine", "3")
    settings = [word for option, word in zip(words[4::2], words[5::2], strict=True) if option == "--set"]
    again = overrides.apply(discovery.load("ablation_pixels"), settings)
    again = dataclasses.replace(again, name="mine", data=study.data)
    agree(study, again)  # raises otherwise
    assert again.replicates.seeds == (5, 6)


def test_a_definition_that_no_command_gives_is_not_given_one():
    study = discovery.load("ablation_pixels")
    other = dataclasses.replace(study.arms[0], longer=3)
    assert command(dataclasses.replace(study, arms=(other, *study.arms[1:]))) is None
    assert command(a_source({"a": 0.5}).spec) is None


def test_facts_of_the_ledger():
    data = {"path": "p", "fingerprint": "abc123", "size": None, "merge_foreground": False}
    details = {"trial": {"data": data}, "host": "here", "machine": MACHINE}
    spec = a_source({"a": 0.5}).spec
    found = values(facts(spec, [a_trial("a", n, details=details) for n in range(3)]))
    assert found["fingerprint"] == "abc123"
    assert found["ran on"] == "cpu of here (3)"
    assert found["versions"] == "torch 9.9"
    assert found["seeds of the replicates"] == "1001, 1002"


def test_facts_of_an_earlier_ledger():
    found = values(facts(a_source({"a": 0.5}).spec, [a_trial("a", details={})]))
    assert found["fingerprint"] == "no trial has recorded one"
    assert found["ran on"] == "a device that was not recorded of an unnamed host (1)"
    assert found["versions"].startswith("not recorded")
