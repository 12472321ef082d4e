"""Dividing samples into train, val and test: stratified by class, decided by names and a seed alone."""

from collections import defaultdict
from typing import TYPE_CHECKING

from embedkd.errors import ConfigError
from embedkd.seeding import stream_seed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from embedkd.records import Split

_Unit = list[int]  # indices of samples that stay together


def stratified_splits(
    names: "Sequence[str]",
    labels: "Sequence[int]",
    *,
    val: float,
    test: float,
    seed: int,
    groups: "Sequence[str] | None" = None,
) -> "list[Split]":
    """A split for each sample.

    Every class gives each split its share, rounded to whole groups, and keeps at least one group for train; a class of
    three groups or more gives at least one to every split that is wanted at all.

    Args:
        names: One unique name a sample.
        labels: One class number a sample.
        val: Share of every class for validation, in [0, 1).
        test: Share of every class for the test, in [0, 1); val + test < 1.
        seed: Another seed gives another division.
        groups: Samples of one class with the same group stay together; by default each sample is its own group.

    Raises:
        ConfigError: The shares are negative or leave nothing for train.
    """
    if min(val, test) < 0 or val + test >= 1:
        raise ConfigError(f"expected shares >= 0 that leave samples for train, got val {val} and test {test}")
    classes: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, (group, label) in enumerate(zip(names if groups is None else groups, labels, strict=True)):
        classes[label][group].append(index)
    splits: list[Split] = ["train"] * len(names)
    for members in classes.values():
        units = [members[group] for group in sorted(members, key=lambda g: (stream_seed(seed, "split", g), g))]
        for split, unit in _divide(units, (("test", test), ("val", val))):
            for index in unit:
                splits[index] = split
    return splits


def _divide(units: "list[_Unit]", shares: "Iterable[tuple[Split, float]]") -> "Iterator[tuple[Split, _Unit]]":
    """The units of one class that leave train, and where they go."""
    total = sum(map(len, units))
    enough = len(units) > 2
    for split, share in shares:
        wanted = round(share * total)
        if share > 0 and enough:
            wanted = max(wanted, 1)
        taken, units = _fill(units, wanted)
        for unit in taken:
            yield split, unit


def _fill(units: "list[_Unit]", wanted: int) -> "tuple[list[_Unit], list[_Unit]]":
    """Units in order, as many as fit into `wanted` samples, or the smallest if none fits; and those that are left."""
    taken: list[_Unit] = []
    left: list[_Unit] = []
    room = wanted
    for position, unit in enumerate(units):
        fits = len(unit) <= room and (left or position < len(units) - 1)
        (taken if fits else left).append(unit)
        room -= len(unit) if fits else 0
    if wanted > 0 and not taken and len(left) > 1:
        smallest = min(range(len(left)), key=lambda i: len(left[i]))
        taken.append(left.pop(smallest))
    return taken, left
