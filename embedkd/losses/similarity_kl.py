"""CRD of CLIP-KD for a student without a text tower: how alike a sample is to each class, as the teacher sees it.

Legend: B samples, C classes, D width.
"""

from typing import TYPE_CHECKING

from embedkd.losses._checks import Reduction, check_positive, check_tensors
from embedkd.losses._rows import bounded_scale, cosines, reduce_rows, softmax_divergences

if TYPE_CHECKING:
    from torch import Tensor


def similarity_kl(
    student_BD: "Tensor",
    target_BD: "Tensor",
    classes_CD: "Tensor",
    log_scale: "Tensor",
    *,
    teacher_scale: float = 10.0,
    reduction: Reduction = "mean",
) -> "Tensor":
    """KL divergence between two softmaxes over classes: of the teacher's scaled cosines, and of the student's.

    Perfect match, the student along its target and both scales equal: 0. Chance, a student at one angle to all
    classes: log C - H, H the entropy of the teacher's softmax.

    >>> import torch
    >>> classes, target = torch.eye(4), torch.tensor([[1.0, 0.5, 0.0, 0.0]])
    >>> similarity_kl(3 * target, target, classes, torch.tensor(10.0).log())
    tensor(0.)

    Args:
        student_BD: The student's embeddings, projected to the width of the target where widths differ.
        target_BD: The teacher's of the same samples.
        classes_CD: One row a class, in the space of the target: its text, or the mean of its samples.
        log_scale: Logarithm of the factor of the student's cosines, which is at most 100.
        teacher_scale: Factor of the teacher's cosines: what its store states as logit_scale, where it states one.
        reduction: Over samples; "none" gives [B].

    Returns:
        float32, or float64 where an input is.

    Raises:
        LossError: A shape, a dtype or the scale does not fit.

    Source:
        Yang et al. 2024, "CLIP-KD: An Empirical Study of CLIP Model Distillation",
        its image direction with classes in place of captions.
    """
    name = "similarity_kl"
    check_tensors(name, target_BD=target_BD, student_BD=student_BD, classes_CD=classes_CD, log_scale=log_scale)
    check_positive(name, "teacher_scale", teacher_scale, "10")
    target_BC = teacher_scale * cosines(target_BD, classes_CD)
    student_BC = bounded_scale(log_scale) * cosines(student_BD, classes_CD)
    return reduce_rows(name, softmax_divergences(target_BC, student_BC), reduction)
