"""Is the statistic alone enough, and what do five clicked pixels add? (methods.md section 6, study 1)"""

from __future__ import annotations

from study import arms
from study.spec import Data, Replicates, Search, Study


def define() -> Study:
    """Four arms on ultrasound phantoms; made for two cores and ten minutes."""
    return Study(
        name="ablation_pixels",
        question="Is the area that a doctor wrote down enough, or must we pay for five clicks an image?",
        arms=(
            arms.statistic("statistic only", 0),
            arms.statistic("statistic + 5 pixels", 5),
            arms.pixels_only(5),
            arms.full(),
        ),
        data=Data(dataset="phantoms-lesions"),
        search=Search(trials=4, lookahead=2, rungs=(0.5,)),
        replicates=Replicates(seeds=(1001, 1002, 1003)),
        network_settings=arms.SMALL_NETWORK,
        protocol=arms.short_protocol(250),
    )
