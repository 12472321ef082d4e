"""Cosine distance between the student's projected embedding and the teacher's.

Legend: B samples, D width.
"""

from typing import TYPE_CHECKING

from embedkd.losses._checks import Reduction, check_tensors
from embedkd.losses._rows import reduce_rows, unit_rows

if TYPE_CHECKING:
    from torch import Tensor


def cosine(student_BD: "Tensor", target_BD: "Tensor", *, reduction: Reduction = "mean") -> "Tensor":
    """1 - the cosine of each sample's embedding with its target.

    Perfect match: 0. Chance, directions at right angles, also a row of zeros: 1. Opposite directions: 2.

    >>> import torch
    >>> target = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    >>> cosine(2 * target, target), cosine(-target, target)
    (tensor(0.), tensor(2.))

    Args:
        student_BD: The student's embeddings, projected to the width of the target where widths differ.
        target_BD: The teacher's of the same samples.
        reduction: Over samples; "none" gives [B].

    Returns:
        float32, or float64 where an input is.

    Raises:
        LossError: A shape or a dtype does not fit.

    Source:
        D / 2 times ``mse`` of normalised rows, see there.
    """
    check_tensors("cosine", target_BD=target_BD, student_BD=student_BD)
    cosines_B = (unit_rows(student_BD) * unit_rows(target_BD)).sum(dim=1)
    return reduce_rows("cosine", 1 - cosines_B, reduction)
