"""Does the whole path work here? Data, workers, search, confirmation, answer, in under a minute."""

from __future__ import annotations

from study import arms
from study.spec import Data, Replicates, Search, Study


def define() -> Study:
    """Two arms, trainings of a few seconds: it proves the path, its numbers mean nothing."""
    return Study(
        name="smoke",
        question="Does everything from the data to the answer work on this machine?",
        arms=(arms.statistic("statistic + 5 pixels", 5), arms.full()),
        data=Data(dataset="phantoms-lesions"),
        search=Search(trials=2, lookahead=1, rungs=(0.5,)),
        replicates=Replicates(seeds=(1001, 1002)),
        network_settings={"width": 4, "levels": 3},
        protocol=arms.short_protocol(24, reports=2),
    )
