"""CRD of CLIP-KD for teachers that were trained with a sigmoid (SigLIP): each pair of sample and class by itself.

Legend: B samples, C classes, D width.
"""

import math
from typing import TYPE_CHECKING

from torch.nn import functional as F

from embedkd.errors import LossError
from embedkd.losses._checks import Reduction, check_positive, check_tensors
from embedkd.losses._rows import bounded_scale, cosines, reduce_rows, widen

if TYPE_CHECKING:
    from torch import Tensor


def similarity_binary_kl(
    student_BD: "Tensor",
    target_BD: "Tensor",
    classes_CD: "Tensor",
    log_scale: "Tensor",
    bias: "Tensor",
    *,
    teacher_scale: float = 10.0,
    teacher_bias: float = -10.0,
    reduction: Reduction = "mean",
) -> "Tensor":
    """KL divergence between the teacher's and the student's sigmoid of each pair, added over classes.

    In a softmax the bias would cancel, and with it what the teacher says of how likely any match is. Perfect match, the
    student along its target and scales and biases equal: 0. Chance, a student that says q of every pair: the
    divergences from the teacher's probabilities to q.

    >>> import torch
    >>> classes, target = torch.eye(4), torch.tensor([[1.0, 0.5, 0.0, 0.0]])
    >>> similarity_binary_kl(3 * target, target, classes, torch.tensor(10.0).log(), torch.tensor(-10.0))
    tensor(0.)

    Args:
        student_BD: The student's embeddings, projected to the width of the target where widths differ.
        target_BD: The teacher's of the same samples.
        classes_CD: One row a class, in the space of the target: its text, or the mean of its samples.
        log_scale: Logarithm of the factor of the student's cosines, which is at most 100.
        bias: Added to the student's scaled cosines.
        teacher_scale: Factor of the teacher's cosines: what its store states as logit_scale, where it states one.
        teacher_bias: Added to them: the store's logit_bias, where it states one.
        reduction: Over samples; "none" gives [B].

    Returns:
        float32, or float64 where an input is.

    Raises:
        LossError: A shape, a dtype, the scale or the bias does not fit.

    Source:
        The relation of Yang et al. 2024, "CLIP-KD: An Empirical Study of CLIP Model Distillation", with the pairwise
        probabilities of Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training".
    """
    name = "similarity_binary_kl"
    check_tensors(
        name, target_BD=target_BD, student_BD=student_BD, classes_CD=classes_CD, log_scale=log_scale, bias=bias
    )
    check_positive(name, "teacher_scale", teacher_scale, "10")
    if not math.isfinite(teacher_bias):
        raise LossError(f"losses.{name}: expected a finite teacher_bias, got {teacher_bias}; -10 is usual")
    target_BC = teacher_scale * cosines(target_BD, classes_CD) + teacher_bias
    student_BC = bounded_scale(log_scale) * cosines(student_BD, classes_CD) + widen(bias)
    return reduce_rows(name, _divergences(target_BC, student_BC).sum(dim=1), reduction)


def _divergences(target_BC: "Tensor", logits_BC: "Tensor") -> "Tensor":
    """KL divergence of each pair of Bernoulli distributions, from logits."""
    match_BC = target_BC.sigmoid() * (F.logsigmoid(target_BC) - F.logsigmoid(logits_BC))
    none_BC = (-target_BC).sigmoid() * (F.logsigmoid(-target_BC) - F.logsigmoid(-logits_BC))
    return match_BC + none_BC
