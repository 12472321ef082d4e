"""ICL of CLIP-KD for a student without a text tower: a sample must find its class in the teacher's space.

Legend: B samples, C classes, D width.
"""

from typing import TYPE_CHECKING

from embedkd.losses._checks import Reduction, check_tensors
from embedkd.losses._rows import bounded_scale, cosines, reduce_rows, softmax_costs

if TYPE_CHECKING:
    from torch import Tensor


def interactive_contrastive(
    student_BD: "Tensor",
    classes_CD: "Tensor",
    labels_B: "Tensor",
    log_scale: "Tensor",
    *,
    reduction: Reduction = "mean",
) -> "Tensor":
    """Cross-entropy over the cosines of each sample with the teacher's classes, times a learned factor.

    What ``class_contrastive`` does in the student's space with a fixed temperature, this does in the teacher's with a
    learned one. Perfect match, each sample along the row of its class, rows at right angles and a factor s:
    log(1 + (C - 1) exp(-s)). Chance, a sample at one angle to all rows: log C.

    >>> import torch
    >>> classes = torch.eye(100)
    >>> interactive_contrastive(classes, classes, torch.arange(100), torch.tensor(10.0).log())
    tensor(0.0045)

    Args:
        student_BD: The student's embeddings, projected to the width of the classes where widths differ.
        classes_CD: One row a class: its text, or the mean of its samples.
        labels_B: int64, from 0 to C - 1.
        log_scale: Logarithm of the factor, which is at most 100.
        reduction: Over samples; "none" gives [B].

    Returns:
        float32, or float64 where an input is.

    Raises:
        LossError: A shape, a dtype or a label does not fit.

    Source:
        Yang et al. 2024, "CLIP-KD: An Empirical Study of CLIP Model Distillation",
        its image direction with classes in place of captions; with the exponential of the learned number, which the
        published code leaves out.
    """
    name = "interactive_contrastive"
    check_tensors(name, classes_CD=classes_CD, student_BD=student_BD, labels_B=labels_B, log_scale=log_scale)
    logits_BC = bounded_scale(log_scale) * cosines(student_BD, classes_CD)
    return reduce_rows(name, softmax_costs(name, logits_BC, labels_B), reduction)
