"""Hinton's distillation: the student's class probabilities against the teacher's, both softened.

Legend: B samples, C classes.
"""

from typing import TYPE_CHECKING

from embedkd.losses._checks import Reduction, check_positive, check_tensors
from embedkd.losses._rows import reduce_rows, softmax_divergences, widen

if TYPE_CHECKING:
    from torch import Tensor


def kl(
    logits_BC: "Tensor", target_logits_BC: "Tensor", *, temperature: float = 4.0, reduction: Reduction = "mean"
) -> "Tensor":
    """KL divergence from the teacher's softened probabilities to the student's, times the squared temperature.

    The square keeps the size of the gradient while the temperature changes. Perfect match: 0. Chance, all of the
    student's logits equal: temperature^2 (log C - H), H the entropy of the teacher's softened probabilities.

    >>> import torch
    >>> teacher = torch.tensor([[100.0, 0.0, 0.0]])
    >>> kl(teacher + 5, teacher), kl(torch.zeros(1, 3), teacher, temperature=1.0)
    (tensor(0.), tensor(1.0986))

    Args:
        logits_BC: The student's, raw, never softmaxed.
        target_logits_BC: The teacher's of the same samples, raw. Logits that were stored as top-k come with the rest of
            the probability spread evenly over the other classes; minus infinity gives a class none at all.
        temperature: Divides both; fixed, because a learned one that both sides share shrinks the loss by going to 0.
        reduction: Over samples; "none" gives [B].

    Returns:
        float32, or float64 where an input is.

    Raises:
        LossError: A shape, a dtype or the temperature does not fit.

    Source:
        Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network", section 2.
    """
    check_tensors("kl", logits_BC=logits_BC, target_logits_BC=target_logits_BC)
    check_positive("kl", "temperature", temperature, "4")
    divergences_B = softmax_divergences(widen(target_logits_BC) / temperature, widen(logits_BC) / temperature)
    return reduce_rows("kl", temperature**2 * divergences_B, reduction)
