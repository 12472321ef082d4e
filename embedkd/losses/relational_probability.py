"""Probabilistic knowledge transfer: whom a sample has for a neighbour must be as likely for the student.

Legend: N samples of all ranks, B of them this rank's (all in one process), D and E widths.
"""

from typing import TYPE_CHECKING, Final

from embedkd.losses._checks import Reduction, check_tensors
from embedkd.losses._relations import others, own_or_all
from embedkd.losses._rows import products, reduce_rows, unit_rows

if TYPE_CHECKING:
    from torch import Tensor

_LEAST: Final = 1e-7  # of a similarity from 0 to 1: opposite samples have no logarithm


def relational_probability(
    student_ND: "Tensor", target_NE: "Tensor", own_B: "Tensor | None" = None, *, reduction: Reduction = "mean"
) -> "Tensor":
    """KL divergence from the teacher's to the student's probabilities that one sample has another as its neighbour.

    They are (1 + cosine) / 2 of a pair, divided by the sum over all pairs of that sample with others. Widths may
    differ. Perfect match, the same angles: 0. Chance, all of the student's samples at one angle: log(N - 1) - H, H the
    entropy of the teacher's probabilities. Two samples have one neighbour each, for sure.

    >>> import torch
    >>> target = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> relational_probability(7 * target, target)
    tensor(0.)
    >>> relational_probability(torch.eye(3), target)
    tensor(0.0378)

    Args:
        student_ND: The student's embeddings of all samples.
        target_NE: The teacher's of the same samples.
        own_B: int64, which of the samples are this rank's; the loss is over their neighbours. None for all.
        reduction: Over samples; "none" gives [B].

    Returns:
        float32, or float64 where an input is.

    Raises:
        LossError: A shape or a dtype does not fit.

    Source:
        Passalis and Tefas 2018, "Learning Deep Representations with Probabilistic Knowledge Transfer", cosine kernel.
    """
    check_tensors("relational_probability", student_ND=student_ND, target_NE=target_NE, own_B=own_B)
    rows_B = own_or_all(own_B, student_ND)
    student_BN, target_BN = (_neighbours(rows, rows_B) for rows in (student_ND, target_NE))
    costs_BN = (target_BN * (target_BN.log() - student_BN.log())).where(others(rows_B, len(student_ND)), 0.0)
    return reduce_rows("relational_probability", costs_BN.sum(dim=1), reduction)


def _neighbours(rows_ND: "Tensor", own_B: "Tensor") -> "Tensor":
    """Probabilities [B, N]; what it says of a sample and itself does not count."""
    unit_ND = unit_rows(rows_ND)
    alike_BN = ((1 + products(unit_ND[own_B], unit_ND)) / 2).clamp_min(_LEAST)
    total_B1 = alike_BN.where(others(own_B, len(unit_ND)), 0.0).sum(dim=1, keepdim=True)
    return alike_BN / total_B1.clamp_min(_LEAST)
