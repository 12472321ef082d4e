"""Mean absolute error between the student's projected embedding and the teacher's.

Legend: B samples, D width.
"""

from typing import TYPE_CHECKING

from embedkd.losses._checks import Reduction, check_tensors
from embedkd.losses._rows import reduce_rows, unit_rows, widen

if TYPE_CHECKING:
    from torch import Tensor


def mae(
    student_BD: "Tensor", target_BD: "Tensor", *, normalise: bool = False, reduction: Reduction = "mean"
) -> "Tensor":
    """Absolute difference, averaged over the width of a sample and then reduced over samples.

    Perfect match: 0. Chance: the mean size of the target's entries for a student that says 0.

    >>> import torch
    >>> target = torch.tensor([[3.0, -4.0]])
    >>> mae(target, target), mae(torch.zeros(1, 2), target), mae(10 * target, target, normalise=True)
    (tensor(0.), tensor(3.5000), tensor(0.))

    Args:
        student_BD: The student's embeddings, projected to the width of the target where widths differ.
        target_BD: The teacher's of the same samples.
        normalise: Compare directions: both rows are divided by their L2 norms first.
        reduction: Over samples; "mean" is the mean over B x D, "none" gives [B].

    Returns:
        float32, or float64 where an input is.

    Raises:
        LossError: A shape or a dtype does not fit.

    Source:
        Feature-based distillation as with ``mse``; the absolute value gives outlying dimensions less weight.
    """
    check_tensors("mae", target_BD=target_BD, student_BD=student_BD)
    prepare = unit_rows if normalise else widen
    sizes_BD = (prepare(student_BD) - prepare(target_BD)).abs()
    return reduce_rows("mae", sizes_BD.mean(dim=1), reduction)
