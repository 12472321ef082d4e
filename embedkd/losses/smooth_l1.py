"""Squared error near the target and absolute error far from it, between the student's embedding and the teacher's.

Legend: B samples, D width.
"""

from typing import TYPE_CHECKING

from torch.nn import functional as F

from embedkd.losses._checks import Reduction, check_positive, check_tensors
from embedkd.losses._rows import reduce_rows, unit_rows, widen

if TYPE_CHECKING:
    from torch import Tensor


def smooth_l1(
    student_BD: "Tensor",
    target_BD: "Tensor",
    *,
    beta: float = 1.0,
    normalise: bool = False,
    reduction: Reduction = "mean",
) -> "Tensor":
    """Half the squared difference over ``beta``, where it is below ``beta``; the absolute one less beta / 2 beyond.

    Averaged over the width of a sample, then reduced over samples. Perfect match: 0. Chance: for a student that says
    0, the same measure of the target's own entries.

    >>> import torch
    >>> target = torch.tensor([[3.0, 0.5]])
    >>> smooth_l1(target, target), smooth_l1(torch.zeros(1, 2), target)
    (tensor(0.), tensor(1.3125))

    Args:
        student_BD: The student's embeddings, projected to the width of the target where widths differ.
        target_BD: The teacher's of the same samples.
        beta: Difference at which the square ends, in units of the (normalised) rows.
        normalise: Compare directions: both rows are divided by their L2 norms first.
        reduction: Over samples; "mean" is the mean over B x D, "none" gives [B].

    Returns:
        float32, or float64 where an input is.

    Raises:
        LossError: A shape, a dtype or ``beta`` does not fit.

    Source:
        Girshick 2015, "Fast R-CNN", section 2.3; ``beta`` 1 is Huber's loss.
    """
    check_tensors("smooth_l1", target_BD=target_BD, student_BD=student_BD)
    check_positive("smooth_l1", "beta", beta, "1")
    prepare = unit_rows if normalise else widen
    difference_BD = prepare(student_BD) - prepare(target_BD)
    costs_BD = F.smooth_l1_loss(
        difference_BD, difference_BD.new_zeros(()).expand_as(difference_BD), reduction="none", beta=beta
    )
    return reduce_rows("smooth_l1", costs_BD.mean(dim=1), reduction)
