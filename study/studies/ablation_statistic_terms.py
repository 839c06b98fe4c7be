"""Which term of the summary-statistics loss does the work? (methods.md section 6, study 2)"""

from __future__ import annotations

from study import arms
from study.spec import Data, Replicates, Search, Study

BASE = "all terms"


def define() -> Study:
    """The loss with five pixels, each term dropped, and each named variant, one at a time."""
    variants = (
        arms.statistic(BASE, 5),
        arms.statistic("no reconstruction", 5, reconstruction_weight=0.0),
        arms.statistic("no statistic", 5, statistic_weight=0.0),
        arms.statistic("no pixels", 0),
        arms.statistic("no confidence", 5, confidence_weight=0.0),
        *(
            arms.statistic(f"{form} reconstruction", 5, reconstruction=form)
            for form in ("composite", "gated", "chan_vese")
        ),
        *(arms.statistic(f"{form} statistic error", 5, statistic_form=form) for form in ("abs", "sq")),
        arms.statistic("recall overlap", 5, overlap="recall"),
    )
    return Study(
        name="ablation_statistic_terms",
        question="Which term of the summary-statistics loss does the work, and which variant of it is best?",
        arms=variants,
        pairs=tuple((BASE, arm.name) for arm in variants[1:]),
        data=Data(dataset="phantoms-lesions"),
        search=Search(trials=4, lookahead=2, rungs=(0.5,)),
        replicates=Replicates(seeds=(1001, 1002, 1003)),
        network_settings=arms.SMALL_NETWORK,
        protocol=arms.short_protocol(250),
    )
