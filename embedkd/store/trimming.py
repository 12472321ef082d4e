"""Trimmed means and medians of classes, dimension by dimension."""

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

Rows: TypeAlias = "Iterable[tuple[NDArray[np.floating[Any]], NDArray[np.int64]]]"  # [n, D], and the labels [n]


def cut(rows: int, trim: float | None) -> int:
    """How many values of a dimension are left out at each side; at least one stays.

    Args:
        rows: Of a class.
        trim: The share of them, from 0 to below 0.5; None for all but the middle one or two, whose mean is the median.

    >>> cut(25, 0.1), cut(3, 0.1), cut(4, None), cut(5, None)
    (2, 0, 1, 2)
    """
    most = max(0, (rows - 1) // 2)
    return most if trim is None else min(int(trim * rows), most)


def trimmed_means(
    rows: "Rows", count: "NDArray[np.int64]", cuts: "NDArray[np.int64]", dim: int
) -> "NDArray[np.float64]":
    """The mean of each dimension of each class without its smallest and its largest values.

    What stays is summed from the smallest to the largest, so the order of the rows does not matter. All rows are held,
    as float32.

    Args:
        rows: Rows without NaN, in parts, with the numbers of their classes.
        count: [C], rows of each class.
        cuts: [C], values left out at each side, less than half of the count.
        dim: D.

    Returns:
        [C, D]; NaN for a class without rows.
    """
    held, ends = _by_class(rows, count, dim), np.cumsum(count)
    means = np.full((len(count), dim), np.nan)
    for label in np.flatnonzero(count).tolist():
        values = held[ends[label] - count[label] : ends[label]]
        values.sort(axis=0)
        kept = values[cuts[label] : count[label] - cuts[label]]
        # A running sum adds one after another, where sum() may pair; 0 is added so that no zero stays negative.
        means[label] = (np.cumsum(kept, axis=0, dtype=np.float64)[-1] + 0.0) / len(kept)
    return means


def _by_class(rows: "Rows", count: "NDArray[np.int64]", dim: int) -> "NDArray[np.float32]":
    """All rows, those of class 0 first."""
    held = np.empty((int(count.sum()), dim), np.float32)
    free = np.cumsum(count) - count
    for some, labels in rows:
        order = np.argsort(labels, kind="stable")
        runs = labels[order]
        within = np.arange(len(runs)) - np.searchsorted(runs, runs)
        held[free[runs] + within] = some[order]
        free += np.bincount(labels, minlength=len(count))
    return held
