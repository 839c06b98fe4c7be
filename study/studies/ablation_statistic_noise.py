"""How exact must the reported area be? (methods.md section 6, study 3)"""

from __future__ import annotations

from study import arms
from study.spec import Data, Replicates, Search, Study

ERRORS = (0.0, 0.05, 0.1, 0.2, 0.5)


def define() -> Study:
    """Five pixels with areas of growing relative error, and five pixels without any area."""
    noisy = tuple(
        arms.statistic(f"area known to {100 * e:.0f} %" if e else "exact area", 5, error=e) for e in ERRORS
    )
    without = arms.pixels_only(5)
    return Study(
        name="ablation_statistic_noise",
        question="How exact must the reported area be to help beside five clicked pixels?",
        arms=(*noisy, without),
        pairs=(*((noisy[0].name, arm.name) for arm in noisy[1:]), *((a.name, without.name) for a in noisy)),
        data=Data(dataset="phantoms-lesions"),
        search=Search(trials=4, lookahead=2, rungs=(0.5,)),
        replicates=Replicates(seeds=(1001, 1002, 1003)),
        network_settings=arms.SMALL_NETWORK,
        protocol=arms.short_protocol(250),
    )
