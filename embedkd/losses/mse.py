"""Mean squared error between the student's projected embedding and the teacher's: feature-based distillation.

Legend: B samples, D width.
"""

from typing import TYPE_CHECKING

from embedkd.losses._checks import Reduction, check_tensors
from embedkd.losses._rows import reduce_rows, unit_rows, widen

if TYPE_CHECKING:
    from torch import Tensor


def mse(
    student_BD: "Tensor", target_BD: "Tensor", *, normalise: bool = False, reduction: Reduction = "mean"
) -> "Tensor":
    """Squared difference, averaged over the width of a sample and then reduced over samples.

    Perfect match: 0. Chance: the mean square of the target for a student that says 0; 2 / D with ``normalise`` and
    directions at right angles, 4 / D at most.

    >>> import torch
    >>> target = torch.tensor([[3.0, 4.0]])
    >>> mse(target, target), mse(torch.zeros(1, 2), target), mse(10 * target, target, normalise=True)
    (tensor(0.), tensor(12.5000), tensor(0.))

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
        FD, normalised and weighted by 2000: Yang et al. 2024, "CLIP-KD: An Empirical Study of CLIP Model Distillation".
    """
    check_tensors("mse", target_BD=target_BD, student_BD=student_BD)
    prepare = unit_rows if normalise else widen
    squares_BD = (prepare(student_BD) - prepare(target_BD)).square()
    return reduce_rows("mse", squares_BD.mean(dim=1), reduction)
