"""Cross-entropy of the student's logits: the task loss.

Legend: B samples, C classes.
"""

from typing import TYPE_CHECKING

from embedkd.errors import LossError
from embedkd.losses._checks import Reduction, check_tensors
from embedkd.losses._rows import reduce_rows, softmax_costs

if TYPE_CHECKING:
    from torch import Tensor


def cross_entropy(
    logits_BC: "Tensor", labels_B: "Tensor", *, label_smoothing: float = 0.0, reduction: Reduction = "mean"
) -> "Tensor":
    """Cross-entropy between raw logits and labels.

    Perfect match: 0, approached as the right logit grows; with smoothing e it is the entropy of the smoothed label,
    whose right class has 1 - e + e / C and each other e / C. Chance, all logits equal: log C.

    >>> import torch
    >>> cross_entropy(torch.zeros(2, 10), torch.tensor([3, 7]))
    tensor(2.3026)

    Args:
        logits_BC: Raw, never softmaxed.
        labels_B: int64, from 0 to C - 1.
        label_smoothing: Share of the probability that is spread evenly over all classes.
        reduction: Over samples; "none" gives [B].

    Returns:
        float32, or float64 where the logits are.

    Raises:
        LossError: A shape, a dtype, a label or the smoothing does not fit.

    Source:
        Label smoothing: Szegedy et al. 2016, "Rethinking the Inception Architecture for Computer Vision", section 7.
    """
    check_tensors("cross_entropy", logits_BC=logits_BC, labels_B=labels_B)
    if not 0 <= label_smoothing < 1:
        raise LossError(f"losses.cross_entropy: expected label_smoothing from 0 to below 1, got {label_smoothing}")
    costs_B = softmax_costs("cross_entropy", logits_BC, labels_B, label_smoothing)
    return reduce_rows("cross_entropy", costs_B, reduction)
