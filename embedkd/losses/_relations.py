"""What the losses over pairs of samples share.

Legend: N samples of the batch (of all ranks), B of them that are this rank's, D width.
"""

from typing import TYPE_CHECKING, Final

import torch

from embedkd.losses._rows import widen

if TYPE_CHECKING:
    from torch import Tensor

_NOTHING: Final = 1e-12  # rows with no entry above it count as zero


def of_size_one(rows_ND: "Tensor") -> "Tensor":
    """All rows divided by their greatest entry, in float32 or float64, so that products stay in range.

    For relations that no common factor changes: it is a constant for the gradient.
    """
    wide_ND = widen(rows_ND)
    largest = wide_ND.detach().abs().amax()
    return wide_ND / largest.where(largest > _NOTHING, 1.0)


def own_or_all(own_B: "Tensor | None", rows_ND: "Tensor") -> "Tensor":
    """Which of N samples are this rank's: int64 [B]; all of them in one process."""
    return torch.arange(len(rows_ND), device=rows_ND.device) if own_B is None else own_B


def others(own_B: "Tensor", candidates: int) -> "Tensor":
    """Pairs [B, N] of two different samples."""
    return own_B[:, None] != torch.arange(candidates, device=own_B.device)


def mean_where(values: "Tensor", wanted: "Tensor") -> "Tensor":
    """Mean [B] of a sample's wanted values [B, ...]; 0 where there are none."""
    dims = tuple(range(1, values.ndim))
    return values.where(wanted, 0.0).sum(dim=dims) / wanted.sum(dim=dims).clamp_min(1)
