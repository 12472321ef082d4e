"""Distillation of class probabilities, where the student learns how sharp its own are.

Legend: B samples, C classes.
"""

from typing import TYPE_CHECKING

from embedkd.losses._checks import Reduction, check_positive, check_tensors
from embedkd.losses._rows import bounded_scale, reduce_rows, softmax_divergences, widen

if TYPE_CHECKING:
    from torch import Tensor


def scaled_kl(
    logits_BC: "Tensor",
    target_logits_BC: "Tensor",
    log_scale: "Tensor",
    *,
    temperature: float = 4.0,
    reduction: Reduction = "mean",
) -> "Tensor":
    """KL divergence from the teacher's softened probabilities to those of the student's logits times a learned factor.

    The factor is the student's alone. One temperature that is learned for both sides would go to 0, where
    temperature^2 KL vanishes whatever the student says. Perfect match: 0. Chance, all of the student's logits equal:
    temperature^2 (log C - H), H the entropy of the teacher's softened probabilities.

    >>> import torch
    >>> teacher = torch.tensor([[8.0, 4.0, 0.0]])
    >>> scaled_kl(2 * teacher, teacher, torch.tensor(0.5).log(), temperature=1.0)
    tensor(0.)

    Args:
        logits_BC: The student's, raw, never softmaxed.
        target_logits_BC: The teacher's of the same samples, raw; as in ``kl``.
        log_scale: Logarithm of the factor, which is at most 100.
        temperature: Divides the teacher's logits; `fitted_temperature` finds the one that fits the labels.
        reduction: Over samples; "none" gives [B].

    Returns:
        float32, or float64 where an input is.

    Raises:
        LossError: A shape, a dtype or the temperature does not fit.

    Source:
        Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network"; the temperature of one side alone
        as in calibration, Guo et al. 2017, "On Calibration of Modern Neural Networks".
    """
    check_tensors("scaled_kl", logits_BC=logits_BC, target_logits_BC=target_logits_BC, log_scale=log_scale)
    check_positive("scaled_kl", "temperature", temperature, "4")
    student_BC = bounded_scale(log_scale) * widen(logits_BC)
    divergences_B = softmax_divergences(widen(target_logits_BC) / temperature, student_BC)
    return reduce_rows("scaled_kl", temperature**2 * divergences_B, reduction)
