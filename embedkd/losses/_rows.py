"""What the losses share: the precision they compute in, directions of rows, and the way from rows to one number.

Legend of the suffixes: B samples, C classes, D width, N candidates.
"""

import math
from typing import TYPE_CHECKING, Final, get_args

import torch
from torch.nn import functional as F

from embedkd.errors import LossError
from embedkd.losses._checks import Reduction, label_error

if TYPE_CHECKING:
    from torch import Tensor

MAX_LOG_SCALE: Final = math.log(100)  # as CLIP: a greater one makes training unstable
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
    return products(unit_rows(rows_BD), unit_rows(candidates_ND))


def products(rows_BD: "Tensor", candidates_ND: "Tensor") -> "Tensor":
    """Inner products [B, N] of all pairs, in the wider precision of both also inside an autocast region."""
    dtype = torch.promote_types(rows_BD.dtype, candidates_ND.dtype)
    with torch.autocast(rows_BD.device.type, enabled=False):
        return rows_BD.to(dtype) @ candidates_ND.to(dtype).T


def bounded_scale(log_scale: "Tensor") -> "Tensor":
    """A learned factor, at most 100, in float32 or float64. At the bound itself the gradient still flows."""
    wide = widen(log_scale)
    return wide.masked_fill(wide > MAX_LOG_SCALE, MAX_LOG_SCALE).exp()  # clamp has no gradient at the bound


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
        raise label_error(loss, labels_B, logits_BN.shape[1]) from error


def softmax_divergences(target_BN: "Tensor", logits_BN: "Tensor") -> "Tensor":
    """KL divergence [B] from the softmax of each row of targets to that of its row of logits.

    Targets of minus infinity have the probability 0, and what is expected of them does not matter.
    """
    wide_BN = widen(target_BN)
    # A finite number for them: 0 times infinity is not 0, in the value as in the gradient.
    bounded_BN = wide_BN.masked_fill(wide_BN == -torch.inf, torch.finfo(wide_BN.dtype).min / 4)
    log_target_BN, log_student_BN = bounded_BN.log_softmax(dim=1), widen(logits_BN).log_softmax(dim=1)
    return F.kl_div(log_student_BN, log_target_BN, reduction="none", log_target=True).sum(dim=1)


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
