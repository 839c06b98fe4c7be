"""The command line, `run` and `extend` and the rest, over a toy study, or a tiny real one."""

from __future__ import annotations

import dataclasses
import functools
import os

from study import arms, cli, discovery, service
from study.spec import Data, Replicates, Search, Study
from tests.ray.toy import ToyTrainable

NAME = "toy"
DATASET = "TOY_DATASET"
REAL = "TOY_REAL"
"""Set: the study is `define_one`, and a network is trained."""

ITERATIONS = 300
"""Of `define_one`; it reports at the half and at the end."""


def define(dataset: str) -> Study:
    """Two arms, one with a space of three dimensions; six reports a trial, a rung after the second."""
    return Study(
        name=NAME,
        question="Does the engine keep every trial?",
        arms=(arms.statistic("statistic", 2), arms.full()),
        data=Data(dataset=dataset),
        search=Search(trials=5, sampler="tpe", lookahead=2, rungs=(1 / 3,)),
        replicates=Replicates(seeds=(1001, 1002)),
        protocol=arms.short_protocol(12, reports=6),
    )


def define_one(dataset: str) -> Study:
    """One arm, one trial, two reports."""
    return dataclasses.replace(
        define(dataset),
        arms=(dataclasses.replace(arms.full(), search={}),),
        replicates=Replicates(seeds=(1001,)),
        protocol=arms.short_protocol(ITERATIONS, reports=2),
    )


def recorded() -> type:
    from tests.ray.recorded import RecordedTrainable

    return RecordedTrainable


def main() -> None:
    dataset, real = os.environ[DATASET], REAL in os.environ
    discovery.load = lambda name: define_one(dataset) if real else define(dataset)
    service.run = functools.partial(service.run, trainable=recorded() if real else ToyTrainable)
    cli.main("python -m tests.ray.driver")


if __name__ == "__main__":
    main()
