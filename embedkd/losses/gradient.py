"""GD of CLIP-KD for a student without a text tower: the student must be pulled where the teacher would be.

Legend: B samples, C classes, D width.
"""

from typing import TYPE_CHECKING

from torch.nn import functional as F

from embedkd.losses._checks import Reduction, check_positive, check_tensors, label_error
from embedkd.losses._rows import bounded_scale, products, reduce_rows, unit_rows

if TYPE_CHECKING:
    from torch import Tensor


def gradient(
    student_BD: "Tensor",
    target_BD: "Tensor",
    classes_CD: "Tensor",
    labels_B: "Tensor",
    log_scale: "Tensor",
    *,
    teacher_scale: float = 10.0,
    reduction: Reduction = "mean",
) -> "Tensor":
    """Squared difference of two gradients, averaged over the width: of the student's and of the teacher's InfoNCE.

    Each is the gradient of the cross-entropy over scaled cosines with the classes, with respect to the normalised
    embedding, in closed form: scale times (expected class row less the row of the own class). Perfect match, the
    student along its target and both scales equal: 0. Chance, a student at one angle to all classes: what it costs to
    expect the mean of all rows.

    >>> import torch
    >>> classes, target = torch.eye(4), torch.tensor([[1.0, 0.5, 0.0, 0.0]])
    >>> gradient(3 * target, target, classes, torch.tensor([0]), torch.tensor(10.0).log())
    tensor(0.)

    Args:
        student_BD: The student's embeddings, projected to the width of the target where widths differ.
        target_BD: The teacher's of the same samples.
        classes_CD: One row a class, in the space of the target: its text, or the mean of its samples.
        labels_B: int64, from 0 to C - 1.
        log_scale: Logarithm of the factor of the student's cosines, which is at most 100.
        teacher_scale: Factor of the teacher's cosines: what its store states as logit_scale, where it states one.
        reduction: Over samples; "none" gives [B].

    Returns:
        float32, or float64 where an input is.

    Raises:
        LossError: A shape, a dtype, a label or the scale does not fit.

    Source:
        Yang et al. 2024, "CLIP-KD: An Empirical Study of CLIP Model Distillation",
        with respect to the image embedding and with classes in place of captions; times the scale, by which the
        published code divides.
    """
    name = "gradient"
    check_tensors(
        name,
        target_BD=target_BD,
        student_BD=student_BD,
        classes_CD=classes_CD,
        labels_B=labels_B,
        log_scale=log_scale,
    )
    check_positive(name, "teacher_scale", teacher_scale, "10")
    unit_CD = unit_rows(classes_CD)
    scale = bounded_scale(log_scale)
    try:
        student_pull_BD = _pull(scale, student_BD, unit_CD, labels_B)
        target_pull_BD = _pull(teacher_scale, target_BD, unit_CD, labels_B)
    except IndexError as error:
        raise label_error(name, labels_B, len(classes_CD)) from error
    return reduce_rows(name, (student_pull_BD - target_pull_BD).square().mean(dim=1), reduction)


def _pull(scale: "Tensor | float", rows_BD: "Tensor", unit_CD: "Tensor", labels_B: "Tensor") -> "Tensor":
    """Where the cross-entropy of scaled cosines pushes an embedding: scale times (expected row less the right one)."""
    logits_BC = scale * products(unit_rows(rows_BD), unit_CD)
    return scale * (products(logits_BC.softmax(dim=1), unit_CD.T) - F.embedding(labels_B, unit_CD))
