"""RKD-D: samples that lie near each other for the teacher must lie near each other for the student.

Legend: N samples of all ranks, B of them this rank's (all in one process), D and E widths.
"""

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from embedkd.losses._checks import Reduction, check_tensors
from embedkd.losses._relations import mean_where, of_size_one, others, own_or_all
from embedkd.losses._rows import reduce_rows

if TYPE_CHECKING:
    from torch import Tensor


def relational_distance(
    student_ND: "Tensor", target_NE: "Tensor", own_B: "Tensor | None" = None, *, reduction: Reduction = "mean"
) -> "Tensor":
    """Huber loss between the student's and the teacher's distances of pairs, each in units of its own mean distance.

    Widths may differ. Perfect match, the same distances up to a factor: 0. Chance, all of the student's distances
    equal: the Huber loss between 1 and the teacher's. Two samples have one distance, which is always 1.

    >>> import torch
    >>> target = torch.tensor([[0.0], [1.0], [3.0]])
    >>> relational_distance(torch.cat([8 * target, 0 * target], dim=1), target)
    tensor(0.)
    >>> relational_distance(torch.eye(3), target)
    tensor(0.0833)

    Args:
        student_ND: The student's embeddings of all samples.
        target_NE: The teacher's of the same samples.
        own_B: int64, which of the samples are this rank's; the loss is over their pairs with all others. None for all.
        reduction: Over samples; "none" gives [B], means over the pairs of a sample.

    Returns:
        float32, or float64 where an input is.

    Raises:
        LossError: A shape or a dtype does not fit.

    Source:
        Park et al. 2019, "Relational Knowledge Distillation".
    """
    check_tensors("relational_distance", student_ND=student_ND, target_NE=target_NE, own_B=own_B)
    rows_B = own_or_all(own_B, student_ND)
    costs_NN = F.smooth_l1_loss(_distances(student_ND), _distances(target_NE), reduction="none")
    values_B = mean_where(costs_NN[rows_B], others(rows_B, len(student_ND)))
    return reduce_rows("relational_distance", values_B, reduction)


def _distances(rows_ND: "Tensor") -> "Tensor":
    """Distances [N, N] in units of the mean over pairs of two samples."""
    small_ND = of_size_one(rows_ND)
    distances_NN = torch.cdist(small_ND, small_ND, compute_mode="donot_use_mm_for_euclid_dist")
    count = len(small_ND)
    mean = distances_NN.sum() / max(count * (count - 1), 1)
    return distances_NN / mean.where(mean > 0, 1.0)
