"""Rows from the arrays of a store, by docs/store-format.md alone: numpy, and nothing of embedkd."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST_REST = 2.0**-24  # what top-k logits leave for the values that are not kept, at least


def decoded(arrays: Mapping[str, NDArray[Any]], base: str, dim: int, slot: int, capacity: int) -> NDArray[Any]:
    """One slot's rows of one output, padding included; [capacity, dim], NaN where there is no row.

    Args:
        arrays: Whole arrays by their paths, as any reader of Zarr gives them.
        base: Path of the output's rows.
        dim: Width of the output.
        slot: Number of the slot.
        capacity: Rows a slot.
    """
    here = slice(slot * capacity, (slot + 1) * capacity)
    if f"{base}_topk_index" in arrays:
        return _from_largest(arrays[f"{base}_topk_index"][here], arrays[f"{base}_topk_value"][here], dim)
    rows = arrays[base][here]
    if f"{base}_scale" in arrays:
        values = rows.astype(np.float32) * arrays[f"{base}_scale"][slot]
        return np.where(rows == -128, np.float32(np.nan), values)
    if rows.dtype == np.uint16:
        return (rows.astype(np.uint32) << 16).view(np.float32)
    return rows


def _from_largest(index: NDArray[np.int32], value: NDArray[np.float16], dim: int) -> NDArray[np.float64]:
    """Log-probabilities: K a row are kept, the others share the rest evenly, and none is above the least kept."""
    rows = np.full((len(index), dim), np.nan)
    for row in np.flatnonzero((index >= 0).all(axis=1)):
        kept = value[row].astype(np.float64)
        rest = max(1 - np.exp(kept).sum(), LEAST_REST) / (dim - len(kept))
        rows[row] = min(np.log(rest), kept.min())
        rows[row, index[row]] = kept
    return rows
