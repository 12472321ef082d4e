"""RKD-A: three samples must span the same angle for the student as for the teacher.

Legend: N samples of all ranks, B of them this rank's (all in one process), D and E widths.
"""

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from embedkd.losses._checks import Reduction, check_tensors
from embedkd.losses._relations import mean_where, of_size_one, others, own_or_all
from embedkd.losses._rows import reduce_rows, unit_rows

if TYPE_CHECKING:
    from torch import Tensor


def relational_angle(
    student_ND: "Tensor", target_NE: "Tensor", own_B: "Tensor | None" = None, *, reduction: Reduction = "mean"
) -> "Tensor":
    """Huber loss between the student's and the teacher's cosines of the angle at a sample, between two others.

    Widths may differ. Perfect match, the same angles: 0. Chance, all of the student's samples at one distance (cosines
    1/2): the Huber loss between 1/2 and the teacher's cosines. It takes memory for B x N x (N + D) numbers.

    >>> import torch
    >>> target = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> relational_angle(7 * target + 5, target)
    tensor(0.)
    >>> relational_angle(torch.eye(3), target)
    tensor(0.0560)

    Args:
        student_ND: The student's embeddings of all samples.
        target_NE: The teacher's of the same samples.
        own_B: int64, which of the samples are this rank's; the loss is over the angles at them. None for all.
        reduction: Over samples; "none" gives [B], means over the angles at a sample.

    Returns:
        float32, or float64 where an input is.

    Raises:
        LossError: A shape or a dtype does not fit.

    Source:
        Park et al. 2019, "Relational Knowledge Distillation".
    """
    check_tensors("relational_angle", student_ND=student_ND, target_NE=target_NE, own_B=own_B)
    rows_B = own_or_all(own_B, student_ND)
    student_BNN, target_BNN = _angles(student_ND, rows_B), _angles(target_NE, rows_B)
    costs_BNN = F.smooth_l1_loss(student_BNN, target_BNN, reduction="none")
    other_BN, different_NN = others(rows_B, len(student_ND)), others(own_or_all(None, student_ND), len(student_ND))
    wanted_BNN = other_BN[:, :, None] & other_BN[:, None, :] & different_NN
    return reduce_rows("relational_angle", mean_where(costs_BNN, wanted_BNN), reduction)


def _angles(rows_ND: "Tensor", own_B: "Tensor") -> "Tensor":
    """Cosines [B, N, N] of the angles at the own samples."""
    small_ND = of_size_one(rows_ND)
    towards_BND = unit_rows(small_ND - small_ND[own_B][:, None, :])
    with torch.autocast(rows_ND.device.type, enabled=False):
        return towards_BND @ towards_BND.mT
