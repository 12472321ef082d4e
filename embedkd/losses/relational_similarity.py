"""Similarity-preserving distillation: samples that activate the teacher alike must activate the student alike.

Legend: N samples of all ranks, B of them this rank's (all in one process), D and E widths.
"""

from typing import TYPE_CHECKING

from embedkd.losses._checks import Reduction, check_tensors
from embedkd.losses._relations import of_size_one, own_or_all
from embedkd.losses._rows import products, reduce_rows, unit_rows

if TYPE_CHECKING:
    from torch import Tensor


def relational_similarity(
    student_ND: "Tensor", target_NE: "Tensor", own_B: "Tensor | None" = None, *, reduction: Reduction = "mean"
) -> "Tensor":
    """Squared difference of the inner products of samples, each sample's divided by their L2 norm.

    Widths may differ. Perfect match, the same inner products up to a factor: 0. Chance, all of the student's samples at
    right angles and of one length: 2 (1 - g) / N, g the teacher's inner product of a sample with itself, divided so.

    >>> import torch
    >>> target = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> relational_similarity(7 * target, target)
    tensor(0.)
    >>> relational_similarity(torch.eye(3), target)
    tensor(0.1302)

    Args:
        student_ND: The student's embeddings of all samples.
        target_NE: The teacher's of the same samples.
        own_B: int64, which of the samples are this rank's; the loss is over their pairs with all. None for all.
        reduction: Over samples; "mean" is the mean over all pairs, "none" gives [B].

    Returns:
        float32, or float64 where an input is.

    Raises:
        LossError: A shape or a dtype does not fit.

    Source:
        Tung and Mori 2019, "Similarity-Preserving Knowledge Distillation".
    """
    check_tensors("relational_similarity", student_ND=student_ND, target_NE=target_NE, own_B=own_B)
    rows_B = own_or_all(own_B, student_ND)
    student_BN, target_BN = (_inner_products(rows, rows_B) for rows in (student_ND, target_NE))
    return reduce_rows("relational_similarity", (student_BN - target_BN).square().mean(dim=1), reduction)


def _inner_products(rows_ND: "Tensor", own_B: "Tensor") -> "Tensor":
    small_ND = of_size_one(rows_ND)
    return unit_rows(products(small_ND[own_B], small_ND))
