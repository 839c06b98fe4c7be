"""The command line, `run` and `extend` and the rest, over one toy study that trains no network."""

from __future__ import annotations

import functools
import os

from study import arms, cli, discovery, service
from study.spec import Data, Replicates, Search, Study
from tests.ray.toy import ToyTrainable

NAME = "toy"
DATASET = "TOY_DATASET"


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


def main() -> None:
    dataset = os.environ[DATASET]
    discovery.load = lambda name: define(dataset)
    service.run = functools.partial(service.run, trainable=ToyTrainable)
    cli.main("python -m tests.ray.driver")


if __name__ == "__main__":
    main()
