"""Rows of a ledger, made up, for the tests of what is drawn from them."""

from __future__ import annotations

from typing import Any

from study.results import CaseRow, TrialRow


def trial(number: int, **changes: Any) -> TrialRow:
    """A finished trial of a search that reported twice."""
    values: dict[str, Any] = {
        "key": f"key{number}",
        "arm": "a",
        "phase": "search",
        "number": number,
        "state": "finished",
        "value": 0.5,
        "seed": 0,
        "fold": 0,
        "parameters": {},
        "iterations": 20,
        "seconds": 1.0,
        "annotation_seconds": 1.0,
        "curve": [{"iteration": 10.0, "dice": 0.4}, {"iteration": 20.0, "dice": 0.5}],
    }
    return TrialRow(**{**values, **changes})


def case(case_id: str, dice: float, **changes: Any) -> CaseRow:
    """The score of the first class in one case of replicate 0 of arm "a"."""
    values: dict[str, Any] = {
        "key": "key0", "arm": "a", "phase": "confirm", "replicate": 0, "seed": 1001, "fold": 0,
        "split": "test", "case_id": case_id, "volume_id": case_id, "class_id": 1,
        "class_name": "lesion", "dice": dice,
        "iou": dice / 2, "hd95": 3.0, "hd95_max": 4.0, "distance_unit": "mm", "area_error": 0.1,
        "relative_area_error": 0.2, "size_error": 4.0, "missed": False, "false_alarm": False,
        "both_empty": False,
    }  # fmt: skip
    return CaseRow(**{**values, **changes})
