"""Splits: stable, whole groups, refused leaks, and validation sets where a published fold has none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import UserError
from trainables.data.splits import PARTS, by_case, folds_of

CASES = {f"c{i:02d}": f"c{i:02d}" for i in range(20)}


@given(
    st.dictionaries(st.text(min_size=1, max_size=4), st.sampled_from("abcdefgh"), min_size=3),
    st.integers(0, 5),
)
def test_by_case_is_a_partition_that_keeps_groups_whole(groups: dict[str, str], seed: int) -> None:
    if len(set(groups.values())) < 3:
        return
    parts = by_case(groups, seed)
    assert sorted(case for part in PARTS for case in parts[part]) == sorted(groups)
    sides = [{groups[case] for case in parts[part]} for part in PARTS]
    assert all(sides)
    assert len(set.union(*sides)) == sum(map(len, sides))


def test_by_case_does_not_depend_on_order_and_does_depend_on_the_seed() -> None:
    assert by_case(dict(reversed(CASES.items()))) == by_case(CASES)
    assert by_case(CASES, seed=1) != by_case(CASES, seed=0)


def test_by_case_is_the_same_on_every_machine_and_day() -> None:
    # Frozen: a change here would silently give every user of made splits another test set.
    parts = by_case(CASES)
    assert {part: len(cases) for part, cases in parts.items()} == {"train": 14, "val": 2, "test": 4}
    assert parts["val"] == ["c05", "c14"]
    assert parts["test"] == ["c00", "c02", "c04", "c16"]


@pytest.mark.parametrize("fractions", [(0.05, 0.45, 0.5), (0.98, 0.01, 0.01)])
def test_no_part_is_empty_with_three_groups(fractions: tuple[float, float, float]) -> None:
    parts = by_case({"a": "a", "b": "b", "c": "c"}, fractions=fractions)
    assert [len(parts[part]) for part in PARTS] == [1, 1, 1]


def test_by_case_refuses_two_groups_and_odd_fractions() -> None:
    with pytest.raises(UserError, match="there are 2"):
        by_case({"a": "g", "b": "g", "c": "h"})
    with pytest.raises(UserError, match="add up to 1"):
        by_case(CASES, fractions=(0.5, 0.1, 0.1))


def test_a_given_split_is_cut_down_to_the_cases_of_the_file() -> None:
    document = {"split": {"train": ["c00", "gone"], "val": ["c01"], "test": ["c02", "lost"]}}
    assert folds_of(document, CASES, "f") == {"split": {"train": ["c00"], "val": ["c01"], "test": ["c02"]}}


def test_a_fold_without_validation_gives_every_eighth_training_group() -> None:
    cases = sorted(CASES)
    document = {"folds": {"one": {"train": cases[:16], "test": cases[16:]}}}
    (fold,) = folds_of(document, CASES, "f").values()
    assert len(fold["val"]) == 2
    assert sorted(fold["train"] + fold["val"]) == cases[:16]
    assert fold["test"] == cases[16:]


def test_cases_with_the_same_images_are_not_separated_by_a_made_validation_set() -> None:
    cases = sorted(CASES)
    for twin in cases[1:15]:
        document = {
            "folds": {"one": {"train": cases[:15], "test": cases[15:]}},
            "same_images": [["c00", twin]],
        }
        (fold,) = folds_of(document, CASES, "f").values()
        assert ("c00" in fold["val"]) == (twin in fold["val"])


def test_families_of_folds_follow_the_first_in_order_and_keep_groups_too() -> None:
    def fold(test: int) -> dict[str, list[str]]:
        cases = sorted(CASES)
        return {"train": cases[:test] + cases[test + 1 :], "test": [cases[test]]}

    document = {
        "late": {"source": "ours", "folds": {"a": fold(3), "b": fold(4)}},
        "folds": {"b": fold(1), "a": fold(2)},
        "other": {"train": ["c00"]},  # no folds: none of its business
        "more": {"folds": {"a": fold(5)}},
    }
    folds = folds_of(document, CASES, "f")
    assert list(folds) == ["b", "a", "late/a", "late/b", "more/a"]
    assert [parts["test"] for parts in folds.values()] == [["c01"], ["c02"], ["c03"], ["c04"], ["c05"]]
    assert all(len(parts["val"]) == 3 for parts in folds.values())
    with pytest.raises(UserError, match=r"^f: late/b leaks: .*'c04'.*'c05'|^f: late/b leaks: .*'c05'.*'c04'"):
        folds_of(document | {"same_images": [["c04", "c05"]]}, CASES, "f")
    with pytest.raises(UserError, match=r"must hold 'split' or 'folds'"):
        folds_of({"late": document["late"]}, CASES, "f")
    with pytest.raises(UserError, match=r"must hold 'split' or 'folds'"):
        folds_of(document | {"late": {"folds": ["a"]}}, CASES, "f")


@pytest.mark.parametrize(
    ("document", "groups", "message"),
    [
        (
            {"split": {"train": ["a", "b"], "val": ["b"], "test": ["c"]}},
            {},
            r"case 'b' is in both 'train' and 'val'",
        ),
        (
            {"split": {"train": ["a"], "val": ["b"], "test": ["c"]}},
            {"c": "a"},
            r"'a' and 'c' .* 'train' and 'test'",
        ),
        (
            {"split": {"train": ["a"], "val": ["b"], "test": ["c"]}, "same_images": [["b", "c"]]},
            {},
            r"'b' and 'c' .* 'val' and 'test'",
        ),
        ({"split": {"train": ["a"], "val": ["zz"], "test": ["c"]}}, {}, r"no case of part 'val'"),
        ({"split": {"train": ["a"], "val": ["b"]}}, {}, r"no case of part 'test'"),
        ({"folds": {"k": {"train": ["a"], "val": ["b"], "tset": ["c"]}}}, {}, r"Did you mean 'test'"),
        ({"split": {"train": "a", "val": ["b"], "test": ["c"]}}, {}, r"must be a list of case ids"),
        ({"unit": "case"}, {}, r"must hold 'split' or 'folds'"),
    ],
)  # fmt: skip
def test_bad_splits_are_refused_by_name(document: dict, groups: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        folds_of(document, {"a": "a", "b": "b", "c": "c"} | groups, "some.json")
