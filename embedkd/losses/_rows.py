"""What the losses share: the precision they compute in, directions of rows, and the way from rows to one number.

Legend of the suffixes: B samples, C classes, D width, N candidates.
"""

from typing import TYPE_CHECKING, Final, get_args

import torch
from torch.nn import functional as F

from embedkd.errors import LossError
from embedkd.losses._checks import Reduction

if TYPE_CHECKING:
    from torch import Tensor

_NO_DIRECTION: Final = 1e-12  # gradients grow with 1 / norm, somewhere that must end
_IGNORE_NOTHING: Final = -(1 << 63)  # torch would pass over labels of -100 in silence


def widen(rows: "Tensor") -> "Tensor":
    """Half precision as float32; float32 and float64 as they are."""
    return rows.to(torch.promote_types(rows.dtype, torch.float32))


def unit_rows(rows_ND: "Tensor") -> "Tensor":
    """Rows divided by their L2 norm, in float32 or float64.

    A row with no entry above 1e-12 has no direction: it stays as good as zero, and its gradient stays of the size of
    the one that comes in. All others are scaled by their largest entry first, so that squares neither overflow nor
    vanish. The scale is a constant for the gradient, because a direction does not depend on it.
    """
    wide_ND = widen(rows_ND)
    largest_N1 = wide_ND.detach().abs().amax(dim=-1, keepdim=True)
    scaled_ND = wide_ND / largest_N1.where(largest_N1 > _NO_DIRECTION, 1.0)
    norm_N1: Tensor = torch.linalg.vector_norm(scaled_ND, dim=-1, keepdim=True)
    return scaled_ND / norm_N1.clamp_min(0.5)  # a norm is at least 1 now, or the row is zero


def cosines(rows_BD: "Tensor", candidates_ND: "Tensor") -> "Tensor":
    """Cosines [B, N] of all pairs, in float32 or float64 also inside an autocast region."""
    with torch.autocast(rows_BD.device.type, enabled=False):
        unit_BD, unit_ND = unit_rows(rows_BD), unit_rows(candidates_ND)
        dtype = torch.promote_types(unit_BD.dtype, unit_ND.dtype)
        return unit_BD.to(dtype) @ unit_ND.to(dtype).T


def softmax_costs(loss: str, logits_BN: "Tensor", labels_B: "Tensor", label_smoothing: float = 0.0) -> "Tensor":
    """Cross-entropy [B] of each row of logits, in float32 or float64.

    Raises:
        LossError: A label is outside 0..N-1. On CUDA devices, where a look at the labels would stall, torch's own
            device assertion fails instead.
    """
    try:
        return F.cross_entropy(
            widen(logits_BN), labels_B, reduction="none", label_smoothing=label_smoothing, ignore_index=_IGNORE_NOTHING
        )
    except IndexError as error:
        raise LossError(
            f"losses.{loss}: expected labels from 0 to {logits_BN.shape[1] - 1}, "
            f"got {int(labels_B.min())} to {int(labels_B.max())}; compare the data's class names with the student's"
        ) from error


def reduce_rows(loss: str, values_B: "Tensor", reduction: Reduction) -> "Tensor":
    """Mean or sum over samples, or the values as they are.

    Raises:
        LossError: There is no such reduction.
    """
    if reduction == "mean":
        return values_B.mean()
    if reduction == "sum":
        return values_B.sum()
    if reduction == "none":
        return values_B
    raise LossError(f"losses.{loss}: expected reduction {', '.join(get_args(Reduction))}, got {reduction!r}")
