"""Stratified splits: shares, groups, and what they depend on."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedkd.errors import ConfigError
from embedkd.sources.splits import stratified_splits

LABELS = st.lists(st.integers(0, 4), max_size=120)


def names_of(labels: list[int]) -> list[str]:
    return [f"{label}/{i}.png" for i, label in enumerate(labels)]


@given(LABELS, st.integers(0, 5), st.sampled_from([(0.1, 0.1), (0.15, 0.15), (0.0, 0.3), (0.5, 0.25)]))
def test_every_class_gives_its_share(labels: list[int], seed: int, shares: tuple[float, float]) -> None:
    val, test = shares
    splits = stratified_splits(names_of(labels), labels, val=val, test=test, seed=seed)
    for label, rows in Counter(labels).items():
        found = Counter(split for split, own in zip(splits, labels, strict=True) if own == label)
        assert found["train"] >= 1
        if rows >= 3:
            assert found["test"] == max(1, round(test * rows))
            assert found["val"] == min(max(1, round(val * rows)) if val else 0, rows - found["test"] - 1)


@given(LABELS, st.lists(st.integers(0, 9), min_size=120, max_size=120))
def test_groups_stay_together(labels: list[int], numbers: list[int]) -> None:
    groups = [f"{label}-{number}" for label, number in zip(labels, numbers, strict=False)]
    splits = stratified_splits(names_of(labels), labels, val=0.2, test=0.2, seed=1, groups=groups)
    assert len(set(zip(groups, splits, strict=True))) == len(set(groups))
    for label in set(labels):
        own = {split for split, other in zip(splits, labels, strict=True) if other == label}
        units = len({group for group, other in zip(groups, labels, strict=True) if other == label})
        assert own == {"train", "val", "test"} if units >= 3 else "train" in own


def test_groups_too_large_for_a_share_go_whole_and_the_smallest_first() -> None:
    groups = ["a"] * 9 + ["b"] * 5 + ["c"] * 7
    splits = stratified_splits(names_of([0] * 21), [0] * 21, val=0.1, test=0.1, seed=0, groups=groups)
    assert dict(zip(groups, splits, strict=True)) == {"a": "train", "b": "test", "c": "val"}


@given(LABELS)
def test_the_order_of_samples_does_not_matter(labels: list[int]) -> None:
    names = names_of(labels)
    forward = dict(zip(names, stratified_splits(names, labels, val=0.2, test=0.2, seed=3), strict=True))
    backward = stratified_splits(names[::-1], labels[::-1], val=0.2, test=0.2, seed=3)
    assert forward == dict(zip(names[::-1], backward, strict=True))


def test_another_seed_divides_otherwise() -> None:
    labels = [0] * 50
    first, second = (stratified_splits(names_of(labels), labels, val=0.2, test=0.2, seed=seed) for seed in (0, 1))
    assert first != second
    assert Counter(first) == Counter(second)


def test_shares_of_nothing_leave_all_in_train() -> None:
    assert stratified_splits(names_of([0, 0, 0, 1]), [0, 0, 0, 1], val=0, test=0, seed=0) == ["train"] * 4


@pytest.mark.parametrize(("val", "test"), [(-0.1, 0.1), (0.5, 0.5), (0.0, 1.0), (0.1, -1.0)])
def test_impossible_shares_are_refused(val: float, test: float) -> None:
    with pytest.raises(ConfigError, match="leave samples for train"):
        stratified_splits(["a"], [0], val=val, test=test, seed=0)
