"""Rows of length 1, whatever their length was."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def unit_rows(rows: "NDArray[np.float32]") -> "NDArray[np.float32]":
    """Rows [N, d] divided by their lengths; one of zeros, which points nowhere, stays. No length overflows.

    >>> unit_rows(np.float32([[3e30, 4e30], [0, 0]])).round(1).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    scaled = rows / np.maximum(np.abs(rows).max(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    unit: NDArray[np.float32] = scaled / np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), 1e-12)
    return unit
