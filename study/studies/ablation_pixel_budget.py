"""How many clicked pixels must we pay for, with the statistic and without? (methods.md section 6, study 1)"""

from __future__ import annotations

from study import arms
from study.spec import Data, Replicates, Search, Study

BUDGETS = (1, 2, 5, 10, 20, 50)


def define() -> Study:
    """Fourteen arms on ultrasound phantoms; the pixel sets are nested, so that like is compared with like."""
    with_statistic = {k: arms.statistic(f"statistic + {arms.pixels(k)}", k) for k in BUDGETS}
    without = {k: arms.pixels_only(k) for k in BUDGETS}
    none, full = arms.statistic("statistic only", 0), arms.full()
    return Study(
        name="ablation_pixel_budget",
        question="How many clicked pixels an image are enough, with the reported area and without it?",
        arms=(none, *with_statistic.values(), *without.values(), full),
        pairs=(
            *((with_statistic[k].name, without[k].name) for k in BUDGETS),
            *((arm.name, none.name) for arm in with_statistic.values()),
            *((full.name, arm.name) for arm in with_statistic.values()),
        ),
        data=Data(dataset="phantoms-lesions"),
        search=Search(trials=4, lookahead=2, rungs=(0.5,)),
        replicates=Replicates(seeds=(1001, 1002, 1003)),
        network_settings=arms.SMALL_NETWORK,
        protocol=arms.short_protocol(250),
    )
