"""Which cases train, which select and which test: whole groups on one side, checked for leaks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from search_spaces import UserError, nearest

PARTS = ("train", "val", "test")
VALIDATION_EVERY = 8
"""Where a published fold names no validation set, every eighth training group becomes one."""

Parts = dict[str, list[str]]


def by_case(
    groups: Mapping[str, str], seed: int = 0, fractions: tuple[float, float, float] = (0.7, 0.1, 0.2)
) -> Parts:
    """Case ids by part ("train", "val", "test"), each sorted; a function of names and seed alone.

    `groups` gives the group of each case (cases that must not be separated). The groups are ranked by
    a stable hash, so the order of `groups` changes nothing; the `fractions` count groups, are rounded,
    and no part stays empty. Raises UserError for fewer than three groups or unusable fractions.
    """
    if min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise UserError(f"The three parts' fractions must be positive and add up to 1, but got {fractions}.")
    ranked = _ranked(set(groups.values()), seed)
    count = len(ranked)
    if count < 3:
        raise UserError(
            f"A split into train, val and test needs three independent cases or more, but there are {count}; "
            "add cases, or give the split by hand."
        )
    val = min(max(1, round(fractions[1] * count)), count - 2)
    test = min(max(1, round(fractions[2] * count)), count - val - 1)
    part_of = dict.fromkeys(ranked, "train")
    part_of |= dict.fromkeys(ranked[:test], "test")
    part_of |= dict.fromkeys(ranked[test : test + val], "val")
    return {part: sorted(c for c, g in groups.items() if part_of[g] == part) for part in PARTS}


def folds_of(document: Mapping[str, Any] | None, groups: Mapping[str, str], where: str) -> dict[str, Parts]:
    """The folds that a split document describes, by name, restricted to the cases in `groups`.

    `document` holds {"folds": {name: {"train": [...], "test": [...]}}} or {"split": {...}}; None means
    `by_case`. Further families of folds, {FAMILY: {"folds": {...}}}, follow as "FAMILY/name". Fold 0, the
    default, is the first. The "same_images" (lists of cases that show the same images) join groups. A fold
    without a "val" list gets one from its training cases, see `VALIDATION_EVERY`. `where` names the file in
    errors.
    Raises UserError for a leak between parts, an empty part or a malformed document.
    """
    if document is None:
        return {"split": by_case(groups)}
    twins = document.get("same_images", [])
    if not (isinstance(twins, list | tuple) and all(_are_texts(cases) for cases in twins)):
        raise UserError(f"{where}: 'same_images' must be lists of case ids, but is {twins!r:.60}.")
    groups = _joined(groups, twins)
    named = dict(_named_folds(document, where))
    return {name: _checked(fold, groups, f"{where}: {name}") for name, fold in named.items()}


def _named_folds(document: Mapping[str, Any], where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    first = document.get("folds") or {"split": document.get("split")}
    families = {
        f"{name}/": part["folds"]
        for name, part in document.items()
        if name not in ("folds", "split") and isinstance(part, Mapping) and "folds" in part
    }
    for prefix, folds in {"": first, **families}.items():
        if not isinstance(folds, Mapping) or not all(isinstance(fold, Mapping) for fold in folds.values()):
            raise UserError(f"{where}: splits must hold 'split' or 'folds', but hold {sorted(document)}.")
        yield from ((f"{prefix}{name}", fold) for name, fold in folds.items())


def _checked(fold: Mapping[str, Any], groups: Mapping[str, str], where: str) -> Parts:
    for part, cases in fold.items():
        if part not in PARTS:
            raise UserError(
                f"{where} has a part {part!r}; parts are train, val and test.{nearest(part, PARTS)}"
            )
        if not _are_texts(cases):
            raise UserError(f"{where}: part {part!r} must be a list of case ids, but is {cases!r:.60}.")
    parts = {part: sorted(set(fold.get(part, ())) & groups.keys()) for part in PARTS}
    if "val" not in fold:
        parts["train"], parts["val"] = _carved(parts["train"], groups)
    for part in PARTS:
        if not parts[part]:
            raise UserError(
                f"{where}: no case of part {part!r} lies in the file; each of train, val and test needs one."
            )
    _refuse_leaks(parts, groups, where)
    return parts


def _are_texts(values: object) -> bool:
    return isinstance(values, list | tuple) and all(isinstance(value, str) for value in values)


def _refuse_leaks(parts: Parts, groups: Mapping[str, str], where: str) -> None:
    seen: dict[str, tuple[str, str]] = {}
    for part in PARTS:
        for case in parts[part]:
            other, other_part = seen.setdefault(groups[case], (case, part))
            if other_part == part:
                continue
            what = f"case {case!r} is" if other == case else f"cases {other!r} and {case!r} (same images) are"
            raise UserError(
                f"{where} leaks: {what} in both {other_part!r} and {part!r}; keep each group in one part."
            )


def _carved(train: list[str], groups: Mapping[str, str]) -> tuple[list[str], list[str]]:
    held_out = set(_ranked({groups[case] for case in train}, seed=0)[::VALIDATION_EVERY])
    kept = [case for case in train if groups[case] not in held_out]
    return kept, [case for case in train if groups[case] in held_out]


def _joined(groups: Mapping[str, str], same_images: Iterable[Iterable[str]]) -> dict[str, str]:
    joined = dict(groups)
    for cases in same_images:
        absorbed = {joined[case] for case in cases if case in joined}
        if absorbed:
            target = min(absorbed)
            joined = {case: target if group in absorbed else group for case, group in joined.items()}
    return joined


def _ranked(groups: Iterable[str], seed: int) -> list[str]:
    def rank(group: str) -> tuple[bytes, str]:
        return hashlib.blake2b(f"{seed}:{group}".encode(), digest_size=8).digest(), group

    return sorted(groups, key=rank)
