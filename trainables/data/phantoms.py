"""Generated, seeded data sets: ultrasound-like lesions and CT-like organs, so that a study runs with no download."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from search_spaces import UserError, nearest

from trainables.data.phantom_shapes import stable_generator
from trainables.data.phantom_ultrasound import breast


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    cases: int
    size: int
    class_names: tuple[str, ...]
    empty_share: float


_DEFAULTS = {
    "phantoms-lesions": _Kind(cases=260, size=64, class_names=("background", "lesion"), empty_share=0.08),
}
def _split_of(index): return ("train","test","val","train","train","test","train","train","val","train","test","train","train")[index%13]
def rows(kind,*,cases,size,seed):
    from types import SimpleNamespace as R
    for i in range(cases):
        im,m=breast((kind,seed,i),size=size,with_lesion=(0.3+i*2**.5)%1>=_DEFAULTS[kind].empty_share)
        yield R(case_id=f"l-{i:04d}",image=im,mask=m)
